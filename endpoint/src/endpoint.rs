//! [`Endpoint`]: the handle that applications and portals hold.

use std::net::SocketAddr;
use std::sync::Arc;

use fairway_daemon::Acceptor;
use fairway_identity::{Address, SpiffeId};
use fairway_session::{Grant, Local, Now, OpenRequest, Refusal, Rules, code};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::{keep_credential, keep_watching};
use crate::config::CredentialSource;
use crate::conn::{Bond, Conn};
use crate::early::Early;
use crate::front::{Front, accept_links};
use crate::limits::CLOSE_TIMEOUT;
use crate::link::LinkState;
use crate::node::Node;
use crate::relays::keep_relays;
use crate::{AuthorityClient, EndpointConfig, OpenError, StartError, Status, Stream};

/// A running endpoint. Cheap to clone; all clones are one endpoint, which ends
/// with [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct Endpoint {
    node: Arc<Node>,
    listen_address: Option<SocketAddr>,
}

/// A stream that a peer opened and that policy allows.
///
/// The portal connects to the application first and then says
/// [`accept`](Self::accept) or [`refuse`](Self::refuse); dropping it refuses.
#[derive(Debug)]
pub struct Incoming {
    /// Who may do what, by which policy.
    pub grant: Grant,
    /// What the peer asked for.
    pub open: OpenRequest,
    /// The stream; nothing can be read or written before it is accepted.
    pub stream: Stream,
}

impl Incoming {
    /// Says yes; the opener has been waiting for it.
    ///
    /// # Errors
    ///
    /// The stream or its session has ended meanwhile, or the rules have changed.
    pub fn accept(&self) -> Result<(), Refusal> {
        self.stream.accept(&self.grant)
    }

    /// Says no, with a reason that the peer sees and logs.
    pub fn refuse(self, refusal: &Refusal) {
        self.stream.refuse(refusal);
    }
}

impl Endpoint {
    /// Starts links, credential renewal and the watch. Returns at once: use
    /// [`credentialed`](Self::credentialed) and [`registered`](Self::registered) to wait.
    ///
    /// # Errors
    ///
    /// The listening address is taken, or the system has no randomness.
    pub async fn start(config: EndpointConfig) -> Result<Self, StartError> {
        getrandom::fill(&mut [0; 32]).map_err(|_| StartError::Randomness)?;
        let listener = match &config.listen {
            Some(listen) => {
                let bound = TcpListener::bind(listen.address).await;
                let bound = bound.and_then(Acceptor::new);
                Some(bound.map_err(|source| StartError::Listen {
                    address: listen.address,
                    source,
                })?)
            }
            None => None,
        };
        let listen_address = listener.as_ref().and_then(|l| l.local_addr().ok());
        let front = config
            .listen
            .as_ref()
            .map(|listen| Front::new(listen.socket.clone()));
        let node = Node::new(config, front);
        if let Some(listener) = listener {
            node.spawn(accept_links(node.clone(), listener));
        }
        node.spawn(keep_relays(node.clone()));
        if !matches!(node.source, CredentialSource::Anonymous) {
            node.spawn(keep_credential(node.clone()));
            node.spawn(keep_watching(node.clone()));
        }
        Ok(Self {
            node,
            listen_address,
        })
    }

    /// Opens a stream to `to`: finds or makes the session, and waits (bounded)
    /// for credential, link, session and the peer's yes.
    ///
    /// # Errors
    ///
    /// Says who refused, or what was waited for in vain.
    pub async fn open(&self, to: &Address, request: OpenRequest) -> Result<Stream, OpenError> {
        self.node.open(to, request, None).await
    }

