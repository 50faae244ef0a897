//! A bounded number of connections to the webhook: when there are more, the
//! oldest of the source that has most gives way, so that a crowd of pods cannot
//! keep the API server out.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum_server::accept::Accept;
use fairway_daemon::{Entry, Gate, GateLimits};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::{WEBHOOK_ACCEPTS, WEBHOOK_CONNECTIONS_MAX};

/// Counts connections before anything is spent on them.
#[derive(Clone, Debug)]
pub(super) struct Counting(Gate);

/// A connection that ends when others need its place.
#[derive(Debug)]
pub(super) struct Counted {
    socket: TcpStream,
    entry: Entry,
}

impl Counting {
    pub(super) fn new() -> Self {
        Self(Gate::new(GateLimits {
            connections: 2 * WEBHOOK_CONNECTIONS_MAX,
            half_open: WEBHOOK_CONNECTIONS_MAX,
            accepts: WEBHOOK_ACCEPTS,
            accepts_per_source: WEBHOOK_ACCEPTS,
        }))
    }

    fn admit(&self, socket: TcpStream) -> io::Result<Counted> {
        let from = socket.peer_addr()?;
        let entry = self.0.admit(from.ip()).map_err(io::Error::other)?;
        Ok(Counted { socket, entry })
    }
}

impl<S> Accept<TcpStream, S> for Counting {
    type Stream = Counted;
    type Service = S;
    type Future = Ready<io::Result<(Counted, S)>>;

    fn accept(&self, socket: TcpStream, service: S) -> Self::Future {
        ready(self.admit(socket).map(|counted| (counted, service)))
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.entry.poll_evicted(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.entry.poll_evicted(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
