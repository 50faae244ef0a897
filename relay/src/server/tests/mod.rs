//! The relay over loopback, with real sessions at the other ends.

mod abuse;
mod child;
mod files;
mod listeners;
mod memory;
mod peer;

use std::sync::Arc;
use std::time::Duration;

use fairway_control::limits::{CIRCUIT_CREDIT, LINK_PAYLOAD_MAX};
use fairway_control::link::{CircuitId, Instance, ToEndpoint, ToRelay};
use fairway_control::{Reason, reason};
use fairway_identity::proof::TicketId;
use fairway_identity::{Ed25519Key, Revocation, RevocationList, Signer as _};
use fairway_session::Rules;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use self::peer::{Peer, Relay, data_frame, local};
use super::Identity;
use crate::core::MemoryLimits;
use crate::testing::{NOW, uid};

const AUTHORITY: &str = "authority.fairway.internal";
const PUMP: &str = "pump-7.factory.device.fairway.internal";
const COLLECTOR: &str = "collector.factory.svc.fairway.internal";

/// A device and a collector, joined: circuit 2 at the device, the answer at
/// the collector.
async fn joined(relay: &Relay) -> (Peer, Peer, u32) {
    let mut collector = relay.link("ns/factory/sa/collector", &["collector"]).await;
    collector.register(COLLECTOR).await.unwrap();
    let mut device = relay.link("ns/factory/device/pump-7", &[]).await;
    device.open(2, COLLECTOR).await.unwrap();
    let incoming = collector.incoming().await;
    (device, collector, incoming)
}

#[tokio::test]
async fn data_goes_both_ways_and_keeps_its_frames() {
    let relay = Relay::start().await;
    let (mut device, mut collector, incoming) = joined(&relay).await;
    for size in [0, 1, 1_000, LINK_PAYLOAD_MAX] {
        let payload = vec![size as u8; size];
        device.send(2, &payload).await;
        assert_eq!(
            collector.receive().await,
            (incoming, payload.clone().into())
        );
        collector.send(incoming, &payload).await;
        assert_eq!(device.receive().await, (2, payload.into()));
    }
}

#[tokio::test]
async fn the_first_packet_does_not_overtake_the_announcement() {
    let relay = Relay::start().await;
    let mut collector = relay.link("ns/factory/sa/collector", &["collector"]).await;
    collector.register(COLLECTOR).await.unwrap();
    let mut device = relay.link("ns/factory/device/pump-7", &[]).await;
    for circuit in (2..60).step_by(2) {
        let (circuit, destination) = (CircuitId(circuit), COLLECTOR.parse().unwrap());
        device
            .say(ToRelay::Open {
                circuit,
                destination,
                instance: None,
            })
            .await;
        device.send(circuit.0, b"hello").await;
        // Reads one thing at a time: the announcement must be the first.
        let incoming = collector.incoming().await;
        assert_eq!(collector.receive().await.0, incoming);
    }
}

/// Each row: who has the link, what it asks for, and the word of the refusal.
#[tokio::test]
async fn refusals() {
    let relay = Relay::start().await;
    let _authority = relay.authority().await;
    let device = ("ns/factory/device/pump-7", &[][..]);
    let pod = ("ns/factory/sa/collector", &["collector"][..]);
    for ((who, services), name, word) in [
        (
            device,
            "pump-8.factory.device.fairway.internal",
            reason::NAME_NOT_YOURS,
        ),
        (
            device,
            "pump-7.other.device.fairway.internal",
            reason::NAME_NOT_YOURS,
        ),
        (device, COLLECTOR, reason::NAME_NOT_YOURS),
        (device, AUTHORITY, reason::NAME_NOT_YOURS),
        (pod, PUMP, reason::NAME_NOT_YOURS),
        (
            pod,
            "other.factory.svc.fairway.internal",
            reason::NAME_NOT_YOURS,
        ),
    ] {
        let mut link = relay.link(who, services).await;
        assert_eq!(
            link.register(name).await,
            Err(word.to_owned()),
            "{who} {name}"
        );
    }
    for ((who, services), name, word) in [
        (device, COLLECTOR, reason::NOT_HERE),
        (
            device,
            "pump-8.factory.device.fairway.internal",
            reason::FORBIDDEN,
        ),
        (pod, PUMP, reason::NOT_HERE),
        (pod, COLLECTOR, reason::FORBIDDEN),
    ] {
        let mut link = relay.link(who, services).await;
        assert_eq!(
            link.open(2, name).await,
            Err(word.to_owned()),
            "{who} {name}"
        );
    }
    let mut anonymous = relay.anonymous().await;
    for (circuit, name, answer) in [
        (2, COLLECTOR, Err(reason::AUTHORITY_ONLY)),
        (4, PUMP, Err(reason::AUTHORITY_ONLY)),
        (6, AUTHORITY, Ok(())),
        (8, AUTHORITY, Ok(())),
        (10, AUTHORITY, Ok(())),
        (12, AUTHORITY, Ok(())),
        (14, AUTHORITY, Err(reason::OVERLOADED)),
    ] {
        let opened = anonymous.open(circuit, name).await;
        assert_eq!(opened, answer.map_err(str::to_owned), "{name} {circuit}");
    }
    assert_eq!(
        anonymous.register(PUMP).await,
        Err(reason::NAME_NOT_YOURS.to_owned())
    );
}

