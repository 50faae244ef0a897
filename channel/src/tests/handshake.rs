//! Handshakes: the good one, and every way to spoil it.

use bytes::BytesMut;
use proptest::prelude::*;

use super::{Duo, End};
use crate::{
    Channel, ClosedBy, Code, Config, CreateError, Event, OpenError, PathId, Reason, StaticSecret,
    Time,
    crypto::{self, KemKey},
    handshake::{Initiator, Responder},
    limits,
};

fn fresh() -> Duo {
    Duo::new(Config::new(), Config::new())
}

/// Runs until packet `number` (1, 2, 3) is about to be delivered, and takes it.
fn up_to(number: u8) -> (Duo, BytesMut) {
    let mut duo = fresh();
    loop {
        duo.a.drain(duo.now);
        duo.b.drain(duo.now);
        for side in [true, false] {
            let (from, to) = match side {
                true => (&mut duo.a, &mut duo.b),
                false => (&mut duo.b, &mut duo.a),
            };
            while let Some(packet) = from.out.pop_front() {
                if packet[0] == number {
                    return (duo, packet);
                }
                to.channel.handle_input(duo.now, PathId::FIRST, packet);
            }
        }
    }
}

fn receiver(duo: &mut Duo, number: u8) -> &mut End {
    match number {
        2 => &mut duo.a,
        _ => &mut duo.b,
    }
}

#[test]
fn both_ends_learn_who_the_other_is_before_anything_else() {
    let mut duo = fresh();
    duo.run();
    let secret = |byte| StaticSecret::from_bytes([byte; 32]).public();
    let hello = |byte, text: &[u8], last| Event::PeerHello {
        static_key: secret(byte),
        hello: text.to_vec(),
        last,
    };
    let expected = [
        hello(2, b"lean b", false),
        hello(2, b"full b", true),
        Event::Ready,
    ];
    assert_eq!(duo.a.events, expected);
    assert_eq!(duo.b.events, [hello(1, b"full a", true), Event::Ready]);
    assert_eq!(duo.a.channel.remote_static(), Some(secret(2)));
    assert_eq!(duo.b.channel.remote_static(), Some(secret(1)));
    assert!(duo.a.channel.handshake_hash().is_some());
    assert_eq!(
        duo.a.channel.handshake_hash(),
        duo.b.channel.handshake_hash()
    );
    assert_eq!(duo.b.channel.dialled(), Some("b.example"));
    assert_eq!(duo.b.channel.purpose(), Some(9));
}

#[test]
fn two_handshakes_of_one_seed_share_nothing() {
    let hash = || {
        let mut duo = fresh();
        duo.run();
        duo.a.channel.handshake_hash()
    };
    assert_ne!(hash(), hash(), "the KEM draws from the library's DRBG");
}

#[test]
fn a_bit_changed_anywhere_ends_the_handshake() {
    for number in 1..=3 {
        let length = up_to(number).1.len();
        // Every byte of what is short and clear, a sample of the rest.
        let places = (0..length).filter(|at| *at < 48 || at % 61 == 0 || *at + 20 > length);
        for at in places {
            let (mut duo, mut packet) = up_to(number);
            packet[at] ^= 0x10;
            let now = duo.now;
            receiver(&mut duo, number)
                .channel
                .handle_input(now, PathId::FIRST, packet);
            duo.run();
            let ready = duo.a.channel.is_ready() || duo.b.channel.is_ready();
            assert!(!ready, "message {number}, byte {at}");
            if at > 0 {
                let closed = duo.a.closed().or(duo.b.closed());
                let (by, reason) = closed.expect("somebody noticed");
                assert_eq!(
                    (by, reason.code),
                    (ClosedBy::Protocol, Code::HANDSHAKE_FAILED)
                );
            }
        }
    }
}

#[test]
fn a_handshake_message_cut_anywhere_ends_the_handshake() {
    for number in 1..=3 {
        let length = up_to(number).1.len();
        for cut in (0..length).filter(|cut| *cut < 40 || cut % 97 == 0 || cut + 3 > length) {
            let (mut duo, mut packet) = up_to(number);
            packet.truncate(cut);
            let now = duo.now;
            receiver(&mut duo, number)
                .channel
                .handle_input(now, PathId::FIRST, packet);
            duo.run();
            let ready = duo.a.channel.is_ready() || duo.b.channel.is_ready();
            assert!(!ready, "message {number} cut at {cut}");
        }
        let (mut duo, mut packet) = up_to(number);
        packet.extend_from_slice(&[0; 5000]);
        let now = duo.now;
        receiver(&mut duo, number)
            .channel
            .handle_input(now, PathId::FIRST, packet);
        duo.run();
        assert!(!duo.a.channel.is_ready() && !duo.b.channel.is_ready());
    }
}

