//! What a local app says before the peer has said yes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::world::{COLLECTOR, World};
use common::{address, soon};
use fairway_daemon::Drain;
use fairway_endpoint::limits::EARLY_MAX;
use fairway_endpoint::portal::{Inlet, PortalMetrics};
use fairway_session::OpenRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A local connection: the app's end, and ours, on which its words have come.
async fn said(words: &[u8]) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut app = TcpStream::connect(address).await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    app.write_all(words).await.unwrap();
    soon(ours.readable()).await.unwrap();
    (app, ours)
}

#[tokio::test]
async fn words_go_along_with_the_question_once_and_within_their_bound() {
    let mut world = World::start().await;
    let words: Vec<u8> = (0..2 * EARLY_MAX).map(|i| i as u8).collect();
    for length in [1, EARLY_MAX, 2 * EARLY_MAX] {
        let (mut app, mut ours) = said(&words[..length]).await;
        let destination = address(COLLECTOR);
        let opening = world
            .pump
            .open_from(&mut ours, &destination, OpenRequest::port(80));
        let answering = async {
            let call = world.calls.recv().await.unwrap();
            call.accept().unwrap();
            call
        };
        let (opened, mut served) = soon(async { tokio::join!(opening, answering) }).await;
        let (mut stream, n_sent) = opened.unwrap();
        assert_eq!(n_sent, length.min(EARLY_MAX));

        app.shutdown().await.unwrap();
        let mut rest = Vec::new();
        soon(ours.read_to_end(&mut rest)).await.unwrap();
        stream.write_all(&rest).await.unwrap();
        stream.send.finish();
        let mut heard = Vec::new();
        soon(served.stream.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, words[..length]);
    }
}

#[tokio::test]
async fn a_refused_app_is_reset_though_all_that_it_said_was_read() {
    let world = World::start().await;
    let spec = format!("1={COLLECTOR}:81").parse::<fairway_endpoint::portal::InletSpec>();
    let mut spec = spec.unwrap();
    spec.listen.set_port(0);
    let inlet = Inlet::bind(&spec, world.pump.clone(), PortalMetrics::default());
    let inlet = inlet.await.unwrap();
    let listening = inlet.local_addr().unwrap();
    tokio::spawn(inlet.serve(Drain::new()));
    let mut app = TcpStream::connect(listening).await.unwrap();
    app.write_all(b"hello").await.unwrap();
    let answer = soon(app.read_u8()).await;
    let kind = answer.unwrap_err().kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
}
