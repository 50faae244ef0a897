//! The two sides of a link's connection: TCP as it is, or any other transport.
//!
//! A link is read by its own driver and written by whoever has frames for it.
//! For TCP the operating system sees to that; the others are behind a lock, and
//! wake the link's driver when they go on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker, ready};

use fairway_endpoint::transport::LinkIo;
use fairway_identity::Transport;
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A connection that is to become a link.
pub(super) struct Socket {
    pub(super) source: Source,
    pub(super) sink: Sink,
    pub(super) transport: Transport,
}

/// Where a driver reads.
pub(super) enum Source {
    Tcp(OwnedReadHalf),
    Other(Arc<Other>),
}

/// Where frames are written.
pub(super) enum Sink {
    Tcp(OwnedWriteHalf),
    Other(Arc<Other>),
}

/// A connection over another transport.
pub(super) struct Other {
    io: Mutex<Box<dyn LinkIo>>,
    writable: Arc<Writable>,
    /// Wakes `writable`.
    waker: Waker,
}

/// Tells the driver that a connection takes more.
#[derive(Default)]
struct Writable {
    driver: AtomicWaker,
    is_woken: AtomicBool,
}

impl Socket {
    pub(super) fn tcp(io: TcpStream) -> Self {
        let (read, write) = io.into_split();
        Self {
            source: Source::Tcp(read),
            sink: Sink::Tcp(write),
            transport: Transport::Tcp,
        }
    }

    pub(super) fn other(transport: Transport, io: Box<dyn LinkIo>) -> Self {
        let writable = Arc::<Writable>::default();
        let waker = Waker::from(writable.clone());
        let other = Arc::new(Other {
            io: Mutex::new(io),
            writable,
            waker,
        });
        Self {
            source: Source::Other(other.clone()),
            sink: Sink::Other(other),
            transport,
        }
    }
}

impl Sink {
    /// Writes what is taken at once; [`io::ErrorKind::WouldBlock`] when nothing is.
    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write_vectored(slices),
            Self::Other(other) => {
                let mut cx = Context::from_waker(&other.waker);
                let mut io = other.io();
                match Pin::new(&mut *io).poll_write_vectored(&mut cx, slices) {
                    Poll::Ready(written) => written,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Ready when there may be room again; for the driver, after nothing was taken.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(socket) => socket.as_ref().poll_write_ready(cx).map(drop),
            Self::Other(other) => {
                let writable = &other.writable;
                writable.driver.register(cx.waker());
                if writable.is_woken.swap(false, Ordering::AcqRel) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            }
        }
    }

    /// How many DATAGRAMs the connection has thrown away since the last call.
    pub(super) fn take_dropped_datagrams(&self) -> u64 {
        match self {
            Self::Tcp(_) => 0,
            Self::Other(other) => other.io().take_dropped_datagrams(),
        }
    }

    /// The other end has shown who it is.
    pub(super) fn authenticated(&self, n_circuits: usize) {
        match self {
            Self::Tcp(_) => {}
            Self::Other(other) => other.io().authenticated(n_circuits),
        }
    }

    /// Ready once what was written has left, as far as that can be known. TCP
    /// sees to it by itself.
    pub(super) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(_) => Poll::Ready(()),
            Self::Other(other) => Pin::new(&mut *other.io()).poll_shutdown(cx).map(drop),
        }
    }
}

impl AsyncRead for Source {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Other(other) => {
                // Reading also brings out what was written and not yet taken.
                other.writable.driver.register(cx.waker());
                let mut io = other.io();
                ready!(Pin::new(&mut *io).poll_read(cx, buf))?;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Other {
    fn io(&self) -> MutexGuard<'_, Box<dyn LinkIo>> {
        self.io.lock().expect("no panic while the lock is held")
    }
}

impl Wake for Writable {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.driver.wake();
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(socket) => socket.fmt(f),
            Self::Other(_) => f.write_str("Other"),
        }
    }
}
