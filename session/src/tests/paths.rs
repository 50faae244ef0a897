//! A session on another path, and without one.

use fairway_channel::PathId;

use super::*;
use crate::{ClosedBy, Event, OpenRequest};

#[test]
fn a_session_outlives_its_link() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![allow(11883)]);
    let (stream, grant) = pair.connect(&OpenRequest::port(1883));
    let id = pair.dialler.session.connection_id().unwrap();
    assert_eq!(pair.answerer.session.connection_id(), Some(id));

    pair.lose_path();
    pair.advance_to(100);
    let now = pair.dialler_now();
    let path = PathId(5);
    pair.dialler.session.attach(now, path).unwrap();
    pair.drive();
    for end in [&mut pair.dialler, &mut pair.answerer] {
        let moved = |event: &Event| matches!(event, Event::PathActive { path: p } if *p == path);
        assert!(end.take(moved).is_some());
    }
    assert_eq!(pair.send(stream, "on the other path"), "on the other path");
    assert!(grant.ended().is_none());
}

#[test]
fn one_that_nobody_fetches_ends_as_lost() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![allow(11883)]);
    let (_, grant) = pair.connect(&OpenRequest::port(1883));
    pair.lose_path();
    pair.advance_to(119);
    assert!(grant.ended().is_none());
    pair.advance_to(121);
    assert_eq!(grant.ended().unwrap().word(), "link-lost");
    for end in [&pair.dialler, &pair.answerer] {
        let (by, refusal) = end.closed().unwrap();
        assert_eq!((by, refusal.word()), (ClosedBy::Protocol, "link-lost"));
    }
}

#[test]
fn revocation_ends_one_that_waits_too() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![allow(11883)]);
    pair.lose_path();
    pair.advance_to(30);
    let now = pair.answerer_now();
    let rules = crate::Rules {
        revoked: super::world::revoking("uid-of-pump-7"),
        ..super::world::broker_rules(vec![])
    };
    pair.answerer.session.set_rules(now, rules);
    pair.drive();
    assert_eq!(pair.answerer.closed().unwrap().1.word(), "revoked");
}

/// The channel could name itself as soon as message 3 is there.
#[test]
fn nobody_has_a_connection_id_before_the_peer_is_admitted() {
    let world = World::new();
    let mut pair = Pair::pump_to_broker(&world, super::world::broker_rules(vec![]));
    for _ in 0..2 {
        let packets = pair.dialler.drain(pair.at);
        assert!(!packets.is_empty());
        for (path, packet) in packets {
            let now = pair.answerer_now();
            pair.answerer.session.handle_input(now, path, packet);
        }
        assert_eq!(pair.answerer.session.connection_id(), None);
        for (path, packet) in pair.answerer.drain(pair.at) {
            let now = pair.dialler_now();
            pair.dialler.session.handle_input(now, path, packet);
        }
    }
    assert!(pair.answerer.session.connection_id().is_some());
}
