//! What a channel tells its owner.

use core::fmt;

use bytes::Bytes;

use crate::{PathId, StreamId, Time, limits};

/// The answer of [`Channel::poll_output`](crate::Channel::poll_output).
#[derive(Debug)]
pub enum Output {
    /// Packets were put into the batch: send them, clear the batch, poll again.
    Transmit {
        /// The path that they must go out on: all that were added by this call.
        path: PathId,
    },
    /// Something happened. Poll again.
    Event(Event),
    /// All is drained. Call [`Channel::handle_timeout`](crate::Channel::handle_timeout)
    /// at this time, unless something else happens first. `None`: the channel
    /// waits for nothing (it is closed, or all of its timers are off).
    Timeout(Option<Time>),
}

/// Something the owner of the channel should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer showed who it is. Check it and answer with
    /// [`Channel::proceed`](crate::Channel::proceed), or refuse it with
    /// [`Channel::close`](crate::Channel::close). The initiator gets two (of
    /// message 2, and of the HELLO frame), the responder one (of message 3).
    PeerHello {
        /// The X25519 key that the handshake proved the peer to have.
        /// For the initiator's first hello it is proven by the handshake's
        /// `ee`, `es` exchange, as for the others.
        static_key: [u8; 32],
        /// The opaque bytes that it sent, at most [`limits::MAX_HELLO`].
        hello: Vec<u8>,
        /// Whether this is the last hello of this peer: the one to admit on.
        last: bool,
    },
    /// Both sides are done with their hellos as far as this side knows:
    /// streams may be opened from now on.
    Ready,
    /// The peer opened a stream. Answer with
    /// [`Channel::accept`](crate::Channel::accept) or
    /// [`Channel::reset`](crate::Channel::reset).
    Opened {
        /// The new stream.
        stream: StreamId,
        /// The opaque header the peer sent, at most [`limits::MAX_OPEN_HEADER`].
        header: Vec<u8>,
    },
    /// The peer accepted a stream that this side opened.
    Accepted(StreamId),
    /// There is something to read (data or the end). Comes again only after
    /// `read` answered `Empty`.
    Readable(StreamId),
    /// There is room to write again, after `write` took less than all.
    Writable(StreamId),
    /// All that was written and the end after it have been acknowledged.
    Finished(StreamId),
    /// The peer gave up its sending half: nothing more can be read.
    Reset {
        /// The stream.
        stream: StreamId,
        /// What the peer said.
        reason: Reason,
    },
    /// The peer wants nothing more of this stream: nothing more can be
    /// written. What was not delivered yet is thrown away.
    Stopped {
        /// The stream.
        stream: StreamId,
        /// What the peer said.
        reason: Reason,
    },
    /// The peer allows more streams, after [`Channel::open`](crate::Channel::open)
    /// was refused with [`OpenError::TooMany`](crate::OpenError::TooMany).
    StreamsAvailable,
    /// A datagram of the peer.
    Datagram(Bytes),
    /// The peer answered a [`Channel::ping`](crate::Channel::ping).
    Alive,
    /// Traffic of this side goes over this path from now on: the peer has
    /// answered on it. The path before may be closed, at best a round trip
    /// later, since the peer may still be sending there. Comes at both ends.
    PathActive {
        /// The new path.
        path: PathId,
    },
    /// A path that was being tried is given up: the peer did not answer on it
    /// in time, or another one is tried instead. Close it. Nothing else has
    /// changed.
    PathFailed {
        /// The path.
        path: PathId,
    },
    /// The peer acknowledges nothing, for some round trips at least, and at most for
    /// [`Config::path_silence`](crate::Config::path_silence): the path may be
    /// dead without saying so, perhaps in one direction only. The
    /// initiator should [`attach`](crate::Channel::attach) the channel to
    /// another. Comes once, until something is acknowledged again.
    PathSilent {
        /// The path.
        path: PathId,
    },
    /// The peer acknowledges again what is sent on the path that was silent.
    PathRecovered {
        /// The path.
        path: PathId,
    },
    /// New keys are wanted (bytes, records, time, or the peer asks): call
    /// [`Channel::renew`](crate::Channel::renew). Initiator only.
    RenewalDue,
    /// The initiator has begun to renew the keys: call
    /// [`Channel::answer_renewal`](crate::Channel::answer_renewal), or
    /// [`Channel::close`](crate::Channel::close). Responder only.
    RenewalAsked,
    /// The peer showed in a renewal who it is now. Check it and answer with
    /// [`Channel::proceed`](crate::Channel::proceed), or refuse it with
    /// [`Channel::close`](crate::Channel::close). Each end gets one a renewal.
    RenewalHello {
        /// The X25519 key that the renewal proved the peer to have; may be
        /// another than before.
        static_key: [u8; 32],
        /// The opaque bytes that it sent, at most [`limits::MAX_HELLO`].
        hello: Vec<u8>,
    },
    /// What this side sends is sealed with new keys from now on.
    Renewed {
        /// The number of the new epoch; the first handshake made epoch 0.
        epoch: u64,
    },
    /// The channel is over, and this is its last event. All streams are gone.
    Closed {
        /// Who ended it.
        by: ClosedBy,
        /// Why.
        reason: Reason,
    },
}

