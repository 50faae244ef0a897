//! [`Endpoint`]: the handle that applications and portals hold.

use std::net::SocketAddr;

use fairway_identity::Address;
use fairway_session::{Grant, OpenRequest};

use crate::{AuthorityClient, EndpointConfig, OpenError, StartError, Status, Stream};

/// A running endpoint. Cheap to clone; all clones are one endpoint, which ends
/// with [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct Endpoint {}

/// A stream that a peer opened and that policy allows.
///
/// The portal connects to the application first and then says
/// [`Stream::accept`] or [`Stream::refuse`]; dropping it refuses.
#[derive(Debug)]
pub struct Incoming {
    /// Who may do what, by which policy.
    pub grant: Grant,
    /// What the peer asked for.
    pub open: OpenRequest,
    /// The stream.
    pub stream: Stream,
}

impl Endpoint {
    /// Starts links, credential renewal and the watch. Returns at once: use
    /// [`credentialed`](Self::credentialed) and [`registered`](Self::registered) to wait.
    ///
    /// # Errors
    ///
    /// The listening address is taken, or the system has no randomness.
    pub async fn start(config: EndpointConfig) -> Result<Self, StartError> {
        let _ = config;
        todo!()
    }

    /// Opens a stream to `to`: finds or makes the session, and waits (bounded)
    /// for credential, link, session and the peer's yes.
    ///
    /// # Errors
    ///
    /// Says who refused, or what was waited for in vain.
    pub async fn open(&self, to: &Address, request: OpenRequest) -> Result<Stream, OpenError> {
        let _ = (to, request);
        todo!()
    }

    /// The client of the authority.
    pub fn authority(&self) -> AuthorityClient {
        todo!()
    }

    /// Resolves once there is a valid credential and a first set of rules.
    pub async fn credentialed(&self) {
        todo!()
    }

    /// Resolves once all names are registered at every relay that is linked,
    /// and at one at least.
    pub async fn registered(&self) {
        todo!()
    }

    /// Whether to offer names to relays. Off while the process drains:
    /// nothing new comes in, live sessions go on.
    pub fn set_registering(&self, on: bool) {
        let _ = on;
        todo!()
    }

    /// Where direct links are accepted, when they are.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// What there is right now, for `/debug/state` and `status`.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Ends all sessions with `shutdown` and closes the links once that has
    /// been sent, within a second.
    pub async fn close(&self) {
        todo!()
    }
}
