//! Floods, loris and games: each bounded, each refused with a reason where it
//! can be, and none of them felt by others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fairway_control::limits::{CIRCUIT_CREDIT, LINK_PAYLOAD_MAX};
use fairway_control::link::{CircuitId, ToEndpoint, ToRelay};
use fairway_control::{Reason, reason};
use fairway_daemon::Rate;
use fairway_session::OpenRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::peer::{Peer, Relay, data_frame};
use super::{AUTHORITY, COLLECTOR, PUMP, joined};
use crate::core::Class;

/// Where floods come from: not where the others are.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

async fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// All that comes, to the end of the connection.
async fn last_words(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    bytes
}

fn says(bytes: &[u8], word: &str) -> bool {
    bytes
        .windows(word.len())
        .any(|part| part == word.as_bytes())
}

// --- connections -----------------------------------------------------------------

#[tokio::test]
async fn a_flood_of_half_open_links_drives_out_only_its_own() {
    let relay = Relay::start_with(|config| config.gate.half_open = 16).await;
    // Begun before the flood, and slow.
    let mut slow = relay.half_open().await;
    relay.settle("/half_open_links", 1).await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(connect_from(ELSEWHERE, relay.address).await);
    }
    relay.settle("/half_open_links", 16).await;
    slow.establish().await.unwrap();
    relay
        .link("ns/factory/device/pump-7", &[])
        .await
        .register(PUMP)
        .await
        .unwrap();
}

#[tokio::test]
async fn one_source_has_a_rate_and_others_have_theirs() {
    let relay = Relay::start_with(|config| {
        config.gate.accepts_per_source = Rate {
            per_second: 1,
            burst: 5,
        };
    })
    .await;
    let mut n_refused = 0;
    for _ in 0..8 {
        let mut socket = connect_from(ELSEWHERE, relay.address).await;
        // A half of the connection is enough to end one that was let in.
        socket.shutdown().await.unwrap();
        let words = last_words(socket).await;
        n_refused += usize::from(says(&words, reason::OVERLOADED));
    }
    assert!((2..=3).contains(&n_refused), "{n_refused}");
    relay.link("ns/factory/device/pump-7", &[]).await;
}

#[tokio::test]
async fn all_sources_together_have_a_rate() {
    let relay = Relay::start_with(|config| {
        config.gate.accepts = Rate {
            per_second: 1,
            burst: 2,
        };
    })
    .await;
    let mut device = relay.link("ns/factory/device/pump-7", &[]).await;
    let _second = connect_from(ELSEWHERE, relay.address).await;
    let mut third = relay.half_open().await;
    assert_eq!(third.establish().await, Err("overloaded".to_owned()));
    // Whoever is there goes on.
    device.register(PUMP).await.unwrap();
}

