//! From one circuit to another.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use fairway_channel::{ConnectionId, PathId};
use fairway_control::Reason;
use fairway_control::link::Instance;
use fairway_identity::Address;
use fairway_session::{Refusal, code};
use tokio::sync::oneshot;

use super::routes::Route;
use super::{Bond, Conn, ConnState, Inner, lost};
use crate::link::LinkShared;

/// Why a circuit is gone, for those who wait for it and for the session.
#[derive(Clone, Debug)]
pub(crate) struct Gone {
    reason: Reason,
    refusal: Refusal,
}

impl From<&Reason> for Gone {
    fn from(reason: &Reason) -> Self {
        let mut codes = code::ALL.iter();
        let refusal = match codes.find(|(_, word)| *word == reason.word()) {
            Some((code, _)) => Refusal::new(*code, reason.text()),
            None => lost(&reason.to_string()),
        };
        Self {
            refusal,
            reason: reason.clone(),
        }
    }
}

impl From<&Refusal> for Gone {
    fn from(refusal: &Refusal) -> Self {
        Self {
            reason: Reason::new(refusal.word(), refusal.text.to_string()),
            refusal: refusal.clone(),
        }
    }
}

/// The answer to an attempt to move.
pub(crate) type Moved = oneshot::Receiver<Result<(), Reason>>;

impl Conn {
    /// Names the session where it comes back; `None` before it is established.
    pub(crate) fn connection_id(&self) -> Option<ConnectionId> {
        self.lock().session.connection_id()
    }

    /// Where the same process of the peer is to be found again.
    pub(crate) fn destination(&self) -> Option<(Address, Instance)> {
        let peer = self.peer()?;
        Some((peer.dialled().clone(), Instance(*peer.instance())))
    }

    /// The link that the session was made on, if it still has it.
    pub(crate) fn first_link(&self) -> Option<Arc<LinkShared>> {
        self.routes.get(PathId::FIRST).map(|route| route.link)
    }

    /// Whether traffic has a way to the peer.
    pub(crate) fn has_path(&self) -> bool {
        self.lock().session.active_path().is_some()
    }

    /// Whether the session needs another circuit: it has none, or the one it
    /// has is about to go.
    pub(crate) fn wants_path(&self) -> bool {
        // One that is not established yet ends with its circuit.
        if !self.outlives_circuits() {
            return false;
        }
        let active = self.lock().session.active_path();
        let Some(route) = active.and_then(|path| self.routes.get(path)) else {
            return true;
        };
        // The side that answers only waits.
        let is_asked = self.is_asked_to_move.load(Ordering::Acquire);
        let is_silent = self.is_silent.load(Ordering::Acquire);
        self.outgoing && (is_asked || is_silent || !route.link.is_up())
    }

    /// The circuit that this path runs over is to be left for another.
    pub(crate) fn ask_to_move(&self, path: PathId) {
        let is_active = self.lock().session.active_path() == Some(path);
        if is_active {
            self.is_asked_to_move.store(true, Ordering::Release);
        }
    }

    /// Claims the task of looking after the session; `false` if somebody has it.
    pub(crate) fn begin_moving(&self) -> bool {
        !self.is_moving.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_moving(&self) {
        self.is_moving.store(false, Ordering::Release);
    }

    /// Tries another circuit: traffic goes there once the peer has answered on
    /// it. `None`: the session is over, or has too many already.
    pub(crate) fn begin_attach(
        &self,
        link: Arc<LinkShared>,
        circuit: u32,
    ) -> Option<(PathId, Moved)> {
        let (sender, answer) = oneshot::channel();
        let mut inner = self.lock();
        let active = inner.session.active_path();
        let path = self.routes.add(link, circuit, active)?;
        let now = self.clock.now();
        if inner.closed.is_some() || inner.session.attach(now, path).is_err() {
            drop(inner);
            self.routes.remove(path);
            return None;
        }
        inner.attaching = Some((path, sender));
        Some((path, answer))
    }

    /// The peer comes over another circuit, or somebody pretends to: the
    /// session finds out. `None`: there are too many of these.
    pub(crate) fn add_path(&self, link: Arc<LinkShared>, circuit: u32) -> Option<PathId> {
        let active = self.lock().session.active_path();
        self.routes.add(link, circuit, active)
    }

    /// Whether the peer has shown itself on this path.
    pub(crate) fn is_proven(&self, path: PathId) -> bool {
        if path == PathId::FIRST {
            return !matches!(*self.state.borrow(), ConnState::Handshaking);
        }
        self.routes.get(path).is_some_and(|route| route.is_proven)
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn ping(&self) {
        self.with_session(|session, now| session.ping(now));
    }

    /// A circuit is gone. `true`: the session has none now, and somebody has
    /// to look after it.
    pub(crate) fn path_gone(&self, path: PathId, why: &Gone) -> bool {
        let mut wakers = Vec::new();
        let mut inner = self.lock();
        self.routes.remove(path);
        if let Some((_, waiting)) = inner.attaching.take_if(|(at, _)| *at == path) {
            let _ = waiting.send(Err(why.reason.clone()));
        }
        if inner.closed.is_some() {
            return false;
        }
        if !self.outlives_circuits() {
            inner.end(&why.refusal, &mut wakers);
            self.set_closed(&why.refusal);
            drop(inner);
            wakers.into_iter().for_each(Waker::wake);
            return false;
        }
        if inner.session.active_path() == Some(path) {
            inner.gone = Some(why.refusal.clone());
        }
        let now = self.clock.now();
        inner.session.path_lost(now, path);
        let waits = inner.session.active_path().is_none();
        drop(inner);
        self.mark_dirty();
        waits
    }

    /// The other end does not have the session any more. Why is in what was
    /// said when the circuit was closed, if the peer's own last words are lost.
    pub(crate) fn unknown_to_peer(&self) {
        let gone = self.lock().gone.take();
        let why = gone.filter(|refusal| refusal.code != code::LINK_LOST);
        let text = "the other end does not have this session any more";
        self.lost(&why.unwrap_or_else(|| lost(text)));
    }

    /// Whether it is worth keeping without a circuit: both sides know each
    /// other, and the caller is somebody.
    fn outlives_circuits(&self) -> bool {
        let is_known = match &*self.state.borrow() {
            ConnState::Ready(peer) => self.outgoing || peer.verified().is_some(),
            ConnState::Handshaking | ConnState::Closed(_) => false,
        };
        is_known && self.bond == Bond::Free
    }

    /// All circuits that it had before the one of `path`.
    pub(crate) fn routes_before(&self, path: PathId) -> Vec<Route> {
        let mut routes = self.routes.all();
        routes.retain(|route| route.path < path);
        routes
    }

    /// This task is woken, too, when something happens.
    pub(crate) fn register_keeper(&self, waker: &Waker) {
        self.routes.register_keeper(waker);
    }

    pub(super) fn on_path_active(&self, inner: &mut Inner, path: PathId) {
        self.is_asked_to_move.store(false, Ordering::Release);
        self.is_silent.store(false, Ordering::Release);
        self.routes.prove(path);
        if let Some((_, waiting)) = inner.attaching.take_if(|(at, _)| *at == path) {
            let _ = waiting.send(Ok(()));
        }
        // Whoever looks after it, and the driver that has it now.
        self.routes.wake();
    }

    pub(super) fn on_path_failed(&self, inner: &mut Inner, path: PathId) {
        if let Some((_, waiting)) = inner.attaching.take_if(|(at, _)| *at == path) {
            let text = "the peer did not answer on the new path";
            let _ = waiting.send(Err(Reason::new("link-lost", text)));
        }
    }
}
