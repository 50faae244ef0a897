//! The content of the issuers' Secret: seeds, windows, and the trust set that
//! the root has signed for them, changed together or not at all.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_identity::{Ed25519Key, Issuer, Signer, TrustSet, TrustSetError, UnixSeconds};
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::names::Install;

/// How long an issuer may sign and be believed: 90 days.
pub const ISSUER_SECONDS: u64 = 90 * 86_400;

/// An issuer with less left than this gets a successor. More than the longest
/// credential (31 days), so that no credential outlives its issuer; and half
/// of the issuer's time, so that an operator has weeks to notice.
pub const SUCCESSOR_SECONDS: u64 = 45 * 86_400;

/// Key in the Secret: the issuers.
const ISSUERS: &str = "issuers.json";
/// Key in the Secret: the signed trust set.
const TRUST_SET: &str = "trust-set";

/// Issuers and the trust set that vouches for them.
#[derive(Clone)]
pub struct Bundle {
    /// Issuers whose keys are still useful.
    pub issuers: Vec<IssuerSecret>,
    /// The signed trust set.
    pub trust_set: Vec<u8>,
}

/// One issuer with its secret.
#[derive(Clone)]
pub struct IssuerSecret {
    /// Seed of its Ed25519 key.
    pub seed: Zeroizing<[u8; 32]>,
    /// What it signed before is void.
    pub not_before: UnixSeconds,
    /// What it signed from then on is void.
    pub expires: UnixSeconds,
}

/// What a trust set should say besides its issuers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Who is who.
    pub install: &'a Install,
    /// Credentials issued before this are void; never goes back.
    pub floor: UnixSeconds,
}

/// Why the Secret's content cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A key of the Secret is missing.
    #[error(
        "the Secret has no key {0}; restore it from a backup, or delete it to have issuers made anew"
    )]
    Missing(&'static str),
    /// It cannot be read.
    #[error(
        "the issuers in the Secret cannot be read; restore it from a backup, or delete it to have issuers made anew"
    )]
    Malformed,
    /// The trust set does not belong to the root.
    #[error(
        "the trust set in the Secret is not the root's; restore both Secrets from the same backup"
    )]
    TrustSet(#[source] TrustSetError),
    /// The trust set does not know an issuer.
    #[error("the trust set in the Secret does not list one of its issuers")]
    UnlistedIssuer,
    /// The trust set could not be signed.
    #[error("the trust set could not be signed")]
    Sign(#[source] TrustSetError),
}

impl Bundle {
    /// The first bundle: one issuer.
    ///
    /// # Errors
    /// The root does not sign.
    pub fn first(
        root: &Ed25519Key,
        wanted: &Wanted<'_>,
        seed: Zeroizing<[u8; 32]>,
        now: UnixSeconds,
    ) -> Result<Self, BundleError> {
        // By the clock, so that a bundle made anew after the Secret was lost
        // is newer than the lost one.
        Self::sign(root, wanted, vec![issuer(seed, now)], now.0)
    }

    /// Whether the bundle has to change: an issuer needs a successor or has
    /// ended, or the trust set should say something else.
    pub fn is_due(&self, current: &TrustSet, wanted: &Wanted<'_>, now: UnixSeconds) -> bool {
        self.needs_successor(now)
            || self.issuers.iter().any(|issuer| issuer.expires <= now)
            || current.authority != wanted.install.authority()
            || current.relay != wanted.install.relay()
            || current.revocation_floor < wanted.floor
    }

    /// The bundle that follows on this one.
    ///
    /// # Errors
    /// The root does not sign.
    pub fn next(
        &self,
        root: &Ed25519Key,
        current: &TrustSet,
        wanted: &Wanted<'_>,
        seed: Zeroizing<[u8; 32]>,
        now: UnixSeconds,
    ) -> Result<Self, BundleError> {
        let mut issuers: Vec<IssuerSecret> = self
            .issuers
            .iter()
            .filter(|issuer| issuer.expires > now)
            .cloned()
            .collect();
        if self.needs_successor(now) {
            issuers.push(issuer(seed, now));
        }
        let floor = wanted.floor.max(current.revocation_floor);
        let wanted = Wanted {
            install: wanted.install,
            floor,
        };
        Self::sign(root, &wanted, issuers, now.0.max(current.version + 1))
    }

    /// Reads the Secret's data.
    ///
    /// # Errors
    /// Something is missing or malformed.
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, BundleError> {
        let issuers = data.get(ISSUERS).ok_or(BundleError::Missing(ISSUERS))?;
        let trust_set = data.get(TRUST_SET).ok_or(BundleError::Missing(TRUST_SET))?;
        let stored: Vec<StoredIssuer> =
            serde_json::from_slice(&issuers.0).map_err(|_| BundleError::Malformed)?;
        let issuers: Result<Vec<_>, _> = stored.into_iter().map(StoredIssuer::open).collect();
        let issuers = issuers?;
        if issuers.is_empty() {
            return Err(BundleError::Malformed);
        }
        Ok(Self {
            issuers,
            trust_set: trust_set.0.clone(),
        })
    }

    /// The Secret's data.
    pub fn to_data(&self) -> BTreeMap<String, ByteString> {
        let stored: Vec<StoredIssuer> = self.issuers.iter().map(StoredIssuer::close).collect();
        let issuers = serde_json::to_vec(&stored).expect("plain texts and numbers are JSON");
        BTreeMap::from([
            (ISSUERS.to_owned(), ByteString(issuers)),
            (TRUST_SET.to_owned(), ByteString(self.trust_set.clone())),
        ])
    }

    fn needs_successor(&self, now: UnixSeconds) -> bool {
        let last = self.issuers.iter().map(|issuer| issuer.expires).max();
        last.is_none_or(|last| last.since(now) < SUCCESSOR_SECONDS)
    }

    fn sign(
        root: &Ed25519Key,
        wanted: &Wanted<'_>,
        issuers: Vec<IssuerSecret>,
        version: u64,
    ) -> Result<Self, BundleError> {
        let listed = |issuer: &IssuerSecret| Issuer {
            key: Ed25519Key::from_seed(*issuer.seed).verifying_key(),
            not_before: issuer.not_before,
            expires: issuer.expires,
        };
        let set = TrustSet {
            version,
            trust_domain: wanted.install.trust_domain.clone(),
            root: root.verifying_key(),
            issuers: issuers.iter().map(listed).collect(),
            authority: wanted.install.authority(),
            relay: wanted.install.relay(),
            revocation_floor: wanted.floor,
        };
        let trust_set = set.sign(root).map_err(BundleError::Sign)?;
        Ok(Self { issuers, trust_set })
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({} issuers, seeds redacted)", self.issuers.len())
    }
}

/// An issuer as the Secret holds it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredIssuer {
    seed: String,
    not_before: u64,
    expires: u64,
}

