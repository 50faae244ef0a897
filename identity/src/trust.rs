//! The trust set: which keys may issue, signed by the root; and the one place
//! where a credential becomes a [`VerifiedPeer`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use ciborium::Value;
use data_encoding::HEXLOWER;

use crate::address::Address;
use crate::cbor::{self, CborError, Fields};
use crate::cose::{self, Kind, SealError};
use crate::credential::{self, CredentialClaims, CredentialError, Form, Serial, Uid};
use crate::key::{KeyError, SignError, Signer, VerifyingKey};
use crate::limits;
use crate::name::{Label, SpiffeId, Subject, TrustDomain};
use crate::time::{Clock, UnixSeconds};

/// What the root says about whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustSet {
    /// Rises with every change; an endpoint never goes back.
    pub version: u64,
    /// The domain it speaks for.
    pub trust_domain: TrustDomain,
    /// The root's own key.
    pub root: VerifyingKey,
    /// Keys that may issue: at most [`limits::ISSUERS`].
    pub issuers: Vec<Issuer>,
    /// Who is the authority.
    pub authority: SpiffeId,
    /// Who are the relays.
    pub relay: SpiffeId,
    /// Credentials issued before this are void.
    pub revocation_floor: UnixSeconds,
}

impl TrustSet {
    /// Signs the trust set with the root's key.
    pub fn sign(&self, root: &dyn Signer) -> Result<Vec<u8>, TrustSetError> {
        self.check().map_err(TrustSetError::Bound)?;
        if root.verifying_key() != self.root {
            return Err(TrustSetError::WrongKey);
        }
        let payload = cbor::encode(self.to_cbor());
        cose::seal(Kind::TrustSet, payload, root).map_err(|error| match error {
            SealError::Algorithm => TrustSetError::WrongKey,
            SealError::TooLarge { .. } => TrustSetError::Bound("it is too large"),
            SealError::Sign(source) => TrustSetError::Sign(source),
        })
    }

    /// The issuer with this id.
    pub fn issuer(&self, id: IssuerId) -> Option<&Issuer> {
        self.issuers
            .iter()
            .find(|issuer| IssuerId::of(&issuer.key) == id)
    }

    /// What must hold for every trust set; the same at both ends.
    fn check(&self) -> Result<(), &'static str> {
        let is_ed25519 = |key: &VerifyingKey| matches!(key, VerifyingKey::Ed25519(_));
        if !is_ed25519(&self.root) || !self.issuers.iter().all(|issuer| is_ed25519(&issuer.key)) {
            return Err("root and issuers need Ed25519 keys");
        }
        if self.issuers.len() > limits::ISSUERS {
            return Err("it has too many issuers");
        }
        for id in [&self.authority, &self.relay] {
            if id.trust_domain != self.trust_domain {
                return Err("authority and relay must be of its own trust domain");
            }
        }
        if self.authority == self.relay {
            return Err("authority and relay must not be the same");
        }
        Ok(())
    }

    fn to_cbor(&self) -> Value {
        let issuer = |issuer: &Issuer| {
            cbor::map([
                (1, Value::Bytes(issuer.key.to_cose_key())),
                (2, cbor::uint(issuer.not_before.0)),
                (3, cbor::uint(issuer.expires.0)),
            ])
        };
        cbor::map([
            (1, cbor::uint(self.version)),
            (2, Value::Text(self.trust_domain.to_string())),
            (3, Value::Bytes(self.root.to_cose_key())),
            (4, Value::Array(self.issuers.iter().map(issuer).collect())),
            (5, Value::Text(self.authority.to_string())),
            (6, Value::Text(self.relay.to_string())),
            (7, cbor::uint(self.revocation_floor.0)),
        ])
    }

    fn from_cbor(payload: &[u8]) -> Result<Self, CborError> {
        let mut fields = Fields::new(cbor::decode(payload, limits::TRUST_SET_BYTES)?)?;
        let key = |bytes: Vec<u8>| VerifyingKey::from_cose_key(&bytes).map_err(|_| CborError);
        let id = |text: String| text.parse::<SpiffeId>().map_err(|_| CborError);
        let issuer = |value: Value| {
            let mut fields = Fields::new(value)?;
            Ok(Issuer {
                key: key(fields.bytes(1)?)?,
                not_before: UnixSeconds(fields.uint(2)?),
                expires: UnixSeconds(fields.uint(3)?),
            })
        };
        Ok(Self {
            version: fields.uint(1)?,
            trust_domain: TrustDomain::new(&fields.text(2)?).map_err(|_| CborError)?,
            root: key(fields.bytes(3)?)?,
            issuers: fields
                .array(4)?
                .into_iter()
                .map(issuer)
                .collect::<Result<_, _>>()?,
            authority: id(fields.text(5)?)?,
            relay: id(fields.text(6)?)?,
            revocation_floor: UnixSeconds(fields.uint(7)?),
        })
    }
}

