//! One session on one circuit: the lock that streams and the link's driver share.
//!
//! Streams read and write under the lock and leave the sending to the driver:
//! a write marks the connection as dirty, and the driver's next turn collects
//! the packets of all dirty connections into one write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fairway_channel::{self as channel, Batch, ReadOutcome, StreamId};
use fairway_identity::VerifiedTrustSet;
use fairway_session::{
    AcceptError, Code, Event, Grant, OpenError, OpenRequest, OpenTarget, Output, PeerInfo, Refusal,
    Rules, Session, code,
};
use tokio::sync::watch;

use crate::clock::NodeClock;
use crate::limits::SESSION_IDLE;
use crate::link::LinkShared;
use crate::{Metrics, Stream, StreamError};

/// A session with a peer, and where it runs.
pub(crate) struct Conn {
    /// Unique in the process.
    pub(crate) id: u64,
    /// Whether this side dialled.
    pub(crate) outgoing: bool,
    /// The link that carries it.
    pub(crate) link: Arc<LinkShared>,
    /// The circuit on that link.
    pub(crate) circuit: u32,
    clock: Arc<NodeClock>,
    metrics: Metrics,
    /// There may be output that the driver has not seen.
    dirty: AtomicBool,
    state: watch::Sender<ConnState>,
    inner: Mutex<Inner>,
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
    closed: Option<Refusal>,
    /// Calls that wait until the peer allows another stream; bounded with the
    /// calls themselves.
    opening: Vec<Waker>,
}

