//! What opens, and what does not.

use bytes::Bytes;
use fairway_identity::Address;

use super::world::{broker_rules, open_rules};
use super::*;
use crate::{
    AcceptError, Code, Event, OpenRequest, Permit, ReadOutcome, Refusal, Rules, StreamError, code,
};

fn refused(policies: Vec<fairway_policy::Policy>, request: &OpenRequest) -> &'static str {
    let mut pair = Pair::established(&World::new(), policies);
    let stream = pair.open(request);
    let word = pair.answerer.refused(stream);
    assert_eq!(
        pair.dialler.reset_by_peer(stream),
        word,
        "both sides know why"
    );
    assert_eq!(pair.answerer.session.live_streams(), 0);
    word
}

#[test]
fn a_port_that_is_not_offered_is_refused() {
    // The pod's own port is not the Service's.
    assert_eq!(
        refused(vec![allow(11883)], &OpenRequest::port(11883)),
        "unknown-port"
    );
    assert_eq!(
        refused(vec![allow(22)], &OpenRequest::port(22)),
        "unknown-port"
    );
}

/// What a caller is told when it asks for `port`: the word and the text.
fn told(policies: Vec<fairway_policy::Policy>, port: u16) -> String {
    let mut pair = Pair::established(&World::new(), policies);
    let stream = pair.open(&OpenRequest::port(port));
    let told = pair
        .dialler
        .take(|e| matches!(e, Event::Reset { stream: s, .. } if *s == stream));
    let Some(Event::Reset { refusal, .. }) = told else {
        panic!("{told:?}")
    };
    // The port is the caller's own word.
    refusal
        .to_string()
        .replace(&format!("port {port}"), "port PORT")
}

/// Port 1883 is offered, 1884 is not.
#[test]
fn whom_no_policy_lets_through_cannot_tell_which_ports_are_offered() {
    let gateways = |port| {
        let mut policy = allow(port);
        let fairway_policy::CallerRule::Devices { attributes, .. } = &mut policy.from[0] else {
            panic!("a policy for devices")
        };
        attributes.match_attributes = [("model".to_owned(), "gateway".to_owned())].into();
        policy
    };
    for policies in [
        vec![],
        vec![gateways(11883)],
        vec![gateways(11883), gateways(22)],
        vec![allow(22)],
        vec![allow(22), gateways(11883)],
    ] {
        let (offered, missing) = (told(policies.clone(), 1883), told(policies, 1884));
        assert!(offered.starts_with("policy-denied: "), "{offered}");
        assert_eq!(offered, missing);
    }
}

#[test]
fn without_a_policy_all_is_denied() {
    assert_eq!(refused(vec![], &OpenRequest::port(1883)), "policy-denied");
}

#[test]
fn a_policy_for_another_port_does_not_help() {
    assert_eq!(
        refused(vec![allow(8080)], &OpenRequest::port(1883)),
        "policy-denied"
    );
}

#[test]
fn deny_wins() {
    let policies = vec![allow(11883), deny(11883), allow(11883)];
    assert_eq!(refused(policies, &OpenRequest::port(1883)), "policy-denied");
}

#[test]
fn the_reason_of_a_denial_reaches_the_caller() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883), deny(11883)]);
    let stream = pair.open(&OpenRequest::port(1883));
    let event = pair.answerer.take(|e| matches!(e, Event::Refused { .. }));
    let Some(Event::Refused {
        refusal,
        decision,
        target,
        peer,
        ..
    }) = event
    else {
        panic!("{event:?}")
    };
    assert!(refusal.text.contains("factory/deny-11883"), "{refusal}");
    assert_eq!(
        decision.unwrap().by.unwrap().to_string(),
        "factory/deny-11883"
    );
    assert_eq!(target, Some(crate::OpenTarget::Port(1883)));
    assert_eq!(
        peer.to_string(),
        "spiffe://fairway.local/ns/factory/device/pump-7"
    );
    let told = pair
        .dialler
        .take(|e| matches!(e, Event::Reset { stream: s, .. } if *s == stream));
    assert!(matches!(told, Some(Event::Reset { refusal: r, .. }) if r == refusal));
}

#[test]
fn control_is_for_authority_and_relay_only() {
    assert_eq!(
        refused(vec![allow(11883)], &OpenRequest::control()),
        "no-control"
    );
}

#[test]
fn no_policy_opens_a_port_of_the_authority() {
    let world = World::new();
    let mut pair = Pair::new(
        (world.pump(), Rules::default()),
        (
            world.authority(),
            Rules {
                doors: broker_rules(vec![]).doors,
                ..open_rules()
            },
        ),
        &[Address::Authority],
        Address::Authority,
    );
    pair.drive();
    let stream = pair.open(&OpenRequest::port(1883));
    assert_eq!(pair.answerer.refused(stream), "policy-denied");
}

