//! The webhook's HTTPS server: bounded bodies, bounded work, hot-swapped
//! certificate.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use fairway_daemon::Drain;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use tokio::sync::Semaphore;

use super::review::Injector;
use crate::limits::{REVIEW_BYTES_MAX, REVIEW_TIME, REVIEWS_AT_ONCE};

/// How long reviews under way may take once the process leaves.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A listening webhook.
#[derive(Debug)]
pub struct WebhookServer {
    listener: TcpListener,
}

impl WebhookServer {
    /// Takes the port.
    ///
    /// # Errors
    /// The port is taken, or may not be used.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers reviews until the process drains. `tls` may be swapped while
    /// it runs.
    ///
    /// # Errors
    /// The listener broke.
    pub async fn serve(
        self,
        tls: RustlsConfig,
        injector: Injector,
        drain: Drain,
    ) -> io::Result<()> {
        let handle = Handle::new();
        let guard = drain.guard();
        let leaving = handle.clone();
        tokio::spawn(async move {
            drain.started().await;
            leaving.graceful_shutdown(Some(DRAIN_TIME));
            drop(guard);
        });
        axum_server::from_tcp_rustls(self.listener, tls)?
            .handle(handle)
            .serve(router(injector).into_make_service())
            .await
    }
}

/// `POST /inject`, and nothing else.
pub fn router(injector: Injector) -> Router {
    let permits = Arc::new(Semaphore::new(REVIEWS_AT_ONCE));
    Router::new()
        .route("/inject", post(review))
        .layer(DefaultBodyLimit::max(REVIEW_BYTES_MAX))
        .layer(middleware::from_fn_with_state(permits, in_turn))
        .with_state(injector)
}

async fn review(
    State(injector): State<Injector>,
    body: Bytes,
) -> Json<AdmissionReview<DynamicObject>> {
    Json(match serde_json::from_slice(&body) {
        Ok(review) => injector.answer(review),
        Err(error) => {
            AdmissionResponse::invalid(format!("not an AdmissionReview: {error}")).into_review()
        }
    })
}

/// Bounds how many reviews are read and answered at once, and for how long.
async fn in_turn(State(permits): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let work = async {
        match permits.acquire().await {
            Ok(_permit) => next.run(request).await,
            Err(_closed) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    };
    match tokio::time::timeout(REVIEW_TIME, work).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "too slow\n").into_response(),
    }
}
