//! Through an HTTP proxy, by CONNECT.

use std::sync::Arc;

use fairway_identity::{HostPort, RelayAddress, Transport};
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::connect::{ConnectError, tcp};

/// Whether links go through an HTTP proxy. QUIC never does.
#[derive(Clone, Debug, Default)]
pub enum ProxyUse {
    /// Never.
    #[default]
    None,
    /// Always, for every transport on TCP.
    Always(HttpProxy),
    /// As `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say, for TLS and WebSocket
    /// (which is what a proxy expects to see).
    Environment(Arc<Matcher>),
}

/// One proxy, with what it wants to know. `Debug` leaves the password out.
#[derive(Clone)]
pub struct HttpProxy(Intercept);

/// A proxy's URL is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It is none, or has a scheme that is not spoken.
    #[error("write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT")]
    Url,
}

impl ProxyUse {
    /// This proxy, always. User and password in the URL are sent as Basic
    /// authentication.
    ///
    /// # Errors
    ///
    /// It is no URL of an HTTP proxy.
    pub fn from_url(url: &str) -> Result<Self, ProxyError> {
        let matcher = Matcher::builder().https(url.to_owned()).build();
        let any = Uri::from_static("https://relay.invalid/");
        match matcher.intercept(&any) {
            Some(via) if via.uri().scheme_str() == Some("http") => Ok(Self::Always(HttpProxy(via))),
            Some(_) | None => Err(ProxyError::Url),
        }
    }

    /// What this process's environment says.
    pub fn from_env() -> Self {
        Self::Environment(Arc::new(Matcher::from_env()))
    }

    /// The proxy that leads to `relay`, if one is to.
    pub(super) fn to(&self, relay: &RelayAddress) -> Option<HttpProxy> {
        match (self, relay.transport()) {
            (Self::None, _) | (_, Transport::Quic) => None,
            (Self::Always(proxy), Transport::Tcp | Transport::Tls | Transport::WebSocket) => {
                Some(proxy.clone())
            }
            (Self::Environment(_), Transport::Tcp) => None,
            (Self::Environment(matcher), Transport::Tls | Transport::WebSocket) => {
                let uri: Uri = format!("https://{}/", relay.at()).parse().ok()?;
                matcher.intercept(&uri).map(HttpProxy)
            }
        }
    }
}

impl HttpProxy {
    /// A connection to `to` through the proxy.
    pub(super) async fn connect(&self, to: &HostPort) -> Result<TcpStream, ConnectError> {
        let failed = |source: ProxyFailure| ConnectError::Proxy {
            proxy: self.at(),
            source,
        };
        let uri = self.0.uri();
        if uri.scheme_str() != Some("http") {
            return Err(failed(ProxyFailure::Scheme));
        }
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let io = tcp(host, uri.port_u16().unwrap_or(80))
            .await
            .map_err(|error| failed(ProxyFailure::Connect(error)))?;
        self.tunnel(io, to).await.map_err(failed)
    }

    async fn tunnel(&self, io: TcpStream, to: &HostPort) -> Result<TcpStream, ProxyFailure> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let connection = tokio::spawn(connection.with_upgrades());
        let mut request = Request::connect(to.to_string()).header(HOST, to.to_string());
        if let Some(authorization) = self.0.basic_auth() {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let answer = sender
            .send_request(request.body(Empty::<bytes::Bytes>::new())?)
            .await;
        let answer = match answer {
            Ok(answer) if answer.status().is_success() => answer,
            Ok(answer) => {
                connection.abort();
                return Err(match answer.status() {
                    StatusCode::PROXY_AUTHENTICATION_REQUIRED => ProxyFailure::Authentication,
                    status => ProxyFailure::Refused(status),
                });
            }
            Err(error) => {
                connection.abort();
                return Err(error.into());
            }
        };
        let upgraded = hyper::upgrade::on(answer).await?;
        let parts = upgraded
            .downcast::<TokioIo<TcpStream>>()
            .map_err(|_| ProxyFailure::Early)?;
        if !parts.read_buf.is_empty() {
            // The relay never speaks first, so this is not it.
            return Err(ProxyFailure::Early);
        }
        Ok(parts.io.into_inner())
    }

    fn at(&self) -> String {
        let uri = self.0.uri();
        uri.authority().map(ToString::to_string).unwrap_or_default()
    }
}

/// Why a proxy was of no help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyFailure {
    #[error("only http:// proxies are spoken with")]
    Scheme,
    #[error("cannot connect to it")]
    Connect(#[source] std::io::Error),
    #[error("it wants a user and a password, or others than these")]
    Authentication,
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("it speaks where the relay should")]
    Early,
    #[error("it does not speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("no request for it can be made")]
    Request(#[from] http::Error),
}

impl std::fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HttpProxy").field(&self.at()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(text: &str) -> RelayAddress {
        text.parse().unwrap()
    }

    #[test]
    fn a_proxy_that_is_written_down_is_for_everything_on_tcp() {
        let proxy = ProxyUse::from_url("http://user:p%40ss@proxy.example.com:3128").unwrap();
        for (address, is_used) in [
            ("relay.example.com:7440", true),
            ("tls://relay.example.com:7443", true),
            ("wss://127.0.0.1:7443", true),
            ("quic://relay.example.com:7440", false),
        ] {
            assert_eq!(proxy.to(&relay(address)).is_some(), is_used, "{address}");
        }
        let debug = format!("{proxy:?}");
        assert!(debug.contains("proxy.example.com:3128"), "{debug}");
        assert!(!debug.contains("ss"), "{debug}");
    }

    #[test]
    fn the_environment_has_exceptions() {
        let matcher = Matcher::builder()
            .https("proxy.example.com:3128".to_owned())
            .no("198.18.0.0/15,.inside".to_owned())
            .build();
        let proxy = ProxyUse::Environment(Arc::new(matcher));
        for (address, is_used) in [
            ("wss://relay.example.com:7443", true),
            ("tls://relay.example.com:7443", true),
            ("relay.example.com:7440", false),
            ("wss://198.18.0.3:7443", false),
            ("wss://relay.inside:7443", false),
        ] {
            assert_eq!(proxy.to(&relay(address)).is_some(), is_used, "{address}");
        }
        assert!(
            ProxyUse::None
                .to(&relay("wss://relay.example.com:1"))
                .is_none()
        );
    }

    #[test]
    fn what_is_no_proxy() {
        for url in ["", "https://proxy:1", "socks5://proxy:1", "http://", "a b"] {
            assert_eq!(
                ProxyUse::from_url(url).err(),
                Some(ProxyError::Url),
                "{url:?}"
            );
        }
    }
}
