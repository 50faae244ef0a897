//! From one path to another: who moves when, and what an attacker can do about it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{Duo, End};
use crate::{
    AttachError, Batch, ClosedBy, Code, Config, Event, Output, PathId, ReadOutcome, StreamId, Time,
    frame::Frame, packet, peek_attach,
};

const OLD: PathId = PathId::FIRST;
const NEW: PathId = PathId(7);

fn ready() -> Duo {
    Duo::ready(Config::new(), Config::new())
}

/// What an end wants to send now, with its paths.
fn packets(end: &mut End, now: Time) -> Vec<(PathId, BytesMut)> {
    let (mut batch, mut packets) = (Batch::new(0), Vec::new());
    loop {
        match end.channel.poll_output(now, &mut batch) {
            Output::Transmit { path } => {
                for packet in batch.packets_mut() {
                    packets.push((path, BytesMut::from(&*packet)));
                }
                batch.clear();
            }
            Output::Event(event) => end.events.push(event),
            Output::Timeout(timeout) => {
                end.timeout = timeout;
                return packets;
            }
        }
    }
}

/// Carries packets of living paths until there are none.
fn carry(duo: &mut Duo, alive: &[PathId]) {
    loop {
        let from_a = packets(&mut duo.a, duo.now);
        let from_b = packets(&mut duo.b, duo.now);
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        for (path, packet) in from_a.into_iter().filter(|(path, _)| alive.contains(path)) {
            duo.b.channel.handle_input(duo.now, path, packet);
        }
        for (path, packet) in from_b.into_iter().filter(|(path, _)| alive.contains(path)) {
            duo.a.channel.handle_input(duo.now, path, packet);
        }
    }
}

/// Lets time pass, timer by timer, with these paths alive.
fn pass(duo: &mut Duo, alive: &[PathId], time: Time) {
    let end = duo.now + time;
    loop {
        carry(duo, alive);
        let next = [duo.a.timeout, duo.b.timeout].into_iter().flatten().min();
        let Some(next) = next.filter(|&next| next <= end) else {
            duo.now = end;
            return;
        };
        duo.now = duo.now.max(next);
        duo.a.channel.handle_timeout(duo.now);
        duo.b.channel.handle_timeout(duo.now);
    }
}

fn write(duo: &mut Duo, id: StreamId, text: &'static [u8]) {
    let mut data = Bytes::from_static(text);
    duo.a.channel.write(duo.now, id, &mut data).unwrap();
}

fn read(end: &mut End, now: Time, id: StreamId) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(ReadOutcome::Chunk(chunk)) = end.channel.read(now, id) {
        all.extend_from_slice(&chunk);
    }
    all
}

/// A stream that `b` has accepted.
fn stream(duo: &mut Duo) -> StreamId {
    let id = duo.a.channel.open(duo.now, b"x".to_vec()).unwrap();
    carry(duo, &[OLD]);
    duo.b.channel.accept(duo.now, id).unwrap();
    carry(duo, &[OLD]);
    id
}

fn has(end: &End, event: &Event) -> bool {
    end.events.contains(event)
}

#[test]
fn both_ends_derive_one_connection_id() {
    let duo = ready();
    let id = duo.a.channel.connection_id().unwrap();
    assert_eq!(duo.b.channel.connection_id(), Some(id));
    let other = ready();
    assert_ne!(other.a.channel.connection_id(), Some(id));
    let fresh = Duo::new(Config::new(), Config::new());
    assert_eq!(fresh.a.channel.connection_id(), None);
}

