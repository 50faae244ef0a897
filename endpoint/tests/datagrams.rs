//! Datagrams between a device and a workload, with a relay between them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use common::world::{COLLECTOR_ID, PUMP, World, call};
use common::{SOON, address, allow_workloads, http_service, soon};
use fairway_endpoint::limits::DATAGRAMS_KEPT_MAX;
use fairway_endpoint::{DatagramError, RecvStream, Stream, StreamError};
use fairway_session::limits::DATAGRAM_MAX;
use fairway_session::{OpenRequest, Permit, Refusal, code};

/// Asks for the first time, when nothing is there.
fn ask(recv: &mut RecvStream) {
    let mut cx = Context::from_waker(Waker::noop());
    let polled = recv.poll_recv_datagram(&mut cx);
    assert!(matches!(polled, Poll::Pending), "{polled:?}");
}

fn send(stream: &Stream, data: &'static str) {
    stream.send.send_datagram(data.into()).unwrap();
}

/// Fails if nobody wakes who waits, though something came.
async fn receive(stream: &mut Stream) -> Bytes {
    tokio::select! {
        biased;
        () = tokio::time::sleep(SOON) => panic!("nothing came"),
        next = stream.recv.recv_datagram() => next.unwrap().unwrap(),
    }
}

/// When this is over, all that `from` sent before has come or never will: on one
/// TCP connection nothing overtakes.
async fn all_came(from: &mut Stream, to: &mut Stream) {
    from.send.write_chunk("mark".into()).await.unwrap();
    let mark = soon(to.recv.read_chunk()).await.unwrap();
    assert_eq!(mark.unwrap(), "mark");
}

#[tokio::test]
async fn they_go_both_ways_and_on_their_own_stream() {
    let mut world = World::start().await;
    let (mut one, mut one_served) = world.joined().await;
    let (mut two, mut two_served) = world.joined().await;
    for stream in [&mut one, &mut two] {
        ask(&mut stream.recv);
    }
    for served in [&mut one_served, &mut two_served] {
        ask(&mut served.stream.recv);
    }
    send(&one, "to one");
    send(&two, "to two");
    assert_eq!(receive(&mut two_served.stream).await, "to two");
    assert_eq!(receive(&mut one_served.stream).await, "to one");
    send(&two_served.stream, "from two");
    send(&one_served.stream, "from one");
    assert_eq!(receive(&mut one).await, "from one");
    assert_eq!(receive(&mut two).await, "from two");
    // Nothing else came anywhere.
    all_came(&mut one, &mut one_served.stream).await;
    all_came(&mut two_served.stream, &mut two).await;
    for stream in [&mut one, &mut two] {
        ask(&mut stream.recv);
    }
    for served in [&mut one_served, &mut two_served] {
        ask(&mut served.stream.recv);
    }
}

#[tokio::test]
async fn as_many_bytes_fit_as_is_said_and_a_full_queue_says_so() {
    let mut world = World::start().await;
    let (stream, mut served) = world.joined().await;
    ask(&mut served.stream.recv);
    let full = Bytes::from(vec![7; DATAGRAM_MAX]);
    stream.send.send_datagram(full.clone()).unwrap();
    assert_eq!(receive(&mut served.stream).await, full);
    let long = Bytes::from(vec![7; DATAGRAM_MAX + 1]);
    let error = stream.send.send_datagram(long).unwrap_err();
    assert!(matches!(error, DatagramError::TooLong { length: 1_201 }));
    // The driver has no turn in between.
    let sent = (0..100).map(|_| stream.send.send_datagram("x".into()));
    let error = sent.filter_map(Result::err).next().unwrap();
    assert!(matches!(error, DatagramError::QueueFull), "{error}");
    assert_eq!(receive(&mut served.stream).await, "x");
}

#[tokio::test]
async fn those_that_came_before_somebody_asked_are_gone() {
    let mut world = World::start().await;
    let (mut stream, mut served) = world.joined().await;
    send(&stream, "early");
    all_came(&mut stream, &mut served.stream).await;
    ask(&mut served.stream.recv);
    send(&stream, "late");
    assert_eq!(receive(&mut served.stream).await, "late");
}

#[tokio::test]
async fn who_asks_before_the_yes_misses_none_after_it() {
    let mut world = World::start().await;
    let (stream, mut served) = soon(async {
        tokio::join!(call(&world.pump), async {
            let mut served = world.calls.recv().await.unwrap();
            let error = served.stream.send.send_datagram("x".into()).unwrap_err();
            assert!(matches!(error, DatagramError::NotAccepted), "{error}");
            ask(&mut served.stream.recv);
            served.accept().unwrap();
            served
        })
    })
    .await;
    let mut stream = stream.unwrap();
    send(&stream, "at once");
    all_came(&mut stream, &mut served.stream).await;
    assert_eq!(receive(&mut served.stream).await, "at once");
}

#[tokio::test]
async fn what_waits_is_bounded_and_the_oldest_give_way() {
    let mut world = World::start().await;
    let (mut stream, mut served) = world.joined().await;
    ask(&mut served.stream.recv);
    let n_sent = DATAGRAMS_KEPT_MAX as u8 + 5;
    for n in 0..n_sent {
        let data = Bytes::copy_from_slice(&[n]);
        stream.send.send_datagram(data).unwrap();
    }
    all_came(&mut stream, &mut served.stream).await;
    for n in 5..n_sent {
        assert_eq!(receive(&mut served.stream).await, [n][..]);
    }
    ask(&mut served.stream.recv);
}

