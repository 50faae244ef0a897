//! One session: the lock that streams and the drivers of its circuits share.
//!
//! Streams read and write under the lock and leave the sending to the driver:
//! a write marks the connection as dirty, and the driver's next turn collects
//! the packets of all dirty connections into one write.
//!
//! A session is not bound to a circuit: its `routes` say over which it runs,
//! `paths` moves it from one to another, and `crate::moving` decides when.

mod datagrams;
mod paths;
mod routes;
mod streams;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fairway_channel::{Batch, PathId, ReadOutcome, StreamId};
use fairway_control::Reason;
use fairway_identity::VerifiedTrustSet;
use fairway_session::{
    ClosedBy, Code, Event, Grant, Local, Now, OpenError, OpenRequest, OpenTarget, Output, PeerInfo,
    Refusal, Rules, Session, code,
};
use tokio::sync::{oneshot, watch};

pub(crate) use self::paths::Gone;
use self::routes::Routes;
use self::streams::Slot;
use crate::clock::NodeClock;
use crate::limits::{ANONYMOUS_SESSION_MAX, SESSION_IDLE};
use crate::link::{Command, LinkKind, LinkShared};
use crate::node::Node;
use crate::{Metrics, Stream, StreamError};

/// A session with a peer, and where it runs.
pub(crate) struct Conn {
    /// Unique in the process.
    pub(crate) id: u64,
    /// Whether this side dialled.
    pub(crate) outgoing: bool,
    /// What it is bound to.
    pub(crate) bond: Bond,
    routes: Routes,
    /// It shows our own credential, and each new one.
    follows_identity: AtomicBool,
    /// A task looks after it, or is about to.
    is_moving: AtomicBool,
    /// Its circuit is to be left, though it still works.
    is_asked_to_move: AtomicBool,
    /// Nothing is acknowledged on its circuit.
    is_silent: AtomicBool,
    clock: Arc<NodeClock>,
    metrics: Metrics,
    /// There may be output that the driver has not seen.
    dirty: AtomicBool,
    /// The same, but it may wait for company.
    dirty_soon: AtomicBool,
    state: watch::Sender<ConnState>,
    inner: Mutex<Inner>,
}

/// What a session is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bond {
    /// It is the link's own, with a relay.
    Link,
    /// It has a link to itself, to the authority's front, and ends with it.
    Direct,
    /// To nothing: it runs over one circuit or another.
    Free,
}

/// How far a session is.
#[derive(Clone, Debug)]
pub(crate) enum ConnState {
    /// The handshake is under way.
    Handshaking,
    /// Streams may be opened.
    Ready(PeerInfo),
    /// Over.
    Closed(Refusal),
}

struct Inner {
    session: Session,
    streams: BTreeMap<StreamId, Slot>,
    /// Since when there has been no stream (monotonic).
    idle_since: Option<Duration>,
    /// When it ends whatever happens (monotonic): a peer without a credential.
    ends_at: Option<Duration>,
    closed: Option<Refusal>,
    /// The peer's word why, where the end came from there.
    refused: Option<Refusal>,
    /// Why it has lost the circuit that it ran over last.
    gone: Option<Refusal>,
    /// Calls that wait until the peer allows another stream; bounded with the
    /// calls themselves.
    opening: Vec<Waker>,
    /// Who waits for a path to prove itself.
    attaching: Option<(PathId, oneshot::Sender<Result<(), Reason>>)>,
}

/// What came out of a session besides packets; filled by [`Conn::poll`] and
/// acted on after the lock is gone.
#[derive(Default)]
pub(crate) struct Polled {
    /// To be woken.
    pub(crate) wakers: Vec<Waker>,
    /// To be handed to the application.
    pub(crate) incoming: Vec<Opened>,
    /// A newer trust set.
    pub(crate) learned: Option<VerifiedTrustSet>,
    /// For the driver: events of the session, and of streams that it holds itself.
    pub(crate) notices: Vec<Notice>,
}

