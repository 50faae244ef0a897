//! One stream of a session, for one task at each end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use fairway_session::{PeerInfo, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::StreamError;

/// A bidirectional stream: its two halves in one.
///
/// Dropping it before both directions have finished resets it with `cancelled`.
#[derive(Debug)]
pub struct Stream {
    /// What the peer sends.
    pub recv: RecvStream,
    /// What goes to the peer.
    pub send: SendStream,
}

/// The receiving half.
#[derive(Debug)]
pub struct RecvStream {}

/// The sending half.
#[derive(Debug)]
pub struct SendStream {}

impl Stream {
    /// Who is at the other end, as proven by the session.
    pub fn peer(&self) -> &PeerInfo {
        todo!()
    }

    /// Says yes to an incoming stream. Data may flow before, but the opener
    /// waits for this.
    pub fn accept(&mut self) {
        todo!()
    }

    /// Says no to an incoming stream, or ends any stream at once in both
    /// directions, with a reason that the peer sees and logs.
    pub fn refuse(self, reason: Refusal) {
        let _ = reason;
        todo!()
    }

    /// Both halves, for two tasks.
    pub fn split(self) -> (RecvStream, SendStream) {
        (self.recv, self.send)
    }
}

impl RecvStream {
    /// The next piece of what the peer sent, without a copy; `None` after its end.
    ///
    /// # Errors
    ///
    /// The stream was reset or its session ended.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// As [`read_chunk`](Self::read_chunk), but takes all that is there, up to
    /// about `max` bytes, and appends it to `chunks`: one write of many pieces
    /// costs less than many writes. `false` after the end.
    ///
    /// # Errors
    ///
    /// The stream was reset or its session ended.
    pub async fn read_chunks(
        &mut self,
        chunks: &mut Vec<Bytes>,
        max: usize,
    ) -> Result<bool, StreamError> {
        std::future::poll_fn(|cx| self.poll_chunks(cx, chunks, max)).await
    }

    /// Poll form of [`read_chunk`](Self::read_chunk).
    ///
    /// # Errors
    ///
    /// The stream was reset or its session ended.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        let _ = cx;
        todo!()
    }

    /// Poll form of [`read_chunks`](Self::read_chunks).
    ///
    /// # Errors
    ///
    /// The stream was reset or its session ended.
    pub fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut Vec<Bytes>,
        max: usize,
    ) -> Poll<Result<bool, StreamError>> {
        let _ = (cx, chunks, max);
        todo!()
    }

    /// Tells the peer to send no more.
    pub fn stop(&mut self, reason: Refusal) {
        let _ = reason;
        todo!()
    }
}

impl SendStream {
    /// Sends a piece without a copy; waits until the send buffer has taken all of it.
    ///
    /// # Errors
    ///
    /// The stream was reset or stopped, or its session ended.
    pub async fn write_chunk(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        std::future::poll_fn(|cx| self.poll_write_chunk(cx, &mut data)).await
    }

    /// Poll form of [`write_chunk`](Self::write_chunk): advances `data` past
    /// what was taken, ready when all was.
    ///
    /// # Errors
    ///
    /// The stream was reset or stopped, or its session ended.
    pub fn poll_write_chunk(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), StreamError>> {
        let _ = (cx, data);
        todo!()
    }

    /// No more data from this side: the peer reads the end after all that was
    /// written. Doing it twice is the same as once.
    pub fn finish(&mut self) {
        todo!()
    }

    /// Ends the stream at once in both directions, with a reason.
    pub fn reset(&mut self, reason: Refusal) {
        let _ = reason;
        todo!()
    }
}

// === impl AsyncRead, AsyncWrite ===

impl AsyncRead for RecvStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let _ = (cx, buf);
        todo!()
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let _ = (cx, buf);
        todo!()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}
