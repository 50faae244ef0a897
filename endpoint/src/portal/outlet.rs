//! Hands what a peer sends to a local port, as far as its `Grant` goes.
//!
//! Where policy speaks of HTTP, every request is parsed, decided by itself and
//! sent on in one normal form, with headers that tell the app who called.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::header::HeaderValue;
use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use fairway_daemon::Drain;
use fairway_session::{Grant, OpenRequest, Refusal, code};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::access::{Connection, End};
use super::forward::{self, Body, chain, refusal};
use super::inlet::joined;
use super::listening::{ListenTable, Listening};
use super::metrics::{Direction, Outcome, PortalMetrics};
use super::{http, trace};
use crate::{Incoming, Stream, join};

/// How long a local app may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where granted streams lead.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// To the pod's own loopback, and only to ports that nobody else can reach.
    Pod {
        /// Who listens where.
        listening: ListenTable,
        /// Ports whose exposure the pod's annotation accepts.
        exposed: BTreeSet<u16>,
    },
    /// To the local address that the device's config gives a service.
    Device {
        /// Address by name of the service.
        services: BTreeMap<String, SocketAddr>,
    },
}

/// Delivers incoming streams.
#[derive(Debug, Clone)]
pub struct Outlet {
    delivery: Arc<Delivery>,
    metrics: PortalMetrics,
}

impl Outlet {
    /// An outlet that delivers as `delivery` says.
    pub fn new(delivery: Delivery, metrics: PortalMetrics) -> Self {
        Self { delivery: Arc::new(delivery), metrics }
    }

    /// Serves what comes in, until the endpoint ends. Each stream has a task
    /// of its own; the session bounds how many there are.
    pub async fn serve(self, mut incoming: mpsc::Receiver<Incoming>, drain: Drain) {
        while let Some(next) = incoming.recv().await {
            let (outlet, guard, drain) = (self.clone(), drain.guard(), drain.clone());
            tokio::spawn(async move {
                let _guard = guard;
                tokio::select! {
                    () = outlet.deliver(next) => {}
                    () = drain.stopped() => {}
                }
            });
        }
    }

    async fn deliver(&self, incoming: Incoming) {
        let Incoming { grant, open, stream } = incoming;
        let mut connection = Connection::start(&self.metrics, Direction::Inbound, grant.target().to_string(), grant.port());
        connection.peer(grant.peer().id_text());
        connection.policy(grant.by());
        let end = match self.connect(&grant).await {
            Ok(socket) if grant.needs_http() => self.serve_http(socket, grant, &open, stream).await,
            Ok(socket) => {
                let mut stream = stream;
                stream.accept();
                joined(join(socket, stream, Bytes::new()).await)
            }
            Err(refusal) => {
                let end = End::without_bytes(Outcome::Failed, refusal.reason().to_owned(), &refusal.text);
                stream.refuse(refusal);
                end
            }
        };
        connection.end(&end);
    }

    async fn connect(&self, grant: &Grant) -> Result<TcpStream, Refusal> {
        let address = self.local_address(grant)?;
        let refuse = |text: String| Refusal::new(code::CONNECT_REFUSED, text);
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Small writes are common, and whoever wrote them waits for the answer.
                let _ = socket.set_nodelay(true);
                Ok(socket)
            }
            Ok(Err(error)) => Err(refuse(format!("the app at {address} cannot be connected to: {error}"))),
            Err(_) => Err(refuse(format!("the app at {address} did not accept within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    fn local_address(&self, grant: &Grant) -> Result<SocketAddr, Refusal> {
        match &*self.delivery {
            Delivery::Pod { listening, exposed } => {
                let port = grant.local_port();
                if !exposed.contains(&port) {
                    require_loopback(listening, port)?;
                }
                Ok((Ipv4Addr::LOCALHOST, port).into())
            }
            Delivery::Device { services } => grant.service().and_then(|service| services.get(service)).copied().ok_or_else(|| {
                Refusal::new(code::NOT_LISTENING, "the device's config has no such service".to_owned())
            }),
        }
    }

    async fn serve_http(&self, first: TcpStream, grant: Grant, open: &OpenRequest, mut stream: Stream) -> End {
        stream.accept();
        let app = App { outlet: self.clone(), first: Arc::new(std::sync::Mutex::new(Some(first))), grant: Arc::new(grant) };
        let traceparent = open.traceparent.clone();
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let app = app.clone();
            if let Some(parent) = &traceparent
                && let Ok(value) = HeaderValue::from_str(parent)
            {
                request.headers_mut().entry("traceparent").or_insert(value);
            }
            async move { Ok::<_, std::convert::Infallible>(app.handle(request).await) }
        });
        match forward::server().serve_connection(TokioIo::new(stream), service).await {
            Ok(()) => End::without_bytes(Outcome::Allowed, "done", ""),
            Err(error) => End::without_bytes(Outcome::Allowed, "reset", chain(&*error)),
        }
    }
}