/// A key that may issue credentials, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its key; its id is [`IssuerId::of`] it.
    pub key: VerifyingKey,
    /// What it says to have issued before is void.
    pub not_before: UnixSeconds,
    /// From then on everything that it issued is void, whatever lifetime it
    /// was given.
    pub expires: UnixSeconds,
}

/// Names an issuer key: the first 8 bytes of the SHA-256 of its COSE_Key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerId([u8; 8]);

impl IssuerId {
    /// The id of `key`.
    pub fn of(key: &VerifyingKey) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&sha256(&key.to_cose_key())[..8]);
        Self(id)
    }
}

impl fmt::Display for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for IssuerId {
    type Err = KeyError;

    /// Reads 16 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode_hex(text)
            .map(Self)
            .ok_or(KeyError::Hex { digits: 16 })
    }
}

/// SHA-256 of the root's COSE_Key: what tickets and injected pods pin.
/// In text: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash(pub [u8; 32]);

impl RootHash {
    /// The hash of `root`.
    pub fn of(root: &VerifyingKey) -> Self {
        Self(sha256(&root.to_cose_key()))
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RootHash {
    type Err = KeyError;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode_hex(text)
            .map(Self)
            .ok_or(KeyError::Hex { digits: 64 })
    }
}

/// Why a trust set was not made or not believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustSetError {
    /// Breaks a bound. From `sign` this is the caller's mistake.
    #[error("the trust set breaks a rule: {0}")]
    Bound(&'static str),
    /// Another key is to sign than the one that the trust set names as root.
    #[error("the signing key is not the Ed25519 key that the trust set names as root")]
    WrongKey,
    /// The key did not sign.
    #[error("the root's key did not sign")]
    Sign(#[source] SignError),
    /// Not a signed trust set.
    #[error("the trust set is malformed")]
    Malformed,
    /// Its root is not the pinned one.
    #[error(
        "the trust set is of root {found}, but {pinned} is pinned; this is another installation, or its root was replaced: enrol again"
    )]
    RootMismatch {
        /// Hash of the root it names.
        found: RootHash,
        /// Hash that was expected.
        pinned: RootHash,
    },
    /// The root's signature is not under it.
    #[error("the trust set's signature is wrong")]
    Signature,
    /// Older than one that was seen before.
    #[error("the trust set has version {version}, older than {floor} which was seen before")]
    Outdated {
        /// Its version.
        version: u64,
        /// The newest version seen.
        floor: u64,
    },
}

impl TrustSetError {
    /// The machine-readable word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Bound(_) => "trust-set-out-of-bounds",
            Self::WrongKey => "trust-set-wrong-key",
            Self::Sign(_) => "signing-failed",
            Self::Malformed => "trust-set-malformed",
            Self::RootMismatch { .. } => "root-mismatch",
            Self::Signature => "trust-set-signature-wrong",
            Self::Outdated { .. } => "trust-set-outdated",
        }
    }
}

/// A trust set whose signature was checked against a pinned root. Cheap to
/// clone.
#[derive(Clone)]
pub struct VerifiedTrustSet(Arc<Inner>);

struct Inner {
    set: TrustSet,
    bytes: Vec<u8>,
}

impl VerifiedTrustSet {
    /// Checks `bytes` against the pinned root; refuses a version below
    /// `floor_version`, the newest that the caller has seen (0 at first).
    pub fn verify(bytes: &[u8], pin: &RootHash, floor_version: u64) -> Result<Self, TrustSetError> {
        let envelope = cose::open(Kind::TrustSet, bytes).map_err(|_| TrustSetError::Malformed)?;
        let set = TrustSet::from_cbor(envelope.payload()).map_err(|_| TrustSetError::Malformed)?;
        let found = RootHash::of(&set.root);
        if found != *pin {
            return Err(TrustSetError::RootMismatch {
                found,
                pinned: *pin,
            });
        }
        if !envelope.is_signed_by(&set.root) {
            return Err(TrustSetError::Signature);
        }
        set.check().map_err(TrustSetError::Bound)?;
        if set.version < floor_version {
            return Err(TrustSetError::Outdated {
                version: set.version,
                floor: floor_version,
            });
        }
        Ok(Self(Arc::new(Inner {
            set,
            bytes: bytes.to_vec(),
        })))
    }