#[tokio::test]
async fn a_ticket_holder_reaches_the_authority_on_a_budget_of_its_own() {
    let relay = Relay::start_with(|config| config.settings.budgets.anonymous.links = 0).await;
    let mut authority = relay.authority().await;
    let ticket = Ed25519Key::from_seed([42; 32]);
    // The relay has not heard of the ticket: it is as good as none.
    let mut newcomer = relay.ticket_holder(&ticket).await;
    let refused = match newcomer.establish().await {
        Ok(()) => newcomer.ended().await,
        Err(word) => word,
    };
    assert_eq!(refused, "overloaded");

    let rules = Rules {
        tickets: Arc::new([TicketId::of(&ticket.verifying_key())].into()),
        ..Rules::default()
    };
    let own = local(&relay.domain, "ns/fairway-system/sa/fairway-relay", &[], 1);
    relay.identity.send_replace(Identity::new(own, &rules));
    let mut newcomer = relay.ticket_holder(&ticket).await;
    assert_eq!(newcomer.establish().await, Ok(()));
    relay.settle("/classes/ticket/links", 1).await;
    assert_eq!(
        newcomer.open(2, COLLECTOR).await,
        Err(reason::AUTHORITY_ONLY.to_owned())
    );
    assert_eq!(newcomer.open(4, AUTHORITY).await, Ok(()));
    authority.incoming().await;
}

#[tokio::test]
async fn an_expired_credential_reaches_the_authority_on_a_budget_of_its_own() {
    let relay = Relay::start_with(|config| config.settings.budgets.anonymous.links = 0).await;
    let mut authority = relay.authority().await;
    let mut expired = relay.expired("ns/factory/device/pump-7").await;
    relay.settle("/classes/expired/links", 1).await;
    assert_eq!(
        expired.register(PUMP).await,
        Err(reason::NAME_NOT_YOURS.to_owned())
    );
    assert_eq!(
        expired.open(2, COLLECTOR).await,
        Err(reason::AUTHORITY_ONLY.to_owned())
    );
    assert_eq!(expired.open(4, AUTHORITY).await, Ok(()));
    authority.incoming().await;
    // Those without any credential have nothing left here.
    let mut anonymous = relay.half_open().await;
    let refused = match anonymous.establish().await {
        Ok(()) => anonymous.ended().await,
        Err(word) => word,
    };
    assert_eq!(refused, "overloaded");
}

#[tokio::test]
async fn the_bytes_of_an_anonymous_circuit_are_bounded() {
    let relay = Relay::start().await;
    let mut authority = relay.authority().await;
    let mut anonymous = relay.anonymous().await;
    anonymous.open(2, AUTHORITY).await.unwrap();
    let incoming = authority.incoming().await;
    let max = crate::limits::BUDGETS.anonymous.bytes_per_circuit.unwrap();
    for _ in 0..=max / 10_000 {
        anonymous.send(2, &[0; 10_000]).await;
    }
    assert_eq!(
        anonymous.closed_circuit().await,
        (2, reason::OVERLOADED.to_owned())
    );
    assert_eq!(
        authority.closed_circuit().await,
        (incoming, reason::OVERLOADED.to_owned())
    );
}

