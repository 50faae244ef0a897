//! Streams, datagrams, keepalive and closing between two honest ends.

use bytes::Bytes;

use super::Duo;
use crate::{
    Batch, Channel, ClosedBy, Code, Config, DatagramError, Event, OpenError, Output, PathId,
    ReadOutcome, Reason, StreamError, StreamId, Time, limits,
};

fn ready() -> Duo {
    Duo::ready(Config::new(), Config::new())
}

/// `a` opens a stream and `b` accepts it.
fn stream(duo: &mut Duo) -> StreamId {
    let id = duo.a.channel.open(duo.now, b"to you".to_vec()).unwrap();
    duo.run();
    let opened = Event::Opened {
        stream: id,
        header: b"to you".to_vec(),
    };
    assert_eq!(duo.b.events, [opened]);
    duo.b.channel.accept(duo.now, id).unwrap();
    duo.run();
    assert_eq!(duo.a.events, [Event::Accepted(id)]);
    duo.a.events.clear();
    duo.b.events.clear();
    id
}

fn write(channel: &mut Channel, now: Time, id: StreamId, text: &[u8]) -> usize {
    let mut data = Bytes::copy_from_slice(text);
    channel.write(now, id, &mut data).unwrap()
}

fn read(channel: &mut Channel, now: Time, id: StreamId) -> Vec<u8> {
    let mut out = Vec::new();
    while let Ok(ReadOutcome::Chunk(chunk)) = channel.read(now, id) {
        out.extend_from_slice(&chunk);
    }
    out
}

#[test]
fn each_half_ends_by_itself() {
    let mut duo = ready();
    let id = stream(&mut duo);
    write(&mut duo.a.channel, duo.now, id, b"question");
    duo.a.channel.finish(duo.now, id).unwrap();
    duo.run();
    assert_eq!(duo.b.events, [Event::Readable(id)]);
    assert_eq!(read(&mut duo.b.channel, duo.now, id), b"question");
    assert_eq!(duo.b.channel.read(duo.now, id), Ok(ReadOutcome::Finished));
    // The other half goes on.
    write(&mut duo.b.channel, duo.now, id, b"a long answer");
    duo.rest();
    assert_eq!(read(&mut duo.a.channel, duo.now, id), b"a long answer");
    assert_eq!(duo.a.channel.read(duo.now, id), Ok(ReadOutcome::Empty));
    let more = duo
        .a
        .channel
        .write(duo.now, id, &mut Bytes::from_static(b"more"));
    assert_eq!(more, Err(StreamError::Ended));
    duo.b.channel.finish(duo.now, id).unwrap();
    duo.rest();
    assert_eq!(duo.a.channel.read(duo.now, id), Ok(ReadOutcome::Finished));
    assert_eq!(duo.a.channel.streams() + duo.b.channel.streams(), 0);
    assert!(duo.a.events.contains(&Event::Finished(id)));
    assert!(duo.b.events.contains(&Event::Finished(id)));
}

#[test]
fn nothing_is_read_or_written_before_it_is_accepted() {
    let mut duo = ready();
    let id = duo.a.channel.open(duo.now, Vec::new()).unwrap();
    write(&mut duo.a.channel, duo.now, id, b"in a hurry");
    duo.run();
    let b = &mut duo.b.channel;
    assert_eq!(b.read(duo.now, id), Err(StreamError::NotAccepted));
    let written = b.write(duo.now, id, &mut Bytes::from_static(b"x"));
    assert_eq!(written, Err(StreamError::NotAccepted));
    b.accept(duo.now, id).unwrap();
    duo.run();
    assert!(duo.b.events.contains(&Event::Readable(id)));
    assert_eq!(read(&mut duo.b.channel, duo.now, id), b"in a hurry");
}

#[test]
fn a_refusal_reaches_whoever_opened() {
    let mut duo = ready();
    let id = duo.a.channel.open(duo.now, Vec::new()).unwrap();
    write(&mut duo.a.channel, duo.now, id, b"in a hurry");
    duo.run();
    let reason = Reason::new(Code(0x101), "policy-denied");
    duo.b.channel.reset(duo.now, id, reason.clone());
    duo.rest();
    let (stream, why) = (id, reason.clone());
    for event in [
        Event::Reset { stream, reason },
        Event::Stopped {
            stream,
            reason: why.clone(),
        },
    ] {
        assert!(duo.a.events.contains(&event), "{event:?}");
    }
    assert_eq!(duo.a.channel.read(duo.now, id), Err(StreamError::Unknown));
    assert_eq!(duo.a.channel.streams() + duo.b.channel.streams(), 0);
}

