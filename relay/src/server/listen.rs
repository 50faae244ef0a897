//! Connections become links: the listeners, and the handshakes of TLS,
//! WebSocket and QUIC that come before a link's own.
//!
//! Every connection goes through the same gate before anything is spent on it,
//! and has [`HANDSHAKE_TIMEOUT`](limits::HANDSHAKE_TIMEOUT) until it is a link
//! and the same again to authenticate.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use fairway_control::link::refused_frame;
use fairway_control::{Reason, reason};
use fairway_daemon::{Acceptor, Drain, DrainGuard, Entry, say_and_close, tune_tcp};
use fairway_endpoint::transport::{
    ALPN_LINK, Flushing, LinkIo, QuicLink, accept_websocket, quic_server_config,
};
use fairway_identity::Transport;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::access;
use super::certificate::{CertificateError, Certificates};
use super::control::Control;
use super::driver::Driver;
use super::link::Link;
use super::shared::Shared;
use super::socket::Socket;
use super::{ListenError, ServerConfig};
use crate::limits;

/// Where links come in.
#[derive(Debug)]
pub(super) struct Listeners {
    tcp: Acceptor,
    tls: Option<TlsListener>,
    quic: Option<quinn::Endpoint>,
    certificates: Option<Arc<Certificates>>,
}

struct TlsListener {
    acceptor: Acceptor,
    tls: TlsAcceptor,
}

impl Listeners {
    pub(super) async fn bind(config: &ServerConfig) -> Result<Self, ListenError> {
        let needs_certificate = config.listen_tls.is_some() || config.listen_quic.is_some();
        let certificates = needs_certificate
            .then(|| Certificates::new(config.certificate.clone()))
            .transpose()?;
        let mut listeners = Self {
            tcp: bind_tcp(config.listen).await?,
            tls: None,
            quic: None,
            certificates,
        };
        if let Some(certificates) = &listeners.certificates {
            if let Some(address) = config.listen_tls {
                let tls = certificates.tls_config().map_err(CertificateError::from)?;
                listeners.tls = Some(TlsListener {
                    acceptor: bind_tcp(address).await?,
                    tls: TlsAcceptor::from(Arc::new(tls)),
                });
            }
            if let Some(address) = config.listen_quic {
                let tls = certificates.quic_config().map_err(CertificateError::from)?;
                listeners.quic = Some(bind_quic(address, tls)?);
            }
        }
        Ok(listeners)
    }

    pub(super) fn tcp_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    pub(super) fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls.as_ref()?.acceptor.local_addr().ok()
    }

    pub(super) fn quic_addr(&self) -> Option<SocketAddr> {
        self.quic.as_ref()?.local_addr().ok()
    }

    /// Accepts links on all of them; never ends by itself.
    pub(super) async fn accept(&mut self, shared: &Arc<Shared>, drain: &Drain) {
        let certificates = async {
            if let Some(certificates) = &self.certificates {
                certificates.clone().follow().await;
            }
            std::future::pending::<()>().await
        };
        let tls = async {
            match &mut self.tls {
                Some(listener) => accept_tls(listener, shared, drain).await,
                None => std::future::pending().await,
            }
        };
        let quic = async {
            match &self.quic {
                Some(endpoint) => accept_quic(endpoint, shared, drain).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(
            accept_tcp(&mut self.tcp, shared, drain),
            tls,
            quic,
            certificates
        );
    }

    /// The last words on QUIC connections go out.
    pub(super) async fn close(self) {
        if let Some(quic) = self.quic {
            quic.close(quinn::VarInt::from_u32(0), b"");
            let _ = tokio::time::timeout(limits::CLOSE_LINGER, quic.wait_idle()).await;
        }
    }
}

async fn bind_tcp(address: SocketAddr) -> Result<Acceptor, ListenError> {
    TcpListener::bind(address)
        .await
        .and_then(Acceptor::new)
        .map_err(|source| ListenError::Address { address, source })
}

fn bind_quic(
    address: SocketAddr,
    tls: rustls::ServerConfig,
) -> Result<quinn::Endpoint, ListenError> {
    let refused = |source| ListenError::Address { address, source };
    let config = quic_server_config(tls).map_err(|error| refused(io::Error::other(error)))?;
    quinn::Endpoint::server(config, address).map_err(refused)
}

// --- TCP ---------------------------------------------------------------------------

async fn accept_tcp(acceptor: &mut Acceptor, shared: &Arc<Shared>, drain: &Drain) {
    let no_files = no_files();
    loop {
        let (socket, remote) = acceptor.accept(&no_files).await;
        if let Some((socket, entry)) = admit(shared, socket, remote, true) {
            begin(shared, Socket::tcp(socket), remote, entry, drain.guard());
        }
    }
}

/// What is sent while there are no files for connections.
fn no_files() -> Vec<u8> {
    let reason = Reason::new(reason::OVERLOADED, "no file is left for a connection");
    refused_frame(&reason).to_vec()
}

/// Lets a TCP connection through the gate, or closes it, on `is_plain` ones
/// with the reason.
fn admit(
    shared: &Arc<Shared>,
    socket: TcpStream,
    remote: SocketAddr,
    is_plain: bool,
) -> Option<(TcpStream, Entry)> {
    shared.metrics.links_accepted.inc();
    match shared.gate.admit(remote.ip()) {
        Ok(entry) => {
            if let Err(error) = tune_tcp(&socket, remote.ip()) {
                tracing::debug!(event = "link-failed", %remote, %error);
                return None;
            }
            Some((socket, entry))
        }
        Err(why) => {
            let why = Reason::new(reason::OVERLOADED, why.to_string());
            access::connection_refused(&shared.metrics, remote, &why);
            if is_plain {
                say_and_close(socket, &refused_frame(&why));
            }
            None
        }
    }
}

/// Starts the link on a connection.
fn begin(
    shared: &Arc<Shared>,
    socket: Socket,
    remote: SocketAddr,
    entry: Entry,
    guard: DrainGuard,
) {
    let mut seed = [0; 32];
    let now = shared.identity.now();
    let control = getrandom::fill(&mut seed)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            let identity = shared.identity.current();
            Control::answer(&identity, seed, now).map_err(|error| error.to_string())
        });
    let control = match control {
        Ok(control) => control,
        Err(error) => {
            tracing::warn!(event = "link-failed", %remote, error, "cannot answer a link");
            return;
        }
    };
    let Socket {
        source,
        sink,
        transport,
    } = socket;
    let link = Arc::new(Link::new(shared.number(), remote, transport, sink, control));
    let driver = Box::new(Driver::new(shared.clone(), link, source, entry));
    tokio::spawn(driver.run(guard));
}

