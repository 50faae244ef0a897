//! From one epoch of keys to the next.

use bytes::{Bytes, BytesMut};

use super::{Duo, End};
use crate::{
    Code, Config, Event, PathId, ReadOutcome, RenewError, StaticSecret, StreamId, Time,
    frame::{Frame, RenewPart},
    packet,
};

fn ready() -> Duo {
    let mut duo = Duo::ready(Config::new(), Config::new());
    // The least time between two epochs.
    duo.pass(Time::from_secs(2));
    duo
}

fn epochs(duo: &Duo) -> (Option<u64>, Option<u64>) {
    (duo.a.channel.epoch(), duo.b.channel.epoch())
}

fn renew(duo: &mut Duo) {
    duo.a.channel.renew(duo.now, &duo.a.secret).unwrap();
}

fn renewed(end: &End) -> usize {
    let is_renewed = |event: &&Event| matches!(event, Event::Renewed { .. });
    end.events.iter().filter(is_renewed).count()
}

/// Says something in both directions and hears it.
fn talk(duo: &mut Duo, id: StreamId) {
    for _ in 0..2 {
        let now = duo.now;
        let mut data = Bytes::from_static(b"there");
        duo.a.channel.write(now, id, &mut data).unwrap();
        let mut data = Bytes::from_static(b"and back");
        duo.b.channel.write(now, id, &mut data).unwrap();
        duo.run();
        for (end, text) in [(&mut duo.b, &b"there"[..]), (&mut duo.a, b"and back")] {
            let outcome = end.channel.read(now, id).unwrap();
            assert_eq!(outcome, ReadOutcome::Chunk(Bytes::copy_from_slice(text)));
        }
    }
}

fn stream(duo: &mut Duo) -> StreamId {
    let id = duo.a.channel.open(duo.now, b"x".to_vec()).unwrap();
    duo.run();
    duo.b.channel.accept(duo.now, id).unwrap();
    duo.run();
    id
}

#[test]
fn keys_change_under_living_streams_and_numbers_go_on() {
    let mut duo = ready();
    let id = stream(&mut duo);
    let hash = duo.a.channel.handshake_hash();
    for epoch in 1..=3 {
        talk(&mut duo, id);
        renew(&mut duo);
        talk(&mut duo, id);
        duo.rest();
        assert_eq!(epochs(&duo), (Some(epoch), Some(epoch)));
        duo.pass(Time::from_secs(6));
    }
    assert_eq!((renewed(&duo.a), renewed(&duo.b)), (3, 3));
    assert_eq!(duo.a.channel.stats().renewals, 3);
    // The first handshake still names the channel.
    assert_eq!(duo.a.channel.handshake_hash(), hash);
    assert_eq!(duo.a.channel.connection_id(), duo.b.channel.connection_id());
    let mut data = Bytes::from_static(b"x");
    duo.a.channel.write(duo.now, id, &mut data).unwrap();
    duo.a.drain(duo.now);
    let record = duo.a.out.pop_front().unwrap();
    assert_eq!(record[0], packet::RECORD_ODD);
    assert!(u64::from_be_bytes(record[1..9].try_into().unwrap()) > 8);
}

#[test]
fn each_side_shows_who_it_is_now() {
    let mut duo = ready();
    duo.a.secret = StaticSecret::from_bytes([51; 32]);
    duo.b.secret = StaticSecret::from_bytes([52; 32]);
    renew(&mut duo);
    duo.run();
    for (end, key, hello) in [
        (&duo.a, &duo.b.secret, &b"b again"[..]),
        (&duo.b, &duo.a.secret, b"a again"),
    ] {
        let expected = Event::RenewalHello {
            static_key: key.public(),
            hello: hello.to_vec(),
        };
        assert!(end.events.contains(&expected), "{:?}", end.events);
        assert_eq!(end.channel.remote_static(), Some(key.public()));
    }
}

#[test]
fn records_on_their_way_are_read_for_a_while_and_then_no_more() {
    let mut duo = ready();
    let record = |end: &mut End| {
        let mut text = Vec::new();
        Frame::Ping.put(&mut text);
        end.channel.seal_raw(&text).unwrap()
    };
    let (early, late) = (record(&mut duo.a), record(&mut duo.a));
    renew(&mut duo);
    duo.rest();
    assert_eq!(epochs(&duo), (Some(1), Some(1)));
    let before = duo.b.channel.stats();
    duo.b.channel.handle_input(duo.now, PathId::FIRST, early);
    assert_eq!(duo.b.channel.stats().packets_in, before.packets_in + 1);
    duo.pass(Time::from_secs(6));
    let before = duo.b.channel.stats();
    duo.b.channel.handle_input(duo.now, PathId::FIRST, late);
    assert_eq!(duo.b.channel.stats().packets_in, before.packets_in);
    assert_eq!(
        duo.b.channel.stats().dropped_forged,
        before.dropped_forged + 1
    );
}

