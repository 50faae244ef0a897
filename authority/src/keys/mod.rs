//! The signing keys: the root, which signs trust sets and is needed rarely,
//! and the issuers, which sign credentials.
//!
//! - [`KeyRing`]: what a replica signs with, in memory.
//! - [`bundle`]: the content of the issuers' Secret and when it has to change;
//!   pure.
//! - [`store`]: the Secrets themselves, made create-only and changed by
//!   compare-and-swap, and the ConfigMap that tells the hash of the root.

pub mod bundle;
pub mod store;

use fairway_identity::{Ed25519Key, IssuerId, RootHash, Signer, UnixSeconds, VerifiedTrustSet};

pub use bundle::{Bundle, BundleError};
pub use store::{KeyError, KeyStore};

/// Everything that a replica signs with, and the trust set that vouches for
/// it. The root's key is not in here.
#[derive(Debug)]
pub struct KeyRing {
    root: RootHash,
    trust: VerifiedTrustSet,
    issuers: Vec<RingIssuer>,
}

#[derive(Debug)]
struct RingIssuer {
    id: IssuerId,
    key: Ed25519Key,
    not_before: UnixSeconds,
    expires: UnixSeconds,
}

impl KeyRing {
    /// Joins a bundle with the root that it must be signed by.
    ///
    /// # Errors
    /// The trust set is not signed by that root, or does not list an issuer
    /// whose key is in the bundle.
    pub fn open(bundle: &Bundle, root: RootHash) -> Result<Self, BundleError> {
        let trust =
            VerifiedTrustSet::verify(&bundle.trust_set, &root, 0).map_err(BundleError::TrustSet)?;
        let mut issuers = Vec::new();
        for secret in &bundle.issuers {
            let key = Ed25519Key::from_seed(*secret.seed);
            let public = key.verifying_key();
            let listed = trust
                .trust_set()
                .issuers
                .iter()
                .find(|issuer| issuer.key == public);
            let listed = listed.ok_or(BundleError::UnlistedIssuer)?;
            issuers.push(RingIssuer {
                id: IssuerId::of(&public),
                key,
                not_before: listed.not_before,
                expires: listed.expires,
            });
        }
        Ok(Self {
            root,
            trust,
            issuers,
        })
    }

    /// Hash of the root.
    pub fn root(&self) -> RootHash {
        self.root
    }

    /// The newest trust set.
    pub fn trust(&self) -> &VerifiedTrustSet {
        &self.trust
    }

    /// The issuer to sign with: of those whose time it is, the one that lasts
    /// longest.
    pub fn issuer(&self, now: UnixSeconds) -> Option<CurrentIssuer<'_>> {
        self.issuers
            .iter()
            .filter(|issuer| issuer.not_before <= now && now < issuer.expires)
            .max_by_key(|issuer| issuer.expires)
            .map(|issuer| CurrentIssuer {
                id: issuer.id,
                key: &issuer.key,
                not_before: issuer.not_before,
                expires: issuer.expires,
            })
    }
}

/// An issuer that may sign now.
#[derive(Debug)]
pub struct CurrentIssuer<'a> {
    /// Its id.
    pub id: IssuerId,
    /// Its key.
    pub key: &'a Ed25519Key,
    /// What it signed before is void.
    pub not_before: UnixSeconds,
    /// What it signed from then on is void.
    pub expires: UnixSeconds,
}
