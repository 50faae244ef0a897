//! Every bound on what comes from outside, with its reason.

/// Plaintext of one record: large enough that sealing, not bookkeeping,
/// costs (16 to 64 KiB measure the same).
pub const MAX_RECORD_PLAINTEXT: usize = 16 * 1024;

/// Bytes around the plaintext of a record: type, packet number, tag.
pub const RECORD_OVERHEAD: usize = 1 + 8 + 16;

/// The largest packet of any kind.
pub const MAX_PACKET: usize = MAX_RECORD_PLAINTEXT + RECORD_OVERHEAD;

/// Packets in one batch: 256 KiB at most, one `write` of a size that sockets
/// take well.
pub const MAX_BATCH: usize = 16;

/// A hello: a credential is at most 1 KiB, a trust set a few.
pub const MAX_HELLO: usize = 4096;

/// The header of an OPEN: a target and a trace context.
pub const MAX_OPEN_HEADER: usize = 1024;

/// The text of a reason, in bytes of UTF-8.
pub const MAX_REASON: usize = 256;

/// A datagram: fits the smallest path MTU of QUIC below.
pub const MAX_DATAGRAM: usize = 1200;

/// The dialled name in handshake 1 (its length is one byte).
pub const MAX_DIALLED: usize = 255;
