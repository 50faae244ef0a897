//! The race for a link: the preferred address first, each next one a little
//! later while the earlier are still trying (as RFC 8305 does with addresses);
//! who is up first wins.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fairway_identity::{Address, RelayAddress};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::limits::{RACE_AGAIN, RACE_ROUNDS, RACE_STEP, RACE_TIMEOUT, RACERS_MAX};
use crate::link::{Command, Driver, LinkKind, LinkShared, LinkState};
use crate::node::Node;
use crate::transport::Connected;

/// The addresses of one relay, the preferred transport first.
pub(crate) type Relay = Vec<RelayAddress>;

/// Puts together which addresses are those of one relay: one for each transport
/// of the same host. Relays are in the order in which they come.
pub(crate) fn by_relay(known: &[RelayAddress]) -> Vec<Relay> {
    let mut relays: Vec<Relay> = Vec::new();
    for address in known {
        let lacks_it = |relay: &&mut Relay| {
            relay.iter().all(|other| {
                other.host() == address.host() && other.transport() != address.transport()
            })
        };
        match relays.iter_mut().find(lacks_it) {
            Some(relay) => relay.push(address.clone()),
            None => relays.push(vec![address.clone()]),
        }
    }
    relays.iter_mut().for_each(|relay| relay.sort());
    relays
}

/// A link that came up, and by which address.
#[derive(Debug)]
pub(crate) struct Winner {
    pub(crate) relay: RelayAddress,
    pub(crate) link: Arc<LinkShared>,
}

/// Tries the addresses in their order until a link is up, and again those that
/// have not answered; the error is what each of them came to.
pub(crate) async fn race(node: &Arc<Node>, relays: Vec<RelayAddress>) -> Result<Winner, String> {
    let ends_at = Instant::now() + RACE_TIMEOUT;
    let mut field = Field::new(relays, Instant::now());
    let mut running = FuturesUnordered::new();
    let mut errors = Vec::new();
    loop {
        if running.len() < RACERS_MAX
            && let Some(relay) = field.next(Instant::now())
        {
            running.push(attempt(node, relay));
            continue;
        }
        if running.is_empty() && field.is_out() {
            return Err(errors.join("; "));
        }
        let is_next_due = running.len() < RACERS_MAX && !field.is_out();
        tokio::select! {
            Some((relay, result)) = running.next() => match result {
                Ok(link) => return Ok(Winner { relay, link }),
                Err(error) => {
                    tracing::debug!(event = "link-failed", relay = %relay, error);
                    field.failed(&relay, Instant::now());
                    errors.push(format!("{relay}: {error}"));
                }
            },
            () = tokio::time::sleep_until(field.next_at), if is_next_due => {}
            () = tokio::time::sleep_until(ends_at) => {
                let seconds = RACE_TIMEOUT.as_secs();
                let silent = field.relays.iter();
                errors.extend(silent.map(|relay| format!("{relay}: no link within {seconds} s")));
                return Err(errors.join("; "));
            }
        }
    }
}

/// Who is to start next, and when.
struct Field {
    /// Those that have not failed; all of them start in each round.
    relays: Vec<RelayAddress>,
    waiting: VecDeque<RelayAddress>,
    round: usize,
    /// How long it is until the next round.
    again: Duration,
    next_at: Instant,
}

impl Field {
    fn new(relays: Vec<RelayAddress>, now: Instant) -> Self {
        Self {
            waiting: relays.iter().cloned().collect(),
            relays,
            round: 1,
            again: RACE_AGAIN,
            next_at: now,
        }
    }

    /// The next one, if its time has come.
    fn next(&mut self, now: Instant) -> Option<RelayAddress> {
        if now < self.next_at {
            return None;
        }
        if self.waiting.is_empty() && self.round < RACE_ROUNDS {
            self.round += 1;
            self.waiting.extend(self.relays.iter().cloned());
        }
        let next = self.waiting.pop_front()?;
        self.next_at = now + RACE_STEP;
        if self.waiting.is_empty() {
            self.next_at = now + self.again;
            self.again *= 2;
        }
        Some(next)
    }

