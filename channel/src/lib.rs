//! Fairway's secure channel, sans-IO.
//!
//! Two [`Channel`]s, one at each end, turn packets that anybody may read,
//! lose, repeat, reorder or forge into streams and datagrams that only the
//! two ends can read and nobody can change. The normative text for what goes
//! over the wire is `SPEC.md` beside this crate.
//!
//! # The contract
//!
//! There are no sockets, clocks, threads or hidden dice in here. The caller
//!
//! 1. feeds what happened: [`Channel::handle_input`] for each packet that came
//!    in, [`Channel::handle_timeout`] once the time of the last
//!    [`Output::Timeout`] has come, and its own wishes ([`Channel::open`],
//!    [`Channel::write`], ...). Several of these calls may follow one another:
//!    feeding all the packets of one large read before draining is what makes
//!    acknowledgements cheap;
//! 2. **then drains**: calls [`Channel::poll_output`] until it answers
//!    [`Output::Timeout`], acting on each [`Output::Transmit`] (the packets are
//!    in the [`Batch`]) and each [`Output::Event`]. Calls made in reaction to
//!    an event are fine, as long as the drain goes on to a `Timeout`.
//!
//! Sleeping before `Timeout` was seen is the one mistake to make: something
//! that was due would stay unsent.
//!
//! A link that cannot take more says so with [`Batch::set_room`]: a batch
//! without room gets no packets, but events and timeouts still come.
//!
//! `now` is any monotonic time, counted from an origin that the caller
//! chooses. It must not go backwards; a value that does is taken as the latest
//! one seen.
//!
//! # The course of a channel
//!
//! | initiator | responder |
//! |---|---|
//! | [`Channel::initiator`], handshake 1 goes out | [`Channel::responder`], sees handshake 1, [`Channel::dialled`] is known, handshake 2 goes out |
//! | [`Event::PeerHello`] (`last: false`, of message 2); session checks it, [`Channel::proceed`]: handshake 3 goes out | [`Event::PeerHello`] (`last: true`, of message 3); session checks it, [`Channel::proceed`]: HELLO frame goes out, [`Event::Ready`] |
//! | [`Event::PeerHello`] (`last: true`, of the HELLO frame); session checks it, [`Channel::proceed`] with an empty hello; [`Event::Ready`] | |
//!
//! Before `Ready` no stream can be opened, and frames of the peer about
//! streams are not acted on. To refuse the peer, call [`Channel::close`]
//! instead of `proceed`.

//! # Reading order
//!
//! `channel/` is the machine that joins the parts. The handshake:
//! `packet.rs` (what a packet is), `handshake.rs`, `crypto.rs` (the
//! primitives). Records: `record.rs`, `replay.rs`, and what is inside them,
//! `frame.rs` with `varint.rs`. Streams: `streams/` over `send.rs`, `recv.rs`
//! and `flow.rs`. Loss: `ack.rs` (what came in), `recovery.rs` (what went
//! out). The bounds of everything are in [`limits`].

mod ack;
mod batch;
mod channel;
mod config;
mod crypto;
mod error;
mod event;
mod flow;
mod frame;
mod handshake;
mod keys;
pub mod limits;
mod packet;
mod path;
mod priority;
mod ranges;
mod record;
mod recovery;
mod recv;
mod replay;
mod send;
mod stream_id;
mod streams;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod timer;
mod varint;

pub use batch::Batch;
pub use channel::Channel;
pub use config::{Config, ConfigError};
pub use error::{
    AttachError, CreateError, DatagramError, OpenError, PacketError, RenewError, StreamError,
};
pub use event::{ClosedBy, Code, Event, Output, ReadOutcome, Reason, Stats};
pub use keys::StaticSecret;
pub use packet::peek_dialled;
pub use path::{ConnectionId, PathId, peek_attach};
pub use priority::Priority;
pub use stream_id::StreamId;

/// Monotonic time, as the distance from an origin that the caller chooses
/// (and keeps for the life of the channel).
pub type Time = core::time::Duration;
