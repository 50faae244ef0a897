//! The relay on tokio: sockets, timers, logs, metrics.
//!
//! One task, the `driver`, reads each link. What it reads for circuits it
//! writes to the other link's socket itself, in whole frames, with the circuit
//! ids rewritten in place: no copy, no task switch, one write for many frames.
//! What a socket does not take waits in that link's `outbound` queue, is
//! counted by the core, and stalls nobody else.
//!
//! Reading order: [`Server`], `listen`, `driver`, `link`, `socket`, `shared`,
//! `control` (the session on circuit 0), `outbound`, `access` and `metrics`.

mod access;
mod certificate;
mod control;
mod driver;
mod identity;
mod link;
mod listen;
mod metrics;
mod outbound;
mod shared;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_control::{Reason, reason};
use fairway_daemon::{Drain, Gate, GateLimits};
use fairway_identity::{Address, VerifiedTrustSet};
use tokio::time::{Instant, MissedTickBehavior};

pub use self::certificate::{Certificate, CertificateError};
pub use self::identity::{Identity, IdentitySource};
pub use self::metrics::Metrics;

use self::listen::Listeners;
use self::shared::{Shared, Unsent};
use crate::core::{Class, Settings};
use crate::limits;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where links over TCP are accepted.
    pub listen: SocketAddr,
    /// Where links over QUIC are, if any.
    pub listen_quic: Option<SocketAddr>,
    /// Where links over TLS and WebSocket are, if any.
    pub listen_tls: Option<SocketAddr>,
    /// What TLS and QUIC show.
    pub certificate: Certificate,
    /// Budgets and memory.
    pub settings: Settings,
    /// Connections: how many at once, how many in their handshake, how fast.
    pub gate: GateLimits,
    /// Over how long a drain tells links to move.
    pub drain_span: Duration,
}

/// The server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address is taken, or not this machine's.
    #[error("cannot listen on {address}; is another process using it?")]
    Address {
        /// The address in question.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no certificate for TLS and QUIC.
    #[error("there is no TLS certificate")]
    Certificate(#[from] CertificateError),
}

/// Accepts links and switches circuits.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    listeners: Listeners,
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
            listen_quic: None,
            listen_tls: None,
            certificate: Certificate::default(),
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
        let listeners = Listeners::bind(&config).await?;
        let gate = Gate::new(config.gate);
        let shared = Arc::new(Shared::new(config.settings, gate, identity, metrics));
        Ok(Self {
            config,
            listeners,
            shared,
        })
    }

    /// Where links over TCP are accepted.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listeners.tcp_addr()
    }

    /// Where links over QUIC are accepted, if they are.
    pub fn quic_addr(&self) -> Option<SocketAddr> {
        self.listeners.quic_addr()
    }

    /// Where links over TLS and WebSocket are accepted, if they are.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.listeners.tls_addr()
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
            () = self.listeners.accept(&self.shared, &drain) => {}
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
            () = self.listeners.accept(&self.shared, &drain) => {}
            () = all_gone(&drain) => {}
            () = drain.stopped() => {}
        }
        let why = Reason::new(reason::DRAINING, "this relay has ended");
        let mut unsent = Unsent::default();
        for link in self.shared.links() {
            self.shared.close(&link, &why, &mut unsent);
        }
        self.shared.write_out(&mut unsent);
        // A guard stays while its link takes the reason.
        let _ = tokio::time::timeout(limits::CLOSE_LINGER, all_gone(&drain)).await;
        self.listeners.close().await;
        maintenance.abort();
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

    /// Resolves once the cluster's own ends are here, so that devices that come
    /// now find everybody: the authority answers, and no pod has linked for a
    /// moment. They all hear of a new relay at the same time. Bounded: a relay
    /// without some of them is better than none.
    pub async fn settled(&self) {
        let settled = async {
            let mut tick = tokio::time::interval(limits::TICK);
            let (mut n_links, mut since) = (0, Instant::now());
            loop {
                tick.tick().await;
                let (n_now, has_authority) = self.shared.with_core(|core| {
                    let n_links = core.usage_of(Class::Workload).0;
                    (n_links, core.is_registered(&Address::Authority))
                });
                if std::mem::replace(&mut n_links, n_now) != n_now {
                    since = Instant::now();
                }
                if has_authority && since.elapsed() >= limits::SETTLED_AFTER {
                    return;
                }
            }
        };
        if tokio::time::timeout(limits::SETTLE_TIMEOUT, settled)
            .await
            .is_err()
        {
            tracing::warn!(
                event = "settle",
                "the authority or some pods have not linked to this relay; it is ready without them"
            );
        }
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
