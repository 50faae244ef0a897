//! Spans of a request, as a collector sees them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use common::world::{PUMP, World};
use common::{allow_workloads, http_service, soon};
use fairway_daemon::{Drain, LogArgs, LogFormat};
use fairway_endpoint::portal::{Delivery, Others, Outlet, PortalMetrics, Proxy};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector of the OpenTelemetry protocol, over gRPC.
struct Collector(mpsc::UnboundedSender<Vec<Span>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let _ = self.0.send(scopes.flat_map(|scope| scope.spans).collect());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<Span>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, spans) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = TraceServiceServer::new(Collector(sender.clone()));
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service));
            tokio::spawn(serving);
        }
    });
    (address, spans)
}

fn log_args(otlp_endpoint: Option<String>) -> LogArgs {
    LogArgs {
        log_format: LogFormat::Json,
        log_level: "info".to_owned(),
        otlp_endpoint,
    }
}

/// A request through proxy, session and outlet; the `traceparent` that the app
/// saw, in its four parts.
async fn request() -> Vec<String> {
    let door = http_service("metrics", "GET", "/metrics");
    let world = World::scraped(allow_workloads(door)).await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = BTreeMap::from([("metrics".to_owned(), app.local_addr().unwrap())]);
    let outlet = Outlet::new(Delivery::Device { services }, PortalMetrics::default());
    tokio::spawn(outlet.serve(world.scrapes, Drain::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::new(world.collector, PortalMetrics::default(), Others::Refuse);
    tokio::spawn(proxy.serve(listener, Drain::new()));

    let mut client = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET http://{PUMP}:9100/metrics HTTP/1.1\r\nhost: {PUMP}\r\nconnection: close\r\ntraceparent: 00-{TRACE}-{CALLER}-01\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut app, _) = soon(app.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(app.read_u8()).await.unwrap());
    }
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    app.write_all(answer.as_bytes()).await.unwrap();
    let mut back = String::new();
    soon(client.read_to_string(&mut back)).await.unwrap();
    assert!(back.ends_with("ok"), "{back}");

    let head = String::from_utf8(head).unwrap();
    let parents = head
        .lines()
        .filter_map(|line| line.strip_prefix("traceparent: "));
    let [parent] = parents.collect::<Vec<_>>()[..] else {
        panic!("one traceparent: {head}")
    };
    parent.split('-').map(str::to_owned).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_trace_in_both_ends() {
    let (address, mut exported) = collector().await;
    let telemetry = log_args(Some(format!("http://{address}")))
        .init("fairway-test")
        .unwrap();
    let seen = request().await;
    // It sends what there is, and blocks meanwhile.
    tokio::task::spawn_blocking(|| telemetry.shutdown())
        .await
        .unwrap();
    let mut spans = Vec::new();
    while let Ok(some) = exported.try_recv() {
        spans.extend(some);
    }
    let find = |name: &str| {
        let mut found = spans.iter().filter(|span| span.name == name);
        let (Some(span), None) = (found.next(), found.next()) else {
            panic!("one span {name} in {spans:?}")
        };
        assert_eq!(hex(&span.trace_id), TRACE);
        span
    };
    let (proxy, deliver) = (find("proxy"), find("deliver"));
    assert_eq!(hex(&proxy.parent_span_id), CALLER);
    assert_eq!(deliver.parent_span_id, proxy.span_id);
    assert_eq!(seen[1..3], [TRACE.to_owned(), hex(&deliver.span_id)]);
    let attribute = |key: &str| proxy.attributes.iter().any(|a| a.key == key);
    assert!(attribute("destination") && attribute("port"), "{proxy:?}");
}

/// In a process of its own: tracing is set up once in a process.
#[test]
fn nothing_is_sent_without_an_endpoint() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    collector.set_nonblocking(true).unwrap();
    let address = format!("http://{}", collector.local_addr().unwrap());
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "request_without_an_endpoint"])
        // What the library would send to by itself.
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &address)
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &address)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}"
    );
    assert!(collector.accept().is_err(), "nobody connected");
}

#[tokio::test]
#[ignore = "the test above runs it, in a process of its own"]
async fn request_without_an_endpoint() {
    let telemetry = log_args(None).init("fairway-test").unwrap();
    // It is carried through as it came.
    assert_eq!(request().await, ["00", TRACE, CALLER, "01"]);
    telemetry.shutdown();
}