/// Who ended a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// The owner of this side, by [`Channel::close`](crate::Channel::close).
    Owner,
    /// The peer, by an authenticated CLOSE.
    Peer,
    /// This side's protocol machine: the peer broke the protocol, a handshake
    /// message was damaged, time ran out, or the key is used up.
    Protocol,
}

/// Why a stream or a channel ended: a number for programs, a text for people.
#[derive(Clone, PartialEq, Eq)]
pub struct Reason {
    /// For programs.
    pub code: Code,
    /// For people; at most [`limits::MAX_REASON`] bytes on the wire.
    pub text: String,
}

impl Reason {
    /// A reason; a text that is too long for the wire is cut at a character.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > limits::MAX_REASON {
            let cut = (0..=limits::MAX_REASON)
                .rev()
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0);
            text.truncate(cut);
        }
        Self { code, text }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reason({:#x}, {:?})", self.code.0, self.text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {:#x})", self.text, self.code.0)
    }
}

/// The number of a reason. Those below [`Code::FIRST_FREE`] belong to this
/// crate (below); the layers above number theirs from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u32);

impl Code {
    /// Ended in good order.
    pub const DONE: Self = Self(0x00);
    /// The peer broke the protocol (SPEC.md says where a MUST is).
    pub const PROTOCOL_VIOLATION: Self = Self(0x01);
    /// The peer sent more than its credit, or opened more streams.
    pub const FLOW_CONTROL: Self = Self(0x02);
    /// A handshake message was damaged, forged or of another protocol version.
    pub const HANDSHAKE_FAILED: Self = Self(0x03);
    /// The handshake did not complete in time.
    pub const HANDSHAKE_TIMEOUT: Self = Self(0x04);
    /// The peer was not heard of for the idle timeout.
    pub const IDLE_TIMEOUT: Self = Self(0x05);
    /// The channel's key has sealed as many records as it may.
    pub const KEY_EXHAUSTED: Self = Self(0x06);
    /// No path to the peer for too long, or none while the handshake was under way.
    pub const PATH_LOST: Self = Self(0x07);
    /// The first code that the layers above may give a meaning to.
    pub const FIRST_FREE: Self = Self(0x100);

    /// The kebab-case name of a code of this crate.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::DONE => Some("done"),
            Self::PROTOCOL_VIOLATION => Some("protocol-violation"),
            Self::FLOW_CONTROL => Some("flow-control"),
            Self::HANDSHAKE_FAILED => Some("handshake-failed"),
            Self::HANDSHAKE_TIMEOUT => Some("handshake-timeout"),
            Self::IDLE_TIMEOUT => Some("idle-timeout"),
            Self::KEY_EXHAUSTED => Some("key-exhausted"),
            Self::PATH_LOST => Some("path-lost"),
            _ => None,
        }
    }
}

/// The answer of [`Channel::read`](crate::Channel::read).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The next bytes of the stream; never empty.
    Chunk(Bytes),
    /// Nothing now. [`Event::Readable`] says when there is.
    Empty,
    /// The peer ended its half, and all of it has been read.
    Finished,
}

/// Counters since the channel was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets that went out, of any kind.
    pub packets_out: u64,
    /// Packets that came in, were authentic and new.
    pub packets_in: u64,
    /// Bytes of stream data that went out for the first time.
    pub stream_bytes_out: u64,
    /// Bytes of stream data that came in for the first time.
    pub stream_bytes_in: u64,
    /// Bytes of stream data that were sent again.
    pub stream_bytes_resent: u64,
    /// Packets of ours that were found to be lost.
    pub packets_lost: u64,
    /// Packets dropped because they were too short or did not authenticate.
    pub dropped_forged: u64,
    /// Packets dropped because they had been seen before (or are too old to know).
    pub dropped_replayed: u64,
    /// Handshake packets out of place.
    pub dropped_unexpected: u64,
    /// How often traffic moved to another path.
    pub moves: u64,
    /// How often the keys were renewed.
    pub renewals: u64,
    /// Datagrams dropped because nobody fetched the ones before.
    pub dropped_datagrams: u64,
    /// The smoothed round trip time, in microseconds; zero before the first sample.
    pub rtt_micros: u64,
}
