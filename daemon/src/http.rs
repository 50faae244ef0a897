//! Serving HTTP to whoever is in reach: a bounded number of connections, each
//! with a bounded time to say what it wants.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::accept::Acceptor;
use crate::gate::{Entry, Gate, GateLimits};
use crate::rate::Rate;

/// Connections at once: a kubelet's probes and a few scrapers have some ten.
/// When there are more, the oldest of the source that has most gives way, so
/// that a flood cannot keep the kubelet out, which would end the process.
const CONNECTIONS_MAX: usize = 64;

/// New connections; more than anybody needs, and little work.
const ACCEPTS: Rate = Rate {
    per_second: 500,
    burst: 1_000,
};

/// The head of a request comes within this time, also of the next one on a
/// connection that is kept. Clients that are in order send it at once.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// A connection ends after this time whatever it does: who reads an answer by
/// the byte holds it. A scraper that keeps its connection makes another.
const CONNECTION_TIME: Duration = Duration::from_secs(300);

/// Serves `router` until it is dropped.
pub(crate) async fn serve(mut acceptor: Acceptor, router: Router) {
    let gate = Gate::new(GateLimits {
        connections: 2 * CONNECTIONS_MAX,
        half_open: CONNECTIONS_MAX,
        accepts: ACCEPTS,
        accepts_per_source: ACCEPTS,
    });
    let mut connections = JoinSet::new();
    loop {
        let (socket, from) = tokio::select! {
            accepted = acceptor.accept(&[]) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match gate.admit(from.ip()) {
            Ok(entry) => {
                connections.spawn(serve_connection(socket, entry, router.clone()));
            }
            Err(why) => tracing::debug!(event = "admin", %from, "not served: {why}"),
        }
    }
}

async fn serve_connection(socket: TcpStream, entry: Entry, router: Router) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME);
    let service = TowerToHyperService::new(router);
    let serving = builder.serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        // How it ended is the client's affair.
        _ = tokio::time::timeout(CONNECTION_TIME, serving) => {}
        () = entry.evicted() => {}
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::{Instant, timeout};

    use super::*;

    async fn start() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/large", get(async || vec![b'x'; 64 << 20]));
        tokio::spawn(serve(Acceptor::new(listener).unwrap(), router));
        address
    }

    async fn say(address: std::net::SocketAddr, words: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(words).await.unwrap();
        stream
    }

    /// Reads until the server closes.
    async fn ended(mut stream: TcpStream) -> String {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).into_owned()
    }

    #[tokio::test]
    async fn who_does_not_finish_a_request_is_gone_in_time() {
        let address = start().await;
        let silent = say(address, b"").await;
        let begun = say(address, b"GET /livez HTTP/1.1\r\nhost: ").await;
        // The preface of HTTP/2, and no more.
        let other = say(address, b"PRI * HTTP/2.0\r\n").await;
        let mut kept = say(address, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut answer = [0; 15];
        kept.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");

        let at = Instant::now();
        tokio::time::pause();
        tokio::join!(ended(silent), ended(begun), ended(other), ended(kept));
        assert!(at.elapsed() <= HEAD_TIME + Duration::from_secs(1));
    }

    #[tokio::test]
    async fn who_does_not_read_the_answer_is_gone_in_time() {
        let address = start().await;
        let mut slow = say(address, b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
        slow.read_exact(&mut [0; 15]).await.unwrap();
        tokio::time::pause();
        tokio::time::sleep(CONNECTION_TIME + Duration::from_secs(1)).await;
        assert!(ended(slow).await.len() < 64 << 20);
    }

    #[tokio::test]
    async fn a_crowd_gives_way_to_the_next() {
        let address = start().await;
        let mut crowd = Vec::new();
        for _ in 0..3 * CONNECTIONS_MAX {
            crowd.push(say(address, b"GET /livez HTTP/1.1\r\n").await);
        }
        let request = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let answer = ended(say(address, request).await);
        let answer = timeout(HEAD_TIME / 2, answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // The oldest of them are gone, before their time.
        for stream in crowd.drain(..CONNECTIONS_MAX) {
            timeout(HEAD_TIME / 2, ended(stream)).await.unwrap();
        }
    }
}
