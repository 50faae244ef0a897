//! The side of a link that everybody may touch; its driver has the other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use fairway_channel::PathId;
use fairway_control::Reason;
use fairway_control::link::{CircuitId, Instance};
use fairway_identity::Address;
use futures::task::AtomicWaker;
use tokio::sync::{oneshot, watch};

use crate::conn::{Conn, Gone, lost};

/// A link as others see it.
pub(crate) struct LinkShared {
    /// Unique in the process.
    pub(crate) id: u64,
    pub(crate) kind: LinkKind,
    /// Who is at the other end, as configured.
    pub(crate) remote: String,
    /// Which credential of ours it was made with.
    pub(crate) generation: u64,
    next_circuit: AtomicU32,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    state: watch::Sender<LinkState>,
    /// It may be dead without saying so.
    is_doubtful: watch::Sender<bool>,
}

/// What is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// A relay; circuit 0 is the session with it.
    Relay,
    /// The authority's front, dialled by us; circuit 0 is the session.
    Direct,
    /// Somebody who dialled our front.
    Accepted,
}

/// How far a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Handshake under way.
    Starting,
    /// Circuits may be opened.
    Up {
        /// Names that the relay sends to us, in text.
        registered: Arc<[Address]>,
    },
    /// Nothing is heard from the other end: no new circuits, and those that
    /// there are look for others.
    Silent,
    /// No new circuits; closes with the last one.
    Draining,
    /// Over, and why.
    Closed(String),
}

/// What the driver is asked to do.
pub(crate) enum Command {
    /// Open a circuit, to one instance if it says which. With `conn`, its
    /// packets go out at once.
    Open {
        circuit: CircuitId,
        destination: Address,
        instance: Option<Instance>,
        conn: Option<Arc<Conn>>,
        reply: oneshot::Sender<Result<(), Reason>>,
    },
    /// The session for a circuit that was opened without one, and which of its
    /// paths that is.
    Attach {
        circuit: CircuitId,
        conn: Arc<Conn>,
        path: PathId,
    },
    /// The caller that a circuit was opened for went away.
    Abandon(CircuitId),
    /// The session of this circuit has moved to another.
    Leave(CircuitId),
    /// A session gets no answer over this link.
    Doubt,
    /// These names, and no others, are wanted here.
    Names(Arc<[Address]>),
    /// No new circuits; close with the last one.
    Drain,
}

#[derive(Default)]
struct Queue {
    is_closed: bool,
    dirty: Vec<u32>,
    dirty_soon: Vec<u32>,
    commands: VecDeque<Command>,
}

impl LinkShared {
    pub(crate) fn new(kind: LinkKind, remote: String, generation: u64) -> Arc<Self> {
        static NEXT_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            kind,
            remote,
            generation,
            next_circuit: AtomicU32::new(CircuitId::FIRST_OF_ENDPOINT.0),
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
            state: watch::Sender::new(LinkState::Starting),
            is_doubtful: watch::Sender::default(),
        })
    }

    /// A circuit id that was not used before; `None` once they are used up.
    pub(crate) fn take_circuit(&self) -> Option<CircuitId> {
        let taken = self
            .next_circuit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| {
                CircuitId(id).next().map(|next| next.0)
            });
        taken.ok().map(CircuitId)
    }

    /// Asks the driver. Commands are few: one for each call that waits, and
    /// calls are bounded.
    /// A link that has ended drops them, and so tells whoever waits.
    pub(crate) fn command(&self, command: Command) {
        let mut queue = self.lock();
        if !queue.is_closed {
            queue.commands.push_back(command);
            drop(queue);
            self.waker.wake();
            return;
        }
        drop(queue);
        if let Command::Attach { conn, path, .. } = command {
            let why = lost("the link ended before the circuit was used");
            // Whoever moves it looks for another circuit.
            conn.path_gone(path, &Gone::from(&why));
        }
    }

    /// The connection on this circuit may have output.
    pub(crate) fn wake_for(&self, circuit: u32) {
        let mut queue = self.lock();
        if !queue.is_closed {
            queue.dirty.push(circuit);
            drop(queue);
            self.waker.wake();
        }
    }

    /// The same, but it need not go by itself yet.
    pub(crate) fn wake_soon_for(&self, circuit: u32) {
        let mut queue = self.lock();
        if !queue.is_closed {
            queue.dirty_soon.push(circuit);
            drop(queue);
            // For the timer.
            self.waker.wake();
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    pub(crate) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Up { .. })
    }

    /// Resolves once it is over, or as good as that.
    pub(crate) async fn failed(&self) {
        let mut state = self.watch();
        let failed = |state: &LinkState| match state {
            LinkState::Silent | LinkState::Closed(_) => true,
            LinkState::Starting | LinkState::Up { .. } | LinkState::Draining => false,
        };
        let _ = state.wait_for(failed).await;
    }

    /// Whether it may be dead; changes both ways.
    pub(crate) fn watch_doubt(&self) -> watch::Receiver<bool> {
        self.is_doubtful.subscribe()
    }

    pub(super) fn set_doubtful(&self, is_doubtful: bool) {
        self.is_doubtful
            .send_if_modified(|doubt| std::mem::replace(doubt, is_doubtful) != is_doubtful);
    }

    pub(super) fn set_state(&self, state: LinkState) {
        self.state.send_if_modified(|old| {
            // The first reason is the one to keep.
            if *old == state || matches!(old, LinkState::Closed(_)) {
                return false;
            }
            *old = state;
            true
        });
    }

    /// Everything asked for since the last time; dirty circuits go into `dirty`,
    /// those that may wait into `soon`.
    pub(super) fn take_work(
        &self,
        cx: &mut std::task::Context<'_>,
        dirty: &mut Vec<u32>,
        soon: &mut Vec<u32>,
    ) -> VecDeque<Command> {
        self.waker.register(cx.waker());
        let mut queue = self.lock();
        dirty.append(&mut queue.dirty);
        soon.append(&mut queue.dirty_soon);
        std::mem::take(&mut queue.commands)
    }

    /// The driver is gone.
    pub(super) fn close(&self, why: String) {
        self.set_state(LinkState::Closed(why));
        let mut queue = self.lock();
        queue.is_closed = true;
        let commands = std::mem::take(&mut queue.commands);
        drop(queue);
        // Now that it is closed, each is dropped.
        for command in commands {
            self.command(command);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic while the lock is held")
    }
}

impl std::fmt::Debug for LinkShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkShared")
            .field("id", &self.id)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}
