#!/usr/bin/env python3
"""A second implementation of a Fairway device, to show that the specifications suffice.

    client.py TICKET NAME PORT

Enrols with a ticket through the ticket's relay, comes back with its credential,
dials NAME (a Service whose app echoes at PORT) and talks to it, and tries what
must be refused. Prints what happened as one JSON object. Written from
channel/SPEC.md, identity/SPEC.md, session/SPEC.md and control/SPEC.md alone,
with the package `cryptography` (48 or newer, for ML-KEM-768).

For tests: it keeps no secret well and its names are those of the test.
"""

import hashlib
import json
import secrets
import sys
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from channel import Reset
from identity import Refused, Ticket, TrustSet, cose_key, proof
from link import CircuitRefused, Identity, Link

AUTHORITY = "authority.fairway.internal"
BULK = 3 << 20


def answer(response, number):
    """The fields of the response that was hoped for."""
    if response[0] != number:
        raise Refused(response)
    return response[1]


def enrol(ticket, identity, service):
    """Sections 4 of control and 7 of identity; what is refused before it, too."""
    link = Link(ticket.relays[0], identity)
    try:
        link.dial(service)
        raise AssertionError("a circuit without a credential was joined")
    except CircuitRefused as refused:
        without_credential = refused.args[0]
    session = link.dial(AUTHORITY)
    nonce = secrets.token_bytes(16)
    signed_time, trust_set = answer(session.request([0, [nonce]]), 0)
    now = TrustSet(trust_set, ticket.root_hash).signed_time(signed_time, nonce)
    if abs(now - time.time()) > 60:
        raise Refused("the authority's clock is another")

    device = Ed25519PrivateKey.generate()
    channel, static = session.channel, identity.static.public_key().public_bytes_raw()
    over = (ticket, cose_key(device), channel.hash, static)
    request = [
        ticket.name(), ticket.namespace, ticket.device, cose_key(ticket.key), cose_key(device), static,
        proof(ticket.key, "fairway v1 enroll, ticket key", *over),
        proof(device, "fairway v1 enroll, device key", *over),
    ]
    [issued] = answer(session.request([1, [request]]), 1)
    _lean, identity.full, identity.trust_bytes, _renew_at, _expires = issued
    identity.trust = TrustSet(identity.trust_bytes, ticket.root_hash)
    own = identity.trust.verify(identity.full, "fairway-credential", static, now)
    link.close()
    return {"identity": own[2], "authority": session.peer[2], "without_credential": without_credential}


def read_exactly(stream, count):
    out = b""
    while len(out) < count:
        piece = stream.read()
        if not piece:
            raise AssertionError("the stream ended early")
        out += piece
    return out


def talk(session, port):
    """Messages that are answered, then more than any window holds, with new keys in the
    middle of it, then both ends' ends."""
    stream = session.connect(port)
    for message in (b"hello", b"from", b"another implementation"):
        stream.write(message)
        if read_exactly(stream, len(message)) != message:
            raise AssertionError("not the echo")
    bulk, came = secrets.token_bytes(BULK), hashlib.sha256()
    for start in range(0, BULK, 1 << 17):
        if start == BULK // 2:
            session.channel.renew()
        stream.write(bulk[start:start + (1 << 17)])
        came.update(read_exactly(stream, 1 << 17))
    if came.digest() != hashlib.sha256(bulk).digest():
        raise AssertionError("the bytes that came back are others")
    stream.write(b"", fin=True)
    if stream.read() != b"":
        raise AssertionError("data after the end")


def refusals(link, session):
    """Words and codes of what must not be given."""
    try:
        session.connect(9).read()
        raise AssertionError("an unknown port was opened")
    except Reset as reset:
        code = reset.args[0]
    try:
        link.dial("nobody.bench.svc.fairway.internal")
        raise AssertionError("an unknown Service was joined")
    except CircuitRefused as refused:
        word = refused.args[0]
    return {"unknown_port": code, "unknown_service": word}


def main():
    ticket, service, port = Ticket(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    identity = Identity(X25519PrivateKey.generate(), ticket.root_hash)
    result = enrol(ticket, identity, service)

    link = Link(ticket.relays[0], identity)
    session = link.dial(service)
    talk(session, port)
    result |= {"relay": link.relay.peer[2], "peer": session.peer[2], "echoed": BULK,
               "epoch": session.channel.epoch}
    result |= refusals(link, session)
    link.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
