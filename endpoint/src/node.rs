//! What all parts of one endpoint share: identity, rules, names, links, sessions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use fairway_channel::ConnectionId;
use fairway_control::Reason;
use fairway_control::link::Instance;
use fairway_identity::{
    Address, HostPort, Label, RelayAddress, RootHash, SpiffeId, Subject, TrustDomain, UnixSeconds,
    VerifiedTrustSet,
};
use fairway_session::{
    Admit, Config, Doors, Local, OpenTarget, Refusal, Rules, Session, StaticSecret, code,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{BeforeFloor, NodeClock};
use crate::config::{CredentialSource, EndpointConfig, Keep, RelayUse, Store};
use crate::conn::{Conn, Opened};
use crate::front::Front;
use crate::identity::Identity;
use crate::link::LinkShared;
use crate::moving::Waiting;
use crate::random::random_bytes;
use crate::sessions::SessionTable;
use crate::transport::Connector;
use crate::{Incoming, Metrics};

/// The shared state of one endpoint.
pub(crate) struct Node {
    pub(crate) clock: Arc<NodeClock>,
    pub(crate) metrics: Metrics,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) pin: RootHash,
    /// Names this process: what it registers with, and what its hellos show.
    pub(crate) instance: Instance,
    pub(crate) source: CredentialSource,
    pub(crate) authority: Option<HostPort>,
    pub(crate) relay_use: RelayUse,
    pub(crate) connector: Connector,
    pub(crate) front: Option<Front>,
    pub(crate) sessions: SessionTable,
    /// Links to relays that are up.
    pub(crate) links: watch::Sender<Vec<Arc<LinkShared>>>,
    /// Relays that are known.
    pub(crate) relays: watch::Sender<Vec<RelayAddress>>,
    /// Whether they stay, whatever the authority says.
    pub(crate) relays_fixed: bool,
    /// Names to register, when registering is on.
    pub(crate) offer: watch::Sender<Offer>,
    pub(crate) identity: watch::Sender<Arc<Identity>>,
    /// Our credential is stale if it was issued before this.
    pub(crate) stale_before: watch::Sender<Option<UnixSeconds>>,
    /// The authority's last word was that we are revoked.
    pub(crate) is_revoked: watch::Sender<bool>,
    pub(crate) progress: Mutex<ProgressNotes>,
    /// Ends everything.
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    services: Vec<(u16, String)>,
    own_names: Vec<Address>,
    incoming: Option<mpsc::Sender<Incoming>>,
    session_wait: Duration,
    store: Option<Arc<dyn Store>>,
    rules: watch::Sender<Rules>,
    /// Whether the authority has told us rules.
    pub(crate) told: watch::Sender<bool>,
    conns: Mutex<BTreeMap<u64, Weak<Conn>>>,
    /// Sessions that peers dialled, by what names them when they come back.
    pub(crate) returning: Mutex<BTreeMap<ConnectionId, Weak<Conn>>>,
    /// Those of them that have no circuit.
    pub(crate) waiting: Waiting,
}

/// What is offered to callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Names that sessions to us may be dialled under.
    pub(crate) names: Arc<[Address]>,
    /// Whether to register them with relays (the pod is Ready).
    pub(crate) ready: bool,
    /// Off while draining.
    pub(crate) on: bool,
}

/// What went on, for the status.
#[derive(Debug, Default)]
pub(crate) struct ProgressNotes {
    pub(crate) credential_error: Option<String>,
    pub(crate) link_error: Option<String>,
    pub(crate) update_version: Option<String>,
    pub(crate) watching: bool,
    pub(crate) services_not_allowed: Vec<String>,
}

impl Offer {
    /// The names to register now.
    pub(crate) fn to_register(&self) -> Arc<[Address]> {
        if self.on && self.ready {
            self.names.clone()
        } else {
            Arc::default()
        }
    }
}

impl Node {
    pub(crate) fn new(config: EndpointConfig, front: Option<Front>) -> Arc<Self> {
        let clock = Arc::new(NodeClock::new(config.clock));
        let instance = random_bytes();
        let mut own_names = config.names;
        if let CredentialSource::Device {
            namespace, name, ..
        } = &config.credential
        {
            own_names.push(Address::Device {
                namespace: namespace.clone(),
                name: name.clone(),
            });
        }
        let offer = Offer {
            names: own_names.clone().into(),
            ready: !own_names.is_empty(),
            on: true,
        };
        let device = match &config.credential {
            CredentialSource::Device {
                namespace, name, ..
            } => Some(SpiffeId::device(
                config.trust_domain.clone(),
                namespace.clone(),
                name.clone(),
            )),
            CredentialSource::Anonymous
            | CredentialSource::Workload { .. }
            | CredentialSource::Front { .. } => None,
        };
        let identity =
            Identity::anonymous(config.pin, instance, device, config.trust, config.ticket);
        let node = Arc::new(Self {
            clock,
            metrics: config.metrics,
            trust_domain: config.trust_domain,
            pin: config.pin,
            instance: Instance(instance),
            source: config.credential,
            authority: config.authority,
            relay_use: config.relay_use,
            connector: Connector::new(config.links),
            front,
            sessions: SessionTable::default(),
            links: watch::Sender::default(),
            relays: watch::Sender::new(config.relays),
            relays_fixed: config.relays_fixed,
            offer: watch::Sender::new(offer),
            identity: watch::Sender::new(Arc::new(identity)),
            stale_before: watch::Sender::default(),
            is_revoked: watch::Sender::default(),
            progress: Mutex::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            services: config.services,
            own_names,
            incoming: config.incoming,
            session_wait: config.session_wait,
            store: config.store,
            rules: watch::Sender::default(),
            told: watch::Sender::default(),
            conns: Mutex::default(),
            returning: Mutex::default(),
            waiting: Waiting::default(),
        });
        node.set_first_rules();
        if let Some(saved) = config.saved {
            node.set_credential(saved);
        }
        node
    }

