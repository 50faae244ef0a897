//! Hands what a peer sends to a local port, as far as its `Grant` goes.
//!
//! Where policy speaks of HTTP, every request is parsed, decided by itself and
//! sent on in one normal form, with headers that tell the app who called.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::http::header::HeaderValue;
use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use fairway_daemon::{Drain, is_out_of_files, tune_tcp};
use fairway_policy::Decision;
use fairway_session::{
    Door, Grant, HttpAnswer, HttpPass, OpenRequest, PeerInfo, Permit, Refusal, code,
};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::access::{Connection, End};
use super::forward::{self, Answer, Body, Onward, chain, refusal, stream_error};
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
        Self {
            delivery: Arc::new(delivery),
            metrics,
        }
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
        let (door, http) = match incoming.grant.permit() {
            Permit::Tcp(door) => (door.clone(), false),
            Permit::Http(door) => (door.clone(), true),
            // Control streams go to the authority's front, never to an app.
            Permit::Control => {
                return incoming.refuse(&Refusal::new(
                    code::NO_CONTROL,
                    "no app takes control streams",
                ));
            }
        };
        let grant = &incoming.grant;
        let connection = Connection::start(
            &self.metrics,
            Direction::Inbound,
            door.service.clone(),
            door.local_port,
        );
        connection.peer(grant.peer());
        connection.policy(grant.decision().and_then(|decision| decision.by.as_ref()));
        audit(grant);
        let connected = Box::pin(self.connect(&door)).await;
        // The grant is asked again here: the rules may have changed meanwhile.
        let accepted = connected.and_then(|socket| incoming.accept().map(|()| socket));
        match accepted {
            Ok(socket) if http => {
                let Incoming {
                    grant,
                    open,
                    stream,
                } = incoming;
                let app = App::new(self.clone(), socket, door, grant);
                // In a box, or every connection would be as large as this one.
                Box::pin(app.serve(&open, stream, &connection)).await;
            }
            Ok(socket) => connection.joined(join(socket, incoming.stream, Bytes::new()).await),
            Err(refusal) => {
                connection.end(End::new(Outcome::Failed, refusal.word(), &refusal.text));
                incoming.refuse(&refusal);
            }
        }
    }

    async fn connect(&self, door: &Door) -> Result<TcpStream, Refusal> {
        let address = self.local_address(door)?;
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // One that is over already is found to be when it is read.
                let _ = tune_tcp(&socket, address.ip());
                Ok(socket)
            }
            Ok(Err(error)) if is_out_of_files(&error) => Err(no_files(&error)),
            Ok(Err(error)) => Err(Refusal::new(
                code::CONNECT_REFUSED,
                format!("the app at {address} cannot be connected to: {error}"),
            )),
            Err(_) => {
                let text = format!(
                    "the app at {address} did not accept within {} s",
                    CONNECT_TIMEOUT.as_secs()
                );
                Err(Refusal::new(code::CONNECT_TIMEOUT, text))
            }
        }
    }

    fn local_address(&self, door: &Door) -> Result<SocketAddr, Refusal> {
        match &*self.delivery {
            Delivery::Pod { listening, exposed } => {
                let port = door.local_port;
                if !exposed.contains(&port) {
                    require_loopback(listening, port)?;
                }
                Ok((Ipv4Addr::LOCALHOST, port).into())
            }
            Delivery::Device { services } => {
                services.get(&door.service).copied().ok_or_else(|| {
                    Refusal::new(
                        code::NOT_LISTENING,
                        format!("the device's config has no service {}", door.service),
                    )
                })
            }
        }
    }
}

/// Audited policies never change a verdict; this is how they are seen.
fn audit(grant: &Grant) {
    for audited in grant
        .decision()
        .into_iter()
        .flat_map(|decision| &decision.audited)
    {
        tracing::info!(event = "audit", peer = %grant.peer(), policy = %audited.policy, action = ?audited.action);
    }
}

/// This process has no file for another connection; those that there are go on.
fn no_files(error: &std::io::Error) -> Refusal {
    let text = format!("no file is left for a connection to the app: {error}");
    Refusal::new(code::OVERLOADED, text)
}

/// Refuses a port that somebody could reach without Fairway, or nobody serves.
fn require_loopback(listening: &ListenTable, port: u16) -> Result<(), Refusal> {
    match listening.look_up(port) {
        Ok(Listening::Loopback) => Ok(()),
        Ok(Listening::Exposed(address)) => Err(Refusal::new(
            code::EXPOSED_PORT,
            format!(
                "the app listens on {address}:{port}, which can be reached without Fairway; let it listen on 127.0.0.1, or accept the risk with the annotation fairway.dev/allow-exposed-ports: \"{port}\""
            ),
        )),
        Ok(Listening::Nobody) => Err(Refusal::new(
            code::NOT_LISTENING,
            format!("no app listens on port {port}"),
        )),
        Err(error) if is_out_of_files(&error) => Err(no_files(&error)),
        Err(error) => Err(Refusal::new(
            code::NOT_LISTENING,
            format!("cannot tell who listens on port {port}: {error}"),
        )),
    }
}

/// The app behind one stream of HTTP.
#[derive(Clone)]
struct App(Arc<AppInner>);

struct AppInner {
    outlet: Outlet,
    /// The connection that was made before the stream was accepted, for the first request.
    first: Mutex<Option<TcpStream>>,
    door: Door,
    grant: Grant,
    /// Connections that have stopped speaking HTTP. They end with the stream.
    switched: Mutex<JoinSet<()>>,
}

impl App {
    fn new(outlet: Outlet, first: TcpStream, door: Door, grant: Grant) -> Self {
        Self(Arc::new(AppInner {
            outlet,
            first: Mutex::new(Some(first)),
            door,
            grant,
            switched: Mutex::default(),
        }))
    }

