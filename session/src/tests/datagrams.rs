//! Datagrams: on whose streams they come, and where they do not (SPEC.md section 4.1).

use bytes::Bytes;

use super::world::broker_rules;
use super::*;
use crate::limits::DATAGRAM_MAX;
use crate::{
    Code, DatagramError, Event, OpenRequest, ReadOutcome, Refusal, StreamError, StreamId, code,
};

/// A pair with an accepted stream to MQTT.
fn joined() -> (Pair, StreamId) {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let (stream, _grant) = pair.connect(&OpenRequest::port(1883));
    (pair, stream)
}

/// The next datagram that came to this end.
fn came(end: &mut End) -> Option<(StreamId, Bytes)> {
    match end.take(|e| matches!(e, Event::Datagram { .. }))? {
        Event::Datagram { stream, data } => Some((stream, data)),
        other => panic!("{other:?}"),
    }
}

/// The dialler sends these bytes in a DATAGRAM, whatever the rules are.
fn say(pair: &mut Pair, whole: &[u8]) {
    let now = pair.dialler_now();
    let dialler = &mut pair.dialler.session;
    dialler.send_datagram_unchecked(now, whole.to_vec());
    pair.drive();
}

/// The same on a stream; what of it came.
fn say_on(pair: &mut Pair, stream: StreamId) -> Option<(StreamId, Bytes)> {
    let mut whole = Vec::new();
    stream.put(&mut whole);
    whole.extend_from_slice(b"beside");
    say(pair, &whole);
    assert_eq!(pair.answerer.closed(), None);
    came(&mut pair.answerer)
}

#[test]
fn both_sides_send_and_1200_bytes_fit() {
    let (mut pair, first) = joined();
    let (second, _grant) = pair.connect(&OpenRequest::port(1883));
    let now = pair.dialler_now();
    let full = vec![7; DATAGRAM_MAX];
    for stream in [first, second] {
        for data in [&b""[..], b"hello", &full] {
            let sent = pair.dialler.session.send_datagram(now, stream, data);
            assert_eq!(sent, Ok(()));
            let sent = pair.answerer.session.send_datagram(now, stream, data);
            assert_eq!(sent, Ok(()));
            pair.drive();
            let expected = Some((stream, Bytes::copy_from_slice(data)));
            assert_eq!(came(&mut pair.answerer), expected);
            assert_eq!(came(&mut pair.dialler), expected);
        }
    }
    let long = vec![7; DATAGRAM_MAX + 1];
    let sent = pair.dialler.session.send_datagram(now, first, &long);
    assert_eq!(sent, Err(DatagramError::TooLong { length: 1_201 }));
    let mut whole = Vec::new();
    first.put(&mut whole);
    say(&mut pair, &[whole, long].concat());
    assert_eq!(came(&mut pair.answerer), None);
}

#[test]
fn of_a_stream_that_is_not_known_none_comes() {
    let (mut pair, stream) = joined();
    let unknown = [
        &[8][..],
        &[1],
        &[0x7f, 0xff],
        // The last id there is.
        &[0xff; 8],
        &[0xff; 1_208],
    ];
    for whole in unknown {
        say(&mut pair, whole);
        assert_eq!(came(&mut pair.answerer), None, "{whole:?}");
    }
    assert!(say_on(&mut pair, stream).is_some(), "the session goes on");
    let mut id = &[8][..];
    let unknown = StreamId::take(&mut id).unwrap();
    let now = pair.dialler_now();
    for end in [&mut pair.dialler, &mut pair.answerer] {
        let sent = end.session.send_datagram(now, unknown, b"");
        assert_eq!(sent, Err(DatagramError::Over(StreamError::Unknown)));
    }
}

