//! A change of rules counts at once, for everything that is alive.

use super::world::{broker_rules, open_rules, revoking};
use super::*;
use crate::{AcceptError, Admit, ClosedBy, Event, HttpAnswer, OpenRequest, Rules};

fn ended(pair: &mut Pair, stream: crate::StreamId) -> &'static str {
    pair.drive();
    let wanted = |e: &Event| matches!(e, Event::Ended { stream: s, .. } if *s == stream);
    match pair.answerer.take(wanted) {
        Some(Event::Ended { refusal, .. }) => {
            assert_eq!(pair.dialler.reset_by_peer(stream), refusal.word());
            refusal.word()
        }
        _ => panic!("{stream} goes on: {:?}", pair.answerer.events),
    }
}

#[test]
fn a_live_stream_ends_when_its_policy_goes() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883), allow(8080)]);
    let (mqtt, mqtt_grant) = pair.connect(&OpenRequest::port(1883));
    let (http, http_grant) = pair.connect(&OpenRequest::port(80));
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![allow(8080)]));
    assert!(mqtt_grant.ended().is_some(), "at once");
    assert!(http_grant.ended().is_none());
    assert_eq!(ended(&mut pair, mqtt), "policy-denied");
    assert!(pair.answerer.session.read(now(0), mqtt).is_err());
    assert_eq!(pair.send(http, "still here"), "still here");
    // And nothing new opens.
    let again = pair.open(&OpenRequest::port(1883));
    assert_eq!(pair.answerer.refused(again), "policy-denied");
}

#[test]
fn a_new_deny_ends_a_live_stream() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let (stream, _grant) = pair.connect(&OpenRequest::port(1883));
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![allow(11883), deny(11883)]));
    assert_eq!(ended(&mut pair, stream), "policy-denied");
}

#[test]
fn a_stream_that_waits_to_be_accepted_ends_too() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let stream = pair.open(&OpenRequest::port(1883));
    let grant = pair.answerer.incoming(stream);
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![]));
    assert!(matches!(
        pair.answerer.session.accept(now(0), &grant),
        Err(AcceptError::Ended(_))
    ));
    assert_eq!(ended(&mut pair, stream), "policy-denied");
}

/// Half-closed streams still carry data, so they are still judged.
#[test]
fn a_half_closed_stream_ends_too() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let (stream, grant) = pair.connect(&OpenRequest::port(1883));
    pair.answerer.session.finish(now(0), stream).unwrap();
    pair.drive();
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![]));
    assert!(grant.ended().is_some());
    assert!(pair.answerer.session.read(now(0), stream).is_err());
}

#[test]
fn a_change_that_does_not_matter_ends_nothing() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let (stream, grant) = pair.connect(&OpenRequest::port(1883));
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![allow(8080), allow(11883)]));
    assert_eq!(pair.send(stream, "on and on"), "on and on");
    assert!(grant.ended().is_none());
}

#[test]
fn requests_go_by_the_rules_of_now() {
    let mut pair = Pair::established(&World::new(), vec![http_allow(8080, "GET", "/a")]);
    let (_, grant) = pair.connect(&OpenRequest::port(80));
    assert!(matches!(
        grant.authorize_http("GET", "/a"),
        HttpAnswer::Allowed { .. }
    ));
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![http_allow(8080, "GET", "/b")]));
    assert!(
        grant.ended().is_none(),
        "the stream may carry other requests"
    );
    assert!(matches!(
        grant.authorize_http("GET", "/a"),
        HttpAnswer::Denied(_)
    ));
    assert!(matches!(
        grant.authorize_http("GET", "/b"),
        HttpAnswer::Allowed { .. }
    ));
}

#[test]
fn a_request_in_flight_that_is_no_longer_allowed_ends_its_stream() {
    let mut pair = Pair::established(&World::new(), vec![http_allow(8080, "GET", "/*")]);
    let (stream, grant) = pair.connect(&OpenRequest::port(80));
    let HttpAnswer::Allowed { pass: over, .. } = grant.authorize_http("GET", "/a") else {
        panic!()
    };
    drop(over);
    let HttpAnswer::Allowed { pass, .. } = grant.authorize_http("GET", "/b") else {
        panic!()
    };
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![http_allow(8080, "GET", "/b")]));
    assert!(grant.ended().is_none(), "the request to /a is over");
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![http_allow(8080, "GET", "/c")]));
    assert_eq!(ended(&mut pair, stream), "policy-denied");
    assert_eq!(grant.ended().unwrap().word(), "policy-denied");
    drop(pass);
    assert!(matches!(
        grant.authorize_http("GET", "/c"),
        HttpAnswer::Ended(_)
    ));
}

/// The bytes of a TCP stream were never looked at.
#[test]
fn a_tcp_stream_ends_when_a_policy_wants_to_see_requests() {
    let mut pair = Pair::established(&World::new(), vec![allow(8080)]);
    let (stream, _grant) = pair.connect(&OpenRequest::port(80));
    pair.answerer
        .session
        .set_rules(now(0), broker_rules(vec![http_allow(8080, "GET", "/*")]));
    assert_eq!(ended(&mut pair, stream), "policy-denied");
}

#[test]
fn revoking_the_peer_ends_the_session_and_all_in_it() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let (_, grant) = pair.connect(&OpenRequest::port(1883));
    let revoked = Rules {
        revoked: revoking("uid-of-pump-7"),
        ..broker_rules(vec![allow(11883)])
    };
    pair.answerer.session.set_rules(now(0), revoked);
    assert!(grant.ended().is_some(), "at once");
    pair.drive();
    let (by, refusal) = pair.dialler.closed().expect("the peer is told");
    assert_eq!((by, refusal.word()), (ClosedBy::Peer, "revoked"));
    let (by, refusal) = pair.answerer.closed().unwrap();
    assert_eq!((by, refusal.word()), (ClosedBy::Owner, "revoked"));
    assert!(pair.answerer.session.is_closed());
}

#[test]
fn the_dialler_ends_the_session_of_a_revoked_callee() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let revoked = Rules {
        revoked: revoking("uid-of-broker"),
        ..Rules::default()
    };
    pair.dialler.session.set_rules(now(0), revoked);
    pair.drive();
    assert_eq!(pair.dialler.closed().unwrap().1.word(), "revoked");
    assert!(pair.answerer.session.is_closed());
}

#[test]
fn revoking_somebody_else_ends_nothing() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let (stream, _grant) = pair.connect(&OpenRequest::port(1883));
    let revoked = Rules {
        revoked: revoking("uid-of-nobody"),
        ..broker_rules(vec![allow(11883)])
    };
    pair.answerer.session.set_rules(now(0), revoked);
    assert_eq!(pair.send(stream, "on and on"), "on and on");
}

#[test]
fn anonymous_peers_go_when_they_are_no_longer_admitted() {
    let mut pair = Pair::newcomer_to_authority(&World::new());
    pair.drive();
    let (_, grant) = pair.connect(&OpenRequest::control());
    let closed = Rules {
        admit: Admit::Credentialed,
        ..open_rules()
    };
    pair.answerer.session.set_rules(now(0), closed);
    assert!(grant.ended().is_some());
    pair.drive();
    assert_eq!(
        pair.dialler.closed().unwrap().1.word(),
        "credential-required"
    );
}