/// A stream that the peer opened and session allowed.
pub(crate) struct Opened {
    pub(crate) grant: Grant,
    pub(crate) open: OpenRequest,
    pub(crate) stream: Stream,
}

/// What concerns the driver.
#[derive(Debug)]
pub(crate) enum Notice {
    Established(PeerInfo),
    Readable(StreamId),
    Writable,
    /// A stream of the driver's own is over.
    StreamOver(StreamId, Refusal),
    /// Nothing is acknowledged on the active path.
    Silent,
    /// The peer has shown that it is there: on a path that was silent, or as
    /// the answer to a question.
    Alive,
    Closed,
}

/// The answer of [`Conn::poll`].
#[derive(Debug)]
pub(crate) enum Progress {
    /// Packets were added to the batch: account for them and poll again.
    Transmit,
    /// Nothing more; a timer is due at this monotonic time.
    Drained(Option<Duration>),
}

impl Polled {
    /// Does what needs no driver; what is left is for one.
    pub(crate) fn settle(&mut self, node: &Arc<Node>) {
        self.wakers.drain(..).for_each(Waker::wake);
        if let Some(trust) = self.learned.take() {
            node.learn_trust(trust);
        }
        for opened in self.incoming.drain(..) {
            node.dispatch(opened);
        }
    }
}

