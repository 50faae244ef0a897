//! Credentials: CWTs (RFC 8392) in COSE_Sign1 that bind a name to a handshake
//! key.
//!
//! This file writes them and reads what they claim. Whether to believe it is
//! decided in [`crate::trust`].

use std::collections::BTreeMap;
use std::fmt;

use ciborium::Value;
use coset::cwt::{ClaimName, ClaimsSet, Timestamp};
use coset::{AsCborValue, iana};

use crate::cbor;
use crate::cose::{self, Kind, SealError, Unverified};
use crate::key::{SignError, Signer};
use crate::limits;
use crate::name::{Label, NameError, SpiffeId, Subject};
use crate::time::UnixSeconds;
use crate::trust::IssuerId;

/// What a credential says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialClaims {
    /// Which key of the trust set signs it (`iss`).
    pub issuer: IssuerId,
    /// Whose credential it is (`sub`).
    pub id: SpiffeId,
    /// The X25519 key that the handshake must prove (`cnf`).
    pub handshake_key: [u8; 32],
    /// Not valid before (`nbf`).
    pub not_before: UnixSeconds,
    /// Not valid from then on (`exp`).
    pub expires: UnixSeconds,
    /// When it was issued (`iat`); revocation goes by this.
    pub issued_at: UnixSeconds,
    /// Serial number (`cti`).
    pub serial: Serial,
    /// UID of the object behind it.
    pub uid: Uid,
    /// Attributes of a device; must be empty for a workload.
    pub attributes: BTreeMap<String, String>,
    /// Names of the Services (in the workload's own namespace) that the pod
    /// backs; must be empty for a device, whose services its own config names.
    pub services: Vec<Label>,
    /// Name of the pod where it can be dialled by name (headless Services);
    /// must be `None` for a device.
    pub pod: Option<Label>,
}

/// Which of its two forms a credential has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Everything.
    Full,
    /// Without attributes, Services and pod name: for the one handshake
    /// message that somebody who has not yet said who he is can read.
    Lean,
}

/// The serial number of a credential (`cti`), chosen at random by the issuer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub [u8; 16]);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The UID of the Kubernetes object behind a credential: the DeviceIdentity's,
/// or the pod's. A new object under an old name has another UID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(Box<str>);

impl Uid {
    /// Checks that `text` is 1 to [`limits::UID_LEN`] letters, digits or `-`.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let what = "UID";
        if text.is_empty() {
            return Err(NameError::Empty { what });
        }
        if text.len() > limits::UID_LEN {
            return Err(NameError::TooLong {
                what,
                max: limits::UID_LEN,
                len: text.len(),
            });
        }
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        match text.chars().find(|&c| !good(c)) {
            Some(found) => Err(NameError::Character {
                what,
                allowed: "letters, digits and '-'",
                found,
            }),
            None => Ok(Self(text.into())),
        }
    }

    /// The UID as Kubernetes writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Why a credential was not issued. All but `Sign` are mistakes of the caller:
/// what the CRDs admit breaks no bound.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Claims break one of the bounds in [`limits`], or contradict each other.
    #[error("claims of {id} cannot be certified: {what}")]
    Bound {
        /// Whose claims.
        id: Box<SpiffeId>,
        /// Which bound.
        what: &'static str,
    },
    /// The issuer's key is not Ed25519, or is not the one that `issuer` names.
    #[error("the signing key is not the Ed25519 key that the claims name as issuer")]
    WrongKey,
    /// Larger than [`limits::CREDENTIAL_BYTES`]: the bounds contradict each other.
    #[error("the credential would have {len} bytes; this is a defect in Fairway's bounds")]
    TooLarge {
        /// Size in bytes.
        len: usize,
    },
    /// The key did not sign.
    #[error("the issuer's key did not sign")]
    Sign(#[source] SignError),
}

