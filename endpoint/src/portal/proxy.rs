//! The HTTP proxy through which apps call `*.fairway.internal`: absolute-form
//! requests and CONNECT, HTTP/1.1 and h2c (RFC 9110 section 9.3.6, RFC 9112
//! section 3.2.2). Other hosts are refused, unless the pod opted in.

use std::sync::Arc;

use ::http::uri::{Authority, Scheme};
use ::http::{Method, Request, Response, StatusCode};
use fairway_daemon::Drain;
use fairway_identity::{Address, Destination};
use fairway_session::OpenRequest;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tracing::Instrument as _;

use super::access::{Connection, End};
use super::forward::{self, Body, chain, refusal};
use super::inlet::accept_loop;
use super::metrics::{Direction, Outcome, PortalMetrics};
use super::{http, others, trace};
use crate::{Endpoint, OpenError, Stream};

/// The HTTP proxy for local apps.
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
        accept_loop(&listener, &drain, |socket, guard| {
            let (proxy, drain) = (self.clone(), drain.clone());
            async move {
                proxy.serve_connection(socket, &drain).await;
                drop(guard);
            }
        })
        .await;
    }

    async fn serve_connection(self, socket: TcpStream, drain: &Drain) {
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
            self.forward(request, destination).await
        }
    }

    /// One request to one peer. It is answered with the peer's answer, or with
    /// 403 when the peer's policy says no, 502/503/504 when it was not reached.
    async fn forward(&self, mut request: Request<Incoming>, to: Destination) -> Response<Body> {
        if let Err(error) = http::check(request.uri(), request.headers()) {
            return refusal(StatusCode::BAD_REQUEST, "bad-request", &error.to_string());
        }
        let span = tracing::info_span!("proxy", otel.kind = "client", destination = %to.address, port = to.port, method = %request.method());
        trace::continue_from(&span, request.headers());
        trace::hand_on(&span, request.headers_mut());
        let mut connection = Connection::start(
            &self.metrics,
            Direction::Outbound,
            to.address.to_string(),
            to.port,
        );
        let work = async {
            let (response, end) = match self.open(&to, request.headers()).await {
                Ok(stream) => {
                    connection.peer(stream.peer());
                    send(stream, request).await
                }
                Err(error) => not_opened(&error),
            };
            connection.end(&end);
            response
        };
        work.instrument(span).await
    }

    async fn tunnel(
        &self,
        request: Request<Incoming>,
        to: Destination,
        drain: &Drain,
    ) -> Response<Body> {
        let mut connection = Connection::start(
            &self.metrics,
            Direction::Outbound,
            to.address.to_string(),
            to.port,
        );
        let stream = match self.open(&to, request.headers()).await {
            Ok(stream) => stream,
            Err(error) => {
                let (response, end) = not_opened(&error);
                connection.end(&end);
                return response;
            }
        };
        connection.peer(stream.peer());
        let (guard, drain) = (drain.guard(), drain.clone());
        tokio::spawn(async move {
            let _guard = guard;
            let end = tokio::select! {
                end = join_upgraded(request, stream) => end,
                () = drain.stopped() => End::without_bytes(Outcome::Allowed, "shutdown", ""),
            };
            connection.end(&end);
        });
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
}

async fn send(stream: Stream, request: Request<Incoming>) -> (Response<Body>, End) {
    match forward::send(stream, request).await {
        Ok(response) => {
            let denied = response
                .headers()
                .get(http::REASON)
                .is_some_and(|reason| reason == "policy-denied");
            let outcome = if denied {
                Outcome::Denied
            } else {
                Outcome::Allowed
            };
            let reason = if denied { "policy-denied" } else { "done" };
            let end = End::without_bytes(outcome, reason, response.status());
            (response, end)
        }
        Err(error) => stream_failed(&error),
    }
}

/// The stream broke before the answer: the peer's reason is in the chain of causes.
fn stream_failed(error: &hyper::Error) -> (Response<Body>, End) {
    let refused = find_stream_error(error);
    let reason = refused.map_or("no-answer", |e| e.reason()).to_owned();
    let text = chain(error);
    let denied = reason == "policy-denied";
    let (status, outcome) = if denied {
        (StatusCode::FORBIDDEN, Outcome::Denied)
    } else {
        (StatusCode::BAD_GATEWAY, Outcome::Failed)
    };
    (
        refusal(status, &reason, &text),
        End::without_bytes(outcome, reason, text),
    )
}

fn find_stream_error(error: &hyper::Error) -> Option<&crate::StreamError> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            return inner.downcast_ref();
        }
        source = error.source();
    }
    None
}

fn not_opened(error: &OpenError) -> (Response<Body>, End) {
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
    let outcome = if error.is_denied() {
        Outcome::Denied
    } else {
        Outcome::Failed
    };
    let (reason, text) = (error.reason().into_owned(), error.to_string());
    (
        refusal(status, &reason, &text),
        End::without_bytes(outcome, reason, text),
    )
}

async fn join_upgraded(request: Request<Incoming>, stream: Stream) -> End {
    let upgraded = match hyper::upgrade::on(request).await {
        Ok(upgraded) => upgraded,
        Err(error) => return End::without_bytes(Outcome::Failed, "local-closed", error),
    };
    // HTTP/1.1 gives the socket back, so bulk data takes the same path as an inlet's.
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            super::inlet::joined(crate::join(parts.io.into_inner(), stream, parts.read_buf).await)
        }
        Err(upgraded) => copy(TokioIo::new(upgraded), stream).await,
    }
}

/// CONNECT over HTTP/2: the local side is a stream of a connection itself.
async fn copy(mut local: TokioIo<hyper::upgrade::Upgraded>, mut stream: Stream) -> End {
    match tokio::io::copy_bidirectional(&mut local, &mut stream).await {
        Ok((to_peer, from_peer)) => End {
            outcome: Outcome::Allowed,
            reason: "done".into(),
            detail: String::new(),
            from_peer,
            to_peer,
        },
        Err(error) => End::without_bytes(Outcome::Allowed, "reset", error),
    }
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