/// It does not wait for the yes either.
#[test]
fn before_the_accept_none_comes_and_none_goes() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let stream = pair.open(&OpenRequest::port(1883));
    let now = pair.dialler_now();
    let early = pair.dialler.session.send_datagram(now, stream, b"early");
    assert_eq!(early, Ok(()));
    pair.drive();
    let grant = pair.answerer.incoming(stream);
    let sent = pair.answerer.session.send_datagram(now, stream, b"early");
    assert_eq!(sent, Err(DatagramError::NotAccepted));
    pair.answerer.session.accept(now, &grant).unwrap();
    pair.drive();
    assert_eq!(came(&mut pair.answerer), None);
    assert!(say_on(&mut pair, stream).is_some());
}

#[test]
fn of_a_stream_that_was_refused_none_comes() {
    let mut pair = Pair::established(&World::new(), vec![]);
    let stream = pair.open(&OpenRequest::port(1883));
    assert_eq!(pair.answerer.refused(stream), "policy-denied");
    assert_eq!(say_on(&mut pair, stream), None);
}

#[test]
fn after_a_reset_of_either_side_none_comes() {
    let refusal = Refusal::new(code::CANCELLED, "");
    for by_dialler in [true, false] {
        let (mut pair, stream) = joined();
        let now = pair.dialler_now();
        let end = match by_dialler {
            true => &mut pair.dialler,
            false => &mut pair.answerer,
        };
        end.session.reset(now, stream, &refusal);
        let sent = end.session.send_datagram(now, stream, b"");
        assert!(matches!(sent, Err(DatagramError::Over(_))), "{sent:?}");
        pair.drive();
        assert_eq!(say_on(&mut pair, stream), None);
    }
}

#[test]
fn after_the_policy_went_none_comes() {
    let (mut pair, stream) = joined();
    assert!(say_on(&mut pair, stream).is_some());
    let now = pair.answerer_now();
    pair.answerer.session.set_rules(now, broker_rules(vec![]));
    // The dialler has not heard of it.
    assert_eq!(say_on(&mut pair, stream), None);
    let sent = pair.answerer.session.send_datagram(now, stream, b"");
    assert!(matches!(sent, Err(DatagramError::Over(_))), "{sent:?}");
}

#[test]
fn after_the_end_was_read_none_comes_and_the_other_half_goes_on() {
    let (mut pair, stream) = joined();
    let now = pair.dialler_now();
    pair.dialler.session.finish(now, stream).unwrap();
    pair.drive();
    let sent = pair.dialler.session.send_datagram(now, stream, b"");
    assert_eq!(sent, Err(DatagramError::Over(StreamError::Ended)));
    let end = pair.answerer.session.read(now, stream);
    assert_eq!(end, Ok(ReadOutcome::Finished));
    assert_eq!(say_on(&mut pair, stream), None);

    let sent = pair.answerer.session.send_datagram(now, stream, b"still");
    assert_eq!(sent, Ok(()));
    pair.drive();
    let still = Bytes::from_static(b"still");
    assert_eq!(came(&mut pair.dialler), Some((stream, still)));
}

#[test]
fn after_a_stop_none_comes_and_the_sender_hears_why() {
    let (mut pair, stream) = joined();
    let now = pair.answerer_now();
    let enough = Refusal::new(code::CANCELLED, "enough");
    pair.answerer.session.stop(now, stream, &enough);
    assert_eq!(say_on(&mut pair, stream), None);
    let sent = pair.dialler.session.send_datagram(now, stream, b"");
    let Err(DatagramError::Over(StreamError::Stopped(reason))) = sent else {
        panic!("{sent:?}")
    };
    assert_eq!(reason.text, "enough");
}

/// What is sent just before the end comes with it in one read.
#[test]
fn the_last_ones_are_not_lost_to_the_end_that_comes_with_them() {
    let (mut pair, stream) = joined();
    let now = pair.dialler_now();
    let dialler = &mut pair.dialler.session;
    dialler.send_datagram(now, stream, b"last").unwrap();
    dialler.finish(now, stream).unwrap();
    pair.drive();
    let last = Bytes::from_static(b"last");
    assert_eq!(came(&mut pair.answerer), Some((stream, last)));
}

