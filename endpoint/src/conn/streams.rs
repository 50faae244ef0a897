//! What the handles of streams do: each call takes the session's lock, and
//! leaves a waker behind if it has to wait.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use fairway_channel::{self as channel, ReadOutcome, StreamId};
use fairway_session::{AcceptError, Grant, Now, OpenError, OpenRequest, Refusal, Session, code};

use super::datagrams::Datagrams;
use super::{Conn, Inner, not_opened};
use crate::limits::EARLY_MAX;
use crate::{Stream, StreamError};

/// What the handles of one stream wait for, and what ended it.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) accepted: bool,
    pub(super) accept_waker: Option<Waker>,
    pub(super) read_waker: Option<Waker>,
    pub(super) write_waker: Option<Waker>,
    pub(super) recv_error: Option<StreamError>,
    pub(super) send_error: Option<StreamError>,
    /// Boxed: few streams have any.
    pub(super) datagrams: Option<Box<Datagrams>>,
    /// All that the peer sent was read, and its end has come.
    pub(super) is_read_out: bool,
    /// Handles that live: two, one, and with none the slot goes.
    handles: u8,
}

impl Conn {
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
        let mut waits_for_end = None;
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
                Ok(ReadOutcome::Finished) => {
                    waits_for_end = inner.read_out(id);
                    break Poll::Ready(Ok(taken));
                }
                _ if taken => break Poll::Ready(Ok(true)),
                Ok(ReadOutcome::Empty) => break inner.wait_to_read(id, cx),
                // The session has said so, and may have forgotten the stream.
                Err(_) if inner.is_read_out(id) => break Poll::Ready(Ok(false)),
                Err(channel::StreamError::Reset(reason)) => {
                    break Poll::Ready(Err(StreamError::Reset(reason.into())));
                }
                Err(_) if inner.is_ending() => break inner.wait_to_read(id, cx),
                Err(_) => break Poll::Ready(Err(inner.recv_error(id))),
            }
        };
        // Credit is given back by the quarter of a window, so seldom.
        let owes_credit = taken && inner.session.owes_credit(id);
        drop(inner);
        if let Some(waker) = waits_for_end {
            waker.wake();
        }
        if owes_credit {
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
            Err(_) if inner.is_ending() => return inner.wait_to_write(id, cx),
            Err(_) => return Poll::Ready(Err(StreamError::Finished)),
        };
        let result = match data.is_empty() {
            true => Poll::Ready(Ok(())),
            false => inner.wait_to_write(id, cx),
        };
        drop(inner);
        if n > 0 {
            self.mark_dirty();
        }
        result
    }

    pub(crate) fn accept(&self, grant: &Grant) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let now = self.clock.now();
        inner.session.accept(now, grant).map_err(|e| match e {
            AcceptError::Ended(refusal) => refusal,
            AcceptError::ForeignGrant | AcceptError::Channel(_) => {
                Refusal::new(code::CANCELLED, e.to_string())
            }
        })?;
        let n_early = inner.session.readable(grant.stream());
        drop(inner);
        if (1..EARLY_MAX as u64).contains(&n_early) {
            // Who has asked the app something, and had room for more, waits for
            // the app: the yes may go along with its answer.
            self.mark_dirty_soon();
        } else {
            self.mark_dirty();
        }
        Ok(())
    }

    pub(crate) fn finish(&self, id: StreamId) {
        let mut inner = self.lock();
        let now = self.clock.now();
        // Already over: nothing is left to finish.
        let _ = inner.session.finish(now, id);
        let is_reply = inner.is_read_out(id);
        drop(inner);
        if is_reply {
            // The peer was the first to end it, and has nothing more to do.
            self.mark_dirty_soon();
        } else {
            self.mark_dirty();
        }
    }

    pub(crate) fn stop(&self, id: StreamId, refusal: &Refusal) {
        let mut inner = self.lock();
        let now = self.clock.now();
        inner.session.stop(now, id, refusal);
        if let Some(slot) = inner.streams.get_mut(&id) {
            slot.datagrams = None;
        }
        drop(inner);
        self.mark_dirty();
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

    pub(crate) fn with_session<T>(&self, act: impl FnOnce(&mut Session, Now) -> T) -> T {
        let mut inner = self.lock();
        let now = self.clock.now();
        let result = act(&mut inner.session, now);
        drop(inner);
        self.mark_dirty();
        result
    }
}

impl Inner {
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

    fn wait_to_write(
        &mut self,
        id: StreamId,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        match self.streams.get_mut(&id) {
            Some(slot) => {
                slot.write_waker = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(Err(StreamError::Finished)),
        }
    }

    fn is_read_out(&self, id: StreamId) -> bool {
        let slot = self.streams.get(&id);
        slot.is_some_and(|slot| slot.is_read_out)
    }

    /// The session is over, and who drives it is about to learn why: all streams
    /// are told then.
    pub(super) fn is_ending(&self) -> bool {
        self.closed.is_none() && self.session.is_closed()
    }

    pub(super) fn recv_error(&self, id: StreamId) -> StreamError {
        let known = self
            .streams
            .get(&id)
            .and_then(|slot| slot.recv_error.clone());
        let closed = || self.closed.clone().map(StreamError::SessionClosed);
        known.or_else(closed).unwrap_or(StreamError::Finished)
    }

    pub(super) fn send_error(&self, id: StreamId) -> Option<StreamError> {
        let known = self
            .streams
            .get(&id)
            .and_then(|slot| slot.send_error.clone());
        known.or_else(|| self.closed.clone().map(StreamError::SessionClosed))
    }
}

impl Slot {
    pub(super) fn with_handles() -> Self {
        Self {
            handles: 2,
            ..Self::default()
        }
    }

    pub(super) fn take_wakers(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.accept_waker.take());
        wakers.extend(self.read_waker.take());
        wakers.extend(self.write_waker.take());
        wakers.extend(self.take_datagram_waker());
        if self.recv_error.is_some() {
            // As with what was not read: nobody gets it any more.
            self.datagrams = None;
        }
    }
}