impl StoredIssuer {
    fn open(mut self) -> Result<IssuerSecret, BundleError> {
        let decoded = STANDARD.decode(&self.seed).map(Zeroizing::new);
        self.seed.zeroize();
        let decoded = decoded.map_err(|_| BundleError::Malformed)?;
        let seed = <[u8; 32]>::try_from(decoded.as_slice()).map_err(|_| BundleError::Malformed)?;
        Ok(IssuerSecret {
            seed: Zeroizing::new(seed),
            not_before: UnixSeconds(self.not_before),
            expires: UnixSeconds(self.expires),
        })
    }

    fn close(issuer: &IssuerSecret) -> Self {
        Self {
            seed: STANDARD.encode(*issuer.seed),
            not_before: issuer.not_before.0,
            expires: issuer.expires.0,
        }
    }
}

impl Drop for StoredIssuer {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

fn issuer(seed: Zeroizing<[u8; 32]>, now: UnixSeconds) -> IssuerSecret {
    IssuerSecret {
        seed,
        not_before: now,
        expires: now.plus(ISSUER_SECONDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyRing;
    use fairway_identity::RootHash;

    const DAY: u64 = 86_400;
    const START: UnixSeconds = UnixSeconds(1_795_000_000);

    fn root() -> Ed25519Key {
        Ed25519Key::from_seed([7; 32])
    }

    fn install() -> Install {
        Install::new("fairway.local", "fairway-system").unwrap()
    }

    fn first(install: &Install) -> (Bundle, Wanted<'_>) {
        let wanted = Wanted {
            install,
            floor: UnixSeconds(0),
        };
        let bundle = Bundle::first(&root(), &wanted, Zeroizing::new([1; 32]), START).unwrap();
        (bundle, wanted)
    }

    fn open(bundle: &Bundle) -> KeyRing {
        KeyRing::open(bundle, RootHash::of(&root().verifying_key())).unwrap()
    }

    #[test]
    fn the_secret_round_trips() {
        let install = install();
        let (bundle, _) = first(&install);
        let read = Bundle::from_data(&bundle.to_data()).unwrap();
        assert_eq!(read.trust_set, bundle.trust_set);
        assert_eq!(read.issuers.len(), 1);
        assert_eq!(*read.issuers[0].seed, [1; 32]);
        assert_eq!(
            open(&read).issuer(START).unwrap().expires,
            START.plus(90 * DAY)
        );
    }

    #[test]
    fn a_damaged_secret_is_refused() {
        let install = install();
        let data = first(&install).0.to_data();
        for key in ["issuers.json", "trust-set"] {
            let mut data = data.clone();
            data.remove(key);
            assert!(
                matches!(Bundle::from_data(&data), Err(BundleError::Missing(_))),
                "{key}"
            );
        }
        for text in [
            "",
            "[]",
            "{}",
            r#"[{"seed":"AAAA","notBefore":1,"expires":2}]"#,
        ] {
            let mut data = data.clone();
            data.insert(ISSUERS.to_owned(), ByteString(text.into()));
            assert!(
                matches!(Bundle::from_data(&data), Err(BundleError::Malformed)),
                "{text}"
            );
        }
    }

    #[test]
    fn another_roots_trust_set_is_refused() {
        let install = install();
        let (bundle, _) = first(&install);
        let other = RootHash::of(&Ed25519Key::from_seed([8; 32]).verifying_key());
        assert!(matches!(
            KeyRing::open(&bundle, other),
            Err(BundleError::TrustSet(_))
        ));
    }

    #[test]
    fn a_successor_comes_before_the_issuer_ends_and_both_are_listed() {
        let install = install();
        let (bundle, wanted) = first(&install);
        let trust = open(&bundle).trust().trust_set().clone();
        let early = START.plus(44 * DAY);
        assert!(!bundle.is_due(&trust, &wanted, early));

        let late = START.plus(46 * DAY);
        assert!(bundle.is_due(&trust, &wanted, late));
        let next = bundle
            .next(&root(), &trust, &wanted, Zeroizing::new([2; 32]), late)
            .unwrap();
        let ring = open(&next);
        assert_eq!(ring.trust().trust_set().issuers.len(), 2);
        assert!(ring.trust().version() > trust.version);
        assert_eq!(ring.issuer(late).unwrap().expires, late.plus(90 * DAY));
        assert!(!next.is_due(ring.trust().trust_set(), &wanted, late));
    }

    #[test]
    fn an_ended_issuer_is_dropped_and_never_signs() {
        let install = install();
        let (bundle, wanted) = first(&install);
        let ring = open(&bundle);
        let after = START.plus(91 * DAY);
        assert!(ring.issuer(after).is_none());
        let trust = ring.trust().trust_set().clone();
        let next = bundle
            .next(&root(), &trust, &wanted, Zeroizing::new([2; 32]), after)
            .unwrap();
        assert_eq!(next.issuers.len(), 1);
        assert_eq!(*next.issuers[0].seed, [2; 32]);
    }

    #[test]
    fn the_floor_rises_and_never_falls() {
        let install = install();
        let (bundle, wanted) = first(&install);
        let trust = open(&bundle).trust().trust_set().clone();
        let higher = Wanted {
            install: &install,
            floor: START,
        };
        assert!(bundle.is_due(&trust, &higher, START));
        let next = bundle
            .next(&root(), &trust, &higher, Zeroizing::new([2; 32]), START)
            .unwrap();
        let raised = open(&next).trust().trust_set().clone();
        assert_eq!(raised.revocation_floor, START);
        assert_eq!(
            raised.issuers.len(),
            1,
            "raising the floor needs no new issuer"
        );
        let again = next
            .next(&root(), &raised, &wanted, Zeroizing::new([3; 32]), START)
            .unwrap();
        assert_eq!(open(&again).trust().trust_set().revocation_floor, START);
    }

    #[test]
    fn other_identities_of_the_install_are_signed_anew() {
        let install = install();
        let (bundle, _) = first(&install);
        let trust = open(&bundle).trust().trust_set().clone();
        let mut moved = install.clone();
        moved.relay_account = fairway_identity::AccountName::new("other").unwrap();
        let wanted = Wanted {
            install: &moved,
            floor: UnixSeconds(0),
        };
        assert!(bundle.is_due(&trust, &wanted, START));
    }

    #[test]
    fn debug_hides_seeds() {
        let install = install();
        assert_eq!(
            format!("{:?}", first(&install).0),
            "Bundle(1 issuers, seeds redacted)"
        );
    }
}
