//! Hostile bytes where a hello or an OPEN header belongs.

use bytes::BytesMut;
use fairway_channel::{Batch, Channel, Config, Event, Output, PathId};
use fairway_identity::Address;
use proptest::collection::vec;
use proptest::prelude::*;

use super::world::{open_rules, secret};
use super::*;
use crate::hello::Hello;
use crate::{Rules, Session};

/// A bare channel against a session: whatever it says as its hello.
fn answer_to(hello: &[u8]) -> Session {
    answer_for(2, hello)
}

fn answer_for(purpose: u8, hello: &[u8]) -> Session {
    let world = World::new();
    let names = [Address::Authority].into();
    let mut session = Session::answer(
        Config::new(),
        world.authority(),
        open_rules(),
        names,
        [4; 32],
        now(0),
    )
    .unwrap();
    let mono = now(0).mono;
    let mut bare = Channel::initiator(
        Config::new(),
        &secret(66),
        [5; 32],
        purpose,
        "authority.fairway.internal",
        mono,
    )
    .unwrap();
    for _ in 0..20 {
        let (mut batch, mut packets) = (Batch::new(0), Vec::new());
        loop {
            match bare.poll_output(mono, &mut batch) {
                Output::Transmit { .. } => {
                    packets.extend(batch.packets_mut().map(|packet| BytesMut::from(&*packet)));
                    batch.clear();
                }
                Output::Event(Event::PeerHello { last: false, .. }) => {
                    bare.proceed(mono, hello.to_vec());
                }
                Output::Event(_) => {}
                Output::Timeout(_) => break,
            }
        }
        for packet in packets {
            session.handle_input(now(0), PathId::FIRST, packet);
        }
        let mut batch = Batch::new(0);
        loop {
            match session.poll_output(now(0), &mut batch) {
                crate::Output::Transmit { .. } => {
                    for packet in batch.packets_mut() {
                        bare.handle_input(mono, PathId::FIRST, BytesMut::from(&*packet));
                    }
                    batch.clear();
                }
                crate::Output::Event(_) => {}
                crate::Output::Timeout(_) => break,
            }
        }
    }
    session
}

fn anonymous() -> Hello {
    Hello {
        credential: None,
        trust_set: None,
        instance: [3; 16],
        ticket: None,
    }
}

#[test]
fn the_bare_channel_gets_in_with_a_good_hello_and_only_then() {
    let good = anonymous().to_bytes();
    assert!(answer_to(&good).is_established());
    for end in 0..good.len() {
        assert!(answer_to(&good[..end]).is_closed(), "{end}");
    }
    assert!(answer_to(&[&good[..], &[0]].concat()).is_closed());
    let bad_trust = Hello {
        trust_set: Some(vec![1, 2, 3]),
        ..anonymous()
    };
    assert!(answer_to(&bad_trust.to_bytes()).is_closed());
    let bad_credential = Hello {
        credential: Some(vec![]),
        ..anonymous()
    };
    assert!(answer_to(&bad_credential.to_bytes()).is_closed());
}

/// Whoever relays or logs handshakes by purpose may rely on it.
#[test]
fn a_purpose_that_is_not_the_names_is_refused() {
    for purpose in [0, 1, 3, 255] {
        assert!(
            answer_for(purpose, &anonymous().to_bytes()).is_closed(),
            "{purpose}"
        );
    }
}

#[test]
fn the_layout_of_a_hello_stays_as_it_is() {
    let bytes = Hello {
        credential: Some(vec![1]),
        ..anonymous()
    }
    .to_bytes();
    let expected = [&[0xa2, 0, 0x41, 1, 2, 0x50][..], &[3; 16]].concat();
    assert_eq!(bytes, expected);
}

#[test]
fn the_largest_hello_fits() {
    let hello = Hello {
        credential: Some(vec![1; fairway_identity::limits::CREDENTIAL_BYTES]),
        trust_set: Some(vec![2; fairway_identity::limits::TRUST_SET_BYTES]),
        ..anonymous()
    };
    let bytes = hello.to_bytes();
    assert!(bytes.len() <= crate::limits::HELLO_MAX);
    assert_eq!(Hello::from_bytes(&bytes).unwrap(), hello);
    let too_large = Hello {
        trust_set: Some(vec![2; 4000]),
        ..hello
    };
    assert_eq!(
        Hello::from_bytes(&too_large.to_bytes()).unwrap().trust_set,
        None
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_hello_of_random_bytes_gets_in(bytes in vec(any::<u8>(), 0..200)) {
        let session = answer_to(&bytes);
        prop_assert!(!session.is_established());
        prop_assert!(session.is_closed());
    }

    /// Nobody gets in as somebody with a credential of random bytes.
    #[test]
    fn no_random_credential_gets_in(
        credential in vec(any::<u8>(), 0..300),
        trust_set in proptest::option::of(vec(any::<u8>(), 0..300)),
    ) {
        let hello = Hello { credential: Some(credential), trust_set, instance: [0; 16], ticket: None };
        prop_assert!(answer_to(&hello.to_bytes()).is_closed());
    }
}

proptest! {
    #[test]
    fn decoders_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Hello::from_bytes(&bytes);
        let _ = crate::OpenRequest::from_bytes(&bytes);
    }

    #[test]
    fn hellos_round_trip(
        credential in proptest::option::of(vec(any::<u8>(), 0..100)),
        trust_set in proptest::option::of(vec(any::<u8>(), 0..100)),
        instance: [u8; 16],
    ) {
        let hello = Hello { credential, trust_set, instance, ticket: None };
        prop_assert_eq!(Hello::from_bytes(&hello.to_bytes()).expect("readable"), hello);
    }

    #[test]
    fn open_headers_round_trip(port in 1..=u16::MAX, trace in "[ -~]{0,150}|ø") {
        let open = crate::OpenRequest::port(port).with_traceparent(Some(trace));
        let bytes = open.to_bytes();
        prop_assert!(bytes.len() <= crate::limits::OPEN_MAX);
        prop_assert_eq!(&crate::OpenRequest::from_bytes(&bytes).expect("readable"), &open);
        for end in 0..bytes.len() {
            prop_assert!(crate::OpenRequest::from_bytes(&bytes[..end]).is_err());
        }
    }

    /// Packets that were changed on the way never lead to a session with
    /// somebody else, or to a panic.
    #[test]
    fn a_changed_handshake_never_establishes(at in 0usize..3000, bit in 0u8..8) {
        let world = World::new();
        let mut pair = Pair::pump_to_broker(&world, Rules::default());
        // Message 1 is the only packet under way: change it.
        let packet = first_packet(&mut pair, at, bit);
        pair.answerer.session.handle_input(now(0), PathId::FIRST, packet);
        pair.drive();
        prop_assert!(!pair.dialler.session.is_established());
        prop_assert!(!pair.answerer.session.is_established());
    }
}

fn first_packet(pair: &mut Pair, at: usize, bit: u8) -> BytesMut {
    let mut batch = Batch::new(0);
    while !matches!(
        pair.dialler.session.poll_output(now(0), &mut batch),
        crate::Output::Timeout(_)
    ) {}
    let first = batch
        .packets_mut()
        .next()
        .map(|packet| BytesMut::from(&*packet));
    let mut packet = first.expect("message 1");
    let at = at % packet.len();
    packet[at] ^= 1 << bit;
    packet
}
