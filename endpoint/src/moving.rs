//! Sessions that outlive their links: one whose circuit is gone, or is about to
//! go, gets another to the same process of the peer and moves there. Until then
//! it waits, with its streams and their bytes, for as long as its channel allows.
//!
//! The side that dialled opens the new circuit and moves; the other one waits
//! for it. While no link's driver looks after a session, a task of its own does.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use fairway_channel::{Batch, ConnectionId, PathId};
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{CircuitId, Instance};
use fairway_control::{Reason, reason};
use fairway_identity::Address;
use fairway_session::{Refusal, code};
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::conn::{Conn, Gone, Polled, Progress, lost};
use crate::dial::JoinedCircuit;
use crate::limits::{
    ABSENT_GRACE, ATTACH_FIRST, ATTACH_TIMEOUT, LEAVE_AFTER, LINKLESS_MAX, LINKLESS_PER_PEER_MAX,
    MOVE_BACKOFF_MAX, MOVE_BACKOFF_MIN,
};
use crate::link::{Command, LinkShared};
use crate::node::{Node, lock};

impl Node {
    /// A circuit of a session is gone, for this reason.
    pub(crate) fn path_gone(self: &Arc<Self>, conn: &Arc<Conn>, path: PathId, why: &Gone) {
        if conn.path_gone(path, why) {
            self.look_after(conn);
        }
    }

    /// Sees to it that a session that has no good circuit gets one, or ends. One
    /// task does it, however often it is asked.
    pub(crate) fn look_after(self: &Arc<Self>, conn: &Arc<Conn>) {
        if !conn.begin_moving() {
            return;
        }
        let Some(place) = self.waiting_place(conn) else {
            conn.lost(&lost("too many sessions wait for a link"));
            return;
        };
        let (node, conn) = (self.clone(), conn.clone());
        self.tasks.spawn(async move {
            node.keep_moving(&conn).await;
            drop(place);
        });
    }

    /// A session that a peer dialled may come back over another circuit.
    pub(crate) fn expect_back(&self, conn: &Arc<Conn>) {
        if conn.outgoing {
            return;
        }
        let Some(id) = conn.connection_id() else {
            return;
        };
        let mut sessions = lock(&self.returning);
        // Sweeps now and then instead of with each end of a session.
        if sessions.len().is_power_of_two() {
            sessions.retain(|_, conn| conn.strong_count() > 0);
        }
        sessions.insert(id, Arc::downgrade(conn));
    }

    /// The session that wants to come back over this circuit, or somebody who
    /// pretends to be: its channel finds out.
    pub(crate) fn returning(
        &self,
        id: &ConnectionId,
        link: Arc<LinkShared>,
        circuit: u32,
    ) -> Result<(Arc<Conn>, PathId), Reason> {
        let known = lock(&self.returning).get(id).and_then(Weak::upgrade);
        let conn = known.filter(|conn| !conn.is_closed()).ok_or_else(|| {
            Reason::new(reason::UNKNOWN_SESSION, "this process has no such session")
        })?;
        let path = conn
            .add_path(link, circuit)
            .ok_or_else(|| Reason::new(reason::OVERLOADED, "too many circuits for one session"))?;
        Ok((conn, path))
    }

