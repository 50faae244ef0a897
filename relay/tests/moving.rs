//! Two relays' processes, of which one dies or leaves while bytes flow.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{COLLECTOR, Installation, Relay, echo, within};
use fairway_endpoint::{Endpoint, Stream};
use fairway_identity::{HostPort, RelayAddress};
use fairway_session::OpenRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Numbers that go to the collector and come back, for as long as it is wanted:
/// each once, in order.
struct Load {
    n_back: Arc<AtomicU64>,
    /// The longest time without any, in milliseconds.
    pause_max: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    running: JoinHandle<()>,
}

impl Load {
    async fn start(device: &Endpoint) -> Self {
        let collector = COLLECTOR.parse().unwrap();
        let opening = device.open(&collector, OpenRequest::port(1883));
        let stream = within(opening).await.unwrap();
        let (n_back, pause_max) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let stop = Arc::<AtomicBool>::default();
        let running = run(stream, n_back.clone(), pause_max.clone(), stop.clone());
        Self {
            n_back,
            pause_max,
            stop,
            running: tokio::spawn(running),
        }
    }

    /// Waits until more has come back, from now on.
    async fn goes_on(&self) {
        let before = self.n_back.load(Ordering::Relaxed);
        within(async {
            while self.n_back.load(Ordering::Relaxed) < before + 100_000 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// All that was sent has come back.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        within(self.running).await.unwrap();
    }
}

async fn run(
    stream: Stream,
    n_back: Arc<AtomicU64>,
    pause_max: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        let mut n = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let piece: Vec<u8> = (n..n + 2_048).flat_map(u64::to_be_bytes).collect();
            write.write_all(&piece).await.unwrap();
            n += 2_048;
        }
        write.shutdown().await.unwrap();
        n
    };
    let receiving = async {
        let (mut n, mut last) = (0_u64, Instant::now());
        let mut rest = Vec::new();
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let length = read.read(&mut bytes).await.unwrap();
            if length == 0 {
                return n;
            }
            let pause = last.elapsed().as_millis() as u64;
            pause_max.fetch_max(pause, Ordering::Relaxed);
            last = Instant::now();
            rest.extend_from_slice(&bytes[..length]);
            for number in rest.chunks_exact(8) {
                assert_eq!(number, n.to_be_bytes(), "lost or doubled");
                n += 1;
            }
            rest.drain(..rest.len() / 8 * 8);
            n_back.store(n, Ordering::Relaxed);
        }
    };
    let (sent, back) = tokio::join!(sending, receiving);
    assert_eq!(sent, back);
}

/// A device that may use both relays, linked and under load.
async fn loaded() -> (Installation, Relay, Endpoint, Endpoint, Load) {
    let installation = Installation::start().await;
    let (sidecar, incoming) = installation.collector().await;
    tokio::spawn(echo(incoming));
    let other = installation.another_relay().await;
    registered(&installation, &sidecar, 2).await;
    let relays = vec![installation.relay.address.clone(), other.address.clone()];
    let device = installation
        .device_by("pump-7", relays, Default::default())
        .await;
    let load = Load::start(&device).await;
    load.goes_on().await;
    (installation, other, sidecar, device, load)
}

/// Waits until sidecar and front are registered at so many relays.
async fn registered(installation: &Installation, sidecar: &Endpoint, n_relays: usize) {
    within(async {
        for endpoint in [sidecar, &installation.front_endpoint] {
            let links = || endpoint.status().links;
            while links()
                .iter()
                .filter(|link| !link.registered.is_empty())
                .count()
                < n_relays
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .await;
}

fn linked_to(device: &Endpoint) -> Option<String> {
    let links = device.status().links;
    let up = links.iter().find(|link| link.state == "up");
    up.map(|link| link.remote.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_twenty_times_under_load_costs_not_a_byte() {
    let (mut installation, mut other, sidecar, device, load) = loaded().await;
    for _ in 0..20 {
        let used = within(async {
            loop {
                match linked_to(&device) {
                    Some(used) => break used,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await;
        let is_first = installation.relay.address.to_string() == used;
        let relay = if is_first {
            &mut installation.relay
        } else {
            &mut other
        };
        relay.kill();
        let address = relay.address.clone();
        load.goes_on().await;
        // It comes back, as its pod would, and the next one is killed.
        let again = installation.relay_at(address).await;
        if is_first {
            installation.relay = again;
        } else {
            other = again;
        }
        registered(&installation, &sidecar, 2).await;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_is_not_noticed() {
    let (mut installation, mut other, _sidecar, device, load) = loaded().await;
    let used = linked_to(&device).unwrap();
    load.pause_max.store(0, Ordering::Relaxed);
    let leaving = if installation.relay.address.to_string() == used {
        &mut installation.relay
    } else {
        &mut other
    };
    leaving.terminate();
    assert!(within(leaving.wait()).await, "it ends in good order");
    load.goes_on().await;
    assert_ne!(linked_to(&device), Some(used));
    // Milliseconds, but for a machine that has other things to do.
    let pause = load.pause_max.load(Ordering::Relaxed);
    assert!(pause < 1_500, "{pause} ms");
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_mid_transfer_costs_not_a_byte() {
    let installation = Installation::start().await;
    let (sidecar, incoming) = installation.collector().await;
    tokio::spawn(echo(incoming));
    within(sidecar.registered()).await;
    let radio = Radio::start(installation.relay.address.at()).await;
    let by = vec![radio.address.clone()];
    let device = installation
        .device_by("pump-7", by, Default::default())
        .await;
    let load = Load::start(&device).await;
    for _ in 0..10 {
        load.goes_on().await;
        radio.cut();
    }
    load.goes_on().await;

    // And then it stays where it is: what a session leaves a second after a
    // move must not be what it has moved to since.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ended = circuits_ended(&installation.relay).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(circuits_ended(&installation.relay).await, ended);
    load.end().await;
}

/// How many circuits have ended at a relay.
async fn circuits_ended(relay: &Relay) -> u64 {
    let metrics = relay.fetch("/metrics").await;
    let of_each_reason = metrics
        .lines()
        .filter(|line| line.starts_with("fairway_relay_circuits_ended_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    of_each_reason.sum()
}

/// What is between the device and its relay, and breaks.
struct Radio {
    address: RelayAddress,
    cut: tokio::sync::watch::Sender<()>,
}

impl Radio {
    async fn start(to: &HostPort) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at: HostPort = listener.local_addr().unwrap().to_string().parse().unwrap();
        let (cut, cuts) = tokio::sync::watch::channel(());
        let to = to.to_string();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cuts, to) = (cuts.clone(), to.clone());
                cuts.mark_unchanged();
                connections.spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self {
            address: at.into(),
            cut,
        }
    }

    fn cut(&self) {
        self.cut.send_replace(());
    }
}
