//! A world for tests: an authority's process on a Unix socket, its front, and
//! a relay, all in this process and over loopback.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part of what is common, and this is test code"
)]

pub mod authority;
pub mod lines;
pub mod relay;
pub mod world;

use std::sync::Arc;
use std::time::Duration;

use fairway_endpoint::{
    ClockSource, CredentialSource, Endpoint, EndpointConfig, Incoming, Issued, Listen, RelayUse,
};
use fairway_identity::{Address, Ed25519Key, HostPort, Label, RelayAddress, Ticket};
use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, HttpRule, Method, Mode, PathPattern, Policy,
    PolicySet, Protocol,
};
use tokio::sync::mpsc;

use self::authority::Authority;

/// Longer than anything here takes.
pub const SOON: Duration = Duration::from_secs(8);

/// Fails the test instead of hanging.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

pub fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub fn address(text: &str) -> Address {
    text.parse().unwrap()
}

pub fn host_port(address: std::net::SocketAddr) -> HostPort {
    address.to_string().parse().unwrap()
}

/// The authority's front, with direct links, and with links to `relays`.
pub async fn front(authority: &Authority, relays: &[RelayAddress]) -> Endpoint {
    let mut config = EndpointConfig::new(authority.trust_domain(), authority.pin());
    config.credential = CredentialSource::Front {
        socket: authority.socket().to_owned(),
    };
    config.names = vec![Address::Authority];
    config.relays = relays.to_vec();
    config.relay_use = RelayUse::All;
    config.listen = Some(Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        socket: authority.socket().to_owned(),
    });
    let front = Endpoint::start(config).await.unwrap();
    soon(front.credentialed()).await;
    front
}

/// A sidecar with this ServiceAccount, whose pod backs Services of `state`.
pub async fn workload(
    authority: &Authority,
    front: &Endpoint,
    account: &str,
    services: &[&str],
) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let token = format!("factory/{account}/{}", services.join(","));
    workload_with_token(authority, front, &token).await
}

/// The same, whose sessions wait only so long for a link.
pub async fn workload_that_waits(
    authority: &Authority,
    front: &Endpoint,
    account: &str,
    services: &[&str],
    session_wait: Duration,
) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let token = authority.token(&format!("factory/{account}/{}", services.join(",")));
    let mut config = EndpointConfig::new(authority.trust_domain(), authority.pin());
    config.credential = CredentialSource::Workload { token };
    config.authority = Some(host_port(front.listen_address().unwrap()));
    config.relay_use = RelayUse::All;
    config.session_wait = session_wait;
    start(config).await
}

/// A sidecar that shows this token.
pub async fn workload_with_token(
    authority: &Authority,
    front: &Endpoint,
    token: &str,
) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let token = authority.token(token);
    let mut config = EndpointConfig::new(authority.trust_domain(), authority.pin());
    config.credential = CredentialSource::Workload { token };
    config.authority = Some(host_port(front.listen_address().unwrap()));
    config.relay_use = RelayUse::All;
    start(config).await
}

/// A device that enrolled as `name` before, offering `services`.
pub async fn device(
    authority: &Authority,
    relays: &[RelayAddress],
    name: &str,
    services: &[(u16, &str)],
) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let unknown = ClockSource::Unknown {
        floor: Default::default(),
    };
    device_by(unknown, authority, relays, name, services).await
}

/// One that goes by this clock.
pub async fn device_by(
    clock: ClockSource,
    authority: &Authority,
    relays: &[RelayAddress],
    name: &str,
    services: &[(u16, &str)],
) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let mut config = device_config(authority, relays, name, services);
    config.clock = clock;
    start(config).await
}

/// The same at a later run: it has a credential, and no clock yet.
pub async fn device_again(
    authority: &Authority,
    relays: &[RelayAddress],
    name: &str,
    issued: Issued,
    services: &[(u16, &str)],
) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let mut config = device_config(authority, relays, name, services);
    config.saved = Some(issued.credential);
    config.trust = Some(issued.trust);
    config.clock = ClockSource::Unknown {
        floor: Default::default(),
    };
    start(config).await
}