    /// Nobody starts any more.
    fn is_out(&self) -> bool {
        self.waiting.is_empty() && (self.round == RACE_ROUNDS || self.relays.is_empty())
    }

    /// One that says no is not asked again; the next need not wait for it.
    fn failed(&mut self, relay: &RelayAddress, now: Instant) {
        self.relays.retain(|other| other != relay);
        self.waiting.retain(|other| other != relay);
        if !self.waiting.is_empty() {
            self.next_at = now;
        }
    }
}

async fn attempt(
    node: &Arc<Node>,
    relay: RelayAddress,
) -> (RelayAddress, Result<Arc<LinkShared>, String>) {
    let result = link_up(node, &relay).await;
    (relay, result)
}

/// A link that is coming up; ended when nobody wants it any more.
struct Starting(Option<Arc<LinkShared>>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.command(Command::Drain);
        }
    }
}

/// Connects, and waits until the relay has accepted the link's session.
async fn link_up(node: &Arc<Node>, relay: &RelayAddress) -> Result<Arc<LinkShared>, String> {
    let connected = node.connector.connect(relay).await;
    let io = connected.map_err(|error| told(&error))?;
    let (local, generation) = node.local();
    let link = LinkShared::new(LinkKind::Relay, relay.to_string(), generation);
    let conn = node
        .dial_on(link.clone(), 0, &Address::Relay, local)
        .map_err(|e| e.to_string())?;
    match io {
        Connected::Tcp(io) => {
            let driver = Driver::new(node.clone(), conn, io, None);
            node.tasks.spawn(driver.run());
        }
        Connected::Other(io) => {
            let driver = Driver::new(node.clone(), conn, io, None);
            node.tasks.spawn(driver.run());
        }
    }
    let mut starting = Starting(Some(link.clone()));
    let mut state = link.watch();
    let settled = state
        .wait_for(|state| !matches!(state, LinkState::Starting))
        .await;
    match settled.as_deref() {
        Ok(LinkState::Up { .. }) => {
            starting.0 = None;
            Ok(link.clone())
        }
        Ok(LinkState::Closed(why)) => Err(why.clone()),
        Ok(LinkState::Silent | LinkState::Draining) => Err("the relay is going away".to_owned()),
        Ok(LinkState::Starting) | Err(_) => Err("the link is gone".to_owned()),
    }
}

/// An error with all that led to it.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<RelayAddress> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn who_does_not_answer_is_asked_again_beside_the_first_attempt() {
        let begin = Instant::now();
        let mut field = Field::new(addresses(&["quic://a:7440", "a:7440"]), begin);
        let mut starts = Vec::new();
        while !field.is_out() {
            let at = field.next_at;
            assert!(field.next(at - Duration::from_millis(1)).is_none());
            let relay = field.next(at).unwrap();
            starts.push((relay.to_string(), (at - begin).as_millis()));
            if starts.len() == 5 {
                // The others are not asked to wait for it, nor it again.
                field.failed(&relay, at);
            }
        }
        let expected = [
            ("quic://a:7440", 0),
            ("a:7440", 300),
            ("quic://a:7440", 900),
            ("a:7440", 1_200),
            ("quic://a:7440", 2_400),
            ("a:7440", 2_400),
            ("a:7440", 4_800),
        ];
        let expected = expected.map(|(relay, at)| (relay.to_owned(), at));
        assert_eq!(starts, expected);
    }

    #[test]
    fn one_relay_has_one_address_for_each_transport() {
        let known = addresses(&[
            "wss://a:7443",
            "a:7440",
            "b:7440",
            "tls://a:7443",
            "quic://b:7440",
            "a:7450",
            "quic://a:7440",
        ]);
        let grouped = by_relay(&known);
        let expected = [
            addresses(&["quic://a:7440", "a:7440", "tls://a:7443", "wss://a:7443"]),
            addresses(&["quic://b:7440", "b:7440"]),
            addresses(&["a:7450"]),
        ];
        assert_eq!(grouped, expected);
        assert!(by_relay(&[]).is_empty());
    }
}
