//! Dialling a relay over whatever its address says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fairway_identity::{RelayAddress, Transport};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxy::ProxyFailure;
use super::tls::{ALPN_HTTP, ALPN_LINK};
use super::{Flushing, LinkIo, WebSocket, quic};
use crate::config::LinkOptions;
use crate::limits::{CONNECT_TIMEOUT, TRANSPORT_TIMEOUT};

/// Dials relays.
#[derive(Debug)]
pub(crate) struct Connector {
    options: LinkOptions,
}

/// What a link can run on.
pub(crate) enum Connected {
    /// TCP as it is, which the driver knows by its type: it is the fast one.
    Tcp(TcpStream),
    /// Anything else.
    Other(Box<dyn LinkIo>),
}

/// Why a relay was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect")]
    Io(#[from] io::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("TLS cannot be used")]
    TlsConfig(#[from] rustls::Error),
    #[error("what answers takes no links over TLS: it did not agree to the protocol fairway/1")]
    NoLinks,
    #[error("no WebSocket for links there")]
    WebSocket(#[from] tokio_tungstenite::tungstenite::Error),
    #[error("QUIC failed")]
    Quic(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the proxy {proxy} is of no help")]
    Proxy { proxy: String, source: ProxyFailure },
    #[error("{0:?} has no address")]
    NoAddress(String),
}

impl ConnectError {
    pub(super) fn quic(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Quic(Box::new(error))
    }
}

impl Connector {
    pub(crate) fn new(options: LinkOptions) -> Self {
        Self { options }
    }

    /// How long a lesser transport is kept at first.
    pub(crate) fn upgrade_after(&self) -> Duration {
        self.options.upgrade_after
    }

    /// Connects, bounded.
    pub(crate) async fn connect(&self, to: &RelayAddress) -> Result<Connected, ConnectError> {
        let limit = match to.transport() {
            Transport::Tcp => CONNECT_TIMEOUT,
            Transport::Quic | Transport::Tls | Transport::WebSocket => TRANSPORT_TIMEOUT,
        };
        tokio::time::timeout(limit, self.connect_unbounded(to))
            .await
            .map_err(|_| ConnectError::Timeout(limit))?
    }

    async fn connect_unbounded(&self, to: &RelayAddress) -> Result<Connected, ConnectError> {
        let other = |io: Box<dyn LinkIo>| Ok(Connected::Other(io));
        match to.transport() {
            Transport::Tcp => self.tcp(to).await.map(Connected::Tcp),
            Transport::Quic => other(Box::new(self.quic(to).await?)),
            Transport::Tls => {
                let tls = self.tls(to, ALPN_LINK).await?;
                if tls.get_ref().1.alpn_protocol() != Some(ALPN_LINK) {
                    return Err(ConnectError::NoLinks);
                }
                other(Box::new(Flushing::new(tls)))
            }
            Transport::WebSocket => {
                let tls = self.tls(to, ALPN_HTTP).await?;
                let host = to.at().to_string();
                other(Box::new(WebSocket::connect(&host, tls).await?))
            }
        }
    }

    async fn tcp(&self, to: &RelayAddress) -> Result<TcpStream, ConnectError> {
        match self.options.proxy.to(to) {
            Some(proxy) => proxy.connect(to.at()).await,
            None => Ok(tcp(to.host(), to.at().port()).await?),
        }
    }

    async fn tls(
        &self,
        to: &RelayAddress,
        alpn: &[u8],
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        // Whatever intercepts TLS may know no more than 1.2.
        let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
        let config = self.options.tls_trust.client_config(alpn, &versions)?;
        let name = ServerName::try_from(to.host().to_owned())
            .map_err(|_| ConnectError::NoAddress(to.host().to_owned()))?;
        let io = self.tcp(to).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, io)
            .await
            .map_err(ConnectError::Tls)
    }

    async fn quic(&self, to: &RelayAddress) -> Result<quic::QuicLink, ConnectError> {
        let versions = [&rustls::version::TLS13];
        let config = self.options.tls_trust.client_config(ALPN_LINK, &versions)?;
        let mut last = ConnectError::NoAddress(to.host().to_owned());
        let addresses: Vec<_> = tokio::net::lookup_host((to.host(), to.at().port()))
            .await?
            .collect();
        // Each has its share of the time.
        let share = TRANSPORT_TIMEOUT / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        for address in addresses {
            let dialling = quic::connect(config.clone(), to.host(), address);
            match tokio::time::timeout(share, dialling).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => last = error,
                Err(_) => last = ConnectError::Timeout(share),
            }
        }
        Err(last)
    }
}

/// A TCP connection.
pub(crate) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let io = TcpStream::connect((host, port)).await?;
    fairway_daemon::tune_tcp(&io, io.peer_addr()?.ip())?;
    Ok(io)
}
