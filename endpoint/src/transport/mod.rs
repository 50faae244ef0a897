//! What links run on: TCP as it is, TLS, WebSocket over TLS, and QUIC.
//!
//! To a link's driver each is a byte stream of frames. TCP goes in as it is.
//! [`Flushing`] (TLS) and [`WebSocket`] see to it that what was written goes
//! out; [`QuicLink`] puts the frames of each circuit on a stream of their own,
//! so that what is lost on one stalls no other, and sends DATAGRAM frames as
//! QUIC's datagrams.
//!
//! None of this is trust: the link's own handshake, inside, shows who is at
//! the other end, and the channels inside that are sealed end to end.

mod connect;
mod flushing;
mod proxy;
mod quic;
mod tls;
mod websocket;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub(crate) use self::connect::{Connected, Connector, tcp};
pub use self::flushing::Flushing;
pub use self::proxy::{HttpProxy, ProxyError, ProxyUse};
pub use self::quic::{QuicLink, server_config as quic_server_config};
pub use self::tls::{ALPN_HTTP, ALPN_LINK, TlsTrust, TlsTrustError, crypto_provider};
pub use self::websocket::{PATH, WebSocket, accept_websocket};

/// A byte stream that carries a link's frames.
///
/// What is written goes out without a flush, as with TCP, as long as somebody
/// polls for reading.
pub trait LinkIo: AsyncRead + AsyncWrite + Send + Unpin {
    /// A circuit is over: nothing is written to it any more, and what still
    /// comes for it is of no use.
    fn circuit_over(&mut self, _circuit: u32) {}

    /// The other end has shown who it is: it may have this many circuits.
    fn authenticated(&mut self, _n_circuits: usize) {}

    /// How many DATAGRAM frames were thrown away on their way out since the
    /// last call.
    fn take_dropped_datagrams(&mut self) -> u64 {
        0
    }
}

impl LinkIo for TcpStream {}

#[cfg(test)]
impl LinkIo for tokio::io::DuplexStream {}

impl LinkIo for Box<dyn LinkIo> {
    fn circuit_over(&mut self, circuit: u32) {
        (**self).circuit_over(circuit);
    }

    fn authenticated(&mut self, n_circuits: usize) {
        (**self).authenticated(n_circuits);
    }

    fn take_dropped_datagrams(&mut self) -> u64 {
        (**self).take_dropped_datagrams()
    }
}
