//! Signed time: what a device without a clock asks the authority for first.
#![allow(clippy::todo)]

use crate::key::{SignError, Signer};
use crate::time::UnixSeconds;
use crate::trust::VerifiedTrustSet;

/// What the device sends with its question, fresh for each.
pub type Nonce = [u8; 16];

/// A time that an issuer signed over somebody's nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedTime {
    /// The nonce that was sent.
    pub nonce: Nonce,
    /// The time at the authority.
    pub now: UnixSeconds,
}

/// Why a signed time was not made or not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedTimeError {
    /// The key did not sign.
    #[error("the issuer's key did not sign")]
    Sign(#[source] SignError),
}

impl SignedTime {
    /// Signs `now` over `nonce` with an issuer's key.
    pub fn sign(
        _issuer: &dyn Signer,
        _nonce: &Nonce,
        _now: UnixSeconds,
    ) -> Result<Vec<u8>, SignedTimeError> {
        todo!()
    }

    /// Checks an answer to `nonce`; the result is the time when it was signed.
    pub fn verify(
        _bytes: &[u8],
        _nonce: &Nonce,
        _trust: &VerifiedTrustSet,
    ) -> Result<UnixSeconds, SignedTimeError> {
        todo!()
    }
}
