//! Sessions that outlive their links: two relays, of which one dies.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::authority::{Authority, uid_of};
use common::relay::Relay;
use common::{address, label, soon};
use fairway_control::update::Door;
use fairway_endpoint::{Endpoint, Incoming, Stream, StreamError};
use fairway_identity::{Revocation, UnixSeconds};
use fairway_session::{OpenRequest, code};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

const COLLECTOR: &str = "collector.factory.svc.fairway.internal";
const COLLECTOR_ID: &str = "spiffe://fairway.local/ns/factory/sa/collector";
const PUMP_ID: &str = "spiffe://fairway.local/ns/factory/device/pump-7";

/// Everything, up and registered at both relays.
struct World {
    authority: Authority,
    relays: [Relay; 2],
    _front: Endpoint,
    collector: Endpoint,
    calls: mpsc::Receiver<Incoming>,
    pump: Endpoint,
}

impl World {
    async fn start(session_wait: Duration) -> Self {
        let authority = Authority::start();
        let relays = [
            Relay::start(&authority).await,
            Relay::start(&authority).await,
        ];
        let addresses: Vec<_> = relays.iter().map(|relay| relay.address.clone()).collect();
        authority.publish(COLLECTOR_ID, |state| {
            state.policies = common::allow_devices(common::port(8080));
            state.names = vec![address(COLLECTOR)];
            state.ready = true;
            state.relays = addresses.clone();
            state.doors = vec![Door {
                service: label("collector"),
                port: 80,
                target_port: 8080,
            }];
        });
        let front = common::front(&authority, &addresses).await;
        soon(front.registered()).await;
        let services = &["collector"];
        let (collector, calls) =
            common::workload_that_waits(&authority, &front, "collector", services, session_wait)
                .await;
        let (pump, _) =
            common::device_that_waits(&authority, &addresses, "pump-7", session_wait).await;
        soon(collector.credentialed()).await;
        soon(async {
            while collector
                .status()
                .links
                .iter()
                .filter(|link| link.registered.len() == 1)
                .count()
                < 2
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        soon(pump.credentialed()).await;
        Self {
            authority,
            relays,
            _front: front,
            collector,
            calls,
            pump,
        }
    }

    /// A call of the pump that the collector accepts: both ends.
    async fn joined(&mut self) -> (Stream, Incoming) {
        let serving = async {
            let call = self.calls.recv().await.unwrap();
            call.accept().unwrap();
            call
        };
        let collector = address(COLLECTOR);
        let calling = self.pump.open(&collector, OpenRequest::port(80));
        let (stream, served) = soon(async { tokio::join!(calling, serving) }).await;
        (stream.unwrap(), served)
    }

    /// Sessions that somebody has with the collector.
    fn n_sessions(&self) -> usize {
        let sessions = self.collector.status().sessions;
        sessions.iter().filter(|session| !session.outgoing).count()
    }

    /// The relay that the pump is linked to, and the other one.
    fn used_and_other(&self) -> (&Relay, &Relay) {
        let [a, b] = &self.relays;
        let used = self.pump.status().links[0].remote.clone();
        if a.address.to_string() == used {
            (a, b)
        } else {
            (b, a)
        }
    }
}

/// Sends a piece each way and expects it at the other end.
async fn talk(stream: &mut Stream, served: &mut Incoming, text: &'static str) {
    let piece = Bytes::from_static(text.as_bytes());
    for (from, to) in [
        (&mut stream.send, &mut served.stream.recv),
        (&mut served.stream.send, &mut stream.recv),
    ] {
        from.write_chunk(piece.clone()).await.unwrap();
        let got = soon(to.read_chunk()).await.unwrap();
        assert_eq!(got.as_deref(), Some(text.as_bytes()));
    }
}

#[tokio::test]
async fn a_session_goes_on_over_another_relay_within_two_seconds() {
    let mut world = World::start(Duration::from_secs(60)).await;
    let (mut stream, mut served) = world.joined().await;
    talk(&mut stream, &mut served, "before").await;
    world.used_and_other().0.kill();
    let killed = Instant::now();
    talk(&mut stream, &mut served, "after").await;
    assert!(killed.elapsed() < Duration::from_secs(2));
    // It is the same session: no other was made for the next call either.
    world.joined().await;
    assert_eq!(world.n_sessions(), 1);
}

#[tokio::test]
async fn a_replayed_attach_does_nothing() {
    let mut world = World::start(Duration::from_secs(60)).await;
    let (mut stream, mut served) = world.joined().await;
    world.used_and_other().0.kill();
    talk(&mut stream, &mut served, "moved").await;
    let (relay, _) = world.used_and_other();
    let n_attaches = relay.replay(&address(COLLECTOR), 5);
    assert!(n_attaches > 0, "the session has come over this relay");
    talk(&mut stream, &mut served, "unmoved").await;
    // Whoever opened these circuits never shows who they are.
    let given_up = async {
        while !relay.closed().contains(&"handshake-timeout".to_owned()) {
            talk(&mut stream, &mut served, "still there").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(15), given_up).await.unwrap();
    assert_eq!(world.n_sessions(), 1);
}

/// They are as many as a link may have at a time, and are gone after as long as
/// a handshake may take.
#[tokio::test]
async fn circuits_on_which_nobody_says_anything_are_bounded_and_given_up() {
    const BOUND: usize = 256;
    let mut world = World::start(Duration::from_secs(60)).await;
    let (mut stream, mut served) = world.joined().await;
    let (relay, _) = world.used_and_other();
    let n_closed = |word: &str| relay.closed().iter().filter(|w| *w == word).count();
    let begun = Instant::now();
    relay.open_silently(&address(COLLECTOR), BOUND + 44);
    let given_up = async {
        while n_closed("handshake-timeout") < BOUND {
            talk(&mut stream, &mut served, "still there").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), given_up).await.unwrap();
    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "not before its time"
    );
    assert_eq!(n_closed("overloaded"), 44, "one for each beyond the bound");

    // There is a place for others again.
    let relays = [relay.address.clone()];
    let wait = Duration::from_secs(60);
    let (other, _) = common::device_that_waits(&world.authority, &relays, "pump-8", wait).await;
    let collector = address(COLLECTOR);
    let calling = other.open(&collector, OpenRequest::port(80));
    let serving = async {
        let call = world.calls.recv().await.unwrap();
        call.accept().unwrap();
        call
    };
    let (stream, mut served) = soon(async { tokio::join!(calling, serving) }).await;
    talk(&mut stream.unwrap(), &mut served, "a newer call").await;
}

#[tokio::test]
async fn a_session_without_any_link_ends_when_its_time_is_over() {
    let mut world = World::start(Duration::from_secs(1)).await;
    let (mut stream, mut served) = world.joined().await;
    let [a, b] = &world.relays;
    a.kill();
    b.kill();
    // Both ends by themselves.
    for recv in [&mut stream.recv, &mut served.stream.recv] {
        let error = soon(recv.read_chunk()).await.unwrap_err();
        assert!(
            matches!(&error, StreamError::SessionClosed(r) if r.code == code::LINK_LOST),
            "{error}"
        );
    }
}

#[tokio::test]
async fn revocation_ends_a_session_that_waits_for_a_link() {
    let mut world = World::start(Duration::from_secs(60)).await;
    let (_stream, mut served) = world.joined().await;
    let [a, b] = &world.relays;
    a.kill();
    b.kill();
    soon(async {
        while !world.collector.status().links.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let uid = uid_of(&PUMP_ID.parse().unwrap());
    world.authority.publish(COLLECTOR_ID, |state| {
        let revocation = Revocation {
            issued_before: UnixSeconds(u64::MAX / 2),
            keep_until: UnixSeconds(u64::MAX / 2),
        };
        state.revocations.insert(uid, revocation).unwrap();
    });
    let error = soon(served.stream.recv.read_chunk()).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::SessionClosed(r) if r.code == code::REVOKED),
        "{error}"
    );
}

#[tokio::test]
async fn a_drain_moves_sessions_before_the_relay_is_gone() {
    let mut world = World::start(Duration::from_secs(60)).await;
    let (mut stream, mut served) = world.joined().await;
    talk(&mut stream, &mut served, "before").await;
    let used = world.used_and_other().0.address.to_string();
    world.used_and_other().0.drain();
    soon(async {
        while world
            .pump
            .status()
            .links
            .iter()
            .any(|link| link.remote == used)
        {
            talk(&mut stream, &mut served, "meanwhile").await;
        }
    })
    .await;
    // Nothing is lost with it any more.
    let mut relays = world.relays.iter();
    let relay = relays.find(|relay| relay.address.to_string() == used);
    relay.unwrap().kill();
    talk(&mut stream, &mut served, "after").await;
}
