"""Names, credentials, trust sets, signed time, tickets and proofs (identity/SPEC.md)."""

import base64
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import cbor
from cbor import Malformed


class Refused(Exception):
    """The peer is not who it says, or not who was dialled."""


# ---- keys and signed objects (section 2) ----

def cose_key(private):
    return cbor.encode({1: 1, -1: 6, -2: private.public_key().public_bytes_raw()})


def public_of(key):
    """The Ed25519 key of a COSE_Key."""
    fields = cbor.decode(key)
    if sorted(fields) != [-2, -1, 1] or (fields[1], fields[-1]) != (1, 6) or len(fields[-2]) != 32:
        raise Malformed("not an Ed25519 key")
    return Ed25519PublicKey.from_public_bytes(fields[-2])


def open_signed(data, typ, most):
    """(payload, check): the payload may be believed once check(key) was called."""
    if len(data) > most:
        raise Malformed("too long")
    signed = cbor.decode(data)
    protected = cbor.encode({1: -8, 16: typ})
    if not isinstance(signed, cbor.Tag18) or len(signed) != 4 or signed[:2] != [protected, {}]:
        raise Malformed("not a " + typ)
    payload, signature = signed[2:]
    over = cbor.encode(["Signature1", protected, b"fairway v1 " + typ.encode(), payload])

    def check(key):
        try:
            public_of(key).verify(signature, over)
        except InvalidSignature as error:
            raise Refused("the signature of the " + typ + " is wrong") from error

    return cbor.decode(payload), check


# ---- trust set (section 4) ----

class TrustSet:
    def __init__(self, data, root_hash):
        fields, check = open_signed(data, "fairway-trust-set", 2048)
        if hashlib.sha256(fields[3]).digest() != root_hash:
            raise Refused("another root than the pinned one")
        check(fields[3])
        self.version, self.domain = fields[1], fields[2]
        self.issuers = {
            hashlib.sha256(issuer[1]).digest()[:8].hex(): (issuer[1], issuer[2], issuer[3])
            for issuer in fields[4]
        }
        self.authority, self.relay, self.floor = fields[5], fields[6], fields[7]

    def verify(self, data, typ, handshake_key, now):
        """The claims of a credential (section 3), in the order given there."""
        claims, check = open_signed(data, typ, 1024)
        if 3 in claims:
            raise Refused("a credential with an audience")
        if claims[1] not in self.issuers:
            raise Refused("an unknown issuer")
        key, begins, void = self.issuers[claims[1]]
        check(key)
        if not claims[2].startswith("spiffe://" + self.domain + "/ns/"):
            raise Refused("of another trust domain")
        if claims[8] != {1: {1: 1, -1: 4, -2: handshake_key}}:
            raise Refused("the credential of another key")
        if claims[6] < self.floor or not begins <= claims[6] < void:
            raise Refused("issued at a time that is void")
        if claims[5] > now + 60 or now >= min(claims[4], void):
            raise Refused("not valid now")
        return claims

    def answers(self, claims, address):
        """Whether the holder of a full credential answers to an address."""
        labels = address.removesuffix(".fairway.internal").split(".")
        subject = claims[2].removeprefix("spiffe://" + self.domain)
        match labels:
            case ["authority"]:
                return claims[2] == self.authority
            case ["relay"]:
                return claims[2] == self.relay
            case [name, namespace, "device"]:
                return subject == f"/ns/{namespace}/device/{name}"
            case [*pod, service, namespace, "svc"]:
                return (subject.startswith(f"/ns/{namespace}/sa/")
                        and service in claims.get("svc", [])
                        and (not pod or pod == [claims.get("pod")]))
        return False

    def signed_time(self, data, nonce):
        fields, check = open_signed(data, "fairway-time", 256)
        key, begins, void = self.issuers[fields[1]]
        check(key)
        if fields[2] != nonce or not begins <= fields[3] < void:
            raise Refused("not the answer to this question")
        return fields[3]


# ---- tickets (section 6) ----

class Ticket:
    def __init__(self, line):
        line = "".join(line.split()).lower()
        if len(line) > 768 or not line.startswith("fairway1-"):
            raise Malformed("not a ticket")
        encoded = line.removeprefix("fairway1-").upper()
        data = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
        body, checksum = data[:-4], data[-4:]
        if hashlib.sha256(b"fairway v1 ticket checksum" + body).digest()[:4] != checksum:
            raise Malformed("a letter of the ticket is wrong")
        self.key = Ed25519PrivateKey.from_private_bytes(body[:32])
        self.root_hash, rest = body[32:64], body[64:]

        def text():
            nonlocal rest
            taken, rest = rest[1:1 + rest[0]], rest[1 + rest[0]:]
            return taken.decode()

        self.domain, self.namespace, self.device = text(), text(), text()
        count, rest = rest[0], rest[1:]
        self.relays = [text() for _ in range(count)]
        if rest or not 1 <= count <= 4:
            raise Malformed("not a ticket")

    def name(self):
        """Of its EnrollmentTicket."""
        digest = hashlib.sha256(cose_key(self.key)).digest()
        return self.device + "-" + base64.b32encode(digest).decode().lower()[:10]


# ---- proofs (section 7) ----

def proof(signing_key, context, ticket, device_key, handshake_hash, handshake_key):
    fields = (context.encode(), ticket.domain.encode(), ticket.namespace.encode(),
              ticket.device.encode(), device_key, handshake_hash, handshake_key)
    return signing_key.sign(b"".join(len(field).to_bytes(2, "big") + field for field in fields))
