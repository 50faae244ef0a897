//! The client of the authority.

use fairway_identity::{Ed25519Key, Ticket, UnixSeconds, VerifiedTrustSet};

use crate::{AuthorityError, SavedCredential};

/// Asks the authority. Cheap to clone.
///
/// Each issuance runs in an anonymous session of its own whose static key is
/// the key to certify, so the handshake proves its possession.
#[derive(Clone, Debug)]
pub struct AuthorityClient {}

/// What the authority issued, verified.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The credential and its private key.
    pub credential: SavedCredential,
    /// The trust set that verifies it.
    pub trust: VerifiedTrustSet,
}

impl AuthorityClient {
    /// Signed time over a fresh nonce. The node's clock is set by it.
    ///
    /// # Errors
    ///
    /// The authority cannot be reached or its answer does not verify.
    pub async fn time(&self) -> Result<UnixSeconds, AuthorityError> {
        todo!()
    }

    /// Enrols a device: uses up the ticket and binds it to `key`. Asking again
    /// with the same key is the same enrolment.
    ///
    /// # Errors
    ///
    /// The reasons of the authority's refusals are `ticket-unknown`,
    /// `ticket-used`, `ticket-expired` and the like.
    pub async fn enroll(&self, ticket: &Ticket, key: &Ed25519Key) -> Result<Issued, AuthorityError> {
        let _ = (ticket, key);
        todo!()
    }
}