#[test]
fn stop_ends_one_direction_only() {
    let mut duo = ready();
    let id = stream(&mut duo);
    let reason = Reason::new(Code(0x105), "enough");
    duo.b.channel.stop(duo.now, id, reason.clone());
    duo.rest();
    let stopped = Event::Stopped {
        stream: id,
        reason: reason.clone(),
    };
    assert_eq!(duo.a.events, [stopped]);
    let written = duo
        .a
        .channel
        .write(duo.now, id, &mut Bytes::from_static(b"x"));
    assert_eq!(written, Err(StreamError::Stopped(reason)));
    write(&mut duo.b.channel, duo.now, id, b"but I have something");
    duo.run();
    assert_eq!(
        read(&mut duo.a.channel, duo.now, id),
        b"but I have something"
    );
}

#[test]
fn a_slow_reader_holds_up_its_own_stream_only() {
    let config = || Config::new().stream_window(1 << 20).unwrap();
    let mut duo = Duo::ready(config(), config());
    let slow = stream(&mut duo);
    let quick = stream(&mut duo);
    let text = vec![1; 1 << 20];
    assert_eq!(write(&mut duo.a.channel, duo.now, slow, &text), 1 << 20);
    assert_eq!(write(&mut duo.a.channel, duo.now, slow, &text), 0);
    duo.rest();
    // Acknowledged, so it can be written again, but not sent.
    assert!(duo.a.events.contains(&Event::Writable(slow)));
    assert_eq!(write(&mut duo.a.channel, duo.now, slow, &text), 1 << 20);
    duo.rest();
    assert_eq!(duo.b.channel.stats().stream_bytes_in, 1 << 20);
    write(&mut duo.a.channel, duo.now, quick, &text);
    duo.rest();
    assert_eq!(read(&mut duo.b.channel, duo.now, quick).len(), 1 << 20);
    assert_eq!(read(&mut duo.b.channel, duo.now, slow).len(), 1 << 20);
    duo.rest();
    assert_eq!(read(&mut duo.b.channel, duo.now, slow).len(), 1 << 20);
}

#[test]
fn all_streams_together_stay_within_the_channels_window() {
    let config = || {
        let config = Config::new().session_window(4 << 20);
        config.and_then(|config| config.stream_window(1 << 20))
    };
    let mut duo = Duo::ready(config().unwrap(), config().unwrap());
    let ids: Vec<_> = (0..8).map(|_| stream(&mut duo)).collect();
    let text = vec![1; 1 << 20];
    for &id in &ids {
        assert_eq!(write(&mut duo.a.channel, duo.now, id, &text), 1 << 20);
    }
    duo.rest();
    let all = (4 << 20) - limits::MAX_RESERVE;
    assert_eq!(duo.b.channel.stats().stream_bytes_in, all);
    let mut total = 0;
    for _ in 0..10 {
        for &id in &ids {
            total += read(&mut duo.b.channel, duo.now, id).len();
        }
        duo.rest();
    }
    assert_eq!(total, 8 << 20);
}

#[test]
fn the_number_of_streams_is_bounded_and_comes_back() {
    let few = Config::new().max_streams(2).unwrap();
    let mut duo = Duo::ready(Config::new(), few);
    let first = stream(&mut duo);
    stream(&mut duo);
    let third = duo.a.channel.open(duo.now, Vec::new());
    assert_eq!(third, Err(OpenError::TooMany));
    let reason = Reason::new(Code::DONE, "done");
    duo.a.channel.reset(duo.now, first, reason);
    duo.rest();
    assert!(duo.a.events.contains(&Event::StreamsAvailable));
    assert!(duo.a.channel.open(duo.now, Vec::new()).is_ok());
}

/// What was withheld while the peer had plenty comes when it runs short, though
/// no stream ends then.
#[test]
fn all_streams_can_be_open_after_others_are_over() {
    let some = Config::new().max_streams(16).unwrap();
    let mut duo = Duo::ready(Config::new(), some);
    for _ in 0..3 {
        let over = stream(&mut duo);
        let reason = Reason::new(Code::DONE, "done");
        duo.a.channel.reset(duo.now, over, reason);
        duo.rest();
        duo.b.events.clear();
    }
    for n in 0..16 {
        let opened = duo.a.channel.open(duo.now, Vec::new());
        assert!(opened.is_ok(), "{n} are open: {opened:?}");
        duo.rest();
    }
    let more = duo.a.channel.open(duo.now, Vec::new());
    assert_eq!(more, Err(OpenError::TooMany));
}

