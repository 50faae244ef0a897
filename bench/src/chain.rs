//! The chains that are compared: ours, and haproxy's.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use fairway_control::update::{Door, State};
use fairway_identity::{Address, Label, RelayAddress};
use fairway_policy::{Action, AttributeSelector, CallerRule, Mode, Policy, PolicySet};

use crate::apps::Apps;
use crate::authority::{Claims, SYSTEM_NAMESPACE, TestAuthority, device, workload};
use crate::process::Process;

/// A running chain: where clients connect, and which processes it is made of.
pub struct Chain {
    /// Its name in figures.
    pub name: &'static str,
    /// Leads to [`Apps::sink`].
    pub sink: SocketAddr,
    /// Leads to [`Apps::source`].
    pub source: SocketAddr,
    /// Leads to [`Apps::echo`].
    pub echo: SocketAddr,
    /// The processes between client and app, in order.
    pub processes: Vec<Process>,
    /// Processes that are needed but not on the way.
    _others: Vec<Process>,
}

impl Chain {
    /// The last lines of each process.
    pub fn logs(&self) -> String {
        let tail = |process: &Process| format!("--- {}\n{}\n", process.name(), process.tail());
        self.processes.iter().map(tail).collect()
    }
}

/// Where the three apps are reached, at one hop of a chain.
#[derive(Clone, Copy)]
struct Hop {
    sink: SocketAddr,
    source: SocketAddr,
    echo: SocketAddr,
}

/// A relay, and what it needs: a [`TestAuthority`] and the real front before it.
pub struct Hub {
    /// Ends with the runtime.
    pub authority: TestAuthority,
    /// The relay's process.
    pub relay: Process,
    /// Where the relay listens.
    pub address: SocketAddr,
    front: Process,
    front_address: SocketAddr,
}

impl Hub {
    /// Starts all three.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start(bin: &Path, dir: &Path) -> Result<Self> {
        let (front_address, address) = (free_address()?, free_address()?);
        let socket = dir.join("authority.sock");
        let authority = TestAuthority::start(&socket)?;
        authority.tell(
            &workload(SYSTEM_NAMESPACE, "fairway-authority"),
            State {
                ready: true,
                relays: vec![address.to_string().parse()?],
                names: vec![Address::Authority],
                ..State::default()
            },
        );

        let mut front = Command::new(bin.join("fairway-sidecar"));
        common(&authority, front_address, &mut front);
        front
            .arg("front")
            .env("FAIRWAY_LISTEN", front_address.to_string())
            .env("FAIRWAY_SOCKET", &socket);
        let front = Process::start("front", dir, &mut front)?;

        let mut relay = Command::new(bin.join("fairway-relay"));
        common(&authority, front_address, &mut relay);
        relay.env("FAIRWAY_LISTEN", address.to_string()).env(
            "FAIRWAY_TOKEN_FILE",
            token(dir, SYSTEM_NAMESPACE, "fairway-relay")?,
        );
        let relay = Process::start("relay", dir, &mut relay)?;
        Ok(Self {
            authority,
            relay,
            address,
            front,
            front_address,
        })
    }

    fn common(&self, command: &mut Command) {
        common(&self.authority, self.front_address, command);
    }

    fn relays(&self) -> Result<Vec<RelayAddress>> {
        Ok(vec![self.address.to_string().parse()?])
    }
}

/// What every one of our processes is told.
fn common(authority: &TestAuthority, front: SocketAddr, command: &mut Command) {
    command
        .env("FAIRWAY_TRUST_DOMAIN", crate::authority::TRUST_DOMAIN)
        .env("FAIRWAY_ROOT_HASH", authority.root_hash().to_string())
        .env("FAIRWAY_AUTHORITY", front.to_string())
        .env("FAIRWAY_ADMIN_LISTEN", "127.0.0.1:0")
        .env("FAIRWAY_DEBUG_LISTEN", "127.0.0.1:0");
}

/// Device, relay and sidecar, with the real front before a [`TestAuthority`].
///
/// # Errors
/// A process cannot be started or does not come up.
pub fn fairway(bin: &Path, dir: &Path, apps: &Apps) -> Result<Chain> {
    let hub = Hub::start(bin, dir)?;
    tell(&hub, apps)?;

    let mut sidecar = Command::new(bin.join("fairway-sidecar"));
    hub.common(&mut sidecar);
    sidecar
        .arg("run")
        .env("FAIRWAY_TOKEN_FILE", token(dir, "bench", "collector")?);
    sidecar.env("FAIRWAY_PROXY_LISTEN", "127.0.0.1:0");
    let sidecar = Process::start("sidecar", dir, &mut sidecar)?;

    let entry = Hop {
        sink: free_address()?,
        source: free_address()?,
        echo: free_address()?,
    };
    let config = dir.join("device.yaml");
    fs::write(&config, device_config(entry, apps))?;
    let state_dir = dir.join("device");
    let ticket = hub.authority.ticket("bench", "pump-7", hub.relays()?)?;
    let device = |arguments: &[&str]| {
        let mut command = Command::new(bin.join("fairway-device"));
        hub.common(&mut command);
        command.arg("--state-dir").arg(&state_dir).args(arguments);
        command
    };
    Process::start("join", dir, &mut device(&["join", &ticket.to_string()]))?.finish()?;
    let run = [
        "run",
        "--config",
        config
            .to_str()
            .context("the temporary folder's name is not UTF-8")?,
    ];
    let device = Process::start("device", dir, &mut device(&run))?;
    Ok(Chain {
        name: "fairway",
        sink: entry.sink,
        source: entry.source,
        echo: entry.echo,
        processes: vec![device, hub.relay, sidecar],
        _others: vec![hub.front],
    })
}