/// What the handles of one stream wait for, and what ended it.
#[derive(Default)]
struct Slot {
    accepted: bool,
    accept_waker: Option<Waker>,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
    recv_error: Option<StreamError>,
    send_error: Option<StreamError>,
    /// Handles that live: two, one, and with none the slot goes.
    handles: u8,
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
            link,
            circuit,
            metrics,
            dirty: AtomicBool::new(false),
            state: watch::Sender::new(ConnState::Handshaking),
            inner: Mutex::new(Inner {
                session,
                streams: BTreeMap::new(),
                idle_since: Some(clock.mono()),
                closed: None,
                opening: Vec::new(),
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

    pub(crate) fn peer(&self) -> Option<PeerInfo> {
        match &*self.state.borrow() {
            ConnState::Ready(peer) => Some(peer.clone()),
            ConnState::Handshaking | ConnState::Closed(_) => None,
        }
    }

    pub(crate) fn n_streams(&self) -> usize {
        self.lock().streams.len()
    }

    /// Opens a stream, waiting while the peer allows no more at once. It has
    /// not said yes yet.
    pub(crate) async fn open(self: &Arc<Self>, request: &OpenRequest) -> Result<Stream, Refusal> {
        std::future::poll_fn(|cx| self.poll_open(cx, request)).await
    }

    fn poll_open(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        request: &OpenRequest,
    ) -> Poll<Result<Stream, Refusal>> {
        let mut inner = self.lock();
        if let Some(refusal) = &inner.closed {
            return Poll::Ready(Err(refusal.clone()));
        }
        let now = self.clock.now();
        let id = match inner.session.open(now, request) {
            Ok(id) => id,
            Err(OpenError::Channel(channel::OpenError::TooMany)) => {
                inner.opening.push(cx.waker().clone());
                return Poll::Pending;
            }
            Err(error) => return Poll::Ready(Err(not_opened(&error))),
        };
        let Some(peer) = inner.session.peer().cloned() else {
            return Poll::Ready(Err(not_opened(&OpenError::NotEstablished)));
        };
        inner.idle_since = None;
        inner.streams.insert(id, Slot::with_handles());
        drop(inner);
        self.metrics.streams.inc();
        self.mark_dirty();
        Poll::Ready(Ok(Stream::new(self, id, peer)))
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

    /// Feeds packets that came in. The caller polls afterwards.
    pub(crate) fn input(&self, packets: impl Iterator<Item = BytesMut>) {
        let mut inner = self.lock();
        let now = self.clock.now();
        for packet in packets {
            inner.session.handle_input(now, packet);
        }
    }

    /// A timer is due. The caller polls afterwards.
    pub(crate) fn timeout(&self) {
        let mut inner = self.lock();
        let now = self.clock.now();
        inner.session.handle_timeout(now);
        let idle = inner
            .idle_since
            .is_some_and(|since| now.mono.saturating_sub(since) >= SESSION_IDLE);
        if idle && self.circuit_may_idle_out() {
            inner
                .session
                .close(now, Refusal::new(Code::DONE, "no stream for a while"));
        }
    }

    /// Lets the session go on, until there are packets or nothing is left.
    pub(crate) fn poll(self: &Arc<Self>, batch: &mut Batch, polled: &mut Polled) -> Progress {
        self.dirty.store(false, Ordering::Release);
        let mut inner = self.lock();
        let now = self.clock.now();
        loop {
            match inner.session.poll_output(now, batch) {
                Output::Transmit => return Progress::Transmit,
                Output::Event(event) => self.on_event(&mut inner, event, polled),
                Output::Timeout(at) => return Progress::Drained(inner.next_timer(at)),
            }
        }
    }

    /// The link or circuit below is gone: everything ends here, nobody is told.
    pub(crate) fn lost(&self, refusal: &Refusal) {
        let mut wakers = Vec::new();
        let mut inner = self.lock();
        if inner.closed.is_none() {
            inner.end(refusal, &mut wakers);
            self.state.send_replace(ConnState::Closed(refusal.clone()));
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
            self.link.wake_for(self.circuit);
        }
    }

    fn on_event(self: &Arc<Self>, inner: &mut Inner, event: Event, polled: &mut Polled) {
        match event {
            Event::Established(peer) => {
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
                Some(slot) => polled.wakers.extend(slot.read_waker.take()),
                None => polled.notices.push(Notice::Readable(id)),
            },
            Event::Writable(id) => match inner.streams.get_mut(&id) {
                Some(slot) => polled.wakers.extend(slot.write_waker.take()),
                None => polled.notices.push(Notice::Writable),
            },
            Event::StreamsAvailable => polled.wakers.append(&mut inner.opening),
            Event::Finished(_) | Event::Datagram(_) | Event::Alive => {}
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
            Event::Closed { refusal, .. } => {
                inner.end(&refusal, &mut polled.wakers);
                self.state.send_replace(ConnState::Closed(refusal.clone()));
                polled.notices.push(Notice::Closed);
            }
        }
    }

    fn circuit_may_idle_out(&self) -> bool {
        !(self.link.is_relay_link() && self.circuit == 0)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while the lock is held")
    }
}

/// What stream handles do.
impl Conn {
    pub(crate) fn poll_accepted(
        &self,
        id: StreamId,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let mut inner = self.lock();
        let Some(slot) = inner.streams.get_mut(&id) else {
            return Poll::Ready(Err(StreamError::Finished));
        };
        if let Some(error) = slot.recv_error.as_ref().or(slot.send_error.as_ref()) {
            return Poll::Ready(Err(error.clone()));
        }
        if slot.accepted {
            return Poll::Ready(Ok(()));
        }
        slot.accept_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn poll_read(
        &self,
        id: StreamId,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Bytes) -> bool,
    ) -> Poll<Result<bool, StreamError>> {
        let mut taken = false;
        let mut inner = self.lock();
        let now = self.clock.now();
        let result = loop {
            match inner.session.read(now, id) {
                Ok(ReadOutcome::Chunk(chunk)) => {
                    taken = true;
                    if !take(chunk) {
                        break Poll::Ready(Ok(true));
                    }
                }
                _ if taken => break Poll::Ready(Ok(true)),
                Ok(ReadOutcome::Finished) => break Poll::Ready(Ok(false)),
                Ok(ReadOutcome::Empty) => break inner.wait_to_read(id, cx),
                Err(channel::StreamError::Reset(reason)) => {
                    break Poll::Ready(Err(StreamError::Reset(reason.into())));
                }
                Err(_) => break Poll::Ready(Err(inner.recv_error(id))),
            }
        };
        drop(inner);
        if taken {
            self.mark_dirty();
        }
        result
    }

    pub(crate) fn poll_write(
        &self,
        id: StreamId,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), StreamError>> {
        let mut inner = self.lock();
        if let Some(error) = inner.send_error(id) {
            return Poll::Ready(Err(error));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let now = self.clock.now();
        let n = match inner.session.write(now, id, data) {
            Ok(n) => n,
            Err(channel::StreamError::Stopped(reason)) => {
                return Poll::Ready(Err(StreamError::Stopped(reason.into())));
            }
            Err(_) => return Poll::Ready(Err(StreamError::Finished)),
        };
        let result = if data.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            if let Some(slot) = inner.streams.get_mut(&id) {
                slot.write_waker = Some(cx.waker().clone());
            }
            Poll::Pending
        };
        drop(inner);
        if n > 0 {
            self.mark_dirty();
        }
        result
    }

    pub(crate) fn accept(&self, grant: &Grant) -> Result<(), Refusal> {
        self.with_session(|session, now| session.accept(now, grant))
            .map_err(|e| match e {
                AcceptError::Ended(refusal) => refusal,
                AcceptError::ForeignGrant | AcceptError::Channel(_) => {
                    Refusal::new(code::CANCELLED, e.to_string())
                }
            })
    }

    pub(crate) fn finish(&self, id: StreamId) {
        // Already over: nothing is left to finish.
        let _ = self.with_session(|session, now| session.finish(now, id));
    }

    pub(crate) fn stop(&self, id: StreamId, refusal: &Refusal) {
        self.with_session(|session, now| session.stop(now, id, refusal));
    }

    pub(crate) fn reset(&self, id: StreamId, refusal: &Refusal) {
        let mut wakers = Vec::new();
        let mut inner = self.lock();
        let now = self.clock.now();
        inner.session.reset(now, id, refusal);
        if let Some(slot) = inner.streams.get_mut(&id) {
            slot.send_error.get_or_insert(StreamError::Finished);
            slot.recv_error
                .get_or_insert_with(|| StreamError::Ended(refusal.clone()));
            slot.take_wakers(&mut wakers);
        }
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        self.mark_dirty();
    }

    /// A handle of the stream was dropped.
    pub(crate) fn release(&self, id: StreamId) {
        let mut inner = self.lock();
        let Some(slot) = inner.streams.get_mut(&id) else {
            return;
        };
        slot.handles = slot.handles.saturating_sub(1);
        if slot.handles > 0 {
            return;
        }
        inner.streams.remove(&id);
        self.metrics.streams.dec();
        if inner.streams.is_empty() {
            inner.idle_since = Some(self.clock.mono());
            drop(inner);
            // The driver has to hear of the new timer.
            self.mark_dirty();
        }
    }

    fn with_session<T>(&self, act: impl FnOnce(&mut Session, fairway_session::Now) -> T) -> T {
        let mut inner = self.lock();
        let now = self.clock.now();
        let result = act(&mut inner.session, now);
        drop(inner);
        self.mark_dirty();
        result
    }
}

impl Inner {
    fn next_timer(&self, session: Option<Duration>) -> Option<Duration> {
        let idle = self.idle_since.map(|since| since + SESSION_IDLE);
        match (session, idle) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn wait_to_read(
        &mut self,
        id: StreamId,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, StreamError>> {
        match self.streams.get_mut(&id) {
            Some(Slot {
                recv_error: Some(error),
                ..
            }) => Poll::Ready(Err(error.clone())),
            Some(slot) => {
                slot.read_waker = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(Err(StreamError::Finished)),
        }
    }

    fn recv_error(&self, id: StreamId) -> StreamError {
        let known = self
            .streams
            .get(&id)
            .and_then(|slot| slot.recv_error.clone());
        let closed = || self.closed.clone().map(StreamError::SessionClosed);
        known.or_else(closed).unwrap_or(StreamError::Finished)
    }

    fn send_error(&self, id: StreamId) -> Option<StreamError> {
        let known = self
            .streams
            .get(&id)
            .and_then(|slot| slot.send_error.clone());
        known.or_else(|| self.closed.clone().map(StreamError::SessionClosed))
    }

    /// The session is over: so are all streams.
    fn end(&mut self, refusal: &Refusal, wakers: &mut Vec<Waker>) {
        self.closed = Some(refusal.clone());
        wakers.append(&mut self.opening);
        for slot in self.streams.values_mut() {
            let error = || StreamError::SessionClosed(refusal.clone());
            slot.recv_error.get_or_insert_with(error);
            slot.send_error.get_or_insert_with(error);
            slot.take_wakers(wakers);
        }
    }
}

impl Slot {
    fn with_handles() -> Self {
        Self {
            handles: 2,
            ..Self::default()
        }
    }

    fn take_wakers(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.accept_waker.take());
        wakers.extend(self.read_waker.take());
        wakers.extend(self.write_waker.take());
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.id)
            .field("circuit", &self.circuit)
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