#[tokio::test]
async fn an_overrun_resets_only_that_circuit() {
    let relay = Relay::start().await;
    let (mut device, mut collector, _) = joined(&relay).await;
    device.open(4, COLLECTOR).await.unwrap();
    let good = collector.incoming().await;
    let payload = vec![7; LINK_PAYLOAD_MAX];
    for _ in 0..=CIRCUIT_CREDIT as usize / LINK_PAYLOAD_MAX {
        device.send(2, &payload).await;
    }
    assert_eq!(
        device.closed_circuit().await,
        (2, reason::CREDIT_OVERRUN.to_owned())
    );
    assert_eq!(collector.closed_circuit().await.1, reason::CREDIT_OVERRUN);
    device.send(4, b"still here").await;
    loop {
        let (circuit, payload) = collector.receive().await;
        if circuit == good {
            assert_eq!(payload, &b"still here"[..]);
            return;
        }
    }
}

#[tokio::test]
async fn a_slow_reader_stalls_nobody() {
    let relay = Relay::start().await;
    let mut prometheus = relay.link("ns/m/sa/prometheus", &[]).await;
    let mut slow = relay.link("ns/factory/device/pump-7", &[]).await;
    slow.register(PUMP).await.unwrap();
    let mut fast = relay.link("ns/factory/device/pump-8", &[]).await;
    let fast_name = "pump-8.factory.device.fairway.internal";
    fast.register(fast_name).await.unwrap();
    // The slow device has many circuits, reads nothing at all, and each
    // circuit's sender uses all of its credit.
    let payload = vec![7; LINK_PAYLOAD_MAX];
    let n_circuits = 6;
    for circuit in 1..=n_circuits {
        prometheus.open(circuit * 2, PUMP).await.unwrap();
        for _ in 0..CIRCUIT_CREDIT as usize / LINK_PAYLOAD_MAX {
            prometheus.send(circuit * 2, &payload).await;
        }
    }
    prometheus.open(100, fast_name).await.unwrap();
    let incoming = fast.incoming().await;
    for i in 0..200_u8 {
        prometheus.send(100, &[i]).await;
        assert_eq!(fast.receive().await, (incoming, vec![i].into()));
        fast.send(incoming, &[i]).await;
        assert_eq!(prometheus.receive().await, (100, vec![i].into()));
    }
    // There is a queue, or this would prove nothing.
    assert!(relay.inspector.state()["queued_bytes"].as_u64() > Some(1 << 20));
    // What the slow device left in the relay comes when it reads again.
    for _ in 0..n_circuits as usize * (CIRCUIT_CREDIT as usize / LINK_PAYLOAD_MAX) {
        assert_eq!(slow.receive().await.1.len(), LINK_PAYLOAD_MAX);
    }
    relay.settle("/queued_bytes", 0).await;
}

