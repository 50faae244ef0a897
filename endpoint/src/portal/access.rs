//! One log line a connection: who, whom, which policy, how much, how long, why.

use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::forward::{chain, stream_error};
use super::metrics::{Direction, Outcome, PortalMetrics};
use crate::{Joined, OpenError};

/// A connection in progress. Clones are the same connection: each part that
/// has to do with it holds one, and when the last is gone the line is written.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: PortalMetrics,
    direction: Direction,
    destination: String,
    port: u16,
    started: Instant,
    from_peer: AtomicU64,
    to_peer: AtomicU64,
    known: Mutex<Known>,
}

/// What becomes known on the way.
#[derive(Debug, Default)]
struct Known {
    peer: Option<String>,
    policy: Option<String>,
    end: Option<End>,
}

/// How a connection, or one HTTP request, ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Machine-readable, kebab-case.
    pub(crate) reason: Cow<'static, str>,
    /// For people; empty when the reason says all.
    pub(crate) detail: String,
}

impl Connection {
    pub(crate) fn start(
        metrics: &PortalMetrics,
        direction: Direction,
        destination: String,
        port: u16,
    ) -> Self {
        Self(Arc::new(Inner {
            metrics: metrics.clone(),
            direction,
            destination,
            port,
            started: Instant::now(),
            from_peer: AtomicU64::new(0),
            to_peer: AtomicU64::new(0),
            known: Mutex::default(),
        }))
    }

    pub(crate) fn peer(&self, peer: impl ToString) {
        self.known().peer = Some(peer.to_string());
    }

    pub(crate) fn policy(&self, policy: Option<impl ToString>) {
        self.known().policy = policy.map(|policy| policy.to_string());
    }

    /// Says how it ended; what is said last holds. A connection that ends
    /// without a word was cut by the end of the process.
    pub(crate) fn end(&self, end: End) {
        self.known().end = Some(end);
    }

    /// It was joined with a stream, which has ended.
    pub(crate) fn joined(&self, joined: Joined) {
        self.moved(joined.from_peer, joined.to_peer);
        self.end(End::new(Outcome::Allowed, joined.reason, ""));
    }

    /// Counts plaintext bytes.
    fn moved(&self, from_peer: u64, to_peer: u64) {
        self.0.from_peer.fetch_add(from_peer, Ordering::Relaxed);
        self.0.to_peer.fetch_add(to_peer, Ordering::Relaxed);
    }

    /// `io` to or from the peer, with its bytes counted as this connection's.
    /// The connection lasts as long as it.
    pub(crate) fn counted<IO>(&self, io: IO) -> Counted<IO> {
        Counted {
            io,
            connection: self.clone(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        let end = known
            .end
            .take()
            .unwrap_or_else(|| End::new(Outcome::Allowed, "shutdown", ""));
        let (from_peer, to_peer) = (*self.from_peer.get_mut(), *self.to_peer.get_mut());
        self.metrics.count(self.direction, end.outcome);
        self.metrics.bytes(from_peer, to_peer);
        tracing::info!(
            event = "connection",
            direction = self.direction.as_str(),
            peer = known.peer.as_deref().unwrap_or("-"),
            destination = %self.destination,
            port = self.port,
            policy = known.policy.as_deref().unwrap_or("-"),
            decision = end.outcome.as_str(),
            bytes_in = from_peer,
            bytes_out = to_peer,
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            reason = %end.reason,
            detail = %end.detail,
        );
    }
}

impl End {
    pub(crate) fn new(
        outcome: Outcome,
        reason: impl Into<Cow<'static, str>>,
        detail: impl ToString,
    ) -> Self {
        Self {
            outcome,
            reason: reason.into(),
            detail: detail.to_string(),
        }
    }

    /// There is no stream.
    pub(crate) fn not_opened(error: &OpenError) -> Self {
        let outcome = if error.is_denied() {
            Outcome::Denied
        } else {
            Outcome::Failed
        };
        Self::new(outcome, error.reason().into_owned(), error)
    }
}

/// A connection's stream to or from the peer; see [`Connection::counted`].
#[derive(Debug)]
pub(crate) struct Counted<IO> {
    io: IO,
    connection: Connection,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.connection
            .moved((buf.filled().len() - before) as u64, 0);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.connection.moved(0, n as u64);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.connection.moved(0, n as u64);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The body of an answer from the peer. When it does not come to its end, the
/// connection ended otherwise than its head said.
#[derive(Debug)]
pub(crate) struct Watched {
    body: Incoming,
    connection: Connection,
    is_over: bool,
}

impl Watched {
    pub(crate) fn new(body: Incoming, connection: Connection) -> Self {
        Self {
            body,
            connection,
            is_over: false,
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                self.is_over = true;
                let reason = stream_error(error).map_or("reset", |refused| refused.reason());
                let end = End::new(Outcome::Allowed, reason.to_owned(), chain(error));
                self.connection.end(end);
            }
            None => self.is_over = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.is_over && !self.body.is_end_stream() {
            let text = "the app did not take the whole answer";
            self.connection
                .end(End::new(Outcome::Allowed, "local-closed", text));
        }
    }
}
