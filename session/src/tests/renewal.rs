//! Renewals: who the ends are now, and what that changes.

use std::collections::BTreeMap;

use fairway_identity::{Form, Uid, issue};

use super::world::{LIFETIME, START, broker_rules, secret};
use super::*;
use crate::{Event, Local, OpenRequest, PeerInfo};

/// The pump with a newer key and credential.
fn newer_pump(
    world: &World,
    change: impl FnOnce(&mut fairway_identity::CredentialClaims),
) -> Local {
    let key = secret(77);
    let mut claims = world.claims(world.device("pump-7"), &key);
    claims.uid = Uid::new("uid-of-pump-7").unwrap();
    claims.attributes = BTreeMap::from([("model".to_owned(), "pump".to_owned())]);
    claims.expires = START.plus(2 * LIFETIME);
    change(&mut claims);
    world.local(key, &claims)
}

fn newer_broker(world: &World) -> Local {
    world.broker_with(|claims| claims.expires = START.plus(2 * LIFETIME))
}

fn renewed(end: &mut End) -> Option<PeerInfo> {
    match end.take(|event| matches!(event, Event::Renewed(_))) {
        Some(Event::Renewed(peer)) => Some(peer),
        _ => None,
    }
}

#[test]
fn a_session_outlives_the_credentials_that_it_began_with() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![allow(11883)]);
    let (stream, grant) = pair.connect(&OpenRequest::port(1883));
    let before = pair.answerer.session.peer().cloned().unwrap();
    pair.advance_to(LIFETIME / 2);

    let now = pair.dialler_now();
    pair.dialler
        .session
        .set_local(now, newer_pump(&world, |_| {}));
    let now = pair.answerer_now();
    pair.answerer.session.set_local(now, newer_broker(&world));
    pair.advance_to(LIFETIME / 2 + 10);

    let after = renewed(&mut pair.answerer).expect("the dialler has renewed");
    assert_eq!(after.key(), &secret(77).public());
    assert_ne!(after.key(), before.key());
    assert_eq!(after.handshake_hash(), before.handshake_hash());
    assert_eq!(after.id(), before.id());
    assert!(renewed(&mut pair.dialler).is_some());

    pair.advance_to(LIFETIME + 100);
    assert_eq!(pair.send(stream, "still here"), "still here");
    assert!(grant.ended().is_none());
    pair.advance_to(2 * LIFETIME + 1);
    assert!(pair.answerer.session.is_closed(), "nothing newer was shown");
}

#[test]
fn the_answering_side_asks_for_a_renewal_when_it_has_a_newer_credential() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![]);
    pair.advance_to(10);
    let now = pair.answerer_now();
    pair.answerer.session.set_local(now, newer_broker(&world));
    pair.advance_to(20);
    let peer = renewed(&mut pair.dialler).expect("asked and answered");
    let expires = peer.verified().unwrap().expires();
    assert_eq!(expires, START.plus(2 * LIFETIME));
}

#[test]
fn a_renewal_cannot_change_who_the_peer_is() {
    let world = World::new();
    for (what, other) in [
        (
            "another UID",
            newer_pump(&world, |claims| claims.uid = Uid::new("another").unwrap()),
        ),
        (
            "another subject",
            newer_pump(&world, |claims| claims.id = world.device("pump-8")),
        ),
    ] {
        let mut pair = Pair::established(&world, vec![]);
        pair.advance_to(10);
        let now = pair.dialler_now();
        pair.dialler.session.set_local(now, other);
        pair.advance_to(20);
        let refusal = pair.answerer.closed().expect(what).1;
        assert_eq!(refusal.word(), "name-mismatch", "{what}");
        assert!(pair.dialler.session.is_closed());
    }
}

#[test]
fn a_renewal_with_a_refused_credential_ends_the_session() {
    let world = World::new();
    let expired = newer_pump(&world, |claims| claims.expires = START.plus(5));
    let foreign = newer_pump(&World::of("fairway.local", 9), |_| {});
    // Its credential was issued for another key than the one it proves.
    let key = secret(78);
    let mut claims = world.claims(world.device("pump-7"), &secret(79));
    claims.uid = Uid::new("uid-of-pump-7").unwrap();
    let stolen = Local::anonymous(key, world.pin(), [1; 16])
        .with_credential(
            issue(&claims, Form::Lean, &world.issuer).unwrap(),
            issue(&claims, Form::Full, &world.issuer).unwrap(),
        )
        .with_trust(world.trust(1));
    for (what, local, word) in [
        ("expired", expired, "credential-expired"),
        ("another installation's", foreign, "credential-refused"),
        ("another's", stolen, "credential-refused"),
    ] {
        let mut pair = Pair::established(&world, vec![]);
        pair.advance_to(10);
        let now = pair.dialler_now();
        pair.dialler.session.set_local(now, local);
        pair.advance_to(20);
        let refusal = pair.answerer.closed().expect(what).1;
        assert_eq!(refusal.word(), word, "{what}");
    }
}