    /// Serves the requests of one stream, and what becomes of them.
    async fn serve(self, open: &OpenRequest, stream: Stream, connection: &Connection) {
        let traceparent = open
            .traceparent
            .as_deref()
            .and_then(|text| HeaderValue::from_str(text).ok());
        let app = self.clone();
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let app = app.clone();
            if let Some(parent) = &traceparent {
                request
                    .headers_mut()
                    .entry("traceparent")
                    .or_insert_with(|| parent.clone());
            }
            async move { Ok::<_, std::convert::Infallible>(app.handle(request).await) }
        });
        let io = TokioIo::new(connection.counted(stream));
        let served = forward::server()
            .serve_connection_with_upgrades(io, service)
            .await;
        connection.end(match served {
            Ok(()) => End::new(Outcome::Allowed, "done", ""),
            Err(error) => {
                let reason = stream_error(&*error).map_or("reset", |refused| refused.reason());
                End::new(Outcome::Allowed, reason.to_owned(), chain(&*error))
            }
        });
        let mut switched = std::mem::take(&mut *self.switched());
        while switched.join_next().await.is_some() {}
    }

    fn switched(&self) -> MutexGuard<'_, JoinSet<()>> {
        let switched = &self.0.switched;
        switched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn handle(&self, request: Request<hyper::body::Incoming>) -> Response<Body> {
        let span = tracing::info_span!("deliver", otel.kind = "server", method = %request.method());
        trace::continue_from(&span, request.headers());
        self.decide(request, &span).instrument(span.clone()).await
    }

    async fn decide(
        &self,
        request: Request<hyper::body::Incoming>,
        span: &tracing::Span,
    ) -> Response<Body> {
        let metrics = &self.0.outlet.metrics;
        if let Err(error) = http::check(request.uri(), request.headers()) {
            metrics.count_request(Outcome::Failed);
            return refusal(StatusCode::BAD_REQUEST, "bad-request", &error.to_string());
        }
        match self
            .0
            .grant
            .authorize_http(request.method().as_str(), request.uri().path())
        {
            HttpAnswer::Allowed { pass, .. } => {
                metrics.count_request(Outcome::Allowed);
                self.pass_on(request, pass, span).await
            }
            HttpAnswer::Denied(decision) => {
                metrics.count_request(Outcome::Denied);
                self.deny(&request, &decision)
            }
            HttpAnswer::Ended(ended) => {
                metrics.count_request(Outcome::Failed);
                refusal(StatusCode::FORBIDDEN, ended.word(), &ended.text)
            }
        }
    }

    fn deny(
        &self,
        request: &Request<hyper::body::Incoming>,
        decision: &Decision,
    ) -> Response<Body> {
        let text = match (&decision.reason, &decision.by) {
            (Some(reason), _) => reason.to_string(),
            (None, by) => format!(
                "denied by {}",
                by.as_ref()
                    .map_or("default".to_owned(), ToString::to_string)
            ),
        };
        tracing::info!(event = "request", peer = %self.0.grant.peer(), method = %request.method(), path = request.uri().path(), decision = "denied", reason = "policy-denied", detail = %text);
        refusal(StatusCode::FORBIDDEN, "policy-denied", &text)
    }

    async fn pass_on(
        &self,
        request: Request<hyper::body::Incoming>,
        pass: HttpPass,
        span: &tracing::Span,
    ) -> Response<Body> {
        let mut request = Onward::new(request);
        introduce(request.headers_mut(), self.0.grant.peer());
        trace::hand_on(span, request.headers_mut());
        let socket = match self.socket().await {
            Ok(socket) => socket,
            Err(refused) => return refusal(StatusCode::BAD_GATEWAY, refused.word(), &refused.text),
        };
        let Answer {
            mut response,
            switched,
        } = match request.send(socket).await {
            Ok(answer) => answer,
            Err(error) => return refusal(StatusCode::BAD_GATEWAY, "app-failed", &chain(&error)),
        };
        // `fairway-reason` is Fairway's own word.
        http::remove_reserved(response.headers_mut());
        // The pass lives until the exchange is over: a change of policy ends it till then.
        let Some(switched) = switched else {
            return response.map(|body| {
                body.map_frame(move |frame| {
                    let _held = &pass;
                    frame
                })
                .boxed()
            });
        };
        self.switched().spawn(async move {
            let _held = pass;
            // Either side may break off; the other then sees the end.
            let _ = switched.join().await;
        });
        response.map(|body| body.boxed())
    }

    async fn socket(&self) -> Result<TcpStream, Refusal> {
        let first = self
            .0
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match first {
            Some(socket) => Ok(socket),
            None => self.0.outlet.connect(&self.0.door).await,
        }
    }
}

/// Tells the app who called. Whatever the caller wrote under these names is gone.
/// `Connection` must have been obeyed before, or it could name these away.
fn introduce(headers: &mut HeaderMap, peer: &PeerInfo) {
    http::remove_reserved(headers);
    let Some(verified) = peer.verified() else {
        return;
    };
    let pairs = verified
        .attributes()
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let attributes = http::encode_attributes(pairs);
    let authentication = format!(
        "live; issued={}; expires={}",
        verified.issued_at(),
        verified.expires()
    );
    for (name, value) in [
        (http::PEER, peer.to_string()),
        (http::PEER_ATTRIBUTES, attributes),
        (http::PEER_AUTHENTICATION, authentication),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
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
        assert!(
            refused.text.contains("allow-exposed-ports"),
            "{}",
            refused.text
        );
        let unreadable =
            require_loopback(&ListenTable::at("/nonexistent"), port(&loopback)).unwrap_err();
        assert_eq!(unreadable.code, code::NOT_LISTENING);
    }
}
