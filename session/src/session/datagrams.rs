//! Datagrams: each belongs to a stream, and what policy said to the stream's
//! OPEN is what allows it (SPEC.md section 4.1).

use bytes::Bytes;
use fairway_channel::{self as channel, StreamError, StreamId};
use thiserror::Error;

use super::{Role, Session};
use crate::code::{self, Refusal};
use crate::event::Event;
use crate::limits::DATAGRAM_MAX;
use crate::local::Now;

/// A datagram was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DatagramError {
    /// It does not fit; it never will.
    #[error("the datagram has {length} bytes, at most {DATAGRAM_MAX} fit")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The path is slower than the datagrams. A later one may get through.
    #[error("the datagram queue is full; this one was dropped")]
    QueueFull,
    /// The peer's stream waits for an answer: accept it first.
    #[error("the stream has not been accepted yet; accept it first")]
    NotAccepted,
    /// Policy looks at what goes over this stream, and could not look at this.
    #[error("policy looks at HTTP on this stream, so it takes no datagrams")]
    HttpPoliced,
    /// Nothing can be sent on this stream any more.
    #[error("nothing can be sent on the stream")]
    Over(#[source] StreamError),
}

impl Session {
    /// Sends up to [`DATAGRAM_MAX`] bytes that may get lost, and may overtake
    /// each other and what is written to the stream. Nothing is ever sent twice.
    ///
    /// # Errors
    /// See [`DatagramError`]; the datagram is gone.
    pub fn send_datagram(
        &mut self,
        now: Now,
        stream: StreamId,
        data: &[u8],
    ) -> Result<(), DatagramError> {
        if data.len() > DATAGRAM_MAX {
            return Err(DatagramError::TooLong { length: data.len() });
        }
        self.channel
            .check_sending(stream)
            .map_err(|error| match error {
                StreamError::NotAccepted => DatagramError::NotAccepted,
                other => DatagramError::Over(other),
            })?;
        if !self.takes_datagrams(stream) {
            return Err(DatagramError::HttpPoliced);
        }
        // Of just this size, so that it becomes `Bytes` as it is.
        let mut whole = Vec::with_capacity(stream.size() + data.len());
        stream.put(&mut whole);
        whole.extend_from_slice(data);
        self.channel
            .send_datagram(now.mono, whole.into())
            .map_err(|error| match error {
                channel::DatagramError::QueueFull => DatagramError::QueueFull,
                channel::DatagramError::TooLong { length } => DatagramError::TooLong { length },
                // The channel has ended, and its streams will have with it.
                channel::DatagramError::NotReady => DatagramError::Over(StreamError::Unknown),
            })
    }

    /// What a peer does that does not keep to the rules above.
    #[cfg(test)]
    pub(crate) fn send_datagram_unchecked(&mut self, now: Now, whole: Vec<u8>) {
        self.channel
            .send_datagram(now.mono, whole.into())
            .expect("the channel has room for a datagram");
    }

    /// Shows a datagram of the peer, or drops it: what belongs to no stream that
    /// is open is nobody's, and nothing waits for policy to decide.
    pub(super) fn on_datagram(&mut self, now: Now, whole: Bytes) {
        let mut rest = &whole[..];
        let Some(stream) = StreamId::take(&mut rest) else {
            let text = "a datagram that does not begin with the id of a stream";
            return self.end(now, Refusal::new(code::MALFORMED, text));
        };
        // A short id leaves room for more than may be sent.
        let fits = rest.len() <= DATAGRAM_MAX;
        if fits && self.channel.is_receiving(stream) && self.takes_datagrams(stream) {
            let data = whole.slice_ref(rest);
            self.events.push_back(Event::Datagram { stream, data });
        }
    }

    /// Whether what goes over this stream may pass unseen: not where policy looks
    /// at HTTP. Only the answering side knows.
    fn takes_datagrams(&self, stream: StreamId) -> bool {
        match self.role {
            Role::Dialler(_) => true,
            Role::Answerer(_) => self.live.takes_datagrams(stream),
        }
    }
}
