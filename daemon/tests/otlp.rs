//! Spans leave when an endpoint is given, also the last ones, and also when
//! the process has one thread only.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use fairway_daemon::{LogArgs, LogFormat};

#[tokio::test]
async fn the_last_spans_are_sent() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let args = LogArgs {
        log_format: LogFormat::Json,
        log_level: "info".to_owned(),
        otlp_endpoint: Some(format!("http://{}", collector.local_addr().unwrap())),
    };
    let accepted = std::thread::spawn(move || {
        let (mut connection, _) = collector.accept().unwrap();
        let timeout = Some(Duration::from_secs(10));
        connection.set_read_timeout(timeout).unwrap();
        let mut preface = [0; 14];
        connection.read_exact(&mut preface).unwrap();
        preface
    });
    let telemetry = args.init("test").unwrap();
    tracing::info_span!("work").in_scope(|| {});
    // The collector does not answer, so this takes as long as it may.
    telemetry.shutdown();
    assert_eq!(&accepted.join().unwrap(), b"PRI * HTTP/2.0");
    assert!(args.init("test").is_err(), "only once in a process");
}
