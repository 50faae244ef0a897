//! The other end of a link, played by a test: a real session over a real
//! socket, one step at a time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use fairway_bench::raw_link::RawLink;
use fairway_control::link::{CircuitId, FrameKind, Instance, ToEndpoint, ToRelay, header};
use fairway_daemon::Drain;
use fairway_identity::proof::TicketHolder;
use fairway_identity::{Clock, Ed25519Key, RootHash, UnixSeconds};
use fairway_session::{Local, Now, OpenRequest, Refusal, Rules, StaticSecret, code};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::core::Class;
use crate::server::{Identity, IdentitySource, Inspector, Metrics, Server, ServerConfig};
use crate::testing::{Domain, NOW};

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A relay that runs for a test.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<SocketAddr>,
    pub(super) quic: Option<SocketAddr>,
    pub(super) domain: Domain,
    pub(super) inspector: Inspector,
    pub(super) metrics: Metrics,
    pub(super) drain: Drain,
    pub(super) identity: watch::Sender<Identity>,
    pub(super) running: JoinHandle<()>,
}

/// The other end of a link.
pub(super) struct Peer<IO = TcpStream> {
    pub(super) link: RawLink<IO>,
    /// What it registers with.
    pub(super) instance: Instance,
    heard: VecDeque<ToEndpoint>,
    credit: u64,
}