    // --- identity ---

    /// Who we are for a new session, and which credential that is with.
    pub(crate) fn local(&self) -> (Local, u64) {
        let identity = self.identity.borrow();
        (identity.local.clone(), identity.generation)
    }

    /// An anonymous identity with this key, for having the key certified.
    pub(crate) fn anonymous(&self, secret: StaticSecret) -> Local {
        self.identity.borrow().anonymous_local(secret)
    }

    pub(crate) fn trust(&self) -> Option<VerifiedTrustSet> {
        self.identity.borrow().trust.clone()
    }

    /// A newer trust set goes to all sessions and to disk.
    pub(crate) fn learn_trust(self: &Arc<Self>, trust: VerifiedTrustSet) {
        let is_newer = self.identity.send_if_modified(|identity| {
            if identity
                .trust
                .as_ref()
                .is_some_and(|t| t.version() >= trust.version())
            {
                return false;
            }
            *identity = Arc::new(identity.with_trust(trust.clone()));
            true
        });
        if is_newer {
            tracing::info!(
                event = "trust-set",
                version = trust.version(),
                "new trust set"
            );
            self.each_conn(|conn| conn.set_trust(trust.clone()));
            self.keep(Keep::TrustSet(trust));
        }
    }

    /// The time according to the authority.
    pub(crate) fn learn_time(
        self: &Arc<Self>,
        asked: tokio::time::Instant,
        time: UnixSeconds,
    ) -> Result<(), BeforeFloor> {
        self.clock.set(asked, time)?;
        // Peers that wait to be judged by it are judged now.
        self.each_conn(|conn| conn.mark_dirty());
        self.keep(Keep::TimeFloor(time));
        Ok(())
    }

    // --- rules ---

    pub(crate) fn rules(&self) -> Rules {
        self.rules.borrow().clone()
    }

    pub(crate) fn watch_rules(&self) -> watch::Receiver<Rules> {
        self.rules.subscribe()
    }

    /// Changes the rules for new sessions and live ones.
    pub(crate) fn update_rules(&self, change: impl FnOnce(&mut Rules)) {
        self.rules.send_modify(change);
        let rules = self.rules();
        self.each_conn(|conn| conn.set_rules(rules.clone()));
    }

    /// What a device offers: of the services in its own config those that the
    /// authority allows; without a word from it, all.
    pub(crate) fn device_doors(&self, allowed: Option<&[String]>) -> Doors {
        let mut doors = Doors::new();
        let not_allowed = |service: &String| allowed.is_some_and(|names| !names.contains(service));
        if let CredentialSource::Device {
            namespace, name, ..
        } = &self.source
        {
            for (port, service) in &self.services {
                if not_allowed(service) {
                    continue;
                }
                if doors
                    .add_device_service(namespace.clone(), name.clone(), service, *port)
                    .is_err()
                {
                    tracing::warn!(
                        service,
                        "too many services in the config; this one is not offered"
                    );
                }
            }
        }
        doors
    }

    /// Services in the config that are not offered, because the DeviceIdentity
    /// does not name them.
    pub(crate) fn services_not_allowed(&self, allowed: Option<&[String]>) -> Vec<String> {
        let names = self.services.iter().map(|(_, service)| service);
        names
            .filter(|name| allowed.is_some_and(|allowed| !allowed.contains(name)))
            .cloned()
            .collect()
    }

    /// Our own namespace, for the doors of a workload.
    pub(crate) fn namespace(&self) -> Option<Label> {
        match &self.identity.borrow().id.as_ref()?.subject {
            Subject::Device { namespace, .. } | Subject::Workload { namespace, .. } => {
                Some(namespace.clone())
            }
        }
    }

    fn set_first_rules(&self) {
        let doors = Arc::new(self.device_doors(None));
        self.rules.send_modify(|rules| {
            rules.doors = doors;
            if self.front.is_some() {
                rules.admit = Admit::AlsoAnonymous;
            }
        });
    }

