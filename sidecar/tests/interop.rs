//! The second implementation of `channel/interop`, in Python and written from
//! the specifications alone, against real processes: authority's front, relay,
//! sidecar. The authority behind the front has throwaway keys.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fairway_bench::apps::Apps;
use fairway_bench::authority::{Claims, SYSTEM_NAMESPACE, TRUST_DOMAIN, TestAuthority, workload};
use fairway_bench::process::Process;
use fairway_control::update::{Door, State};
use fairway_identity::{Address, HostPort, Label};
use fairway_policy as policy;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SERVICE: &str = "collector.factory.svc.fairway.internal";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_written_from_the_specifications_alone_enrols_and_talks_to_a_sidecar() {
    let dir = tempfile::tempdir().unwrap();
    let apps = Apps::start().await.unwrap();
    let chain = Chain::start(dir.path(), &apps).await;
    let ticket = chain
        .authority
        .ticket("factory", "snake-1", vec![host_port(chain.relay).into()])
        .unwrap();

    let mut client = tokio::process::Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../channel/interop/run"),
    );
    client
        .arg(ticket.to_string())
        .arg(SERVICE)
        .arg(apps.echo.port().to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // Long, because on a new machine it installs its package first.
    let output = tokio::time::timeout(Duration::from_secs(300), client.output())
        .await
        .expect("the client ends")
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        chain.logs()
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = |path: &str| format!("spiffe://{TRUST_DOMAIN}/{path}");
    assert_eq!(
        told,
        json!({
            "identity": id("ns/factory/device/snake-1"),
            "authority": id(&workload(SYSTEM_NAMESPACE, "fairway-authority")),
            "relay": id(&workload(SYSTEM_NAMESPACE, "fairway-relay")),
            "peer": id(&workload("factory", "collector")),
            "echoed": 3 << 20,
            "epoch": 1,
            "without_credential": "authority-only",
            "unknown_service": "not-here",
            "unknown_port": 0x107,
        })
    );
}

/// The processes between a device and an app.
struct Chain {
    authority: TestAuthority,
    relay: SocketAddr,
    processes: Vec<Process>,
}

impl Chain {
    async fn start(dir: &Path, apps: &Apps) -> Self {
        let [front, relay, admin] = [(); 3].map(|()| free_address());
        let socket = dir.join("authority.sock");
        let authority = TestAuthority::start(&socket).unwrap();
        tell(&authority, relay, apps);
        let start = |name: &str, program: &Path, options: &[(&str, String)]| {
            let mut command = Command::new(program);
            command
                .args(match name {
                    "front" => &["front"][..],
                    "sidecar" => &["run"],
                    _ => &[],
                })
                .env("FAIRWAY_TRUST_DOMAIN", TRUST_DOMAIN)
                .env("FAIRWAY_ROOT_HASH", authority.root_hash().to_string())
                .env("FAIRWAY_AUTHORITY", front.to_string())
                .env("FAIRWAY_ADMIN_LISTEN", "127.0.0.1:0")
                .env("FAIRWAY_DEBUG_LISTEN", "127.0.0.1:0")
                .envs(options.iter().cloned());
            Process::start(name, dir, &mut command).unwrap()
        };
        let sidecar = Path::new(env!("CARGO_BIN_EXE_fairway-sidecar"));
        let processes = vec![
            start(
                "front",
                sidecar,
                &[
                    ("FAIRWAY_LISTEN", front.to_string()),
                    ("FAIRWAY_SOCKET", socket.display().to_string()),
                ],
            ),
            start(
                "relay",
                &relay_program(sidecar),
                &[
                    ("FAIRWAY_LISTEN", relay.to_string()),
                    ("FAIRWAY_ADMIN_LISTEN", admin.to_string()),
                    (
                        "FAIRWAY_TOKEN_FILE",
                        token(dir, SYSTEM_NAMESPACE, "fairway-relay"),
                    ),
                ],
            ),
            start(
                "sidecar",
                sidecar,
                &[
                    ("FAIRWAY_PROXY_LISTEN", "127.0.0.1:0".to_owned()),
                    ("FAIRWAY_TOKEN_FILE", token(dir, "factory", "collector")),
                ],
            ),
        ];
        let chain = Self {
            authority,
            relay,
            processes,
        };
        chain.registered(admin).await;
        chain
    }

    /// Waits until the relay has the authority's name and the collector's.
    async fn registered(&self, admin: SocketAddr) {
        let arrives = async {
            while !metrics(admin).await.contains("fairway_relay_names 2") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(30), arrives).await;
        assert!(
            arrived.is_ok(),
            "names were not registered\n{}",
            self.logs()
        );
    }

    fn logs(&self) -> String {
        let tail = |process: &Process| format!("--- {}\n{}\n", process.name(), process.tail());
        self.processes.iter().map(tail).collect()
    }
}

/// The relay beside our sidecar. `cargo test --workspace` has built it, as it
/// builds every program whose package has tests like this one.
fn relay_program(sidecar: &Path) -> PathBuf {
    let path = sidecar.with_file_name("fairway-relay");
    assert!(
        path.exists(),
        "no {}: cargo build -p fairway-relay, or run this test as cargo test --workspace does",
        path.display()
    );
    path
}

/// What the operator and the authority would tell sidecar and front.
fn tell(authority: &TestAuthority, relay: SocketAddr, apps: &Apps) {
    let collector = Label::new("collector").unwrap();
    let claims = Claims {
        services: vec![collector.clone()],
        ..Claims::default()
    };
    authority.certify(&workload("factory", "collector"), claims);
    authority.tell(
        &workload("factory", "collector"),
        State {
            policies: allow_devices(),
            doors: vec![Door {
                service: collector,
                port: apps.echo.port(),
                target_port: apps.echo.port(),
            }],
            ready: true,
            relays: vec![host_port(relay).into()],
            names: vec![SERVICE.parse().unwrap()],
            ..State::default()
        },
    );
    authority.tell(
        &workload(SYSTEM_NAMESPACE, "fairway-authority"),
        State {
            ready: true,
            relays: vec![host_port(relay).into()],
            names: vec![Address::Authority],
            ..State::default()
        },
    );
}

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
            to: vec![policy::Door::Any],
        }],
    }
}

/// The answer of the relay's admin port, or nothing while it is not up.
async fn metrics(admin: SocketAddr) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(admin).await {
        let request = b"GET /metrics HTTP/1.0\r\n\r\n";
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_string(&mut text).await;
    }
    text
}

fn token(dir: &Path, namespace: &str, account: &str) -> String {
    let path = dir.join(format!("token-{account}"));
    std::fs::write(&path, format!("{namespace}/{account}")).unwrap();
    path.display().to_string()
}

fn host_port(address: SocketAddr) -> HostPort {
    address.to_string().parse().unwrap()
}

/// A loopback address that nobody listens on right now.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
