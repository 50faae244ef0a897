//! Frames on a byte stream: large reads, whole batches out, no copy of payloads.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use fairway_control::limits::{LINK_HEADER, LINK_PAYLOAD_MAX};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::{READ_SIZE_MAX, READ_SIZE_MIN, SPARE_BUFFERS_MAX, WRITE_SLICES_MAX};

/// One frame as it came: header and payload in one piece, so that a relay can
/// change the circuit in place and pass it on without a copy.
#[derive(Debug)]
pub struct Frame {
    /// The type byte, whatever it is.
    pub kind: u8,
    /// The circuit.
    pub circuit: u32,
    /// Header and payload.
    pub bytes: BytesMut,
}

/// A frame that cannot be right: the link is out of step or the peer is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link frame announces {length} bytes, more than the {LINK_PAYLOAD_MAX} allowed")]
pub struct FrameTooLong {
    /// The announced length of the payload.
    pub length: usize,
}

/// Reads frames. Holds no memory while nothing is under way.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    /// Earlier buffers whose pieces may still be in use; reused once they are not.
    spares: VecDeque<BytesMut>,
    /// Size of the next read; 0 while idle.
    read_size: usize,
}

/// Writes frames with as few calls as it can, in order.
#[derive(Debug, Default)]
pub struct FrameWriter {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
}

impl Frame {
    /// The payload alone; the header's memory goes.
    pub fn into_payload(mut self) -> BytesMut {
        self.bytes.advance(LINK_HEADER);
        self.bytes
    }

    /// Length of the payload.
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - LINK_HEADER
    }

    /// Changes the circuit in the header, for passing the frame on.
    pub fn set_circuit(&mut self, circuit: u32) {
        self.circuit = circuit;
        self.bytes[4..LINK_HEADER].copy_from_slice(&circuit.to_be_bytes());
    }
}

/// Writes a link frame's header into the first bytes of `frame` (header and payload).
pub fn put_header(frame: &mut [u8], kind: u8, circuit: u32) {
    let length = (frame.len() - LINK_HEADER) as u32;
    debug_assert!(length as usize <= LINK_PAYLOAD_MAX);
    frame[..4].copy_from_slice(&(u32::from(kind) << 24 | length).to_be_bytes());
    frame[4..LINK_HEADER].copy_from_slice(&circuit.to_be_bytes());
}

impl FrameReader {
    /// An empty reader.
    pub fn new() -> Self {
        Self::default()
    }

    /// One read, as large as recent ones suggest. `0` is the end.
    ///
    /// # Errors
    ///
    /// Whatever the socket says.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        if self.read_size == 0 {
            return self.poll_first_read(cx, io);
        }
        self.make_room();
        let room = self.buffer.capacity() - self.buffer.len();
        let n = ready!(tokio_util::io::poll_read_buf(
            Pin::new(io),
            cx,
            &mut self.buffer
        ))?;
        if n == room {
            self.read_size = (self.read_size * 4).min(READ_SIZE_MAX);
        }
        Poll::Ready(Ok(n))
    }

    /// The next whole frame among what was read.
    ///
    /// # Errors
    ///
    /// The announced length is over the limit: close the link.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameTooLong> {
        let Some((word, rest)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let word = u32::from_be_bytes(*word);
        let length = (word & 0x00ff_ffff) as usize;
        if length > LINK_PAYLOAD_MAX {
            return Err(FrameTooLong { length });
        }
        let Some(circuit) = rest.first_chunk::<4>().copied() else {
            return Ok(None);
        };
        if self.buffer.len() < LINK_HEADER + length {
            return Ok(None);
        }
        Ok(Some(Frame {
            kind: (word >> 24) as u8,
            circuit: u32::from_be_bytes(circuit),
            bytes: self.buffer.split_to(LINK_HEADER + length),
        }))
    }

    /// Gives memory back. Call when the link has been quiet for some time.
    pub fn release(&mut self) {
        self.spares = VecDeque::new();
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.read_size = 0;
        }
    }

    /// The first read after a quiet time goes to the stack, so that a link
    /// that waits holds no buffer.
    fn poll_first_read(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [0; 2048];
        let mut probe = ReadBuf::new(&mut bytes);
        ready!(Pin::new(io).poll_read(cx, &mut probe))?;
        self.read_size = READ_SIZE_MIN;
        self.buffer.reserve(probe.filled().len());
        self.buffer.extend_from_slice(probe.filled());
        Poll::Ready(Ok(probe.filled().len()))
    }

    /// Makes room for a read; a frame that is partly there moves to the new buffer.
    fn make_room(&mut self) {
        let room = self.buffer.capacity() - self.buffer.len();
        // The rest of a large frame needs a small read at most; half a buffer
        // is a fine read too.
        if room >= self.read_size / 2 {
            return;
        }
        let size = self.read_size + self.buffer.len();
        let mut fresh = match self.spares.iter_mut().position(|s| s.try_reclaim(size)) {
            Some(at) => self.spares.swap_remove_back(at).unwrap_or_default(),
            None => BytesMut::with_capacity(size),
        };
        fresh.extend_from_slice(&self.buffer);
        self.buffer.clear();
        let old = std::mem::replace(&mut self.buffer, fresh);
        if self.spares.len() == SPARE_BUFFERS_MAX {
            self.spares.pop_front();
        }
        self.spares.push_back(old);
    }
}

