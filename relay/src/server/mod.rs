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

use fairway_control::link::refused_frame;
use fairway_control::{Reason, reason};
use fairway_daemon::{Acceptor, Drain, Entry, Gate, GateLimits, say_and_close};
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
    /// Connections: how many at once, how many in their handshake, how fast.
    pub gate: GateLimits,
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
    listener: Acceptor,
    shared: Arc<Shared>,
}

/// Looks into a running server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inspector {
    shared: Arc<Shared>,
}

impl ServerConfig {
    /// At most so many connections, shared among all kinds of peers as in the
    /// budgets.
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.gate.connections = connections;
        self.gate.half_open = self.gate.half_open.min(connections / 4).max(1);
        let links = connections.saturating_sub(self.gate.half_open);
        self.settings.budgets = self.settings.budgets.fit(links);
        self
    }

    /// The defaults, listening on `listen`.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            settings: Settings::default(),
            gate: GateLimits {
                connections: limits::CONNECTIONS_MAX,
                half_open: limits::HALF_OPEN_LINKS_MAX,
                accepts: limits::ACCEPTS,
                accepts_per_source: limits::ACCEPTS_PER_SOURCE,
            },
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
            .and_then(Acceptor::new)
            .map_err(|source| ListenError { address, source })?;
        let gate = Gate::new(config.gate);
        let shared = Arc::new(Shared::new(config.settings, gate, identity, metrics));
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
    pub async fn run(mut self, drain: Drain) {
        let maintenance = tokio::spawn(maintain(self.shared.clone()));
        tokio::select! {
            () = accept_links(&mut self.listener, &self.shared, &drain) => {}
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
            () = accept_links(&mut self.listener, &self.shared, &drain) => {}
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
}

async fn accept_links(listener: &mut Acceptor, shared: &Arc<Shared>, drain: &Drain) {
    let no_files = Reason::new(reason::OVERLOADED, "no file is left for a connection");
    let no_files = refused_frame(&no_files);
    for seq in shared.numbers() {
        let (socket, remote) = listener.accept(&no_files).await;
        shared.metrics.links_accepted.inc();
        match shared.gate.admit(remote.ip()) {
            Ok(entry) => begin(shared, seq, socket, remote, entry, drain),
            Err(why) => {
                let why = Reason::new(reason::OVERLOADED, why.to_string());
                access::connection_refused(&shared.metrics, remote, &why);
                say_and_close(socket, &refused_frame(&why));
            }
        }
    }
}

/// Starts the link on a connection that was let in.
fn begin(
    shared: &Arc<Shared>,
    seq: u64,
    socket: TcpStream,
    remote: SocketAddr,
    entry: Entry,
    drain: &Drain,
) {
    // Batches are whole; waiting for more would only delay them.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(event = "link-failed", %remote, %error);
        return;
    }
    let mut seed = [0; 32];
    let now = shared.identity.now();
    let control = getrandom::fill(&mut seed)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            let identity = shared.identity.current();
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
    let driver = Box::new(Driver::new(shared.clone(), link, read, entry));
    tokio::spawn(driver.run(drain.guard()));
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
