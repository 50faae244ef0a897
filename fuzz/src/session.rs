//! Sessions against a bare channel that says anything where a hello, the
//! header of an OPEN or a datagram belongs.

use bytes::{Bytes, BytesMut};
use fairway_channel::{Batch, Channel, Config, Event, Output, PathId, StaticSecret, Time};
use fairway_identity::Clock;
use fairway_policy::{Action, AttributeSelector, CallerRule, Door, Mode, Policy, PolicySet};
use fairway_session::{self as session, Admit, Doors, Grant, Local, Now, Rules, Session, StreamId};

use crate::{Script, world};

const MONO: Time = Time::from_secs(1);
const NOW: Now = Now {
    mono: MONO,
    clock: Clock::Trusted(world::NOW),
};
const COLLECTOR: &str = "collector.factory.svc.fairway.internal";

/// A dialler with any hello: without a genuine credential it gets no session.
pub(crate) fn hello_to_answerer(data: &[u8]) {
    let mut session = answerer(Rules::default());
    let mut bare = dialler();
    let opened = converse(&mut bare, &mut session, &mut |last| match last {
        false => data.to_vec(),
        true => Vec::new(),
    });
    assert!(opened.grants.is_empty() && !session.is_established());
    assert!(session.peer().is_none());
}

/// An answerer with any hellos, in message 2 and after it: nobody is believed
/// to be who was dialled.
pub(crate) fn hello_to_dialler(data: &[u8]) {
    let mut script = Script::new(data);
    let first = script.piece().to_vec();
    let second = script.rest().to_vec();
    let secret = StaticSecret::from_bytes([66; 32]);
    let mut bare = Channel::responder(Config::new(), &secret, [4; 32], first, MONO);
    let local = local([5; 32], "ns/factory/device/pump-7", &[]);
    let address = COLLECTOR.parse().unwrap();
    let mut session = Session::dial(
        Config::new(),
        local,
        Rules::default(),
        address,
        [6; 32],
        NOW,
    )
    .unwrap();
    converse(&mut bare, &mut session, &mut |_| second.clone());
    assert!(!session.is_established());
}

/// A genuine device that opens streams with any header: each is refused, since
/// no policy allows it anything.
pub(crate) fn open(data: &[u8]) {
    let (mut bare, mut session) = admitted(Rules::default());
    let mut script = Script::new(data);
    for _ in 0..8 {
        if let Ok(stream) = bare.open(MONO, script.piece().to_vec()) {
            let _ = bare.write(MONO, stream, &mut Bytes::from_static(b"at once"));
        }
    }
    let seen = converse(&mut bare, &mut session, &mut |_| Vec::new());
    assert!(
        seen.grants.is_empty(),
        "a stream was granted without a policy"
    );
    assert_eq!(session.live_streams(), 0);
}

/// A genuine device with two streams that policy allows, of which one is
/// accepted, sends any datagrams: those of this one come, whole, and no other.
pub(crate) fn datagram(data: &[u8]) {
    let (mut bare, mut session) = admitted(Rules {
        policy: anybody().into(),
        ..Rules::default()
    });
    // {0: [0, [80]]}
    let port = vec![0xa1, 0, 0x82, 0, 0x81, 0x18, 80];
    for _ in 0..2 {
        bare.open(MONO, port.clone()).unwrap();
    }
    let seen = converse(&mut bare, &mut session, &mut |_| Vec::new());
    let accepted = &seen.grants[0];
    session.accept(NOW, accepted).unwrap();
    assert_eq!(accepted.stream().get(), 0);

    let mut script = Script::new(data);
    let mut expected = Vec::new();
    for _ in 0..32 {
        let whole = script.piece();
        bare.send_datagram(MONO, whole.to_vec().into()).unwrap();
        if let [0, rest @ ..] = whole {
            expected.push((accepted.stream(), Bytes::copy_from_slice(rest)));
        }
        if script.is_over() {
            break;
        }
    }
    let seen = converse(&mut bare, &mut session, &mut |_| Vec::new());
    match session.is_closed() {
        true => assert!(expected.starts_with(&seen.datagrams)),
        false => assert_eq!(seen.datagrams, expected),
    }
}