    /// The signed bytes, to be passed on or kept.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// What it says.
    pub fn trust_set(&self) -> &TrustSet {
        &self.0.set
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.0.set.version
    }

    /// Checks a credential, and that it certifies the key that the handshake
    /// proved (`proven_key`): the one maker of a [`VerifiedPeer`].
    ///
    /// With [`Clock::Floor`] nothing but "not expired at the floor" can be
    /// said of its time, and only the authority and relays pass.
    pub fn verify_credential(
        &self,
        bytes: &[u8],
        form: Form,
        proven_key: &[u8; 32],
        clock: Clock,
    ) -> Result<VerifiedPeer, CredentialError> {
        let (claims, envelope) = credential::read(bytes, form)?;
        let set = &self.0.set;
        let issuer = set
            .issuer(claims.issuer)
            .ok_or(CredentialError::UnknownIssuer(claims.issuer))?;
        if !envelope.is_signed_by(&issuer.key) {
            return Err(CredentialError::Signature);
        }
        if claims.id.trust_domain != set.trust_domain {
            return Err(CredentialError::ForeignDomain);
        }
        if claims.handshake_key != *proven_key {
            return Err(CredentialError::KeyNotProven);
        }
        if claims.issued_at < set.revocation_floor {
            return Err(CredentialError::BelowFloor);
        }
        if claims.issued_at < issuer.not_before || claims.issued_at >= issuer.expires {
            return Err(CredentialError::IssuerWindow);
        }
        let expires = claims.expires.min(issuer.expires);
        self.check_time(&claims, expires, clock)?;
        Ok(VerifiedPeer {
            claims: Arc::new(claims),
            form,
            expires,
        })
    }

    fn check_time(
        &self,
        claims: &CredentialClaims,
        expires: UnixSeconds,
        clock: Clock,
    ) -> Result<(), CredentialError> {
        credential::check_lifetime(claims).map_err(|_| CredentialError::Lifetime)?;
        match clock {
            Clock::Trusted(now) => {
                if claims.not_before > now.plus(limits::NOT_BEFORE_LEEWAY_SECONDS) {
                    return Err(CredentialError::NotYetValid);
                }
            }
            Clock::Floor(_) => {
                let id = &claims.id;
                if *id != self.0.set.authority && *id != self.0.set.relay {
                    return Err(CredentialError::ClockNeeded);
                }
            }
        }
        if clock.at_least() >= expires {
            return Err(CredentialError::Expired);
        }
        Ok(())
    }
}

impl fmt::Debug for VerifiedTrustSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTrustSet")
            .field("set", &self.0.set)
            .finish_non_exhaustive()
    }
}

/// A peer whose credential was checked and whose key the handshake proved.
/// Cheap to clone.
#[derive(Clone)]
pub struct VerifiedPeer {
    claims: Arc<CredentialClaims>,
    form: Form,
    /// The earlier of the credential's and its issuer's end.
    expires: UnixSeconds,
}

impl VerifiedPeer {
    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.claims.id
    }

    /// UID of the object behind it.
    pub fn uid(&self) -> &Uid {
        &self.claims.uid
    }

    /// Signed attributes; empty for a workload, and in the lean form.
    pub fn attributes(&self) -> &BTreeMap<String, String> {
        &self.claims.attributes
    }

    /// Services that the pod backs; empty for a device, and in the lean form.
    pub fn services(&self) -> &[Label] {
        &self.claims.services
    }

    /// Serial of the credential.
    pub fn serial(&self) -> Serial {
        self.claims.serial
    }

    /// When the credential was issued.
    pub fn issued_at(&self) -> UnixSeconds {
        self.claims.issued_at
    }

    /// When the credential ends: its own `exp`, or its issuer's end if that
    /// comes earlier.
    pub fn expires(&self) -> UnixSeconds {
        self.expires
    }

    /// The proven handshake key.
    pub fn handshake_key(&self) -> &[u8; 32] {
        &self.claims.handshake_key
    }

    /// In which form the credential came.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether this peer is whom `address` names. A lean credential does not
    /// say what is needed to answer to a Service or a pod, so it never does.
    pub fn answers_to(&self, address: &Address, trust: &VerifiedTrustSet) -> bool {
        let CredentialClaims {
            id, services, pod, ..
        } = &*self.claims;
        let set = trust.trust_set();
        if id.trust_domain != set.trust_domain {
            return false;
        }
        let backs = |namespace: &Label, service: &Label| match &id.subject {
            Subject::Workload { namespace: own, .. } => {
                own == namespace && services.contains(service)
            }
            Subject::Device { .. } => false,
        };
        match address {
            Address::Device { namespace, name } => match &id.subject {
                Subject::Device {
                    namespace: own,
                    name: own_name,
                } => own == namespace && own_name == name,
                Subject::Workload { .. } => false,
            },
            Address::Service { namespace, service } => backs(namespace, service),
            Address::Pod {
                namespace,
                service,
                pod: wanted,
            } => backs(namespace, service) && pod.as_ref() == Some(wanted),
            Address::Authority => *id == set.authority,
            Address::Relay => *id == set.relay,
        }
    }
}

