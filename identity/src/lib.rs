//! Who is who in Fairway: names, keys, credentials, the trust set, tickets,
//! proofs of possession, revocation and signed time.
//!
//! Everything here is a pure function of its arguments. The crate reads no
//! clock, opens no file, knows nothing of Kubernetes or tokio, and signs
//! through the [`Signer`] trait, so that a key may live in a TPM. Whatever
//! arrives from outside is bounded ([`limits`]) before it is decoded.
//!
//! Reading order: [`name`], [`address`], [`relay`], [`key`], [`credential`], [`trust`], [`peer`],
//! then [`ticket`], [`proof`], [`signed_time`], [`revocation`].
//!
//! A [`VerifiedPeer`] can be made in one place only,
//! [`VerifiedTrustSet::verify_credential`]; whoever holds one holds the proof
//! that the peer is who it says.

pub mod address;
pub mod credential;
pub mod key;
pub mod limits;
pub mod name;
pub mod peer;
pub mod proof;
pub mod relay;
pub mod revocation;
pub mod signed_time;
pub mod ticket;
pub mod time;
pub mod trust;

mod cbor;
mod cose;
#[cfg(test)]
mod testing;

pub use address::{Address, AddressError, Destination, HostPort};
pub use credential::{CredentialClaims, CredentialError, Form, IssueError, Serial, Uid, issue};
pub use key::{Ed25519Key, KeyError, SignError, Signer, VerifyingKey};
pub use name::{AccountName, Label, NameError, SpiffeId, Subject, TrustDomain};
pub use peer::{ExpiredPeer, Genuine, VerifiedPeer};
pub use relay::{RelayAddress, Transport};
pub use revocation::{Revocation, RevocationError, RevocationList};
pub use signed_time::{SignedTime, SignedTimeError};
pub use ticket::{Ticket, TicketError};
pub use time::{Clock, UnixSeconds};
pub use trust::{Issuer, IssuerId, RootHash, TrustSet, TrustSetError, VerifiedTrustSet};
