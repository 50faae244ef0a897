//! Keeping links to relays: one or all of those that are known, again and
//! again, each new credential on a new link before the old one goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_identity::{Address, HostPort};
use fairway_session::code;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::{CredentialSource, RelayUse};
use crate::conn::Conn;
use crate::dial::connect;
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, REGISTER_TIMEOUT};
use crate::link::{Command, Driver, LinkKind, LinkShared, LinkState};
use crate::node::Node;
use crate::random::random_u64;

/// Keeps links to the relays of `node.relays` until the endpoint closes.
pub(crate) async fn keep_relays(node: Arc<Node>) {
    match node.relay_use {
        RelayUse::None => {}
        RelayUse::One => keep(&node, Choice::Any).await,
        RelayUse::All => keep_all(&node).await,
    }
}

/// Which relay a keeper connects to.
enum Choice {
    /// Any of the known ones, another after each failure.
    Any,
    /// This one.
    This(HostPort),
}

/// One keeper for each known relay.
async fn keep_all(node: &Arc<Node>) {
    let mut relays = node.relays.subscribe();
    let mut keepers: BTreeMap<String, CancellationToken> = BTreeMap::new();
    loop {
        let known = relays.borrow_and_update().clone();
        keepers.retain(|address, keeper| {
            let keep = known.iter().any(|relay| relay.to_string() == *address);
            if !keep {
                keeper.cancel();
            }
            keep
        });
        for relay in known {
            keepers.entry(relay.to_string()).or_insert_with(|| {
                let cancelled = CancellationToken::new();
                let (node, gone) = (node.clone(), cancelled.clone());
                node.clone().spawn(async move {
                    gone.run_until_cancelled(keep(&node, Choice::This(relay)))
                        .await;
                });
                cancelled
            });
        }
        if relays.changed().await.is_err() {
            return;
        }
    }
}

/// A link that a keeper holds; drained when dropped.
struct Held {
    node: Arc<Node>,
    link: Arc<LinkShared>,
}

/// Keeps one link.
async fn keep(node: &Arc<Node>, choice: Choice) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut turn = random_u64();
    let mut held: Option<Held> = None;
    loop {
        wait_until_useful(node).await;
        turn = turn.wrapping_add(1);
        let Some(relay) = choose(node, &choice, turn).await else {
            return;
        };
        match link_up(node, &relay).await {
            Ok(link) => {
                backoff.reset();
                tracing::info!(event = "link-up", relay = %relay, "linked to a relay");
                let new = Held::new(node, link);
                if held.is_some() {
                    // Names are never without a link that has them.
                    new.registered().await;
                }
                let why = held.insert(new).serve(&choice).await;
                tracing::info!(event = "link-down", relay = %relay, "{why}");
                if !matches!(why, Left::Renew) {
                    held = None;
                }
                continue;
            }
            Err(error) => {
                node.metrics.link_failures.inc();
                tracing::warn!(event = "link-failed", relay = %relay, error, "cannot link to a relay");
                node.note(|notes| notes.link_error = Some(format!("{relay}: {error}")));
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
        if held.as_ref().is_some_and(|held| !held.link.is_up()) {
            held = None;
        }
    }
}

/// Why a keeper gave a link up.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("the link ended: {0}")]
    Ended(String),
    #[error("the relay is going away")]
    Drained,
    #[error("there is a new credential")]
    Renew,
    #[error("the relay is not among the known ones any more")]
    Unknown,
}

impl Held {
    fn new(node: &Arc<Node>, link: Arc<LinkShared>) -> Self {
        node.links.send_modify(|links| links.push(link.clone()));
        Self {
            node: node.clone(),
            link,
        }
    }

    /// Looks after the link until it is time for another.
    async fn serve(&self, choice: &Choice) -> Left {
        let mut state = self.link.watch();
        let mut offer = self.node.offer.subscribe();
        let mut identity = self.node.identity.subscribe();
        let mut relays = self.node.relays.subscribe();
        offer.mark_changed();
        loop {
            match &*state.borrow_and_update() {
                LinkState::Starting | LinkState::Up { .. } => {}
                LinkState::Draining => return Left::Drained,
                LinkState::Closed(why) => return Left::Ended(why.clone()),
            }
            if identity.borrow_and_update().generation != self.link.generation {
                return Left::Renew;
            }
            if matches!(choice, Choice::Any) && !self.is_known(&mut relays) {
                return Left::Unknown;
            }
            tokio::select! {
                Ok(()) = state.changed() => {}
                Ok(()) = identity.changed() => {}
                Ok(()) = relays.changed() => {}
                Ok(()) = offer.changed() => {
                    offer.borrow_and_update();
                    self.link.command(Command::Names(self.names()));
                }
            }
        }
    }

