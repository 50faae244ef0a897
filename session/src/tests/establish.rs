//! The good cases.

use fairway_identity::proof::{TicketHolder, TicketId};
use fairway_identity::{Address, Ed25519Key, Signer as _};

use super::world::{broker_rules, open_rules};
use super::*;
use crate::{Event, OpenError, OpenRequest, OpenTarget, Permit, Rules, Session, Standing};

#[test]
fn a_device_and_a_workload_get_to_know_each_other() {
    let world = World::new();
    let mut pair = Pair::pump_to_broker(&world, broker_rules(vec![]));
    pair.drive();
    let (a, b) = (
        pair.dialler.session.peer().unwrap(),
        pair.answerer.session.peer().unwrap(),
    );
    assert_eq!(a.id(), Some(&world.workload("factory", "mosquitto")));
    assert_eq!(b.id(), Some(&world.device("pump-7")));
    assert_eq!(a.handshake_hash(), b.handshake_hash());
    assert_eq!((a.dialled(), b.dialled()), (a.dialled(), a.dialled()));
    assert_eq!(b.verified().unwrap().attributes()["model"], "pump");
    assert_ne!(a.key(), b.key());
    for end in [&pair.dialler, &pair.answerer] {
        let count = |f: fn(&Event) -> bool| end.events.iter().filter(|e| f(e)).count();
        assert_eq!(count(|e| matches!(e, Event::Established(_))), 1);
        assert_eq!(end.events.len(), 1, "{:?}", end.events);
    }
}

#[test]
fn a_device_is_dialled_by_its_name() {
    let world = World::new();
    let name = address("pump-7.factory.device");
    let mut pair = Pair::new(
        (world.broker(), Rules::default()),
        (world.pump(), Rules::default()),
        std::slice::from_ref(&name),
        name.clone(),
    );
    pair.drive();
    assert_eq!(
        pair.dialler.session.peer().unwrap().id(),
        Some(&world.device("pump-7"))
    );
}

#[test]
fn a_pod_of_a_headless_service_is_dialled_by_its_name() {
    let world = World::new();
    let name = address("broker-0.broker.factory.svc");
    let broker = world.broker_with(|claims| claims.pod = Some(super::world::label("broker-0")));
    let mut pair = Pair::new(
        (world.pump(), Rules::default()),
        (broker, broker_rules(vec![allow(11883)])),
        std::slice::from_ref(&name),
        name.clone(),
    );
    pair.drive();
    let stream = pair.open(&OpenRequest::port(1883));
    assert!(
        matches!(pair.answerer.incoming(stream).permit(), Permit::Tcp(door) if door.local_port == 11883)
    );
}