#[test]
fn a_forged_third_message_ends_only_its_own_handshake() {
    let (mut duo, mut packet) = up_to(3);
    packet[20] ^= 1;
    duo.b.channel.handle_input(duo.now, PathId::FIRST, packet);
    duo.b.drain(duo.now);
    let (by, reason) = duo.b.closed().unwrap();
    assert_eq!(
        (by, reason.code),
        (ClosedBy::Protocol, Code::HANDSHAKE_FAILED)
    );
    // The same keys, once more.
    Duo::ready(Config::new(), Config::new());
}

#[test]
fn a_repeated_message_is_answered_with_the_same_answer() {
    let (mut duo, second) = up_to(2);
    let first = {
        let mut other = fresh();
        other.a.drain(other.now);
        other.a.out.pop_front().unwrap()
    };
    // Another message 1 gets no answer at all.
    duo.b.channel.handle_input(duo.now, PathId::FIRST, first);
    duo.b.drain(duo.now);
    assert!(duo.b.out.is_empty());
    assert_eq!(duo.b.channel.stats().dropped_unexpected, 1);
    // The true one, sent again by the timer, gets the same.
    duo.now += Time::from_millis(600);
    duo.a.channel.handle_timeout(duo.now);
    duo.a.drain(duo.now);
    let again = duo.a.out.pop_front().unwrap();
    duo.b.channel.handle_input(duo.now, PathId::FIRST, again);
    duo.b.drain(duo.now);
    assert_eq!(duo.b.out.pop_front().unwrap(), second);
    duo.a.channel.handle_input(duo.now, PathId::FIRST, second);
    duo.run();
    assert!(duo.a.channel.is_ready() && duo.b.channel.is_ready());
}

#[test]
fn hellos_have_a_limit_at_both_ends() {
    let secret = StaticSecret::from_bytes([1; 32]);
    for (length, fits) in [(limits::MAX_HELLO, true), (limits::MAX_HELLO + 1, false)] {
        let hello = vec![7; length];
        let start = |seed| {
            let kem = KemKey::generate().unwrap();
            Initiator::start(&secret, &[seed; 32], kem, b"prologue", Vec::new()).unwrap()
        };
        let answer = |first: &[u8], hello: &[u8]| {
            let (seed, out) = ([9; 32], Vec::new());
            let kem = crypto::encapsulate;
            Responder::answer(&secret, &seed, b"prologue", first, hello, out, kem).unwrap()
        };
        let (initiator, first) = start(1);
        let (_, second) = answer(&first, &hello);
        assert_eq!(initiator.read_second(&second).is_ok(), fits);

        let (initiator, first) = start(2);
        let (responder, second) = answer(&first, b"");
        let (checking, _) = initiator.read_second(&second).ok().unwrap();
        let (third, _) = checking.write_third(&hello, Vec::new(), None).ok().unwrap();
        assert_eq!(responder.read_third(&third, None).is_ok(), fits);

        let mut duo = Duo::new(Config::new(), Config::new());
        duo.a.admits = false;
        duo.run();
        duo.a.channel.proceed(duo.now, hello);
        assert_eq!(!duo.a.channel.is_closed(), fits);
    }
}

#[test]
fn a_name_that_does_not_fit_is_refused() {
    let dial = |name: &str| {
        let secret = StaticSecret::from_bytes([1; 32]);
        Channel::initiator(Config::new(), &secret, [1; 32], 0, name, Time::ZERO).map(drop)
    };
    assert_eq!(dial(""), Err(CreateError::DialledEmpty));
    assert_eq!(dial(&"x".repeat(255)), Ok(()));
    let long = CreateError::DialledTooLong { length: 256 };
    assert_eq!(dial(&"x".repeat(256)), Err(long));
}

#[test]
fn nothing_can_be_opened_before_both_have_been_admitted() {
    let mut duo = fresh();
    duo.b.admits = false;
    duo.run();
    for end in [&mut duo.a, &mut duo.b] {
        let opened = end.channel.open(duo.now, Vec::new());
        assert_eq!(opened, Err(OpenError::NotReady));
    }
    // A peer that does not wait: its stream is not even remembered.
    let mut text = Vec::new();
    let open = crate::frame::Frame::Open {
        stream: crate::StreamId::from_wire(0),
        header: b"let me in",
    };
    open.put(&mut text);
    for _ in 0..100 {
        let record = duo.a.channel.seal_raw(&text).unwrap();
        duo.b.channel.handle_input(duo.now, PathId::FIRST, record);
    }
    duo.b.drain(duo.now);
    assert_eq!(duo.b.channel.streams(), 0);
    assert!(
        !duo.b
            .events
            .iter()
            .any(|event| matches!(event, Event::Opened { .. }))
    );
    duo.b.channel.proceed(duo.now, b"full b".to_vec());
    duo.run();
    assert!(duo.b.channel.is_ready());
}