/// A newcomer whose own side does not hold it back.
#[test]
fn a_peer_without_a_credential_opens_no_port() {
    let world = World::new();
    let name = address("broker.factory.svc");
    let rules = Rules {
        admit: crate::Admit::AlsoAnonymous,
        ..broker_rules(vec![allow(11883)])
    };
    let mut pair = Pair::new(
        (
            world.newcomer().with_trust(world.trust(1)),
            Rules::default(),
        ),
        (world.broker(), rules),
        std::slice::from_ref(&name),
        name.clone(),
    );
    pair.drive();
    assert!(
        pair.answerer.session.is_established(),
        "{:?}",
        pair.answerer.events
    );
    let stream = pair
        .dialler
        .session
        .open_unchecked(now(0), OpenRequest::port(1883).to_bytes());
    pair.drive();
    assert_eq!(pair.answerer.refused(stream), "credential-required");
    let stream = pair.open(&OpenRequest::control());
    assert_eq!(pair.answerer.refused(stream), "no-control");
}

#[test]
fn a_header_that_cannot_be_read_opens_nothing() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let good = OpenRequest::port(1883).to_bytes();
    let longer = [&good[..], &[0]].concat();
    for header in [&good[..good.len() - 1], &longer, &[0xff; 40], &[]] {
        let stream = pair.dialler.session.open_unchecked(now(0), header.to_vec());
        pair.drive();
        assert_eq!(pair.answerer.refused(stream), "malformed", "{header:?}");
    }
    let port_0 = OpenRequest::port(0).to_bytes();
    let stream = pair.dialler.session.open_unchecked(now(0), port_0);
    pair.drive();
    assert_eq!(pair.answerer.refused(stream), "malformed");
    pair.connect(&OpenRequest::port(1883));
}

/// The side that answered has dialled nobody, so there is no name for which
/// the dialler could have granted anything.
#[test]
fn the_side_that_answered_opens_nothing() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let stream = pair
        .answerer
        .session
        .open_unchecked(now(0), OpenRequest::port(1883).to_bytes());
    pair.drive();
    assert_eq!(pair.dialler.refused(stream), "wrong-direction");
    assert_eq!(pair.answerer.reset_by_peer(stream), "wrong-direction");
}

/// Data that comes with the OPEN stays unread until somebody with the grant
/// accepts.
#[test]
fn nothing_can_be_read_without_the_grant() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let now = pair.dialler_now();
    let stream = pair
        .dialler
        .session
        .open(now, &OpenRequest::port(1883))
        .unwrap();
    let mut early = Bytes::from_static(b"early");
    pair.dialler.session.write(now, stream, &mut early).unwrap();
    pair.drive();
    let grant = pair.answerer.incoming(stream);
    assert_eq!(
        pair.answerer.session.read(now, stream),
        Err(StreamError::NotAccepted)
    );
    let mut data = Bytes::from_static(b"x");
    assert_eq!(
        pair.answerer.session.write(now, stream, &mut data),
        Err(StreamError::NotAccepted)
    );
    pair.answerer.session.accept(now, &grant).unwrap();
    match pair.answerer.session.read(now, stream).unwrap() {
        ReadOutcome::Chunk(bytes) => assert_eq!(bytes, "early"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_grant_is_good_for_its_own_session_only() {
    let world = World::new();
    let mut one = Pair::established(&world, vec![allow(11883)]);
    let mut two = Pair::established(&world, vec![allow(11883)]);
    let stream = one.open(&OpenRequest::port(1883));
    assert_eq!(
        two.open(&OpenRequest::port(1883)),
        stream,
        "the same number there"
    );
    let foreign = one.answerer.incoming(stream);
    let accepted = two.answerer.session.accept(now(0), &foreign);
    assert_eq!(accepted, Err(AcceptError::ForeignGrant));
}

#[test]
fn a_refused_stream_tells_the_caller_why_and_its_grant_is_void() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let stream = pair.open(&OpenRequest::port(1883));
    let grant = pair.answerer.incoming(stream);
    let refusal = Refusal::new(code::CONNECT_REFUSED, "nobody at 127.0.0.1:11883");
    pair.answerer.session.reset(now(0), stream, &refusal);
    pair.drive();
    assert_eq!(pair.dialler.reset_by_peer(stream), "connect-refused");
    assert!(grant.ended().is_some());
    assert!(matches!(
        pair.answerer.session.accept(now(0), &grant),
        Err(AcceptError::Ended(_))
    ));
}

/// The table of live streams does not grow with streams that have ended in
/// good order.
#[test]
fn streams_that_ended_are_forgotten() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    for _ in 0..3 {
        let (stream, grant) = pair.connect(&OpenRequest::port(1883));
        pair.dialler.session.finish(now(0), stream).unwrap();
        pair.drive();
        assert_eq!(
            pair.answerer.session.read(now(0), stream),
            Ok(ReadOutcome::Finished)
        );
        assert_eq!(
            pair.answerer.session.live_streams(),
            1,
            "the answer may still come"
        );
        pair.answerer.session.finish(now(0), stream).unwrap();
        pair.advance_to(pair.at.as_secs() + 1);
        assert_eq!(
            pair.dialler.session.read(now(1), stream),
            Ok(ReadOutcome::Finished)
        );
        assert_eq!(pair.answerer.session.live_streams(), 0);
        assert!(grant.ended().is_some());
    }
}