/// Why a credential was not believed. Time is checked last: a credential that
/// is refused as [`CredentialError::Expired`] is genuine in all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not a credential of the expected form, or one that breaks a bound.
    #[error("the credential is malformed")]
    Malformed,
    /// The trust set does not list its issuer.
    #[error(
        "the credential's issuer {0} is not in the trust set; get a newer trust set or a new credential"
    )]
    UnknownIssuer(IssuerId),
    /// The issuer's signature is not under it.
    #[error("the credential's signature is wrong")]
    Signature,
    /// Issued outside the time in which its issuer may issue.
    #[error("the credential was issued outside its issuer's time")]
    IssuerWindow,
    /// Its subject is of another trust domain.
    #[error("the credential is of another trust domain")]
    ForeignDomain,
    /// It certifies another key than the one that the handshake proved.
    #[error("the credential belongs to another key than the peer has proved")]
    KeyNotProven,
    /// Issued before the trust set's revocation floor.
    #[error("the credential was issued before the revocation floor; it needs to be renewed")]
    BelowFloor,
    /// Longer than any credential may live, or ends before it begins.
    #[error("the credential's lifetime is impossible")]
    Lifetime,
    /// A clock that is only a floor is not enough to believe this peer.
    #[error(
        "the time is not known well enough to believe this credential; get signed time from the authority first"
    )]
    ClockNeeded,
    /// Before its `nbf`.
    #[error("the credential is not valid yet; check the clocks")]
    NotYetValid,
    /// Past its `exp`.
    #[error("the credential has expired")]
    Expired,
}

impl CredentialError {
    /// The machine-readable word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "credential-malformed",
            Self::UnknownIssuer(_) => "credential-issuer-unknown",
            Self::Signature => "credential-signature-wrong",
            Self::IssuerWindow => "credential-issuer-expired",
            Self::ForeignDomain => "credential-foreign-domain",
            Self::KeyNotProven => "credential-key-mismatch",
            Self::BelowFloor => "credential-below-floor",
            Self::Lifetime => "credential-lifetime-impossible",
            Self::ClockNeeded => "clock-not-trusted",
            Self::NotYetValid => "credential-not-yet-valid",
            Self::Expired => "credential-expired",
        }
    }
}

/// Issues a credential: at most [`limits::CREDENTIAL_BYTES`] bytes.
pub fn issue(
    claims: &CredentialClaims,
    form: Form,
    issuer: &dyn Signer,
) -> Result<Vec<u8>, IssueError> {
    check_claims(claims)
        .and_then(|()| check_lifetime(claims))
        .map_err(|what| IssueError::Bound {
            id: Box::new(claims.id.clone()),
            what,
        })?;
    if IssuerId::of(&issuer.verifying_key()) != claims.issuer {
        return Err(IssueError::WrongKey);
    }
    let payload = cbor::encode(to_cbor(claims, form));
    cose::seal(Kind::Credential(form), payload, issuer).map_err(|error| match error {
        SealError::Algorithm => IssueError::WrongKey,
        SealError::TooLarge { len } => IssueError::TooLarge { len },
        SealError::Sign(source) => IssueError::Sign(source),
    })
}

/// Splits `names` into those that fit into one credential, in order of name,
/// and those that are left out and deserve an event.
pub fn fitting_services(names: impl IntoIterator<Item = Label>) -> (Vec<Label>, Vec<Label>) {
    let names: std::collections::BTreeSet<Label> = names.into_iter().collect();
    let mut taken = Vec::new();
    let mut left_out = Vec::new();
    let mut room = limits::SERVICES_BYTES;
    for name in names {
        let len = name.as_str().len();
        if taken.len() < limits::SERVICES && len <= room {
            room -= len;
            taken.push(name);
        } else {
            left_out.push(name);
        }
    }
    (taken, left_out)
}

/// What a credential claims, and the envelope by which to check it.
pub(crate) fn read(
    bytes: &[u8],
    form: Form,
) -> Result<(CredentialClaims, Unverified), CredentialError> {
    let envelope =
        cose::open(Kind::Credential(form), bytes).map_err(|_| CredentialError::Malformed)?;
    let claims = from_cbor(envelope.payload(), form).ok_or(CredentialError::Malformed)?;
    check_claims(&claims).map_err(|_| CredentialError::Malformed)?;
    Ok((claims, envelope))
}

/// The bounds that hold for every credential; the same at both ends.
fn check_claims(claims: &CredentialClaims) -> Result<(), &'static str> {
    check_times(claims)?;
    match &claims.id.subject {
        Subject::Device { .. } if !claims.services.is_empty() || claims.pod.is_some() => {
            Err("a device's credential has no Services and no pod")
        }
        Subject::Workload { .. } if !claims.attributes.is_empty() => {
            Err("a workload's credential has no attributes")
        }
        Subject::Device { .. } => check_attributes(&claims.attributes),
        Subject::Workload { .. } => check_services(&claims.services),
    }
}