/// Three plain TCP proxies.
///
/// # Errors
/// haproxy is not installed, or does not start.
pub fn haproxy_plain(dir: &Path, apps: &Apps) -> Result<Chain> {
    haproxy("haproxy-plain", dir, apps, ["", "", ""])
}

/// TLS between the outer two, through a plain one.
///
/// # Errors
/// haproxy is not installed, or does not start.
pub fn haproxy_tls(dir: &Path, apps: &Apps) -> Result<Chain> {
    let key = rcgen::generate_simple_self_signed(["bench.test".to_owned()])?;
    let pem = dir.join("tls.pem");
    fs::write(
        &pem,
        format!("{}{}", key.cert.pem(), key.signing_key.serialize_pem()),
    )?;
    let listen = format!(" ssl crt {}", pem.display());
    // The peers verify nothing here: the cost of a handshake's check is not what is compared.
    haproxy("haproxy-tls", dir, apps, [" ssl verify none", "", &listen])
}

/// `options`: for the first one's server line, the second one's (none), the third one's bind line.
fn haproxy(name: &'static str, dir: &Path, apps: &Apps, options: [&str; 3]) -> Result<Chain> {
    let mut hops = vec![Hop {
        sink: apps.sink,
        source: apps.source,
        echo: apps.echo,
    }];
    let mut processes = Vec::new();
    // From the app outwards, so that each finds its next one listening.
    for index in (0..3).rev() {
        let next = *hops.last().context("there is the app's own hop")?;
        let hop = Hop {
            sink: free_address()?,
            source: free_address()?,
            echo: free_address()?,
        };
        let (server, bind) = match index {
            0 => (options[0], ""),
            1 => (options[1], ""),
            _ => ("", options[2]),
        };
        let config = dir.join(format!("{name}-{index}.cfg"));
        fs::write(&config, haproxy_config(hop, next, bind, server))?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&config);
        let process = Process::start(&format!("{name}-{index}"), dir, &mut command);
        processes
            .push(process.context("haproxy is needed for comparison: apt-get install haproxy")?);
        hops.push(hop);
    }
    processes.reverse();
    let entry = *hops.last().context("three were pushed")?;
    Ok(Chain {
        name,
        sink: entry.sink,
        source: entry.source,
        echo: entry.echo,
        processes,
        _others: Vec::new(),
    })
}

fn haproxy_config(hop: Hop, next: Hop, bind: &str, server: &str) -> String {
    let mut text = "global\n  maxconn 8000\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n".to_owned();
    for (name, from, to) in [
        ("sink", hop.sink, next.sink),
        ("source", hop.source, next.source),
        ("echo", hop.echo, next.echo),
    ] {
        text.push_str(&format!(
            "listen {name}\n  bind {from}{bind}\n  server next {to}{server}\n"
        ));
    }
    text
}

/// Tells sidecar and device what the operator and the authority would.
fn tell(hub: &Hub, apps: &Apps) -> Result<()> {
    let authority = &hub.authority;
    let (namespace, collector) = (Label::new("bench")?, Label::new("collector")?);
    let doors = [apps.sink, apps.source, apps.echo].map(|app| Door {
        service: collector.clone(),
        port: app.port(),
        target_port: app.port(),
    });
    let claims = Claims {
        attributes: BTreeMap::new(),
        services: vec![collector.clone()],
    };
    authority.certify(&workload("bench", "collector"), claims);
    authority.tell(
        &workload("bench", "collector"),
        State {
            policies: allow_devices()?,
            doors: doors.to_vec(),
            ready: true,
            relays: hub.relays()?,
            names: vec![Address::Service {
                namespace: namespace.clone(),
                service: collector,
            }],
            ..State::default()
        },
    );
    let pump = Address::Device {
        namespace,
        name: Label::new("pump-7")?,
    };
    authority.tell(
        &device("bench", "pump-7"),
        State {
            ready: true,
            names: vec![pump],
            ..State::default()
        },
    );
    Ok(())
}

fn allow_devices() -> Result<PolicySet> {
    let from = CallerRule::Devices {
        namespaces: vec!["bench".to_owned()],
        names: Vec::new(),
        attributes: AttributeSelector::default(),
    };
    Ok(PolicySet {
        policies: vec![Policy {
            namespace: "bench".to_owned(),
            name: "devices".to_owned(),
            action: Action::Allow,
            mode: Mode::Enforce,
            from: vec![from],
            to: vec![fairway_policy::Door::Any],
        }],
    })
}

fn device_config(entry: Hop, apps: &Apps) -> String {
    let inlet = |listen: SocketAddr, app: SocketAddr| {
        format!(
            "- {{listen: \"{listen}\", to: \"collector.bench.svc.fairway.internal:{}\"}}\n",
            app.port()
        )
    };
    format!(
        "proxy: null\ninlets:\n{}{}{}",
        inlet(entry.sink, apps.sink),
        inlet(entry.source, apps.source),
        inlet(entry.echo, apps.echo)
    )
}

fn token(dir: &Path, namespace: &str, account: &str) -> Result<PathBuf> {
    let path = dir.join(format!("token-{account}"));
    fs::write(&path, format!("{namespace}/{account}"))?;
    Ok(path)
}

/// A loopback address that nobody listens on right now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