#[test]
fn http_needs_a_yes_for_each_request() {
    let mut pair = Pair::established(&World::new(), vec![http_allow(8080, "GET", "/v1/*")]);
    let (_, grant) = pair.connect(&OpenRequest::port(80));
    match grant.permit() {
        Permit::Http(door) => assert_eq!(door.local_port, 8080),
        other => panic!("{other:?}"),
    }
    let answer = |method, path| match grant.authorize_http(method, path) {
        crate::HttpAnswer::Allowed { decision, .. } => {
            assert!(decision.by.is_some());
            "allowed"
        }
        crate::HttpAnswer::Denied(_) => "denied",
        crate::HttpAnswer::Ended(_) => "ended",
    };
    assert_eq!(answer("GET", "/v1/readings"), "allowed");
    assert_eq!(answer("POST", "/v1/readings"), "denied");
    assert_eq!(answer("GET", "/admin"), "denied");
    assert_eq!(answer("GET", "/v1/again"), "allowed");
}

#[test]
fn there_is_no_http_on_a_control_stream() {
    let mut pair = Pair::newcomer_to_authority(&World::new());
    pair.drive();
    let (_, grant) = pair.connect(&OpenRequest::control());
    assert!(matches!(
        grant.authorize_http("GET", "/"),
        crate::HttpAnswer::Ended(_)
    ));
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut pair = Pair::established(&World::new(), vec![http_allow(8080, "GET", "/*")]);
    let (_, grant) = pair.connect(&OpenRequest::port(80));
    let mut passes = Vec::new();
    for _ in 0..crate::limits::HTTP_PASSES_MAX {
        match grant.authorize_http("GET", "/x") {
            crate::HttpAnswer::Allowed { pass, .. } => passes.push(pass),
            other => panic!("{other:?}"),
        }
    }
    match grant.authorize_http("GET", "/x") {
        crate::HttpAnswer::Ended(refusal) => assert_eq!(refusal.code, code::OVERLOADED),
        other => panic!("{other:?}"),
    }
    passes.pop();
    assert!(matches!(
        grant.authorize_http("GET", "/x"),
        crate::HttpAnswer::Allowed { .. }
    ));
}

#[test]
fn closing_ends_grants_and_tells_the_peer() {
    let mut pair = Pair::established(&World::new(), vec![http_allow(8080, "GET", "/*")]);
    let (_, grant) = pair.connect(&OpenRequest::port(80));
    pair.answerer
        .session
        .close(now(0), Refusal::new(code::SHUTDOWN, "bye"));
    assert!(matches!(
        grant.authorize_http("GET", "/"),
        crate::HttpAnswer::Ended(_)
    ));
    pair.drive();
    let (by, refusal) = pair.dialler.closed().unwrap();
    assert_eq!(
        (by, refusal.word(), &*refusal.text),
        (crate::ClosedBy::Peer, "shutdown", "bye")
    );
    assert!(
        pair.dialler
            .session
            .open(now(0), &OpenRequest::port(80))
            .is_err()
    );
    assert_ne!(code::SHUTDOWN, Code::DONE);
}

/// Somebody who opens and gives up at once leaves nothing behind.
#[test]
fn a_stream_that_its_opener_gives_up_before_it_was_accepted_is_forgotten() {
    let mut pair = Pair::established(&World::new(), vec![allow(11883)]);
    let stream = pair.open(&OpenRequest::port(1883));
    let grant = pair.answerer.incoming(stream);
    let refusal = Refusal::new(code::CANCELLED, "");
    pair.dialler.session.reset(now(0), stream, &refusal);
    pair.drive();
    assert!(pair.answerer.session.accept(now(0), &grant).is_err());
    pair.answerer.session.reset(now(0), stream, &refusal);
    assert_eq!(pair.answerer.session.live_streams(), 0);
}

/// Portals and drivers run on different threads; events are moved around.
#[test]
fn what_crosses_threads_may_and_events_are_small() {
    fn sendable<T: Send>() {}
    fn shareable<T: Send + Sync>() {}
    sendable::<crate::Session>();
    shareable::<crate::Grant>();
    shareable::<crate::PeerInfo>();
    sendable::<crate::HttpPass>();
    sendable::<crate::Output>();
    assert!(
        size_of::<crate::Output>() <= 128,
        "{}",
        size_of::<crate::Output>()
    );
}