fn check_times(claims: &CredentialClaims) -> Result<(), &'static str> {
    let latest = UnixSeconds(i64::MAX.unsigned_abs());
    if claims.expires > latest || claims.issued_at > latest {
        return Err("a time is beyond what a CWT can say");
    }
    if claims.not_before >= claims.expires {
        return Err("it ends before it begins");
    }
    Ok(())
}

/// How long a credential may live at most, counted from `nbf` and from `iat`.
pub(crate) fn check_lifetime(claims: &CredentialClaims) -> Result<(), &'static str> {
    let longest = limits::CREDENTIAL_SECONDS;
    if claims.expires.since(claims.not_before) > longest
        || claims.expires.since(claims.issued_at) > longest
    {
        return Err("it lives longer than any credential may");
    }
    Ok(())
}

/// Bounds on a device's attributes; the CRD's schema has the same.
fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), &'static str> {
    let printable = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b));
    let mut bytes = 0;
    for (key, value) in attributes {
        if key.is_empty() || key.len() > limits::ATTRIBUTE_KEY_LEN || !printable(key) {
            return Err("an attribute's key is empty, too long or not printable ASCII");
        }
        if value.len() > limits::ATTRIBUTE_VALUE_LEN || !printable(value) {
            return Err("an attribute's value is too long or not printable ASCII");
        }
        bytes += key.len() + value.len();
    }
    if attributes.len() > limits::ATTRIBUTES || bytes > limits::ATTRIBUTES_BYTES {
        return Err("too many attributes, or too long together");
    }
    Ok(())
}

fn check_services(services: &[Label]) -> Result<(), &'static str> {
    let bytes: usize = services.iter().map(|name| name.as_str().len()).sum();
    if services.len() > limits::SERVICES || bytes > limits::SERVICES_BYTES {
        return Err("too many Services, or their names are too long together");
    }
    Ok(())
}