    async fn keep_moving(self: &Arc<Self>, conn: &Arc<Conn>) {
        loop {
            let moved = async {
                if conn.outgoing {
                    self.find_path(conn).await;
                } else {
                    // Woken by its keeper's turn below.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = moved => {}
                () = self.drive_without_link(conn) => {}
                () = self.closing.cancelled() => {
                    if !conn.has_path() {
                        conn.lost(&Refusal::new(code::SHUTDOWN, "this endpoint is shutting down"));
                    }
                    return;
                }
            }
            conn.end_moving();
            // Something may have happened since it was looked at.
            if !conn.wants_path() || !conn.begin_moving() {
                return;
            }
        }
    }

    /// Looks for a circuit, again and again, and moves the session there.
    async fn find_path(self: &Arc<Self>, conn: &Arc<Conn>) {
        let Some((to, instance)) = conn.destination() else {
            return;
        };
        let mut backoff = Backoff::new(MOVE_BACKOFF_MIN, MOVE_BACKOFF_MAX);
        let mut links = self.links.subscribe();
        let mut absent_since = None;
        let mut patience = ATTACH_FIRST;
        while conn.wants_path() {
            links.borrow_and_update();
            match self.circuit_to(&to, instance).await {
                // It may have come back by itself.
                Ok(_) if !conn.wants_path() => return,
                Ok(joined) => match self.move_to(conn, joined, patience).await {
                    Ok(()) => continue,
                    Err(reason) if reason.word() == reason::UNKNOWN_SESSION => {
                        conn.unknown_to_peer();
                        return;
                    }
                    Err(reason) => {
                        tracing::debug!(event = "move", destination = %to, %reason);
                        patience = (patience * 2).min(ATTACH_TIMEOUT);
                    }
                },
                Err(absence) => {
                    tracing::debug!(event = "move", destination = %to, "{absence}");
                    if absence.is_final(&to, &mut absent_since) && !conn.has_path() {
                        conn.lost(&lost("the process at the other end is gone"));
                        return;
                    }
                }
            }
            tokio::select! {
                () = sleep(backoff.next_wait()) => {}
                Ok(()) = links.changed() => {}
            }
        }
    }

    /// A circuit on any of the links that are up.
    async fn circuit_to(&self, to: &Address, instance: Instance) -> Result<JoinedCircuit, Absence> {
        match timeout(ATTACH_TIMEOUT, self.ask_all(to, instance)).await {
            Ok(Ok(joined)) => Ok(joined),
            Ok(Err(None)) | Err(_) => Err(Absence::NoLink),
            Ok(Err(Some(reason))) => Err(match reason.word() {
                reason::NOT_HERE => Absence::NotHere,
                reason::OTHER_INSTANCE => Absence::OtherInstance,
                _ => Absence::Refused(reason),
            }),
        }
    }

    /// Moves a session to a circuit that was just opened for it. What it ran
    /// over before is left a little later: the peer may still be sending there.
    async fn move_to(
        self: &Arc<Self>,
        conn: &Arc<Conn>,
        mut joined: JoinedCircuit,
        patience: Duration,
    ) -> Result<(), Reason> {
        let (link, circuit) = (joined.link.clone(), joined.circuit);
        let Some((path, answer)) = conn.begin_attach(link.clone(), circuit.0) else {
            return Err(Reason::new(
                reason::OVERLOADED,
                "the session cannot move now",
            ));
        };
        link.command(Command::Attach {
            circuit,
            conn: conn.clone(),
            path,
        });
        joined.is_attached = true;
        let moved = match timeout(patience, answer).await {
            Ok(Ok(moved)) => moved,
            Ok(Err(_)) | Err(_) => Err(Reason::new(reason::LINK_LOST, "no answer on the new path")),
        };
        if let Err(reason) = moved {
            link.command(Command::Leave(circuit));
            return Err(reason);
        }
        self.metrics.sessions_moved.inc();
        tracing::info!(event = "moved", session = conn.id, relay = %link.remote, "a session goes on over another circuit");
        let conn = conn.clone();
        self.spawn(async move {
            sleep(LEAVE_AFTER).await;
            // By now it may have moved on: what is newer than this is not to be left.
            for old in conn.routes_before(path) {
                old.link.command(Command::Leave(CircuitId(old.circuit)));
            }
        });
        Ok(())
    }

    /// What a driver does for a session, without a link. Resolves when the
    /// session is over, or a driver has it again.
    async fn drive_without_link(self: &Arc<Self>, conn: &Arc<Conn>) {
        let mut batch = Batch::new(LINK_HEADER);
        let mut polled = Polled::default();
        let mut timer = pin!(sleep(Duration::ZERO));
        std::future::poll_fn(|cx| {
            // From here on, whatever happens wakes this task.
            conn.register_keeper(cx.waker());
            let now = self.clock.now();
            if timer.is_elapsed() {
                conn.timeout(now);
            }
            // No packets: there is nowhere to send them.
            batch.set_room(0);
            let at = loop {
                if let Progress::Drained(at) = conn.poll(now, None, &mut batch, &mut polled) {
                    break at;
                }
            };
            polled.settle(self);
            if conn.is_closed() || (!conn.outgoing && conn.has_path()) {
                return Poll::Ready(());
            }
            if let Some(at) = at {
                timer.as_mut().reset(self.clock.instant(at));
                if timer.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// A place among the sessions of others that wait for a link; this side's
    /// own are bounded with its calls. `None`: there are too many.
    fn waiting_place(&self, conn: &Conn) -> Option<Place> {
        if conn.outgoing || conn.has_path() {
            return Some(Place(None));
        }
        let whose = *conn.peer()?.instance();
        self.waiting.enter(whose).map(|place| Place(Some(place)))
    }
}

/// Why there was no circuit to a process just now.
#[derive(Debug, thiserror::Error)]
enum Absence {
    #[error("no link is up")]
    NoLink,
    #[error("nobody has the name at any relay")]
    NotHere,
    #[error("another process has the name")]
    OtherInstance,
    #[error("the relay refuses: {0}")]
    Refused(Reason),
}

impl Absence {
    /// Whether the process is not coming back. A device moves from relay to
    /// relay, and for a moment is at none; but there is one process of it, so
    /// another one means that it is gone. Workloads and the authority are at
    /// every relay, but for a moment after a relay or a link has come back.
    fn is_final(&self, to: &Address, absent_since: &mut Option<Instant>) -> bool {
        let is_unique = match to {
            Address::Device { .. } | Address::Pod { .. } => true,
            Address::Service { .. } | Address::Authority | Address::Relay => false,
        };
        let is_device = matches!(to, Address::Device { .. });
        match self {
            Self::OtherInstance if is_unique => true,
            Self::OtherInstance => is_long(absent_since),
            Self::NotHere if !is_device => is_long(absent_since),
            Self::NotHere | Self::NoLink | Self::Refused(_) => {
                *absent_since = None;
                false
            }
        }
    }
}

fn is_long(since: &mut Option<Instant>) -> bool {
    since.get_or_insert_with(Instant::now).elapsed() >= ABSENT_GRACE
}

/// Sessions that peers dialled and that wait for a link, by the peer's process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(Arc<Mutex<BTreeMap<[u8; 16], usize>>>);

/// Counts one of them while it lives.
#[derive(Debug)]
struct Place(Option<(Waiting, [u8; 16])>);

impl Waiting {
    fn enter(&self, whose: [u8; 16]) -> Option<(Self, [u8; 16])> {
        let mut places = lock(&self.0);
        let n_all: usize = places.values().sum();
        let n_own = places.get(&whose).copied().unwrap_or_default();
        if n_all >= LINKLESS_MAX || n_own >= LINKLESS_PER_PEER_MAX {
            return None;
        }
        *places.entry(whose).or_default() += 1;
        Some((self.clone(), whose))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((waiting, whose)) = self.0.take() else {
            return;
        };
        let mut places = lock(&waiting.0);
        if let Some(count) = places.get_mut(&whose) {
            *count -= 1;
            if *count == 0 {
                places.remove(&whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn when_a_process_is_gone_for_good() {
        let device = address("pump-7.factory.device.fairway.internal");
        let service = address("collector.factory.svc.fairway.internal");
        let mut since = None;
        assert!(Absence::OtherInstance.is_final(&device, &mut since));
        for absence in [Absence::NoLink, Absence::NotHere] {
            assert!(!absence.is_final(&device, &mut since));
            tokio::time::advance(ABSENT_GRACE * 10).await;
            assert!(!absence.is_final(&device, &mut since));
        }
        for absence in [Absence::OtherInstance, Absence::NotHere] {
            since = None;
            assert!(!absence.is_final(&service, &mut since));
            tokio::time::advance(ABSENT_GRACE / 2).await;
            // A link that went in between: its relay's word counts anew.
            assert!(!Absence::NoLink.is_final(&service, &mut since));
            tokio::time::advance(ABSENT_GRACE).await;
            assert!(!absence.is_final(&service, &mut since));
            tokio::time::advance(ABSENT_GRACE).await;
            assert!(absence.is_final(&service, &mut since));
        }
    }

    #[test]
    fn sessions_that_wait_are_bounded_by_peer_and_in_all() {
        let waiting = Waiting::default();
        let enter = |n: usize| {
            let mut whose = [0; 16];
            whose[..8].copy_from_slice(&n.to_be_bytes());
            waiting.enter(whose).map(|place| Place(Some(place)))
        };
        let own: Vec<_> = (0..100).filter_map(|_| enter(1)).collect();
        assert_eq!(own.len(), LINKLESS_PER_PEER_MAX);
        let all: Vec<_> = (2..20_000).filter_map(enter).collect();
        assert_eq!(all.len() + own.len(), LINKLESS_MAX);
        drop(own);
        assert!(enter(1).is_some());
        drop(all);
        assert!(lock(&waiting.0).is_empty());
    }
}
