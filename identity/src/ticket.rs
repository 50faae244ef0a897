//! Enrolment tickets: one line of text that lets a device ask for its first
//! credential.
#![allow(clippy::todo)]

use std::fmt;
use std::str::FromStr;

use crate::address::HostPort;
use crate::key::{Ed25519Key, VerifyingKey};
use crate::name::{Label, TrustDomain};
use crate::trust::RootHash;

/// Why a ticket could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Checksum or alphabet wrong.
    #[error("the ticket is damaged: copy it again, the whole line")]
    Damaged,
}

/// A ticket, private half of its key included. Displaying it gives the secret
/// text away; `Debug` does not.
pub struct Ticket {
    relays: Vec<HostPort>,
    trust_domain: TrustDomain,
    root: RootHash,
    namespace: Label,
    device: Label,
    key: Ed25519Key,
}

impl Ticket {
    /// Makes a ticket; `seed` is fresh randomness.
    pub fn new(
        _relays: Vec<HostPort>,
        _trust_domain: TrustDomain,
        _root: RootHash,
        _namespace: Label,
        _device: Label,
        _seed: [u8; 32],
    ) -> Result<Self, TicketError> {
        todo!()
    }
    /// Where relays can be reached.
    pub fn relays(&self) -> &[HostPort] {
        &self.relays
    }
    /// The trust domain to join.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
    /// Hash of the root to trust.
    pub fn root(&self) -> &RootHash {
        &self.root
    }
    /// Namespace of the device.
    pub fn namespace(&self) -> &Label {
        &self.namespace
    }
    /// Name of the device.
    pub fn device(&self) -> &Label {
        &self.device
    }
    /// The one-time key that signs the enrolment.
    pub fn key(&self) -> &Ed25519Key {
        &self.key
    }
    /// Name of the EnrollmentTicket resource that belongs to this ticket.
    pub fn resource_name(&self) -> String {
        todo!()
    }
    /// The public half as the resource's `spec.publicKey` carries it.
    pub fn public_key_text(&self) -> String {
        todo!()
    }
}

/// Name of the EnrollmentTicket resource for `device` and a ticket's public
/// key: `DEVICE-` and ten characters of the key's hash.
pub fn resource_name(_device: &Label, _public_key: &VerifyingKey) -> String {
    todo!()
}

impl fmt::Display for Ticket {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;
    fn from_str(_text: &str) -> Result<Self, TicketError> {
        todo!()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("namespace", &self.namespace)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}
