//! Probes of apps, asked for by the kubelet on the admin port.
//!
//! An app that listens on loopback only cannot be probed from outside its pod.
//! The injector points such probes here and says in `FAIRWAY_PROBES` what each
//! one asks; nothing of the kubelet's own request is passed on.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fairway_daemon::axum::Router;
use fairway_daemon::axum::extract::{Path, State};
use fairway_daemon::axum::http::{Request, StatusCode, header};
use fairway_daemon::axum::routing::get;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

/// The probes of a pod, by `CONTAINER/KIND`.
pub(crate) type Probes = BTreeMap<String, Probe>;

/// What one probe asks of the app.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Probe {
    /// Path and query to GET; without it, connecting is enough.
    path: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    port: u16,
    timeout_seconds: u64,
}

/// Reads `FAIRWAY_PROBES`; an empty text is no probes.
pub(crate) fn parse(text: &str) -> Result<Probes> {
    if text.trim().is_empty() {
        return Ok(Probes::new());
    }
    serde_json::from_str(text).context("FAIRWAY_PROBES is not what the injector writes")
}

/// `GET /probe/CONTAINER/KIND`: 200 or 503 as the app answers, 404 for a probe
/// that the injector did not write down.
pub(crate) fn router(probes: Probes) -> Router {
    Router::new()
        .route("/probe/{container}/{kind}", get(answer))
        .with_state(Arc::new(probes))
}

async fn answer(
    State(probes): State<Arc<Probes>>,
    Path((container, kind)): Path<(String, String)>,
) -> (StatusCode, String) {
    let Some(probe) = probes.get(&format!("{container}/{kind}")) else {
        return (StatusCode::NOT_FOUND, "no such probe\n".to_owned());
    };
    let limit = Duration::from_secs(probe.timeout_seconds.max(1));
    match tokio::time::timeout(limit, ask(probe)).await {
        Ok(Ok(())) => (StatusCode::OK, String::new()),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no answer within {} s\n", limit.as_secs()),
        ),
    }
}

async fn ask(probe: &Probe) -> Result<()> {
    let address = (Ipv4Addr::LOCALHOST, probe.port);
    let socket = TcpStream::connect(address)
        .await
        .with_context(|| format!("port {}", probe.port))?;
    let Some(path) = &probe.path else {
        return Ok(());
    };
    let mut request = Request::get(path);
    if !probe
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request = request.header(header::HOST, format!("127.0.0.1:{}", probe.port));
    }
    for (name, value) in &probe.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    let answered = sender.send_request(request).await;
    // The body is of no interest, however long it is.
    connection.abort();
    let status = answered?.status();
    // As the kubelet judges: 200 to 399 is success.
    ensure!(
        status.is_success() || status.is_redirection(),
        "the app answered {status}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// An app that gives one answer, and returns what it was asked.
    async fn app(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let n = socket.read(&mut buffer).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        });
        (port, asked)
    }

    fn probe(port: u16) -> Probe {
        let text = format!(
            r#"{{"a/liveness": {{"path": "/healthz?full=1", "headers": [["X-Probe", "yes"]], "port": {port}, "timeoutSeconds": 3}}}}"#
        );
        parse(&text).unwrap()["a/liveness"].clone()
    }

    #[tokio::test]
    async fn the_app_is_asked_what_the_injector_wrote() {
        let (port, asked) = app("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await;
        ask(&probe(port)).await.unwrap();
        let asked = asked.await.unwrap();
        assert!(
            asked.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"),
            "{asked}"
        );
        assert!(
            asked.contains("x-probe: yes") && asked.contains(&format!("host: 127.0.0.1:{port}")),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn an_app_that_fails_or_is_not_there_is_unhealthy() {
        let (port, _asked) = app("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
        assert!(
            ask(&probe(port))
                .await
                .unwrap_err()
                .to_string()
                .contains("500")
        );
        let gone = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        assert!(ask(&probe(gone)).await.is_err());
        let tcp = Probe {
            path: None,
            ..probe(gone)
        };
        assert!(ask(&tcp).await.is_err());
    }

    #[tokio::test]
    async fn only_probes_that_were_written_down_are_answered() {
        let state = State(Arc::new(Probes::new()));
        let (status, _) = answer(state, Path(("app".to_owned(), "liveness".to_owned()))).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(parse("").unwrap().is_empty());
        assert!(parse("{\"a\": 1}").is_err());
    }
}
