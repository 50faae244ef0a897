"""A TCP link to a relay, its circuits and messages on Control streams (control/SPEC.md),
and the sessions on top (session/SPEC.md)."""

import secrets
import select
import socket
import time

import cbor
from channel import Channel
from identity import Refused, TrustSet

CREDIT = 1 << 20
CONTROL = cbor.encode({0: [1, []]})


class CircuitRefused(Exception):
    """The relay did not join the circuit, or did not want the link at all; the
    arguments are word and text."""


class Identity:
    """Who this process is: what the authority gave it, if it did yet."""

    def __init__(self, static, root_hash):
        self.static, self.root_hash = static, root_hash
        self.full, self.trust, self.trust_bytes = None, None, None
        self.instance = secrets.token_bytes(16)


class Messages:
    """Control messages on one stream (section 1)."""

    def __init__(self, stream):
        self.stream, self.buffer = stream, b""

    def send(self, value):
        body = b"\1" + cbor.encode(value)
        self.stream.write(len(body).to_bytes(4, "big") + body)

    def take(self, most):
        """A message that has come whole, or None."""
        stream = self.stream
        while stream.read_to in stream.pieces:
            self.buffer += stream.read()
        length = int.from_bytes(self.buffer[:4], "big")
        if len(self.buffer) >= 4 and length > most:
            raise Refused("a message that is too long")
        if len(self.buffer) < 4 or len(self.buffer) < 4 + length:
            return None
        body, self.buffer = self.buffer[4:4 + length], self.buffer[4 + length:]
        if body[0] != 1:
            raise Refused("a message of another version")
        return cbor.decode(body[1:])

    def receive(self, most):
        found = []

        def arrived():
            stream = self.stream
            stream.check()
            message = self.take(most)
            if message is not None:
                found.append(message)
            return found or stream.read_to == stream.final

        self.stream.channel.wait(arrived)
        if not found:
            raise Refused("the stream ended instead of an answer")
        return found[0]


class Session:
    """A channel to a dialled name whose peer was verified."""

    def __init__(self, link, circuit, purpose, dialled, identity):
        self.dialled, self.identity, self.lean = dialled, identity, None
        self.trust = identity.trust
        self.channel = Channel(lambda packet: link.send(circuit, packet), link.pump,
                               identity.static, purpose, dialled, self.admit)
        link.channels[circuit] = self.channel
        self.channel.connect()

    def admit(self, place, static_key, hello):
        fields = cbor.decode(hello)
        now = int(time.time())
        if place != "first":
            claims = self.trust.verify(fields[0], "fairway-credential", static_key, now)
            if (claims[2], claims["uid"], fields[2]) != (self.lean[2], self.lean["uid"], self.instance):
                raise Refused("the full credential is another's than the lean one")
            if not self.trust.answers(claims, self.dialled):
                raise Refused("the peer does not answer to the dialled name")
            self.peer = claims
            return cbor.encode(self.shown())
        self.instance = fields[2]
        shown = TrustSet(fields[1], self.identity.root_hash)
        if self.trust is None or shown.version > self.trust.version:
            self.trust = shown
        self.lean = self.trust.verify(fields[0], "fairway-lean", static_key, now)
        if not self.dialled.endswith(".svc.fairway.internal"):
            if not self.trust.answers(self.lean, self.dialled):
                raise Refused("not the one that was dialled")
        answer = self.shown()
        if self.identity.trust_bytes and self.trust.version > shown.version:
            answer[1] = self.identity.trust_bytes
        return cbor.encode(answer)

    def shown(self):
        answer = {2: self.identity.instance}
        if self.identity.full:
            answer[0] = self.identity.full
        return answer

    def request(self, value, most=12288):
        """One request to the authority, on a Control stream of its own."""
        messages = Messages(self.channel.open(CONTROL))
        messages.send(value)
        return messages.receive(most)

    def connect(self, port):
        return self.channel.open(cbor.encode({0: [0, [port]]}))


class Link:
    """To a relay; circuit 0 is the session with it."""

    def __init__(self, address, identity):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.identity, self.buffer, self.control = identity, b"", None
        self.channels, self.opened, self.refused, self.next = {}, set(), {}, 2
        self.sent, self.limit, self.received = {}, {}, {}
        self.relay = Session(self, 0, 1, "relay.fairway.internal", identity)
        self.control = Messages(self.relay.channel.open(CONTROL))

    def dial(self, name):
        """A session with the peer of that name, through the relay."""
        circuit, self.next = self.next, self.next + 2
        self.sent[circuit], self.limit[circuit], self.received[circuit] = 0, CREDIT, 0
        self.control.send([2, [circuit, name]])
        self.relay.channel.wait(lambda: circuit in self.opened or circuit in self.refused)
        self.check(circuit)
        purpose = 2 if name == "authority.fairway.internal" else 0
        return Session(self, circuit, purpose, name, self.identity)

    def check(self, circuit):
        if circuit in self.refused:
            raise CircuitRefused(*self.refused[circuit])

    def messages(self):
        """Acts on what the relay says on its Control stream (section 3)."""
        while self.control and (message := self.control.take(16384)) is not None:
            number, fields = message[0], message[1]
            if number == 3:
                self.opened.add(fields[0])
            elif number in (4, 5):
                self.refused[fields[0]] = tuple(fields[1])
            elif number == 6:
                self.limit[fields[0]] = max(self.limit[fields[0]], fields[1])

    def send(self, circuit, packet):
        if circuit:
            self.pump(lambda: circuit in self.refused
                      or self.sent[circuit] + len(packet) <= self.limit[circuit])
            self.check(circuit)
            self.sent[circuit] += len(packet)
        header = b"\0" + len(packet).to_bytes(3, "big") + circuit.to_bytes(4, "big")
        self.socket.sendall(header + packet)

    def pump(self, until, seconds=20):
        """Reads frames and hands them on until `until()`."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError("the peer did not answer in time")
            if select.select([self.socket], [], [], 0.1)[0]:
                data = self.socket.recv(1 << 18)
                if not data:
                    raise ConnectionError("the relay closed the link")
                self.buffer += data
                self.frames()
            for channel in list(self.channels.values()):
                channel.tick()

    def frames(self):
        """Section 2. May be entered again from within, by a wait for credit."""
        touched = set()
        while len(self.buffer) >= 8:
            kind, length = self.buffer[0], int.from_bytes(self.buffer[1:4], "big")
            if kind > 2 or length > (1280 if kind == 2 else 16896):
                raise ConnectionError("a frame of a reserved type, or too long")
            if len(self.buffer) < 8 + length:
                break
            circuit = int.from_bytes(self.buffer[4:8], "big")
            packet, self.buffer = self.buffer[8:8 + length], self.buffer[8 + length:]
            if kind == 1:
                raise CircuitRefused(*cbor.decode(packet))
            if circuit in self.channels:
                touched.add(circuit)
                if kind == 0:
                    self.consumed(circuit, length)
                self.channels[circuit].receive(packet)
        for circuit in touched:
            self.channels[circuit].flush()
        if 0 in touched:
            self.messages()

    def consumed(self, circuit, length):
        if circuit:
            before, self.received[circuit] = self.received[circuit], self.received[circuit] + length
            if before // (CREDIT // 4) != self.received[circuit] // (CREDIT // 4):
                self.control.send([4, [circuit, self.received[circuit] + CREDIT]])

    def close(self):
        for channel in self.channels.values():
            channel.close()
        self.socket.close()
