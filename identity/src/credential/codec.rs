//! Claims as a CWT's CBOR, and back.

use std::collections::BTreeMap;

use ciborium::Value;
use coset::cwt::{ClaimName, ClaimsSet, Timestamp};
use coset::{AsCborValue, iana};

use super::{CredentialClaims, Form, Serial, Uid};
use crate::cbor;
use crate::limits;
use crate::name::Label;
use crate::time::UnixSeconds;

pub(super) fn to_cbor(claims: &CredentialClaims, form: Form) -> Value {
    let seconds = |time: UnixSeconds| {
        Some(Timestamp::WholeSeconds(
            i64::try_from(time.0).unwrap_or(i64::MAX),
        ))
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let mut rest = vec![
        (CNF, confirmation(&claims.handshake_key)),
        (ClaimName::Text(UID.into()), text(claims.uid.as_str())),
    ];
    if form == Form::Full {
        if !claims.attributes.is_empty() {
            let entry = |(key, value): (&String, &String)| (text(key), text(value));
            let map = claims.attributes.iter().map(entry).collect();
            rest.push((ClaimName::Text(ATTRIBUTES.into()), Value::Map(map)));
        }
        if !claims.services.is_empty() {
            let names = claims
                .services
                .iter()
                .map(|name| text(name.as_str()))
                .collect();
            rest.push((ClaimName::Text(SERVICES.into()), Value::Array(names)));
        }
        if let Some(pod) = &claims.pod {
            rest.push((ClaimName::Text(POD.into()), text(pod.as_str())));
        }
    }
    let set = ClaimsSet {
        issuer: Some(claims.issuer.to_string()),
        subject: Some(claims.id.to_string()),
        audience: None,
        expiration_time: seconds(claims.expires),
        not_before: seconds(claims.not_before),
        issued_at: seconds(claims.issued_at),
        cwt_id: Some(claims.serial.0.to_vec()),
        rest,
    };
    set.to_cbor_value()
        .expect("claims of our own making encode")
}

/// Reads the claims; `None` if one is missing or not of its type. Claims that
/// this version does not know are left alone, so that later ones may add some;
/// an audience is refused, since it would restrict what we do not check.
pub(super) fn from_cbor(payload: &[u8], form: Form) -> Option<CredentialClaims> {
    let value = cbor::decode(payload, limits::CREDENTIAL_BYTES).ok()?;
    let set = ClaimsSet::from_cbor_value(value).ok()?;
    if set.audience.is_some() {
        return None;
    }
    let mut handshake_key = None;
    let mut uid = None;
    let mut attributes = BTreeMap::new();
    let mut services = Vec::new();
    let mut pod = None;
    for (name, value) in set.rest {
        match &name {
            name if *name == CNF => handshake_key = Some(read_confirmation(value)?),
            ClaimName::Text(name) => match (name.as_str(), form) {
                (UID, _) => uid = Some(Uid::new(value.as_text()?).ok()?),
                (ATTRIBUTES, Form::Full) => attributes = read_attributes(value)?,
                (SERVICES, Form::Full) => services = read_services(value)?,
                (POD, Form::Full) => pod = Some(Label::new(value.as_text()?).ok()?),
                (ATTRIBUTES | SERVICES | POD, Form::Lean) => return None,
                _ => {}
            },
            ClaimName::Assigned(_) | ClaimName::PrivateUse(_) => {}
        }
    }
    Some(CredentialClaims {
        issuer: set.issuer?.parse().ok()?,
        id: set.subject?.parse().ok()?,
        handshake_key: handshake_key?,
        not_before: seconds(set.not_before)?,
        expires: seconds(set.expiration_time)?,
        issued_at: seconds(set.issued_at)?,
        serial: Serial(set.cwt_id?.try_into().ok()?),
        uid: uid?,
        attributes,
        services,
        pod,
    })
}

fn seconds(time: Option<Timestamp>) -> Option<UnixSeconds> {
    match time? {
        Timestamp::WholeSeconds(seconds) => u64::try_from(seconds).ok().map(UnixSeconds),
        Timestamp::FractionalSeconds(_) => None,
    }
}

fn read_attributes(value: Value) -> Option<BTreeMap<String, String>> {
    let entry =
        |(key, value): (Value, Value)| Some((key.into_text().ok()?, value.into_text().ok()?));
    value.into_map().ok()?.into_iter().map(entry).collect()
}

fn read_services(value: Value) -> Option<Vec<Label>> {
    let name = |value: Value| Label::new(value.as_text()?).ok();
    value.into_array().ok()?.into_iter().map(name).collect()
}

/// `cnf` (RFC 8747): `{1 (COSE_Key): {1 (kty): 1 (OKP), -1 (crv): 4 (X25519), -2 (x): key}}`.
pub(super) fn confirmation(key: &[u8; 32]) -> Value {
    let int = |n: i64| Value::Integer(n.into());
    let cose_key = Value::Map(vec![
        (int(1), int(1)),
        (int(-1), int(4)),
        (int(-2), Value::Bytes(key.to_vec())),
    ]);
    Value::Map(vec![(int(1), cose_key)])
}

fn read_confirmation(value: Value) -> Option<[u8; 32]> {
    // Deterministic CBOR has one spelling, so comparing values is enough.
    let Value::Map(outer) = &value else {
        return None;
    };
    let [(_, Value::Map(cose_key))] = &outer[..] else {
        return None;
    };
    let [_, _, (_, Value::Bytes(x))] = &cose_key[..] else {
        return None;
    };
    let key: [u8; 32] = x.as_slice().try_into().ok()?;
    (confirmation(&key) == value).then_some(key)
}

const CNF: ClaimName = ClaimName::Assigned(iana::CwtClaimName::Cnf);
const UID: &str = "uid";
const ATTRIBUTES: &str = "att";
const SERVICES: &str = "svc";
const POD: &str = "pod";
