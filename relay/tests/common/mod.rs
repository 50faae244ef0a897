//! The binary and real endpoints around it: authority's front, sidecar, device.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part of what is common, and this is test code"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fairway_bench::authority::{Claims, SYSTEM_NAMESPACE, TRUST_DOMAIN, TestAuthority, uid_of};
use fairway_control::update::{Door, State};
use fairway_endpoint::{
    CredentialSource, Endpoint, EndpointConfig, Incoming, LinkOptions, Listen, RelayUse, Stream,
    front_anchor,
};
use fairway_identity::{
    Address, Ed25519Key, HostPort, Label, RelayAddress, Revocation, Transport, TrustDomain,
    UnixSeconds,
};
use fairway_policy as policy;
use fairway_session::OpenRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub const COLLECTOR: &str = "collector.factory.svc.fairway.internal";

/// Everything but the device.
pub struct Installation {
    pub dir: tempfile::TempDir,
    pub authority: TestAuthority,
    pub front: HostPort,
    pub relay: Relay,
    pub front_endpoint: Endpoint,
}

/// The relay's process; killed with the test.
pub struct Relay {
    child: Child,
    /// TCP.
    pub address: RelayAddress,
    /// UDP and TCP.
    pub quic: HostPort,
    pub tls: HostPort,
    admin: HostPort,
}