#[test]
fn a_cut_costs_a_pause_and_not_one_byte() {
    let mut duo = ready();
    let id = stream(&mut duo);
    write(&mut duo, id, b"arrives ");
    carry(&mut duo, &[OLD]);
    write(&mut duo, id, b"gets lost ");
    carry(&mut duo, &[]);
    for end in [&mut duo.a, &mut duo.b] {
        end.channel.path_lost(duo.now, OLD);
        assert_eq!(end.channel.active_path(), None);
    }
    write(&mut duo, id, b"waits");
    pass(&mut duo, &[OLD], Time::from_secs(100));
    assert_eq!(read(&mut duo.b, duo.now, id), b"arrives ");
    assert!(packets(&mut duo.a, duo.now).is_empty(), "there is no path");

    duo.a.channel.attach(duo.now, NEW).unwrap();
    carry(&mut duo, &[NEW]);
    for end in [&duo.a, &duo.b] {
        assert_eq!(end.channel.active_path(), Some(NEW));
        assert!(has(end, &Event::PathActive { path: NEW }));
        assert_eq!(end.channel.stats().moves, 1);
    }
    assert_eq!(read(&mut duo.b, duo.now, id), b"gets lost waits");
    // The clock of the lost path is off.
    pass(&mut duo, &[NEW], Time::from_secs(300));
    assert!(duo.a.channel.is_ready() && duo.b.channel.is_ready());
}

#[test]
fn traffic_moves_only_after_the_answer_on_that_path() {
    let mut duo = ready();
    duo.a.channel.attach(duo.now, NEW).unwrap();
    let attach = packets(&mut duo.a, duo.now);
    assert_eq!(attach.len(), 1);
    let (path, attach) = attach.into_iter().next().unwrap();
    assert_eq!(path, NEW);
    assert_eq!(peek_attach(&attach), duo.b.channel.connection_id());
    assert_eq!(duo.a.channel.active_path(), Some(OLD));

    duo.b.channel.handle_input(duo.now, NEW, attach);
    let answer = packets(&mut duo.b, duo.now);
    assert_eq!(answer.len(), 1);
    assert_eq!((answer[0].0, answer[0].1[0]), (NEW, packet::RECORD));
    assert_eq!(duo.b.channel.active_path(), Some(OLD));
    assert_eq!(duo.b.channel.candidate_path(), Some(NEW));

    // The answer on another path than the question's counts for nothing.
    duo.a
        .channel
        .handle_input(duo.now, PathId(8), answer[0].1.clone());
    packets(&mut duo.a, duo.now);
    assert_eq!(duo.a.channel.active_path(), Some(OLD));
    // The next ones do.
    pass(&mut duo, &[OLD, NEW], Time::from_secs(1));
    assert_eq!(duo.a.channel.active_path(), Some(NEW));
    assert_eq!(duo.b.channel.active_path(), Some(NEW));
    assert_eq!(duo.a.channel.candidate_path(), None);
    assert_eq!(duo.b.channel.candidate_path(), None);
}

#[test]
fn a_replayed_or_forged_attach_changes_nothing() {
    let mut duo = ready();
    duo.a.channel.attach(duo.now, NEW).unwrap();
    let (_, attach) = packets(&mut duo.a, duo.now).remove(0);
    duo.b.channel.handle_input(duo.now, NEW, attach.clone());
    carry(&mut duo, &[OLD, NEW]);
    assert_eq!(duo.b.channel.active_path(), Some(NEW));
    duo.b.events.clear();

    let evil = PathId(66);
    let before = duo.b.channel.stats();
    duo.b.channel.handle_input(duo.now, evil, attach.clone());
    for at in 0..attach.len() {
        let mut forged = attach.clone();
        forged[at] ^= 4;
        duo.b.channel.handle_input(duo.now, evil, forged);
    }
    assert!(packets(&mut duo.b, duo.now).is_empty());
    assert!(duo.b.events.is_empty());
    assert_eq!(duo.b.channel.candidate_path(), None);
    let after = duo.b.channel.stats();
    assert_eq!(after.packets_in, before.packets_in);
    assert!(after.dropped_replayed > before.dropped_replayed);
    assert!(after.dropped_forged > before.dropped_forged);
}

#[test]
fn a_path_that_does_not_answer_fails_and_nothing_else_changes() {
    let mut duo = ready();
    let id = stream(&mut duo);
    duo.a.channel.attach(duo.now, NEW).unwrap();
    write(&mut duo, id, b"on the old one");
    pass(&mut duo, &[OLD], Time::from_secs(11));
    assert!(has(&duo.a, &Event::PathFailed { path: NEW }));
    assert_eq!(duo.a.channel.active_path(), Some(OLD));
    assert_eq!(read(&mut duo.b, duo.now, id), b"on the old one");
    // The same number may be tried again, and another replaces it.
    duo.a.channel.attach(duo.now, NEW).unwrap();
    duo.a.channel.attach(duo.now, PathId(8)).unwrap();
    carry(&mut duo, &[OLD, PathId(8)]);
    assert_eq!(duo.b.channel.active_path(), Some(PathId(8)));
}

