//! Devices with good credentials that open circuits to a sidecar, by a relay's
//! process, and do not show there who they are. The relay lets each have a few;
//! what they can take up together is bounded by the sidecar.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod silent;

use std::time::Duration;

use common::{COLLECTOR, Installation, echo, echoes, within};
use fairway_control::reason;
use fairway_endpoint::{Endpoint, OpenError, Stream};
use fairway_session::OpenRequest;
use silent::Peer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Circuits of one link, at its callee, whose diallers have not shown who they
/// are. A number of its own: whoever changes the limit is to see this.
const PLACES: usize = 256;
/// What a dialler has for that.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Circuits that a relay lets one identity have to one link.
const PLACES_EACH: usize = 32;
const HANDSHAKE_TIMED_OUT: &str = "handshake-timeout";

/// The relay, the collector that serves, and two devices: one in the middle of
/// a call over the collector's only link, and one that is yet to call.
struct Scene {
    installation: Installation,
    _collector: Endpoint,
    _caller: Endpoint,
    call: Stream,
    newcomer: Endpoint,
}

/// Devices that have opened circuits to the collector and say nothing on them.
struct Crowd {
    /// Why each circuit was closed, when it is.
    closed: mpsc::UnboundedReceiver<String>,
    _peers: JoinSet<()>,
}

impl Scene {
    async fn start() -> Self {
        // A line for each of thousands of circuits hides what a test says.
        let installation = Installation::start_with(|command, _| {
            command.env("FAIRWAY_LOG_LEVEL", "warn");
        })
        .await;
        let (collector, incoming) = installation.collector().await;
        tokio::spawn(echo(incoming));
        within(collector.registered()).await;
        assert_eq!(collector.status().links.len(), 1, "all share one link");
        let caller = installation.device("pump-7").await;
        let call = open(&caller).await.unwrap();
        let newcomer = installation.device("pump-8").await;
        let mut scene = Self {
            installation,
            _collector: collector,
            _caller: caller,
            call,
            newcomer,
        };
        scene.call_goes_on().await;
        scene
    }

    /// So many silent circuits, from no more devices than it takes. They are
    /// announced to the collector when this returns.
    async fn crowd(&mut self, n_circuits: usize) -> Crowd {
        let (sender, closed) = mpsc::unbounded_channel();
        let mut peers = Vec::new();
        for n_before in (0..n_circuits).step_by(PLACES_EACH) {
            let name = format!("silent-{n_before}");
            let mut peer = Peer::link(&self.installation, &name).await;
            for _ in n_before..n_circuits.min(n_before + PLACES_EACH) {
                peer.open().await.unwrap();
            }
            self.call_goes_on().await;
            peers.push(peer);
        }
        let peers = peers.into_iter().map(|mut peer| {
            let sender = sender.clone();
            async move { while sender.send(peer.closed_circuit().await).is_ok() {} }
        });
        Crowd {
            closed,
            _peers: peers.collect(),
        }
    }

    /// There and back, on the stream that was there before.
    async fn call_goes_on(&mut self) {
        let mut back = [0; 5];
        within(async {
            self.call.write_all(b"alive").await.unwrap();
            self.call.read_exact(&mut back).await.unwrap();
        })
        .await;
        assert_eq!(&back, b"alive");
    }

    async fn newcomer_gets_through(&self) {
        echoes(&self.newcomer, 100_000).await;
    }
}

impl Crowd {
    /// Waits for so many circuits to be closed, all of them for this reason.
    async fn closes(&mut self, n_circuits: usize, word: &str) {
        for n in 0..n_circuits {
            let closed = within(self.closed.recv()).await.unwrap();
            assert_eq!(closed, word, "after {n} of {n_circuits}");
        }
    }

    fn closes_no_more(&mut self) {
        assert_eq!(self.closed.try_recv().ok(), None);
    }
}

async fn open(device: &Endpoint) -> Result<Stream, OpenError> {
    let collector = COLLECTOR.parse().unwrap();
    within(device.open(&collector, OpenRequest::port(1883))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_circuits_take_so_many_places_and_keep_nobody_out() {
    let mut scene = Scene::start().await;
    let mut crowd = scene.crowd(PLACES + 44).await;
    crowd.closes(44, reason::OVERLOADED).await;
    // The oldest gives way to who has something to say, too.
    scene.newcomer_gets_through().await;
    crowd.closes(1, reason::OVERLOADED).await;
    scene.call_goes_on().await;
    // All others have their places.
    crowd.closes_no_more();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_circuits_are_given_up_in_time_and_the_next_call_gets_through() {
    let mut scene = Scene::start().await;
    let begun = Instant::now();
    let mut crowd = scene.crowd(PLACES).await;
    let all_open = Instant::now();
    crowd.closes(1, HANDSHAKE_TIMED_OUT).await;
    assert!(begun.elapsed() >= HANDSHAKE_TIMEOUT, "not before its time");
    crowd.closes(PLACES - 1, HANDSHAKE_TIMED_OUT).await;
    let took = all_open.elapsed();
    assert!(took < 2 * HANDSHAKE_TIMEOUT, "{took:?}");
    scene.newcomer_gets_through().await;
    scene.call_goes_on().await;
}

/// Of a device, the relay takes 500 opened circuits in a row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuits_that_are_closed_at_once_use_up_no_places() {
    let mut scene = Scene::start().await;
    for number in 0..5 {
        let name = format!("hasty-{number}");
        let mut peer = Peer::link(&scene.installation, &name).await;
        for n in 0..400 {
            let circuit = peer.open().await.unwrap();
            if n % 2 == 0 {
                // The collector makes a session for it, which comes to nothing.
                peer.send(circuit, b"this is no handshake").await;
            }
            peer.close(circuit).await;
        }
        peer.heard_out().await;
        scene.call_goes_on().await;
    }
    scene.newcomer_gets_through().await;
    // And not one place less than there were.
    let mut crowd = scene.crowd(PLACES + 1).await;
    crowd.closes(1, reason::OVERLOADED).await;
    scene.call_goes_on().await;
    crowd.closes_no_more();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_device_cannot_take_all_places() {
    let scene = Scene::start().await;
    let mut peer = Peer::link(&scene.installation, "silent").await;
    for _ in 0..PLACES_EACH {
        peer.open().await.unwrap();
    }
    for _ in PLACES_EACH..=PLACES {
        assert_eq!(peer.open().await, Err(reason::OVERLOADED.to_owned()));
    }
    scene.newcomer_gets_through().await;
}