impl FrameWriter {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues one frame or several in one piece. The caller bounds the queue
    /// by [`queued_bytes`](Self::queued_bytes).
    pub fn push(&mut self, frames: Bytes) {
        self.queued_bytes += frames.len();
        self.queue.push_back(frames);
    }

    /// Bytes that wait.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Writes until the queue is empty (ready) or the socket is full (pending).
    ///
    /// # Errors
    ///
    /// Whatever the socket says.
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let n_slices = self
                .queue
                .iter()
                .zip(&mut slices)
                .map(|(bytes, slice)| *slice = IoSlice::new(bytes))
                .count();
            let n = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..n_slices]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        self.queued_bytes -= n;
        while let Some(first) = self.queue.front_mut() {
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn frame(circuit: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; LINK_HEADER];
        bytes.extend_from_slice(payload);
        put_header(&mut bytes, 1, circuit);
        bytes
    }

    async fn read_all(mut io: tokio::io::DuplexStream) -> Vec<Frame> {
        let (mut reader, mut frames) = (FrameReader::new(), Vec::new());
        while std::future::poll_fn(|cx| reader.poll_read(cx, &mut io))
            .await
            .unwrap()
            > 0
        {
            while let Some(frame) = reader.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        assert!(reader.next_frame().unwrap().is_none());
        frames
    }

    #[tokio::test]
    async fn frames_of_all_sizes_survive_any_cut() {
        for pipe in [1, 7, 4096, 1 << 20] {
            let (mut near, far) = tokio::io::duplex(pipe);
            let sizes: Vec<usize> = (0..40)
                .map(|i| (i * 1_237) % (LINK_PAYLOAD_MAX + 1))
                .collect();
            let reading = tokio::spawn(read_all(far));
            let mut writer = FrameWriter::new();
            for (i, &size) in sizes.iter().enumerate() {
                writer.push(frame(i as u32, &vec![i as u8; size]).into());
            }
            std::future::poll_fn(|cx| writer.poll_flush(cx, &mut near))
                .await
                .unwrap();
            assert_eq!(writer.queued_bytes(), 0);
            near.shutdown().await.unwrap();
            let frames = reading.await.unwrap();
            assert_eq!(frames.len(), sizes.len());
            for (i, (frame, size)) in frames.into_iter().zip(sizes).enumerate() {
                assert_eq!((frame.kind, frame.circuit), (1, i as u32));
                assert_eq!(frame.into_payload(), vec![i as u8; size]);
            }
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_before_its_payload_comes() {
        let mut reader = FrameReader::new();
        let word = (1u32 << 24) | (LINK_PAYLOAD_MAX as u32 + 1);
        reader.buffer.extend_from_slice(&word.to_be_bytes());
        let length = LINK_PAYLOAD_MAX + 1;
        assert_eq!(reader.next_frame().unwrap_err(), FrameTooLong { length });
    }

    #[tokio::test]
    async fn a_quiet_reader_holds_no_memory() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let mut reader = FrameReader::new();
        near.write_all(&frame(0, &[1; 9000])).await.unwrap();
        let mut n = 0;
        while n < 9008 {
            n += std::future::poll_fn(|cx| reader.poll_read(cx, &mut far))
                .await
                .unwrap();
        }
        assert!(reader.next_frame().unwrap().is_some());
        reader.release();
        assert_eq!(reader.buffer.capacity(), 0);
        let waiting = std::future::poll_fn(|cx| Poll::Ready(reader.poll_read(cx, &mut far)));
        assert!(waiting.await.is_pending());
        assert_eq!(reader.buffer.capacity(), 0);
    }

    #[test]
    fn the_circuit_changes_in_place() {
        let mut reader = FrameReader::new();
        reader.buffer.extend_from_slice(&frame(3, b"abc"));
        let mut got = reader.next_frame().unwrap().unwrap();
        got.set_circuit(0x0102_0304);
        assert_eq!(&got.bytes[..], frame(0x0102_0304, b"abc"));
    }
}
