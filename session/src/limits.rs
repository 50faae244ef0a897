//! Every bound of this crate, with its reason.

use crate::Time;

/// A peer that has shown itself waits this long until this side knows the time.
/// Less than a handshake and a call may take (10 s), so that it still hears
/// why it was refused; enough to ask the authority over a radio that loses a
/// fifth of the packets.
pub const CLOCK_WAIT: Time = Time::from_secs(8);

/// A hello as it is sent: the channel carries no more. A full credential
/// (1 KiB) and a trust set (2 KiB) fit with room for what comes later.
pub const HELLO_MAX: usize = fairway_channel::limits::MAX_HELLO;

/// An OPEN header as it is sent: the channel carries no more.
pub const OPEN_MAX: usize = fairway_channel::limits::MAX_OPEN_HEADER;

/// A `traceparent`: version 00 has 55 characters, later ones may append.
pub const TRACEPARENT_MAX: usize = 128;

/// Names that one endpoint answers to: 16 Services, each with its pod.
pub const NAMES_MAX: usize = 40;

/// Doors of one endpoint: 16 Services with 16 ports each.
pub const DOORS_MAX: usize = 256;

/// The user's bytes in a datagram: what fits the smallest path MTU of QUIC below.
/// The channel takes the stream's id besides.
pub const DATAGRAM_MAX: usize = 1200;

const _: () = assert!(DATAGRAM_MAX + 8 <= fairway_channel::limits::MAX_DATAGRAM);

/// HTTP requests in flight on one stream. HTTP/2 servers usually allow 100 to
/// 250 at once.
pub const HTTP_PASSES_MAX: usize = 256;
