//! Local apps on both ends of a session: the proxy of a workload, the outlet
//! of a device, and real bytes on their sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use common::lines::Lines;
use common::world::{COLLECTOR_ID, PUMP, World};
use common::{allow_workloads, http_service, soon};
use fairway_daemon::{Drain, Registry};
use fairway_endpoint::portal::{Delivery, Others, Outlet, PortalMetrics, Proxy};
use fairway_endpoint::{Endpoint, EndpointConfig};
use fairway_identity::{RootHash, TrustDomain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// An app behind the pump's service `metrics`, whose connections the test has.
struct App {
    address: SocketAddr,
    connections: mpsc::UnboundedReceiver<TcpStream>,
}

impl App {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, connections) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if sender.send(socket).is_err() {
                    return;
                }
            }
        });
        Self {
            address,
            connections,
        }
    }

    async fn accept(&mut self) -> TcpStream {
        soon(self.connections.recv()).await.unwrap()
    }

    /// Takes one request and gives one answer; the request's head.
    async fn answer(&mut self, answer: &str) -> (String, TcpStream) {
        let mut socket = self.accept().await;
        let head = head(&mut socket).await;
        socket.write_all(answer.as_bytes()).await.unwrap();
        (head, socket)
    }
}

/// Reads to the end of a head.
async fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(socket.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A collector with a proxy, and a pump whose `metrics` is `app`, one for GET
/// below /metrics.
struct Portals {
    /// Held, so that it goes on.
    _world: World,
    proxy: SocketAddr,
    app: App,
    at_collector: Registry,
    at_pump: Registry,
}

impl Portals {
    async fn start() -> Self {
        let door = http_service("metrics", "GET", "/metrics/*");
        let mut world = World::scraped(allow_workloads(door)).await;
        let app = App::start().await;
        let (mut at_collector, mut at_pump) = (Registry::default(), Registry::default());
        let delivery = Delivery::Device {
            services: BTreeMap::from([("metrics".to_owned(), app.address)]),
        };
        let (_, none) = mpsc::channel(1);
        let scrapes = std::mem::replace(&mut world.scrapes, none);
        let outlet = Outlet::new(delivery, PortalMetrics::register(&mut at_pump));
        tokio::spawn(outlet.serve(scrapes, Drain::new()));
        let metrics = PortalMetrics::register(&mut at_collector);
        let proxy = proxy(world.collector.clone(), metrics, Others::Refuse).await;
        Self {
            _world: world,
            proxy,
            app,
            at_collector,
            at_pump,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }
}

async fn proxy(endpoint: Endpoint, metrics: PortalMetrics, others: Others) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Proxy::new(endpoint, metrics, others).serve(listener, Drain::new()));
    address
}