fn to_cbor(claims: &CredentialClaims, form: Form) -> Value {
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
fn from_cbor(payload: &[u8], form: Form) -> Option<CredentialClaims> {
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
fn confirmation(key: &[u8; 32]) -> Value {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::name::{AccountName, TrustDomain};
    use crate::testing::{self, device, issuer, label, workload};

    const FORMS: [Form; 2] = [Form::Full, Form::Lean];

    fn claimed(bytes: &[u8], form: Form) -> Option<CredentialClaims> {
        read(bytes, form).ok().map(|(claims, _)| claims)
    }

    /// The largest claims that pass the bounds, of both kinds.
    fn largest() -> [CredentialClaims; 2] {
        let name = || Label::new(&"n".repeat(limits::LABEL_LEN)).unwrap();
        let trust_domain = TrustDomain::new(&"t".repeat(limits::TRUST_DOMAIN_LEN)).unwrap();
        let base = CredentialClaims {
            uid: Uid::new(&"u".repeat(limits::UID_LEN)).unwrap(),
            not_before: UnixSeconds(i64::MAX.unsigned_abs() - limits::CREDENTIAL_SECONDS),
            issued_at: UnixSeconds(i64::MAX.unsigned_abs()),
            expires: UnixSeconds(i64::MAX.unsigned_abs()),
            ..device()
        };
        let attribute_len = limits::ATTRIBUTES_BYTES / limits::ATTRIBUTES - 1;
        let attributes = (0..limits::ATTRIBUTES)
            .map(|n| {
                (
                    format!("{n:0>width$}", width = attribute_len),
                    "v".to_owned(),
                )
            })
            .collect();
        let service_len = limits::SERVICES_BYTES / limits::SERVICES;
        let services = (0..limits::SERVICES)
            .map(|n| label(&format!("{n:0>width$}", width = service_len)))
            .collect();
        let account = AccountName::new(&"a".repeat(limits::ACCOUNT_NAME_LEN)).unwrap();
        [
            CredentialClaims {
                id: SpiffeId::device(trust_domain.clone(), name(), name()),
                attributes,
                ..base.clone()
            },
            CredentialClaims {
                id: SpiffeId::workload(trust_domain, name(), account),
                attributes: BTreeMap::new(),
                services,
                pod: Some(name()),
                ..base
            },
        ]
    }

    #[test]
    fn the_largest_allowed_claims_fit() {
        for claims in largest() {
            for form in FORMS {
                let bytes = issue(&claims, form, &issuer()).unwrap();
                assert!(bytes.len() <= limits::CREDENTIAL_BYTES, "{}", bytes.len());
            }
            assert_eq!(claimed(&testing::issue(&claims), Form::Full), Some(claims));
        }
    }

    #[test]
    fn a_usual_credential_is_small() {
        assert!(
            testing::issue(&device()).len() < 360,
            "{}",
            testing::issue(&device()).len()
        );
    }

    #[test]
    fn what_is_issued_is_what_is_read() {
        for claims in [device(), workload()] {
            assert_eq!(
                claimed(&testing::issue(&claims), Form::Full),
                Some(claims.clone())
            );
            let lean = issue(&claims, Form::Lean, &issuer()).unwrap();
            let bare = CredentialClaims {
                attributes: BTreeMap::new(),
                services: Vec::new(),
                pod: None,
                ..claims
            };
            assert_eq!(claimed(&lean, Form::Lean), Some(bare));
            assert_eq!(
                claimed(&lean, Form::Full),
                None,
                "lean never passes for full"
            );
        }
    }

    #[test]
    fn the_lean_form_tells_no_attributes() {
        let lean = issue(&device(), Form::Lean, &issuer()).unwrap();
        let contains = |word: &str| lean.windows(word.len()).any(|w| w == word.as_bytes());
        assert!(contains("pump-7"));
        assert!(!contains("oslo") && !contains("model"));
    }

    #[test]
    fn claims_beyond_the_bounds_are_not_issued() {
        let attribute = |key: &str, value: &str| CredentialClaims {
            attributes: [(key.to_owned(), value.to_owned())].into(),
            ..device()
        };
        let many = |n: usize, len: usize| CredentialClaims {
            attributes: (0..n).map(|n| (n.to_string(), "v".repeat(len))).collect(),
            ..device()
        };
        let services = |n: usize| CredentialClaims {
            services: (0..n).map(|n| label(&format!("s{n}"))).collect(),
            ..workload()
        };
        let long = label(&"x".repeat(63));
        for (claims, why) in [
            (attribute("", "v"), "empty key"),
            (attribute(&"k".repeat(33), "v"), "long key"),
            (attribute("k", &"v".repeat(64)), "long value"),
            (attribute("k", "v\n"), "control character"),
            (attribute("ä", "v"), "not ASCII"),
            (many(17, 1), "17 attributes"),
            (many(7, 60), "attributes too long together"),
            (services(17), "17 services"),
            (
                CredentialClaims {
                    services: vec![long; 7],
                    ..workload()
                },
                "services too long",
            ),
            (
                CredentialClaims {
                    services: vec![label("a")],
                    ..device()
                },
                "device with services",
            ),
            (
                CredentialClaims {
                    pod: Some(label("a")),
                    ..device()
                },
                "device with pod",
            ),
            (
                CredentialClaims {
                    attributes: device().attributes,
                    ..workload()
                },
                "workload with attributes",
            ),
            (
                CredentialClaims {
                    expires: device().not_before,
                    ..device()
                },
                "no lifetime",
            ),
            (
                CredentialClaims {
                    not_before: UnixSeconds(0),
                    ..device()
                },
                "longer than any credential",
            ),
            (
                CredentialClaims {
                    expires: UnixSeconds(u64::MAX),
                    ..device()
                },
                "end of time",
            ),
        ] {
            let issued = issue(&claims, Form::Full, &issuer());
            assert!(
                matches!(issued, Err(IssueError::Bound { .. })),
                "{why}: {issued:?}"
            );
        }
        let issued = issue(&device(), Form::Full, &testing::stranger());
        assert!(matches!(issued, Err(IssueError::WrongKey)), "{issued:?}");
    }

    #[test]
    fn services_that_do_not_fit_are_named() {
        let names = |n: usize, len: usize| (0..n).map(move |n| label(&format!("{n:0>len$}")));
        for (given, taken) in [
            (names(0, 1), 0),
            (names(16, 25), 16),
            (names(17, 10), 16),
            (names(16, 63), 6),
        ] {
            let all = given.len();
            let (fit, left_out) = fitting_services(given);
            assert_eq!((fit.len(), left_out.len()), (taken, all - taken));
            let claims = CredentialClaims {
                services: fit,
                ..workload()
            };
            assert!(issue(&claims, Form::Full, &issuer()).is_ok());
        }
        let (fit, _) = fitting_services(["b", "a", "b"].map(label));
        assert_eq!(fit, ["a", "b"].map(label), "in order, once");
    }

    /// Signs whatever claims `change` makes of a good credential's.
    fn forge(form: Form, change: impl Fn(&mut Vec<(Value, Value)>)) -> Vec<u8> {
        let Value::Map(mut entries) = to_cbor(&workload(), form) else {
            unreachable!()
        };
        change(&mut entries);
        let payload = cbor::encode(Value::Map(entries));
        cose::seal(Kind::Credential(form), payload, &issuer()).unwrap()
    }

    fn set(entries: &mut Vec<(Value, Value)>, key: Value, value: Value) {
        entries.retain(|(known, _)| *known != key);
        entries.push((key, value));
    }

    #[test]
    fn signed_nonsense_is_still_malformed() {
        let int = |n: i64| Value::Integer(n.into());
        let text = |text: &str| Value::Text(text.to_owned());
        assert!(claimed(&forge(Form::Full, |_| {}), Form::Full).is_some());
        let cases = [
            (int(1), text("not hex"), "issuer"),
            (int(1), int(1), "issuer of another type"),
            (int(2), text("spiffe://TD/ns/a/sa/b"), "subject"),
            (
                int(2),
                text("https://example.com"),
                "subject that is no SPIFFE ID",
            ),
            (int(3), text("somebody"), "audience"),
            (int(4), int(-1), "negative expiry"),
            (int(4), text("tomorrow"), "expiry in text"),
            (int(7), Value::Bytes(vec![0; 15]), "short serial"),
            (int(8), Value::Map(vec![]), "empty confirmation"),
            (
                int(8),
                confirmation(&[0; 32]).as_map().unwrap()[0].1.clone(),
                "bare COSE_Key",
            ),
            (text("uid"), text(""), "empty UID"),
            (
                text("att"),
                Value::Map(vec![(text("a"), text("b"))]),
                "attributes of a workload",
            ),
            (
                text("svc"),
                Value::Array(vec![text("Upper")]),
                "Service name",
            ),
            (text("svc"), text("collector"), "Services in text"),
            (text("pod"), text("a.b"), "pod name"),
        ];
        for (key, value, why) in cases {
            let bytes = forge(Form::Full, |entries| {
                set(entries, key.clone(), value.clone())
            });
            assert_eq!(claimed(&bytes, Form::Full), None, "{why}");
        }
        for key in [
            int(1),
            int(2),
            int(4),
            int(5),
            int(6),
            int(7),
            int(8),
            text("uid"),
        ] {
            let bytes = forge(Form::Full, |entries| {
                entries.retain(|(known, _)| *known != key)
            });
            assert_eq!(claimed(&bytes, Form::Full), None, "without {key:?}");
        }
        let bytes = forge(Form::Lean, |entries| {
            set(entries, text("svc"), Value::Array(vec![text("collector")]));
        });
        assert_eq!(claimed(&bytes, Form::Lean), None, "lean with Services");
    }

    #[test]
    fn a_claim_twice_is_malformed() {
        let twice = forge(Form::Full, |entries| {
            let subject = entries
                .iter()
                .find(|(key, _)| *key == cbor::uint(2))
                .unwrap()
                .clone();
            entries.push(subject);
        });
        assert_eq!(claimed(&twice, Form::Full), None);
    }

    #[test]
    fn later_versions_may_add_claims() {
        let more = forge(Form::Full, |entries| {
            set(entries, Value::Text("hw".into()), Value::Bool(true));
        });
        assert_eq!(claimed(&more, Form::Full), Some(workload()));
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            for form in FORMS {
                prop_assert!(claimed(&bytes, form).is_none());
            }
        }

        #[test]
        fn garbage_inside_a_signed_envelope_is_survived(
            payload in proptest::collection::vec(any::<u8>(), 0..400)
        ) {
            for form in FORMS {
                if let Ok(bytes) = cose::seal(Kind::Credential(form), payload.clone(), &issuer()) {
                    prop_assert!(claimed(&bytes, form).is_none());
                }
            }
        }

        #[test]
        fn any_claims_within_the_bounds_round_trip(
            attributes in proptest::collection::btree_map("[a-z]{1,12}", "[ -~]{0,12}", 0..16),
            serial in any::<[u8; 16]>(),
            key in any::<[u8; 32]>(),
            issued_at in 0_u64..4_000_000_000,
        ) {
            let claims = CredentialClaims {
                attributes,
                serial: Serial(serial),
                handshake_key: key,
                issued_at: UnixSeconds(issued_at),
                not_before: UnixSeconds(issued_at),
                expires: UnixSeconds(issued_at + 1),
                ..device()
            };
            prop_assert_eq!(claimed(&testing::issue(&claims), Form::Full), Some(claims));
        }
    }
}
