//! The listeners of TLS, WebSocket and QUIC against those who say too little.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_control::limits::CIRCUIT_CREDIT;
use fairway_control::link::FrameKind;
use fairway_endpoint::transport::{ALPN_HTTP, ALPN_LINK, QuicLink, crypto_provider};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::COLLECTOR;
use super::peer::{Peer, Relay, local};
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::server::Certificate;

/// A relay with all listeners, and what a client has to trust.
struct Listening {
    relay: Relay,
    roots: RootCertStore,
    _dir: tempfile::TempDir,
}

impl Listening {
    async fn start(half_open_max: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (chain, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let relay = Relay::start_with(|config| {
            config.listen_quic = Some(any);
            config.listen_tls = Some(any);
            config.certificate = Certificate::Files { chain, key };
            config.gate.half_open = half_open_max;
        })
        .await;
        Self {
            relay,
            roots,
            _dir: dir,
        }
    }

    fn client(&self, alpn: &[u8]) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    async fn tls(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.relay.tls.unwrap()).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(self.client(alpn)))
            .connect(name, socket)
            .await
            .unwrap()
    }

    async fn quic(&self) -> (quinn::Endpoint, quinn::Connection) {
        let crypto = QuicClientConfig::try_from(self.client(ALPN_LINK)).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let address = self.relay.quic.unwrap();
        let connecting = endpoint.connect_with(config, address, "127.0.0.1").unwrap();
        let connection = connecting.await.unwrap();
        (endpoint, connection)
    }
}

impl Listening {
    /// A device's link over QUIC, and its connection.
    async fn quic_link(&self, who: &str) -> (Peer<QuicLink>, quinn::Connection) {
        let (_, connection) = self.quic().await;
        let link = QuicLink::dialled(connection.clone()).await.unwrap();
        let local = local(&self.relay.domain, who, &[], 77);
        let mut peer = Peer::over(link, local).await.unwrap();
        peer.establish().await.unwrap();
        (peer, connection)
    }
}

/// Reads until the other end closes.
async fn ended(mut socket: impl AsyncRead + Unpin) {
    let mut bytes = [0; 4_096];
    while matches!(socket.read(&mut bytes).await, Ok(n) if n > 0) {}
}

#[tokio::test]
async fn who_says_too_little_is_gone_in_time_on_every_listener() {
    let listening = Listening::start(1_000).await;
    let silent = TcpStream::connect(listening.relay.tls.unwrap())
        .await
        .unwrap();
    let mut begun = TcpStream::connect(listening.relay.tls.unwrap())
        .await
        .unwrap();
    begun.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    let no_link = listening.tls(ALPN_LINK).await;
    let mut no_link_begun = listening.tls(ALPN_LINK).await;
    no_link_begun.write_all(&[0, 0, 0, 40, 0]).await.unwrap();
    let mut no_request = listening.tls(ALPN_HTTP).await;
    no_request
        .write_all(b"GET /fairway HTTP/1.1\r\nHost: ")
        .await
        .unwrap();
    let (_endpoint, no_stream) = listening.quic().await;
    let (_other, no_session) = listening.quic().await;
    let (mut send, _recv) = no_session.open_bi().await.unwrap();
    send.write_all(&[0, 0, 0, 40, 0]).await.unwrap();
    listening.relay.settle("/half_open_links", 7).await;

    let began = Instant::now();
    tokio::time::pause();
    tokio::join!(
        ended(silent),
        ended(begun),
        ended(no_link),
        ended(no_link_begun),
        ended(no_request),
        no_stream.closed(),
        no_session.closed(),
    );
    // Once for the transport, and once for the link.
    assert!(began.elapsed() < 2 * HANDSHAKE_TIMEOUT + Duration::from_secs(5));
    tokio::time::resume();
    listening.relay.settle("/half_open_links", 0).await;
    listening.relay.settle("/connections", 0).await;
}

#[tokio::test]
async fn who_comes_in_crowds_gives_way_to_the_next_on_every_listener() {
    let listening = Listening::start(8).await;
    let address = listening.relay.tls.unwrap();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(listening.quic().await);
    }
    listening.relay.settle("/half_open_links", 8).await;
    listening.relay.settle("/connections", 8).await;
    // The newest still has its try.
    let stream = listening.tls(ALPN_HTTP).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN_HTTP));
    // The crowd is gone, all but the last.
    for socket in silent.drain(..30) {
        ended(socket).await;
    }
    for (_, connection) in connections.drain(..10) {
        connection.closed().await;
    }
}

