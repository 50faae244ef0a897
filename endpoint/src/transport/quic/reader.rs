//! Reading one QUIC stream: the frames of one circuit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{CircuitId, Header};
use futures::Stream;
use futures::stream::AbortHandle;
use quinn::{ReadError, RecvStream, SendStream};
use tokio::sync::watch;

use super::wrong;
use crate::limits::{QUIC_CHUNKS_PER_READ, QUIC_HELD_MAX};

/// What comes on a stream.
pub(super) enum Arrived {
    /// The other side opened it for this circuit.
    Begun {
        circuit: u32,
        send: SendStream,
        handle: AbortHandle,
    },
    /// Whole frames of its circuit.
    Frames { circuit: u32, frames: Bytes },
    /// No more frames come.
    Ended { circuit: u32 },
}

/// What the reader of a stream that the other side has opened needs besides.
pub(super) struct Begin {
    pub(super) send: SendStream,
    pub(super) handle: AbortHandle,
    pub(super) link_read: watch::Receiver<u64>,
    /// Whether the other side is the endpoint, which picks even ids.
    pub(super) from_endpoint: bool,
}

/// Reads the frames of one circuit.
pub(super) struct Reader {
    recv: RecvStream,
    circuit: u32,
    /// Read, and not yet a whole frame.
    partial: BytesMut,
    held: Held,
    is_ended: bool,
}

/// Counts one reader's bytes among all of its link.
struct Held {
    total: Arc<AtomicUsize>,
    own: usize,
}

/// What stands before the first frame of a stream that is not circuit 0's: how
/// much of circuit 0's stream comes before it.
const PREFIX: usize = 8;

impl Reader {
    pub(super) fn new(recv: RecvStream, circuit: u32, total: Arc<AtomicUsize>) -> Self {
        Self {
            recv,
            circuit,
            partial: BytesMut::new(),
            held: Held { total, own: 0 },
            is_ended: false,
        }
    }

    /// Its frames, to the end of the stream.
    pub(super) fn frames(self) -> impl Stream<Item = io::Result<Arrived>> + Send {
        futures::stream::unfold(self, |mut reader| async move {
            let arrived = reader.next().await.transpose()?;
            Some((arrived, reader))
        })
    }

    /// The same for a stream that the other side has opened.
    pub(super) fn begin(self, begin: Begin) -> impl Stream<Item = io::Result<Arrived>> + Send {
        futures::stream::unfold((self, Some(begin)), |(mut reader, begin)| async move {
            let arrived = match begin {
                Some(begin) => reader.begun(begin).await.transpose()?,
                None => reader.next().await.transpose()?,
            };
            Some((arrived, (reader, None)))
        })
    }

    /// Reads for whom the stream is, and waits until its frames may come.
    async fn begun(&mut self, begin: Begin) -> io::Result<Option<Arrived>> {
        while self.partial.len() < PREFIX + LINK_HEADER {
            if !self.read().await? {
                // Given up before anything was said.
                return Ok(None);
            }
        }
        let after = self.partial.get_u64();
        self.held.set(self.partial.len())?;
        let header = peek(&self.partial)?.ok_or_else(|| wrong("no frame"))?;
        let picked_by_endpoint = header.circuit.is_endpoints();
        if header.circuit == CircuitId::LINK || picked_by_endpoint != begin.from_endpoint {
            return Err(wrong("a stream for a circuit that the other side picks"));
        }
        self.circuit = header.circuit.0;
        let mut link_read = begin.link_read;
        if link_read.wait_for(|&n| n >= after).await.is_err() {
            return Ok(None);
        }
        Ok(Some(Arrived::Begun {
            circuit: self.circuit,
            send: begin.send,
            handle: begin.handle,
        }))
    }

    async fn next(&mut self) -> io::Result<Option<Arrived>> {
        let circuit = self.circuit;
        if self.is_ended {
            return Ok(None);
        }
        loop {
            if let Some(frames) = self.take_frames()? {
                return Ok(Some(Arrived::Frames { circuit, frames }));
            }
            if !self.read().await? {
                self.is_ended = true;
                return Ok(Some(Arrived::Ended { circuit }));
            }
        }
    }

    /// Reads something; `false` at the end of the stream. A frame that is cut
    /// off by the end is dropped with it.
    async fn read(&mut self) -> io::Result<bool> {
        let mut chunks = [const { Bytes::new() }; QUIC_CHUNKS_PER_READ];
        let n = match self.recv.read_chunks(&mut chunks).await {
            Ok(Some(n)) => n,
            Ok(None) | Err(ReadError::Reset(_) | ReadError::ClosedStream) => return Ok(false),
            Err(ReadError::ConnectionLost(error)) if super::is_clean(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let chunks = chunks.get(..n).unwrap_or_default();
        self.partial.reserve(chunks.iter().map(Bytes::len).sum());
        for chunk in chunks {
            self.partial.extend_from_slice(chunk);
        }
        self.held.set(self.partial.len())?;
        Ok(true)
    }

    /// Takes the whole frames at the front.
    fn take_frames(&mut self) -> io::Result<Option<Bytes>> {
        let mut n = 0;
        while let Some(header) = peek(&self.partial[n..])? {
            if header.circuit.0 != self.circuit {
                return Err(wrong("a frame on the stream of another circuit"));
            }
            if self.partial.len() - n < header.frame_len() {
                break;
            }
            n += header.frame_len();
        }
        if n == 0 {
            return Ok(None);
        }
        let frames = self.partial.split_to(n).freeze();
        // The rest leaves the buffer that the frames lie in.
        self.partial = BytesMut::from(&self.partial[..]);
        self.held.set(self.partial.len())?;
        Ok(Some(frames))
    }
}

impl Held {
    fn set(&mut self, bytes: usize) -> io::Result<()> {
        let before = std::mem::replace(&mut self.own, bytes);
        let total = if bytes >= before {
            self.total.fetch_add(bytes - before, Ordering::Relaxed) + bytes - before
        } else {
            self.total.fetch_sub(before - bytes, Ordering::Relaxed) - (before - bytes)
        };
        if total > QUIC_HELD_MAX {
            return Err(wrong("too many frames are begun and not ended"));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.own, Ordering::Relaxed);
    }
}

fn peek(bytes: &[u8]) -> io::Result<Option<Header>> {
    Header::peek(bytes).map_err(|error| wrong(&error.to_string()))
}