#[test]
fn records_bytes_time_and_the_peer_ask_for_new_keys() {
    let by_records = Config::new().renew_records(40).unwrap();
    let mut duo = Duo::ready(by_records, Config::new());
    let id = stream(&mut duo);
    for _ in 0..60 {
        duo.pass(Time::from_millis(50));
        talk(&mut duo, id);
    }
    duo.rest();
    assert!(epochs(&duo).0 >= Some(1), "{:?}", epochs(&duo));

    // The responder's counter: it asks.
    let by_bytes = Config::new().renew_bytes(1 << 16).unwrap();
    let mut duo = Duo::ready(Config::new(), by_bytes);
    let id = stream(&mut duo);
    duo.pass(Time::from_secs(2));
    let mut data = Bytes::from(vec![7; 100_000]);
    duo.b.channel.write(duo.now, id, &mut data).unwrap();
    duo.rest();
    assert_eq!(epochs(&duo), (Some(1), Some(1)));

    let mut duo = ready();
    duo.pass(Time::from_secs(3600));
    assert_eq!(epochs(&duo), (Some(1), Some(1)));

    duo.b.channel.request_renewal(duo.now);
    duo.rest();
    assert_eq!(epochs(&duo), (Some(2), Some(2)));
}

#[test]
fn a_peer_that_never_renews_is_given_up() {
    let mut duo = ready();
    duo.b.admits = false;
    duo.pass(Time::from_secs(2 * 3600 + 1000));
    let closed = duo.a.closed().or(duo.b.closed()).unwrap();
    assert_eq!(closed.1.code, Code::KEY_EXHAUSTED);
}

#[test]
fn only_the_initiator_begins_and_only_when_asked_is_there_an_answer() {
    let mut duo = ready();
    let secret = duo.b.secret.clone();
    let refused = duo.b.channel.renew(duo.now, &secret);
    assert_eq!(refused, Err(RenewError::WrongSide));
    let refused = duo.b.channel.answer_renewal(duo.now, &secret, b"");
    assert_eq!(refused, Err(RenewError::NotAsked));
    let mut fresh = Duo::new(Config::new(), Config::new());
    let refused = fresh.a.channel.renew(fresh.now, &secret);
    assert_eq!(refused, Err(RenewError::NotReady));
}

#[test]
fn another_wish_during_a_renewal_is_not_forgotten() {
    let mut duo = ready();
    renew(&mut duo);
    renew(&mut duo);
    duo.b.channel.request_renewal(duo.now);
    duo.pass(Time::from_secs(3));
    assert_eq!(epochs(&duo), (Some(2), Some(2)));
}

#[test]
fn renewals_come_no_faster_than_one_a_second() {
    let mut duo = ready();
    let start = duo.now;
    while duo.now < start + Time::from_secs(10) {
        renew(&mut duo);
        duo.pass(Time::from_millis(20));
    }
    let (a, b) = epochs(&duo);
    assert!(a.unwrap() <= 11 && a.unwrap() >= 5, "{a:?} {b:?}");
}

/// What `b` closes with after a cheat's frames.
fn caught(frames: &[Frame<'_>]) -> Option<Code> {
    let mut duo = ready();
    duo.cheat(frames);
    duo.b.closed().map(|(_, reason)| reason.code)
}

#[test]
fn parts_out_of_place_are_violations() {
    let part = |epoch, part, message| Frame::Renew {
        epoch,
        part,
        message,
    };
    let violation = Some(Code::PROTOCOL_VIOLATION);
    for frame in [
        part(1, RenewPart::Second, b"from the wrong side"),
        part(1, RenewPart::Third, b"that nobody began"),
        part(2, RenewPart::First, b"leaves out an epoch"),
        part(1, RenewPart::First, b"damaged"),
        Frame::RenewRequest,
    ] {
        assert_eq!(
            caught(core::slice::from_ref(&frame)),
            violation,
            "{frame:?}"
        );
    }
    let repeated = part(0, RenewPart::First, b"long done");
    assert_eq!(caught(&[repeated]), None);
}

#[test]
fn a_damaged_part_three_ends_the_channel() {
    let mut duo = ready();
    renew(&mut duo);
    duo.a.drain(duo.now);
    for packet in duo.a.out.drain(..) {
        duo.b.channel.handle_input(duo.now, PathId::FIRST, packet);
    }
    duo.b.drain(duo.now);
    let mut text = Vec::new();
    let message = vec![9; 100];
    Frame::Renew {
        epoch: 1,
        part: RenewPart::Third,
        message: &message,
    }
    .put(&mut text);
    let record: BytesMut = duo.a.channel.seal_raw(&text).unwrap();
    duo.b.channel.handle_input(duo.now, PathId::FIRST, record);
    duo.b.drain(duo.now);
    let reason = duo.b.closed().unwrap().1;
    assert_eq!(reason.code, Code::PROTOCOL_VIOLATION);
}