/// Policy sees each request; a datagram it would not see.
#[test]
fn a_stream_whose_http_policy_looks_at_takes_no_datagram() {
    let mut pair = Pair::established(&World::new(), vec![http_allow(8080, "GET", "/v1/*")]);
    let (stream, _grant) = pair.connect(&OpenRequest::port(80));
    let now = pair.dialler_now();
    // The dialler cannot know.
    let sent = pair.dialler.session.send_datagram(now, stream, b"GET /");
    assert_eq!(sent, Ok(()));
    pair.drive();
    assert_eq!(came(&mut pair.answerer), None);
    let sent = pair.answerer.session.send_datagram(now, stream, b"200");
    assert_eq!(sent, Err(DatagramError::HttpPoliced));
    // The same port, where no policy looks.
    let mut pair = Pair::established(&World::new(), vec![allow(8080)]);
    let (stream, _grant) = pair.connect(&OpenRequest::port(80));
    assert!(say_on(&mut pair, stream).is_some());
}

#[test]
fn data_that_names_no_stream_ends_the_session() {
    let mut ids = vec![vec![], vec![0x40, 0x05], vec![0x80, 0, 0x3f, 0xff]];
    for whole in [&[0x7f, 0xff][..], &[0xbf; 4], &[0xff; 8]] {
        ids.extend((1..whole.len()).map(|cut| whole[..cut].to_vec()));
    }
    for whole in ids {
        let (mut pair, _) = joined();
        say(&mut pair, &whole);
        let (by, refusal) = pair.answerer.closed().expect("closed");
        let expected = (crate::ClosedBy::Owner, code::MALFORMED);
        assert_eq!((by, refusal.code), expected, "{whole:?}");
        let (by, refusal) = pair.dialler.closed().expect("told");
        let expected = (crate::ClosedBy::Peer, code::MALFORMED);
        assert_eq!((by, refusal.code), expected, "{whole:?}");
    }
}

#[test]
fn what_waits_is_bounded_and_a_session_that_is_over_sends_none() {
    let (mut pair, stream) = joined();
    let now = pair.dialler_now();
    let dialler = &mut pair.dialler.session;
    for _ in 0..fairway_channel::limits::MAX_DATAGRAMS {
        dialler.send_datagram(now, stream, b"x").unwrap();
    }
    let sent = dialler.send_datagram(now, stream, b"x");
    assert_eq!(sent, Err(DatagramError::QueueFull));
    for end in [&mut pair.dialler, &mut pair.answerer] {
        end.session.close(now, Refusal::new(Code::DONE, ""));
        let sent = end.session.send_datagram(now, stream, b"x");
        assert_eq!(sent, Err(DatagramError::Over(StreamError::Unknown)));
    }
}

/// For whoever waits for datagrams and reads nothing, or less than all.
#[test]
fn the_end_is_seen_without_reading_it() {
    let (mut pair, stream) = joined();
    let now = pair.answerer_now();
    let readable = |pair: &mut Pair| {
        let is_it = |e: &Event| matches!(e, Event::Readable(s) if *s == stream);
        pair.answerer.take(is_it).is_some()
    };
    assert_eq!(pair.send(stream, "all there is"), "all there is");
    assert!(readable(&mut pair));
    // The reader did not come back empty, but whoever waits for the end is told.
    assert_eq!(pair.answerer.session.is_read_out(stream), Ok(false));
    let mut more = Bytes::from_static(b"and more");
    pair.dialler.session.write(now, stream, &mut more).unwrap();
    pair.dialler.session.finish(now, stream).unwrap();
    pair.drive();
    assert!(readable(&mut pair));
    assert_eq!(pair.answerer.session.is_read_out(stream), Ok(false));
    let chunk = pair.answerer.session.read(now, stream);
    assert!(matches!(chunk, Ok(ReadOutcome::Chunk(_))), "{chunk:?}");
    assert_eq!(pair.answerer.session.is_read_out(stream), Ok(true));
    let end = pair.answerer.session.read(now, stream);
    assert_eq!(end, Ok(ReadOutcome::Finished));
    assert_eq!(pair.answerer.session.is_read_out(stream), Ok(true));
}