impl Relay {
    pub(super) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig::new(([127, 0, 0, 1], 0).into());
        config.drain_span = Duration::ZERO;
        change(&mut config);
        let domain = Domain::new();
        let local = local(&domain, "ns/fairway-system/sa/fairway-relay", &[], 1);
        let (identity, changes) = watch::channel(Identity::new(local, &Rules::default()));
        let began = Instant::now();
        let source = IdentitySource::new(changes, move || now(began));
        let metrics = Metrics::default();
        let server = Server::bind(config, source, metrics.clone()).await.unwrap();
        let (address, inspector) = (server.local_addr().unwrap(), server.inspector());
        let (tls, quic) = (server.tls_addr(), server.quic_addr());
        let drain = Drain::new();
        let running = tokio::spawn(server.run(drain.clone()));
        Self {
            address,
            tls,
            quic,
            domain,
            inspector,
            metrics,
            drain,
            identity,
            running,
        }
    }

    /// Waits until `/debug/state` answers `expected` at `pointer`.
    pub(super) async fn settle(&self, pointer: &str, expected: impl Into<serde_json::Value>) {
        let expected = expected.into();
        let settled = async {
            while self.inspector.state().pointer(pointer) != Some(&expected) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(PATIENCE, settled).await.is_err() {
            panic!(
                "{pointer} does not become {expected}: {}",
                self.inspector.state()
            );
        }
    }

    /// Waits for so many links of devices, without making a large document.
    pub(super) async fn settle_links(&self, n_links: usize) {
        let settled = async {
            while self.inspector.n_links(Class::Device) != n_links {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, settled).await.unwrap();
    }

    /// A link with a credential; `who` is `ns/NS/device/NAME` or `ns/NS/sa/NAME`.
    pub(super) async fn link(&self, who: &str, services: &[&str]) -> Peer {
        let mut peer = self.dial(who, services).await;
        peer.establish().await.unwrap();
        peer
    }

    /// The same, with its handshake still to be done.
    pub(super) async fn dial(&self, who: &str, services: &[&str]) -> Peer {
        let local = local(&self.domain, who, services, fresh());
        Peer::connect(self.address, local).await.unwrap()
    }

    /// A link with a credential that is genuine and has expired.
    pub(super) async fn expired(&self, who: &str) -> Peer {
        let local = local_since(NOW.minus(7_200), &self.domain, who, &[], fresh());
        let mut peer = Peer::connect(self.address, local).await.unwrap();
        peer.establish().await.unwrap();
        peer
    }

    /// Somebody with the credential of another installation, whose relay
    /// pretends to be one of ours: the trust set is not ours.
    pub(super) async fn stranger(&self) -> Peer {
        let foreign = Domain::foreign();
        let mut local = local(&foreign, "ns/factory/device/pump-7", &[], fresh());
        local = local.with_trust(self.domain.trust.clone());
        Peer::connect(self.address, local).await.unwrap()
    }

    /// A link without one.
    pub(super) async fn anonymous(&self) -> Peer {
        let mut peer = self.half_open().await;
        peer.establish().await.unwrap();
        peer
    }

    /// A link whose handshake has begun and goes no further by itself.
    pub(super) async fn half_open(&self) -> Peer {
        Peer::anonymous(self.address, self.domain.pin, fresh())
            .await
            .unwrap()
    }

    /// A link whose handshake has begun, of somebody with this ticket.
    pub(super) async fn ticket_holder(&self, ticket: &Ed25519Key) -> Peer {
        let secret = StaticSecret::from_bytes([fresh(); 32]);
        let holder = TicketHolder::sign(&secret.public(), ticket).unwrap();
        let local = Local::anonymous(secret, self.domain.pin, [0; 16]).with_ticket(holder);
        Peer::connect(self.address, local).await.unwrap()
    }

    /// An authority that has registered its name.
    pub(super) async fn authority(&self) -> Peer {
        let mut peer = self
            .link("ns/fairway-system/sa/fairway-authority", &[])
            .await;
        peer.register("authority.fairway.internal").await.unwrap();
        peer
    }
}

impl Peer {
    pub(super) async fn connect(address: SocketAddr, local: Local) -> Result<Self> {
        Self::over(TcpStream::connect(address).await?, local).await
    }

    /// Somebody without a credential.
    pub(super) async fn anonymous(address: SocketAddr, pin: RootHash, key: u8) -> Result<Self> {
        let secret = StaticSecret::from_bytes([key; 32]);
        Self::connect(address, Local::anonymous(secret, pin, [0; 16])).await
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Peer<IO> {
    pub(super) async fn over(socket: IO, local: Local) -> Result<Self> {
        Ok(Self {
            link: RawLink::dial(socket, local, now).await?,
            instance: Instance([fresh(); 16]),
            heard: VecDeque::new(),
            credit: 0,
        })
    }

    /// Runs the handshake and opens the control stream; the error is the
    /// relay's word for why not.
    pub(super) async fn establish(&mut self) -> Result<(), String> {
        let established = timeout(PATIENCE, self.link.establish()).await;
        let established = established.expect("something comes from the relay");
        established.map_err(|_| self.last_word())
    }

    // --- talking ------------------------------------------------------------------

    pub(super) async fn say(&mut self, message: ToRelay) {
        let said = timeout(PATIENCE, self.link.say(&message)).await;
        said.expect("the relay takes it").unwrap();
    }

    /// Writes bytes to the control stream that need not be a message.
    pub(super) async fn say_raw(&mut self, bytes: &'static [u8]) {
        self.link.say_raw(bytes.into()).await.unwrap();
    }

    /// What the other end has granted so far.
    pub(super) fn credit_limit(&mut self) -> u64 {
        while let Some(message) = self.link.heard.next_message().unwrap() {
            match message {
                ToEndpoint::Credit { max_bytes, .. } => self.credit = max_bytes,
                other => self.heard.push_back(other),
            }
        }
        self.credit
    }

    /// The next control message that is not credit.
    pub(super) async fn hear(&mut self) -> ToEndpoint {
        loop {
            self.credit_limit();
            if let Some(message) = self.heard.pop_front() {
                return message;
            }
            self.read().await.unwrap();
        }
    }

    /// Registers a name; the error is the word of the refusal.
    pub(super) async fn register(&mut self, name: &str) -> Result<(), String> {
        let names = vec![name.parse().unwrap()];
        let instance = self.instance;
        self.say(ToRelay::Register { names, instance }).await;
        match self.hear().await {
            ToEndpoint::Registered { .. } => Ok(()),
            ToEndpoint::RegisterRefused { reason, .. } => Err(reason.word().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    /// Opens a circuit; the error is the word of the refusal.
    pub(super) async fn open(&mut self, circuit: u32, name: &str) -> Result<(), String> {
        self.open_to(circuit, name, None).await
    }

    /// The same, to one instance.
    pub(super) async fn open_to(
        &mut self,
        circuit: u32,
        name: &str,
        instance: Option<Instance>,
    ) -> Result<(), String> {
        let (circuit, destination) = (CircuitId(circuit), name.parse().unwrap());
        self.say(ToRelay::Open {
            circuit,
            destination,
            instance,
        })
        .await;
        match self.hear().await {
            ToEndpoint::Opened { .. } => Ok(()),
            ToEndpoint::Refused { reason, .. } => Err(reason.word().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for a circuit, whatever comes of it; `false` when the link ended.
    pub(super) async fn try_open(&mut self, circuit: u32, name: &str) -> bool {
        let (circuit, destination) = (CircuitId(circuit), name.parse().unwrap());
        let open = ToRelay::Open {
            circuit,
            destination,
            instance: None,
        };
        self.link.say(&open).await.is_ok() && self.step().await
    }

    /// Opens a stream beside the control stream, and resets it at once.
    pub(super) async fn open_and_abandon(&mut self, request: &OpenRequest) {
        let now = self.link.now();
        if let Ok(stream) = self.link.session.open(now, request) {
            let cancelled = Refusal::new(code::CANCELLED, "the test wants it");
            self.link.session.reset(now, stream, &cancelled);
        }
        self.link.pump().await.unwrap();
    }

    /// Waits for a circuit to come in; the answer is its id here.
    pub(super) async fn incoming(&mut self) -> u32 {
        match self.hear().await {
            ToEndpoint::Incoming { circuit, .. } => circuit.0,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a circuit to be closed; the answer is the word why.
    pub(super) async fn closed_circuit(&mut self) -> (u32, String) {
        match self.hear().await {
            ToEndpoint::Closed { circuit, reason } => (circuit.0, reason.word().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn grant(&mut self, circuit: u32, max_bytes: u64) {
        let circuit = CircuitId(circuit);
        self.say(ToRelay::Credit { circuit, max_bytes }).await;
    }

    // --- data ---------------------------------------------------------------------

    /// Sends one frame, whatever the credit says.
    pub(super) async fn send(&mut self, circuit: u32, payload: &[u8]) {
        let sent = self.link.send(FrameKind::Data, circuit, payload).await;
        sent.unwrap();
    }

    /// Sends one DATAGRAM frame.
    pub(super) async fn send_datagram(&mut self, circuit: u32, payload: &[u8]) {
        let sent = self.link.send(FrameKind::Datagram, circuit, payload).await;
        sent.unwrap();
    }

    /// The next frame of any circuit.
    pub(super) async fn receive(&mut self) -> (u32, Bytes) {
        let (_, circuit, payload) = self.receive_frame().await;
        (circuit, payload)
    }

    /// The same, with what kind of frame it is.
    pub(super) async fn receive_frame(&mut self) -> (FrameKind, u32, Bytes) {
        loop {
            if let Some(frame) = self.link.frames.pop_front() {
                return frame;
            }
            self.read().await.unwrap();
        }
    }

    /// Waits for the link to end; the answer is the relay's word, or `eof`.
    pub(super) async fn ended(&mut self) -> String {
        while self.step().await {}
        self.last_word()
    }

    /// Waits for the end of the connection without saying anything.
    pub(super) async fn ended_silently(&mut self) {
        let mut bytes = [0; 4_096];
        while matches!(self.link.socket.read(&mut bytes).await, Ok(n) if n > 0) {}
    }

    /// Reads once and does what follows; `false` at the end of the link.
    pub(super) async fn step(&mut self) -> bool {
        self.read().await.is_ok()
    }

    /// Does not do what becomes due meanwhile: that would hide that nothing comes.
    async fn read(&mut self) -> Result<()> {
        let came = self.link.read(PATIENCE).await?;
        assert!(came, "something comes from the relay");
        Ok(())
    }

    fn last_word(&self) -> String {
        let closed = self.link.closed.as_ref();
        closed.map_or("eof", |reason| reason.word()).to_owned()
    }
}

/// A link frame with `payload`.
pub(super) fn data_frame(circuit: u32, payload: &[u8]) -> Vec<u8> {
    let header = header(FrameKind::Data, CircuitId(circuit), payload.len()).unwrap();
    [&header[..], payload].concat()
}

/// Who `who` is, with a fresh key and a credential for it.
pub(super) fn local(domain: &Domain, who: &str, services: &[&str], key: u8) -> Local {
    local_since(NOW, domain, who, services, key)
}

fn local_since(
    issued_at: UnixSeconds,
    domain: &Domain,
    who: &str,
    services: &[&str],
    key: u8,
) -> Local {
    let secret = StaticSecret::from_bytes([key; 32]);
    let [lean, full] = domain.issue_at(issued_at, who, services, secret.public());
    Local::anonymous(secret, domain.pin, [key; 16])
        .with_credential(lean, full)
        .with_trust(domain.trust.clone())
}

fn now(began: Instant) -> Now {
    let mono = began.elapsed();
    Now {
        mono,
        clock: Clock::Trusted(NOW.plus(mono.as_secs())),
    }
}

/// Another byte each time, for keys and seeds.
fn fresh() -> u8 {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(10);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
