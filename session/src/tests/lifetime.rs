//! Credentials end, trust sets change, clocks become known.

use fairway_identity::{Address, Issuer, Signer};

use super::world::{LIFETIME, START, broker_rules, open_rules, secret};
use super::*;
use crate::{ClosedBy, Event, OpenRequest, Rules};

#[test]
fn the_end_of_the_peers_credential_ends_the_session_by_timeout() {
    let world = World::new();
    let name = address("broker.factory.svc");
    let short = world.pump_with(|claims| claims.expires = START.plus(600));
    let mut pair = Pair::new(
        (short, Rules::default()),
        (world.broker(), broker_rules(vec![allow(11883)])),
        std::slice::from_ref(&name),
        name.clone(),
    );
    pair.drive();
    let (stream, grant) = pair.connect(&OpenRequest::port(1883));
    pair.advance_to(599);
    assert!(
        pair.answerer.session.is_established(),
        "{:?}",
        pair.answerer.events
    );
    assert_eq!(pair.send(stream, "still good"), "still good");
    // The wall clock counts whole seconds, so it may be one later.
    pair.advance_to(601);
    assert!(grant.ended().is_some());
    let (by, refusal) = pair.answerer.closed().expect("closed by its own timeout");
    assert_eq!(
        (by, refusal.word()),
        (ClosedBy::Owner, "credential-expired")
    );
    let (by, refusal) = pair.dialler.closed().expect("the peer is told");
    assert_eq!((by, refusal.word()), (ClosedBy::Peer, "credential-expired"));
}

#[test]
fn the_dialler_watches_the_callees_credential_too() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![]);
    pair.advance_to(LIFETIME - 1);
    assert!(pair.dialler.session.is_established());
    pair.advance_to(LIFETIME);
    assert_eq!(
        pair.dialler.closed().unwrap().1.word(),
        "credential-expired"
    );
}

/// A clock that was set forward: the next call of any kind notices.
#[test]
fn a_jump_of_the_clock_counts_without_a_timeout() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let jumped = crate::Now {
        mono: pair.at,
        ..now(LIFETIME)
    };
    let mut batch = crate::Batch::new(0);
    while !matches!(
        pair.answerer.session.poll_output(jumped, &mut batch),
        crate::Output::Event(Event::Closed { .. })
    ) {
        assert!(!pair.answerer.session.is_established());
    }
}

#[test]
fn a_trust_set_without_the_peers_issuer_ends_the_session() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![allow(11883)]);
    let (_, grant) = pair.connect(&OpenRequest::port(1883));
    let mut set = world.trust_set(2);
    set.issuers = vec![Issuer {
        key: world.root.verifying_key(),
        ..set.issuers[0].clone()
    }];
    pair.answerer.session.set_trust(now(0), world.signed(&set));
    assert!(grant.ended().is_some());
    pair.drive();
    assert_eq!(
        pair.dialler.closed().unwrap().1.word(),
        "credential-refused"
    );
}

#[test]
fn a_raised_revocation_floor_ends_the_session() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![]);
    let mut set = world.trust_set(2);
    set.revocation_floor = START;
    pair.answerer.session.set_trust(now(0), world.signed(&set));
    pair.drive();
    assert_eq!(pair.dialler.closed().unwrap().1.word(), "revoked");
}

#[test]
fn an_issuer_that_ends_earlier_ends_the_session_earlier() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![]);
    let mut set = world.trust_set(2);
    set.issuers[0].expires = START.plus(100);
    pair.answerer.session.set_trust(now(0), world.signed(&set));
    pair.advance_to(99);
    assert!(pair.answerer.session.is_established());
    pair.advance_to(100);
    assert_eq!(
        pair.answerer.closed().unwrap().1.word(),
        "credential-expired"
    );
}

#[test]
fn a_trust_set_that_changes_nothing_for_the_peer_ends_nothing() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![allow(11883)]);
    let (stream, _grant) = pair.connect(&OpenRequest::port(1883));
    pair.answerer.session.set_trust(now(0), world.trust(2));
    assert_eq!(pair.answerer.session.trust().unwrap().version(), 2);
    assert_eq!(pair.send(stream, "on and on"), "on and on");
    // And there is no way back.
    let mut old = world.trust_set(1);
    old.issuers.clear();
    pair.answerer.session.set_trust(now(0), world.trust(1));
    assert_eq!(pair.answerer.session.trust().unwrap().version(), 2);
}

/// What was believed by the floor alone is judged again once the time is
/// known.
#[test]
fn a_relay_believed_by_the_floor_is_judged_by_the_clock() {
    let world = World::new();
    let relay = |change: fn(&mut fairway_identity::CredentialClaims)| {
        let secret = secret(10);
        let mut claims = world.claims(world.trust_set(1).relay, &secret);
        change(&mut claims);
        world.local(secret, &claims)
    };
    let pair = |local| {
        let mut pair = Pair::at(
            (world.pump(), Rules::default()),
            (local, open_rules()),
            &[Address::Relay],
            Address::Relay,
            false,
        );
        pair.drive();
        assert!(
            pair.dialler.session.is_established(),
            "{:?}",
            pair.dialler.events
        );
        pair.dialler.knows_time = true;
        pair.drive();
        pair
    };
    let good = pair(relay(|_| {}));
    assert!(good.dialler.session.is_established());
    // By the floor, "not valid yet" cannot be told.
    let early = pair(relay(|claims| {
        claims.not_before = START.plus(600);
        claims.issued_at = START.plus(600);
    }));
    assert_eq!(
        early.dialler.closed().unwrap().1.word(),
        "credential-refused"
    );
}

#[test]
fn a_session_believed_by_the_floor_ends_at_the_latest_with_the_floors_count() {
    let world = World::new();
    let mut pair = Pair::newcomer_to_authority(&world);
    pair.drive();
    // The wall clock counts whole seconds.
    pair.advance_to(LIFETIME + 1);
    assert_eq!(
        pair.dialler.closed().unwrap().1.word(),
        "credential-expired"
    );
}
