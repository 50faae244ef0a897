//! Drivers joined by a pipe in memory, in paused time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fairway_channel::Code;
use fairway_control::link::{CircuitId, FrameKind, take_run};
use fairway_identity::Address;
use fairway_session::{OpenRequest, Refusal, code};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{Driver, LinkEnd, LinkKind, LinkShared};
use crate::conn::Conn;
use crate::limits::{ANONYMOUS_SESSION_MAX, HANDSHAKE_TIMEOUT, LINGER, SESSION_IDLE};
use crate::node::Node;
use crate::testing::{COLLECTOR, PORT, collector, front, newcomer, pump};
use crate::{Stream, StreamError};

/// A dialling and an answering driver.
struct Pair {
    conn: Arc<Conn>,
    dialler: JoinHandle<LinkEnd>,
    answerer: JoinHandle<LinkEnd>,
}

impl Pair {
    fn new(from: &Arc<Node>, to: &Arc<Node>, name: &str, pipe: usize) -> Self {
        let (near, far) = duplex(pipe);
        let (conn, dialler) = dial(from, name, near);
        let answerer = answer(to, name, far).1;
        Self {
            conn,
            dialler,
            answerer,
        }
    }

    async fn ends(self) -> (LinkEnd, LinkEnd) {
        let both = async { tokio::join!(self.dialler, self.answerer) };
        let (a, b) = timeout(Duration::from_secs(1_000), both).await.unwrap();
        (a.unwrap(), b.unwrap())
    }
}

fn dial(node: &Arc<Node>, name: &str, io: DuplexStream) -> (Arc<Conn>, JoinHandle<LinkEnd>) {
    let (local, generation) = node.local();
    let link = LinkShared::new(LinkKind::Direct, "pipe".to_owned(), generation);
    let address: Address = name.parse().unwrap();
    let conn = node.dial_on(link, 0, &address, local).unwrap();
    let driver = Driver::new(node.clone(), conn.clone(), io, None);
    (conn, tokio::spawn(driver.run()))
}

fn answer(node: &Arc<Node>, name: &str, io: DuplexStream) -> (Arc<Conn>, JoinHandle<LinkEnd>) {
    let link = LinkShared::new(LinkKind::Accepted, "pipe".to_owned(), 0);
    let conn = node.answer(link, 0, &name.parse().unwrap()).unwrap();
    let driver = Driver::new(node.clone(), conn.clone(), io, None);
    (conn, tokio::spawn(driver.run()))
}

async fn open(conn: &Arc<Conn>) -> Result<Stream, StreamError> {
    conn.ready().await.unwrap();
    let mut stream = conn.open(&OpenRequest::port(PORT)).await.unwrap();
    stream.accepted().await?;
    Ok(stream)
}

#[track_caller]
fn assert_ended_by(end: &LinkEnd, code: Code) {
    assert!(
        matches!(end, LinkEnd::Session(r) if r.code == code),
        "{end}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_given_up_in_time() {
    let (collector, _calls) = collector();
    let (_silent, far) = duplex(1 << 16);
    let begun = Instant::now();
    let (_, driver) = answer(&collector, COLLECTOR, far);
    assert_ended_by(&driver.await.unwrap(), Code::HANDSHAKE_TIMEOUT);
    assert!(begun.elapsed() <= HANDSHAKE_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_session_without_streams_ends_and_its_link_with_it() {
    let (collector, mut calls) = collector();
    let pair = Pair::new(&pump(), &collector, COLLECTOR, 1 << 16);
    let (stream, served) = tokio::join!(open(&pair.conn), async {
        let call = calls.recv().await.unwrap();
        call.accept().unwrap();
        call
    });
    // A quiet stream is a stream: nothing ends.
    tokio::time::sleep(SESSION_IDLE * 4).await;
    assert!(!pair.conn.is_closed());
    drop((stream.unwrap(), served));
    let begun = Instant::now();
    let (dialler, answerer) = pair.ends().await;
    assert_ended_by(&dialler, Code::DONE);
    assert_ended_by(&answerer, Code::DONE);
    assert!(begun.elapsed() >= SESSION_IDLE && begun.elapsed() < SESSION_IDLE * 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_a_credential_has_half_a_minute() {
    let pair = Pair::new(&newcomer(), &front(), "authority.fairway.internal", 1 << 16);
    let begun = Instant::now();
    pair.conn.ready().await.unwrap();
    let (_, answerer) = pair.ends().await;
    assert_ended_by(&answerer, Code::DONE);
    assert!(begun.elapsed() >= ANONYMOUS_SESSION_MAX && begun.elapsed() < SESSION_IDLE);
}

#[tokio::test(start_paused = true)]
async fn a_pipe_that_takes_little_at_a_time_loses_nothing() {
    let (collector, mut calls) = collector();
    let pair = Pair::new(&pump(), &collector, COLLECTOR, 1_000);
    tokio::spawn(async move {
        let call = calls.recv().await.unwrap();
        call.accept().unwrap();
        let (mut recv, mut send) = call.stream.split();
        tokio::io::copy(&mut recv, &mut send).await.unwrap();
        send.finish();
    });
    let (mut recv, mut send) = open(&pair.conn).await.unwrap().split();
    let sent: Bytes = (0..2_000_000_u32).map(|n| (n >> 3) as u8).collect();
    let writing = async {
        send.write_chunk(sent.clone()).await.unwrap();
        send.finish();
    };
    let mut back = Vec::new();
    let ((), n) = tokio::join!(writing, recv.read_to_end(&mut back));
    assert_eq!(n.unwrap(), sent.len());
    assert!(back == sent);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_of_calls_refuses_instead_of_waiting() {
    let (collector, calls) = collector();
    let pair = Pair::new(&pump(), &collector, COLLECTOR, 1 << 16);
    let conn = pair.conn.clone();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let conn = conn.clone();
                async move { open(&conn).await }
            })
        })
        .collect();
    while calls.len() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = open(&conn).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::Reset(r) if r.code == code::OVERLOADED),
        "{error}"
    );
    // Nobody will ever serve the others: they hear of it.
    drop(calls);
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap_err().reason(), "cancelled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_ends_its_streams_with_the_reason() {
    let (collector, mut calls) = collector();
    let (near, far) = duplex(1 << 16);
    let (conn, dialler) = dial(&pump(), COLLECTOR, near);
    let (_, answerer) = answer(&collector, COLLECTOR, far);
    let (stream, call) = tokio::join!(open(&conn), async {
        let call = calls.recv().await.unwrap();
        call.accept().unwrap();
        call
    });
    // The task dies: nobody may wait for it.
    answerer.abort();
    let mut stream = stream.unwrap();
    let error = stream.recv.read_chunk().await.unwrap_err();
    assert_eq!(error.reason(), "link-lost");
    assert!(matches!(
        dialler.await.unwrap(),
        LinkEnd::Eof | LinkEnd::Io(_)
    ));
    let mut served = call.stream;
    assert_eq!(
        served.recv.read_chunk().await.unwrap_err().reason(),
        "link-lost"
    );
}

