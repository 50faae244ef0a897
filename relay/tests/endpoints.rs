//! The binary between real endpoints: authority's front, sidecar, device.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fairway_bench::authority::{Claims, SYSTEM_NAMESPACE, TRUST_DOMAIN, TestAuthority};
use fairway_control::update::{Door, State};
use fairway_endpoint::{
    CredentialSource, Endpoint, EndpointConfig, Incoming, Listen, RelayUse, front_anchor,
};
use fairway_identity::{Address, Ed25519Key, HostPort, Label, TrustDomain};
use fairway_policy as policy;
use fairway_session::OpenRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const COLLECTOR: &str = "collector.factory.svc.fairway.internal";

/// Everything but the device.
struct Installation {
    dir: tempfile::TempDir,
    authority: TestAuthority,
    front: HostPort,
    relay: Relay,
    _front: Endpoint,
}

/// The relay's process; killed with the test.
struct Relay {
    child: Child,
    address: HostPort,
    admin: HostPort,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_enrols_and_talks_through_the_relay() {
    let installation = Installation::start().await;
    let (sidecar, incoming) = installation.collector().await;
    tokio::spawn(echo(incoming));
    within(sidecar.registered()).await;

    let device = installation.device("pump-7").await;
    let address: Address = COLLECTOR.parse().unwrap();
    let mut stream = within(device.open(&address, OpenRequest::port(1883)))
        .await
        .unwrap();
    // More than every window on the way.
    let sent: Arc<[u8]> = (0..6_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut received = vec![0; sent.len()];
    {
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let reading = async {
            read.read_exact(&mut received).await.unwrap();
            assert_eq!(read.read(&mut [0; 1]).await.unwrap(), 0);
        };
        within(async { tokio::join!(writing, reading) }).await;
    }
    assert!(received == *sent);

    let other: Address = "pump-8.factory.device.fairway.internal".parse().unwrap();
    assert!(
        within(device.open(&other, OpenRequest::port(1)))
            .await
            .is_err()
    );
    for line in [
        r#"fairway_relay_circuits_refused_total{reason="forbidden"}"#,
        // The authority's, the collector's, the device's.
        "fairway_relay_names 3",
    ] {
        installation.relay.eventually("/metrics", line).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_relay_ends_in_good_order() {
    let mut installation = Installation::start().await;
    let (sidecar, _incoming) = installation.collector().await;
    within(sidecar.registered()).await;
    installation.relay.terminate();
    assert!(within(installation.relay.wait()).await);
}

impl Installation {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("authority.sock");
        let authority = TestAuthority::start(&socket).unwrap();
        let (listen, relay) = (free_address().await, free_address().await);
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
        let relay = Relay::start(dir.path(), &authority, &listen, relay).await;
        Self {
            dir,
            authority,
            front: listen,
            relay,
            _front: front,
        }
    }

    /// A sidecar whose port 1883 every device may call.
    async fn collector(&self) -> (Endpoint, mpsc::Receiver<Incoming>) {
        let claims = Claims {
            services: vec![label("collector")],
            ..Claims::default()
        };
        self.authority.certify("ns/factory/sa/collector", claims);
        self.authority.tell(
            "ns/factory/sa/collector",
            State {
                policies: allow_devices(),
                doors: vec![Door {
                    service: label("collector"),
                    port: 1883,
                    target_port: 1883,
                }],
                ready: true,
                relays: vec![self.relay.address.clone()],
                names: vec![COLLECTOR.parse().unwrap()],
                ..State::default()
            },
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
    async fn device(&self, name: &str) -> Endpoint {
        let ticket = self
            .authority
            .ticket("factory", name, vec![self.relay.address.clone()])
            .unwrap();
        let key = Arc::new(Ed25519Key::from_seed([3; 32]));
        let mut config = self.config();
        config.relays = vec![self.relay.address.clone()];
        let joining = Endpoint::start(config).await.unwrap();
        let enrolled = within(joining.authority().enroll(&ticket, &key)).await;
        enrolled.unwrap();
        joining.close().await;
        let mut config = self.config();
        config.relays = vec![self.relay.address.clone()];
        config.credential = CredentialSource::Device {
            namespace: label("factory"),
            name: label(name),
            key,
        };
        let device = Endpoint::start(config).await.unwrap();
        within(device.credentialed()).await;
        device
    }

    fn config(&self) -> EndpointConfig {
        let trust_domain = TrustDomain::new(TRUST_DOMAIN).unwrap();
        EndpointConfig::new(trust_domain, self.authority.root_hash())
    }
}

impl Relay {
    async fn start(
        dir: &Path,
        authority: &TestAuthority,
        front: &HostPort,
        address: HostPort,
    ) -> Self {
        let (admin, debug) = (free_address().await, free_address().await);
        let child = Command::new(env!("CARGO_BIN_EXE_fairway-relay"))
            .env("FAIRWAY_LISTEN", address.to_string())
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
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let relay = Self {
            child,
            address,
            admin,
        };
        relay.eventually("/readyz", "ok").await;
        relay
    }

    /// The answer of the admin port, or nothing while it is not up.
    async fn fetch(&self, path: &str) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(self.admin.to_string()).await {
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_string(&mut text).await;
        }
        text
    }

    async fn eventually(&self, path: &str, expected: &str) {
        let arrives = async {
            while !self.fetch(path).await.contains(expected) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(Duration::from_secs(20), arrives).await.is_err() {
            panic!("{path} has no {expected:?}: {}", self.fetch(path).await);
        }
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(status.success());
    }

    async fn wait(&mut self) -> bool {
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

async fn echo(mut incoming: mpsc::Receiver<Incoming>) {
    while let Some(incoming) = incoming.recv().await {
        tokio::spawn(async move {
            incoming.accept().unwrap();
            let (mut read, mut write) = tokio::io::split(incoming.stream);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
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

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

async fn free_address() -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future)
        .await
        .expect("it does not take this long")
}
