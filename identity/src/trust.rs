//! The trust set: which keys may issue, signed by the root; and the one place
//! where a credential becomes a [`VerifiedPeer`].
#![allow(clippy::todo)]

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::address::Address;
use crate::credential::{CredentialClaims, CredentialError, Form, Serial, Uid};
use crate::key::{KeyError, SignError, Signer, VerifyingKey};
use crate::name::{Label, SpiffeId, TrustDomain};
use crate::time::{Clock, UnixSeconds};

/// SHA-256 of the root's COSE_Key: what tickets and injected pods pin.
/// In text: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootHash(pub [u8; 32]);

impl RootHash {
    /// The hash of `root`.
    pub fn of(_root: &VerifyingKey) -> Self {
        todo!()
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RootHash {
    type Err = KeyError;
    fn from_str(_text: &str) -> Result<Self, KeyError> {
        todo!()
    }
}

/// Names an issuer key: the first 8 bytes of the SHA-256 of its COSE_Key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerId([u8; 8]);

impl IssuerId {
    /// The id of `key`.
    pub fn of(_key: &VerifyingKey) -> Self {
        todo!()
    }
}

impl fmt::Display for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key that may issue credentials, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its key; its id is [`IssuerId::of`] it.
    pub key: VerifyingKey,
    /// What it signed before is void.
    pub not_before: UnixSeconds,
    /// What it signed from then on is void.
    pub expires: UnixSeconds,
}

/// What the root says about whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustSet {
    /// Rises with every change; an endpoint never goes back.
    pub version: u64,
    /// The domain it speaks for.
    pub trust_domain: TrustDomain,
    /// The root's own key.
    pub root: VerifyingKey,
    /// Keys that may issue: at most [`crate::limits::ISSUERS`].
    pub issuers: Vec<Issuer>,
    /// Who is the authority.
    pub authority: SpiffeId,
    /// Who are the relays.
    pub relay: SpiffeId,
    /// Credentials issued before this are void.
    pub revocation_floor: UnixSeconds,
}

/// Why a trust set was not made or not believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustSetError {
    /// The key did not sign.
    #[error("the root's key did not sign")]
    Sign(#[source] SignError),
}

impl TrustSetError {
    /// The machine-readable word for it, such as `root-mismatch`.
    pub fn reason(&self) -> &'static str {
        todo!()
    }
}

impl TrustSet {
    /// Signs the trust set with the root's key.
    pub fn sign(&self, _root: &dyn Signer) -> Result<Vec<u8>, TrustSetError> {
        todo!()
    }
}

/// A trust set whose signature was checked against a pinned root. Cheap to clone.
#[derive(Clone)]
pub struct VerifiedTrustSet(Arc<Inner>);

struct Inner {
    set: TrustSet,
    bytes: Vec<u8>,
}

impl fmt::Debug for VerifiedTrustSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTrustSet")
            .field("version", &self.0.set.version)
            .finish_non_exhaustive()
    }
}

impl VerifiedTrustSet {
    /// Checks `bytes` against the pinned root; refuses a version below `floor_version`.
    pub fn verify(
        _bytes: &[u8],
        _pin: &RootHash,
        _floor_version: u64,
    ) -> Result<Self, TrustSetError> {
        todo!()
    }

    /// The signed bytes, to be passed on.
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

    /// Checks a credential and that the handshake proved its key
    /// (`proven_key`): the one maker of a [`VerifiedPeer`].
    ///
    /// With [`Clock::Floor`] only "not expired at the floor" is checked, and
    /// only the authority and relays pass.
    pub fn verify_credential(
        &self,
        _bytes: &[u8],
        _form: Form,
        _proven_key: &[u8; 32],
        _clock: Clock,
    ) -> Result<VerifiedPeer, CredentialError> {
        todo!()
    }
}

/// A peer whose credential was checked and whose key the handshake proved.
/// Cheap to clone.
#[derive(Clone)]
pub struct VerifiedPeer {
    claims: Arc<CredentialClaims>,
    form: Form,
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
    /// Signed attributes; empty in the lean form.
    pub fn attributes(&self) -> &BTreeMap<String, String> {
        &self.claims.attributes
    }
    /// Services that the pod backs; empty in the lean form.
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
    /// When the credential ends.
    pub fn expires(&self) -> UnixSeconds {
        self.claims.expires
    }
    /// The proven handshake key.
    pub fn handshake_key(&self) -> &[u8; 32] {
        &self.claims.handshake_key
    }
    /// In which form the credential came.
    pub fn form(&self) -> Form {
        self.form
    }
    /// Whether this peer is whom `address` names. A Service or pod is never
    /// answered by a lean credential.
    pub fn answers_to(&self, _address: &Address, _trust: &VerifiedTrustSet) -> bool {
        todo!()
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