#[test]
fn a_silent_channel_is_kept_alive() {
    let mut duo = ready();
    duo.pass(Time::from_secs(300));
    assert!(!duo.a.channel.is_closed() && !duo.b.channel.is_closed());
    let packets = duo.a.channel.stats().packets_out + duo.b.channel.stats().packets_out;
    assert!(
        packets < 60,
        "a PING and an ACK each 30 s, not {packets} packets"
    );
}

#[test]
fn a_dead_peer_is_noticed() {
    let mut duo = ready();
    let start = duo.now;
    while !duo.a.channel.is_closed() {
        duo.a.drain(duo.now);
        duo.a.out.clear();
        duo.now = duo.a.timeout.unwrap_or(duo.now);
        duo.a.channel.handle_timeout(duo.now);
    }
    duo.a.drain(duo.now);
    assert_eq!(duo.a.closed().unwrap().1.code, Code::IDLE_TIMEOUT);
    let waited = duo.now - start;
    assert!(waited <= Time::from_secs(91) && waited >= Time::from_secs(89));
}

#[test]
fn a_ping_is_answered() {
    let mut duo = ready();
    duo.a.channel.ping(duo.now);
    duo.rest();
    assert_eq!(duo.a.events, [Event::Alive]);
}

#[test]
fn datagrams_arrive_or_not_but_never_pile_up() {
    let mut duo = ready();
    duo.a
        .channel
        .send_datagram(duo.now, Bytes::from_static(b"hi"))
        .unwrap();
    duo.run();
    assert_eq!(duo.b.events, [Event::Datagram(Bytes::from_static(b"hi"))]);
    let long = Bytes::from(vec![0; limits::MAX_DATAGRAM + 1]);
    let length = long.len();
    let sent = duo.a.channel.send_datagram(duo.now, long);
    assert_eq!(sent, Err(DatagramError::TooLong { length }));
    for _ in 0..limits::MAX_DATAGRAMS {
        duo.a.channel.send_datagram(duo.now, Bytes::new()).unwrap();
    }
    let sent = duo.a.channel.send_datagram(duo.now, Bytes::new());
    assert_eq!(sent, Err(DatagramError::QueueFull));
}

/// Packets of `a` that wait: whether each is a datagram's, and how long it is.
fn outgoing(duo: &mut Duo) -> Vec<(bool, usize)> {
    let mut batch = Batch::new(0);
    let mut packets = Vec::new();
    while let Output::Transmit { .. } = duo.a.channel.poll_output(duo.now, &mut batch) {
        let marked = batch.marked_packets_mut();
        packets.extend(marked.map(|(is_datagram, packet)| (is_datagram, packet.len())));
        batch.clear();
    }
    packets
}

#[test]
fn datagrams_have_packets_of_their_own_that_are_known() {
    let mut duo = ready();
    let id = stream(&mut duo);
    duo.run();
    let mut data = Bytes::from_static(&[7; 5_000]);
    duo.a.channel.write(duo.now, id, &mut data).unwrap();
    for length in [limits::MAX_DATAGRAM, 400, 400, 390, 1_000] {
        let datagram = Bytes::from(vec![1; length]);
        duo.a.channel.send_datagram(duo.now, datagram).unwrap();
    }
    let packets = outgoing(&mut duo);
    let of = |wanted: bool| {
        let packets = packets.iter().filter(|(is, _)| *is == wanted);
        packets.map(|&(_, length)| length).collect::<Vec<_>>()
    };
    // Small ones share one.
    let datagrams = of(true);
    assert_eq!(datagrams.len(), 3);
    assert!(
        datagrams
            .iter()
            .all(|&length| length <= limits::MAX_DATAGRAM_PACKET),
        "{datagrams:?}"
    );
    assert!(matches!(of(false)[..], [length] if length > 5_000));
}

