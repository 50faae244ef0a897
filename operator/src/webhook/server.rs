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
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use fairway_daemon::Drain;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use tokio::sync::Semaphore;

use super::crowd::Counting;
use super::review::Injector;
use crate::limits::{
    REVIEW_BYTES_MAX, REVIEW_TIME, REVIEWS_AT_ONCE, WEBHOOK_HEAD_TIME, WEBHOOK_IDLE_TIME,
};

/// How long reviews under way may take once the process leaves.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How long it goes on as usual after the process began to leave: until the
/// API server has heard that this replica is not ready any more. Pods that
/// are made meanwhile would be refused otherwise.
const LAME_DUCK_TIME: Duration = Duration::from_secs(3);

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
        let _guard = drain.guard();
        let handle = Handle::new();
        let leaving = handle.clone();
        tokio::spawn(async move {
            drain.started().await;
            tokio::time::sleep(LAME_DUCK_TIME).await;
            leaving.graceful_shutdown(Some(DRAIN_TIME));
        });
        let acceptor = RustlsAcceptor::new(tls)
            .handshake_timeout(WEBHOOK_HEAD_TIME)
            .acceptor(Counting::new());
        let mut server = axum_server::from_tcp(self.listener)?.acceptor(acceptor);
        let mut http1 = server.http_builder().http1();
        http1.header_read_timeout(WEBHOOK_IDLE_TIME);
        server
            .first_request_timeout(WEBHOOK_HEAD_TIME)
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use serde_json::{Value, json};
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::watch;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::inject::InjectConfig;
    use crate::limits::WEBHOOK_CONNECTIONS_MAX;
    use crate::metrics::Metrics;
    use crate::trust::{Trust, TrustError};
    use crate::webhook::keyring::Keyring;
    use crate::webhook::review::InjectTemplate;

    fn injector(trust: Trust) -> Injector {
        let text = |text: &str| text.to_owned();
        let template = InjectTemplate::new(InjectConfig {
            image: text("sidecar"),
            image_pull_policy: None,
            trust_domain: text("fairway.local"),
            root_hash: String::new(),
            authority: text("a:1"),
            cpu_request: text("1m"),
            memory_request: text("1Mi"),
            memory_limit: text("1Mi"),
            otlp_endpoint: None,
            move_probes: true,
        });
        Injector::new(template, watch::channel(trust).1, Metrics::default())
    }

    fn known() -> Trust {
        Trust::Known("ab".repeat(32))
    }

    fn review(pod: Value, dry_run: bool) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u1", "operation": "CREATE", "namespace": "factory", "dryRun": dry_run,
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "userInfo": {}, "object": pod,
            },
        })
    }

    fn pod(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "app-"}, "spec": spec})
    }

    async fn ask(injector: Injector, body: Vec<u8>) -> (StatusCode, Value) {
        use http_body_util::BodyExt;
        use tower::ServiceExt;
        let request = Request::post("/inject")
            .body(axum::body::Body::from(body))
            .unwrap();
        let response = router(injector).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn answer(trust: Trust, review: Value) -> Value {
        let (status, mut answer) = ask(injector(trust), review.to_string().into_bytes()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            (&answer["kind"], &answer["response"]["uid"]),
            (&json!("AdmissionReview"), &json!("u1"))
        );
        answer["response"].take()
    }

    #[tokio::test]
    async fn a_pod_is_patched_also_in_a_dry_run() {
        let containers = json!({"containers": [{"name": "app"}]});
        for dry_run in [false, true] {
            let answer = answer(known(), review(pod(containers.clone()), dry_run)).await;
            assert_eq!(
                (&answer["allowed"], &answer["patchType"]),
                (&json!(true), &json!("JSONPatch"))
            );
            assert!(
                answer["patch"]
                    .as_array()
                    .is_some_and(|bytes| !bytes.is_empty())
                    || answer["patch"].is_string()
            );
        }
    }

    #[tokio::test]
    async fn without_trust_a_pod_is_refused_with_the_reason() {
        let unknown = Trust::Unknown(TrustError::Missing);
        let answer = answer(unknown, review(pod(json!({"containers": []})), false)).await;
        assert_eq!(
            (&answer["allowed"], &answer["status"]["code"]),
            (&json!(false), &json!(403))
        );
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(
            message.contains("no-trust") && message.contains("fairway-authority"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn a_skipped_pod_starts_with_a_warning() {
        let spec = json!({"containers": [], "hostNetwork": true});
        let answer = answer(known(), review(pod(spec), false)).await;
        assert_eq!(
            (&answer["allowed"], &answer["patch"]),
            (&json!(true), &Value::Null)
        );
        assert!(
            answer["warnings"][0]
                .as_str()
                .unwrap()
                .contains("hostNetwork")
        );
    }

    #[tokio::test]
    async fn garbage_is_refused_and_bounded() {
        for garbage in ["", "{", "[]", "{\"request\": 1}"] {
            let (status, answer) = ask(injector(known()), garbage.as_bytes().to_vec()).await;
            assert_eq!(
                (status, &answer["response"]["allowed"]),
                (StatusCode::OK, &json!(false))
            );
        }
        let (status, _) = ask(injector(known()), vec![b' '; REVIEW_BYTES_MAX + 1]).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    /// A client that trusts the bundle speaks to the server, and still does
    /// after the certificate was rotated under it.
    #[tokio::test]
    async fn the_bundle_vouches_for_what_is_served() {
        let names = vec!["fairway-operator.fairway-system.svc".to_owned()];
        let ago = |seconds| Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
        let first = Keyring::new(&names, ago(60 * 86_400 + 600)).unwrap();
        let both = first.step(&names, ago(600)).unwrap().unwrap();
        let second = both.step(&names, ago(0)).unwrap().unwrap();

        let server = WebhookServer::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.address().unwrap();
        let tls = RustlsConfig::from_config(Arc::new(first.server_config().unwrap()));
        tokio::spawn(server.serve(tls.clone(), injector(known()), Drain::new()));

        let body = review(pod(json!({"containers": []})), false).to_string();
        assert!(
            post(address, &both.ca_bundle(), &names[0], &body)
                .await
                .contains("200 OK")
        );
        tls.reload_from_config(Arc::new(second.server_config().unwrap()));
        assert!(
            post(address, &both.ca_bundle(), &names[0], &body)
                .await
                .contains("200 OK")
        );
    }

    /// A webhook that listens, with what its clients trust.
    struct Listening {
        address: SocketAddr,
        bundle: String,
        name: String,
    }

    fn listen() -> Listening {
        let name = "fairway-operator.fairway-system.svc".to_owned();
        let keys = Keyring::new(std::slice::from_ref(&name), Timestamp::now()).unwrap();
        let server = WebhookServer::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.address().unwrap();
        let tls = RustlsConfig::from_config(Arc::new(keys.server_config().unwrap()));
        tokio::spawn(server.serve(tls, injector(known()), Drain::new()));
        let bundle = keys.ca_bundle();
        Listening {
            address,
            bundle,
            name,
        }
    }

    impl Listening {
        /// A connection on which this much has been said.
        async fn say(&self, words: &[u8]) -> TcpStream {
            let mut client = TcpStream::connect(self.address).await.unwrap();
            client.write_all(words).await.unwrap();
            client
        }

        /// The same after a TLS handshake.
        async fn say_in_tls(&self, words: &[u8]) -> TlsStream<TcpStream> {
            let mut client = connect(self.address, &self.bundle, &self.name).await;
            client.write_all(words).await.unwrap();
            client
        }

        async fn assert_serves(&self) {
            let body = review(pod(json!({"containers": []})), false).to_string();
            let answer = post(self.address, &self.bundle, &self.name, &body);
            let answer = tokio::time::timeout(WEBHOOK_HEAD_TIME, answer).await;
            assert!(answer.unwrap().contains("200 OK"));
        }
    }

    /// The head of a ClientHello of 512 bytes that never come.
    const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 2, 0];

    /// Reads until the server closes.
    async fn ended(mut client: impl AsyncRead + Unpin) {
        let mut bytes = [0; 4_096];
        while matches!(client.read(&mut bytes).await, Ok(n) if n > 0) {}
    }

    /// A crowd keeps nobody waiting, and is not let grow.
    #[tokio::test]
    async fn who_comes_in_crowds_gives_way_to_the_next() {
        let listening = listen();
        let mut crowd = Vec::new();
        for _ in 0..2 * WEBHOOK_CONNECTIONS_MAX {
            crowd.push(listening.say(HALF_A_HELLO).await);
        }
        listening.assert_serves().await;
        // Long before their time would have been over.
        for client in crowd.drain(..WEBHOOK_CONNECTIONS_MAX) {
            let gone = tokio::time::timeout(WEBHOOK_HEAD_TIME / 5, ended(client)).await;
            gone.unwrap();
        }
    }

    #[tokio::test]
    async fn who_says_too_little_is_gone_in_time() {
        let listening = listen();
        let silent = listening.say(b"").await;
        let begun = listening.say(HALF_A_HELLO).await;
        let no_request = listening.say_in_tls(b"").await;
        let half_a_request = listening
            .say_in_tls(b"POST /inject HTTP/1.1\r\nhost:")
            .await;
        let preface = listening.say_in_tls(b"PRI * HTTP/2.0\r\n").await;
        let began = tokio::time::Instant::now();
        tokio::time::pause();
        tokio::join!(
            ended(silent),
            ended(begun),
            ended(no_request),
            ended(half_a_request),
            ended(preface),
        );
        assert!(began.elapsed() <= WEBHOOK_HEAD_TIME + Duration::from_secs(1));
    }

    async fn post(address: SocketAddr, bundle: &str, name: &str, body: &str) -> String {
        let mut stream = connect(address, bundle, name).await;
        let length = body.len();
        let head = format!(
            "POST /inject HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn connect(address: SocketAddr, bundle: &str, name: &str) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = name.to_owned().try_into().unwrap();
        connector.connect(name, tcp).await.unwrap()
    }
}