#[test]
fn a_lost_answer_is_asked_for_again() {
    let mut duo = ready();
    duo.a.channel.attach(duo.now, NEW).unwrap();
    let (_, attach) = packets(&mut duo.a, duo.now).remove(0);
    duo.b.channel.handle_input(duo.now, NEW, attach);
    let answer = packets(&mut duo.b, duo.now);
    duo.a
        .channel
        .handle_input(duo.now, NEW, answer[0].1.clone());
    // `a` has moved; its answer to `b` is lost.
    assert!(!packets(&mut duo.a, duo.now).is_empty());
    assert_eq!(duo.a.channel.active_path(), Some(NEW));
    assert_eq!(duo.b.channel.active_path(), Some(OLD));
    pass(&mut duo, &[NEW], Time::from_secs(1));
    assert_eq!(duo.b.channel.active_path(), Some(NEW));
}

#[test]
fn who_may_attach_and_when() {
    let mut duo = ready();
    let now = duo.now;
    let attach = |end: &mut End, path| end.channel.attach(now, path);
    assert_eq!(attach(&mut duo.b, NEW), Err(AttachError::WrongSide));
    assert_eq!(attach(&mut duo.a, OLD), Err(AttachError::InUse));
    assert_eq!(attach(&mut duo.a, NEW), Ok(()));
    assert_eq!(attach(&mut duo.a, NEW), Err(AttachError::InUse));
    let mut fresh = Duo::new(Config::new(), Config::new());
    assert_eq!(attach(&mut fresh.a, NEW), Err(AttachError::NotReady));
}

#[test]
fn a_channel_without_a_path_is_kept_for_its_time() {
    let mut duo = ready();
    duo.a.channel.path_lost(duo.now, OLD);
    duo.b.channel.path_lost(duo.now, OLD);
    pass(&mut duo, &[], Time::from_secs(119));
    assert!(!duo.a.channel.is_closed() && !duo.b.channel.is_closed());
    pass(&mut duo, &[], Time::from_secs(2));
    for end in [&duo.a, &duo.b] {
        let (by, reason) = end.closed().unwrap();
        assert_eq!((by, reason.code), (ClosedBy::Protocol, Code::PATH_LOST));
    }
}

/// The initiator is ready, the responder waits for its SETTINGS, and the path dies.
#[test]
fn a_path_lost_before_the_settings_came_costs_a_pause_only() {
    let mut duo = Duo::new(Config::new(), Config::new());
    while !duo.a.channel.is_ready() {
        duo.a.drain(duo.now);
        duo.b.drain(duo.now);
        let handshake = |packet: &BytesMut| packet[0] < packet::RECORD;
        for packet in duo.a.out.drain(..).filter(handshake) {
            duo.b.channel.handle_input(duo.now, OLD, packet);
        }
        for packet in duo.b.out.drain(..) {
            duo.a.channel.handle_input(duo.now, OLD, packet);
        }
    }
    assert!(!duo.b.channel.is_ready());
    duo.a.channel.path_lost(duo.now, OLD);
    duo.b.channel.path_lost(duo.now, OLD);
    pass(&mut duo, &[], Time::from_secs(60));
    duo.a.channel.attach(duo.now, NEW).unwrap();
    pass(&mut duo, &[NEW], Time::from_secs(60));
    assert!(duo.a.channel.is_ready() && duo.b.channel.is_ready());
}

#[test]
fn a_handshake_ends_with_its_path() {
    let mut duo = Duo::new(Config::new(), Config::new());
    duo.a.drain(duo.now);
    duo.a.channel.path_lost(duo.now, OLD);
    duo.a.drain(duo.now);
    assert_eq!(duo.a.closed().unwrap().1.code, Code::PATH_LOST);
}