/// Else the peer's replay window would have moved past packets that come yet.
#[test]
fn a_datagram_is_not_let_past_more_than_the_replay_window_bears() {
    let mut duo = ready();
    let id = stream(&mut duo);
    duo.run();
    let mut n_before = 0;
    loop {
        duo.a
            .channel
            .send_datagram(duo.now, Bytes::from_static(b"x"))
            .unwrap();
        let datagrams = outgoing(&mut duo);
        if datagrams == [(false, datagrams[0].1)] {
            break;
        }
        let mut data = Bytes::from_static(b"y");
        duo.a.channel.write(duo.now, id, &mut data).unwrap();
        // What is under way is never acknowledged here.
        n_before += 1 + outgoing(&mut duo).len() as u64;
    }
    let bound = limits::MAX_OVERTAKEN - 2..=limits::MAX_OVERTAKEN + 2;
    assert!(bound.contains(&n_before), "{n_before}");
}

#[test]
fn closing_tells_the_peer_even_if_the_first_word_is_lost() {
    let mut duo = ready();
    let id = stream(&mut duo);
    let reason = Reason::new(Code(0x120), "shutdown");
    duo.a.channel.close(duo.now, reason.clone());
    duo.a.drain(duo.now);
    assert_eq!(duo.a.closed(), Some((ClosedBy::Owner, &reason)));
    assert_eq!(duo.a.out.drain(..).count(), 1);
    assert_eq!(duo.a.timeout, None);
    write(&mut duo.b.channel, duo.now, id, b"still there?");
    duo.run();
    assert_eq!(duo.b.closed(), Some((ClosedBy::Peer, &reason)));
    let written = duo
        .b
        .channel
        .write(duo.now, id, &mut Bytes::from_static(b"x"));
    assert_eq!(written, Err(StreamError::Unknown));
    assert_eq!(
        duo.b.channel.open(duo.now, Vec::new()),
        Err(OpenError::Closed)
    );
}

#[test]
fn a_closed_channel_answers_a_flood_with_a_few_packets() {
    let mut duo = ready();
    duo.a.channel.close(duo.now, Reason::new(Code::DONE, ""));
    duo.a.drain(duo.now);
    for _ in 0..10_000 {
        let packet = bytes::BytesMut::from(&[4u8; 40][..]);
        duo.a.channel.handle_input(duo.now, PathId::FIRST, packet);
        duo.a.drain(duo.now);
    }
    assert!(duo.a.out.len() <= 1 + limits::MAX_CLOSE_REPEATS as usize);
}

#[test]
fn a_used_up_key_closes_the_channel_and_says_so() {
    let config = Config::new().key_limit(40).unwrap();
    let mut duo = Duo::ready(config, Config::new());
    let id = stream(&mut duo);
    for _ in 0..60 {
        let mut data = Bytes::from_static(b"x");
        if duo.a.channel.write(duo.now, id, &mut data).is_err() {
            break;
        }
        duo.run();
    }
    assert_eq!(duo.a.closed().unwrap().1.code, Code::KEY_EXHAUSTED);
    assert_eq!(duo.b.closed().unwrap().1.code, Code::KEY_EXHAUSTED);
}

#[test]
fn without_room_events_come_and_packets_wait() {
    let mut duo = ready();
    let id = stream(&mut duo);
    write(&mut duo.a.channel, duo.now, id, &[0; 100_000]);
    duo.a.channel.ping(duo.now);
    let mut batch = Batch::new(8);
    batch.set_room(0);
    let output = duo.a.channel.poll_output(duo.now, &mut batch);
    assert!(matches!(output, Output::Timeout(_)) && batch.is_empty());
    batch.set_room(2 * limits::MAX_PACKET);
    let output = duo.a.channel.poll_output(duo.now, &mut batch);
    assert!(matches!(output, Output::Transmit { .. }));
    assert!(batch.as_slice().len() <= 2 * (limits::MAX_PACKET + 8));
    assert_eq!(batch.len(), 2);
}

#[test]
fn small_writes_of_many_streams_share_a_record() {
    let mut duo = ready();
    let ids: Vec<_> = (0..20).map(|_| stream(&mut duo)).collect();
    duo.rest();
    let before = duo.a.channel.stats().packets_out;
    for &id in &ids {
        write(&mut duo.a.channel, duo.now, id, &[1; 64]);
        write(&mut duo.a.channel, duo.now, id, &[2; 64]);
    }
    duo.a.drain(duo.now);
    assert_eq!(duo.a.channel.stats().packets_out - before, 1);
}

