//! One stream of a session, for one task at each end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use fairway_channel::StreamId;
use fairway_session::{PeerInfo, Refusal, code};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::conn::Conn;
use crate::limits::WRITE_COPY_MAX;
use crate::{DatagramError, StreamError};

/// A bidirectional stream: its two halves in one.
///
/// Dropping it before both directions have finished resets it with `cancelled`.
#[derive(Debug)]
pub struct Stream {
    /// What the peer sends.
    pub recv: RecvStream,
    /// What goes to the peer.
    pub send: SendStream,
    peer: PeerInfo,
}

/// The receiving half. Dropping it before the end tells the peer to stop.
#[derive(Debug)]
pub struct RecvStream {
    conn: Arc<Conn>,
    id: StreamId,
    /// What was taken and not yet read, for [`AsyncRead`].
    rest: Bytes,
    is_over: bool,
}

/// The sending half. Dropping it before [`finish`](Self::finish) resets the stream.
#[derive(Debug)]
pub struct SendStream {
    conn: Arc<Conn>,
    id: StreamId,
    is_over: bool,
}

impl Stream {
    pub(crate) fn new(conn: &Arc<Conn>, id: StreamId, peer: PeerInfo) -> Self {
        Self {
            peer,
            recv: RecvStream {
                conn: conn.clone(),
                id,
                rest: Bytes::new(),
                is_over: false,
            },
            send: SendStream {
                conn: conn.clone(),
                id,
                is_over: false,
            },
        }
    }

    /// Who is at the other end, as proven by the session.
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// Ends the stream at once in both directions, with a reason that the peer
    /// sees and logs. An incoming stream that was not accepted is refused by it.
    pub fn refuse(mut self, refusal: &Refusal) {
        self.recv.is_over = true;
        self.send.reset(refusal);
    }

    /// Both halves, for two tasks.
    pub fn split(self) -> (RecvStream, SendStream) {
        (self.recv, self.send)
    }

    pub(crate) fn accept(&self, grant: &fairway_session::Grant) -> Result<(), Refusal> {
        self.recv.conn.accept(grant)
    }

    /// Resolves with the peer's answer to a stream that this side opened.
    pub(crate) async fn accepted(&mut self) -> Result<(), StreamError> {
        let (conn, id) = (&self.recv.conn, self.recv.id);
        std::future::poll_fn(|cx| conn.poll_accepted(id, cx)).await
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
        let mut taken = None;
        let more = ready!(self.poll_take(cx, |chunk| {
            taken = Some(chunk);
            false
        }))?;
        debug_assert_eq!(more, taken.is_some());
        Poll::Ready(Ok(taken))
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
        let mut n_bytes = 0;
        self.poll_take(cx, |chunk| {
            n_bytes += chunk.len();
            chunks.push(chunk);
            n_bytes < max
        })
    }

    /// The next datagram that came for this stream; `None` once what the peer
    /// sends has ended: its end has come and all before it has been read.
    ///
    /// Datagrams are kept from the first call on, and those that came before are
    /// gone: call it early, for an incoming stream best before the yes. At most
    /// [`DATAGRAMS_KEPT_MAX`](crate::limits::DATAGRAMS_KEPT_MAX) wait; then the
    /// oldest is dropped for the next. It can be called between reads, and
    /// dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// The stream was reset or its session ended; what waited is gone.
    pub async fn recv_datagram(&mut self) -> Result<Option<Bytes>, StreamError> {
        std::future::poll_fn(|cx| self.poll_recv_datagram(cx)).await
    }

    /// Poll form of [`recv_datagram`](Self::recv_datagram), and how to wait for
    /// data and datagrams in one task.
    ///
    /// # Errors
    ///
    /// The stream was reset or its session ended; what waited is gone.
    pub fn poll_recv_datagram(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        self.conn.poll_recv_datagram(self.id, cx)
    }

    /// Tells the peer to send no more.
    pub fn stop(&mut self, refusal: &Refusal) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.conn.stop(self.id, refusal);
        }
    }

    /// Hands pieces to `take` until it says no; `false` after the end.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Bytes) -> bool,
    ) -> Poll<Result<bool, StreamError>> {
        if !self.rest.is_empty() {
            take(std::mem::take(&mut self.rest));
            return Poll::Ready(Ok(true));
        }
        let result = ready!(self.conn.poll_read(self.id, cx, take));
        if !matches!(result, Ok(true)) {
            self.is_over = true;
        }
        Poll::Ready(result)
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
        if self.is_over {
            return Poll::Ready(Err(StreamError::Finished));
        }
        self.conn.poll_write(self.id, cx, data)
    }

    /// Sends up to 1,200 bytes
    /// ([`DATAGRAM_MAX`](fairway_session::limits::DATAGRAM_MAX)) beside the data of
    /// the stream, at once or not at all. They may get lost, are never sent twice,
    /// and may overtake each other and what was written. Policy allows them with
    /// the stream; where it looks at HTTP there are none.
    ///
    /// # Errors
    ///
    /// See [`DatagramError`]; the datagram is gone. Who can bear loss need not look
    /// at [`QueueFull`](DatagramError::QueueFull).
    pub fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        if self.is_over {
            return Err(DatagramError::Over(StreamError::Finished));
        }
        self.conn.send_datagram(self.id, &data)
    }

    /// No more data from this side: the peer reads the end after all that was
    /// written. Doing it twice is the same as once.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.conn.finish(self.id);
        }
    }

    /// Ends the stream at once in both directions, with a reason.
    pub fn reset(&mut self, refusal: &Refusal) {
        self.is_over = true;
        self.conn.reset(self.id, refusal);
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.stop(&Refusal::new(code::CANCELLED, "the reader went away"));
        self.conn.release(self.id);
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.is_over {
            self.reset(&Refusal::new(code::CANCELLED, "the writer went away"));
        }
        self.conn.release(self.id);
    }
}

// === impl AsyncRead, AsyncWrite ===

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.poll_chunk(cx))? {
                Some(chunk) => self.rest = chunk,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Ready(Err(StreamError::Finished.into()));
        }
        let n = buf.len().min(WRITE_COPY_MAX);
        let mut data = Bytes::copy_from_slice(&buf[..n]);
        match self.conn.poll_write(self.id, cx, &mut data) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(n)),
            Poll::Pending if data.len() < n => Poll::Ready(Ok(n - data.len())),
            Poll::Pending => Poll::Pending,
        }
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
