//! A trust domain with fixed keys: what is signed here is genuine, so that a
//! fuzzer reaches what lies behind a signature.

use std::collections::BTreeMap;

use fairway_identity::{
    CredentialClaims, Ed25519Key, Form, Issuer, IssuerId, Label, RootHash, Serial, Signer as _,
    SpiffeId, TrustSet, Uid, UnixSeconds, VerifiedTrustSet, issue,
};

/// The time at which everything happens.
pub const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// The root of the trust domain.
pub fn root() -> Ed25519Key {
    Ed25519Key::from_seed([1; 32])
}

/// Its one issuer.
pub fn issuer() -> Ed25519Key {
    Ed25519Key::from_seed([2; 32])
}

/// What everybody pins.
pub fn pin() -> RootHash {
    RootHash::of(&root().verifying_key())
}

/// The ID of `ns/NS/device/NAME` or `ns/NS/sa/NAME`.
pub fn id(path: &str) -> SpiffeId {
    format!("spiffe://t.local/{path}").parse().unwrap()
}

/// The trust set that everybody knows.
pub fn trust_set() -> TrustSet {
    TrustSet {
        version: 3,
        trust_domain: "t.local".parse().unwrap(),
        root: root().verifying_key(),
        issuers: vec![Issuer {
            key: issuer().verifying_key(),
            not_before: NOW.minus(86_400),
            expires: NOW.plus(90 * 86_400),
        }],
        authority: id("ns/fairway-system/sa/fairway-authority"),
        relay: id("ns/fairway-system/sa/fairway-relay"),
        revocation_floor: UnixSeconds(0),
    }
}

/// The same, verified.
pub fn trust() -> VerifiedTrustSet {
    let signed = trust_set().sign(&root()).unwrap();
    VerifiedTrustSet::verify(&signed, &pin(), 0).unwrap()
}

/// What a credential of `path` for `key` says.
pub fn claims(path: &str, services: &[&str], key: [u8; 32]) -> CredentialClaims {
    CredentialClaims {
        issuer: IssuerId::of(&issuer().verifying_key()),
        id: id(path),
        handshake_key: key,
        not_before: NOW,
        expires: NOW.plus(3_600),
        issued_at: NOW,
        serial: Serial([9; 16]),
        uid: Uid::new("0b7a5a52-0000-4000-8000-000000000001").unwrap(),
        attributes: BTreeMap::new(),
        services: services
            .iter()
            .map(|name| Label::new(name).unwrap())
            .collect(),
        pod: None,
    }
}

/// The lean and the full credential.
pub fn credentials(path: &str, services: &[&str], key: [u8; 32]) -> [Vec<u8>; 2] {
    let claims = claims(path, services, key);
    [Form::Lean, Form::Full].map(|form| issue(&claims, form, &issuer()).unwrap())
}

/// Any payload as a signed object of `typ` (identity/SPEC.md section 2).
pub fn signed(typ: &str, payload: &[u8], key: &Ed25519Key) -> Vec<u8> {
    let mut protected = vec![0xa2, 0x01, 0x27, 0x10];
    head(&mut protected, 3, typ.len());
    protected.extend_from_slice(typ.as_bytes());
    let aad = format!("fairway v1 {typ}");

    let mut over = vec![0x84];
    head(&mut over, 3, 10);
    over.extend_from_slice(b"Signature1");
    for bytes in [&protected, aad.as_bytes(), payload] {
        head(&mut over, 2, bytes.len());
        over.extend_from_slice(bytes);
    }
    let signature = key.sign(&over).unwrap();

    let mut out = vec![0xd2, 0x84];
    head(&mut out, 2, protected.len());
    out.extend_from_slice(&protected);
    out.push(0xa0);
    for bytes in [payload, &signature] {
        head(&mut out, 2, bytes.len());
        out.extend_from_slice(bytes);
    }
    out
}

/// The head of a CBOR item of up to 64 KiB.
pub fn head(out: &mut Vec<u8>, major: u8, length: usize) {
    let length = u16::try_from(length.min(0xffff)).unwrap();
    let [high, low] = length.to_be_bytes();
    match length {
        0..24 => out.push(major << 5 | low),
        24..256 => out.extend([major << 5 | 24, low]),
        256.. => out.extend([major << 5 | 25, high, low]),
    }
}