#[test]
fn what_comes_while_the_hello_is_looked_at_is_not_lost() {
    // One read brings the responder's HELLO and its first stream.
    let mut duo = fresh();
    duo.a.admits = false;
    duo.run();
    duo.a.channel.proceed(duo.now, b"full a".to_vec());
    duo.a.drain(duo.now);
    for packet in duo.a.out.drain(..) {
        duo.b.channel.handle_input(duo.now, PathId::FIRST, packet);
    }
    duo.b.drain(duo.now);
    duo.b.channel.open(duo.now, b"at once".to_vec()).unwrap();
    duo.b.drain(duo.now);
    assert_eq!(duo.b.out.len(), 2);
    for packet in duo.b.out.drain(..) {
        duo.a.channel.handle_input(duo.now, PathId::FIRST, packet);
    }
    duo.a.drain(duo.now);
    assert!(!duo.a.channel.is_ready());
    duo.a.channel.proceed(duo.now, Vec::new());
    duo.a.drain(duo.now);
    let opened = |event: &Event| matches!(event, Event::Opened { .. });
    assert!(duo.a.events.iter().any(opened), "{:?}", duo.a.events);
}

#[test]
fn whoever_is_refused_after_its_hello_hears_why() {
    let mut duo = fresh();
    duo.b.admits = false;
    duo.run();
    let reason = Reason::new(Code(0x123), "you are revoked");
    duo.b.channel.close(duo.now, reason.clone());
    duo.run();
    assert_eq!(duo.a.closed(), Some((ClosedBy::Peer, &reason)));
    assert_eq!(duo.b.closed(), Some((ClosedBy::Owner, &reason)));
    duo.b.channel.proceed(duo.now, Vec::new());
    assert!(duo.b.channel.is_closed(), "a refusal is final");
}

#[test]
fn a_handshake_that_hangs_is_given_up() {
    let mut duo = fresh();
    duo.b.admits = false;
    duo.pass(Time::from_secs(11));
    for end in [&duo.a, &duo.b] {
        assert_eq!(end.closed().unwrap().1.code, Code::HANDSHAKE_TIMEOUT);
        assert_eq!(end.timeout, None);
    }
}

/// The other end may be ready, and would wait for the idle timeout.
#[test]
fn whoever_gives_up_with_keys_says_so() {
    let mut duo = fresh();
    duo.b.admits = false;
    duo.run();
    let later = duo.now + Time::from_secs(11);
    duo.b.channel.handle_timeout(later);
    duo.run();
    let heard = duo.a.closed().map(|(by, reason)| (by, reason.code));
    assert_eq!(heard, Some((ClosedBy::Peer, Code::HANDSHAKE_TIMEOUT)));
}

#[test]
fn whoever_gives_up_without_keys_sends_nothing() {
    let mut duo = fresh();
    duo.a.admits = false;
    duo.run();
    let later = duo.now + Time::from_secs(11);
    duo.a.channel.handle_timeout(later);
    duo.a.drain(later);
    assert_eq!(duo.a.closed().unwrap().1.code, Code::HANDSHAKE_TIMEOUT);
    assert_eq!(duo.a.out.len(), 0);
}

#[test]
fn an_initiator_without_an_answer_asks_again_and_then_gives_up() {
    let mut duo = fresh();
    let mut sent = 0;
    while !duo.a.channel.is_closed() {
        duo.a.drain(duo.now);
        sent += duo.a.out.drain(..).count();
        duo.now = duo.a.timeout.unwrap_or(duo.now);
        duo.a.channel.handle_timeout(duo.now);
    }
    assert_eq!(sent, 5, "at 0, 0.5, 1.5, 3.5 and 7.5 s");
}

#[test]
fn another_version_is_named_in_the_refusal() {
    let (mut duo, mut packet) = up_to(1);
    packet[1] = 2;
    duo.b.channel.handle_input(duo.now, PathId::FIRST, packet);
    duo.b.drain(duo.now);
    assert!(duo.b.closed().unwrap().1.text.contains("version 2"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_in_any_phase_makes_nobody_ready(
        number in 1u8..=3,
        packets in prop::collection::vec((0u8..6, prop::collection::vec(any::<u8>(), 0..1500)), 1..6),
    ) {
        let (mut duo, _) = up_to(number);
        for (kind, mut bytes) in packets {
            bytes.insert(0, kind);
            duo.a.channel.handle_input(duo.now, PathId::FIRST, BytesMut::from(&bytes[..]));
            duo.b.channel.handle_input(duo.now, PathId::FIRST, BytesMut::from(&bytes[..]));
        }
        duo.a.drain(duo.now);
        duo.b.drain(duo.now);
        prop_assert!(!duo.a.channel.is_ready() && !duo.b.channel.is_ready());
    }
}
