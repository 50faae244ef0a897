//! Who is at the other end of a link.

use std::fmt;

use fairway_control::reason;
use fairway_identity::{
    Address, RevocationList, SpiffeId, Subject, Uid, UnixSeconds, VerifiedPeer, VerifiedTrustSet,
};

use super::budget::Class;

/// Who is at the other end of a link, as its session found.
#[derive(Clone, Debug)]
pub enum Who {
    /// Its credential is valid.
    Verified(VerifiedPeer),
    /// Its credential is genuine, and has expired.
    Expired {
        /// Whose it is.
        id: SpiffeId,
        /// UID of the object behind it.
        uid: Uid,
        /// When it was issued.
        issued_at: UnixSeconds,
    },
    /// It showed none, but a ticket that has not expired.
    TicketHolder,
    /// It showed nothing.
    Anonymous,
}

impl Who {
    /// The budget that it draws on.
    pub fn class(&self) -> Class {
        match self {
            Self::Verified(peer) => match &peer.id().subject {
                Subject::Device { .. } => Class::Device,
                Subject::Workload { .. } => Class::Workload,
            },
            Self::Expired { .. } => Class::Expired,
            Self::TicketHolder => Class::Ticket,
            Self::Anonymous => Class::Anonymous,
        }
    }

    /// Whether circuits for `name` may be sent to it.
    pub(super) fn may_register(&self, name: &Address, trust: Option<&VerifiedTrustSet>) -> bool {
        match (self, trust) {
            // Relays are reached by address, never by name.
            (Self::Verified(peer), Some(trust)) => {
                *name != Address::Relay && peer.answers_to(name, trust)
            }
            (Self::Verified(_), None)
            | (Self::Expired { .. } | Self::TicketHolder | Self::Anonymous, _) => false,
        }
    }

    /// Whether it may open a circuit to `destination`; if not, the word of the
    /// refusal.
    ///
    /// The relay lets nobody call their own kind: device to device and workload
    /// to workload are out of Fairway's scope, so nobody would answer.
    pub(super) fn may_open(&self, destination: &Address) -> Result<(), &'static str> {
        let allowed = match destination {
            Address::Authority => true,
            Address::Relay => false,
            Address::Device { .. } => self.class() == Class::Workload,
            Address::Service { .. } | Address::Pod { .. } => self.class() == Class::Device,
        };
        match (allowed, self) {
            (true, _) => Ok(()),
            (false, Self::Verified(_)) => Err(reason::FORBIDDEN),
            (false, Self::Expired { .. } | Self::TicketHolder | Self::Anonymous) => {
                Err(reason::AUTHORITY_ONLY)
            }
        }
    }

    /// Names the object behind it; `None` for nobody in particular.
    pub(super) fn uid(&self) -> Option<&Uid> {
        match self {
            Self::Verified(peer) => Some(peer.uid()),
            Self::Expired { uid, .. } => Some(uid),
            Self::TicketHolder | Self::Anonymous => None,
        }
    }

    pub(super) fn is_revoked(&self, revoked: &RevocationList) -> bool {
        match self {
            Self::Verified(peer) => revoked.revokes(peer.uid(), peer.issued_at()),
            Self::Expired { uid, issued_at, .. } => revoked.revokes(uid, *issued_at),
            Self::TicketHolder | Self::Anonymous => false,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified(peer) => write!(f, "{}", peer.id()),
            Self::Expired { id, .. } => write!(f, "{id} (expired)"),
            Self::TicketHolder => f.write_str("ticket holder"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}
