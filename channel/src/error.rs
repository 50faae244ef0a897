//! Errors of the calls on a channel.

use thiserror::Error;

use crate::{Reason, limits};

/// A channel could not be made.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CreateError {
    /// The dialled name does not fit.
    #[error("the dialled name has {length} bytes, at most {max} fit", max = limits::MAX_DIALLED)]
    DialledTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The dialled name is empty.
    #[error("the dialled name is empty: a channel is always to somebody")]
    DialledEmpty,
    /// The crypto library could not make a key (it could not get randomness).
    #[error("the crypto library could not make a key; is the system out of randomness?")]
    Crypto,
}

/// A packet is not a first handshake packet that this version understands.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum PacketError {
    /// It ends too early.
    #[error("the packet is cut short")]
    Truncated,
    /// It is another kind of packet.
    #[error("packet type {0} where a first handshake packet must be")]
    NotHandshake(u8),
    /// Another protocol version.
    #[error("protocol version {0} is not known here; this side speaks version 1")]
    Version(u8),
    /// Another suite.
    #[error("suite {0} is not known here; this side speaks suite 1")]
    Suite(u8),
    /// The dialled name is empty or not UTF-8.
    #[error("the dialled name is empty or not UTF-8")]
    Dialled,
}

/// A channel could not be attached to another path.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum AttachError {
    /// Only the initiator moves a channel: wait for its ATTACH.
    #[error("only the side that dialled attaches a channel to another path")]
    WrongSide,
    /// Before [`Event::Ready`](crate::Event::Ready).
    #[error("the channel is not ready yet: a handshake cannot change its path")]
    NotReady,
    /// The channel is over.
    #[error("the channel is closed")]
    Closed,
    /// The channel uses this path already.
    #[error("the channel uses this path already; every path has a number of its own")]
    InUse,
}

/// Keys could not be renewed.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum RenewError {
    /// Only the initiator begins; the responder asks it with
    /// [`Channel::request_renewal`](crate::Channel::request_renewal).
    #[error("only the side that dialled begins a renewal; ask it to")]
    WrongSide,
    /// Before [`Event::Ready`](crate::Event::Ready), or after the end.
    #[error("the channel is not ready, or closed")]
    NotReady,
    /// The responder was not asked ([`Event::RenewalAsked`](crate::Event::RenewalAsked)).
    #[error("the peer has not begun a renewal")]
    NotAsked,
    /// The crypto library could not make a key (it could not get randomness).
    #[error("the crypto library could not make a key; is the system out of randomness?")]
    Crypto,
}

/// A stream could not be opened.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// Before [`Event::Ready`](crate::Event::Ready).
    #[error("the channel is not ready yet: wait for Ready")]
    NotReady,
    /// The channel is over.
    #[error("the channel is closed")]
    Closed,
    /// The peer allows no more streams at once: try again when one has ended.
    #[error("the peer allows no more streams at the moment")]
    TooMany,
    /// The header does not fit.
    #[error("the OPEN header has {length} bytes, at most {max} fit", max = limits::MAX_OPEN_HEADER)]
    HeaderTooLong {
        /// Its length in bytes.
        length: usize,
    },
}

/// A call on a stream failed.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum StreamError {
    /// No such stream: it never was, or it is over and forgotten.
    #[error("no such stream, or it is over")]
    Unknown,
    /// The peer's stream was not accepted yet.
    #[error("the stream must be accepted first")]
    NotAccepted,
    /// The peer reset its sending half.
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    /// The peer asked this side to stop sending.
    #[error("the peer wants no more of the stream: {0}")]
    Stopped(Reason),
    /// This half was finished, reset or stopped by this side.
    #[error("this half of the stream was ended by this side")]
    Ended,
}

/// A datagram could not be sent.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum DatagramError {
    /// It does not fit.
    #[error("the datagram has {length} bytes, at most {max} fit", max = limits::MAX_DATAGRAM)]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Before [`Event::Ready`](crate::Event::Ready), or after the end.
    #[error("the channel is not ready for datagrams")]
    NotReady,
    /// The queue is full: the link is slower than the datagrams.
    #[error("the datagram queue is full; this one was dropped")]
    QueueFull,
}
