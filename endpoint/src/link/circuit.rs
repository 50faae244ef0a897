//! What a driver knows of each circuit.

use std::collections::BTreeSet;
use std::sync::Arc;

use fairway_channel::PathId;
use fairway_control::Reason;
use fairway_control::link::{ReceiveCredit, SendCredit};
use fairway_identity::Address;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::conn::Conn;

/// One circuit of a link.
pub(super) struct Circuit {
    /// The session on it, and which of its paths this is; none between the
    /// relay's yes and the dialler's choice, and before the first packet of
    /// one that came in.
    pub(super) conn: Option<(Arc<Conn>, PathId)>,
    /// The name that was dialled, for the session of the first packet.
    pub(super) dialled: Option<Address>,
    /// What may go out.
    pub(super) send: SendCredit,
    /// What may come in.
    pub(super) receive: ReceiveCredit,
    /// Who waits for the relay's answer.
    pub(super) reply: Option<oneshot::Sender<Result<(), Reason>>>,
    /// The session's timer, as it stands in [`Timers`].
    pub(super) timer: Option<Instant>,
    /// Whether it stands in the driver's queue.
    pub(super) is_ready: bool,
    /// Whether it waits for the socket.
    pub(super) is_held: bool,
    /// Whether somebody dialled it and has not shown who they are.
    pub(super) is_half_open: bool,
}

/// The timers of all circuits, in order.
#[derive(Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, u32)>,
}

impl Circuit {
    pub(super) fn new(conn: Option<(Arc<Conn>, PathId)>) -> Self {
        Self {
            conn,
            dialled: None,
            send: SendCredit::new(),
            receive: ReceiveCredit::new(),
            reply: None,
            timer: None,
            is_ready: false,
            is_held: false,
            is_half_open: false,
        }
    }
}

impl Timers {
    /// Moves a circuit's timer from `current` to `at`.
    pub(super) fn set(&mut self, circuit: u32, current: &mut Option<Instant>, at: Option<Instant>) {
        if *current == at {
            return;
        }
        if let Some(old) = current.take() {
            self.by_time.remove(&(old, circuit));
        }
        if let Some(at) = at {
            self.by_time.insert((at, circuit));
        }
        *current = at;
    }

    /// The earliest.
    pub(super) fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|&(at, _)| at)
    }

    /// Takes one circuit whose time has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, circuit) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        Some(circuit)
    }
}
