//! A snapshot of an endpoint for people and tools.

use serde::Serialize;

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
    pub update_version: Option<u64>,
    /// Whether the watch is connected.
    pub watching: bool,
    /// Links to relays and direct ones.
    pub links: Vec<LinkStatus>,
    /// Sessions with peers.
    pub sessions: Vec<SessionStatus>,
    /// Names this endpoint answers to.
    pub names: Vec<String>,
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
    /// `connecting`, `up`, `draining` or `backing-off`.
    pub state: String,
    /// Names that the relay has registered for this endpoint.
    pub registered: Vec<String>,
    /// Circuits in use.
    pub circuits: usize,
    /// What went wrong last.
    pub last_error: Option<String>,
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
