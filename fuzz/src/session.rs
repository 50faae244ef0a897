//! Sessions against a bare channel that says anything where a hello or the
//! header of an OPEN belongs.

use bytes::{Bytes, BytesMut};
use fairway_channel::{Batch, Channel, Config, Event, Output, PathId, StaticSecret, Time};
use fairway_identity::Clock;
use fairway_session::{Admit, Doors, Local, Now, Rules, Session};

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
    assert!(!opened && !session.is_established());
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
    let mut session = answerer(Rules::default());
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

    let mut script = Script::new(data);
    for _ in 0..8 {
        if let Ok(stream) = bare.open(MONO, script.piece().to_vec()) {
            let _ = bare.write(MONO, stream, &mut Bytes::from_static(b"at once"));
        }
    }
    let granted = converse(&mut bare, &mut session, &mut |_| Vec::new());
    assert!(!granted, "a stream was granted without a policy");
    assert_eq!(session.live_streams(), 0);
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
/// end answers with. Says whether the session granted a stream.
fn converse(
    bare: &mut Channel,
    session: &mut Session,
    hello: &mut dyn FnMut(bool) -> Vec<u8>,
) -> bool {
    let mut granted = false;
    for _ in 0..16 {
        let mut silent = true;
        for packet in from_bare(bare, hello) {
            silent = false;
            session.handle_input(NOW, PathId::FIRST, packet);
        }
        let mut batch = Batch::new(0);
        loop {
            match session.poll_output(NOW, &mut batch) {
                fairway_session::Output::Transmit { .. } => {
                    silent = false;
                    for packet in batch.packets_mut() {
                        bare.handle_input(MONO, PathId::FIRST, BytesMut::from(&*packet));
                    }
                    batch.clear();
                }
                fairway_session::Output::Event(fairway_session::Event::Incoming { .. }) => {
                    granted = true;
                }
                fairway_session::Output::Event(_) => {}
                fairway_session::Output::Timeout(_) => break,
            }
        }
        if silent {
            break;
        }
    }
    granted
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
