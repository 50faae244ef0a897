//! Keeping links to relays: one or all of those that are known, again and
//! again, and wherever it can be, the new link before the old one goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_identity::{Address, RelayAddress, Transport};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::{CredentialSource, RelayUse};
use crate::limits::{
    BACKOFF_MAX, BACKOFF_MIN, LINK_ANSWER, REGISTER_TIMEOUT, UPGRADE_MIN, UPGRADE_SPREAD,
};
use crate::link::{Command, LinkShared, LinkState};
use crate::node::Node;
use crate::race::{Relay, Winner, by_relay, race};
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
    This(Relay),
}

/// One keeper for each known relay.
async fn keep_all(node: &Arc<Node>) {
    let mut relays = node.relays.subscribe();
    let mut keepers: BTreeMap<Relay, CancellationToken> = BTreeMap::new();
    loop {
        let known = by_relay(&relays.borrow_and_update());
        keepers.retain(|relay, keeper| {
            let keep = known.contains(relay);
            if !keep {
                keeper.cancel();
            }
            keep
        });
        for relay in known {
            keepers.entry(relay.clone()).or_insert_with(|| {
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
    relay: RelayAddress,
}

/// Keeps one link.
async fn keep(node: &Arc<Node>, choice: Choice) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut course = Course::new(node);
    let mut held: Option<Held> = None;
    loop {
        wait_until_useful(node).await;
        let Some(candidates) = course.ways.candidates(node, &choice).await else {
            return;
        };
        let mut won = match race(node, candidates).await {
            Ok(winner) => Some(winner),
            Err(error) => {
                node.metrics.link_failures.inc();
                tracing::warn!(event = "link-failed", error, "cannot link to a relay");
                node.note(|notes| notes.link_error = Some(error));
                tokio::time::sleep(backoff.next_wait()).await;
                if held.as_ref().is_some_and(Held::is_over) {
                    held = None;
                }
                None
            }
        };
        while let Some(winner) = won.take() {
            backoff.reset();
            tracing::info!(event = "link-up", relay = %winner.relay, "linked to a relay");
            course.linked(&winner.relay);
            let new = Held::new(node, winner);
            if held.is_some() {
                // Names are never without a link that has them.
                new.registered().await;
            }
            let new = held.insert(new);
            let instead = course.ways.instead_of(new);
            let left = tokio::select! {
                left = new.serve(&choice) => left,
                winner = course.better(node, &choice) => Left::Better(winner),
                winner = instead.found(node, &choice, &new.link) => Left::Silent(winner),
            };
            tracing::info!(event = "link-down", relay = %new.relay, "{left}");
            course.left(&left);
            if !left.is_left_for_another(&choice) {
                held = None;
            }
            if let Left::Better(winner) | Left::Silent(winner) = left {
                won = Some(winner);
            }
        }
    }
}

/// What a keeper has learned about the ways to its relays.
struct Course {
    ways: Ways,
    /// Since when the address that worked last did so.
    since: Instant,
    /// For looking whether a better transport works again.
    upgrade: Backoff,
}

/// Which ways are to be tried before others.
#[derive(Clone, Default)]
struct Ways {
    /// The address that worked last.
    last: Option<RelayAddress>,
    /// Tried after all others: it was lost, or has told us to go.
    avoided: Option<RelayAddress>,
}

impl Course {
    fn new(node: &Node) -> Self {
        let first = node.connector.upgrade_after();
        Self {
            ways: Ways::default(),
            since: Instant::now(),
            upgrade: Backoff::new(first, first * UPGRADE_SPREAD),
        }
    }

    fn linked(&mut self, relay: &RelayAddress) {
        self.since = Instant::now();
        self.ways = Ways {
            last: Some(relay.clone()),
            avoided: None,
        };
    }

    /// The link is left. The network may be another one now, so better ways are
    /// tried soon, unless links come and go.
    fn left(&mut self, left: &Left) {
        match left {
            Left::Ended(_) | Left::Drained | Left::Silent(_) | Left::Unknown => {
                self.ways.avoided = self.ways.last.clone();
                if self.since.elapsed() >= UPGRADE_MIN {
                    self.upgrade.reset();
                }
            }
            Left::Renew | Left::Better(_) => {}
        }
    }

    /// Resolves with a link over a better transport than the last one's; never
    /// while there is none better.
    async fn better(&mut self, node: &Arc<Node>, choice: &Choice) -> Winner {
        loop {
            tokio::time::sleep(self.upgrade.next_wait()).await;
            let known = match choice {
                Choice::This(relay) => relay.clone(),
                Choice::Any => node.relays.borrow().clone(),
            };
            let last = self.ways.transport();
            let mut better: Vec<_> = known
                .into_iter()
                .filter(|address| last.is_some_and(|last| address.transport() < last))
                .collect();
            better.sort();
            if !better.is_empty()
                && let Ok(winner) = race(node, better).await
            {
                return winner;
            }
        }
    }
}

impl Ways {
    /// What to try, in this order: relay by relay, from a random one on, so
    /// that devices spread, with the one to avoid at the end; for each, the
    /// transport that worked last, and then the others by preference.
    async fn candidates(&self, node: &Node, choice: &Choice) -> Option<Vec<RelayAddress>> {
        let mut relays = match choice {
            Choice::This(relay) => vec![relay.clone()],
            Choice::Any => {
                let mut known = node.relays.subscribe();
                let known = known.wait_for(|relays| !relays.is_empty()).await.ok()?;
                by_relay(&known)
            }
        };
        let first = usize::try_from(random_u64() % relays.len() as u64).unwrap_or_default();
        relays.rotate_left(first);
        // Stable sorts: the others keep their order.
        if let Some(avoided) = &self.avoided {
            relays.sort_by_key(|relay| relay.contains(avoided));
        }
        if let Some(transport) = self.transport() {
            for relay in &mut relays {
                relay.sort_by_key(|address| address.transport() != transport);
            }
        }
        Some(relays.into_iter().flatten().collect())
    }

    fn transport(&self) -> Option<Transport> {
        self.last.as_ref().map(RelayAddress::transport)
    }

    /// For replacing a link that may be dead.
    fn instead_of(&self, held: &Held) -> Self {
        Self {
            avoided: Some(held.relay.clone()),
            ..self.clone()
        }
    }

    /// Resolves with another link while the one that is held may be dead; if
    /// that one answers first, it is kept.
    async fn found(&self, node: &Arc<Node>, choice: &Choice, held: &LinkShared) -> Winner {
        let mut is_doubtful = held.watch_doubt();
        loop {
            if is_doubtful.wait_for(|doubt| *doubt).await.is_err() {
                // It is over, which is for others to notice.
                std::future::pending::<()>().await;
            }
            let finding = async {
                // It has been asked, and may well answer.
                tokio::time::sleep(LINK_ANSWER).await;
                tracing::info!(event = "link-silent", relay = %held.remote, "looking for another link");
                self.found_at_last(node, choice).await
            };
            tokio::select! {
                Some(winner) = finding => return winner,
                Ok(_) = is_doubtful.wait_for(|doubt| !*doubt) => {
                    tracing::info!(event = "link-alive", relay = %held.remote, "it has answered");
                }
            }
        }
    }

    async fn found_at_last(&self, node: &Arc<Node>, choice: &Choice) -> Option<Winner> {
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        loop {
            let candidates = self.candidates(node, choice).await?;
            match race(node, candidates).await {
                Ok(winner) => return Some(winner),
                Err(error) => {
                    node.metrics.link_failures.inc();
                    node.note(|notes| notes.link_error = Some(error));
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
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
    #[error("nothing is heard from the relay; there is another link: {}", .0.relay)]
    Silent(Winner),
    #[error("there is a new credential")]
    Renew,
    #[error("the relay is not among the known ones any more")]
    Unknown,
    #[error("a better way works: {}", .0.relay)]
    Better(Winner),
}

impl Left {
    /// Whether the link is of use until there is another. A keeper of one
    /// relay has no other to go to; others keep the links to theirs.
    fn is_left_for_another(&self, choice: &Choice) -> bool {
        match self {
            Self::Renew | Self::Better(_) | Self::Silent(_) => true,
            Self::Drained => matches!(choice, Choice::Any),
            Self::Ended(_) | Self::Unknown => false,
        }
    }
}

impl Held {
    fn is_over(&self) -> bool {
        matches!(self.link.state(), LinkState::Closed(_))
    }

    fn new(node: &Arc<Node>, winner: Winner) -> Self {
        let Winner { relay, link } = winner;
        node.links.send_modify(|links| links.push(link.clone()));
        Self {
            node: node.clone(),
            link,
            relay,
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
                // One that is silent is kept until there is another.
                LinkState::Starting | LinkState::Up { .. } | LinkState::Silent => {}
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
            LinkState::Silent | LinkState::Draining | LinkState::Closed(_) => true,
        });
        let _ = tokio::time::timeout(REGISTER_TIMEOUT, done).await;
    }

    fn is_known(&self, relays: &mut watch::Receiver<Vec<RelayAddress>>) -> bool {
        let relays = relays.borrow_and_update();
        relays.is_empty() || relays.contains(&self.relay)
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