/// The value of a counter.
fn counter(registry: &Registry, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn bytes_of_http_are_counted_in_lines_and_metrics_of_both_ends() {
    let mut lines = Lines::capture();
    let mut portals = Portals::start().await;
    let mut client = portals.connect().await;
    let request = format!(
        "GET http://{PUMP}:9100/metrics/all HTTP/1.1\r\nhost: {PUMP}\r\nconnection: close, x-hop\r\nx-hop: 1\r\nfairway-peer: me\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nfairway-reason: forged\r\ncontent-length: 20000\r\n\r\n{}",
        "x".repeat(20_000)
    );
    let (head, _app) = portals.app.answer(&answer).await;
    assert!(head.starts_with("GET /metrics/all HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("fairway-peer: {COLLECTOR_ID}")),
        "{head}"
    );
    assert!(
        !head.contains("x-hop") && !head.contains("connection:"),
        "{head}"
    );
    let mut back = String::new();
    soon(client.read_to_string(&mut back)).await.unwrap();
    assert!(back.starts_with("HTTP/1.1 200 OK"), "{back}");
    assert!(!back.contains("forged") && back.len() > 20_000, "{back}");

    let out = lines.connection("outbound").await;
    assert_eq!(
        (&out["reason"], &out["decision"]),
        (&"done".into(), &"allowed".into())
    );
    let (received, sent) = (
        out["bytes_in"].as_u64().unwrap(),
        out["bytes_out"].as_u64().unwrap(),
    );
    assert!(received > 20_000 && received < 21_000, "{out}");
    assert!(sent > 40 && sent < 1_000, "{out}");
    let inbound = lines.connection("inbound").await;
    assert_eq!(
        (&inbound["bytes_in"], &inbound["bytes_out"]),
        (&sent.into(), &received.into())
    );
    assert_eq!(inbound["peer"], COLLECTOR_ID);
    for (registry, sent, received) in [
        (&portals.at_collector, sent, received),
        (&portals.at_pump, received, sent),
    ] {
        assert_eq!(counter(registry, "fairway_sent_bytes_total"), sent);
        assert_eq!(counter(registry, "fairway_received_bytes_total"), received);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_told_with_what_came_through() {
    let mut lines = Lines::capture();
    let mut portals = Portals::start().await;
    let mut client = portals.connect().await;
    let request = format!("GET http://{PUMP}:9100/metrics/x HTTP/1.1\r\nhost: {PUMP}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 50000\r\n\r\nand then";
    let (_, app) = portals.app.answer(answer).await;
    assert!(head(&mut client).await.contains("content-length: 50000"));
    let mut begun = [0; 8];
    soon(client.read_exact(&mut begun)).await.unwrap();
    drop(client);
    let out = lines.connection("outbound").await;
    assert_eq!(out["reason"], "local-closed", "{out}");
    assert!(out["bytes_in"].as_u64().unwrap() > 8, "{out}");
    drop(app);
}

/// What a WebSocket client says to the app, in absolute form or not.
fn upgrade(target: &str, protocol: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nhost: {PUMP}\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
}

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhi";

#[tokio::test]
async fn a_websocket_passes_a_door_that_looks_into_http_once_it_is_authorized() {
    let mut lines = Lines::capture();
    let mut portals = Portals::start().await;
    for through_connect in [false, true] {
        let mut client = portals.connect().await;
        let target = if through_connect {
            let connect = format!("CONNECT {PUMP}:9100 HTTP/1.1\r\nhost: {PUMP}:9100\r\n\r\n");
            client.write_all(connect.as_bytes()).await.unwrap();
            assert!(head(&mut client).await.starts_with("HTTP/1.1 200"));
            "/metrics/live".to_owned()
        } else {
            format!("http://{PUMP}:9100/metrics/live")
        };
        let said = upgrade(&target, "websocket");
        client.write_all(said.as_bytes()).await.unwrap();
        let (asked, mut app) = portals.app.answer(SWITCHING).await;
        assert!(asked.contains("upgrade: websocket"), "{asked}");
        assert!(asked.contains("sec-websocket-key: dGhl"), "{asked}");
        assert!(
            asked.contains(&format!("fairway-peer: {COLLECTOR_ID}")),
            "{asked}"
        );
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        assert!(answer.contains("sec-websocket-accept"), "{answer}");
        let mut both = [0; 2];
        soon(client.read_exact(&mut both)).await.unwrap();
        assert_eq!(&both, b"hi");
        client.write_all(b"yo").await.unwrap();
        soon(app.read_exact(&mut both)).await.unwrap();
        assert_eq!(&both, b"yo");
        app.shutdown().await.unwrap();
        assert_eq!(soon(client.read(&mut both)).await.unwrap(), 0);
        drop(client);
        for direction in ["outbound", "inbound"] {
            let line = lines.connection(direction).await;
            assert!(line["bytes_in"].as_u64().unwrap() > 50, "{line}");
            assert!(line["bytes_out"].as_u64().unwrap() > 50, "{line}");
            assert_eq!(line["reason"], "done", "{line}");
        }
    }
}

#[tokio::test]
async fn no_other_protocol_and_no_forbidden_path_is_switched_to() {
    let mut portals = Portals::start().await;
    let mut client = portals.connect().await;
    let target = format!("http://{PUMP}:9100/secrets");
    let said = upgrade(&target, "websocket");
    client.write_all(said.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let mut nothing = Vec::new();
    // The outlet connects before it says yes to the stream.
    let mut app = portals.app.accept().await;
    soon(app.read_to_end(&mut nothing)).await.unwrap();
    assert!(nothing.is_empty(), "{nothing:?}");

    // To speak h2c inside would be to send requests that nobody authorizes.
    let mut client = portals.connect().await;
    let target = format!("http://{PUMP}:9100/metrics/x");
    let said = upgrade(&target, "h2c");
    client.write_all(said.as_bytes()).await.unwrap();
    let switching = SWITCHING.replace("websocket", "h2c");
    let (asked, _app) = portals.app.answer(&switching).await;
    assert!(!asked.contains("upgrade"), "{asked}");
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

/// What a SOCKS5 client says to reach `name`.
fn socks(name: &str, port: u16) -> Vec<u8> {
    let mut said = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    said.extend_from_slice(name.as_bytes());
    said.extend_from_slice(&port.to_be_bytes());
    said
}

/// The answers to both of its messages: the reply.
async fn reply(client: &mut TcpStream) -> u8 {
    let mut answers = [0; 12];
    soon(client.read_exact(&mut answers)).await.unwrap();
    assert_eq!((&answers[..3], answers[4]), (&[5, 0, 5][..], 0));
    answers[3]
}

#[tokio::test]
async fn socks_on_the_same_port_reaches_peers_and_nobody_else() {
    let mut lines = Lines::capture();
    let mut portals = Portals::start().await;
    let mut client = portals.connect().await;
    // All at once: what follows the request belongs to the peer.
    let request = "GET /metrics/all HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let said = [&socks(PUMP, 9100)[..], request.as_bytes()].concat();
    client.write_all(&said).await.unwrap();
    assert_eq!(reply(&mut client).await, 0);
    let (asked, _app) = portals
        .app
        .answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await;
    assert!(
        asked.contains(&format!("fairway-peer: {COLLECTOR_ID}")),
        "{asked}"
    );
    let mut back = String::new();
    soon(client.read_to_string(&mut back)).await.unwrap();
    assert!(back.ends_with("ok"), "{back}");
    drop(client);
    let line = lines.connection("outbound").await;
    assert_eq!(
        (&line["port"], &line["reason"]),
        (&9100.into(), &"done".into())
    );
    assert_eq!(line["bytes_out"], request.len() as u64);

    for (name, port, expected) in [
        (PUMP, 22, 2),
        ("pump-8.factory.device.fairway.internal", 9100, 4),
        ("example.com", 80, 2),
        ("127.0.0.1", 80, 2),
    ] {
        let mut client = portals.connect().await;
        client.write_all(&socks(name, port)).await.unwrap();
        assert_eq!(reply(&mut client).await, expected, "{name}:{port}");
        assert_eq!(soon(client.read(&mut [0])).await.unwrap(), 0);
    }
    // A password is not asked for.
    let mut client = portals.connect().await;
    client.write_all(&[5, 1, 2]).await.unwrap();
    let mut answer = [0; 2];
    soon(client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, [5, 0xff]);
}

/// A host that is none of Fairway's: what it was asked, and its answer.
async fn other_host(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let mut app = App::start().await;
    let address = app.address;
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (head, _) = app.answer(answer).await;
            if sender.send(head).is_err() {
                return;
            }
        }
    });
    (address, asked)
}

/// An endpoint that knows nobody.
async fn alone() -> Endpoint {
    let domain = TrustDomain::new("fairway.local").unwrap();
    let config = EndpointConfig::new(domain, RootHash([7; 32]));
    Endpoint::start(config).await.unwrap()
}

#[tokio::test]
async fn other_hosts_are_passed_on_to_only_by_pods_that_opted_in() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    let (host, mut asked) = other_host(answer).await;
    let plain = format!(
        "GET http://{host}/a?b=c HTTP/1.1\r\nhost: {host}\r\nproxy-connection: keep-alive\r\nconnection: close\r\n\r\n"
    );
    let connect = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n");

    let open = proxy(alone().await, PortalMetrics::default(), Others::Direct).await;
    let mut client = TcpStream::connect(open).await.unwrap();
    client.write_all(plain.as_bytes()).await.unwrap();
    let mut back = String::new();
    soon(client.read_to_string(&mut back)).await.unwrap();
    assert!(
        back.starts_with("HTTP/1.1 200") && back.ends_with("hello"),
        "{back}"
    );
    let request = soon(asked.recv()).await.unwrap();
    assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {host}\r\n")), "{request}");
    assert!(!request.contains("proxy-connection"), "{request}");

    let mut client = TcpStream::connect(open).await.unwrap();
    client.write_all(connect.as_bytes()).await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200"));
    client.write_all(b"anything\r\n\r\n").await.unwrap();
    let mut back = String::new();
    soon(client.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, answer);
    assert_eq!(soon(asked.recv()).await.unwrap(), "anything\r\n\r\n");

    let closed = proxy(alone().await, PortalMetrics::default(), Others::Refuse).await;
    for request in [plain, connect] {
        let mut client = TcpStream::connect(closed).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(answer.contains("fairway-reason: foreign-host"), "{answer}");
    }
    assert!(asked.try_recv().is_err(), "nobody was asked");
}
