//! What is known about the other end of a session.

use std::fmt;
use std::sync::Arc;

use fairway_identity::proof::TicketId;
use fairway_identity::{Address, ExpiredPeer, SpiffeId, Subject, VerifiedPeer};
use fairway_policy::Caller;

/// The other end of an established session, as proven. Cheap to clone.
///
/// Made only by a session that has admitted the peer.
#[derive(Clone)]
pub struct PeerInfo(Arc<Inner>);

struct Inner {
    standing: Standing,
    key: [u8; 32],
    handshake_hash: [u8; 32],
    instance: [u8; 16],
    dialled: Dialled,
}

/// One of the names of an endpoint, which its sessions share.
#[derive(Clone)]
pub(crate) struct Dialled {
    names: Arc<[Address]>,
    index: usize,
}

impl Dialled {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            names: Arc::new([address]),
            index: 0,
        }
    }

    /// `None`: it is not among them.
    pub(crate) fn among(names: &Arc<[Address]>, address: &Address) -> Option<Self> {
        let index = names.iter().position(|name| name == address)?;
        Some(Self {
            names: Arc::clone(names),
            index,
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.names[self.index]
    }
}

/// What the peer could show for itself.
#[derive(Clone, Debug)]
pub enum Standing {
    /// A valid credential.
    Verified(VerifiedPeer),
    /// A credential that is genuine and has expired: Control streams only.
    Expired(ExpiredPeer),
    /// None, but a ticket that nobody has used yet: Control streams only.
    TicketHolder(TicketId),
    /// None: Control streams only.
    Anonymous,
}

impl PeerInfo {
    pub(crate) fn new(
        standing: Standing,
        key: [u8; 32],
        handshake_hash: [u8; 32],
        instance: [u8; 16],
        dialled: Dialled,
    ) -> Self {
        Self(Arc::new(Inner {
            standing,
            key,
            handshake_hash,
            instance,
            dialled,
        }))
    }

    /// The same peer, with another key and perhaps another credential.
    pub(crate) fn renewed(&self, standing: Standing, key: [u8; 32]) -> Self {
        Self::new(
            standing,
            key,
            self.0.handshake_hash,
            self.0.instance,
            self.0.dialled.clone(),
        )
    }

    /// The same peer, judged again.
    pub(crate) fn with_standing(&self, standing: Standing) -> Self {
        self.renewed(standing, self.0.key)
    }

    /// What the peer could show for itself.
    pub fn standing(&self) -> &Standing {
        &self.0.standing
    }

    /// The peer, if its credential is valid; all others can have Control
    /// streams only.
    pub fn verified(&self) -> Option<&VerifiedPeer> {
        match &self.0.standing {
            Standing::Verified(peer) => Some(peer),
            Standing::Expired(_) | Standing::TicketHolder(_) | Standing::Anonymous => None,
        }
    }

    /// The peer's SPIFFE ID, if its credential is valid.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.verified().map(VerifiedPeer::id)
    }

    /// The X25519 key that the handshake proved.
    pub fn key(&self) -> &[u8; 32] {
        &self.0.key
    }

    /// The handshake's hash: equal at both ends, unique to this session.
    pub fn handshake_hash(&self) -> &[u8; 32] {
        &self.0.handshake_hash
    }

    /// Names the peer's process.
    pub fn instance(&self) -> &[u8; 16] {
        &self.0.instance
    }

    /// The name that the initiator dialled.
    pub fn dialled(&self) -> &Address {
        self.0.dialled.address()
    }

    /// The peer as policies see it.
    pub(crate) fn caller(&self) -> Option<Caller> {
        let peer = self.verified()?;
        Some(match &peer.id().subject {
            Subject::Device { namespace, name } => Caller::Device {
                namespace: namespace.as_str().to_owned(),
                name: name.as_str().to_owned(),
                attributes: peer.attributes().clone(),
            },
            Subject::Workload {
                namespace,
                service_account,
            } => Caller::Workload {
                namespace: namespace.as_str().to_owned(),
                service_account: service_account.as_str().to_owned(),
            },
        })
    }
}

impl fmt::Display for PeerInfo {
    /// The SPIFFE ID, with a remark if it has expired, or `ticket holder`, or `anonymous`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.standing {
            Standing::Verified(peer) => peer.id().fmt(f),
            Standing::Expired(peer) => write!(f, "{} (expired)", peer.id()),
            Standing::TicketHolder(_) => f.write_str("ticket holder"),
            Standing::Anonymous => f.write_str("anonymous"),
        }
    }
}

impl fmt::Debug for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerInfo({self} as {})", self.dialled())
    }
}