    /// The names to register on this link: none without a credential for them.
    fn names(&self) -> Arc<[Address]> {
        if self.node.identity.borrow().is_credentialed() {
            self.node.offer.borrow().to_register()
        } else {
            Arc::default()
        }
    }

    /// Registers the names and waits, bounded, for the relay's answers.
    async fn registered(&self) {
        let names = self.names();
        self.link.command(Command::Names(names.clone()));
        let mut state = self.link.watch();
        let done = state.wait_for(|state| match state {
            LinkState::Up { registered } => names.iter().all(|name| registered.contains(name)),
            LinkState::Starting => false,
            LinkState::Draining | LinkState::Closed(_) => true,
        });
        let _ = tokio::time::timeout(REGISTER_TIMEOUT, done).await;
    }

    fn is_known(&self, relays: &mut watch::Receiver<Vec<HostPort>>) -> bool {
        let relays = relays.borrow_and_update();
        relays.is_empty()
            || relays
                .iter()
                .any(|relay| relay.to_string() == self.link.remote)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let id = self.link.id;
        self.node
            .links
            .send_modify(|links| links.retain(|link| link.id != id));
        self.link.command(Command::Drain);
    }
}

/// Without a credential only a device has a use for a relay: to get one.
async fn wait_until_useful(node: &Node) {
    let needs_credential = match node.source {
        CredentialSource::Device { .. } | CredentialSource::Anonymous => false,
        CredentialSource::Workload { .. } | CredentialSource::Front { .. } => true,
    };
    if needs_credential {
        let mut identity = node.identity.subscribe();
        let _ = identity
            .wait_for(|identity| identity.is_credentialed())
            .await;
    }
}

async fn choose(node: &Node, choice: &Choice, turn: u64) -> Option<HostPort> {
    match choice {
        Choice::This(relay) => Some(relay.clone()),
        Choice::Any => {
            let mut relays = node.relays.subscribe();
            let known = relays.wait_for(|relays| !relays.is_empty()).await.ok()?;
            let at = usize::try_from(turn % known.len() as u64).unwrap_or_default();
            known.get(at).cloned()
        }
    }
}

/// Connects, and waits until the relay has accepted the link's session.
async fn link_up(node: &Arc<Node>, relay: &HostPort) -> Result<Arc<LinkShared>, String> {
    let io = connect(relay).await.map_err(|e| e.to_string())?;
    let (local, generation) = node.local();
    let link = LinkShared::new(LinkKind::Relay, relay.to_string(), generation);
    let conn = node
        .dial_on(link.clone(), 0, &Address::Relay, local)
        .map_err(|e| e.to_string())?;
    let driver = Driver::new(node.clone(), conn.clone(), io, None);
    node.tasks.spawn(driver.run());
    let mut state = link.watch();
    let settled = state
        .wait_for(|state| !matches!(state, LinkState::Starting))
        .await;
    match settled.as_deref() {
        Ok(LinkState::Up { .. }) => Ok(link.clone()),
        Ok(LinkState::Closed(why)) => {
            forget_refused_credential(node, &conn, generation);
            Err(why.clone())
        }
        Ok(LinkState::Draining) => Err("the relay is going away".to_owned()),
        Ok(LinkState::Starting) | Err(_) => Err("the link is gone".to_owned()),
    }
}

/// A relay that does not take our credential takes none: without it the
/// authority can still be reached, to ask for another.
fn forget_refused_credential(node: &Node, conn: &Conn, generation: u64) {
    let refused = conn.closed_now().is_some_and(|refusal| {
        [
            code::CREDENTIAL_EXPIRED,
            code::CREDENTIAL_REFUSED,
            code::REVOKED,
        ]
        .contains(&refusal.code)
    });
    if refused && node.identity.borrow().generation == generation {
        node.drop_credential();
    }
}