/// The session is over before the driver has learned why.
#[tokio::test(start_paused = true)]
async fn who_uses_a_stream_just_as_its_session_ends_is_told_why() {
    let (collector, mut calls) = collector();
    let pair = Pair::new(&pump(), &collector, COLLECTOR, 1 << 16);
    let (stream, call) = tokio::join!(open(&pair.conn), async {
        let call = calls.recv().await.unwrap();
        call.accept().unwrap();
        call
    });
    let _call = call;
    let (mut recv, mut send) = stream.unwrap().split();
    pair.conn.close(Refusal::new(code::REVOKED, ""));
    let (written, read, datagram) = (
        send.write_chunk(Bytes::from_static(b"late")).await,
        recv.read_chunk().await.map(|_| ()),
        recv.recv_datagram().await.map(|_| ()),
    );
    for told in [written, read, datagram] {
        let error = told.unwrap_err();
        assert!(
            matches!(&error, StreamError::SessionClosed(r) if r.code == code::REVOKED),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_a_link_that_has_ended_is_told_at_once() {
    let (near, far) = duplex(1 << 16);
    let (conn, dialler) = dial(&pump(), COLLECTOR, near);
    let link = conn.first_link().unwrap();
    drop(far);
    dialler.await.unwrap();
    let (reply, answer) = tokio::sync::oneshot::channel();
    link.command(super::Command::Open {
        circuit: fairway_control::link::CircuitId::FIRST_OF_ENDPOINT,
        destination: Address::Authority,
        instance: None,
        conn: None,
        reply,
    });
    assert!(answer.await.is_err());
    assert_eq!(conn.ready().await.unwrap_err().code, code::LINK_LOST);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_quiet_streams_fit_and_one_more_waits_for_its_turn() {
    let (collector, mut calls) = collector();
    let pair = Pair::new(&pump(), &collector, COLLECTOR, 1 << 16);
    let (sender, mut served) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            call.accept().unwrap();
            sender.send(call).unwrap();
        }
    });
    let mut streams = Vec::new();
    for _ in 0..1_024 {
        streams.push(open(&pair.conn).await.unwrap());
    }
    let conn = pair.conn.clone();
    let waiting = tokio::spawn(async move { open(&conn).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished());
    drop((streams.pop(), served.recv().await));
    timeout(Duration::from_secs(5), waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// Passes frames on and tells their kinds.
async fn watch(near: DuplexStream, far: DuplexStream, kinds: mpsc::UnboundedSender<FrameKind>) {
    let (mut from, mut answers) = tokio::io::split(near);
    let (mut back, mut to) = tokio::io::split(far);
    tokio::spawn(async move { tokio::io::copy(&mut back, &mut answers).await });
    let mut buffer = BytesMut::new();
    while from.read_buf(&mut buffer).await.unwrap() > 0 {
        while let Some(run) = take_run(&mut buffer, usize::MAX).unwrap() {
            for _ in 0..run.frames() {
                kinds.send(run.kind()).unwrap();
            }
            let bytes = run.rewrite(CircuitId::LINK);
            to.write_all(&bytes).await.unwrap();
        }
    }
}

/// The last bytes and the end come together, after all that this side said was
/// acknowledged: the channel has forgotten the stream by the next read.
#[tokio::test(start_paused = true)]
async fn the_end_is_told_once_all_was_read() {
    let (collector, mut calls) = collector();
    let pair = Pair::new(&pump(), &collector, COLLECTOR, 1 << 16);
    let (stream, call) = tokio::join!(open(&pair.conn), async {
        let call = calls.recv().await.unwrap();
        call.accept().unwrap();
        call
    });
    let (mut stream, mut call) = (stream.unwrap(), call);
    stream.send.finish();
    assert_eq!(call.stream.recv.read_chunk().await.unwrap(), None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    call.stream.write_all(b"the last bytes").await.unwrap();
    call.stream.send.finish();
    let mut chunks = Vec::new();
    assert!(stream.recv.read_chunks(&mut chunks, 1_000).await.unwrap());
    assert_eq!(chunks.concat(), b"the last bytes");
    assert!(!stream.recv.read_chunks(&mut chunks, 1_000).await.unwrap());
}

/// A yes that nobody waits for is said with the answer of the app, or by itself
/// before long; so is the end of a stream that the peer has ended.
#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_goes_along_with_the_answer() {
    let (collector, mut calls) = collector();
    let ((near, near_end), (far_end, far)) = (duplex(1 << 16), duplex(1 << 16));
    let (conn, _dialler) = dial(&pump(), COLLECTOR, near);
    let (_served, _answerer) = answer(&collector, COLLECTOR, far);
    let (sender, mut answers) = mpsc::unbounded_channel();
    tokio::spawn(watch(far_end, near_end, sender));
    conn.ready().await.unwrap();
    // Whatever the handshake leaves to be said.
    tokio::time::sleep(Duration::from_secs(1)).await;
    while answers.try_recv().is_ok() {}

    let ask = async |conn: &Arc<Conn>| {
        let mut stream = conn.open(&OpenRequest::port(PORT)).await.unwrap();
        stream.write_all(b"asked").await.unwrap();
        stream.send.finish();
        stream
    };
    let mut stream = ask(&conn).await;
    let mut call = calls.recv().await.unwrap();
    call.accept().unwrap();
    let mut text = Vec::new();
    call.stream.read_to_end(&mut text).await.unwrap();
    call.stream.write_all(b"answered").await.unwrap();
    call.stream.send.finish();
    stream.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"askedanswered");
    assert_eq!(
        (answers.len(), answers.recv().await),
        (1, Some(FrameKind::Data))
    );

    // An app that takes its time.
    let mut stream = ask(&conn).await;
    let begun = Instant::now();
    let mut call = calls.recv().await.unwrap();
    call.accept().unwrap();
    stream.accepted().await.unwrap();
    assert!(begun.elapsed() >= LINGER && begun.elapsed() < 4 * LINGER);
    call.stream.read_to_end(&mut text).await.unwrap();
    let begun = Instant::now();
    call.stream.send.finish();
    assert_eq!(stream.recv.read_chunk().await.unwrap(), None);
    assert!(begun.elapsed() >= LINGER && begun.elapsed() < 4 * LINGER);

    // Somebody who has said nothing yet waits for the yes.
    let (begun, opening) = (Instant::now(), conn.clone());
    let opening = tokio::spawn(async move { open(&opening).await });
    let call = calls.recv().await.unwrap();
    call.accept().unwrap();
    opening.await.unwrap().unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_sessions_datagrams_are_frames_of_their_own_kind() {
    let (collector, _calls) = collector();
    let ((near, near_end), (far_end, far)) = (duplex(1 << 16), duplex(1 << 16));
    let (conn, _dialler) = dial(&pump(), COLLECTOR, near);
    let (_served, _answerer) = answer(&collector, COLLECTOR, far);
    let (sender, mut kinds) = mpsc::unbounded_channel();
    tokio::spawn(watch(near_end, far_end, sender));
    conn.ready().await.unwrap();
    let stream = conn.open(&OpenRequest::port(PORT)).await.unwrap();
    let n_sent = 3;
    for _ in 0..n_sent {
        let datagram = Bytes::from_static(&[7; 1_200]);
        stream.send.send_datagram(datagram).unwrap();
    }
    let mut n_seen = 0;
    while n_seen < n_sent {
        let kind = timeout(Duration::from_secs(10), kinds.recv()).await;
        n_seen += usize::from(kind.unwrap() == Some(FrameKind::Datagram));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_datagram_hears_that_the_session_is_lost() {
    let (collector, _calls) = collector();
    let pair = Pair::new(&pump(), &collector, COLLECTOR, 1 << 16);
    pair.conn.ready().await.unwrap();
    let opened = pair.conn.open(&OpenRequest::port(PORT)).await;
    let mut stream = opened.unwrap();
    pair.conn.lost(&crate::conn::lost("no way to the peer"));
    let waited = timeout(Duration::from_secs(5), stream.recv.recv_datagram()).await;
    let error = waited.unwrap().unwrap_err();
    assert!(matches!(error, StreamError::SessionClosed(_)), "{error}");
}