impl Installation {
    pub async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    /// `change` may change the relay's command; it is given the directory.
    pub async fn start_with(change: impl FnOnce(&mut Command, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("authority.sock");
        let authority = TestAuthority::start(&socket).unwrap();
        let (listen, relay) = (
            free_address().await,
            RelayAddress::from(free_address().await),
        );
        for account in ["fairway-relay", "fairway-authority"] {
            authority.tell(
                &format!("ns/{SYSTEM_NAMESPACE}/sa/{account}"),
                State {
                    relays: vec![relay.clone()],
                    ready: true,
                    ..State::default()
                },
            );
        }
        let (trust_domain, pin) = front_anchor(&socket).await.unwrap();
        let mut config = EndpointConfig::new(trust_domain, pin);
        config.credential = CredentialSource::Front {
            socket: socket.clone(),
        };
        config.listen = Some(Listen {
            address: listen.to_string().parse().unwrap(),
            socket,
        });
        config.names = vec![Address::Authority];
        config.relay_use = RelayUse::All;
        config.relays = vec![relay.clone()];
        let front = Endpoint::start(config).await.unwrap();
        let relay = Relay::start(dir.path(), &authority, &listen, relay, change).await;
        within(front.registered()).await;
        Self {
            dir,
            authority,
            front: listen,
            relay,
            front_endpoint: front,
        }
    }

    /// One more relay: the front and the collector are told of it.
    pub async fn another_relay(&self) -> Relay {
        let address = RelayAddress::from(free_address().await);
        let relays = vec![self.relay.address.clone(), address.clone()];
        self.authority.tell(
            &format!("ns/{SYSTEM_NAMESPACE}/sa/fairway-authority"),
            State {
                relays: relays.clone(),
                ready: true,
                ..State::default()
            },
        );
        self.authority
            .tell("ns/factory/sa/collector", collector_state(relays));
        self.relay_at(address).await
    }

    /// The relay, and nobody else, hears that this device is revoked.
    pub fn revoke_at_relay(&self, name: &str) {
        let uid = uid_of(&format!("ns/factory/device/{name}")).unwrap();
        let mut state = State {
            relays: vec![self.relay.address.clone()],
            ready: true,
            ..State::default()
        };
        let for_long = UnixSeconds(u64::MAX / 2);
        let revocation = Revocation {
            issued_before: for_long,
            keep_until: for_long,
        };
        state.revocations.insert(uid, revocation).unwrap();
        let relay = format!("ns/{SYSTEM_NAMESPACE}/sa/fairway-relay");
        self.authority.tell(&relay, state);
    }

    /// A relay's process at this address.
    pub async fn relay_at(&self, address: RelayAddress) -> Relay {
        let dir = self.dir.path();
        Relay::start(dir, &self.authority, &self.front, address, |_, _| {}).await
    }

    /// A sidecar whose port 1883 every device may call.
    pub async fn collector(&self) -> (Endpoint, mpsc::Receiver<Incoming>) {
        let claims = Claims {
            services: vec![label("collector")],
            ..Claims::default()
        };
        self.authority.certify("ns/factory/sa/collector", claims);
        self.authority.tell(
            "ns/factory/sa/collector",
            collector_state(vec![self.relay.address.clone()]),
        );
        let (sender, incoming) = mpsc::channel(8);
        let mut config = self.config();
        config.credential = CredentialSource::Workload {
            token: token(self.dir.path(), "factory", "collector"),
        };
        config.authority = Some(self.front.clone());
        config.relay_use = RelayUse::All;
        config.incoming = Some(sender);
        (Endpoint::start(config).await.unwrap(), incoming)
    }

    /// A device that has just enrolled, over the relay as everything it does.
    pub async fn device(&self, name: &str) -> Endpoint {
        let relays = vec![self.relay.address.clone()];
        self.device_by(name, relays, LinkOptions::default()).await
    }

    /// The same by these addresses of relays.
    pub async fn device_by(
        &self,
        name: &str,
        relays: Vec<RelayAddress>,
        links: LinkOptions,
    ) -> Endpoint {
        let ticket = self
            .authority
            .ticket("factory", name, relays.clone())
            .unwrap();
        let key = Arc::new(Ed25519Key::from_seed([3; 32]));
        let mut config = self.config();
        config.relays = relays.clone();
        config.links = links.clone();
        let joining = Endpoint::start(config).await.unwrap();
        let enrolled = within(joining.authority().enroll(&ticket, &key)).await;
        enrolled.unwrap();
        joining.close().await;
        let mut config = self.config();
        config.relays = relays;
        config.links = links;
        config.credential = CredentialSource::Device {
            namespace: label("factory"),
            name: label(name),
            key,
        };
        let device = Endpoint::start(config).await.unwrap();
        within(device.credentialed()).await;
        device
    }

    pub fn config(&self) -> EndpointConfig {
        let trust_domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
        EndpointConfig::new(trust_domain, self.authority.root_hash())
    }
}

impl Relay {
    async fn start(
        dir: &Path,
        authority: &TestAuthority,
        front: &HostPort,
        address: RelayAddress,
        change: impl FnOnce(&mut Command, &Path),
    ) -> Self {
        let (admin, debug) = (free_address().await, free_address().await);
        let (quic, tls) = (free_udp_address().await, free_address().await);
        let mut command = Command::new(env!("CARGO_BIN_EXE_fairway-relay"));
        command
            .env("FAIRWAY_LISTEN", address.to_string())
            .env("FAIRWAY_LISTEN_QUIC", quic.to_string())
            .env("FAIRWAY_LISTEN_TLS", tls.to_string())
            .env("FAIRWAY_TRUST_DOMAIN", TRUST_DOMAIN)
            .env("FAIRWAY_ROOT_HASH", authority.root_hash().to_string())
            .env("FAIRWAY_AUTHORITY", front.to_string())
            .env(
                "FAIRWAY_TOKEN_FILE",
                token(dir, SYSTEM_NAMESPACE, "fairway-relay"),
            )
            .env("FAIRWAY_ADMIN_LISTEN", admin.to_string())
            .env("FAIRWAY_DEBUG_LISTEN", debug.to_string())
            .env("FAIRWAY_DRAIN_SECONDS", "1")
            .env("FAIRWAY_LOG_FORMAT", "text")
            .stdout(Stdio::null());
        change(&mut command, dir);
        let relay = Self {
            child: command.spawn().unwrap(),
            address,
            quic,
            tls,
            admin,
        };
        relay.eventually("/readyz", "ok").await;
        relay
    }