/// A genuine device, admitted by whoever plays by these rules.
fn admitted(rules: Rules) -> (Channel, Session) {
    let mut session = answerer(rules);
    let mut bare = dialler();
    let [_, full] = world::credentials("ns/factory/device/pump-7", &[], key([66; 32]));
    // {0: credential, 2: instance}
    let mut hello = vec![0xa2, 0];
    world::head(&mut hello, 2, full.len());
    hello.extend_from_slice(&full);
    hello.push(2);
    world::head(&mut hello, 2, 16);
    hello.extend_from_slice(&[3; 16]);
    converse(&mut bare, &mut session, &mut |_| hello.clone());
    assert!(session.is_established(), "a good hello is admitted");
    (bare, session)
}

/// Every device may call every door.
fn anybody() -> PolicySet {
    let devices = CallerRule::Devices {
        namespaces: Vec::new(),
        names: Vec::new(),
        attributes: AttributeSelector::default(),
    };
    PolicySet {
        policies: vec![Policy {
            namespace: "factory".to_owned(),
            name: "open".to_owned(),
            action: Action::Allow,
            mode: Mode::Enforce,
            from: vec![devices],
            to: vec![Door::Any],
        }],
    }
}

fn answerer(mut rules: Rules) -> Session {
    rules.admit = Admit::Credentialed;
    let mut doors = Doors::new();
    let (namespace, service) = ("factory".parse().unwrap(), "collector".parse().unwrap());
    doors.add_service(namespace, service, 80, 8080).unwrap();
    rules.doors = doors.into();
    let local = local([5; 32], "ns/factory/sa/collector", &["collector"]);
    let names = [COLLECTOR.parse().unwrap()].into();
    Session::answer(Config::new(), local, rules, names, [4; 32], NOW).unwrap()
}

fn dialler() -> Channel {
    let secret = StaticSecret::from_bytes([66; 32]);
    Channel::initiator(Config::new(), &secret, [6; 32], 0, COLLECTOR, MONO).unwrap()
}

fn local(secret: [u8; 32], path: &str, services: &[&str]) -> Local {
    let [lean, full] = world::credentials(path, services, key(secret));
    Local::anonymous(StaticSecret::from_bytes(secret), world::pin(), [1; 16])
        .with_credential(lean, full)
        .with_trust(world::trust())
}

fn key(secret: [u8; 32]) -> [u8; 32] {
    StaticSecret::from_bytes(secret).public()
}

/// Carries packets both ways until both are silent. `hello` is what the bare
/// end answers with.
fn converse(
    bare: &mut Channel,
    victim: &mut Session,
    hello: &mut dyn FnMut(bool) -> Vec<u8>,
) -> Seen {
    let mut seen = Seen::default();
    for _ in 0..16 {
        let mut silent = true;
        for packet in from_bare(bare, hello) {
            silent = false;
            victim.handle_input(NOW, PathId::FIRST, packet);
        }
        let mut batch = Batch::new(0);
        loop {
            match victim.poll_output(NOW, &mut batch) {
                session::Output::Transmit { .. } => {
                    silent = false;
                    for packet in batch.packets_mut() {
                        bare.handle_input(MONO, PathId::FIRST, BytesMut::from(&*packet));
                    }
                    batch.clear();
                }
                session::Output::Event(session::Event::Incoming { grant, .. }) => {
                    seen.grants.push(grant);
                }
                session::Output::Event(session::Event::Datagram { stream, data }) => {
                    seen.datagrams.push((stream, data));
                }
                session::Output::Event(_) => {}
                session::Output::Timeout(_) => break,
            }
        }
        if silent {
            break;
        }
    }
    seen
}

/// What a session's owner was shown.
#[derive(Default)]
struct Seen {
    grants: Vec<Grant>,
    datagrams: Vec<(StreamId, Bytes)>,
}

fn from_bare(bare: &mut Channel, hello: &mut dyn FnMut(bool) -> Vec<u8>) -> Vec<BytesMut> {
    let (mut batch, mut packets) = (Batch::new(0), Vec::new());
    loop {
        match bare.poll_output(MONO, &mut batch) {
            Output::Transmit { .. } => {
                packets.extend(batch.packets_mut().map(|packet| BytesMut::from(&*packet)));
                batch.clear();
            }
            Output::Event(Event::PeerHello { last, .. }) => bare.proceed(MONO, hello(last)),
            Output::Event(_) => {}
            Output::Timeout(_) => return packets,
        }
    }
}
