//! DATAGRAM frames as QUIC's datagrams (RFC 9221): each is one whole frame.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use fairway_control::link::{FrameKind, Header};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use quinn::{Connection, SendDatagramError};

use super::wrong;

/// The datagrams of one connection.
pub(super) struct Datagrams {
    incoming: BoxStream<'static, Bytes>,
    /// The last thing that came was one.
    was_last: bool,
    n_dropped: u64,
}

impl Datagrams {
    pub(super) fn new(connection: &Connection) -> Self {
        let incoming = stream::unfold(connection.clone(), |connection| async move {
            // How the connection ended is seen by who reads its streams.
            let datagram = connection.read_datagram().await.ok()?;
            Some((datagram, connection))
        });
        Self {
            incoming: incoming.boxed(),
            was_last: false,
            n_dropped: 0,
        }
    }

    /// Whether datagrams come first this time.
    pub(super) fn is_turn(&mut self) -> bool {
        !std::mem::take(&mut self.was_last)
    }

    /// The next that has come, and its circuit. Never ends: the streams do.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(u32, Bytes)>> {
        let Some(frame) = ready!(self.incoming.poll_next_unpin(cx)) else {
            self.incoming = stream::pending().boxed();
            return Poll::Pending;
        };
        self.was_last = true;
        Poll::Ready(circuit_of(&frame).map(|circuit| (circuit, frame)))
    }

    /// Sends a frame, or throws it away when too many wait; `false` when it does
    /// not fit the path, or the other side takes none.
    pub(super) fn send(&mut self, connection: &Connection, frame: &[u8]) -> bool {
        if connection
            .max_datagram_size()
            .is_none_or(|max| max < frame.len())
        {
            return false;
        }
        if connection.datagram_send_buffer_space() < frame.len() {
            self.count_dropped();
            return true;
        }
        match connection.send_datagram(Bytes::copy_from_slice(frame)) {
            // A connection that is gone takes nothing on its streams either.
            Ok(()) | Err(SendDatagramError::ConnectionLost(_)) => true,
            Err(
                SendDatagramError::TooLarge
                | SendDatagramError::UnsupportedByPeer
                | SendDatagramError::Disabled,
            ) => false,
        }
    }

    pub(super) fn count_dropped(&mut self) {
        self.n_dropped += 1;
    }

    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.n_dropped)
    }
}

/// The circuit of a datagram, which must be one whole DATAGRAM frame.
fn circuit_of(datagram: &[u8]) -> io::Result<u32> {
    match Header::peek(datagram) {
        Ok(Some(header))
            if header.kind == FrameKind::Datagram && header.frame_len() == datagram.len() =>
        {
            Ok(header.circuit.0)
        }
        Ok(_) => Err(wrong("a datagram that is not one DATAGRAM frame")),
        Err(error) => Err(wrong(&error.to_string())),
    }
}
