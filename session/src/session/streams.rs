//! Streams: what this side does with them, and who may open one.

use bytes::Bytes;
use fairway_channel::{Priority, ReadOutcome, StreamError, StreamId};

use super::{AcceptError, OpenError, Role, Session};
use crate::code::{self, Refusal};
use crate::event::Event;
use crate::grant::{Denied, Grant};
use crate::live::Half;
use crate::local::Now;
use crate::open::{OpenRequest, OpenTarget};

impl Session {
    /// Opens a stream to the peer. Data may be written before the peer
    /// accepts.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&mut self, now: Now, request: &OpenRequest) -> Result<StreamId, OpenError> {
        if let Role::Answerer(_) = self.role {
            return Err(OpenError::WrongSide);
        }
        if !self.is_established() {
            return Err(OpenError::NotEstablished);
        }
        match request.target {
            OpenTarget::Port(_) if self.local.is_anonymous() => Err(OpenError::NoCredential),
            OpenTarget::Port(_) | OpenTarget::Control => {
                Ok(self.channel.open(now.mono, request.to_bytes())?)
            }
        }
    }

    /// What a peer does that does not keep to the rules above.
    #[cfg(test)]
    pub(crate) fn open_unchecked(&mut self, now: Now, header: Vec<u8>) -> StreamId {
        self.channel
            .open(now.mono, header)
            .expect("the channel has room for a stream")
    }

    /// Accepts the stream that the grant is for.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub fn accept(&mut self, now: Now, grant: &Grant) -> Result<(), AcceptError> {
        if !grant.is_of(&self.live) {
            return Err(AcceptError::ForeignGrant);
        }
        if let Some(refusal) = grant.ended() {
            return Err(AcceptError::Ended(refusal));
        }
        Ok(self.channel.accept(now.mono, grant.stream())?)
    }

    /// Takes as much of `data` as there is room for, advances it, and says how
    /// much. Less than all: wait for [`Event::Writable`].
    ///
    /// # Errors
    /// The sending half is over.
    pub fn write(
        &mut self,
        now: Now,
        stream: StreamId,
        data: &mut Bytes,
    ) -> Result<usize, StreamError> {
        self.channel.write(now.mono, stream, data)
    }

    /// The next bytes of a stream; gives credit back to the peer.
    ///
    /// # Errors
    /// The receiving half is over, other than in good order.
    pub fn read(&mut self, now: Now, stream: StreamId) -> Result<ReadOutcome, StreamError> {
        let outcome = self.channel.read(now.mono, stream);
        if let Ok(ReadOutcome::Finished) | Err(StreamError::Reset(_)) = &outcome {
            self.live.half_ended(stream, Half::Receiving);
        }
        outcome
    }

    /// Whether the reads of a stream so far have left credit to be given back.
    pub fn owes_credit(&self, stream: StreamId) -> bool {
        self.channel.owes_credit(stream)
    }

    /// How many bytes of a stream have come and were not read yet, also before
    /// it is accepted.
    pub fn readable(&self, stream: StreamId) -> u64 {
        self.channel.readable(stream)
    }

    /// Whether all of a stream has been read and its end has come, for owners who
    /// wait for that without reading. While it is not so, [`Event::Readable`]
    /// follows when something comes.
    ///
    /// # Errors
    /// The receiving half is over, other than in good order.
    pub fn is_read_out(&mut self, stream: StreamId) -> Result<bool, StreamError> {
        self.channel.is_read_out(stream)
    }

    /// Ends the sending half in good order.
    ///
    /// # Errors
    /// The sending half is over already.
    pub fn finish(&mut self, now: Now, stream: StreamId) -> Result<(), StreamError> {
        // It is alive until all has arrived (`Event::Finished`): until then a
        // change of the rules can still hold something back.
        self.channel.finish(now.mono, stream)
    }

    /// Ends both halves at once; also refuses a stream that was not accepted.
    pub fn reset(&mut self, now: Now, stream: StreamId, refusal: &Refusal) {
        self.live.remove(stream, refusal);
        self.channel.reset(now.mono, stream, refusal.to_reason());
    }

    /// Wants nothing more from the peer on this stream.
    pub fn stop(&mut self, now: Now, stream: StreamId, refusal: &Refusal) {
        self.live.half_ended(stream, Half::Receiving);
        self.channel.stop(now.mono, stream, refusal.to_reason());
    }

    /// How soon a stream of either side gets its turn when several have
    /// something to send. Local: the peer is not told.
    pub fn set_priority(&mut self, now: Now, stream: StreamId, priority: Priority) {
        self.channel.set_priority(now.mono, stream, priority);
    }

    pub(super) fn on_opened(&mut self, now: Now, stream: StreamId, header: &[u8]) {
        let Some(peer) = self.peer().cloned() else {
            let text = "a stream before the session was established";
            return self.end(now, Refusal::new(code::MALFORMED, text));
        };
        let open = OpenRequest::from_bytes(header)
            .map_err(|error| Refusal::new(code::MALFORMED, format!("the OPEN header: {error}")));
        let target = open.as_ref().ok().map(|open| open.target);
        let answer = match (&self.role, open) {
            (Role::Dialler(_), _) => Err(Denied::from(Refusal::new(
                code::WRONG_DIRECTION,
                "only the side that dialled opens streams",
            ))),
            (Role::Answerer(_), Err(refusal)) => Err(Denied::from(refusal)),
            (Role::Answerer(_), Ok(open)) => {
                Grant::decide(stream, &peer, &open, &self.live).map(|grant| (grant, open))
            }
        };
        self.events.push_back(match answer {
            Ok((grant, open)) => Event::Incoming {
                stream,
                grant,
                open,
            },
            Err(Denied { refusal, decision }) => {
                self.channel.reset(now.mono, stream, refusal.to_reason());
                Event::Refused {
                    stream,
                    peer,
                    target,
                    refusal,
                    decision,
                }
            }
        });
    }
}
