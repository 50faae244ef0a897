//! Frames on a byte stream: large reads, whole batches out, no copy of payloads.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use fairway_control::link::{FrameError, Run, take_run};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::buffer::ReadBuffer;
use crate::limits::WRITE_SLICES_MAX;

/// Reads frames. Holds no memory while nothing is under way.
#[derive(Debug, Default)]
pub struct LinkReader {
    buffer: ReadBuffer,
}

/// Writes frames with as few calls as it can, in order.
#[derive(Debug, Default)]
pub struct LinkWriter {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
}

impl LinkReader {
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
        self.buffer.poll_read(cx, io)
    }

    /// The next frames among what was read: complete ones of one circuit that
    /// lie next to each other, at most about `max_bytes`. See [`take_run`].
    ///
    /// # Errors
    ///
    /// What came is no frame: close the link.
    pub fn next_run(&mut self, max_bytes: usize) -> Result<Option<Run>, FrameError> {
        take_run(&mut self.buffer.data, max_bytes)
    }

    /// Reads are not larger than this from now on (but for the least size that
    /// is of use), for an owner who shares memory among many links.
    pub fn set_read_size_max(&mut self, bytes: usize) {
        self.buffer.set_read_size_max(bytes);
    }

    /// About how much memory it holds, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.buffer.held_bytes()
    }

    /// Gives memory back. Call when the link has been quiet for some time.
    pub fn release(&mut self) {
        self.buffer.release();
    }
}

impl LinkWriter {
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
    use fairway_control::limits::LINK_PAYLOAD_MAX;
    use fairway_control::link::{CircuitId, FrameKind, header};
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn frame(circuit: u32, payload: &[u8]) -> Vec<u8> {
        let header = header(FrameKind::Data, CircuitId(circuit), payload.len()).unwrap();
        [&header[..], payload].concat()
    }

    async fn read_all(mut io: tokio::io::DuplexStream) -> Vec<(u32, Bytes)> {
        let (mut reader, mut frames) = (LinkReader::new(), Vec::new());
        while std::future::poll_fn(|cx| reader.poll_read(cx, &mut io))
            .await
            .unwrap()
            > 0
        {
            while let Some(mut run) = reader.next_run(usize::MAX).unwrap() {
                let circuit = run.circuit().0;
                while let Some(payload) = run.next_payload() {
                    frames.push((circuit, payload.freeze()));
                }
            }
        }
        assert!(reader.next_run(usize::MAX).unwrap().is_none());
        frames
    }

    #[tokio::test]
    async fn frames_of_all_sizes_survive_any_cut() {
        for pipe in [7, 4096, 1 << 20] {
            let (mut near, far) = tokio::io::duplex(pipe);
            let sizes: Vec<usize> = (0..(if pipe == 7 { 6 } else { 40 }))
                .map(|i| (i * 1_237) % (LINK_PAYLOAD_MAX + 1))
                .collect();
            let reading = tokio::spawn(read_all(far));
            let mut writer = LinkWriter::new();
            for (i, &size) in sizes.iter().enumerate() {
                writer.push(frame(i as u32 / 3, &vec![i as u8; size]).into());
            }
            std::future::poll_fn(|cx| writer.poll_flush(cx, &mut near))
                .await
                .unwrap();
            assert_eq!(writer.queued_bytes(), 0);
            near.shutdown().await.unwrap();
            let frames = reading.await.unwrap();
            assert_eq!(frames.len(), sizes.len());
            for (i, ((circuit, payload), size)) in frames.into_iter().zip(sizes).enumerate() {
                assert_eq!(circuit, i as u32 / 3);
                assert_eq!(payload, vec![i as u8; size]);
            }
        }
    }
}
