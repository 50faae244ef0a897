//! Every bound on what comes from outside, with its reason.

/// The largest packet of any kind: 16 KiB of stream data in one record (16 to
/// 64 KiB cost the same per byte), and 256 bytes for all that is around them.
pub const MAX_PACKET: usize = 16 * 1024 + 256;

/// Bytes around the plaintext of a record: type, packet number, tag.
pub const RECORD_OVERHEAD: usize = 1 + 8 + 16;

/// Plaintext of one record.
pub const MAX_RECORD_PLAINTEXT: usize = MAX_PACKET - RECORD_OVERHEAD;

/// Data in one STREAM frame.
pub const MAX_STREAM_DATA: usize = 16 * 1024;

/// What each stream may buffer, whatever the others do: with nothing at all it
/// would never be told that there is room again.
pub const MIN_SEND_BUFFER: usize = 16 * 1024;

/// What bulk transfers leave of the channel's credit to streams that have
/// little on their way (or an eighth of a small window).
pub const MAX_RESERVE: u64 = 64 * 1024;

/// Windows grow as if no path had a shorter round trip: on a short one it is
/// sender, relay and receiver that wait for each other's turns on a processor,
/// and 5 ms of data more cost nobody a delay that could be felt.
pub const MIN_WINDOW_RTT: crate::Time = crate::Time::from_millis(5);

/// Packets in one batch: 256 KiB at most, one `write` of a size that sockets
/// take well.
pub const MAX_BATCH: usize = 16;

/// The least time between two renewals of the keys: a handshake costs a
/// quarter of a millisecond, and a peer must not be able to ask for more than
/// one a second.
pub const MIN_RENEWAL_INTERVAL: crate::Time = crate::Time::from_secs(1);

/// How long the keys of the epoch before can be read, counted from the peer's
/// first record of the new one: what is still on its way comes by then, or is
/// sent again under the new keys.
pub const OLD_EPOCH_KEPT: crate::Time = crate::Time::from_secs(5);

/// Packet numbers end here, since an ACK writes them as a varint.
pub const MAX_PACKET_NUMBER: u64 = (1 << 62) - 1;

/// Records under one key. RFC 8446 section 5.5 allows 2^24.5 full-size records
/// for AES-GCM.
pub const MAX_KEY_RECORDS: u64 = 1 << 24;

/// A hello: a credential is at most 1 KiB, a trust set a few.
pub const MAX_HELLO: usize = 4096;

/// A handshake message inside a RENEW frame: the longest is the second, with
/// 1,200 bytes of keys around a hello.
pub const MAX_RENEW: usize = MAX_HELLO + 2048;

/// The header of an OPEN: a target and a trace context.
pub const MAX_OPEN_HEADER: usize = 1024;

/// The text of a reason, in bytes of UTF-8.
pub const MAX_REASON: usize = 256;

/// A datagram: 1,200 bytes, which fit the smallest path MTU of QUIC below, and
/// a varint with which the layer above says what they belong to.
pub const MAX_DATAGRAM: usize = 1200 + 8;

/// The largest packet that holds nothing but datagrams. Links take such packets
/// up to here (`control/SPEC.md` section 2).
pub const MAX_DATAGRAM_PACKET: usize = 1280;

// A DATAGRAM frame has a type byte and a length of two before its data.
const _: () = assert!(RECORD_OVERHEAD + 1 + 2 + MAX_DATAGRAM <= MAX_DATAGRAM_PACKET);

/// A datagram may overtake packets of at most so many numbers: half of the
/// least replay window, so that none of them comes too late by it.
pub const MAX_OVERTAKEN: u64 = 512;

/// Datagrams waiting in one direction. More would only get older.
pub const MAX_DATAGRAMS: usize = 64;

/// The dialled name in handshake 1 (its length is one byte).
pub const MAX_DIALLED: usize = 255;

/// Ranges in an ACK that this side sends: gaps beyond are so old that their
/// packets have been sent again.
pub const MAX_ACK_RANGES: usize = 32;

/// Ranges in an ACK that this side reads; a longer one is a violation.
pub const MAX_ACK_RANGES_READ: usize = 64;

/// Settings in a SETTINGS frame: a few now, room for later versions.
pub const MAX_SETTINGS: usize = 32;

/// Packets whose acknowledgement is awaited. Beyond, only acknowledgements
/// are sent: about 1 MiB of bookkeeping in the worst case, and more than any
/// window of full records needs.
pub const MAX_UNACKNOWLEDGED: usize = 8192;

/// Pieces of streams that arrived ahead of a gap, over all streams of a
/// channel. Beyond, a packet is dropped as if it had been lost.
pub const MAX_PIECES: usize = 4096;

/// Pieces of received data from here on are kept as slices of their packet;
/// smaller ones are copied together, so that a small piece never holds a large
/// packet (or the read buffer that it is a slice of) in memory.
pub const MIN_ZERO_COPY: usize = 8 * 1024;

/// Writes up to here are copied together while others wait to be sent, so
/// that many small ones cost their bytes and not a slice each.
pub const MAX_COALESCED_WRITE: usize = 2048;

/// Records that are kept while the layer above looks at the peer's hello.
pub const MAX_HELD_RECORDS: usize = 16;

/// How often a closed channel repeats its CLOSE to a peer that goes on
/// sending (it answers packets 1, 2, 4, 8, ...).
pub const MAX_CLOSE_REPEATS: u32 = 8;