impl Conn {
    pub(crate) fn new(
        session: Session,
        outgoing: bool,
        link: Arc<LinkShared>,
        circuit: u32,
        clock: Arc<NodeClock>,
        metrics: Metrics,
    ) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            outgoing,
            metrics,
            dirty: AtomicBool::new(false),
            dirty_soon: AtomicBool::new(false),
            bond: match (circuit, link.kind) {
                (0, LinkKind::Relay) => Bond::Link,
                (0, LinkKind::Direct | LinkKind::Accepted) => Bond::Direct,
                _ => Bond::Free,
            },
            routes: Routes::new(link, circuit),
            follows_identity: AtomicBool::new(false),
            is_moving: AtomicBool::new(false),
            is_asked_to_move: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            state: watch::Sender::new(ConnState::Handshaking),
            inner: Mutex::new(Inner {
                session,
                streams: BTreeMap::new(),
                idle_since: Some(clock.mono()),
                ends_at: None,
                closed: None,
                refused: None,
                gone: None,
                opening: Vec::new(),
                attaching: None,
            }),
            clock,
        })
    }

    // --- for whoever opens streams ---

    /// Resolves once the session is ready, or over.
    pub(crate) async fn ready(&self) -> Result<PeerInfo, Refusal> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                ConnState::Handshaking => {}
                ConnState::Ready(peer) => return Ok(peer.clone()),
                ConnState::Closed(refusal) => return Err(refusal.clone()),
            }
            if state.changed().await.is_err() {
                return Err(lost("the session is gone"));
            }
        }
    }

    /// Resolves once the session is over.
    pub(crate) async fn closed(&self) -> Refusal {
        let mut state = self.state.subscribe();
        let closed = state.wait_for(|s| matches!(s, ConnState::Closed(_))).await;
        match closed.as_deref() {
            Ok(ConnState::Closed(refusal)) => refusal.clone(),
            Ok(ConnState::Handshaking | ConnState::Ready(_)) | Err(_) => {
                lost("the session is gone")
            }
        }
    }

    pub(crate) fn state(&self) -> ConnState {
        self.state.borrow().clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.state.borrow(), ConnState::Closed(_))
    }

    /// Why it is over, if it is.
    pub(crate) fn closed_now(&self) -> Option<Refusal> {
        match &*self.state.borrow() {
            ConnState::Closed(refusal) => Some(refusal.clone()),
            ConnState::Handshaking | ConnState::Ready(_) => None,
        }
    }

    /// Why the peer ended it, if it was the peer.
    pub(crate) fn refused_by_peer(&self) -> Option<Refusal> {
        self.lock().refused.clone()
    }

    pub(crate) fn peer(&self) -> Option<PeerInfo> {
        match &*self.state.borrow() {
            ConnState::Ready(peer) => Some(peer.clone()),
            ConnState::Handshaking | ConnState::Closed(_) => None,
        }
    }

    pub(crate) fn n_streams(&self) -> usize {
        self.lock().streams.len()
    }

    /// Opens a stream whose reading and writing the driver does itself, by
    /// [`read`](Self::driver_read) and [`write`](Self::driver_write).
    pub(crate) fn open_for_driver(&self, request: &OpenRequest) -> Result<StreamId, Refusal> {
        let mut inner = self.lock();
        let now = self.clock.now();
        let id = inner
            .session
            .open(now, request)
            .map_err(|e| not_opened(&e))?;
        inner.idle_since = None;
        drop(inner);
        self.mark_dirty();
        Ok(id)
    }

    /// From now on the session is renewed with each new credential of ours.
    pub(crate) fn follow_identity(&self) {
        self.follows_identity.store(true, Ordering::Release);
    }

    /// There is a new credential.
    pub(crate) fn set_local(&self, local: &Local) {
        if self.follows_identity.load(Ordering::Acquire) {
            self.with_session(|session, now| session.set_local(now, local.clone()));
        }
    }

    /// What it shows is no longer good, and there is nothing else to show.
    pub(crate) fn end_with_identity(&self, refusal: &Refusal) {
        if self.follows_identity.load(Ordering::Acquire) {
            self.close(refusal.clone());
        }
    }

    /// New rules: streams and session that they do not allow end.
    pub(crate) fn set_rules(&self, rules: Rules) {
        self.with_session(|session, now| session.set_rules(now, rules));
    }

    /// A newer trust set: the session ends if its peer does not hold under it.
    pub(crate) fn set_trust(&self, trust: VerifiedTrustSet) {
        self.with_session(|session, now| session.set_trust(now, trust));
    }

    /// Ends the session and tells the peer why.
    pub(crate) fn close(&self, refusal: Refusal) {
        self.with_session(|session, now| session.close(now, refusal));
    }

    // --- for the driver ---

    /// Feeds packets that came in on a path. The caller polls afterwards.
    pub(crate) fn input(&self, now: Now, path: PathId, packets: impl Iterator<Item = BytesMut>) {
        let mut inner = self.lock();
        for packet in packets {
            inner.session.handle_input(now, path, packet);
        }
    }

    /// A timer is due. The caller polls afterwards.
    pub(crate) fn timeout(&self, now: Now) {
        let mut inner = self.lock();
        inner.session.handle_timeout(now);
        let idle = inner.idle_since.map(|since| since + SESSION_IDLE);
        let is_past = |at: Option<Duration>| at.is_some_and(|at| now.mono >= at);
        let why = if is_past(inner.ends_at) {
            "time without a credential is over"
        } else if is_past(idle) && self.bond != Bond::Link {
            "no stream for a while"
        } else {
            return;
        };
        inner.session.close(now, Refusal::new(Code::DONE, why));
    }

    /// Gives back what the session keeps for speed.
    pub(crate) fn release_memory(&self) {
        self.lock().session.release_memory();
    }

    /// Lets the session go on, until there are packets for `path` or nothing is
    /// left. Without a path (the batch has no room then) there are no packets.
    pub(crate) fn poll(
        self: &Arc<Self>,
        now: Now,
        path: Option<PathId>,
        batch: &mut Batch,
        polled: &mut Polled,
    ) -> Progress {
        self.dirty.store(false, Ordering::Release);
        self.dirty_soon.store(false, Ordering::Release);
        if let Some(path) = path {
            batch.set_path(path);
        }
        let mut inner = self.lock();
        loop {
            match inner.session.poll_output(now, batch) {
                Output::Transmit { .. } => return Progress::Transmit,
                Output::Event(event) => self.on_event(&mut inner, event, polled),
                Output::Timeout(at) => {
                    // What happened here may be for another driver to send.
                    if self.routes.are_many()
                        && let Some(other) = inner.session.pending_path()
                        && Some(other) != path
                    {
                        self.routes.wake_path(other);
                    }
                    return Progress::Drained(inner.next_timer(at));
                }
            }
        }
    }

    /// Everything ends here, nobody is told: there is no way to the peer.
    pub(crate) fn lost(&self, refusal: &Refusal) {
        let mut wakers = Vec::new();
        let mut inner = self.lock();
        if inner.closed.is_none() {
            inner.end(refusal, &mut wakers);
            self.set_closed(refusal);
        }
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn driver_read(&self, id: StreamId) -> Result<ReadOutcome, Refusal> {
        let mut inner = self.lock();
        let now = self.clock.now();
        inner
            .session
            .read(now, id)
            .map_err(|e| lost(&e.to_string()))
    }

    pub(crate) fn driver_write(&self, id: StreamId, data: &mut Bytes) -> Result<usize, Refusal> {
        let mut inner = self.lock();
        let now = self.clock.now();
        inner
            .session
            .write(now, id, data)
            .map_err(|e| lost(&e.to_string()))
    }

    /// Tells the driver that there may be output.
    pub(crate) fn mark_dirty(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.routes.wake();
        }
    }

    /// The same for something small that nobody waits for: it goes along with
    /// what is said next, or by itself after [`LINGER`](crate::limits::LINGER).
    pub(crate) fn mark_dirty_soon(&self) {
        if !self.dirty.load(Ordering::Acquire) && !self.dirty_soon.swap(true, Ordering::AcqRel) {
            self.routes.wake_soon();
        }
    }

    fn on_event(self: &Arc<Self>, inner: &mut Inner, event: Event, polled: &mut Polled) {
        match event {
            Event::Established(peer) => {
                self.metrics.sessions.inc();
                if peer.verified().is_none() && !self.outgoing {
                    inner.ends_at = Some(self.clock.mono() + ANONYMOUS_SESSION_MAX);
                }
                self.state.send_replace(ConnState::Ready(peer.clone()));
                polled.notices.push(Notice::Established(peer));
            }
            Event::TrustSetLearned(trust) => polled.learned = Some(trust),
            Event::Incoming {
                stream,
                grant,
                open,
            } => {
                inner.idle_since = None;
                inner.streams.insert(stream, Slot::with_handles());
                self.metrics.streams.inc();
                let stream = Stream::new(self, stream, grant.peer().clone());
                polled.incoming.push(Opened {
                    grant,
                    open,
                    stream,
                });
            }
            Event::Accepted(id) => {
                if let Some(slot) = inner.streams.get_mut(&id) {
                    slot.accepted = true;
                    polled.wakers.extend(slot.accept_waker.take());
                }
            }
            Event::Readable(id) => match inner.streams.get_mut(&id) {
                Some(slot) => {
                    polled.wakers.extend(slot.read_waker.take());
                    polled.wakers.extend(slot.take_datagram_waker());
                }
                None => polled.notices.push(Notice::Readable(id)),
            },
            Event::Writable(id) => match inner.streams.get_mut(&id) {
                Some(slot) => polled.wakers.extend(slot.write_waker.take()),
                None => polled.notices.push(Notice::Writable),
            },
            Event::StreamsAvailable => polled.wakers.append(&mut inner.opening),
            Event::Finished(_) => {}
            Event::Datagram { stream, data } => {
                let n_dropped = &self.metrics.stream_datagrams_dropped;
                polled
                    .wakers
                    .extend(inner.keep_datagram(stream, data, n_dropped));
            }
            Event::Alive => polled.notices.push(Notice::Alive),
            Event::Renewed(peer) => {
                self.state.send_replace(ConnState::Ready(peer));
            }
            Event::Reset { stream, refusal } => match inner.streams.get_mut(&stream) {
                Some(slot) => {
                    slot.recv_error.get_or_insert(StreamError::Reset(refusal));
                    slot.take_wakers(&mut polled.wakers);
                }
                None => polled.notices.push(Notice::StreamOver(stream, refusal)),
            },
            Event::Stopped { stream, refusal } => match inner.streams.get_mut(&stream) {
                Some(slot) => {
                    slot.send_error.get_or_insert(StreamError::Stopped(refusal));
                    slot.take_wakers(&mut polled.wakers);
                }
                None => polled.notices.push(Notice::StreamOver(stream, refusal)),
            },
            Event::Ended { stream, refusal } => {
                if let Some(slot) = inner.streams.get_mut(&stream) {
                    slot.recv_error
                        .get_or_insert(StreamError::Ended(refusal.clone()));
                    slot.send_error.get_or_insert(StreamError::Ended(refusal));
                    slot.take_wakers(&mut polled.wakers);
                }
            }
            Event::Refused {
                peer,
                target,
                refusal,
                decision,
                ..
            } => {
                self.metrics.streams_refused.inc();
                log_refused(&peer, target, &refusal, decision.as_deref());
            }
            Event::PathActive { path } => self.on_path_active(inner, path),
            Event::PathFailed { path } => self.on_path_failed(inner, path),
            Event::PathSilent { path } => {
                self.is_silent.store(true, Ordering::Release);
                if let Some(route) = self.routes.get(path) {
                    route.link.command(Command::Doubt);
                }
                polled.notices.push(Notice::Silent);
            }
            Event::PathRecovered { .. } => {
                self.is_silent.store(false, Ordering::Release);
                polled.notices.push(Notice::Alive);
            }
            Event::Closed { by, refusal } => {
                inner.refused = (by == ClosedBy::Peer).then(|| refusal.clone());
                inner.end(&refusal, &mut polled.wakers);
                self.set_closed(&refusal);
                // Drivers of its other circuits take it off them.
                self.routes.wake();
                polled.notices.push(Notice::Closed);
            }
        }
    }

    fn set_closed(&self, refusal: &Refusal) {
        let before = self.state.send_replace(ConnState::Closed(refusal.clone()));
        if matches!(before, ConnState::Ready(_)) {
            self.metrics.sessions.dec();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while the lock is held")
    }
}

