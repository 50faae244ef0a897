//! Proofs of possession for enrolment and renewal: signatures over what is
//! asked and over the handshake that it is asked in.
#![allow(clippy::todo)]

use crate::key::{SignError, Signer, VerifyingKey};
use crate::name::{Label, TrustDomain};

/// Who signs, and for what. Each has a context string of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Enrolment, signed by the ticket's key.
    EnrollTicket,
    /// Enrolment, signed by the device's new key.
    EnrollDevice,
    /// Renewal, signed by the device's key.
    RenewDevice,
}

/// What is signed. Both ends build it from what they know themselves.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// The trust domain asked to certify.
    pub trust_domain: &'a TrustDomain,
    /// Namespace of the device.
    pub namespace: &'a Label,
    /// Name of the device.
    pub device: &'a Label,
    /// The device's long-lived key.
    pub device_key: &'a VerifyingKey,
    /// Hash of the handshake in which this is sent.
    pub handshake_hash: &'a [u8; 32],
    /// The X25519 key to certify; the same that this handshake proved.
    pub handshake_key: &'a [u8; 32],
}

/// The signature is not that key's over that statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not belong to this key, device and connection")]
pub struct ProofError;

impl Statement<'_> {
    /// Signs the statement for `purpose`.
    pub fn sign(&self, _purpose: Purpose, _key: &dyn Signer) -> Result<Vec<u8>, SignError> {
        todo!()
    }

    /// Checks `signature` by `key`.
    pub fn verify(
        &self,
        _purpose: Purpose,
        _key: &VerifyingKey,
        _signature: &[u8],
    ) -> Result<(), ProofError> {
        todo!()
    }
}