    /// Its address for a transport.
    pub fn by(&self, transport: Transport) -> RelayAddress {
        let at = match transport {
            Transport::Tcp => self.address.at(),
            Transport::Quic => &self.quic,
            Transport::Tls | Transport::WebSocket => &self.tls,
        };
        RelayAddress::new(transport, at.clone())
    }

    /// The answer of the admin port, or nothing while it is not up.
    pub async fn fetch(&self, path: &str) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(self.admin.to_string()).await {
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_string(&mut text).await;
        }
        text
    }

    pub async fn eventually(&self, path: &str, expected: &str) {
        let arrives = async {
            while !self.fetch(path).await.contains(expected) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(Duration::from_secs(20), arrives).await.is_err() {
            panic!("{path} has no {expected:?}: {}", self.fetch(path).await);
        }
    }

    /// At once, without a word.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(status.success());
    }

    pub async fn wait(&mut self) -> bool {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn echo(mut incoming: mpsc::Receiver<Incoming>) {
    while let Some(incoming) = incoming.recv().await {
        tokio::spawn(async move {
            incoming.accept().unwrap();
            let (mut read, mut write) = tokio::io::split(incoming.stream);
            // A caller may go away at any time.
            if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                let _ = write.shutdown().await;
            }
        });
    }
}

fn collector_state(relays: Vec<RelayAddress>) -> State {
    State {
        policies: allow_devices(),
        doors: vec![Door {
            service: label("collector"),
            port: 1883,
            target_port: 1883,
        }],
        ready: true,
        relays,
        names: vec![COLLECTOR.parse().unwrap()],
        ..State::default()
    }
}

/// Any device of `factory` may call port 1883.
fn allow_devices() -> policy::PolicySet {
    policy::PolicySet {
        policies: vec![policy::Policy {
            namespace: "factory".to_owned(),
            name: "telemetry".to_owned(),
            action: policy::Action::Allow,
            mode: policy::Mode::Enforce,
            from: vec![policy::CallerRule::Devices {
                namespaces: vec!["factory".to_owned()],
                names: Vec::new(),
                attributes: policy::AttributeSelector::default(),
            }],
            to: vec![policy::Door::Port {
                port: 1883,
                protocol: policy::Protocol::Tcp,
            }],
        }],
    }
}

fn token(dir: &Path, namespace: &str, account: &str) -> PathBuf {
    let path = dir.join(format!("token-{account}"));
    std::fs::write(&path, format!("{namespace}/{account}")).unwrap();
    path
}

pub fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

async fn free_udp_address() -> HostPort {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap().to_string().parse().unwrap()
}

/// Nobody listens there. It is below the ports that the system gives to
/// connections (ip(7), `ip_local_port_range`), or a test beside this one might
/// have it before it is used.
pub async fn free_address() -> HostPort {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id() * 101 + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.0.0.1:{}", 10_000 + n % 20_000);
        if TcpListener::bind(&address).await.is_ok() {
            return address.parse().unwrap();
        }
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future)
        .await
        .expect("it does not take this long")
}

/// Sends this much to the collector and gets it back.
pub async fn echoes(device: &Endpoint, n_bytes: u32) {
    let address: Address = COLLECTOR.parse().unwrap();
    let stream = within(device.open(&address, OpenRequest::port(1883)))
        .await
        .unwrap();
    within(echoes_on(stream, n_bytes)).await;
}

/// The same on an open stream, however long it takes.
pub async fn echoes_on(mut stream: Stream, n_bytes: u32) {
    let sent: Arc<[u8]> = (0..n_bytes).map(|i| (i % 251) as u8).collect();
    let mut received = vec![0; sent.len()];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let reading = async {
        read.read_exact(&mut received).await.unwrap();
        assert_eq!(read.read(&mut [0; 1]).await.unwrap(), 0);
    };
    tokio::join!(writing, reading);
    assert!(received == *sent);
}
