//! The admin port: `/livez`, `/readyz` and `/metrics` for the cluster, and
//! `/debug/state` on a port that only the pod itself can reach.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::accept::Acceptor;
use crate::drain::Drain;
use crate::http;
use crate::readiness::Readiness;

/// Where the admin servers listen. Flatten it into a binary's options.
#[derive(Clone, Debug, clap::Args)]
pub struct AdminArgs {
    /// Address of /livez, /readyz and /metrics.
    #[arg(
        long = "admin-listen",
        env = "FAIRWAY_ADMIN_LISTEN",
        default_value = "0.0.0.0:7490"
    )]
    pub admin_listen: SocketAddr,
    /// Address of /debug/state; it must be a loopback address.
    #[arg(
        long = "debug-listen",
        env = "FAIRWAY_DEBUG_LISTEN",
        default_value = "127.0.0.1:7491"
    )]
    pub debug_listen: SocketAddr,
}

/// Makes the document of `/debug/state`. It is called once a request and must
/// neither block nor show a secret.
pub type DebugState = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Why the admin servers did not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The debug address is reachable from outside.
    #[error("the debug address {0} is not on loopback; use 127.0.0.1 or [::1]")]
    DebugNotLoopback(SocketAddr),
    /// An address could not be listened on.
    #[error("cannot listen on {address}; is another process using it?")]
    Listen {
        /// The address in question.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The running admin servers; they end when this is dropped.
#[derive(Debug)]
pub struct AdminServer {
    admin_addr: SocketAddr,
    debug_addr: SocketAddr,
    _tasks: tokio::task::JoinSet<()>,
}

impl AdminServer {
    /// Listens on both addresses and serves from then on.
    ///
    /// `/readyz` answers 503 with what is pending, or with `draining` once
    /// `drain` has begun, so that no new work is sent to a process that leaves.
    ///
    /// # Errors
    ///
    /// An address is taken, or the debug address is not on loopback.
    pub async fn start(
        args: &AdminArgs,
        registry: Registry,
        readiness: Readiness,
        drain: Drain,
        debug_state: DebugState,
    ) -> Result<Self, AdminError> {
        let more = Router::new();
        Self::start_with(args, registry, readiness, drain, debug_state, more).await
    }

    /// The same, with more routes on the admin port.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub async fn start_with(
        args: &AdminArgs,
        registry: Registry,
        readiness: Readiness,
        drain: Drain,
        debug_state: DebugState,
        more: Router,
    ) -> Result<Self, AdminError> {
        if !args.debug_listen.ip().is_loopback() {
            return Err(AdminError::DebugNotLoopback(args.debug_listen));
        }
        let admin_listener = listen(args.admin_listen).await?;
        let debug_listener = listen(args.debug_listen).await?;
        let bound = |listener: &Acceptor, asked| listener.local_addr().unwrap_or(asked);
        let admin_addr = bound(&admin_listener, args.admin_listen);
        let debug_addr = bound(&debug_listener, args.debug_listen);
        let mut tasks = tokio::task::JoinSet::new();
        let admin_router = admin_router(AdminState {
            registry: Arc::new(registry),
            readiness,
            drain,
        })
        .merge(more);
        tasks.spawn(http::serve(admin_listener, admin_router));
        tasks.spawn(http::serve(debug_listener, debug_router(debug_state)));
        tracing::info!(event = "admin", %admin_addr, %debug_addr, "admin ports are up");
        Ok(Self {
            admin_addr,
            debug_addr,
            _tasks: tasks,
        })
    }

    /// The address of `/livez`, `/readyz` and `/metrics`, as bound.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The address of `/debug/state`, as bound.
    pub fn debug_addr(&self) -> SocketAddr {
        self.debug_addr
    }
}

#[derive(Clone)]
struct AdminState {
    registry: Arc<Registry>,
    readiness: Readiness,
    drain: Drain,
}

async fn listen(address: SocketAddr) -> Result<Acceptor, AdminError> {
    TcpListener::bind(address)
        .await
        .and_then(Acceptor::new)
        .map_err(|source| AdminError::Listen { address, source })
}

fn admin_router(state: AdminState) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

fn debug_router(state: DebugState) -> Router {
    Router::new().route(
        "/debug/state",
        get(async move || axum::Json(state()).into_response()),
    )
}

async fn readyz(State(state): State<AdminState>) -> Response {
    if state.drain.is_started() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let pending = state.readiness.pending();
    if pending.is_empty() {
        return "ok\n".into_response();
    }
    let mut text = String::new();
    for name in pending {
        let _ = writeln!(text, "pending: {name}");
    }
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(state): State<AdminState>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &state.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn readyz_names_what_is_pending_and_says_when_it_drains() {
        let readiness = Readiness::new();
        let (credential, drain) = (readiness.task("credential"), Drain::new());
        let server = start(readiness, drain.clone()).await;
        let admin = server.admin_addr();

        let (status, body) = fetch(admin, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "pending: credential\n"));
        credential.done();
        assert_eq!(fetch(admin, "/readyz").await, (200, "ok\n".to_owned()));
        drain.begin();
        assert_eq!(
            fetch(admin, "/readyz").await,
            (503, "draining\n".to_owned())
        );
        assert_eq!(fetch(admin, "/livez").await.0, 200);
    }

    #[tokio::test]
    async fn metrics_and_debug_state_are_on_different_ports() {
        let server = start(Readiness::new(), Drain::new()).await;
        let (status, body) = fetch(server.admin_addr(), "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("fairway_test_total 1"), "{body}");
        assert_eq!(fetch(server.admin_addr(), "/debug/state").await.0, 404);
        let (status, body) = fetch(server.debug_addr(), "/debug/state").await;
        assert_eq!((status, body.as_str()), (200, r#"{"links":3}"#));
    }

    #[tokio::test]
    async fn the_debug_port_must_be_on_loopback() {
        let args = AdminArgs {
            admin_listen: ([127, 0, 0, 1], 0).into(),
            debug_listen: ([0, 0, 0, 0], 0).into(),
        };
        let state: DebugState = Arc::new(|| serde_json::json!({}));
        let refused = AdminServer::start(
            &args,
            Registry::default(),
            Readiness::new(),
            Drain::new(),
            state,
        )
        .await;
        assert!(matches!(refused, Err(AdminError::DebugNotLoopback(_))));
    }

    async fn start(readiness: Readiness, drain: Drain) -> AdminServer {
        let mut registry = Registry::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        counter.inc();
        registry.register("fairway_test", "A test", counter);
        let args = AdminArgs {
            admin_listen: ([127, 0, 0, 1], 0).into(),
            debug_listen: ([127, 0, 0, 1], 0).into(),
        };
        let state: DebugState = Arc::new(|| serde_json::json!({ "links": 3 }));
        AdminServer::start(&args, registry, readiness, drain, state)
            .await
            .unwrap()
    }

    async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}