#[test]
fn a_small_read_leaves_nothing_to_be_sent() {
    let mut duo = ready();
    let id = stream(&mut duo);
    write(&mut duo.a.channel, duo.now, id, b"small");
    duo.run();
    let before = timeout(&mut duo.b.channel, duo.now);
    assert_eq!(read(&mut duo.b.channel, duo.now, id), b"small");
    assert!(!duo.b.channel.owes_credit(id));
    assert_eq!(timeout(&mut duo.b.channel, duo.now), before);
}

/// That of a channel with nothing else to say.
fn timeout(channel: &mut Channel, now: Time) -> Option<Time> {
    match channel.poll_output(now, &mut Batch::new(0)) {
        Output::Timeout(at) => at,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_large_read_leaves_credit_to_be_sent() {
    const WINDOW: usize = 64 << 10;
    let config = Config::new().stream_window(WINDOW as u64).unwrap();
    let mut duo = Duo::ready(config.clone(), config);
    let id = stream(&mut duo);
    write(&mut duo.a.channel, duo.now, id, &[1; WINDOW / 2]);
    duo.run();
    assert!(!duo.b.channel.owes_credit(id));
    assert_eq!(read(&mut duo.b.channel, duo.now, id).len(), WINDOW / 2);
    assert!(duo.b.channel.owes_credit(id));
}

#[test]
fn a_bulk_transfer_is_acknowledged_sparsely() {
    let mut duo = ready();
    let id = stream(&mut duo);
    let before = duo.b.channel.stats().packets_out;
    for _ in 0..8 {
        write(&mut duo.a.channel, duo.now, id, &vec![0; 1 << 20]);
        duo.run();
        read(&mut duo.b.channel, duo.now, id);
        duo.run();
    }
    let acks = duo.b.channel.stats().packets_out - before;
    assert!(acks <= 8 << 20 >> 16, "{acks} packets for 8 MiB");
}

#[test]
fn a_stop_that_overtakes_its_open_leaves_the_other_half() {
    let mut duo = ready();
    let id = duo.a.channel.open(duo.now, b"one way".to_vec()).unwrap();
    write(&mut duo.a.channel, duo.now, id, b"an upload");
    duo.a.drain(duo.now);
    duo.a.out.clear();
    let reason = Reason::new(Code::DONE, "no answer wanted");
    duo.a.channel.stop(duo.now, id, reason.clone());
    // The STOP comes first; the OPEN is found lost and comes again.
    duo.rest();
    duo.pass(Time::from_secs(2));
    let opened = Event::Opened {
        stream: id,
        header: b"one way".to_vec(),
    };
    let stopped = Event::Stopped { stream: id, reason };
    assert_eq!(duo.b.events, [opened, stopped]);
    duo.b.channel.accept(duo.now, id).unwrap();
    assert_eq!(read(&mut duo.b.channel, duo.now, id), b"an upload");
    duo.a.channel.finish(duo.now, id).unwrap();
    duo.rest();
    assert_eq!(duo.b.channel.read(duo.now, id), Ok(ReadOutcome::Finished));
    duo.rest();
    assert_eq!((duo.a.channel.streams(), duo.b.channel.streams()), (0, 0));
}

/// Shrinking fails too, so that the bounds follow.
/// Everything about the stream has arrived but the OPEN: it is sent again, or
/// the peer would never be told of what it holds.
#[test]
fn a_stream_is_not_over_before_its_open_has_arrived() {
    let mut duo = ready();
    let id = duo.a.channel.open(duo.now, b"to you".to_vec()).unwrap();
    duo.a.drain(duo.now);
    assert_eq!(duo.a.out.drain(..).count(), 1, "its OPEN is lost");
    write(&mut duo.a.channel, duo.now, id, b"farewell");
    duo.a.channel.finish(duo.now, id).unwrap();
    let reason = Reason::new(Code::DONE, "wants no answer");
    duo.a.channel.stop(duo.now, id, reason);
    duo.pass(Time::from_secs(2));

    let opened = |event: &Event| matches!(event, Event::Opened { stream, .. } if *stream == id);
    assert!(duo.b.events.iter().any(opened), "{:?}", duo.b.events);
    duo.b.channel.accept(duo.now, id).unwrap();
    assert_eq!(read(&mut duo.b.channel, duo.now, id), b"farewell");
    duo.rest();
    assert_eq!((duo.a.channel.streams(), duo.b.channel.streams()), (0, 0));
}

#[test]
fn an_idle_channel_is_small() {
    let size = size_of::<Channel>();
    assert!((700..=960).contains(&size), "{size}");
}
