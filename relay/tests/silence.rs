//! Links that die without saying so, both ways or one way: sessions are on
//! another one soon, and not a byte is lost or doubled.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod network;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{COLLECTOR, Installation, Relay, echo, within};
use fairway_endpoint::Endpoint;
use fairway_identity::{RelayAddress, Transport};
use fairway_session::OpenRequest;
use network::{Blocked, Datagrams, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// It takes a little more than a second; this is for a machine that has other
/// things to do, and round trips of half a second under load.
const PAUSE_MAX: Duration = Duration::from_secs(7);

/// A way to a relay that can be blocked.
enum Way {
    Quic(Datagrams),
    Tcp(Wire),
}

impl Way {
    async fn to(relay: &Relay, transport: Transport) -> Self {
        match transport {
            Transport::Quic => {
                Self::Quic(Datagrams::start(&relay.quic, 0, Duration::from_millis(2)).await)
            }
            Transport::Tcp => Self::Tcp(Wire::start(relay.address.at()).await),
            Transport::Tls | Transport::WebSocket => panic!("no way for these"),
        }
    }

    fn address(&self) -> RelayAddress {
        let (transport, at) = match self {
            Self::Quic(datagrams) => (Transport::Quic, &datagrams.address),
            Self::Tcp(wire) => (Transport::Tcp, &wire.address),
        };
        RelayAddress::new(transport, at.parse().unwrap())
    }

    fn block(&self, blocked: Blocked) {
        match self {
            Self::Quic(datagrams) => datagrams.block(blocked),
            Self::Tcp(wire) => wire.block(blocked),
        }
    }
}

/// A device with two ways to two relays.
struct World {
    installation: Installation,
    _other: Relay,
    _sidecar: Endpoint,
    ways: [Way; 2],
    device: Endpoint,
}

impl World {
    async fn start(transport: Transport) -> Self {
        let installation = Installation::start().await;
        let (sidecar, incoming) = installation.collector().await;
        tokio::spawn(echo(incoming));
        let other = installation.another_relay().await;
        for endpoint in [&sidecar, &installation.front_endpoint] {
            within(async {
                let is_registered = |endpoint: &Endpoint| {
                    endpoint
                        .status()
                        .links
                        .iter()
                        .filter(|link| !link.registered.is_empty())
                        .count()
                        == 2
                };
                while !is_registered(endpoint) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        }
        let ways = [
            Way::to(&installation.relay, transport).await,
            Way::to(&other, transport).await,
        ];
        let addresses = ways.iter().map(Way::address).collect();
        let device = installation
            .device_by("pump-7", addresses, Default::default())
            .await;
        Self {
            installation,
            _other: other,
            _sidecar: sidecar,
            ways,
            device,
        }
    }

    /// The way by which the device is linked, once it is by one.
    async fn used(&self) -> &Way {
        within(async {
            loop {
                let links = self.device.status().links;
                let used = |way: &&Way| {
                    links
                        .iter()
                        .all(|link| link.remote == way.address().to_string())
                };
                if links.len() == 1
                    && links[0].state == "up"
                    && let Some(way) = self.ways.iter().find(used)
                {
                    return way;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

/// Numbers that go to the collector and come back, one after another, beside a
/// bulk transfer, if that is wanted.
struct Load {
    n_back: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    async fn start(device: &Endpoint, with_bulk: bool) -> Self {
        let collector = COLLECTOR.parse().unwrap();
        let open = || async {
            let opening = device.open(&collector, OpenRequest::port(1883));
            within(opening).await.unwrap()
        };
        let (n_back, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut tasks = vec![tokio::spawn({
            let (mut stream, n_back, stop) = (open().await, n_back.clone(), stop.clone());
            async move {
                let mut n = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&n.to_be_bytes()).await.unwrap();
                    let mut back = [0; 8];
                    stream.read_exact(&mut back).await.unwrap();
                    assert_eq!(u64::from_be_bytes(back), n);
                    n += 1;
                    n_back.store(n, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        })];
        if with_bulk {
            let (stream, stop) = (open().await, stop.clone());
            tasks.push(tokio::spawn(bulk(stream, stop)));
        }
        Self {
            n_back,
            stop,
            tasks,
        }
    }

    /// How long it takes until more has come back.
    async fn pause(&self) -> Duration {
        let (began, before) = (Instant::now(), self.n_back.load(Ordering::Relaxed));
        within(async {
            while self.n_back.load(Ordering::Relaxed) < before + 3 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        began.elapsed()
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            within(task).await.unwrap();
        }
    }
}

async fn bulk(stream: fairway_endpoint::Stream, stop: Arc<AtomicBool>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let piece: Vec<u8> = (0..100_000).map(|n| (n % 251) as u8).collect();
    let sending = async {
        let mut n_pieces = 0_usize;
        while !stop.load(Ordering::Relaxed) {
            write.write_all(&piece).await.unwrap();
            n_pieces += 1;
        }
        write.shutdown().await.unwrap();
        n_pieces
    };
    let receiving = async {
        let (mut n, mut bytes) = (0_usize, vec![0; 64 * 1024]);
        loop {
            let length = read.read(&mut bytes).await.unwrap();
            if length == 0 {
                return n;
            }
            let right = |(i, byte): (usize, &u8)| *byte == piece[(n + i) % piece.len()];
            assert!(
                bytes[..length].iter().enumerate().all(right),
                "lost or doubled"
            );
            n += length;
        }
    };
    let (n_pieces, n) = tokio::join!(sending, receiving);
    assert_eq!(n_pieces * piece.len(), n);
}

async fn survives(transport: Transport, blocked: Blocked, with_bulk: bool) {
    let world = World::start(transport).await;
    let load = Load::start(&world.device, with_bulk).await;
    let mut pauses = Vec::new();
    for _ in 0..6 {
        load.pause().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let used = world.used().await;
        used.block(blocked);
        pauses.push(load.pause().await);
        // Not for long, but as if for good: it is another link that is used.
        within(async {
            while std::ptr::eq(world.used().await, used) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        used.block(Blocked::No);
    }
    load.end().await;
    println!("{transport:?}, {blocked:?}: {pauses:?}");
    drop(world.installation);
    assert!(pauses.iter().all(|pause| *pause < PAUSE_MAX), "{pauses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_quic_link_costs_seconds_under_load() {
    survives(Transport::Quic, Blocked::Both, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_quic_link_costs_seconds() {
    survives(Transport::Quic, Blocked::Both, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tcp_link_costs_seconds_under_load() {
    survives(Transport::Tcp, Blocked::Both, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tcp_link_costs_seconds() {
    survives(Transport::Tcp, Blocked::Both, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quic_link_that_is_deaf_at_the_far_end_costs_seconds() {
    survives(Transport::Quic, Blocked::Up, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_link_that_is_deaf_at_the_far_end_costs_seconds() {
    survives(Transport::Tcp, Blocked::Up, true).await;
}
