//! What the tests of several files share.

use std::collections::BTreeMap;

use crate::credential::{self, CredentialClaims, Form, Serial, Uid};
use crate::key::{Ed25519Key, Signer};
use crate::name::{AccountName, Label, SpiffeId, TrustDomain};
use crate::time::UnixSeconds;
use crate::trust::{Issuer, IssuerId, RootHash, TrustSet, VerifiedTrustSet};

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
pub(crate) const KEY: [u8; 32] = [42; 32];

pub(crate) fn root() -> Ed25519Key {
    Ed25519Key::from_seed([1; 32])
}

pub(crate) fn issuer() -> Ed25519Key {
    Ed25519Key::from_seed([2; 32])
}

/// A key that is in no trust set.
pub(crate) fn stranger() -> Ed25519Key {
    Ed25519Key::from_seed([3; 32])
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("fairway.local").unwrap()
}

pub(crate) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(crate) fn account(namespace: &str, name: &str) -> SpiffeId {
    SpiffeId::workload(domain(), label(namespace), AccountName::new(name).unwrap())
}

pub(crate) fn trust_set() -> TrustSet {
    TrustSet {
        version: 7,
        trust_domain: domain(),
        root: root().verifying_key(),
        issuers: vec![Issuer {
            key: issuer().verifying_key(),
            not_before: NOW.minus(1_000_000),
            expires: NOW.plus(10_000_000),
        }],
        authority: account("fairway-system", "fairway-authority"),
        relay: account("fairway-system", "fairway-relay"),
        revocation_floor: UnixSeconds(0),
    }
}

pub(crate) fn trust() -> VerifiedTrustSet {
    verified(&trust_set())
}

pub(crate) fn verified(set: &TrustSet) -> VerifiedTrustSet {
    let bytes = set.sign(&root()).unwrap();
    VerifiedTrustSet::verify(&bytes, &RootHash::of(&set.root), 0).unwrap()
}

pub(crate) fn device() -> CredentialClaims {
    let attributes = [("model", "pump"), ("site", "oslo")];
    CredentialClaims {
        issuer: IssuerId::of(&issuer().verifying_key()),
        id: SpiffeId::device(domain(), label("factory"), label("pump-7")),
        handshake_key: KEY,
        not_before: NOW.minus(60),
        expires: NOW.plus(86_400),
        issued_at: NOW,
        serial: Serial([8; 16]),
        uid: Uid::new("2c8ae05e-6c0c-4b4a-9e43-1f3b8e1a9d55").unwrap(),
        attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        services: Vec::new(),
        pod: None,
    }
}

pub(crate) fn workload() -> CredentialClaims {
    CredentialClaims {
        id: account("factory", "collector"),
        attributes: BTreeMap::new(),
        services: vec![label("collector"), label("mosquitto")],
        pod: Some(label("collector-0")),
        ..device()
    }
}

pub(crate) fn issue(claims: &CredentialClaims) -> Vec<u8> {
    credential::issue(claims, Form::Full, &issuer()).unwrap()
}

/// Calls `refused` with every truncation of `bytes`, with every bit flipped,
/// and with something appended; each time it must be true.
pub(crate) fn every_damage(bytes: &[u8], refused: impl Fn(&[u8]) -> bool) {
    for len in 0..bytes.len() {
        assert!(refused(&bytes[..len]), "cut to {len} bytes");
    }
    let mut damaged = bytes.to_vec();
    for bit in 0..8 * bytes.len() {
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&damaged), "bit {bit} flipped");
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
    damaged.push(0);
    assert!(refused(&damaged), "one byte more");
}