#[test]
fn a_silent_path_is_named_once() {
    let mut duo = ready();
    let id = stream(&mut duo);
    write(&mut duo, id, b"into the void");
    pass(&mut duo, &[], Time::from_millis(990));
    assert_eq!(silences(&duo.a), 0);
    pass(&mut duo, &[], Time::from_millis(20));
    assert_eq!(silences(&duo.a), 1);
    pass(&mut duo, &[], Time::from_secs(20));
    assert_eq!(silences(&duo.a), 1);
    let recovered = Event::PathRecovered { path: OLD };
    assert!(!has(&duo.a, &recovered));
    // Within the longest time between two probes.
    pass(&mut duo, &[OLD], Time::from_millis(1_100));
    assert!(has(&duo.a, &recovered));
    assert_eq!(read(&mut duo.b, duo.now, id), b"into the void");
    pass(&mut duo, &[OLD], Time::from_secs(80));
    assert_eq!(silences(&duo.a), 1, "an idle path is not silent");
}

fn silences(end: &End) -> usize {
    let named = |event: &&Event| matches!(event, Event::PathSilent { .. });
    end.events.iter().filter(named).count()
}

/// Carries packets with this delay, and from `a` not even that where `deaf`
/// says so.
fn pass_slowly(duo: &mut Duo, delay: Time, deaf: bool, time: Time) {
    let end = duo.now + time;
    let mut under_way: VecDeque<(Time, bool, PathId, BytesMut)> = VecDeque::new();
    loop {
        let from_a = packets(&mut duo.a, duo.now);
        let from_b = packets(&mut duo.b, duo.now);
        let from_a = from_a.into_iter().filter(|_| !deaf).map(|it| (true, it));
        for (to_b, (path, packet)) in from_a.chain(from_b.into_iter().map(|it| (false, it))) {
            under_way.push_back((duo.now + delay, to_b, path, packet));
        }
        let arrival = under_way.front().map(|(at, ..)| *at);
        let next = [duo.a.timeout, duo.b.timeout, arrival];
        let Some(next) = next.into_iter().flatten().min().filter(|&at| at <= end) else {
            duo.now = end;
            return;
        };
        duo.now = duo.now.max(next);
        while let Some((_, to_b, path, packet)) = under_way.pop_front_if(|it| it.0 <= next) {
            let to = if to_b { &mut duo.b } else { &mut duo.a };
            to.channel.handle_input(duo.now, path, packet);
        }
        duo.a.channel.handle_timeout(duo.now);
        duo.b.channel.handle_timeout(duo.now);
    }
}

/// What the peer sends comes, what we send does not arrive.
#[test]
fn a_path_that_is_blocked_one_way_is_silent_at_both_ends() {
    let mut duo = ready();
    let id = stream(&mut duo);
    let delay = Time::from_millis(5);
    pass_slowly(&mut duo, delay, false, Time::from_secs(1));
    write(&mut duo, id, b"not heard");
    // Whatever comes from the peer, its probes and pings among it.
    let mut data = Bytes::from_static(b"heard, and not acknowledged");
    duo.b.channel.write(duo.now, id, &mut data).unwrap();
    pass_slowly(&mut duo, delay, true, Time::from_millis(5_100));
    assert_eq!(silences(&duo.a), 1);
    assert_eq!(silences(&duo.b), 1);
}

/// An end that only receives has nothing to be acknowledged but its PINGs.
#[test]
fn who_only_receives_finds_out_that_nobody_hears_it() {
    let mut duo = ready();
    let id = stream(&mut duo);
    let delay = Time::from_millis(5);
    pass_slowly(&mut duo, delay, false, Time::from_secs(1));
    let mut data = Bytes::from_static(b"heard, and not acknowledged");
    duo.b.channel.write(duo.now, id, &mut data).unwrap();
    pass_slowly(&mut duo, delay, true, Time::from_secs(7));
    assert_eq!(silences(&duo.a), 1);
    assert_eq!(silences(&duo.b), 1);
}

