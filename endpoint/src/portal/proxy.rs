//! The proxy through which apps call `*.fairway.internal`: absolute-form
//! requests and CONNECT, HTTP/1.1 and h2c (RFC 9110 section 9.3.6, RFC 9112
//! section 3.2.2), and on the same port SOCKS5. Other hosts are refused, unless
//! the pod opted in.

use std::sync::Arc;

use ::http::uri::{Authority, Scheme};
use ::http::{Method, Request, Response, StatusCode};
use fairway_daemon::{Acceptor, Drain};
use fairway_identity::{Address, Destination};
use fairway_session::OpenRequest;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use tokio::net::{TcpListener, TcpStream};
use tracing::Instrument as _;

use super::access::{Connection, End, Watched};
use super::forward::{self, Answer, Body, Onward, SendError, chain, refusal, stream_error};
use super::inlet::{Place, accept_loop};
use super::metrics::{Direction, Outcome, PortalMetrics};
use super::{HEAD_TIMEOUT, http, others, socks, trace};
use crate::{Endpoint, OpenError, Stream};

/// The HTTP and SOCKS5 proxy for local apps.
#[derive(Debug, Clone)]
pub struct Proxy {
    endpoint: Endpoint,
    metrics: PortalMetrics,
    others: Others,
}

/// What becomes of hosts that are not under `fairway.internal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// 403 `foreign-host`.
    Refuse,
    /// They are connected to as if there were no proxy.
    Direct,
}

/// What a connection is told that there is no file for. To a client of SOCKS it
/// says nothing, and ends the connection.
const NO_FILES: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nfairway-reason: overloaded\r\n\
    connection: close\r\ncontent-length: 45\r\n\r\noverloaded: no file is left for a connection\n";

/// Why a request names no destination.
#[derive(Debug, thiserror::Error)]
enum BadTarget {
    #[error(
        "this is a proxy: send the absolute form (GET http://HOST:PORT/PATH) or CONNECT HOST:PORT"
    )]
    NotAProxyRequest,
    #[error("only http:// is proxied; the channel itself is encrypted end to end")]
    Scheme,
    #[error("CONNECT needs HOST:PORT")]
    NoPort,
    #[error("{0} is not under fairway.internal, and nothing else is reached through here")]
    Foreign(Authority, #[source] fairway_identity::AddressError),
}

impl Proxy {
    /// A proxy that calls out through `endpoint`.
    pub fn new(endpoint: Endpoint, metrics: PortalMetrics, others: Others) -> Self {
        Self {
            endpoint,
            metrics,
            others,
        }
    }

    /// Serves until the drain begins; live connections go on until it stops.
    pub async fn serve(self, listener: TcpListener, drain: Drain) {
        let acceptor = match Acceptor::new(listener) {
            Ok(acceptor) => acceptor,
            Err(error) => {
                tracing::error!(event = "proxy", %error, "the proxy cannot serve: no file is left");
                return;
            }
        };
        accept_loop(acceptor, NO_FILES, &drain, |socket, place| {
            self.clone().serve_connection(socket, drain.clone(), place)
        })
        .await;
    }

    async fn serve_connection(self, socket: TcpStream, drain: Drain, _place: Place) {
        let mut first = [0];
        let peeked = tokio::select! {
            peeked = tokio::time::timeout(HEAD_TIMEOUT, socket.peek(&mut first)) => peeked,
            () = drain.started() => return,
        };
        match peeked {
            Ok(Ok(1..)) => {}
            // It left, or says nothing.
            Ok(Ok(0) | Err(_)) | Err(_) => return,
        }
        if first == [socks::VERSION] {
            tokio::select! {
                () = socks::serve(&self, socket) => {}
                () = drain.stopped() => {}
            }
            return;
        }
        let proxy = Arc::new(self);
        let guards = drain.clone();
        let service = service_fn(move |request| {
            let (proxy, guards) = (Arc::clone(&proxy), guards.clone());
            async move { Ok::<_, std::convert::Infallible>(proxy.handle(request, &guards).await) }
        });
        let server = forward::server();
        let connection = server.serve_connection_with_upgrades(TokioIo::new(socket), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = drain.started() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = connection => result,
                    () = drain.stopped() => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(event = "proxy", error = %chain(&*error), "a local connection ended badly");
        }
    }

