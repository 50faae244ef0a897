//! Every way in which a peer is refused before there is a session.

use fairway_channel::StaticSecret;
use fairway_identity::{Address, Form, Issuer, Signer, UnixSeconds, issue};

use super::world::{LIFETIME, START, broker_rules, label, open_rules, revoking, secret};
use super::*;
use crate::limits::CLOCK_WAIT;
use crate::{Admit, Local, Rules};

const BY_DIALLER: bool = true;
const BY_ANSWERER: bool = false;

fn pair(dialler: Local, answerer: Local, dialled: &str) -> Pair {
    with_rules(
        (dialler, Rules::default()),
        (answerer, broker_rules(vec![allow(11883)])),
        dialled,
    )
}

fn with_rules(dialler: (Local, Rules), answerer: (Local, Rules), dialled: &str) -> Pair {
    let name = address(dialled);
    Pair::new(dialler, answerer, std::slice::from_ref(&name), name.clone())
}

// === the wrong peer ===

#[test]
fn a_workload_that_does_not_back_the_service_is_refused() {
    let world = World::new();
    let other = world.broker_with(|claims| claims.services = vec![label("other")]);
    pair(world.pump(), other, "broker.factory.svc").assert_refused(BY_DIALLER, "name-mismatch");
    let elsewhere = world.broker_with(|claims| claims.id = world.workload("office", "mosquitto"));
    pair(world.pump(), elsewhere, "broker.factory.svc").assert_refused(BY_DIALLER, "name-mismatch");
}

