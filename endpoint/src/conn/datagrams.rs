//! Datagrams of streams: what the handles do with them, and what is kept.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use fairway_channel::{self as channel, StreamId};
use fairway_session as session;
use prometheus_client::metrics::counter::Counter;

use super::streams::Slot;
use super::{Conn, Inner};
use crate::limits::DATAGRAMS_KEPT_MAX;
use crate::{DatagramError, StreamError};

/// What came for one stream, from the first time that somebody asked.
#[derive(Default)]
pub(super) struct Datagrams {
    /// At most [`DATAGRAMS_KEPT_MAX`], oldest first.
    kept: VecDeque<Bytes>,
    waker: Option<Waker>,
}

impl Conn {
    pub(crate) fn send_datagram(&self, id: StreamId, data: &[u8]) -> Result<(), DatagramError> {
        let mut inner = self.lock();
        if let Some(error) = inner.send_error(id) {
            return Err(DatagramError::Over(error));
        }
        let now = self.clock.now();
        inner
            .session
            .send_datagram(now, id, data)
            .map_err(not_sent)?;
        drop(inner);
        self.mark_dirty();
        Ok(())
    }

    pub(crate) fn poll_recv_datagram(
        &self,
        id: StreamId,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        let mut inner = self.lock();
        let is_ending = inner.is_ending();
        let Inner {
            session, streams, ..
        } = &mut *inner;
        let Some(slot) = streams.get_mut(&id) else {
            return Poll::Ready(Err(StreamError::Finished));
        };
        if let Some(next) = slot.datagrams.as_mut().and_then(|d| d.kept.pop_front()) {
            return Poll::Ready(Ok(Some(next)));
        }
        if !slot.is_read_out
            && let Some(error) = &slot.recv_error
        {
            return Poll::Ready(Err(error.clone()));
        }
        let is_over = slot.is_read_out
            || match session.is_read_out(id) {
                Ok(is_read_out) => is_read_out,
                // Who asks before the yes misses none that come after it.
                Err(channel::StreamError::NotAccepted) => false,
                Err(channel::StreamError::Reset(reason)) => {
                    return Poll::Ready(Err(StreamError::Reset(reason.into())));
                }
                Err(_) if is_ending => false,
                Err(_) => return Poll::Ready(Err(inner.recv_error(id))),
            };
        if is_over {
            slot.datagrams = None;
            return Poll::Ready(Ok(None));
        }
        slot.datagrams.get_or_insert_default().waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Inner {
    /// Keeps it, if somebody has asked; the answer is who waits for it. What had
    /// no room, or nobody wants, is counted.
    pub(super) fn keep_datagram(
        &mut self,
        id: StreamId,
        data: Bytes,
        n_dropped: &Counter,
    ) -> Option<Waker> {
        let slot = self.streams.get_mut(&id);
        let Some(datagrams) = slot.and_then(|slot| slot.datagrams.as_mut()) else {
            n_dropped.inc();
            return None;
        };
        if datagrams.keep(data).is_some() {
            n_dropped.inc();
        }
        datagrams.waker.take()
    }

    /// The end of what the peer sends was read; the answer is who waits for that.
    pub(super) fn read_out(&mut self, id: StreamId) -> Option<Waker> {
        let slot = self.streams.get_mut(&id)?;
        slot.is_read_out = true;
        slot.take_datagram_waker()
    }
}

impl Slot {
    /// Who waits for a datagram; there may be one, or the end.
    pub(super) fn take_datagram_waker(&mut self) -> Option<Waker> {
        self.datagrams.as_mut()?.waker.take()
    }
}

impl Datagrams {
    /// The answer is what had to give way.
    fn keep(&mut self, data: Bytes) -> Option<Bytes> {
        let is_full = self.kept.len() >= DATAGRAMS_KEPT_MAX;
        let oldest = is_full.then(|| self.kept.pop_front()).flatten();
        self.kept.push_back(data);
        oldest
    }
}

fn not_sent(error: session::DatagramError) -> DatagramError {
    use session::DatagramError as E;
    match error {
        E::TooLong { length } => DatagramError::TooLong { length },
        E::QueueFull => DatagramError::QueueFull,
        E::NotAccepted => DatagramError::NotAccepted,
        E::HttpPoliced => DatagramError::HttpPoliced,
        E::Over(channel::StreamError::Stopped(reason)) => {
            DatagramError::Over(StreamError::Stopped(reason.into()))
        }
        E::Over(_) => DatagramError::Over(StreamError::Finished),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One is held for each stream, idle ones too, of which most ask for no
    /// datagram.
    #[test]
    fn a_stream_that_asks_for_none_holds_a_pointer() {
        let slot = size_of::<Slot>();
        assert!(slot <= 144, "{slot}");
        assert_eq!(size_of::<Option<Box<Datagrams>>>(), size_of::<usize>());
    }

    #[test]
    fn the_oldest_give_way() {
        let mut datagrams = Datagrams::default();
        for n in 0..DATAGRAMS_KEPT_MAX as u8 + 2 {
            datagrams.keep(Bytes::copy_from_slice(&[n]));
        }
        assert_eq!(datagrams.kept.len(), DATAGRAMS_KEPT_MAX);
        assert_eq!(datagrams.kept[0], [2][..]);
    }
}