#[tokio::test]
async fn in_a_crowd_who_comes_by_quic_shows_where_they_are() {
    let listening = Listening::start(1_000).await;
    drop(listening.quic().await);
    assert_eq!(listening.relay.metrics.quic_retries.get(), 0);
    listening.relay.settle("/half_open_links", 0).await;
    let mut silent = Vec::new();
    for _ in 0..=crate::limits::QUIC_RETRY_ABOVE {
        silent.push(TcpStream::connect(listening.relay.address).await.unwrap());
    }
    let n_half_open = silent.len();
    listening
        .relay
        .settle("/half_open_links", n_half_open)
        .await;
    let (_endpoint, connection) = listening.quic().await;
    assert_eq!(listening.relay.metrics.quic_retries.get(), 1);
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0; 4]).await.unwrap();
    let n_half_open = n_half_open + 1;
    listening
        .relay
        .settle("/half_open_links", n_half_open)
        .await;
}

#[tokio::test]
async fn who_speaks_another_protocol_is_refused_by_tls() {
    let listening = Listening::start(100).await;
    let socket = TcpStream::connect(listening.relay.tls.unwrap())
        .await
        .unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let config = Arc::new(listening.client(b"h2"));
    let refused = TlsConnector::from(config).connect(name, socket).await;
    assert!(refused.is_err());
    listening.relay.settle("/connections", 0).await;
}

// --- datagrams -------------------------------------------------------------------

#[tokio::test]
async fn datagrams_are_datagrams_wherever_a_link_has_them() {
    let listening = Listening::start(100).await;
    let relay = &listening.relay;
    let mut collector = relay.link("ns/factory/sa/collector", &["collector"]).await;
    collector.register(COLLECTOR).await.unwrap();
    let (mut device, connection) = listening.quic_link("ns/factory/device/pump-7").await;
    device.open(2, COLLECTOR).await.unwrap();
    let incoming = collector.incoming().await;

    device.send_datagram(2, b"question").await;
    let (datagram, data) = (FrameKind::Datagram, FrameKind::Data);
    let question = (datagram, incoming, "question".into());
    assert_eq!(collector.receive_frame().await, question);
    collector.send_datagram(incoming, b"answer").await;
    assert_eq!(device.receive_frame().await, (datagram, 2, "answer".into()));
    let stats = connection.stats();
    assert_eq!((stats.frame_tx.datagram, stats.frame_rx.datagram), (1, 1));

    // The opener begins the circuit's stream.
    device.send(2, b"data").await;
    let begun = (data, incoming, "data".into());
    assert_eq!(collector.receive_frame().await, begun);
    collector.send(incoming, b"in its order").await;
    let in_order = (data, 2, "in its order".into());
    assert_eq!(device.receive_frame().await, in_order);
    assert_eq!(connection.stats().frame_rx.datagram, 1);
    assert_eq!(relay.metrics.datagrams_dropped.get(), 0);
}

/// No credit holds a datagram back, and none takes credit from others.
#[tokio::test]
async fn datagrams_for_a_link_that_rests_are_dropped_and_hurt_nobody() {
    let listening = Listening::start(100).await;
    let relay = &listening.relay;
    let mut collector = relay.link("ns/factory/sa/collector", &["collector"]).await;
    collector.register(COLLECTOR).await.unwrap();
    let mut device = relay.link("ns/factory/device/pump-7", &[]).await;
    device.open(2, COLLECTOR).await.unwrap();
    let incoming = collector.incoming().await;
    // It reads nothing: first the kernel's buffers fill, then the relay's.
    while relay.metrics.datagrams_dropped.get() < 1_000 {
        device.send_datagram(2, &[7; 1_200]).await;
        tokio::task::yield_now().await;
    }
    let waiting = relay.inspector.state()["queued_bytes"].as_u64().unwrap();
    assert!(waiting < 1 << 20, "{waiting}");
    // The circuit is there, with all of its credit.
    let (mut sent, credit) = (0, CIRCUIT_CREDIT as usize);
    while sent < credit {
        device.send(2, &[8; 16_384]).await;
        sent += 16_384;
    }
    let mut received = 0;
    while received < credit {
        let (kind, circuit, payload) = collector.receive_frame().await;
        assert_eq!(circuit, incoming);
        if kind == FrameKind::Data {
            received += payload.len();
        }
    }
    relay.settle("/queued_bytes", 0).await;
}