    /// What the authority says that we are called, beside our own names.
    pub(crate) fn set_names(&self, told: &[Address], ready: bool) {
        let mut names = self.own_names.clone();
        names.extend(
            told.iter()
                .filter(|name| !self.own_names.contains(name))
                .cloned(),
        );
        self.offer.send_if_modified(|offer| {
            let new = Offer {
                names: names.into(),
                ready: ready || !self.own_names.is_empty(),
                on: offer.on,
            };
            let change = *offer != new;
            *offer = new;
            change
        });
    }

    // --- sessions ---

    /// A new session of ours on a circuit.
    pub(crate) fn dial_on(
        &self,
        link: Arc<LinkShared>,
        circuit: u32,
        to: &Address,
        local: Local,
    ) -> Result<Arc<Conn>, Refusal> {
        let session = Session::dial(
            self.session_config(),
            local,
            self.rules(),
            to.clone(),
            random_bytes(),
            self.clock.now(),
        )
        .map_err(|e| Refusal::new(code::MALFORMED, e.to_string()))?;
        let conn = Conn::new(
            session,
            true,
            link,
            circuit,
            self.clock.clone(),
            self.metrics.clone(),
        );
        self.remember(&conn);
        Ok(conn)
    }

    fn session_config(&self) -> Config {
        Config::new().path_timeout(self.session_wait)
    }

    /// A session for somebody who dialled `name` of ours.
    pub(crate) fn answer(
        &self,
        link: Arc<LinkShared>,
        circuit: u32,
        name: &Address,
    ) -> Result<Arc<Conn>, Reason> {
        let names = self.offer.borrow().names.clone();
        if !names.contains(name) {
            return Err(Reason::new("not-here", "not a name of this endpoint"));
        }
        let (local, generation) = self.local();
        let session = Session::answer(
            self.session_config(),
            local,
            self.rules(),
            names,
            random_bytes(),
            self.clock.now(),
        )
        .map_err(|e| Reason::new("no-credential", e.to_string()))?;
        let conn = Conn::new(
            session,
            false,
            link,
            circuit,
            self.clock.clone(),
            self.metrics.clone(),
        );
        self.remember(&conn);
        self.keep_credentialed(&conn, generation);
        Ok(conn)
    }

    /// Hands an allowed stream on. Called by drivers, so it never waits.
    pub(crate) fn dispatch(self: &Arc<Self>, opened: Opened) {
        let Opened {
            grant,
            open,
            stream,
        } = opened;
        match open.target {
            OpenTarget::Control => match &self.front {
                Some(front) => front.pipe(self, grant, stream),
                None => stream.refuse(&Refusal::new(code::NO_CONTROL, "no authority and no relay")),
            },
            OpenTarget::Port(_) => {
                let Some(sender) = &self.incoming else {
                    stream.refuse(&Refusal::new(
                        code::NOT_LISTENING,
                        "nothing is offered here",
                    ));
                    return;
                };
                if let Err(refused) = sender.try_send(Incoming {
                    grant,
                    open,
                    stream,
                }) {
                    let incoming = match refused {
                        mpsc::error::TrySendError::Full(incoming)
                        | mpsc::error::TrySendError::Closed(incoming) => incoming,
                    };
                    self.metrics.streams_refused.inc();
                    incoming.refuse(&Refusal::new(
                        code::OVERLOADED,
                        "too many streams wait to be served",
                    ));
                }
            }
        }
    }

    pub(crate) fn live_conns(&self) -> Vec<Arc<Conn>> {
        let mut conns = lock(&self.conns);
        conns.retain(|_, conn| conn.strong_count() > 0);
        conns.values().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn each_conn(&self, act: impl Fn(&Arc<Conn>)) {
        self.live_conns()
            .iter()
            .filter(|conn| !conn.is_closed())
            .for_each(act);
    }

    fn remember(&self, conn: &Arc<Conn>) {
        let mut conns = lock(&self.conns);
        // Sweeps now and then instead of with each end of a session.
        if conns.len().is_power_of_two() {
            conns.retain(|_, conn| conn.strong_count() > 0);
        }
        conns.insert(conn.id, Arc::downgrade(conn));
        drop(conns);
        // What changed between making the session and remembering it.
        conn.set_rules(self.rules());
        if let Some(trust) = self.trust() {
            conn.set_trust(trust);
        }
    }

    // --- the rest ---

    /// Keeps something across restarts, in the background.
    pub(crate) fn keep(self: &Arc<Self>, what: Keep) {
        let Some(store) = self.store.clone() else {
            return;
        };
        self.tasks.spawn_blocking(move || {
            if let Err(error) = store.keep(&what) {
                tracing::error!(event = "store", %error, "cannot keep state; a restart will miss it");
            }
        });
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut ProgressNotes)) {
        change(&mut lock(&self.progress));
    }

    /// Runs `task` until it ends or the endpoint closes.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            closing.run_until_cancelled(task).await;
        });
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

/// Locks; a panic while holding one of these locks is a bug that ends the process's use.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while the lock is held")
}
