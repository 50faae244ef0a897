//! What a session tells its owner.

use bytes::Bytes;
use fairway_channel::{PathId, StreamId, Time};
use fairway_identity::VerifiedTrustSet;
use fairway_policy::Decision;

use crate::code::Refusal;
use crate::grant::Grant;
use crate::open::{OpenRequest, OpenTarget};
use crate::peer::PeerInfo;

pub use fairway_channel::ClosedBy;

/// The answer of [`Session::poll_output`](crate::Session::poll_output).
#[derive(Debug)]
pub enum Output {
    /// Packets were put into the batch: send them, poll again.
    Transmit {
        /// The path that they must go out on: all that were added by this call.
        path: PathId,
    },
    /// Something happened. Poll again.
    Event(Event),
    /// All is drained. Call [`Session::handle_timeout`](crate::Session::handle_timeout)
    /// at this monotonic time, unless something else happens first.
    Timeout(Option<Time>),
}

/// Something the owner of a session should know.
#[derive(Debug)]
pub enum Event {
    /// Both sides have verified each other: streams may be opened.
    Established(PeerInfo),
    /// The peer showed in a renewal who it is now: the same subject, perhaps
    /// with another credential and key. Replaces what
    /// [`Established`](Self::Established) said.
    Renewed(PeerInfo),
    /// Traffic of this side goes over this path from now on. The path before
    /// may be closed, at best a round trip later.
    PathActive {
        /// The new path.
        path: PathId,
    },
    /// A path that was being tried is given up; close it. Nothing else has
    /// changed.
    PathFailed {
        /// The path.
        path: PathId,
    },
    /// The peer has not answered for a second or some: the path may be dead
    /// without saying so. The dialler should try another.
    PathSilent {
        /// The path.
        path: PathId,
    },
    /// The peer answers again on the path that was silent.
    PathRecovered {
        /// The path.
        path: PathId,
    },
    /// The peer showed a newer trust set, signed by the pinned root: keep it
    /// and give it to the other sessions.
    TrustSetLearned(VerifiedTrustSet),
    /// The peer opened a stream and may do so. Accept it with the grant
    /// ([`Session::accept`](crate::Session::accept)) or reset it.
    Incoming {
        /// The new stream.
        stream: StreamId,
        /// The right to serve it.
        grant: Grant,
        /// What was asked for.
        open: OpenRequest,
    },
    /// The peer opened a stream and may not; it has been reset. For logs.
    Refused {
        /// The stream that was not opened.
        stream: StreamId,
        /// Who wanted it.
        peer: PeerInfo,
        /// What was asked for, if it could be read.
        target: Option<OpenTarget>,
        /// Why not.
        refusal: Refusal,
        /// The policy decision, if it came to one.
        decision: Option<Box<Decision>>,
    },
    /// A stream of the peer was ended by this side because the rules changed.
    Ended {
        /// The stream.
        stream: StreamId,
        /// Why.
        refusal: Refusal,
    },
    /// More streams can be opened, after one could not because the peer
    /// allowed no more at once.
    StreamsAvailable,
    /// The peer accepted a stream that this side opened.
    Accepted(StreamId),
    /// There is something to read.
    Readable(StreamId),
    /// There is room to write again.
    Writable(StreamId),
    /// All that was written, and its end, has arrived.
    Finished(StreamId),
    /// The peer gave up its sending half: nothing more can be read.
    Reset {
        /// The stream.
        stream: StreamId,
        /// What the peer said.
        refusal: Refusal,
    },
    /// The peer wants nothing more of this stream.
    Stopped {
        /// The stream.
        stream: StreamId,
        /// What the peer said.
        refusal: Refusal,
    },
    /// A datagram of the peer, on a stream that policy allowed.
    Datagram {
        /// The stream.
        stream: StreamId,
        /// What the peer's user sent.
        data: Bytes,
    },
    /// The peer answered a ping.
    Alive,
    /// The session is over, and this is its last event. All streams are gone.
    Closed {
        /// Who ended it.
        by: ClosedBy,
        /// Why.
        refusal: Refusal,
    },
}
