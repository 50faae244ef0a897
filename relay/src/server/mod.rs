//! The relay on tokio: sockets, timers, logs, metrics.
//!
//! One task, the `driver`, reads each link. What it reads for circuits it
//! writes to the other link's socket itself, in whole frames, with the circuit
//! ids rewritten in place: no copy, no task switch, one write for many frames.
//! What a socket does not take waits in that link's `outbound` queue, is
//! counted by the core, and stalls nobody else.
//!
//! Reading order: [`Server`], `driver`, `link`, `shared`, `control` (the
//! session on circuit 0), `outbound`, `access` and `metrics`.

mod access;
mod control;
mod driver;
mod identity;
mod link;
mod metrics;
mod outbound;
mod shared;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_control::{Reason, reason};
use fairway_daemon::Drain;
use fairway_identity::VerifiedTrustSet;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;

pub use self::identity::{Identity, IdentitySource};
pub use self::metrics::Metrics;

use self::control::Control;
use self::driver::Driver;
use self::link::Link;
use self::shared::Shared;
use crate::core::{Class, Settings};
use crate::limits;

/// How a server is set up.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Where links are accepted.
    pub listen: SocketAddr,
    /// Budgets and memory.
    pub settings: Settings,
    /// Connections at once, authenticated or not; further ones are closed at once.
    pub connections_max: usize,
    /// Links that may be in their handshake at once.
    pub half_open_max: usize,
    /// Over how long a drain tells links to move.
    pub drain_span: Duration,
}

/// The server did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; is another process using it?")]
pub struct ListenError {
    /// The address in question.
    pub address: SocketAddr,
    /// What the operating system said.
    pub source: io::Error,
}

/// Accepts links and switches circuits.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// Looks into a running server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inspector {
    shared: Arc<Shared>,
}

impl ServerConfig {
    /// The defaults, listening on `listen`.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            settings: Settings::default(),
            connections_max: limits::CONNECTIONS_MAX,
            half_open_max: limits::HALF_OPEN_LINKS_MAX,
            drain_span: limits::DRAIN_SPAN,
        }
    }
}

impl Server {
    /// Listens; links are accepted by [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// The address is taken, or not this machine's.
    pub async fn bind(
        config: ServerConfig,
        identity: IdentitySource,
        metrics: Metrics,
    ) -> Result<Self, ListenError> {
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ListenError { address, source })?;
        let shared = Arc::new(Shared::new(config.settings, identity, metrics));
        Ok(Self {
            config,
            listener,
            shared,
        })
    }

    /// Where links are accepted.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// For `/debug/state` and tests.
    pub fn inspector(&self) -> Inspector {
        let shared = self.shared.clone();
        Inspector { shared }
    }

    /// Serves until `drain` begins, tells the links to move, and returns when
    /// all of them have ended or `drain` is stopped. Links hold guards of
    /// `drain`.
    pub async fn run(self, drain: Drain) {
        let maintenance = tokio::spawn(maintain(self.shared.clone()));
        let accepting = self.accept_links(&drain);
        tokio::select! {
            () = accepting => {}
            () = drain.started() => {}
        }
        let now = self.shared.identity.now().mono;
        let span = self.config.drain_span;
        tracing::info!(
            event = "drain",
            links = drain.guards(),
            "telling links to move"
        );
        self.shared.with_core(|core| core.begin_drain(now, span));
        tokio::select! {
            // Late ones are accepted to be told, too: the cluster may still
            // send some here.
            () = self.accept_links(&drain) => {}
            () = all_gone(&drain) => {}
            () = drain.stopped() => {}
        }
        let why = Reason::new(reason::DRAINING, "this relay has ended");
        for link in self.shared.links() {
            let outputs = self.shared.close(&link, &why);
            self.shared.act(outputs);
        }
        // A guard stays while its link takes the reason.
        let _ = tokio::time::timeout(limits::CLOSE_LINGER, all_gone(&drain)).await;
        maintenance.abort();
    }

    async fn accept_links(&self, drain: &Drain) {
        for seq in self.shared.numbers() {
            match self.listener.accept().await {
                Ok((socket, remote)) => self.begin(seq, socket, remote, drain),
                Err(error) => {
                    // Most likely out of files; waiting may free some.
                    tracing::warn!(event = "accept", %error, "cannot accept links");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn begin(&self, seq: u64, socket: TcpStream, remote: SocketAddr, drain: &Drain) {
        self.shared.metrics.links_accepted.inc();
        if drain.guards() >= self.config.connections_max {
            tracing::debug!(event = "link-failed", %remote, reason = reason::OVERLOADED);
            return;
        }
        // Batches are whole; waiting for more would only delay them.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(event = "link-failed", %remote, %error);
            return;
        }
        let mut seed = [0; 32];
        let now = self.shared.identity.now();
        let control = getrandom::fill(&mut seed)
            .map_err(|error| error.to_string())
            .and_then(|()| {
                let identity = self.shared.identity.current();
                Control::answer(&identity, seed, now).map_err(|error| error.to_string())
            });
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                tracing::warn!(event = "link-failed", %remote, error, "cannot answer a link");
                return;
            }
        };
        let (read, write) = socket.into_split();
        let link = Arc::new(Link::new(seq, remote, write, control));
        self.shared.begin(&link, self.config.half_open_max);
        let driver = Box::new(Driver::new(self.shared.clone(), link, read));
        tokio::spawn(driver.run(drain.guard()));
    }
}

impl Inspector {
    /// What there is right now, for `/debug/state`.
    pub fn state(&self) -> serde_json::Value {
        self.shared.describe()
    }

    /// Links of a class that are up.
    pub fn n_links(&self, class: Class) -> usize {
        self.shared.with_core(|core| core.usage_of(class).0)
    }

    /// Brings the gauges up to date; they also are once a second.
    pub fn measure(&self) {
        self.shared.measure();
    }
}

/// Follows the identity, the core's timers and the gauges.
async fn maintain(shared: Arc<Shared>) {
    let mut identity = shared.identity.identity.clone();
    identity.mark_changed();
    let mut tick = tokio::time::interval(limits::TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_identity_known = true;
    let mut trust_version = None;
    for n_ticks in 0_u64.. {
        tokio::select! {
            changed = identity.changed(), if is_identity_known => {
                is_identity_known = changed.is_ok();
                let identity = identity.borrow_and_update().clone();
                let version = identity.local.trust().map(VerifiedTrustSet::version);
                shared.with_core(|core| {
                    if let Some(trust) = identity.local.trust() {
                        core.set_trust(trust.clone());
                    }
                    core.set_revoked(identity.rules.revoked.clone());
                });
                if std::mem::replace(&mut trust_version, version) != version {
                    judge_all(&shared).await;
                }
            }
            _ = tick.tick() => {
                let now = shared.identity.now().mono;
                shared.with_core(|core| core.handle_timeout(now));
                if n_ticks.is_multiple_of(limits::TICKS_PER_MEASUREMENT) {
                    shared.measure();
                }
            }
        }
    }
}

/// Judges all links by a new trust set: rare, and a signature for each, so in
/// small portions.
async fn judge_all(shared: &Shared) {
    for portion in shared.links().chunks(limits::JUDGED_AT_ONCE) {
        for link in portion {
            shared.judge(link);
        }
        tokio::task::yield_now().await;
    }
}

/// Resolves once no link is left.
async fn all_gone(drain: &Drain) {
    let mut tick = tokio::time::interval(limits::TICK);
    while drain.guards() > 0 {
        tick.tick().await;
    }
}

#[cfg(test)]
mod tests;