impl fmt::Debug for VerifiedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VerifiedPeer({} {:?} {})",
            self.claims.id, self.form, self.claims.serial
        )
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{self, KEY, NOW, device, issuer, root, stranger, trust, trust_set};

    fn check(
        trust: &VerifiedTrustSet,
        claims: &CredentialClaims,
        clock: Clock,
    ) -> Result<VerifiedPeer, CredentialError> {
        trust.verify_credential(&testing::issue(claims), Form::Full, &KEY, clock)
    }

    fn at(now: UnixSeconds) -> Clock {
        Clock::Trusted(now)
    }

    #[test]
    fn trust_sets_round_trip() {
        let set = trust_set();
        let bytes = set.sign(&root()).unwrap();
        let verified = VerifiedTrustSet::verify(&bytes, &RootHash::of(&set.root), 7).unwrap();
        assert_eq!(verified.trust_set(), &set);
        assert_eq!(verified.bytes(), bytes);
    }

    #[test]
    fn the_largest_trust_set_fits() {
        let long = "n".repeat(63);
        let domain = TrustDomain::new(&"t".repeat(63)).unwrap();
        let id = |name: &str| {
            let account = crate::name::AccountName::new(&name.repeat(63)).unwrap();
            SpiffeId::workload(domain.clone(), testing::label(&long), account)
        };
        let issuer = Issuer {
            expires: UnixSeconds(u64::MAX),
            ..trust_set().issuers[0].clone()
        };
        let set = TrustSet {
            version: u64::MAX,
            trust_domain: domain.clone(),
            issuers: vec![issuer; limits::ISSUERS],
            authority: id("a"),
            relay: id("b"),
            ..trust_set()
        };
        assert!(set.sign(&root()).is_ok());
    }

    #[test]
    fn a_trust_set_is_believed_only_from_the_pinned_root() {
        let bytes = trust_set().sign(&root()).unwrap();
        let answer = |bytes: &[u8], pin: &RootHash, floor: u64| {
            VerifiedTrustSet::verify(bytes, pin, floor)
                .unwrap_err()
                .reason()
        };
        let pin = RootHash::of(&root().verifying_key());
        assert_eq!(answer(&bytes, &RootHash([0; 32]), 0), "root-mismatch");
        assert_eq!(answer(&bytes, &pin, 8), "trust-set-outdated");
        assert_eq!(
            answer(&testing::issue(&device()), &pin, 0),
            "trust-set-malformed"
        );
        // Names the pinned root, but somebody else has signed it.
        let payload = cbor::encode(trust_set().to_cbor());
        let forged = cose::seal(Kind::TrustSet, payload, &stranger()).unwrap();
        assert_eq!(answer(&forged, &pin, 0), "trust-set-signature-wrong");
        let other = TrustSet {
            root: stranger().verifying_key(),
            ..trust_set()
        };
        let other = other.sign(&stranger()).unwrap();
        assert_eq!(answer(&other, &pin, 0), "root-mismatch");
    }

    #[test]
    fn trust_sets_that_break_a_rule_are_not_signed() {
        let set = trust_set();
        let p256 = VerifyingKey::P256([4; 65]);
        let foreign = TrustDomain::new("else.local").unwrap();
        for (bad, why) in [
            (
                TrustSet {
                    relay: set.authority.clone(),
                    ..set.clone()
                },
                "authority is relay",
            ),
            (
                TrustSet {
                    trust_domain: foreign,
                    ..set.clone()
                },
                "authority elsewhere",
            ),
            (
                TrustSet {
                    issuers: vec![set.issuers[0].clone(); 9],
                    ..set.clone()
                },
                "nine issuers",
            ),
            (
                TrustSet {
                    issuers: vec![Issuer {
                        key: p256,
                        ..set.issuers[0].clone()
                    }],
                    ..set.clone()
                },
                "P-256 issuer",
            ),
        ] {
            assert!(
                matches!(bad.sign(&root()), Err(TrustSetError::Bound(_))),
                "{why}"
            );
        }
        assert!(matches!(
            set.sign(&stranger()),
            Err(TrustSetError::WrongKey)
        ));
    }

    #[test]
    fn damage_to_a_trust_set_is_noticed() {
        let set = trust_set();
        let bytes = set.sign(&root()).unwrap();
        let pin = RootHash::of(&set.root);
        testing::every_damage(&bytes, |damaged| {
            VerifiedTrustSet::verify(damaged, &pin, 0).is_err()
        });
    }

    #[test]
    fn a_good_credential_makes_a_peer() {
        let peer = check(&trust(), &device(), at(NOW)).unwrap();
        assert_eq!(peer.id(), &device().id);
        assert_eq!(peer.attributes(), &device().attributes);
        assert_eq!(peer.expires(), device().expires);
        assert_eq!(peer.form(), Form::Full);
    }

    #[test]
    fn why_a_credential_is_not_believed() {
        let of = |change: &dyn Fn(&mut CredentialClaims)| {
            let mut claims = device();
            change(&mut claims);
            check(&trust(), &claims, at(NOW)).err()
        };
        use CredentialError as E;
        assert_eq!(of(&|c| c.handshake_key = [0; 32]), Some(E::KeyNotProven));
        let else_where = TrustDomain::new("else.local").unwrap();
        assert_eq!(
            of(&|c| c.id.trust_domain = else_where.clone()),
            Some(E::ForeignDomain)
        );
        assert_eq!(
            of(&|c| c.not_before = NOW.plus(60)),
            None,
            "within the leeway"
        );
        assert_eq!(of(&|c| c.not_before = NOW.plus(61)), Some(E::NotYetValid));
        assert_eq!(of(&|c| c.expires = NOW.plus(1)), None, "one second left");
        assert_eq!(of(&|c| c.expires = NOW), Some(E::Expired));
        assert_eq!(
            of(&|c| c.issued_at = NOW.minus(1_000_000)),
            None,
            "issuer's first second"
        );
        assert_eq!(
            of(&|c| c.issued_at = NOW.minus(1_000_001)),
            Some(E::IssuerWindow)
        );
        let bytes = testing::issue(&device());
        let lean = trust().verify_credential(&bytes, Form::Lean, &KEY, at(NOW));
        assert_eq!(lean.err(), Some(E::Malformed), "full where lean is due");
    }

    #[test]
    fn only_listed_issuers_count() {
        let id = IssuerId::of(&stranger().verifying_key());
        let claims = CredentialClaims {
            issuer: id,
            ..device()
        };
        let bytes = credential::issue(&claims, Form::Full, &stranger()).unwrap();
        let refused = trust()
            .verify_credential(&bytes, Form::Full, &KEY, at(NOW))
            .err();
        assert_eq!(refused, Some(CredentialError::UnknownIssuer(id)));
        // Names a listed issuer, but somebody else has signed it.
        let payload = {
            let (_, envelope) = credential::read(&testing::issue(&device()), Form::Full).unwrap();
            envelope.payload().to_vec()
        };
        let forged = cose::seal(Kind::Credential(Form::Full), payload, &stranger()).unwrap();
        let refused = trust()
            .verify_credential(&forged, Form::Full, &KEY, at(NOW))
            .err();
        assert_eq!(refused, Some(CredentialError::Signature));
        // The root is no issuer.
        let id = IssuerId::of(&root().verifying_key());
        let claims = CredentialClaims {
            issuer: id,
            ..device()
        };
        let bytes = credential::issue(&claims, Form::Full, &root()).unwrap();
        let refused = trust()
            .verify_credential(&bytes, Form::Full, &KEY, at(NOW))
            .err();
        assert_eq!(refused, Some(CredentialError::UnknownIssuer(id)));
    }

    #[test]
    fn an_issuers_end_ends_its_credentials() {
        let mut set = trust_set();
        set.issuers[0].expires = NOW.plus(10);
        let trust = testing::verified(&set);
        let peer = check(&trust, &device(), at(NOW)).unwrap();
        assert_eq!(peer.expires(), NOW.plus(10));
        let late = check(&trust, &device(), at(NOW.plus(10)));
        assert_eq!(late.err(), Some(CredentialError::Expired));
    }

    #[test]
    fn the_floor_voids_what_is_older() {
        let floor = |floor| {
            let set = TrustSet {
                revocation_floor: floor,
                ..trust_set()
            };
            check(&testing::verified(&set), &device(), at(NOW)).err()
        };
        assert_eq!(floor(NOW), None);
        assert_eq!(floor(NOW.plus(1)), Some(CredentialError::BelowFloor));
    }

    #[test]
    fn without_a_clock_only_authority_and_relay_are_believed() {
        let floor = Clock::Floor(NOW);
        let set = trust_set();
        for (id, want) in [
            (device().id, Some(CredentialError::ClockNeeded)),
            (
                testing::account("factory", "fairway-relay"),
                Some(CredentialError::ClockNeeded),
            ),
            (set.authority.clone(), None),
            (set.relay.clone(), None),
        ] {
            let claims = CredentialClaims {
                id,
                attributes: BTreeMap::new(),
                ..device()
            };
            assert_eq!(check(&trust(), &claims, floor).err(), want);
            // The floor may lie far in the past, but never past the end.
            let past = Clock::Floor(UnixSeconds(0));
            assert_eq!(check(&trust(), &claims, past).err(), want);
            if want.is_none() {
                let over = Clock::Floor(claims.expires);
                assert_eq!(
                    check(&trust(), &claims, over).err(),
                    Some(CredentialError::Expired)
                );
            }
        }
    }

    #[test]
    fn who_answers_to_what() {
        let trust = trust();
        let peer = |claims: &CredentialClaims, form| {
            let bytes = credential::issue(claims, form, &issuer()).unwrap();
            trust
                .verify_credential(&bytes, form, &KEY, at(NOW))
                .unwrap()
        };
        let set = trust_set();
        let own = |id: &SpiffeId| CredentialClaims {
            id: id.clone(),
            ..testing::workload()
        };
        let device = peer(&device(), Form::Lean);
        let workload = peer(&testing::workload(), Form::Full);
        let lean = peer(&testing::workload(), Form::Lean);
        let authority = peer(&own(&set.authority), Form::Lean);
        let relay = peer(&own(&set.relay), Form::Lean);
        for (who, address, want) in [
            (&device, "pump-7.factory.device", true),
            (&device, "pump-8.factory.device", false),
            (&device, "pump-7.office.device", false),
            (&device, "pump-7.factory.svc", false),
            (&device, "authority", false),
            (&workload, "collector.factory.svc", true),
            (&workload, "mosquitto.factory.svc", true),
            (&workload, "other.factory.svc", false),
            (&workload, "collector.office.svc", false),
            (&workload, "collector.factory.device", false),
            (&workload, "collector-0.collector.factory.svc", true),
            (&workload, "collector-1.collector.factory.svc", false),
            (&workload, "collector-0.other.factory.svc", false),
            (&workload, "relay", false),
            (&lean, "collector.factory.svc", false),
            (&authority, "authority", true),
            (&authority, "relay", false),
            (&relay, "relay", true),
            (&relay, "authority", false),
        ] {
            let address: Address = format!("{address}.fairway.internal").parse().unwrap();
            assert_eq!(who.answers_to(&address, &trust), want, "{who:?} {address}");
        }
    }

    #[test]
    fn damage_to_a_credential_is_noticed() {
        let trust = trust();
        testing::every_damage(&testing::issue(&device()), |damaged| {
            trust
                .verify_credential(damaged, Form::Full, &KEY, at(NOW))
                .is_err()
        });
    }

    #[test]
    fn hashes_and_ids_in_text() {
        let hash = RootHash::of(&root().verifying_key());
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in [
            "",
            "zz",
            &hash.to_string()[1..],
            &hash.to_string().to_uppercase(),
        ] {
            assert_eq!(
                bad.parse::<RootHash>(),
                Err(KeyError::Hex { digits: 64 }),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let pin = RootHash::of(&root().verifying_key());
            prop_assert!(VerifiedTrustSet::verify(&bytes, &pin, 0).is_err());
            prop_assert!(TrustSet::from_cbor(&bytes).is_err());
        }
    }
}
