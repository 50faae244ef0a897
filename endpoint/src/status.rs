//! A snapshot of an endpoint for people and tools.

use serde::Serialize;

use crate::conn::{Bond, ConnState};
use crate::link::{LinkShared, LinkState};
use crate::node::{Node, lock};

/// What there is right now.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// The identity in use, as a SPIFFE ID.
    pub identity: Option<String>,
    /// The credential in use.
    pub credential: Option<CredentialStatus>,
    /// Why the last attempt to renew failed, until one succeeds.
    pub credential_error: Option<String>,
    /// Version of the trust set.
    pub trust_set_version: Option<u64>,
    /// Version of the newest update from the authority.
    pub update_version: Option<String>,
    /// Whether the watch is connected.
    pub watching: bool,
    /// Links to relays that are up.
    pub links: Vec<LinkStatus>,
    /// What went wrong last with a link to a relay.
    pub link_error: Option<String>,
    /// Sessions with peers.
    pub sessions: Vec<SessionStatus>,
    /// Names this endpoint answers to.
    pub names: Vec<String>,
    /// Services in a device's config that are not offered, because
    /// `spec.services` of its DeviceIdentity does not name them.
    pub services_not_allowed: Vec<String>,
    /// Policies in force.
    pub policies: usize,
}

/// A credential, without its bytes.
#[derive(Clone, Debug, Serialize)]
pub struct CredentialStatus {
    /// Unix seconds of renewal.
    pub renew_at: u64,
    /// Unix seconds of expiry.
    pub expires: u64,
}

/// One link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    /// Remote address, as configured.
    pub remote: String,
    /// `starting`, `up`, `silent`, `draining` or `closed`.
    pub state: String,
    /// Names that the relay has registered for this endpoint.
    pub registered: Vec<String>,
}

/// One session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionStatus {
    /// The name that was dialled.
    pub dialled: String,
    /// Who the peer proved to be.
    pub peer: Option<String>,
    /// Whether this side dialled.
    pub outgoing: bool,
    /// Open streams.
    pub streams: usize,
}

impl Status {
    pub(crate) fn of(node: &Node) -> Self {
        let identity = node.identity.borrow().clone();
        let notes = lock(&node.progress);
        Self {
            identity: identity.id.as_ref().map(ToString::to_string),
            credential: identity.credential.as_ref().map(|c| CredentialStatus {
                renew_at: c.renew_at.0,
                expires: c.expires.0,
            }),
            credential_error: notes.credential_error.clone(),
            trust_set_version: identity.trust.as_ref().map(|trust| trust.version()),
            update_version: notes.update_version.clone(),
            watching: notes.watching,
            links: node
                .links
                .borrow()
                .iter()
                .map(|link| LinkStatus::of(link))
                .collect(),
            link_error: notes.link_error.clone(),
            sessions: sessions(node),
            names: node
                .offer
                .borrow()
                .names
                .iter()
                .map(ToString::to_string)
                .collect(),
            services_not_allowed: notes.services_not_allowed.clone(),
            policies: node.rules().policy.policies.len(),
        }
    }
}

impl LinkStatus {
    fn of(link: &LinkShared) -> Self {
        let (state, registered) = match link.state() {
            LinkState::Starting => ("starting", Vec::new()),
            LinkState::Up { registered } => {
                ("up", registered.iter().map(ToString::to_string).collect())
            }
            LinkState::Silent => ("silent", Vec::new()),
            LinkState::Draining => ("draining", Vec::new()),
            LinkState::Closed(_) => ("closed", Vec::new()),
        };
        Self {
            remote: link.remote.clone(),
            state: state.to_owned(),
            registered,
        }
    }
}

/// Sessions with peers, without those of the links themselves.
fn sessions(node: &Node) -> Vec<SessionStatus> {
    let conns = node.live_conns();
    let peers = conns.iter().filter(|conn| conn.bond != Bond::Link);
    peers
        .filter_map(|conn| {
            let peer = match conn.state() {
                ConnState::Handshaking => None,
                ConnState::Ready(peer) => Some(peer),
                ConnState::Closed(_) => return None,
            };
            let dialled = peer.as_ref().map(|peer| peer.dialled().to_string());
            Some(SessionStatus {
                dialled: dialled.unwrap_or_else(|| "?".to_owned()),
                peer: peer.map(|peer| peer.to_string()),
                outgoing: conn.outgoing,
                streams: conn.n_streams(),
            })
        })
        .collect()
}