#[tokio::test]
async fn a_reset_ends_the_waiting_with_its_reason() {
    let mut world = World::start().await;
    let (mut stream, served) = world.joined().await;
    let (mut recv, _send) = served.stream.split();
    let waiting = tokio::spawn(async move {
        let first = recv.recv_datagram().await;
        (first, recv.recv_datagram().await)
    });
    tokio::task::yield_now().await;
    stream
        .send
        .reset(&Refusal::new(code::APP_FAILED, "the app is gone"));
    for ended in <[_; 2]>::from(soon(waiting).await.unwrap()) {
        let Err(StreamError::Reset(refusal)) = ended else {
            panic!("{ended:?}")
        };
        assert_eq!(refusal.code, code::APP_FAILED);
    }
    let error = stream.send.send_datagram("x".into()).unwrap_err();
    assert!(matches!(error, DatagramError::Over(_)), "{error}");
}

#[tokio::test]
async fn a_policy_that_goes_ends_them_and_what_waits_is_gone() {
    let mut world = World::start().await;
    let (mut stream, mut served) = world.joined().await;
    ask(&mut served.stream.recv);
    send(&stream, "unread");
    all_came(&mut stream, &mut served.stream).await;
    world
        .authority
        .publish(COLLECTOR_ID, |state| state.policies = Default::default());
    let error = soon(served.stream.recv.read_chunk()).await.unwrap_err();
    assert!(matches!(error, StreamError::Ended(_)), "{error}");
    let error = soon(served.stream.recv.recv_datagram()).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::Ended(r) if r.code == code::POLICY_DENIED),
        "{error}"
    );
    let error = soon(stream.recv.recv_datagram()).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::Reset(r) if r.code == code::POLICY_DENIED),
        "{error}"
    );
    let error = stream.send.send_datagram("x".into()).unwrap_err();
    assert_eq!(error.reason(), "policy-denied", "{error}");
}

#[tokio::test]
async fn the_end_of_the_stream_is_theirs() {
    let mut world = World::start().await;
    // Nothing to read: the end alone is enough, and comes to who waits.
    let (mut stream, served) = world.joined().await;
    let (mut recv, _send) = served.stream.split();
    ask(&mut recv);
    let waiting = tokio::spawn(async move {
        let last = recv.recv_datagram().await.unwrap();
        (last, recv.recv_datagram().await.unwrap())
    });
    tokio::task::yield_now().await;
    send(&stream, "last");
    stream.send.finish();
    assert_eq!(
        soon(waiting).await.unwrap(),
        (Some(Bytes::from_static(b"last")), None)
    );
    let error = stream.send.send_datagram("x".into()).unwrap_err();
    assert!(matches!(error, DatagramError::Over(StreamError::Finished)));

    // What was written is read first. With the data comes the yes to the end of the
    // other half, so that nothing is left of the stream when all was read.
    let (mut stream, mut served) = world.joined().await;
    served.stream.send.finish();
    assert_eq!(soon(stream.recv.read_chunk()).await.unwrap(), None);
    stream.send.write_chunk("data".into()).await.unwrap();
    stream.send.finish();
    let recv = &mut served.stream.recv;
    assert_eq!(soon(recv.read_chunk()).await.unwrap().unwrap(), "data");
    assert_eq!(soon(recv.read_chunk()).await.unwrap(), None);
    assert_eq!(soon(recv.recv_datagram()).await.unwrap(), None);
}

/// Both wait in one task, as one poll.
#[tokio::test]
async fn data_and_datagrams_can_be_waited_for_together() {
    let mut world = World::start().await;
    let (mut stream, mut served) = world.joined().await;
    let serving = tokio::spawn(async move {
        let recv = &mut served.stream.recv;
        let mut came = Vec::new();
        loop {
            let next = std::future::poll_fn(|cx| match recv.poll_recv_datagram(cx) {
                Poll::Ready(next) => Poll::Ready(next),
                Poll::Pending => recv.poll_chunk(cx),
            });
            match next.await.unwrap() {
                Some(next) => came.push(next),
                None => return came,
            }
        }
    });
    tokio::task::yield_now().await;
    send(&stream, "beside");
    stream.send.write_chunk("within".into()).await.unwrap();
    stream.send.finish();
    assert_eq!(soon(serving).await.unwrap(), ["beside", "within"]);
}

/// What they hold, policy would not see.
#[tokio::test]
async fn where_policy_looks_at_http_there_are_none() {
    let policies = allow_workloads(http_service("metrics", "GET", "/metrics"));
    let mut world = World::scraped(policies).await;
    let pump = address(PUMP);
    let (stream, served) = soon(async {
        tokio::join!(
            world.collector.open(&pump, OpenRequest::port(9100)),
            async {
                let served = world.scrapes.recv().await.unwrap();
                served.accept().unwrap();
                served
            }
        )
    })
    .await;
    let (mut stream, mut served) = (stream.unwrap(), served);
    assert!(matches!(served.grant.permit(), Permit::Http(_)));
    ask(&mut served.stream.recv);
    send(&stream, "DELETE /metrics");
    all_came(&mut stream, &mut served.stream).await;
    ask(&mut served.stream.recv);
    let error = served.stream.send.send_datagram("x".into()).unwrap_err();
    assert!(matches!(error, DatagramError::HttpPoliced), "{error}");
}
