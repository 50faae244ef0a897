#!/usr/bin/env python3
"""Reads handshake.json and frames.json by the words of SPEC.md alone.

A second implementation of sections 4, 5, 6, 11 and 12, with nothing but Python's
standard library: X25519 (RFC 7748), AES-256-GCM, HKDF and Noise XXpsk3 are
written out below. ML-KEM itself is not: its shared secret is taken from the
vectors. Not for anything but checking: it is neither fast nor constant-time.
"""

import hashlib
import hmac
import json
import pathlib

HERE = pathlib.Path(__file__).parent
H = bytes.fromhex


# ---- primitives ----

def x25519(scalar, point):
    p = 2**255 - 19
    k = int.from_bytes(scalar, "little") & ~7 & ~(128 << 248) | (64 << 248)
    u = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % p, b * b % p, d * a % p, c * b % p
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % p, u * (da - cb) ** 2 % p
        x2, z2 = aa * bb % p, e * (aa + 121665 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def sbox():
    table, p, q = [0] * 256, 1, 1
    while True:
        p = p ^ (p << 1) & 255 ^ (0x1B if p & 128 else 0)
        q ^= q << 1
        q ^= q << 2
        q = (q ^ q << 4) & 255
        if q & 128:
            q ^= 9
        rot = lambda n: (q << n | q >> 8 - n) & 255
        table[p] = q ^ rot(1) ^ rot(2) ^ rot(3) ^ rot(4) ^ 0x63
        if p == 1:
            break
    table[0] = 0x63
    return table


SBOX = sbox()
XTIME = [b << 1 & 255 ^ (0x1B if b & 128 else 0) for b in range(256)]


def aes256_rounds(key):
    words, rcon = [list(key[i:i + 4]) for i in range(0, 32, 4)], 1
    for i in range(8, 60):
        word = list(words[-1])
        if i % 8 == 0:
            word = [SBOX[b] for b in word[1:] + word[:1]]
            word[0] ^= rcon
            rcon = XTIME[rcon]
        elif i % 8 == 4:
            word = [SBOX[b] for b in word]
        words.append([a ^ b for a, b in zip(word, words[-8])])
    return [sum(words[i:i + 4], []) for i in range(0, 60, 4)]


def aes_block(rounds, block):
    state = [a ^ b for a, b in zip(block, rounds[0])]
    for number in range(1, 15):
        state = [SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if number < 14:
            mixed = []
            for c in range(0, 16, 4):
                col = state[c:c + 4]
                every = col[0] ^ col[1] ^ col[2] ^ col[3]
                mixed += [col[i] ^ every ^ XTIME[col[i] ^ col[(i + 1) % 4]] for i in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, rounds[number])]
    return bytes(state)


def gf_mul(x, y):
    z = 0
    for i in range(127, -1, -1):
        if x >> i & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def gcm(key, nonce, aad, text, sealing):
    rounds = aes256_rounds(key)
    h = int.from_bytes(aes_block(rounds, bytes(16)), "big")
    out = b""
    for i in range(0, len(text), 16):
        stream = aes_block(rounds, nonce + (2 + i // 16).to_bytes(4, "big"))
        out += bytes(a ^ b for a, b in zip(text[i:i + 16], stream))
    sealed = out if sealing else text
    pad = lambda data: data + bytes(-len(data) % 16)
    lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * len(sealed)).to_bytes(8, "big")
    data, y = pad(aad) + pad(sealed) + lengths, 0
    for i in range(0, len(data), 16):
        y = gf_mul(y ^ int.from_bytes(data[i:i + 16], "big"), h)
    mask = aes_block(rounds, nonce + b"\0\0\0\1")
    return out, bytes(a ^ b for a, b in zip(y.to_bytes(16, "big"), mask))


def seal(key, nonce, aad, text):
    return b"".join(gcm(key, nonce, aad, text, True))


def open_(key, nonce, aad, sealed):
    text, tag = gcm(key, nonce, aad, sealed[:-16], False)
    assert tag == sealed[-16:], "does not authenticate"
    return text


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def sha256(data):
    return hashlib.sha256(data).digest()


def hkdf(salt, ikm, info, length):
    prk, out, block = mac(salt, ikm), b"", b""
    while len(out) < length:
        block = mac(prk, block + info + bytes([len(out) // 32 + 1]))
        out += block
    return out[:length]


# ---- Noise, as far as XXpsk3 needs it ----

class Noise:
    def __init__(self, name, prologue):
        self.h = name.ljust(32, b"\0") if len(name) <= 32 else sha256(name)
        self.ck, self.k, self.n = self.h, None, 0
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.h = sha256(self.h + data)

    def derive(self, ikm, count):
        temp, outs = mac(self.ck, ikm), [b""]
        for i in range(count):
            outs.append(mac(temp, outs[-1] + bytes([i + 1])))
        return outs[1:]

    def mix_key(self, ikm):
        self.ck, self.k = self.derive(ikm, 2)
        self.n = 0

    def mix_key_and_hash(self, ikm):
        self.ck, temp, key = self.derive(ikm, 3)
        self.mix_hash(temp)
        self.k, self.n = key, 0

    def e(self, public):
        self.mix_hash(public)
        self.mix_key(public)

    def nonce(self):
        self.n += 1
        return bytes(4) + (self.n - 1).to_bytes(8, "big")

    def seal(self, text):
        sealed = seal(self.k, self.nonce(), self.h, text)
        self.mix_hash(sealed)
        return sealed


def messages(noise, kem, i, r, hellos):
    """The three messages of a handshake, and the two keys of Split()."""
    for party in (i, r):
        for which in ("static", "ephemeral"):
            base = (9).to_bytes(32, "little")
            public = x25519(H(party[which + "_private"]), base)
            assert public == H(party[which + "_public"])
    dh = lambda private, public: x25519(H(private), H(public))
    ek, ct = H(kem["encapsulation_key"]), H(kem["ciphertext"])
    shared = H(kem["shared_secret"])

    noise.e(H(i["ephemeral_public"]))
    first = H(i["ephemeral_public"]) + noise.seal(ek)

    noise.e(H(r["ephemeral_public"]))
    noise.mix_key(dh(i["ephemeral_private"], r["ephemeral_public"]))
    static = noise.seal(H(r["static_public"]))
    noise.mix_key(dh(i["ephemeral_private"], r["static_public"]))
    second = H(r["ephemeral_public"]) + static + noise.seal(ct + H(hellos[0]))

    psk = hkdf(b"fairway/1 ml-kem-768 psk", shared, sha256(ek + ct), 32)
    static = noise.seal(H(i["static_public"]))
    noise.mix_key(dh(i["static_private"], r["ephemeral_public"]))
    noise.mix_key_and_hash(psk)
    third = static + noise.seal(H(hellos[1]))
    return first, second, third, psk, noise.derive(b"", 2)


def handshake(v):
    name = v["dialled"].encode()
    prologue = bytes([1, 1, 1, v["purpose"], len(name)]) + name
    assert prologue == H(v["prologue"])
    noise = Noise(v["noise"].encode(), prologue)
    hellos = (v["hello_2"], v["hello_3"])
    first, second, third, psk, splits = messages(
        noise, v["ml_kem_768"], v["initiator"], v["responder"], hellos)
    assert prologue + first == H(v["packet_1"])
    assert b"\2" + second == H(v["packet_2"])
    assert psk == H(v["psk"])
    assert b"\3" + third == H(v["packet_3"])
    assert noise.h == H(v["handshake_hash"])

    for direction, split in zip(("to_responder", "to_initiator"), splits):
        keys(v[direction], split, noise.h, b"")
        for record in v[direction]["records"]:
            text = open_record(v[direction], H(record["packet"]), 4, record["number"])
            assert text == H(record["plaintext"])
    secret = hkdf(noise.h, splits[0] + splits[1], b"fairway/1 epoch secret", 32)
    assert secret == H(v["epoch_secret"])
    attach(v, noise.h)
    renewal(v, secret)


def keys(v, split, h, before):
    key = hkdf(h, split + before, b"fairway/1 record key", 32)
    iv = hkdf(h, split + before, b"fairway/1 record iv", 12)
    assert (key, iv) == (H(v["key"]), H(v["iv"]))


def open_record(v, packet, kind, number, prefix=b""):
    """Opens a record, whatever stands before it, and gives its plaintext."""
    clear, iv = prefix + packet[:9], H(v["iv"])
    number = number.to_bytes(8, "big")
    assert packet[:9] == bytes([kind]) + number
    nonce = iv[:4] + bytes(a ^ b for a, b in zip(iv[4:], number))
    return open_(H(v["key"]), nonce, clear, packet[9:])


def attach(v, h):
    connection_id = hkdf(b"fairway/1 connection id", h, b"", 16)
    assert connection_id == H(v["connection_id"])
    prefix = b"\5" + connection_id
    for number, kind, direction, v in ((3, 4, v["to_responder"], v["attach"]),
                                       (11, 6, v["renewal"]["to_responder"], v["renewal"]["attach"])):
        packet = H(v["packet"])
        assert packet[:17] == prefix and v["number"] == number
        text = open_record(direction, packet[17:], kind, number, prefix)
        assert text == H(v["plaintext"])
        assert Reader(text).frame()["frame"] == "PATH_CHALLENGE"


def renewal(outer, before):
    v = outer["renewal"]
    binding = hkdf(b"fairway/1 renewal binding", before, b"", 32)
    prologue = b"fairway/1 renewal" + (1).to_bytes(8, "big") + binding
    assert prologue == H(v["prologue"])
    noise = Noise(outer["noise"].encode(), prologue)
    hellos = (v["hello_2"], v["hello_3"])
    *parts, _, splits = messages(noise, outer["ml_kem_768"], v["initiator"], v["responder"], hellos)
    for number, (frame, message) in enumerate(zip(v["frames"], parts), 1):
        expected = {"frame": "RENEW", "epoch": 1, "part": number, "message": message.hex()}
        assert Reader(H(frame)).frame() == expected
    assert noise.h == H(v["handshake_hash"])
    for direction, split in zip(("to_responder", "to_initiator"), splits):
        keys(v[direction], split, noise.h, before)
    secret = hkdf(noise.h, splits[0] + splits[1] + before, b"fairway/1 epoch secret", 32)
    assert secret == H(v["epoch_secret"])
    for direction in ("to_responder", "to_initiator"):
        record = v["record_10_" + direction]
        text = open_record(v[direction], H(record["packet"]), 6, 10)
        assert text == H(record["plaintext"])


# ---- frames ----

class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        taken, self.data = self.data[:count], self.data[count:]
        if len(taken) < count:
            raise ValueError("cut short")
        return taken

    def varint(self, most=2**62 - 1):
        first = self.take(1)[0]
        size = 1 << (first >> 6)
        value = int.from_bytes(bytes([first & 63]) + self.take(size - 1), "big")
        shortest = next(s for s, limit in ((1, 2**6), (2, 2**14), (4, 2**30), (8, 2**62)) if value < limit)
        if size != shortest or value > most:
            raise ValueError("not the shortest form, or too large")
        return value

    def bytes(self, most):
        return self.take(self.varint(most))

    def text(self):
        return self.bytes(256).decode()

    def code(self):
        return self.varint(2**32 - 1)

    def part(self):
        part = self.varint()
        if part not in (1, 2, 3):
            raise ValueError("no such part")
        return part

    def ack(self):
        largest, delay, more = self.varint(), self.varint(), self.varint(63)
        low = largest - self.varint()
        ranges = [[low, largest]]
        for _ in range(more):
            high = low - self.varint() - 2
            low = high - self.varint()
            ranges.append([low, high])
        if low < 0:
            raise ValueError("below zero")
        return {"frame": "ACK", "delay": delay, "ranges": ranges}

    def settings(self):
        pairs = [(self.varint(), self.varint()) for _ in range(self.varint(32))]
        values = {"max_data": 0, "max_stream_data": 0, "max_streams": 0}
        values.update((list(values)[i - 1], value) for i, value in pairs if 1 <= i <= 3)
        return {"frame": "SETTINGS", **values}

    def stream(self, fin):
        stream, offset = self.varint(), self.varint()
        data = self.bytes(16384)
        return {"frame": "STREAM", "stream": stream, "offset": offset, "fin": fin, "data": data.hex()}

    def padding(self):
        count = 1
        while self.data[:1] == b"\0":
            self.take(1)
            count += 1
        return {"frame": "PADDING", "count": count}

    def frame(self):
        s = self
        kinds = {
            0x00: s.padding,
            0x01: lambda: {"frame": "PING"},
            0x02: s.ack,
            0x03: lambda: {"frame": "HELLO", "hello": s.bytes(4096).hex()},
            0x04: s.settings,
            0x05: lambda: {"frame": "OPEN", "stream": s.varint(), "header": s.bytes(1024).hex()},
            0x06: lambda: {"frame": "ACCEPT", "stream": s.varint()},
            0x08: lambda: s.stream(False),
            0x09: lambda: s.stream(True),
            0x0A: lambda: {"frame": "RESET", "stream": s.varint(), "final_size": s.varint(),
                           "code": s.code(), "reason": s.text()},
            0x0B: lambda: {"frame": "STOP", "stream": s.varint(), "code": s.code(), "reason": s.text()},
            0x0C: lambda: {"frame": "MAX_DATA", "max": s.varint()},
            0x0D: lambda: {"frame": "MAX_STREAM_DATA", "stream": s.varint(), "max": s.varint()},
            0x0E: lambda: {"frame": "MAX_STREAMS", "max": s.varint(2**61 - 1)},
            0x10: lambda: {"frame": "DATAGRAM", "data": s.bytes(1208).hex()},
            0x11: lambda: {"frame": "CLOSE", "code": s.code(), "reason": s.text()},
            0x12: lambda: {"frame": "PATH_CHALLENGE", "data": s.take(8).hex()},
            0x13: lambda: {"frame": "PATH_RESPONSE", "data": s.take(8).hex()},
            0x14: lambda: {"frame": "RENEW", "epoch": s.varint(), "part": s.part(),
                           "message": s.bytes(6144).hex()},
            0x15: lambda: {"frame": "RENEW_REQUEST"},
        }
        kind = self.take(1)[0]
        if kind not in kinds:
            raise ValueError("unknown frame")
        return kinds[kind]()


def frames(v):
    for expected in v["frames"]:
        reader = Reader(H(expected.pop("bytes")))
        assert reader.frame() == expected and not reader.data, expected
    for refused in v["refused"]:
        try:
            Reader(H(refused["bytes"]) + bytes(refused["zeros"])).frame()
        except ValueError:
            continue
        raise AssertionError("was not refused: " + refused["why"])


if __name__ == "__main__":
    handshake(json.loads((HERE / "handshake.json").read_text()))
    frames(json.loads((HERE / "frames.json").read_text()))
    print("handshake.json and frames.json agree with SPEC.md")