impl Inner {
    fn next_timer(&self, session: Option<Duration>) -> Option<Duration> {
        if self.closed.is_some() {
            return session;
        }
        let idle = self.idle_since.map(|since| since + SESSION_IDLE);
        [session, idle, self.ends_at].into_iter().flatten().min()
    }

    /// The session is over: so are all streams.
    fn end(&mut self, refusal: &Refusal, wakers: &mut Vec<Waker>) {
        self.closed = Some(refusal.clone());
        self.attaching = None;
        wakers.append(&mut self.opening);
        for slot in self.streams.values_mut() {
            let error = || StreamError::SessionClosed(refusal.clone());
            slot.recv_error.get_or_insert_with(error);
            slot.send_error.get_or_insert_with(error);
            slot.take_wakers(wakers);
        }
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.id)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

fn not_opened(error: &OpenError) -> Refusal {
    Refusal::new(code::CANCELLED, error.to_string())
}

fn log_refused(
    peer: &PeerInfo,
    target: Option<OpenTarget>,
    refusal: &Refusal,
    decision: Option<&fairway_policy::Decision>,
) {
    let port = match target {
        Some(OpenTarget::Port(port)) => Some(port),
        Some(OpenTarget::Control) | None => None,
    };
    let policy = decision
        .and_then(|d| d.by.as_ref())
        .map(ToString::to_string);
    tracing::info!(
        event = "connection",
        peer = %peer,
        destination = %peer.dialled(),
        port,
        policy,
        decision = "refused",
        reason = refusal.word(),
        "refused: {refusal}"
    );
}

/// Something below the session went away.
pub(crate) fn lost(text: &str) -> Refusal {
    Refusal::new(code::LINK_LOST, text)
}
