//! What happens when no file is left. The only test of this process, since its
//! files are those of the process.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;

use common::world::{PUMP, World};
use common::{address, soon};
use fairway_daemon::{Drain, is_out_of_files};
use fairway_endpoint::OpenError;
use fairway_endpoint::portal::{Delivery, Inlet, InletSpec, Others, Outlet, PortalMetrics, Proxy};
use fairway_session::{OpenRequest, code};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// Enough for the world of the test.
const FILES: u64 = 256;

/// An app that sends back what comes.
async fn echo_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            // Without a file nobody comes; with one again they do.
            let Ok((mut socket, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// The collector's inlet to the pump, and its proxy.
async fn doors(world: &World) -> (SocketAddr, SocketAddr) {
    let mut spec: InletSpec = format!("1={PUMP}:9100").parse().unwrap();
    spec.listen.set_port(0);
    let metrics = PortalMetrics::default;
    let inlet = Inlet::bind(&spec, world.collector.clone(), metrics()).await;
    let inlet = inlet.unwrap();
    let at_inlet = inlet.local_addr().unwrap();
    tokio::spawn(inlet.serve(Drain::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at_proxy = listener.local_addr().unwrap();
    let proxy = Proxy::new(world.collector.clone(), metrics(), Others::Refuse);
    tokio::spawn(proxy.serve(listener, Drain::new()));
    (at_inlet, at_proxy)
}

async fn says(socket: &mut TcpStream, word: &[u8; 5]) {
    let mut back = [0; 5];
    socket.write_all(word).await.unwrap();
    soon(socket.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, word);
}

/// All that the process can still open.
fn all_files() -> Vec<File> {
    let mut files = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => {
                assert!(is_out_of_files(&error), "{error}");
                return files;
            }
        }
    }
}

#[tokio::test]
async fn when_files_run_out_new_work_is_refused_and_live_sessions_go_on() {
    let few = Rlimit {
        current: Some(FILES),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let mut world = World::start().await;
    let (_, none) = mpsc::channel(1);
    let scrapes = std::mem::replace(&mut world.scrapes, none);
    let services = BTreeMap::from([("metrics".to_owned(), echo_app().await)]);
    let outlet = Outlet::new(Delivery::Device { services }, PortalMetrics::default());
    tokio::spawn(outlet.serve(scrapes, Drain::new()));
    let (at_inlet, at_proxy) = doors(&world).await;
    let mut live = TcpStream::connect(at_inlet).await.unwrap();
    says(&mut live, b"first").await;

    // Those of the clients are made before.
    let [to_inlet, to_proxy] = [(); 2].map(|()| TcpSocket::new_v4().unwrap());
    let files = all_files();
    says(&mut live, b"still").await;
    // A stream in a session needs none, its connection to the app does.
    let to = address(PUMP);
    let call = world.collector.open(&to, OpenRequest::port(9100));
    let OpenError::Refused(refusal) = soon(call).await.unwrap_err() else {
        panic!("refused by the peer");
    };
    assert_eq!(refusal.code, code::OVERLOADED, "{refusal}");
    assert!(refusal.text.contains("no file"), "{refusal}");
    // Local clients hear of it, and do not wait.
    let mut refused = to_inlet.connect(at_inlet).await.unwrap();
    assert!(!matches!(soon(refused.read(&mut [0; 1])).await, Ok(1)));
    let mut refused = to_proxy.connect(at_proxy).await.unwrap();
    let mut words = String::new();
    soon(refused.read_to_string(&mut words)).await.unwrap();
    assert!(words.starts_with("HTTP/1.1 503"), "{words}");
    let (head, body) = words.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("fairway-reason: overloaded"), "{head}");
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    says(&mut live, b"again").await;

    // With files there is room again.
    drop(files);
    let mut next = TcpStream::connect(at_inlet).await.unwrap();
    says(&mut next, b"fresh").await;
    says(&mut live, b"ended").await;
}