/// Asks for what is refused; the circuit that was closed, and why, if that comes
/// before the answer.
async fn asked(peer: &mut Peer) -> Option<(u32, String)> {
    let names = vec![PUMP.parse().unwrap()];
    let instance = Instance([1; 16]);
    peer.say(ToRelay::Register { names, instance }).await;
    match peer.hear().await {
        ToEndpoint::RegisterRefused { .. } => None,
        ToEndpoint::Closed { circuit, reason } => Some((circuit.0, reason.word().to_owned())),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn when_memory_runs_out_the_slowest_circuit_is_reset() {
    let relay = Relay::start_with(|config| {
        config.settings.memory = MemoryLimits {
            total: 1 << 20,
            link: 1 << 20,
        };
    })
    .await;
    let mut prometheus = relay.link("ns/m/sa/prometheus", &[]).await;
    let mut slow = relay.link("ns/factory/device/pump-7", &[]).await;
    slow.register(PUMP).await.unwrap();
    // More than the kernel's buffers and the relay's memory take together.
    let payload = vec![7; LINK_PAYLOAD_MAX];
    let mut n_circuits = 0;
    let (circuit, word) = loop {
        n_circuits += 1;
        assert!(n_circuits < 100, "the memory is bounded");
        prometheus.open(n_circuits * 2, PUMP).await.unwrap();
        for _ in 0..CIRCUIT_CREDIT as usize / LINK_PAYLOAD_MAX {
            prometheus.send(n_circuits * 2, &payload).await;
        }
        // A message in between shows what has been closed by now: the second one,
        // since the first may be answered before what was read with it is written.
        if let Some(closed) = asked(&mut prometheus).await {
            break closed;
        }
        if let Some(closed) = asked(&mut prometheus).await {
            break closed;
        }
    };
    assert_eq!(word, reason::OVERLOADED);
    assert!(circuit <= n_circuits * 2);
    let queued = relay.inspector.state()["queued_bytes"].as_u64().unwrap();
    assert!(queued <= 1 << 20, "{queued}");
}

#[tokio::test]
async fn credit_is_passed_through() {
    let relay = Relay::start().await;
    let (mut device, mut collector, incoming) = joined(&relay).await;
    let payload = vec![7; 16 * 1024];
    let n_frames = CIRCUIT_CREDIT as usize / payload.len();
    for round in 1..=3 {
        for _ in 0..n_frames {
            device.send(2, &payload).await;
            collector.receive().await;
        }
        collector
            .grant(incoming, CIRCUIT_CREDIT * (round + 1))
            .await;
        loop {
            device.step().await;
            if device.credit_limit() == CIRCUIT_CREDIT * (round + 1) {
                break;
            }
        }
    }
    device.send(2, b"and more").await;
    assert_eq!(collector.receive().await.1, &b"and more"[..]);
}

#[tokio::test]
async fn a_killed_peer_closes_its_circuits_with_the_reason() {
    let relay = Relay::start().await;
    let (device, mut collector, incoming) = joined(&relay).await;
    drop(device);
    assert_eq!(
        collector.closed_circuit().await,
        (incoming, reason::LINK_LOST.to_owned())
    );
    relay.settle("/classes/device/links", 0).await;

    let (mut device, collector, _) = joined(&relay).await;
    drop(collector);
    assert_eq!(
        device.closed_circuit().await,
        (2, reason::LINK_LOST.to_owned())
    );
    // Its name went with it; the first collector's is still there.
    relay.settle("/classes/workload/links", 1).await;
    assert_eq!(device.open(4, COLLECTOR).await, Ok(()));
}

#[tokio::test]
async fn closing_a_circuit_tells_the_other_end_why() {
    let relay = Relay::start().await;
    let (mut device, mut collector, incoming) = joined(&relay).await;
    device.send(2, b"last words").await;
    let circuit = CircuitId(2);
    let reason = Reason::new("done", "bye");
    device.say(ToRelay::Close { circuit, reason }).await;
    assert_eq!(collector.receive().await.1, &b"last words"[..]);
    assert_eq!(
        collector.closed_circuit().await,
        (incoming, "done".to_owned())
    );
}

#[tokio::test]
async fn a_new_relay_is_settled_once_the_cluster_has_linked() {
    let relay = Relay::start().await;
    let inspector = relay.inspector.clone();
    let mut settling = tokio::spawn(async move { inspector.settled().await });
    let _collector = relay.link("ns/factory/sa/collector", &["collector"]).await;
    let quiet = crate::limits::SETTLED_AFTER * 3 / 2;
    // Without the authority nobody could enrol or renew here.
    assert!(tokio::time::timeout(quiet, &mut settling).await.is_err());
    let _authority = relay.authority().await;
    tokio::time::timeout(quiet * 3, settling)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_new_relay_does_not_wait_for_ever() {
    let relay = Relay::start().await;
    let began = Instant::now();
    tokio::time::pause();
    relay.inspector.settled().await;
    let waited = began.elapsed();
    let most = crate::limits::SETTLE_TIMEOUT;
    assert!(waited >= most && waited < most + Duration::from_secs(1));
}

// --- bad input -----------------------------------------------------------------------

#[tokio::test]
async fn garbage_ends_the_link_and_nothing_else() {
    let relay = Relay::start().await;
    let (mut device, mut collector, incoming) = joined(&relay).await;
    let http = b"GET / HTTP/1.1\r\nhost: relay\r\n\r\n".to_vec();
    let huge = [vec![0, 255, 255, 255, 0, 0, 0, 0], vec![0; 4_000]].concat();
    let unknown = vec![9; 100];
    // A frame that is fine, and a packet in it that is not.
    let forged = data_frame(0, &[1; 2_000]);
    let foreign = data_frame(2, b"a circuit before the handshake");
    for garbage in [http, huge, unknown, forged, foreign] {
        let mut socket = TcpStream::connect(relay.address).await.unwrap();
        socket.write_all(&garbage).await.unwrap();
        socket.shutdown().await.unwrap();
        relay.settle("/half_open_links", 0).await;
    }
    // On an authenticated link it ends that link, and its circuits.
    device.link.socket.write_all(&[9; 100]).await.unwrap();
    assert_eq!(device.ended().await, "protocol-violation");
    assert_eq!(
        collector.closed_circuit().await,
        (incoming, reason::PROTOCOL.to_owned())
    );
    // Control messages that are none, too.
    let mut device = relay.link("ns/factory/device/pump-7", &[]).await;
    device.say_raw(b"\x00\x00\x00\x05garbage").await;
    assert_eq!(device.ended().await, "protocol-violation");
    assert!(collector.register(COLLECTOR).await.is_ok());
}

#[tokio::test]
async fn half_open_links_are_bounded_and_the_oldest_gives_way() {
    let relay = Relay::start_with(|config| config.gate.half_open = 8).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(relay.address).await.unwrap());
    }
    relay.settle("/half_open_links", 8).await;
    // Somebody who does speak gets through, however many do not.
    let mut device = relay.link("ns/factory/device/pump-7", &[]).await;
    device.register(PUMP).await.unwrap();
}

#[tokio::test]
async fn a_handshake_has_a_time_limit() {
    let relay = Relay::start().await;
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    let mut begun = relay.half_open().await;
    relay.settle("/half_open_links", 2).await;
    let began = Instant::now();
    tokio::time::pause();
    begun.ended_silently().await;
    let mut byte = [0; 4_096];
    while tokio::io::AsyncReadExt::read(&mut silent, &mut byte)
        .await
        .unwrap_or(0)
        > 0
    {}
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn connections_are_bounded() {
    let relay = Relay::start_with(|config| config.gate.connections = 2).await;
    let _first = relay.link("ns/factory/device/pump-7", &[]).await;
    let _second = relay.link("ns/factory/device/pump-8", &[]).await;
    let mut third = relay.half_open().await;
    assert_eq!(third.establish().await, Err("overloaded".to_owned()));
}

// --- the world ---------------------------------------------------------------------------

#[tokio::test]
async fn revocation_ends_the_link_and_keeps_it_out() {
    let relay = Relay::start().await;
    let (mut device, mut collector, incoming) = joined(&relay).await;
    let mut revoked = RevocationList::default();
    let revocation = Revocation {
        issued_before: NOW.plus(1),
        keep_until: NOW.plus(86_400),
    };
    revoked
        .insert(uid("ns/factory/device/pump-7"), revocation)
        .unwrap();
    let rules = Rules {
        revoked: revoked.into(),
        ..Rules::default()
    };
    let own = local(&relay.domain, "ns/fairway-system/sa/fairway-relay", &[], 1);
    relay.identity.send_replace(Identity::new(own, &rules));
    assert_eq!(device.ended().await, "revoked");
    assert_eq!(
        collector.closed_circuit().await,
        (incoming, reason::REVOKED.to_owned())
    );
    let mut again = relay.dial("ns/factory/device/pump-7", &[]).await;
    assert_eq!(again.establish().await, Err("revoked".to_owned()));
}

#[tokio::test]
async fn a_new_trust_set_puts_out_whoever_does_not_hold_under_it() {
    let mut relay = Relay::start().await;
    let (mut device, mut collector, _) = joined(&relay).await;
    relay.domain.raise_floor(NOW.plus(1));
    let own = local(&relay.domain, "ns/fairway-system/sa/fairway-relay", &[], 1);
    relay
        .identity
        .send_replace(Identity::new(own, &Rules::default()));
    assert_eq!(device.ended().await, "revoked");
    assert_eq!(collector.ended().await, "revoked");
    relay.settle("/names", 0).await;
}

#[tokio::test]
async fn a_foreign_credential_is_refused() {
    let relay = Relay::start().await;
    let mut stranger = relay.stranger().await;
    let refused = stranger.establish().await.unwrap_err();
    assert!(
        ["trust-refused", "credential-refused"].contains(&refused.as_str()),
        "{refused}"
    );
    relay.settle("/half_open_links", 0).await;
}

#[tokio::test]
async fn a_drain_tells_links_to_move_and_waits_for_them() {
    let relay = Relay::start().await;
    let (mut device, mut collector, incoming) = joined(&relay).await;
    relay.drain.begin();
    assert_eq!(collector.hear().await, ToEndpoint::Drain);
    assert_eq!(device.hear().await, ToEndpoint::Drain);
    // Live circuits go on until their ends have moved.
    device.send(2, b"still here").await;
    assert_eq!(
        collector.receive().await,
        (incoming, b"still here".to_vec().into())
    );
    assert!(!relay.running.is_finished());
    drop((device, collector));
    relay.running.await.unwrap();
}

#[tokio::test]
async fn a_drain_that_is_cut_short_closes_the_links() {
    let relay = Relay::start().await;
    let (mut device, _collector, _) = joined(&relay).await;
    relay.drain.stop();
    assert_eq!(device.ended().await, "shutdown");
    relay.running.await.unwrap();
}
