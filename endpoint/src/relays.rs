//! Keeping links to relays: one or all of those that are known, again and
//! again, and wherever it can be, the new link before the old one goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_identity::{Address, HostPort};
use fairway_session::code;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::{CredentialSource, RelayUse};
use crate::conn::Conn;
use crate::dial::connect;
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, RACE_STEP, RACERS_MAX, REGISTER_TIMEOUT};
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
    let mut held: Option<Held> = None;
    // Tried after all others: it was lost, or has told us to go.
    let mut last: Option<HostPort> = None;
    loop {
        wait_until_useful(node).await;
        let Some(candidates) = candidates(node, &choice, last.as_ref()).await else {
            return;
        };
        match race(node, candidates).await {
            Ok((relay, link)) => {
                backoff.reset();
                tracing::info!(event = "link-up", relay = %relay, "linked to a relay");
                let new = Held::new(node, link);
                if held.is_some() {
                    // Names are never without a link that has them.
                    new.registered().await;
                }
                let why = held.insert(new).serve(&choice).await;
                tracing::info!(event = "link-down", relay = %relay, "{why}");
                if !why.is_left_for_another(&choice) {
                    held = None;
                }
                last = (!matches!(why, Left::Renew)).then_some(relay);
                continue;
            }
            Err(error) => {
                node.metrics.link_failures.inc();
                tracing::warn!(event = "link-failed", error, "cannot link to a relay");
                node.note(|notes| notes.link_error = Some(error));
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
        if held.as_ref().is_some_and(Held::is_over) {
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

impl Left {
    /// Whether the link is of use until there is another. A keeper of one
    /// relay has no other to go to; others keep the links to theirs.
    fn is_left_for_another(&self, choice: &Choice) -> bool {
        match self {
            Self::Renew => true,
            Self::Drained => matches!(choice, Choice::Any),
            Self::Ended(_) | Self::Unknown => false,
        }
    }
}

impl Held {
    fn is_over(&self) -> bool {
        matches!(self.link.state(), LinkState::Closed(_))
    }

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

/// The relays to try, in this order: from a random one on, so that devices
/// spread, and `last` at the end.
async fn candidates(
    node: &Node,
    choice: &Choice,
    last: Option<&HostPort>,
) -> Option<Vec<HostPort>> {
    if let Choice::This(relay) = choice {
        return Some(vec![relay.clone()]);
    }
    let mut relays = node.relays.subscribe();
    let known = relays.wait_for(|relays| !relays.is_empty()).await.ok()?;
    let mut candidates = known.clone();
    drop(known);
    let first = usize::try_from(random_u64() % candidates.len() as u64).unwrap_or_default();
    candidates.rotate_left(first);
    let key = |relay: &HostPort| last.is_some_and(|last| last.to_string() == relay.to_string());
    // A stable sort: the others keep their order.
    candidates.sort_by_key(key);
    Some(candidates)
}

/// Tries `candidates` one after the other, the next one when an earlier one has
/// failed or taken too long: the first that accepts us wins.
async fn race(
    node: &Arc<Node>,
    candidates: Vec<HostPort>,
) -> Result<(HostPort, Arc<LinkShared>), String> {
    let mut waiting = candidates.into_iter().peekable();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = "no relay is known".to_owned();
    loop {
        if attempts.len() < RACERS_MAX
            && let Some(relay) = waiting.next()
        {
            attempts.push(async move {
                let result = link_up(node, &relay).await;
                (relay, result)
            });
        } else if attempts.is_empty() {
            return Err(last_error);
        }
        let is_next_due = attempts.len() < RACERS_MAX && waiting.peek().is_some();
        tokio::select! {
            Some((relay, result)) = attempts.next() => match result {
                Ok(link) => return Ok((relay, link)),
                Err(error) => last_error = format!("{relay}: {error}"),
            },
            () = tokio::time::sleep(RACE_STEP), if is_next_due => {}
        }
    }
}

/// A link that is given up if nobody wants it in the end.
struct Attempt(Option<Arc<LinkShared>>);

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(link) = self.0.take() {
            link.command(Command::Drain);
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
    let mut attempt = Attempt(Some(link.clone()));
    let mut state = link.watch();
    let settled = state
        .wait_for(|state| !matches!(state, LinkState::Starting))
        .await;
    match settled.as_deref() {
        Ok(LinkState::Up { .. }) => {
            attempt.0 = None;
            Ok(link.clone())
        }
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