/// Refuses a port that somebody could reach without Fairway, or nobody serves.
fn require_loopback(listening: &ListenTable, port: u16) -> Result<(), Refusal> {
    match listening.look_up(port) {
        Ok(Listening::Loopback) => Ok(()),
        Ok(Listening::Exposed(address)) => Err(Refusal::new(
            code::EXPOSED_PORT,
            format!("the app listens on {address}:{port}, which can be reached without Fairway; let it listen on 127.0.0.1, or accept the risk with the annotation fairway.dev/allow-exposed-ports: \"{port}\""),
        )),
        Ok(Listening::Nobody) => Err(Refusal::new(code::NOT_LISTENING, format!("no app listens on port {port}"))),
        Err(error) => Err(Refusal::new(code::NOT_LISTENING, format!("cannot tell who listens on port {port}: {error}"))),
    }
}

/// The app behind one stream of HTTP.
#[derive(Clone)]
struct App {
    outlet: Outlet,
    /// The connection that was made before the stream was accepted, for the first request.
    first: Arc<std::sync::Mutex<Option<TcpStream>>>,
    grant: Arc<Grant>,
}

impl App {
    async fn handle(&self, request: Request<hyper::body::Incoming>) -> Response<Body> {
        let span = tracing::info_span!("deliver", otel.kind = "server", method = %request.method());
        trace::continue_from(&span, request.headers());
        self.decide(request, &span).instrument(span.clone()).await
    }

    async fn decide(&self, mut request: Request<hyper::body::Incoming>, span: &tracing::Span) -> Response<Body> {
        let metrics = &self.outlet.metrics;
        if let Err(error) = http::check(request.uri(), request.headers()) {
            metrics.count_request(Outcome::Failed);
            return refusal(StatusCode::BAD_REQUEST, "ambiguous-request", &error.to_string());
        }
        let decision = self.grant.authorize_http(request.method().as_str(), request.uri().path());
        if !decision.is_allowed() {
            metrics.count_request(Outcome::Denied);
            tracing::info!(event = "request", peer = %self.grant.peer().id_text(), method = %request.method(), path = request.uri().path(), decision = "denied", reason = %decision);
            return refusal(StatusCode::FORBIDDEN, "policy-denied", &decision.to_string());
        }
        metrics.count_request(Outcome::Allowed);
        self.introduce(request.headers_mut());
        trace::hand_on(span, request.headers_mut());
        let socket = match self.socket().await {
            Ok(socket) => socket,
            Err(refused) => return refusal(StatusCode::BAD_GATEWAY, refused.reason(), &refused.text),
        };
        match forward::send(socket, request).await {
            Ok(mut response) => {
                // `fairway-reason` is Fairway's own word.
                http::remove_reserved(response.headers_mut());
                response
            }
            Err(error) => refusal(StatusCode::BAD_GATEWAY, "app-failed", &chain(&error)),
        }
    }

    async fn socket(&self) -> Result<TcpStream, Refusal> {
        let first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match first {
            Some(socket) => Ok(socket),
            None => self.outlet.connect(&self.grant).await,
        }
    }

    /// Tells the app who called. Whatever the caller wrote under these names is gone.
    fn introduce(&self, headers: &mut HeaderMap) {
        http::remove_hop_by_hop(headers);
        http::remove_reserved(headers);
        let peer = self.grant.peer();
        let attributes = http::encode_attributes(peer.attributes());
        let authentication = format!("live; issued={}; expires={}", peer.issued_at(), peer.expires());
        for (name, value) in [
            (http::PEER, peer.id_text()),
            (http::PEER_ATTRIBUTES, attributes),
            (http::PEER_AUTHENTICATION, authentication),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_loopback_is_delivered_to() {
        let table = ListenTable::of_this_namespace();
        let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
        let exposed = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        assert!(require_loopback(&table, port(&loopback)).is_ok());
        let refused = require_loopback(&table, port(&exposed)).unwrap_err();
        assert_eq!(refused.code, code::EXPOSED_PORT);
        assert!(refused.text.contains("allow-exposed-ports"), "{}", refused.text);
        let unreadable = require_loopback(&ListenTable::at("/nonexistent"), port(&loopback)).unwrap_err();
        assert_eq!(unreadable.code, code::NOT_LISTENING);
    }
}
