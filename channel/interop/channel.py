"""The initiator's end of a channel (channel/SPEC.md).

`Channel` is given the function that sends a packet and is fed what came by
`receive`; it knows no sockets. It holds to every MUST for an initiator that
opens streams and is offered none, stays on its first path, and renews its keys
when it is told to.
"""

import hashlib
import hmac
import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NOISE = b"Noise_XXpsk3_25519_AESGCM_SHA256"
WINDOW, STREAM_WINDOW = 1 << 20, 1 << 18
CHUNK = 16 * 1024


class Closed(Exception):
    """The channel has ended; the arguments are the code and the reason."""


class Reset(Exception):
    """The peer gave up a stream; the arguments are the code and the reason."""


class Violation(Exception):
    """The peer broke a rule."""


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def sha256(data):
    return hashlib.sha256(data).digest()


def expand(key, info, length):
    out = block = b""
    while len(out) < length:
        block = mac(key, block + info + bytes([len(out) // 32 + 1]))
        out += block
    return out[:length]


def hkdf(salt, ikm, info, length):
    return expand(mac(salt, ikm), info, length)


# ---- the handshake (section 4) ----

class Noise:
    """A SymmetricState, with what the psk modifier changes."""

    def __init__(self, prologue):
        # The protocol name has exactly 32 bytes, so it is not hashed.
        self.h = self.ck = NOISE
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.h = sha256(self.h + data)

    def mix_key(self, ikm):
        out = hkdf(self.ck, ikm, b"", 64)
        self.ck, self.key, self.n = out[:32], AESGCM(out[32:]), 0

    def mix_key_and_hash(self, ikm):
        out = hkdf(self.ck, ikm, b"", 96)
        self.ck, self.key, self.n = out[:32], AESGCM(out[64:]), 0
        self.mix_hash(out[32:64])

    def nonce(self):
        self.n += 1
        return bytes(4) + (self.n - 1).to_bytes(8, "big")

    def seal(self, text):
        sealed = self.key.encrypt(self.nonce(), text, self.h)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed):
        text = self.key.decrypt(self.nonce(), sealed, self.h)
        self.mix_hash(sealed)
        return text

    def e(self, public):
        self.mix_hash(public)
        self.mix_key(public)


class Handshake:
    """The initiator's side of the three Noise messages; of a renewal, too (section 12)."""

    def __init__(self, static, prologue, secret=b""):
        self.static, self.ephemeral = static, X25519PrivateKey.generate()
        self.kem = MLKEM768PrivateKey.generate()
        self.ek = self.kem.public_key().public_bytes_raw()
        self.noise, self.secret = Noise(prologue), secret
        public = self.ephemeral.public_key().public_bytes_raw()
        self.noise.e(public)
        self.first = public + self.noise.seal(self.ek)

    def read_second(self, message):
        """The responder's static key and hello."""
        if not 1200 <= len(message) <= 1200 + 4096:
            raise Violation("message 2 has an impossible length")
        noise = self.noise
        remote, static, payload = message[:32], message[32:80], message[80:]
        noise.e(remote)
        # The library refuses a result that is all zero.
        self.remote_ephemeral = X25519PublicKey.from_public_bytes(remote)
        noise.mix_key(self.ephemeral.exchange(self.remote_ephemeral))
        remote_static = noise.open(static)
        noise.mix_key(self.ephemeral.exchange(X25519PublicKey.from_public_bytes(remote_static)))
        payload = noise.open(payload)
        ct, hello = payload[:1088], payload[1088:]
        shared = self.kem.decapsulate(ct)
        self.psk = hkdf(b"fairway/1 ml-kem-768 psk", shared, sha256(self.ek + ct), 32)
        return remote_static, hello

    def write_third(self, hello):
        noise = self.noise
        third = noise.seal(self.static.public_key().public_bytes_raw())
        noise.mix_key(self.static.exchange(self.remote_ephemeral))
        noise.mix_key_and_hash(self.psk)
        third += noise.seal(hello)
        split = hkdf(noise.ck, b"", b"", 64)
        secret = hkdf(noise.h, split + self.secret, b"fairway/1 epoch secret", 32)
        keys = [RecordKey(split[at:at + 32] + self.secret, noise.h) for at in (0, 32)]
        return third, noise.h, keys, secret


# ---- records (section 5) ----

class RecordKey:
    def __init__(self, key, h):
        self.key = AESGCM(hkdf(h, key, b"fairway/1 record key", 32))
        self.iv = hkdf(h, key, b"fairway/1 record iv", 12)

    def nonce(self, number):
        return (int.from_bytes(self.iv, "big") ^ number).to_bytes(12, "big")

    def seal(self, kind, number, text):
        header = bytes([kind]) + number.to_bytes(8, "big")
        return header + self.key.encrypt(self.nonce(number), text, header)

    def open(self, packet):
        number = int.from_bytes(packet[1:9], "big")
        return number, self.key.decrypt(self.nonce(number), packet[9:], packet[:9])


class Numbers:
    """The packet numbers that came, as ranges, highest first: for ACK, and against replay."""

    def __init__(self):
        self.ranges, self.forgotten = [], -1

    def __contains__(self, number):
        return number <= self.forgotten or any(low <= number <= high for low, high in self.ranges)

    def add(self, number):
        merged = []
        for low, high in sorted(self.ranges + [[number, number]], reverse=True):
            if merged and high + 1 >= merged[-1][0]:
                merged[-1][0] = min(low, merged[-1][0])
            else:
                merged.append([low, high])
        if len(merged) > 32:
            self.forgotten = merged[32][1]
        self.ranges = merged[:32]

    def ack(self):
        low, high = self.ranges[0]
        out = b"\x02" + varint(high) + varint(0) + varint(len(self.ranges) - 1) + varint(high - low)
        for next_low, high in self.ranges[1:]:
            out += varint(low - high - 2) + varint(high - next_low)
            low = next_low
        return out


# ---- frames (section 6) ----

def varint(value):
    for size, bits in ((1, 6), (2, 14), (4, 30), (8, 62)):
        if value < 1 << bits:
            return (value | (size.bit_length() - 1) << 8 * size - 2).to_bytes(size, "big")
    raise ValueError("too large for a varint")


def counted(data):
    return varint(len(data)) + data


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        if self.at > len(self.data):
            raise Violation("a frame is cut short")
        return self.data[self.at - count:self.at]

    def varint(self, most=2**62 - 1):
        first = self.take(1)
        size = 1 << (first[0] >> 6)
        encoded = first + self.take(size - 1)
        value = int.from_bytes(encoded, "big") & (1 << 8 * size - 2) - 1
        if value > most or varint(value) != encoded:
            raise Violation("a number is too large or not in its shortest form")
        return value

    def bytes(self, most):
        return self.take(self.varint(most))

    def reason(self):
        code = self.varint(2**32 - 1)
        return code, self.bytes(256).decode()

    def ack(self):
        largest, _delay, more = self.varint(), self.varint(), self.varint(63)
        ranges = [(largest - self.varint(), largest)]
        for _ in range(more):
            high = ranges[-1][0] - self.varint() - 2
            ranges.append((high - self.varint(), high))
        if ranges[-1][0] < 0:
            raise Violation("acknowledges numbers below zero")
        return ranges


# ---- streams (sections 8 and 9) ----

class Stream:
    """One that this end opened."""

    def __init__(self, channel, number):
        self.channel, self.id = channel, 2 * number
        self.sent, self.limit = 0, channel.peer.get(2, 0)
        self.pieces, self.read_to, self.highest, self.final = {}, 0, 0, None
        self.allowed, self.accepted, self.reset = STREAM_WINDOW, False, None

    def write(self, data, fin=False):
        """Sends `data`; waits for credit."""
        while True:
            self.check()
            channel = self.channel
            room = min(self.limit - self.sent, channel.limit - channel.sent, CHUNK, len(data))
            if room > 0 or not data:
                piece, data = data[:room], data[room:]
                last = fin and not data
                channel.send(bytes([8 | last]) + varint(self.id) + varint(self.sent) + counted(piece))
                self.sent += len(piece)
                channel.sent += len(piece)
                if not data:
                    return
            else:
                channel.wait(lambda: self.reset or min(self.limit - self.sent,
                                                       channel.limit - channel.sent) > 0)

    def read(self):
        """What comes next; b"" is the end."""
        self.channel.wait(lambda: self.reset or self.read_to in self.pieces
                          or self.read_to == self.final)
        self.check()
        if self.read_to == self.final:
            return b""
        data = self.pieces.pop(self.read_to)
        self.read_to += len(data)
        self.channel.taken(self, len(data))
        return data

    def check(self):
        if self.reset:
            raise Reset(*self.reset)

    def incoming(self, offset, data, fin):
        self.accepted = True
        end = offset + len(data)
        grown = max(end - self.highest, 0)
        if end > self.allowed or self.channel.received + grown > self.channel.allowed:
            raise Violation("more than was allowed")
        if self.final not in (None, end) and (fin or end > self.final) or fin and self.highest > end:
            raise Violation("another final size")
        self.highest += grown
        self.channel.received += grown
        self.final = end if fin else self.final
        self.keep(offset, data, end)

    def keep(self, offset, data, end):
        """Without overlap: of what comes twice, the first is kept."""
        data, offset = data[max(self.read_to - offset, 0):], max(offset, self.read_to)
        while data:
            known = next((start + len(piece) for start, piece in self.pieces.items()
                          if start <= offset < start + len(piece)), None)
            if known is None:
                known = min((start for start in self.pieces if start > offset), default=end)
                self.pieces[offset] = data[:known - offset]
            data, offset = data[known - offset:], known


# ---- the whole (sections 4, 7 and 10) ----

class Channel:
    def __init__(self, transmit, pump, static, purpose, dialled, admit):
        """`transmit(packet)` sends, `pump(until)` lets packets in until `until()`.

        `admit(place, static_key, hello)` judges a hello of the responder ("first",
        "last" or "renewal") and gives the hello to answer with."""
        self.transmit, self.pump, self.admit = transmit, pump, admit
        name = dialled.encode()
        header = bytes([1, 1, 1, purpose, len(name)]) + name
        self.static, self.handshake = static, Handshake(static, header)
        self.state, self.repeat, self.second = "dialling", header + self.handshake.first, None
        self.epoch, self.keys, self.sealing, self.old_until = 0, {}, 0, None
        self.next, self.unacknowledged, self.came, self.must_ack = 0, {}, Numbers(), False
        self.peer, self.streams, self.closed, self.hello = None, [], None, None
        self.sent, self.received, self.consumed, self.allowed = 0, 0, 0, WINDOW
        self.limit = self.stream_limit = 0
        self.tried, self.wait_for = time.monotonic(), 0.5

    # -- for the layer above

    def connect(self):
        self.transmit(self.repeat)
        self.wait(lambda: self.state == "ready" and self.peer is not None)

    def open(self, header):
        self.wait(lambda: len(self.streams) < self.stream_limit)
        stream = Stream(self, len(self.streams))
        self.streams.append(stream)
        self.send(b"\x05" + varint(stream.id) + counted(header))
        return stream

    def renew(self):
        """Section 12; comes back when both ends use the new keys."""
        epoch = self.epoch + 1
        binding = hkdf(b"fairway/1 renewal binding", self.secret, b"", 32)
        prologue = b"fairway/1 renewal" + epoch.to_bytes(8, "big") + binding
        self.handshake = Handshake(self.static, prologue, self.secret)
        self.send_part(epoch, 1, self.handshake.first)
        self.wait(lambda: self.sealing == epoch)

    def send_part(self, epoch, part, message):
        self.send(b"\x14" + varint(epoch) + varint(part) + counted(message))

    def close(self, code=0, reason=""):
        if not self.closed:
            self.closed = (code, reason)
            self.record(b"\x11" + varint(code) + counted(reason.encode()))

    def wait(self, until):
        self.pump(lambda: self.closed or until())
        if self.closed and not until():
            raise Closed(*self.closed)

    def taken(self, stream, count):
        """Gives credit back as the reader takes data, a quarter of a window at a time."""
        self.consumed += count
        if self.allowed - self.consumed < WINDOW * 3 // 4:
            self.allowed = self.consumed + WINDOW
            self.send(b"\x0c" + varint(self.allowed))
        if stream.final is None and stream.allowed - stream.read_to < STREAM_WINDOW * 3 // 4:
            stream.allowed = stream.read_to + STREAM_WINDOW
            self.send(b"\x0d" + varint(stream.id) + varint(stream.allowed))

    # -- what came

    def receive(self, packet):
        """Drops whatever is not authentic or out of place."""
        if self.closed or not packet:
            return
        try:
            if packet[0] == 2:
                self.receive_second(packet)
            elif packet[0] in (4, 6) and self.state in ("checking", "ready"):
                self.receive_record(packet)
        except Violation as error:
            self.close(1, str(error))
            raise

    def receive_second(self, packet):
        if self.state != "dialling":
            if packet == self.second and not self.came.ranges:
                self.transmit(self.repeat)
            return
        try:
            self.static_key, hello = self.handshake.read_second(packet[1:])
            answer = self.admit("first", self.static_key, hello)
        except (InvalidTag, ValueError) as error:
            self.closed = (3, "message 2 does not authenticate")
            raise Closed(*self.closed) from error
        third, self.hash, keys, self.secret = self.handshake.write_third(answer)
        self.repeat, self.keys[0] = b"\3" + third, keys
        self.second, self.handshake, self.state = packet, None, "checking"
        self.transmit(self.repeat)
        self.tried, self.wait_for = time.monotonic(), 0.5

    def receive_record(self, packet):
        number = int.from_bytes(packet[1:9], "big")
        keys = self.keys.get(packet[0] >> 1 & 1)
        if len(packet) < 26 or len(packet) > 16640 or not keys or number in self.came:
            return
        try:
            _, text = keys[1].open(packet)
        except InvalidTag:
            return
        if self.sealing != self.epoch and packet[0] >> 1 & 1 == self.epoch & 1:
            # The first of a new epoch: from now on we seal with it, too.
            self.sealing, self.old_until = self.epoch, time.monotonic() + 5
            self.send(b"\x01")
        reader = Reader(text)
        wants_ack = False
        while reader.at < len(text):
            wants_ack |= self.frame(reader, reader.take(1)[0])
        # Only now: a violation is not acknowledged.
        self.came.add(number)
        self.must_ack |= wants_ack

    def frame(self, r, kind):
        """Acts on one frame; says whether it wants an acknowledgement."""
        if kind == 0x00:
            return False
        if kind == 0x01:
            return True
        if kind == 0x02:
            self.acknowledged(r.ack())
            return False
        if kind == 0x03:
            self.receive_hello(r.bytes(4096))
        elif kind == 0x04:
            self.receive_settings(dict((r.varint(), r.varint()) for _ in range(r.varint(32))))
        elif kind == 0x06:
            self.stream(r.varint()).accepted = True
        elif kind in (0x08, 0x09):
            self.stream(r.varint()).incoming(r.varint(), r.bytes(CHUNK), kind == 0x09)
        elif kind == 0x0A:
            stream, _final_size = self.stream(r.varint()), r.varint()
            stream.reset = r.reason()
        elif kind == 0x0B:
            stream, (code, reason) = self.stream(r.varint()), r.reason()
            self.send(b"\x0a" + varint(stream.id) + varint(stream.sent) + varint(code)
                      + counted(reason.encode()))
            stream.reset = (code, reason)
        elif kind == 0x0C:
            self.limit = max(self.limit, r.varint())
        elif kind == 0x0D:
            stream, limit = self.stream(r.varint()), r.varint()
            stream.limit = max(stream.limit, limit)
        elif kind == 0x0E:
            self.stream_limit = max(self.stream_limit, r.varint(2**61 - 1))
        elif kind == 0x10:
            r.bytes(1200)
            return False
        elif kind == 0x12:
            self.record(b"\x13" + r.take(8))
            return False
        elif kind == 0x13:
            r.take(8)
            return False
        elif kind == 0x14:
            self.receive_part(r.varint(), r.varint(3), r.bytes(6144))
        elif kind == 0x15:
            pass  # Asked for a renewal. Ours come when the owner wants them.
        elif kind == 0x11:
            self.closed = r.reason()
            return False
        else:
            raise Violation(f"frame type {kind:#x}")
        return True

    def stream(self, number):
        # The responder opens none here: MAX_STREAMS is 0.
        if number % 2 or number // 2 >= len(self.streams):
            raise Violation("a stream that was never opened")
        return self.streams[number // 2]

    def receive_part(self, epoch, part, message):
        if epoch <= self.epoch:
            return
        if part != 2 or epoch != self.epoch + 1 or not self.handshake:
            raise Violation("a part of a renewal that nobody began")
        try:
            self.static_key, hello = self.handshake.read_second(message)
        except (InvalidTag, ValueError) as error:
            raise Violation("a renewal that does not authenticate") from error
        answer = self.admit("renewal", self.static_key, hello)
        third, _, keys, self.secret = self.handshake.write_third(answer)
        self.handshake, self.epoch, self.keys[epoch & 1] = None, epoch, keys
        self.send_part(epoch, 3, third)

    def receive_hello(self, hello):
        if self.state == "checking":
            self.admit("last", self.static_key, hello)
            self.state = "ready"
            self.send(b"\x04" + varint(3) + b"".join(
                varint(key) + varint(value) for key, value in ((1, WINDOW), (2, STREAM_WINDOW), (3, 0))))

    def receive_settings(self, settings):
        if self.peer is None:
            self.peer = settings
            self.limit = max(self.limit, settings.get(1, 0))
            self.stream_limit = max(self.stream_limit, settings.get(3, 0))

    # -- what goes out

    def record(self, frames):
        parity = self.sealing & 1
        self.transmit(self.keys[parity][0].seal(4 + 2 * parity, self.next, frames))
        self.next += 1

    def send(self, frame):
        self.unacknowledged[self.next] = (time.monotonic(), frame)
        self.record(frame)

    def acknowledged(self, ranges):
        if ranges[0][1] >= self.next:
            raise Violation("acknowledges what was never sent")
        for number in list(self.unacknowledged):
            if any(low <= number <= high for low, high in ranges):
                del self.unacknowledged[number]

    def flush(self):
        """After a row of packets came: one ACK for all of them."""
        if self.must_ack and not self.closed:
            self.must_ack = False
            self.record(self.came.ack())

    def tick(self):
        """Now and then: sends again what was not answered in time, in new packets."""
        now = time.monotonic()
        if self.closed:
            return
        if self.old_until and now > self.old_until:
            del self.keys[self.epoch + 1 & 1]
            self.old_until = None
        if self.state != "ready" and now - self.tried > self.wait_for:
            self.tried, self.wait_for = now, min(2 * self.wait_for, 4)
            self.transmit(self.repeat)
        for number, (when, frame) in list(self.unacknowledged.items()):
            if now - when > 1:
                del self.unacknowledged[number]
                self.send(frame)