    async fn handle(&self, request: Request<Incoming>, drain: &Drain) -> Response<Body> {
        let destination = match destination(&request) {
            Ok(destination) => destination,
            Err(BadTarget::Foreign(host, _)) if self.others == Others::Direct => {
                return if request.method() == Method::CONNECT {
                    others::tunnel(&host, request).await
                } else {
                    others::forward(&host, request).await
                };
            }
            Err(error) => return bad_target(&error),
        };
        if request.method() == Method::CONNECT {
            self.tunnel(request, destination, drain).await
        } else {
            self.forward(request, destination, drain).await
        }
    }

    /// One request to one peer. It is answered with the peer's answer, or with
    /// 403 when the peer's policy says no, 502/503/504 when it was not reached.
    async fn forward(
        &self,
        mut request: Request<Incoming>,
        to: Destination,
        drain: &Drain,
    ) -> Response<Body> {
        if let Err(error) = http::check(request.uri(), request.headers()) {
            return refusal(StatusCode::BAD_REQUEST, "bad-request", &error.to_string());
        }
        let span = tracing::info_span!("proxy", otel.kind = "client", destination = %to.address, port = to.port, method = %request.method());
        trace::continue_from(&span, request.headers());
        trace::hand_on(&span, request.headers_mut());
        let connection = self.connection(&to);
        let work = async {
            match self.open(&to, request.headers()).await {
                Ok(stream) => {
                    connection.peer(stream.peer());
                    exchange(&connection, stream, Onward::new(request), drain).await
                }
                Err(error) => not_opened(&error, &connection),
            }
        };
        work.instrument(span).await
    }

    async fn tunnel(
        &self,
        request: Request<Incoming>,
        to: Destination,
        drain: &Drain,
    ) -> Response<Body> {
        let connection = self.connection(&to);
        let stream = match self.open(&to, request.headers()).await {
            Ok(stream) => stream,
            Err(error) => return not_opened(&error, &connection),
        };
        connection.peer(stream.peer());
        until_stopped(drain, join_upgraded(request, stream, connection));
        forward::connected()
    }