#[test]
fn a_device_that_answers_for_another_is_refused_on_its_lean_credential() {
    let world = World::new();
    let other = world.pump_with(|claims| claims.id = world.device("pump-8"));
    let mut pair = pair(world.broker(), other, "pump-7.factory.device");
    pair.assert_refused(BY_DIALLER, "name-mismatch");
    // The dialler has not said who it is: there was no message 3.
    let answerer = format!("{:?}", pair.answerer.session);
    assert!(answerer.contains(r#"phase: "unknown""#), "{answerer}");
}

#[test]
fn only_the_authority_is_the_authority_and_only_relays_are_relays() {
    let world = World::new();
    pair(world.pump(), world.relay(), "authority").assert_refused(BY_DIALLER, "name-mismatch");
    pair(world.pump(), world.authority(), "relay").assert_refused(BY_DIALLER, "name-mismatch");
    pair(world.pump(), world.broker(), "relay").assert_refused(BY_DIALLER, "name-mismatch");
    let claimed = world.workload("factory", "fairway-authority");
    let elsewhere = world.broker_with(|claims| claims.id = claimed);
    pair(world.pump(), elsewhere, "authority").assert_refused(BY_DIALLER, "name-mismatch");
}

#[test]
fn a_name_that_the_answerer_does_not_have_is_refused() {
    let world = World::new();
    let mut pair = Pair::new(
        (world.pump(), Rules::default()),
        (world.broker(), broker_rules(vec![])),
        &[address("other.factory.svc")],
        address("broker.factory.svc"),
    );
    pair.assert_refused(BY_ANSWERER, "name-mismatch");
    let (_, refusal) = pair.dialler.closed().expect("the dialler is told");
    assert_eq!(refusal.word(), "name-mismatch");
}

// === the wrong credential ===

/// A credential is worth nothing to who does not have its key.
#[test]
fn a_stolen_credential_is_refused() {
    let world = World::new();
    let stolen = |owner: u8,
                  thief: StaticSecret,
                  change: fn(&World, u8) -> fairway_identity::CredentialClaims| {
        let claims = change(&world, owner);
        world.local(thief, &claims)
    };
    let pump = |world: &World, owner| world.claims(world.device("pump-7"), &secret(owner));
    let thief = stolen(7, secret(66), pump);
    pair(thief, world.broker(), "broker.factory.svc")
        .assert_refused(BY_ANSWERER, "credential-refused");
    let broker = |world: &World, owner| {
        let mut claims = world.claims(world.workload("factory", "mosquitto"), &secret(owner));
        claims.services = vec![label("broker")];
        claims
    };
    let thief = stolen(8, secret(66), broker);
    pair(world.pump(), thief, "broker.factory.svc")
        .assert_refused(BY_DIALLER, "credential-refused");
}

#[test]
fn an_expired_credential_is_refused_on_both_sides() {
    let world = World::new();
    let old_pump = world.pump_with(|claims| claims.expires = START);
    pair(old_pump, world.broker(), "broker.factory.svc")
        .assert_refused(BY_ANSWERER, "credential-expired");
    let old_broker = world.broker_with(|claims| claims.expires = START);
    pair(world.pump(), old_broker, "broker.factory.svc")
        .assert_refused(BY_DIALLER, "credential-expired");
    // Also by who only knows that it is not earlier.
    let old_authority = {
        let secret = secret(9);
        let mut claims = world.claims(world.trust_set(1).authority, &secret);
        claims.expires = START;
        world.local(secret, &claims)
    };
    let mut pair = Pair::at(
        (world.newcomer(), Rules::default()),
        (old_authority, open_rules()),
        &[Address::Authority],
        Address::Authority,
        false,
    );
    pair.assert_refused(BY_DIALLER, "credential-expired");
}

#[test]
fn a_credential_that_is_not_valid_yet_is_refused() {
    let world = World::new();
    let early = world.pump_with(|claims| {
        claims.not_before = START.plus(600);
        claims.issued_at = START.plus(600);
    });
    pair(early, world.broker(), "broker.factory.svc")
        .assert_refused(BY_ANSWERER, "credential-refused");
}

/// A lean credential says nothing of attributes; it must not pass where Deny
/// rules look at them.
#[test]
fn a_lean_credential_where_the_full_one_belongs_is_refused() {
    let world = World::new();
    let lean_only = |secret: StaticSecret, claims: &fairway_identity::CredentialClaims| {
        let lean = issue(claims, Form::Lean, &world.issuer).unwrap();
        Local::anonymous(secret, world.pin(), [1; 16])
            .with_credential(lean.clone(), lean)
            .with_trust(world.trust(1))
    };
    let pump = lean_only(secret(7), &world.claims(world.device("pump-7"), &secret(7)));
    pair(pump, world.broker(), "broker.factory.svc")
        .assert_refused(BY_ANSWERER, "credential-refused");
    let pump = lean_only(secret(7), &world.claims(world.device("pump-7"), &secret(7)));
    pair(world.broker(), pump, "pump-7.factory.device")
        .assert_refused(BY_DIALLER, "credential-refused");
}

/// The full one would tell everybody who dials about attributes.
#[test]
fn a_full_credential_where_the_lean_one_belongs_is_refused() {
    let world = World::new();
    let claims = world.claims(world.device("pump-7"), &secret(7));
    let full = issue(&claims, Form::Full, &world.issuer).unwrap();
    let pump = Local::anonymous(secret(7), world.pin(), [1; 16])
        .with_credential(full.clone(), full)
        .with_trust(world.trust(1));
    pair(world.broker(), pump, "pump-7.factory.device")
        .assert_refused(BY_DIALLER, "credential-refused");
}

/// Two credentials of two subjects over one key: the second is not who was
/// checked first.
#[test]
fn credentials_of_two_subjects_are_refused() {
    let world = World::new();
    let secret = secret(8);
    let mut broker = world.claims(world.workload("factory", "mosquitto"), &secret);
    broker.services = vec![label("broker")];
    let other = world.claims(world.workload("factory", "somebody"), &secret);
    let two_faced = Local::anonymous(secret, world.pin(), [1; 16])
        .with_credential(
            issue(&other, Form::Lean, &world.issuer).unwrap(),
            issue(&broker, Form::Full, &world.issuer).unwrap(),
        )
        .with_trust(world.trust(1));
    pair(world.pump(), two_faced, "broker.factory.svc").assert_refused(BY_DIALLER, "name-mismatch");
}

// === the wrong trust ===

#[test]
fn another_installation_is_refused() {
    let (world, other) = (World::new(), World::of("other.example", 50));
    pair(world.pump(), other.broker(), "broker.factory.svc")
        .assert_refused(BY_DIALLER, "trust-refused");
    // Also one that does not give itself away by its root.
    let pretender = Local::anonymous(secret(8), world.pin(), [1; 16]).with_trust(world.trust(1));
    let mut claims = other.claims(other.workload("factory", "mosquitto"), &secret(8));
    claims.services = vec![label("broker")];
    let pretender = pretender.with_credential(
        issue(&claims, Form::Lean, &other.issuer).unwrap(),
        issue(&claims, Form::Full, &other.issuer).unwrap(),
    );
    pair(world.pump(), pretender, "broker.factory.svc")
        .assert_refused(BY_DIALLER, "credential-refused");
}

#[test]
fn a_credential_for_another_trust_domain_is_refused() {
    let (world, other) = (World::new(), World::of("other.example", 50));
    // Signed by the right issuer, but for a name outside of its domain.
    let foreign = world.pump_with(|claims| claims.id = other.device("pump-7"));
    pair(foreign, world.broker(), "broker.factory.svc")
        .assert_refused(BY_ANSWERER, "credential-refused");
}

#[test]
fn an_issuer_that_the_trust_set_dropped_is_refused() {
    let world = World::new();
    let mut set = world.trust_set(2);
    set.issuers = vec![Issuer {
        key: world.root.verifying_key(),
        ..set.issuers[0].clone()
    }];
    let strict = world.broker().with_trust(world.signed(&set));
    // The broker's own credential is void too, as the pump learns.
    pair(world.pump(), strict, "broker.factory.svc")
        .assert_refused(BY_DIALLER, "credential-refused");
}

#[test]
fn a_credential_from_before_the_revocation_floor_is_refused() {
    let world = World::new();
    let mut set = world.trust_set(2);
    set.revocation_floor = START;
    let pump = world.pump().with_trust(world.signed(&set));
    pair(pump, world.broker(), "broker.factory.svc").assert_refused(BY_DIALLER, "revoked");
}

#[test]
fn who_knows_no_trust_set_and_is_shown_none_refuses() {
    let world = World::new();
    let silent = {
        let claims = world.claims(world.trust_set(1).authority, &secret(9));
        Local::anonymous(secret(9), world.pin(), [1; 16]).with_credential(
            issue(&claims, Form::Lean, &world.issuer).unwrap(),
            issue(&claims, Form::Full, &world.issuer).unwrap(),
        )
    };
    with_rules(
        (world.newcomer(), Rules::default()),
        (silent, open_rules()),
        "authority",
    )
    .assert_refused(BY_DIALLER, "trust-refused");
}

// === not knowing the time ===

/// Waits in vain for one side to learn the time.
fn assert_refused_in_vain(pair: &mut Pair, by_dialler: bool) {
    pair.advance_to(CLOCK_WAIT.as_secs() - 1);
    for end in [&pair.dialler, &pair.answerer] {
        assert!(!end.session.is_closed() && !end.session.is_established());
    }
    pair.advance_to(CLOCK_WAIT.as_secs());
    pair.assert_refused(by_dialler, "clock-unknown");
}

/// The floor is good for asking the authority for the time, and for links to
/// relays, not for anybody else.
#[test]
fn without_the_time_only_authority_and_relay_are_believed() {
    let world = World::new();
    let name = address("broker.factory.svc");
    let mut pair = Pair::at(
        (world.pump(), Rules::default()),
        (world.broker(), broker_rules(vec![])),
        std::slice::from_ref(&name),
        name.clone(),
        false,
    );
    assert_refused_in_vain(&mut pair, BY_DIALLER);
    // Not even when somebody who is the authority answers for a Service.
    let authority = world.authority();
    let mut pair = Pair::at(
        (world.pump(), Rules::default()),
        (authority, broker_rules(vec![])),
        std::slice::from_ref(&name),
        name.clone(),
        false,
    );
    assert_refused_in_vain(&mut pair, BY_DIALLER);
}

#[test]
fn who_is_called_must_know_the_time() {
    let world = World::new();
    let mut pair = Pair::pump_to_broker(&world, broker_rules(vec![]));
    pair.answerer.knows_time = false;
    assert_refused_in_vain(&mut pair, BY_ANSWERER);
    // Even by a relay: it has no business to call anybody.
    let mut pair = with_rules(
        (world.relay(), Rules::default()),
        (world.broker(), broker_rules(vec![])),
        "broker.factory.svc",
    );
    pair.answerer.knows_time = false;
    assert_refused_in_vain(&mut pair, BY_ANSWERER);
}

#[test]
fn a_peer_waits_for_the_time_and_is_then_admitted() {
    let world = World::new();
    let name = address("broker.factory.svc");
    for by_dialler in [BY_DIALLER, BY_ANSWERER] {
        let mut pair = Pair::at(
            (world.pump(), Rules::default()),
            (world.broker(), broker_rules(vec![])),
            std::slice::from_ref(&name),
            name.clone(),
            !by_dialler,
        );
        pair.answerer.knows_time = by_dialler;
        pair.advance_to(CLOCK_WAIT.as_secs() - 1);
        assert!(!pair.dialler.session.is_established() && !pair.answerer.session.is_established());
        pair.dialler.knows_time = true;
        pair.answerer.knows_time = true;
        pair.drive();
        assert!(pair.dialler.session.is_established() && pair.answerer.session.is_established());
    }
}

/// Waiting is for those for whom nothing but the time is lacking, and what has
/// changed meanwhile counts.
#[test]
fn who_waits_for_the_time_is_judged_by_the_rules_of_then() {
    let world = World::new();
    let mut forged = with_rules(
        (
            world.pump_with(|claims| claims.handshake_key = [7; 32]),
            Rules::default(),
        ),
        (world.broker(), broker_rules(vec![])),
        "broker.factory.svc",
    );
    forged.answerer.knows_time = false;
    forged.assert_refused(BY_ANSWERER, "credential-refused");

    let mut pair = Pair::pump_to_broker(&world, broker_rules(vec![]));
    pair.answerer.knows_time = false;
    pair.drive();
    let mut rules = broker_rules(vec![]);
    rules.revoked = revoking("uid-of-pump-7");
    let now = pair.answerer_now();
    pair.answerer.session.set_rules(now, rules);
    pair.answerer.knows_time = true;
    pair.assert_refused(BY_ANSWERER, "revoked");
}

// === without a credential ===

#[test]
fn a_peer_without_a_credential_is_refused_where_it_is_not_admitted() {
    let world = World::new();
    let newcomer = world.newcomer().with_trust(world.trust(1));
    pair(newcomer, world.broker(), "broker.factory.svc")
        .assert_refused(BY_ANSWERER, "credential-required");
}

/// A peer cannot fall back to being anonymous with a bad credential.
#[test]
fn a_bad_credential_is_refused_also_where_none_is_needed() {
    let world = World::new();
    let early = world.pump_with(|claims| {
        claims.not_before = START.plus(600);
        claims.issued_at = START.plus(600);
    });
    with_rules(
        (early, Rules::default()),
        (world.authority(), open_rules()),
        "authority",
    )
    .assert_refused(BY_ANSWERER, "credential-refused");
    // Expired and stolen.
    let mut claims = world.claims(world.device("pump-7"), &secret(7));
    claims.expires = START;
    let thief = world.local(secret(66), &claims);
    with_rules(
        (thief, Rules::default()),
        (world.authority(), open_rules()),
        "authority",
    )
    .assert_refused(BY_ANSWERER, "credential-refused");
}

// === revoked ===

#[test]
fn a_revoked_peer_is_refused_on_both_sides() {
    let world = World::new();
    let rules = |uid| Rules {
        revoked: revoking(uid),
        ..broker_rules(vec![allow(11883)])
    };
    let name = "broker.factory.svc";
    with_rules(
        (world.pump(), Rules::default()),
        (world.broker(), rules("uid-of-pump-7")),
        name,
    )
    .assert_refused(BY_ANSWERER, "revoked");
    with_rules(
        (world.pump(), rules("uid-of-broker")),
        (world.broker(), rules("x")),
        name,
    )
    .assert_refused(BY_DIALLER, "revoked");
    // Also where its expired credential would do.
    let expired = world.pump_with(|claims| claims.expires = START);
    let front = Rules {
        revoked: revoking("uid-of-pump-7"),
        ..open_rules()
    };
    with_rules(
        (expired, Rules::default()),
        (world.authority(), front),
        "authority",
    )
    .assert_refused(BY_ANSWERER, "revoked");
    // Issued after the revocation: good again.
    let again = world.pump_with(|claims| {
        claims.issued_at = START.plus(1);
        claims.not_before = START;
    });
    let mut pair = with_rules(
        (again, Rules::default()),
        (world.broker(), rules("uid-of-pump-7")),
        name,
    );
    pair.drive();
    assert!(
        pair.answerer.session.is_established(),
        "{:?}",
        pair.answerer.events
    );
}

/// The rules of the moment count, not those of the beginning.
#[test]
fn a_peer_revoked_during_the_handshake_is_refused() {
    let world = World::new();
    let mut pair = Pair::pump_to_broker(&world, broker_rules(vec![]));
    let rules = Rules {
        revoked: revoking("uid-of-pump-7"),
        ..broker_rules(vec![])
    };
    pair.answerer.session.set_rules(now(0), rules);
    pair.assert_refused(BY_ANSWERER, "revoked");
}

#[test]
fn the_default_admits_nobody_without_a_credential_and_opens_nothing() {
    assert_eq!(Rules::default().admit, Admit::Credentialed);
    let world = World::new();
    let rules = Rules {
        policy: Rules::default().policy,
        ..broker_rules(vec![])
    };
    let mut pair = Pair::pump_to_broker(&world, rules);
    pair.drive();
    let stream = pair.open(&crate::OpenRequest::port(1883));
    assert_eq!(pair.answerer.refused(stream), "policy-denied");
    assert!(START.plus(LIFETIME) > UnixSeconds(0));
}
