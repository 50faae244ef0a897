//! The hot path between a local TCP connection and a stream.

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::Stream;

/// How a joined connection went.
#[derive(Debug)]
pub struct Joined {
    /// Bytes from the peer to the local connection.
    pub from_peer: u64,
    /// Bytes from the local connection to the peer.
    pub to_peer: u64,
    /// Machine-readable reason of the end; `done` when both sides finished.
    pub reason: String,
}

/// Copies both ways until both have ended, with half-close, in large reads and
/// vectored writes. `head` goes to the peer first (bytes that were read from
/// the local connection already).
pub async fn join(local: TcpStream, stream: Stream, head: Bytes) -> Joined {
    let _ = (local, stream, head);
    todo!()
}