// --- TLS and WebSocket -----------------------------------------------------------------

async fn accept_tls(listener: &mut TlsListener, shared: &Arc<Shared>, drain: &Drain) {
    loop {
        // A frame would mean nothing to a TLS client.
        let (socket, remote) = listener.acceptor.accept(&[]).await;
        if let Some((socket, entry)) = admit(shared, socket, remote, false) {
            let making = secure(listener.tls.clone(), socket);
            spawn_handshake(shared, making, remote, entry, drain.guard());
        }
    }
}

/// TLS, and then a link or a WebSocket, as the client has asked.
async fn secure(tls: TlsAcceptor, socket: TcpStream) -> io::Result<Socket> {
    let stream = tls.accept(socket).await?;
    if stream.get_ref().1.alpn_protocol() == Some(ALPN_LINK) {
        let io: Box<dyn LinkIo> = Box::new(Flushing::new(stream));
        return Ok(Socket::other(Transport::Tls, io));
    }
    let io = accept_websocket(stream).await?;
    Ok(Socket::other(Transport::WebSocket, Box::new(io)))
}

/// Makes a link of a connection, bounded in time, unless it has to give way.
fn spawn_handshake(
    shared: &Arc<Shared>,
    making: impl Future<Output = io::Result<Socket>> + Send + 'static,
    remote: SocketAddr,
    entry: Entry,
    guard: DrainGuard,
) {
    let shared = shared.clone();
    tokio::spawn(async move {
        let made = tokio::select! {
            made = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, making) => {
                made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
            () = entry.evicted() => Err(io::Error::other("too many links in their handshake")),
        };
        match made {
            Ok(socket) => begin(&shared, socket, remote, entry, guard),
            Err(error) => {
                let why = Reason::new(reason::LINK_LOST, error.to_string());
                access::connection_refused(&shared.metrics, remote, &why);
            }
        }
    });
}

// --- QUIC ------------------------------------------------------------------------------

async fn accept_quic(endpoint: &quinn::Endpoint, shared: &Arc<Shared>, drain: &Drain) {
    while let Some(incoming) = endpoint.accept().await {
        let remote = incoming.remote_address();
        let is_busy = shared.gate.n_half_open() >= limits::QUIC_RETRY_ABOVE;
        if is_busy && !incoming.remote_address_validated() {
            // Costs nothing here, and shows that the sender is where it says.
            if incoming.retry().is_ok() {
                shared.metrics.quic_retries.inc();
            }
            continue;
        }
        shared.metrics.links_accepted.inc();
        match shared.gate.admit(remote.ip()) {
            Ok(entry) => {
                let making = async move {
                    let connection = incoming.accept()?.await?;
                    let link = QuicLink::accepted(connection).await?;
                    let io: Box<dyn LinkIo> = Box::new(link);
                    Ok(Socket::other(Transport::Quic, io))
                };
                spawn_handshake(shared, making, remote, entry, drain.guard());
            }
            Err(why) => {
                let why = Reason::new(reason::OVERLOADED, why.to_string());
                access::connection_refused(&shared.metrics, remote, &why);
                incoming.refuse();
            }
        }
    }
    std::future::pending().await
}

impl std::fmt::Debug for TlsListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsListener")
            .field("acceptor", &self.acceptor)
            .finish_non_exhaustive()
    }
}