/// First contact of a new device: it knows the root's hash, and not the time.
#[test]
fn a_newcomer_meets_the_authority_and_learns_the_trust_set() {
    let world = World::new();
    let mut pair = Pair::newcomer_to_authority(&world);
    pair.drive();
    let learned = pair
        .dialler
        .take(|e| matches!(e, Event::TrustSetLearned(_)));
    match learned {
        Some(Event::TrustSetLearned(trust)) => assert_eq!(trust.version(), 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(pair.dialler.session.trust().unwrap().version(), 1);
    assert_eq!(
        pair.dialler.session.peer().unwrap().id(),
        Some(&world.trust_set(1).authority)
    );
    let peer = pair.answerer.session.peer().unwrap();
    assert!(peer.verified().is_none());
    assert_eq!(*peer.key(), world::secret(11).public());

    let stream = pair.open(&OpenRequest::control());
    let grant = pair.answerer.incoming(stream);
    assert_eq!(grant.permit(), &Permit::Control);
    assert!(grant.decision().is_none());
    let now = pair.dialler_now();
    let port = pair.dialler.session.open(now, &OpenRequest::port(80));
    assert_eq!(port, Err(OpenError::NoCredential));
}

#[test]
fn an_endpoint_links_to_a_relay_without_knowing_the_time() {
    let world = World::new();
    let mut pair = Pair::at(
        (world.pump(), Rules::default()),
        (world.relay(), open_rules()),
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
    assert_eq!(
        pair.answerer.session.peer().unwrap().id(),
        Some(&world.device("pump-7"))
    );
}

/// Who holds a ticket is told from who shows nothing, and may do no more.
#[test]
fn a_ticket_holder_is_known_as_one_while_the_ticket_is() {
    let world = World::new();
    let key = Ed25519Key::from_seed([42; 32]);
    let id = TicketId::of(&key.verifying_key());
    let newcomer = |vouched: u8| {
        let holder = TicketHolder::sign(&super::world::secret(vouched).public(), &key).unwrap();
        world.newcomer().with_ticket(holder)
    };
    let meet = |newcomer, tickets: &[TicketId]| {
        let rules = Rules {
            tickets: std::sync::Arc::new(tickets.iter().copied().collect()),
            ..open_rules()
        };
        let mut pair = Pair::new(
            (newcomer, Rules::default()),
            (world.relay(), rules),
            &[Address::Relay],
            Address::Relay,
        );
        pair.drive();
        pair
    };
    let standing = |pair: &Pair| pair.answerer.session.peer().unwrap().standing().clone();

    let mut pair = meet(newcomer(11), &[id]);
    assert!(matches!(standing(&pair), Standing::TicketHolder(known) if known == id));
    pair.connect(&OpenRequest::control());
    let port = OpenRequest::port(80).to_bytes();
    let stream = pair.dialler.session.open_unchecked(now(0), port);
    pair.drive();
    assert_eq!(pair.answerer.refused(stream), "credential-required");
    // Used up or expired meanwhile, or unheard of: as good as none.
    assert!(matches!(
        standing(&meet(newcomer(11), &[])),
        Standing::Anonymous
    ));
    // It vouches for somebody else: a copy of what another one showed.
    let pair = meet(newcomer(12), &[id]);
    assert_eq!(
        pair.dialler.closed().unwrap().1.word(),
        "credential-refused"
    );
    // A credential says more.
    let holder = TicketHolder::sign(&super::world::secret(7).public(), &key).unwrap();
    let pair = meet(world.pump().with_ticket(holder), &[id]);
    assert!(matches!(standing(&pair), Standing::Verified(_)));
}

/// A device that slept too long is known again, and may do no more than a
/// newcomer.
#[test]
fn an_expired_credential_is_good_for_control_streams_only() {
    let world = World::new();
    let expired = world.pump_with(|claims| claims.expires = super::world::START);
    let mut pair = Pair::new(
        (expired, Rules::default()),
        (world.relay(), open_rules()),
        &[Address::Relay],
        Address::Relay,
    );
    pair.drive();
    let peer = pair.answerer.session.peer().unwrap().clone();
    match peer.standing() {
        Standing::Expired(was) => assert_eq!(was.id(), &world.device("pump-7")),
        other => panic!("{other:?}"),
    }
    assert!(peer.verified().is_none() && peer.id().is_none());
    pair.connect(&OpenRequest::control());
    let stream = pair.open(&OpenRequest::port(80));
    assert_eq!(pair.answerer.refused(stream), "credential-required");
    // It stays what it was, also under a newer trust set, until it is not
    // welcome any more.
    pair.answerer.session.set_trust(now(0), world.trust(2));
    pair.advance_to(60);
    assert!(pair.answerer.session.is_established());
    pair.answerer.session.set_rules(now(60), Rules::default());
    pair.drive();
    assert_eq!(
        pair.dialler.closed().unwrap().1.word(),
        "credential-expired"
    );
}

#[test]
fn both_sides_end_with_the_newest_trust_set() {
    let world = World::new();
    let name = address("broker.factory.svc");
    for (dialler, answerer) in [(1, 2), (2, 1), (2, 2)] {
        let mut pair = Pair::new(
            (
                world.pump().with_trust(world.trust(dialler)),
                Rules::default(),
            ),
            (
                world.broker().with_trust(world.trust(answerer)),
                Rules::default(),
            ),
            std::slice::from_ref(&name),
            name.clone(),
        );
        pair.drive();
        for (end, had) in [(&mut pair.dialler, dialler), (&mut pair.answerer, answerer)] {
            assert!(end.session.is_established());
            assert_eq!(end.session.trust().unwrap().version(), 2);
            let learned = end
                .take(|e| matches!(e, Event::TrustSetLearned(_)))
                .is_some();
            assert_eq!(learned, had == 1, "{dialler} {answerer}");
        }
    }
}

#[test]
fn a_stream_opens_and_carries_data_both_ways() {
    let world = World::new();
    let mut pair = Pair::established(&world, vec![allow(11883)]);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = OpenRequest::port(1883).with_traceparent(Some(traceparent.to_owned()));
    let now = pair.dialler_now();
    let stream = pair.dialler.session.open(now, &request).unwrap();
    pair.drive();
    let incoming = pair.answerer.take(|e| matches!(e, Event::Incoming { .. }));
    let Some(Event::Incoming { grant, open, .. }) = incoming else {
        panic!("{incoming:?}")
    };
    assert_eq!(open, request);
    assert_eq!(grant.stream(), stream);
    assert_eq!(grant.peer().id(), Some(&world.device("pump-7")));
    assert_eq!(
        grant.decision().unwrap().by.as_ref().unwrap().to_string(),
        "factory/allow-11883"
    );
    match grant.permit() {
        Permit::Tcp(door) => assert_eq!((door.local_port, &*door.service), (11883, "broker")),
        other => panic!("{other:?}"),
    }
    let now = pair.answerer_now();
    pair.answerer.session.accept(now, &grant).unwrap();
    pair.drive();
    assert_eq!(pair.send(stream, "hello"), "hello");
    let mut answer = bytes::Bytes::from_static(b"world");
    pair.answerer
        .session
        .write(now, stream, &mut answer)
        .unwrap();
    pair.drive();
    match pair.dialler.session.read(now, stream).unwrap() {
        crate::ReadOutcome::Chunk(bytes) => assert_eq!(bytes, "world"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_endpoint_without_a_credential_cannot_answer() {
    let world = World::new();
    let answer = Session::answer(
        crate::Config::new(),
        world.newcomer(),
        Rules::default(),
        [Address::Authority].into(),
        [0; 32],
        now(0),
    );
    assert_eq!(answer.err(), Some(crate::AnswerError::NoCredential));
}

#[test]
fn nothing_opens_before_the_session_is_established() {
    let world = World::new();
    let mut pair = Pair::pump_to_broker(&world, broker_rules(vec![allow(11883)]));
    let request = OpenRequest {
        target: OpenTarget::Port(1883),
        traceparent: None,
    };
    assert_eq!(
        pair.dialler.session.open(now(0), &request),
        Err(OpenError::NotEstablished)
    );
    assert_eq!(
        pair.answerer.session.open(now(0), &request),
        Err(OpenError::WrongSide)
    );
    pair.drive();
    assert!(pair.dialler.session.open(now(0), &request).is_ok());
    assert_eq!(
        pair.answerer.session.open(now(0), &request),
        Err(OpenError::WrongSide)
    );
}
