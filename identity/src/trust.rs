//! The trust set: which keys may issue, signed by the root.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use ciborium::Value;
use data_encoding::HEXLOWER;

use crate::cbor::{self, CborError, Fields};
use crate::cose::{self, Kind, SealError};
use crate::key::{KeyError, SignError, Signer, VerifyingKey};
use crate::limits;
use crate::name::{SpiffeId, TrustDomain};
use crate::time::UnixSeconds;

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
        id.copy_from_slice(&key.fingerprint()[..8]);
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
        Self(root.fingerprint())
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

    /// The hash of the root that `bytes` name, believed without a check: only
    /// for who got them from a trusted place and has no pin yet, as the
    /// authority's front over its Unix socket. [`VerifiedTrustSet::verify`]
    /// with it then checks the rest.
    pub fn claimed_root(bytes: &[u8]) -> Result<RootHash, TrustSetError> {
        let envelope = cose::open(Kind::TrustSet, bytes).map_err(|_| TrustSetError::Malformed)?;
        let set = TrustSet::from_cbor(envelope.payload()).map_err(|_| TrustSetError::Malformed)?;
        Ok(RootHash::of(&set.root))
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
}

impl fmt::Debug for VerifiedTrustSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTrustSet")
            .field("set", &self.0.set)
            .finish_non_exhaustive()
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
    use crate::testing::{self, device, root, stranger, trust_set};

    #[test]
    fn trust_sets_round_trip() {
        let set = trust_set();
        let bytes = set.sign(&root()).unwrap();
        let verified = VerifiedTrustSet::verify(&bytes, &RootHash::of(&set.root), 7).unwrap();
        assert_eq!(verified.trust_set(), &set);
        assert_eq!(verified.bytes(), bytes);
        assert_eq!(
            VerifiedTrustSet::claimed_root(&bytes).unwrap(),
            RootHash::of(&set.root)
        );
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