/// 200 ms each way and more than a second's silence by bad luck.
#[test]
fn a_slow_path_is_given_its_time() {
    let mut duo = ready();
    let id = stream(&mut duo);
    let delay = Time::from_millis(100);
    // Where the round trip is measured anew.
    duo.a.channel.attach(duo.now, NEW).unwrap();
    for _ in 0..20 {
        write(&mut duo, id, b"ping");
        pass_slowly(&mut duo, delay, false, Time::from_millis(500));
    }
    write(&mut duo, id, b"lost for a while");
    pass_slowly(&mut duo, delay, true, Time::from_millis(1_700));
    assert_eq!(silences(&duo.a), 0);
    pass_slowly(&mut duo, delay, false, Time::from_secs(5));
    assert_eq!(silences(&duo.a), 0);
    pass_slowly(&mut duo, delay, false, Time::from_secs(60));
    write(&mut duo, id, b"lost for good");
    pass_slowly(&mut duo, delay, true, Time::from_millis(5_100));
    assert_eq!(silences(&duo.a), 1);
}

/// The socket below takes nothing any more: nothing is on its way, and the
/// path is dead all the same.
#[test]
fn a_path_that_takes_nothing_is_silent() {
    let mut duo = ready();
    let id = stream(&mut duo);
    let mut batch = Batch::new(0);
    batch.set_room(0);
    write(&mut duo, id, b"in the buffer");
    let end = duo.now + Time::from_millis(1_050);
    while duo.now < end {
        let polled = duo.a.channel.poll_output(duo.now, &mut batch);
        match polled {
            Output::Timeout(at) => duo.now = at.unwrap().min(end),
            Output::Event(event) => duo.a.events.push(event),
            Output::Transmit { .. } => panic!("there is no room"),
        }
        duo.a.channel.handle_timeout(duo.now);
    }
    packets(&mut duo.a, duo.now);
    assert_eq!(silences(&duo.a), 1);
}

/// A process that was held up does not blame the peer, whose answer it has not
/// read yet.
#[test]
fn who_was_held_up_itself_waits_a_little_more() {
    let mut duo = ready();
    let id = stream(&mut duo);
    write(&mut duo, id, b"answered in time");
    let from_a = packets(&mut duo.a, duo.now);
    for (path, packet) in from_a {
        duo.b.channel.handle_input(duo.now, path, packet);
    }
    duo.now += Time::from_secs(3);
    duo.b.channel.handle_timeout(duo.now);
    duo.a.channel.handle_timeout(duo.now);
    pass(&mut duo, &[OLD], Time::from_secs(10));
    assert_eq!(silences(&duo.a), 0);
    // It does blame it in the end.
    write(&mut duo, id, b"lost");
    packets(&mut duo.a, duo.now);
    duo.now += Time::from_secs(3);
    duo.a.channel.handle_timeout(duo.now);
    packets(&mut duo.a, duo.now);
    assert_eq!(silences(&duo.a), 0);
    pass(&mut duo, &[], Time::from_millis(300));
    assert_eq!(silences(&duo.a), 1);
}

#[test]
fn an_attach_without_a_challenge_is_a_violation() {
    let mut duo = ready();
    let mut text = Vec::new();
    Frame::Ping.put(&mut text);
    let record = duo.a.channel.seal_attach(&text).unwrap();
    duo.b.channel.handle_input(duo.now, NEW, record);
    duo.b.drain(duo.now);
    let reason = duo.b.closed().unwrap().1;
    assert_eq!(reason.code, Code::PROTOCOL_VIOLATION);
}

#[test]
fn a_batch_for_one_path_leaves_the_other_waiting() {
    let mut duo = ready();
    let id = stream(&mut duo);
    write(&mut duo, id, b"data");
    duo.a.channel.attach(duo.now, NEW).unwrap();
    assert_eq!(duo.a.channel.pending_path(), Some(NEW));
    let mut batch = Batch::new(0);
    batch.set_path(OLD);
    let output = duo.a.channel.poll_output(duo.now, &mut batch);
    assert!(matches!(output, Output::Transmit { path: OLD }));
    let output = duo.a.channel.poll_output(duo.now, &mut batch);
    assert!(matches!(output, Output::Timeout(_)));
    assert_eq!(duo.a.channel.pending_path(), Some(NEW));
    batch.clear();
    batch.set_path(NEW);
    let output = duo.a.channel.poll_output(duo.now, &mut batch);
    assert!(matches!(output, Output::Transmit { path: NEW }));
    assert_eq!(duo.a.channel.pending_path(), None);
}
