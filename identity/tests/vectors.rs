//! Test vectors of `SPEC.md`: what is written today must be read, and written
//! alike, by every later version. `FAIRWAY_UPDATE=1` writes the file anew,
//! which is a change of the wire format.
#![allow(clippy::unwrap_used)] // The helpers are test code too.

use std::fmt::Write as _;
use std::path::Path;

use fairway_identity::proof::{Purpose, Statement};
use fairway_identity::{
    AccountName, Clock, CredentialClaims, Ed25519Key, Form, Issuer, IssuerId, Label, RootHash,
    Serial, SignedTime, Signer, SpiffeId, Ticket, TrustDomain, TrustSet, Uid, UnixSeconds,
    VerifiedTrustSet, issue,
};

const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
const HANDSHAKE_KEY: [u8; 32] = [0x42; 32];
const HANDSHAKE_HASH: [u8; 32] = [0x43; 32];
const NONCE: [u8; 16] = [0x44; 16];

#[test]
fn the_vectors_are_what_we_write() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vectors.txt");
    let written = write();
    if std::env::var_os("FAIRWAY_UPDATE").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap();
    for (known, written) in known.lines().zip(written.lines()) {
        assert_eq!(known, written);
    }
    assert_eq!(known, written);
}

#[test]
fn the_vectors_are_read() {
    let text = include_str!("../testdata/vectors.txt");
    let vector = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} = ")));
        line.unwrap_or_else(|| panic!("no {name}"))
    };
    let bytes = |name: &str| {
        data_encoding::HEXLOWER
            .decode(vector(name).as_bytes())
            .unwrap()
    };
    let pin: RootHash = vector("root-hash").parse().unwrap();
    let trust = VerifiedTrustSet::verify(&bytes("trust-set"), &pin, 7).unwrap();
    for (name, form) in [
        ("device-full", Form::Full),
        ("device-lean", Form::Lean),
        ("workload-full", Form::Full),
        ("workload-lean", Form::Lean),
    ] {
        let clock = Clock::Trusted(NOW);
        let peer = trust
            .verify_credential(&bytes(name), form, &HANDSHAKE_KEY, clock)
            .unwrap();
        assert_eq!(
            peer.id().to_string(),
            vector(&format!("{}-id", name.split_once('-').unwrap().0))
        );
    }
    assert_eq!(
        SignedTime::verify(&bytes("signed-time"), &NONCE, &trust).unwrap(),
        NOW
    );
    let ticket: Ticket = vector("ticket").parse().unwrap();
    assert_eq!(ticket.resource_name(), vector("ticket-resource"));
    for (name, purpose, key) in proofs() {
        let domain = domain();
        let (namespace, device) = (label("factory"), label("pump-7"));
        let statement = statement(&domain, &namespace, &device);
        let verified = statement.verify(purpose, &key.verifying_key(), &bytes(name));
        assert_eq!(verified, Ok(()), "{name}");
    }
}

fn write() -> String {
    let mut text = String::from("# Made by identity/tests/vectors.rs from the seeds in it.\n");
    let mut put = |name: &str, value: String| writeln!(text, "{name} = {value}").unwrap();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    put("root-seed", hex(key(1).seed()));
    put("root-key", key(1).verifying_key().to_string());
    put(
        "root-hash",
        RootHash::of(&key(1).verifying_key()).to_string(),
    );
    put("issuer-seed", hex(key(2).seed()));
    put(
        "issuer-id",
        IssuerId::of(&key(2).verifying_key()).to_string(),
    );
    put("trust-set", hex(&trust_set().sign(&key(1)).unwrap()));
    for (name, claims) in [("device", device()), ("workload", workload())] {
        put(&format!("{name}-id"), claims.id.to_string());
        put(
            &format!("{name}-full"),
            hex(&issue(&claims, Form::Full, &key(2)).unwrap()),
        );
        put(
            &format!("{name}-lean"),
            hex(&issue(&claims, Form::Lean, &key(2)).unwrap()),
        );
    }
    put(
        "signed-time",
        hex(&SignedTime::sign(&key(2), &NONCE, NOW).unwrap()),
    );
    put("ticket", ticket().to_string());
    put("ticket-resource", ticket().resource_name());
    for (name, purpose, key) in proofs() {
        let domain = domain();
        let (namespace, device) = (label("factory"), label("pump-7"));
        let statement = statement(&domain, &namespace, &device);
        put(name, hex(&statement.sign(purpose, &key).unwrap()));
    }
    text
}

/// Root 1, issuer 2, device 3, ticket 4.
fn key(n: u8) -> Ed25519Key {
    Ed25519Key::from_seed([n; 32])
}

fn proofs() -> [(&'static str, Purpose, Ed25519Key); 3] {
    [
        ("proof-enroll-ticket", Purpose::EnrollTicket, key(4)),
        ("proof-enroll-device", Purpose::EnrollDevice, key(3)),
        ("proof-renew-device", Purpose::RenewDevice, key(3)),
    ]
}

fn statement<'a>(
    trust_domain: &'a TrustDomain,
    namespace: &'a Label,
    device: &'a Label,
) -> Statement<'a> {
    let device_key = Box::leak(Box::new(key(3).verifying_key()));
    Statement {
        trust_domain,
        namespace,
        device,
        device_key,
        handshake_hash: &HANDSHAKE_HASH,
        handshake_key: &HANDSHAKE_KEY,
    }
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::new("fairway.local").unwrap()
}

fn account(namespace: &str, name: &str) -> SpiffeId {
    SpiffeId::workload(domain(), label(namespace), AccountName::new(name).unwrap())
}

fn trust_set() -> TrustSet {
    TrustSet {
        version: 7,
        trust_domain: domain(),
        root: key(1).verifying_key(),
        issuers: vec![Issuer {
            key: key(2).verifying_key(),
            not_before: NOW.minus(1_000_000),
            expires: NOW.plus(10_000_000),
        }],
        authority: account("fairway-system", "fairway-authority"),
        relay: account("fairway-system", "fairway-relay"),
        revocation_floor: NOW.minus(500_000),
    }
}

fn device() -> CredentialClaims {
    CredentialClaims {
        issuer: IssuerId::of(&key(2).verifying_key()),
        id: SpiffeId::device(domain(), label("factory"), label("pump-7")),
        handshake_key: HANDSHAKE_KEY,
        not_before: NOW.minus(60),
        expires: NOW.plus(86_400),
        issued_at: NOW,
        serial: Serial([0x45; 16]),
        uid: Uid::new("2c8ae05e-6c0c-4b4a-9e43-1f3b8e1a9d55").unwrap(),
        attributes: [("model", "pump"), ("site", "oslo")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        services: Vec::new(),
        pod: None,
    }
}

fn workload() -> CredentialClaims {
    CredentialClaims {
        id: account("factory", "collector"),
        attributes: [].into(),
        services: vec![label("collector"), label("mosquitto")],
        pod: Some(label("collector-0")),
        ..device()
    }
}

fn ticket() -> Ticket {
    let relays = ["203.0.113.9:30740", "[2001:db8::1]:7440"].map(|text| text.parse().unwrap());
    let root = RootHash::of(&key(1).verifying_key());
    let (namespace, device) = (label("factory"), label("pump-7"));
    Ticket::new(
        relays.into(),
        domain(),
        root,
        namespace,
        device,
        *key(4).seed(),
    )
    .unwrap()
}