    async fn open(
        &self,
        to: &Destination,
        headers: &::http::HeaderMap,
    ) -> Result<Stream, OpenError> {
        let request = OpenRequest::port(to.port).with_traceparent(trace::traceparent(headers));
        self.endpoint.open(&to.address, request).await
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn connection(&self, to: &Destination) -> Connection {
        let name = to.address.to_string();
        Connection::start(&self.metrics, Direction::Outbound, name, to.port)
    }
}

/// Goes on in the background, to its end or that of the process.
fn until_stopped(drain: &Drain, work: impl Future<Output = ()> + Send + 'static) {
    let (guard, drain) = (drain.guard(), drain.clone());
    tokio::spawn(async move {
        let _guard = guard;
        tokio::select! {
            () = work => {}
            () = drain.stopped() => {}
        }
    });
}

async fn exchange(
    connection: &Connection,
    stream: Stream,
    request: Onward,
    drain: &Drain,
) -> Response<Body> {
    let answer = match request.send(connection.counted(stream)).await {
        Ok(answer) => answer,
        Err(error) => return stream_failed(&error, connection),
    };
    let Answer { response, switched } = answer;
    let reason = response.headers().get(http::REASON);
    let (outcome, reason) = if reason.is_some_and(|reason| reason == "policy-denied") {
        (Outcome::Denied, "policy-denied")
    } else {
        (Outcome::Allowed, "done")
    };
    connection.end(End::new(outcome, reason, response.status()));
    if let Some(switched) = switched {
        let connection = connection.clone();
        until_stopped(drain, async move {
            if let Err(error) = switched.join().await {
                connection.end(End::new(Outcome::Allowed, "reset", error));
            }
        });
    }
    response.map(|body| Watched::new(body, connection.clone()).boxed())
}

/// The stream broke before the answer: the peer's reason is in the chain of causes.
fn stream_failed(error: &SendError, connection: &Connection) -> Response<Body> {
    let refused = stream_error(error);
    let reason = refused.map_or("no-answer", |e| e.reason()).to_owned();
    let text = chain(error);
    let (status, outcome) = if reason == "policy-denied" {
        (StatusCode::FORBIDDEN, Outcome::Denied)
    } else {
        (StatusCode::BAD_GATEWAY, Outcome::Failed)
    };
    let response = refusal(status, &reason, &text);
    connection.end(End::new(outcome, reason, text));
    response
}

fn not_opened(error: &OpenError, connection: &Connection) -> Response<Body> {
    let status = match error {
        _ if error.is_denied() => StatusCode::FORBIDDEN,
        OpenError::NoCredential { .. } | OpenError::Overloaded | OpenError::Shutdown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        OpenError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        OpenError::NoLink { .. }
        | OpenError::NotHere { .. }
        | OpenError::RelayRefused { .. }
        | OpenError::SessionClosed(_)
        | OpenError::Refused(_) => StatusCode::BAD_GATEWAY,
    };
    connection.end(End::not_opened(error));
    refusal(status, &error.reason(), &error.to_string())
}

async fn join_upgraded(request: Request<Incoming>, stream: Stream, connection: Connection) {
    let upgraded = match hyper::upgrade::on(request).await {
        Ok(upgraded) => upgraded,
        Err(error) => return connection.end(End::new(Outcome::Failed, "local-closed", error)),
    };
    // HTTP/1.1 gives the socket back, so bulk data takes the same path as an inlet's.
    match downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => {
            connection.joined(crate::join(parts.io.into_inner(), stream, parts.read_buf).await);
        }
        Err(upgraded) => copy(TokioIo::new(upgraded), stream, connection).await,
    }
}

/// CONNECT over HTTP/2: the local side is a stream of a connection itself.
async fn copy(
    mut local: TokioIo<hyper::upgrade::Upgraded>,
    stream: Stream,
    connection: Connection,
) {
    let mut stream = connection.counted(stream);
    connection.end(
        match tokio::io::copy_bidirectional(&mut local, &mut stream).await {
            Ok(_) => End::new(Outcome::Allowed, "done", ""),
            Err(error) => {
                let reason = stream_error(&error).map_or("reset", |refused| refused.reason());
                End::new(Outcome::Allowed, reason.to_owned(), &error)
            }
        },
    );
}

fn destination(request: &Request<Incoming>) -> Result<Destination, BadTarget> {
    let uri = request.uri();
    let authority: &Authority = uri.authority().ok_or(BadTarget::NotAProxyRequest)?;
    let port = match (request.method() == Method::CONNECT, authority.port_u16()) {
        (_, Some(port)) => port,
        (true, None) => return Err(BadTarget::NoPort),
        (false, None) => 80,
    };
    if request.method() != Method::CONNECT && uri.scheme() != Some(&Scheme::HTTP) {
        return Err(BadTarget::Scheme);
    }
    let address: Address = authority
        .host()
        .parse()
        .map_err(|source| BadTarget::Foreign(authority.clone(), source))?;
    Ok(Destination { address, port })
}

fn bad_target(error: &BadTarget) -> Response<Body> {
    let (status, reason) = match error {
        BadTarget::NotAProxyRequest | BadTarget::Scheme | BadTarget::NoPort => {
            (StatusCode::BAD_REQUEST, "bad-target")
        }
        BadTarget::Foreign(..) => (StatusCode::FORBIDDEN, "foreign-host"),
    };
    refusal(status, reason, &chain(error))
}
