//! The side of a link that everybody may touch; its driver has the other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use fairway_identity::Transport;
use futures::task::AtomicWaker;

use super::control::Control;
use super::outbound::Outbound;
use super::socket::Sink;
use crate::core::{LinkId, Time};

/// A link, as other links' drivers see it.
///
/// Locks are taken in this order, and none is held while another link's is
/// taken: `control`, `out`, and then the core's.
#[derive(Debug)]
pub(super) struct Link {
    /// Unique in the process; in order of acceptance.
    pub(super) seq: u64,
    pub(super) remote: SocketAddr,
    pub(super) transport: Transport,
    pub(super) socket: Sink,
    control: Mutex<Control>,
    out: Mutex<Outbound>,
    id: OnceLock<LinkId>,
    waker: AtomicWaker,
    /// The driver waits for the socket to take more.
    pub(super) is_armed: AtomicBool,
    /// When the driver wakes by itself, in microseconds; for those who changed
    /// the session's timer.
    wakes_at_micros: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
}

impl Link {
    pub(super) fn new(
        seq: u64,
        remote: SocketAddr,
        transport: Transport,
        socket: Sink,
        control: Control,
    ) -> Self {
        Self {
            seq,
            remote,
            transport,
            socket,
            control: Mutex::new(control),
            out: Mutex::default(),
            id: OnceLock::new(),
            waker: AtomicWaker::new(),
            is_armed: AtomicBool::new(false),
            wakes_at_micros: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    /// Its id in the core, once it is authenticated.
    pub(super) fn id(&self) -> Option<LinkId> {
        self.id.get().copied()
    }

    pub(super) fn set_id(&self, id: LinkId) {
        // A session is established once.
        let _ = self.id.set(id);
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control
            .lock()
            .expect("no panic while the lock is held")
    }

    pub(super) fn out(&self) -> MutexGuard<'_, Outbound> {
        self.out.lock().expect("no panic while the lock is held")
    }

    /// The driver looks at everything again.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    pub(super) fn register(&self, cx: &std::task::Context<'_>) {
        self.waker.register(cx.waker());
    }

    pub(super) fn set_wakes_at(&self, at: Option<Time>) {
        let micros = at.map_or(u64::MAX, micros);
        self.wakes_at_micros.store(micros, Ordering::Relaxed);
    }

    /// Whether the driver would sleep through `at`.
    pub(super) fn would_miss(&self, at: Option<Time>) -> bool {
        at.is_some_and(|at| micros(at) < self.wakes_at_micros.load(Ordering::Relaxed))
    }
}

fn micros(at: Time) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}