/// The same, whose sessions wait only so long for a link.
pub async fn device_that_waits(
    authority: &Authority,
    relays: &[RelayAddress],
    name: &str,
    session_wait: Duration,
) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let mut config = device_config(authority, relays, name, &[]);
    config.session_wait = session_wait;
    start(config).await
}

fn device_config(
    authority: &Authority,
    relays: &[RelayAddress],
    name: &str,
    services: &[(u16, &str)],
) -> EndpointConfig {
    let mut config = EndpointConfig::new(authority.trust_domain(), authority.pin());
    config.credential = CredentialSource::Device {
        namespace: label("factory"),
        name: label(name),
        key: authority.enrolled(name),
    };
    config.relays = relays.to_vec();
    config.services = services
        .iter()
        .map(|(p, s)| (*p, (*s).to_owned()))
        .collect();
    config
}

async fn start(mut config: EndpointConfig) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let (sender, incoming) = mpsc::channel(16);
    config.incoming = Some(sender);
    (Endpoint::start(config).await.unwrap(), incoming)
}

/// Somebody with a ticket and nothing else.
pub async fn newcomer(ticket: &Ticket) -> Endpoint {
    let mut config = EndpointConfig::new(ticket.trust_domain().clone(), *ticket.root());
    config.relays = ticket.relays().to_vec();
    config.clock = ClockSource::Unknown {
        floor: Default::default(),
    };
    Endpoint::start(config).await.unwrap()
}

/// The device that joined with `ticket`, at its first run.
pub async fn enrolled_device(ticket: &Ticket, key: Ed25519Key, issued: Issued) -> Endpoint {
    let mut config = EndpointConfig::new(ticket.trust_domain().clone(), *ticket.root());
    config.credential = CredentialSource::Device {
        namespace: ticket.namespace().clone(),
        name: ticket.device().clone(),
        key: Arc::new(key),
    };
    config.relays = ticket.relays().to_vec();
    config.saved = Some(issued.credential);
    config.trust = Some(issued.trust);
    config.clock = ClockSource::Unknown {
        floor: Default::default(),
    };
    Endpoint::start(config).await.unwrap()
}

/// Any device of the namespace may call `door`.
pub fn allow_devices(door: Door) -> PolicySet {
    let from = CallerRule::Devices {
        namespaces: vec!["factory".to_owned()],
        names: Vec::new(),
        attributes: AttributeSelector::default(),
    };
    policy(from, door)
}

/// Any workload of the namespace may call `door`.
pub fn allow_workloads(door: Door) -> PolicySet {
    let from = CallerRule::Workloads {
        namespaces: vec!["factory".to_owned()],
        service_accounts: Vec::new(),
    };
    policy(from, door)
}

pub fn port(port: u16) -> Door {
    Door::Port {
        port,
        protocol: Protocol::Tcp,
    }
}

pub fn service(name: &str) -> Door {
    Door::Service {
        service: name.to_owned(),
        protocol: Protocol::Tcp,
    }
}

/// A service of which policy allows these requests only.
pub fn http_service(name: &str, method: &str, path: &str) -> Door {
    Door::Service {
        service: name.to_owned(),
        protocol: Protocol::Http(vec![HttpRule {
            methods: vec![Method::new(method).unwrap()],
            paths: vec![PathPattern::new(path).unwrap()],
        }]),
    }
}

fn policy(from: CallerRule, to: Door) -> PolicySet {
    PolicySet {
        policies: vec![Policy {
            namespace: "factory".to_owned(),
            name: "open".to_owned(),
            action: Action::Allow,
            mode: Mode::Enforce,
            from: vec![from],
            to: vec![to],
        }],
    }
}