    /// As [`open`](Self::open) for a local connection: what it says before the
    /// peer's yes (at most [`EARLY_MAX`](crate::limits::EARLY_MAX) bytes) goes
    /// along with the question. The answer is the stream and how many bytes
    /// were taken.
    ///
    /// # Errors
    ///
    /// Says who refused, or what was waited for in vain.
    pub async fn open_from(
        &self,
        local: &mut TcpStream,
        to: &Address,
        request: OpenRequest,
    ) -> Result<(Stream, usize), OpenError> {
        let mut early = Early::new(local);
        let stream = self.node.open(to, request, Some(&mut early)).await?;
        Ok((stream, early.n_sent()))
    }

    /// The client of the authority.
    pub fn authority(&self) -> AuthorityClient {
        AuthorityClient {
            node: self.node.clone(),
        }
    }

    /// Resolves once there is a valid credential and a first set of rules.
    pub async fn credentialed(&self) {
        let mut identity = self.node.identity.subscribe();
        let mut told = self.node.told.subscribe();
        let _ = identity
            .wait_for(|identity| identity.is_credentialed())
            .await;
        let _ = told.wait_for(|told| *told).await;
    }

    /// Resolves once all names that are to be registered are so at every relay
    /// that is linked, and at one at least.
    pub async fn registered(&self) {
        let mut links = self.node.links.subscribe();
        loop {
            let linked = links.borrow_and_update().clone();
            for link in &linked {
                let mut state = link.watch();
                let names = self.node.offer.borrow().to_register();
                let settled = state.wait_for(|state| match state {
                    LinkState::Up { registered } => names.iter().all(|n| registered.contains(n)),
                    LinkState::Starting => false,
                    LinkState::Silent | LinkState::Draining | LinkState::Closed(_) => true,
                });
                let _ = settled.await;
            }
            if linked.iter().any(|link| link.is_up()) {
                return;
            }
            let _ = links.changed().await;
        }
    }

    /// Whether to offer names to relays. Off while the process drains:
    /// nothing new comes in, live sessions go on.
    pub fn set_registering(&self, on: bool) {
        self.node
            .offer
            .send_if_modified(|offer| std::mem::replace(&mut offer.on, on) != on);
    }

    /// Where direct links are accepted, when they are.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.listen_address
    }

    /// Who the credential says that we are.
    pub fn id(&self) -> Option<SpiffeId> {
        self.node.identity.borrow().id.clone()
    }

    /// What there is right now, for `/debug/state` and `status`.
    pub fn status(&self) -> Status {
        Status::of(&self.node)
    }

    /// Ends all sessions with `shutdown` and closes the links once that has
    /// been sent, within a second.
    pub async fn close(&self) {
        self.node.closing.cancel();
        let (links, sessions): (Vec<_>, Vec<_>) = self
            .node
            .live_conns()
            .into_iter()
            .partition(|conn| conn.bond == Bond::Link);
        // Sessions first: their last words go over the links.
        for conns in [sessions, links] {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT / 2, shut(&conns)).await;
        }
        self.node.tasks.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT / 2, self.node.tasks.wait()).await;
    }
}

/// What a relay needs of its own endpoint, for the sessions on its links.
impl Endpoint {
    /// Who this endpoint is at the moment, for a session made outside of it;
    /// anonymous while there is no credential.
    pub fn local(&self) -> Local {
        self.node.local().0
    }

    /// Resolves with the new one when the credential or the trust set changes.
    pub async fn local_changed(&self) -> Local {
        let mut identity = self.node.identity.subscribe();
        let _ = identity.changed().await;
        self.local()
    }

    /// The rules in force (revocations among them), and each change of them.
    pub fn watch_rules(&self) -> tokio::sync::watch::Receiver<Rules> {
        self.node.watch_rules()
    }

    /// The time as sessions are told.
    pub fn now(&self) -> Now {
        self.node.clock.now()
    }
}

async fn shut(conns: &[Arc<Conn>]) {
    for conn in conns {
        conn.close(Refusal::new(
            code::SHUTDOWN,
            "this endpoint is shutting down",
        ));
    }
    for conn in conns {
        conn.closed().await;
    }
}