#[test]
fn streams_are_judged_by_the_newer_attributes() {
    let world = World::new();
    let mut pair = Pair::pump_to_broker(&world, broker_rules(vec![allow(11883)]));
    pair.drive();
    let (stream, grant) = pair.connect(&OpenRequest::port(1883));
    pair.advance_to(10);
    let now = pair.dialler_now();
    let same = newer_pump(&world, |_| {});
    pair.dialler.session.set_local(now, same);
    pair.advance_to(20);
    assert!(grant.ended().is_none());

    let now = pair.dialler_now();
    let other = newer_pump(&world, |claims| claims.attributes.clear());
    pair.dialler.session.set_local(now, other);
    pair.advance_to(30);
    let refusal = grant.ended().expect("no longer a pump");
    assert_eq!(refusal.word(), "policy-denied");
    assert_eq!(pair.dialler.reset_by_peer(stream), "policy-denied");
    assert!(pair.answerer.session.is_established());
}

#[test]
fn a_newer_trust_set_makes_the_session_renew_itself_and_spreads() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![]);
    pair.advance_to(10);
    let now = pair.answerer_now();
    pair.answerer.session.set_trust(now, world.trust(2));
    pair.advance_to(80);
    assert!(renewed(&mut pair.answerer).is_some());
    let version = |end: &End| end.session.trust().map(|trust| trust.version());
    assert_eq!(version(&pair.dialler), Some(2), "shown in the renewal");
    assert!(
        pair.dialler
            .take(|event| matches!(event, Event::TrustSetLearned(_)))
            .is_some()
    );
}

#[test]
fn sessions_renew_themselves_within_the_hour() {
    let world = World::new();
    let long = |claims: &mut fairway_identity::CredentialClaims| {
        claims.expires = START.plus(4 * LIFETIME);
    };
    let name = address("broker.factory.svc");
    let mut pair = Pair::new(
        (world.pump_with(long), crate::Rules::default()),
        (world.broker_with(long), broker_rules(vec![])),
        std::slice::from_ref(&name),
        name.clone(),
    );
    pair.drive();
    for hour in 1..=3 {
        pair.advance_to(hour * 3600);
        assert!(renewed(&mut pair.dialler).is_some(), "hour {hour}");
        assert!(renewed(&mut pair.answerer).is_some(), "hour {hour}");
    }
}

#[test]
fn a_credential_that_comes_during_the_handshake_is_shown_after_it() {
    let world = World::new();
    let mut pair = Pair::pump_to_broker(&world, broker_rules(vec![]));
    let now = pair.dialler_now();
    pair.dialler
        .session
        .set_local(now, newer_pump(&world, |_| {}));
    pair.drive();
    let first = pair.answerer.session.peer().unwrap();
    assert_ne!(first.key(), &secret(77).public());
    pair.advance_to(5);
    let peer = renewed(&mut pair.answerer).expect("the newer one");
    assert_eq!(peer.key(), &secret(77).public());
}

#[test]
fn one_that_was_anonymous_stays_so_in_its_session() {
    let world = World::new();
    let mut pair = Pair::newcomer_to_authority(&world);
    pair.drive();
    pair.advance_to(10);
    let now = pair.dialler_now();
    pair.dialler.session.set_local(now, world.pump());
    pair.dialler.session.renew(now);
    pair.advance_to(20);
    let peer = renewed(&mut pair.answerer).expect("renewed, as nobody");
    assert!(peer.verified().is_none());
    assert!(pair.dialler.session.is_established());
}

/// The key of a renewal is fixed when it begins.
#[test]
fn a_credential_that_comes_during_a_renewal_is_shown_in_the_next() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![]);
    pair.advance_to(10);
    let now = pair.dialler_now();
    pair.dialler.session.renew(now);
    let newer = newer_pump(&world, |_| {});
    pair.dialler.session.set_local(now, newer);
    pair.advance_to(20);
    let keys: Vec<[u8; 32]> = std::iter::from_fn(|| renewed(&mut pair.answerer))
        .map(|peer| *peer.key())
        .collect();
    assert_eq!(keys, [secret(7).public(), secret(77).public()]);
}