#[tokio::test]
async fn a_handshake_by_the_byte_is_given_no_more_time_than_any() {
    let relay = Relay::start().await;
    let mut loris = TcpStream::connect(relay.address).await.unwrap();
    relay.settle("/half_open_links", 1).await;
    let began = Instant::now();
    tokio::time::pause();
    // The header of a frame, and then what it announces, very slowly.
    let frame = data_frame(0, &[1; 1_300]);
    for byte in frame {
        if loris.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if relay.inspector.state()["half_open_links"] == 0 {
            break;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(15));
    relay.settle("/half_open_links", 0).await;
    relay.settle("/connections", 0).await;
}

#[tokio::test]
async fn a_link_without_a_credential_that_does_nothing_ends() {
    let relay = Relay::start().await;
    let mut idle = relay.anonymous().await;
    relay.settle("/classes/anonymous/links", 1).await;
    let began = Instant::now();
    tokio::time::pause();
    idle.ended_silently().await;
    let lifetime = crate::limits::BUDGETS.anonymous.lifetime.unwrap();
    assert!(began.elapsed() < lifetime + Duration::from_secs(10));
    relay.settle("/classes/anonymous/links", 0).await;
}

#[tokio::test]
async fn half_a_control_message_holds_up_only_its_own_link() {
    let relay = Relay::start().await;
    let mut loris = relay.link("ns/factory/device/pump-8", &[]).await;
    // A length of 16 KiB, and then nothing.
    loris.say_raw(b"\x00\x00\x3f\xff").await;
    let mut device = relay.link("ns/factory/device/pump-7", &[]).await;
    device.register(PUMP).await.unwrap();
    // More than the limit is not waited for.
    let mut greedy = relay.link("ns/factory/device/pump-9", &[]).await;
    greedy.say_raw(b"\x00\x00\x40\x01").await;
    assert_eq!(greedy.ended().await, "protocol-violation");
}

// --- what an authenticated link may do -----------------------------------------------

#[tokio::test]
async fn circuits_opened_and_abandoned_use_up_only_the_openers_rate() {
    let relay = Relay::start_with(|config| {
        config.settings.budgets.device.opens_per_link = Rate {
            per_second: 1,
            burst: 20,
        };
    })
    .await;
    let (mut device, mut collector, _) = joined(&relay).await;
    let mut n_refused = 0;
    for circuit in (4..104).step_by(2) {
        match device.open(circuit, COLLECTOR).await {
            Ok(()) => {
                let (circuit, reason) = (CircuitId(circuit), Reason::new("cancelled", ""));
                device.say(ToRelay::Close { circuit, reason }).await;
            }
            Err(word) => {
                assert_eq!(word, reason::OVERLOADED);
                n_refused += 1;
            }
        }
    }
    assert!(n_refused >= 25, "{n_refused}");
    // The first one still works, and others are not refused.
    device.send(2, b"still here").await;
    assert_eq!(collector.receive().await.1, &b"still here"[..]);
    let mut other = relay.link("ns/factory/device/pump-8", &[]).await;
    assert_eq!(other.open(2, COLLECTOR).await, Ok(()));
    relay.settle("/classes/device/circuits", 2).await;
}

#[tokio::test]
async fn streams_opened_and_abandoned_on_a_link_are_refused_one_by_one() {
    let relay = Relay::start().await;
    let mut device = relay.link("ns/factory/device/pump-7", &[]).await;
    device.register(PUMP).await.unwrap();
    for _ in 0..500 {
        device.open_and_abandon(&OpenRequest::control()).await;
        device.open_and_abandon(&OpenRequest::port(80)).await;
    }
    // The control stream is not one of them.
    device.register(PUMP).await.unwrap();
    assert_eq!(relay.inspector.n_links(Class::Device), 1);
}

#[tokio::test]
async fn credit_by_the_byte_is_no_work_for_others() {
    let relay = Relay::start().await;
    let (mut device, mut collector, incoming) = joined(&relay).await;
    device.open(4, COLLECTOR).await.unwrap();
    let other = collector.incoming().await;
    for _ in 0..2 {
        device.send(2, &[7; LINK_PAYLOAD_MAX]).await;
        collector.receive().await;
    }
    for more in 1..=2_000 {
        collector.grant(incoming, CIRCUIT_CREDIT + more).await;
    }
    collector.send(other, b"the end").await;
    assert_eq!(device.receive().await.1, &b"the end"[..]);
    assert_eq!(device.credit_limit(), 0, "nothing was passed on");
    let whole = CIRCUIT_CREDIT + 2 * LINK_PAYLOAD_MAX as u64;
    collector.grant(incoming, whole).await;
    while device.credit_limit() != whole {
        assert!(device.step().await);
    }
}

#[tokio::test]
async fn credit_that_never_comes_stalls_only_its_own_circuit() {
    let relay = Relay::start().await;
    let (mut device, mut collector, _) = joined(&relay).await;
    device.open(4, COLLECTOR).await.unwrap();
    let other = collector.incoming().await;
    let payload = vec![7; CIRCUIT_CREDIT as usize / 64];
    for _ in 0..64 {
        device.send(2, &payload).await;
        collector.receive().await;
    }
    for n in 0..100_u8 {
        device.send(4, &[n]).await;
        assert_eq!(collector.receive().await, (other, vec![n].into()));
    }
    relay.settle("/queued_bytes", 0).await;
}

#[tokio::test]
async fn more_credit_than_a_window_ends_the_circuit_of_who_grants_it() {
    let relay = Relay::start().await;
    let (mut device, mut collector, incoming) = joined(&relay).await;
    collector.grant(incoming, u64::MAX).await;
    let word = reason::PROTOCOL.to_owned();
    assert_eq!(device.closed_circuit().await, (2, word));
}

// --- endpoints without a credential -----------------------------------------------------

#[tokio::test]
async fn a_flood_without_credentials_is_not_felt_by_those_who_have_one() {
    let relay = Relay::start_with(|config| {
        let anonymous = &mut config.settings.budgets.anonymous;
        anonymous.links = 8;
        anonymous.circuits = 4;
        anonymous.opens.burst = 16;
    })
    .await;
    let mut authority = relay.authority().await;
    let (mut device, mut collector, _) = joined(&relay).await;
    let mut flood = tokio::task::JoinSet::new();
    for key in 0..24_u8 {
        let (pin, address) = (relay.domain.pin, relay.address);
        flood.spawn(async move {
            loop {
                if let Ok(mut peer) = Peer::anonymous(address, pin, key).await
                    && peer.establish().await.is_ok()
                {
                    for circuit in [2, 4, 6] {
                        let _ = peer.try_open(circuit, AUTHORITY).await;
                    }
                }
            }
        });
    }
    relay.settle("/classes/anonymous/circuits", 4).await;
    // Those who have one: new links, circuits, data.
    for round in 0..10_u8 {
        let mut newcomer = relay
            .link(&format!("ns/factory/device/new-{round}"), &[])
            .await;
        newcomer.open(2, COLLECTOR).await.unwrap();
        let incoming = collector.incoming().await;
        newcomer.send(2, &[round]).await;
        assert_eq!(collector.receive().await, (incoming, vec![round].into()));
        drop(newcomer);
        assert_eq!(collector.closed_circuit().await.0, incoming);
        device.send(2, &[round]).await;
        collector.receive().await;
    }
    // And whose credential has only expired.
    let mut expired = relay.expired("ns/factory/device/pump-9").await;
    assert_eq!(expired.open(2, AUTHORITY).await, Ok(()));
    let state = relay.inspector.state();
    assert!(state["classes"]["anonymous"]["circuits"].as_u64() <= Some(4));
    flood.abort_all();
    authority.incoming().await;
}

// --- moving ------------------------------------------------------------------------------

#[tokio::test]
async fn a_circuit_finds_its_instance_and_the_opener_hears_that_it_moves() {
    let relay = Relay::start().await;
    let (mut device, mut old, incoming) = joined(&relay).await;
    let instance = old.instance;
    let mut other = relay.link("ns/factory/sa/collector", &["collector"]).await;
    other.register(COLLECTOR).await.unwrap();
    let mut new = relay.link("ns/factory/sa/collector", &["collector"]).await;
    new.instance = instance;
    new.register(COLLECTOR).await.unwrap();
    let circuit = CircuitId(incoming);
    old.say(ToRelay::Move { circuit }).await;
    let circuit = CircuitId(2);
    assert_eq!(device.hear().await, ToEndpoint::Move { circuit });
    assert_eq!(device.open_to(4, COLLECTOR, Some(instance)).await, Ok(()));
    new.incoming().await;
    // Once its links are gone, so is the instance.
    drop((old, new));
    relay.settle("/classes/workload/links", 1).await;
    assert_eq!(device.closed_circuit().await.1, reason::LINK_LOST);
    assert_eq!(device.closed_circuit().await.1, reason::LINK_LOST);
    let refused = device.open_to(6, COLLECTOR, Some(instance)).await;
    assert_eq!(refused, Err(reason::OTHER_INSTANCE.to_owned()));
}
