//! What an endpoint is started with. Read from flags and files in `main`, never here.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fairway_identity::{
    Address, Ed25519Key, HostPort, Label, RelayAddress, RootHash, Signer, TrustDomain, UnixSeconds,
    VerifiedTrustSet,
};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::limits::{SESSION_WAIT, UPGRADE_MIN};
use crate::transport::{ProxyUse, TlsTrust};
use crate::{Incoming, Metrics};

/// Everything that an [`Endpoint`](crate::Endpoint) needs to start.
pub struct EndpointConfig {
    /// The trust domain that this endpoint belongs to.
    pub trust_domain: TrustDomain,
    /// Hash of the root key, from the ticket or the injected pod: the anchor of all trust.
    pub pin: RootHash,
    /// Newest trust set from an earlier run, if one was kept.
    pub trust: Option<VerifiedTrustSet>,
    /// How credentials are obtained and renewed.
    pub credential: CredentialSource,
    /// The key of a ticket, for joining: relays have a budget of its own for
    /// whoever holds one.
    pub ticket: Option<Arc<Ed25519Key>>,
    /// A credential from an earlier run, used until it expires.
    pub saved: Option<SavedCredential>,
    /// The authority's own address (`host:port`), for endpoints that reach it
    /// without a relay. Without it the authority is reached over the relays.
    pub authority: Option<HostPort>,
    /// Relay addresses to begin with; the authority's updates replace them,
    /// unless [`relays_fixed`](Self::relays_fixed).
    pub relays: Vec<RelayAddress>,
    /// Whether `relays` stay, whatever the authority says: somebody wrote them
    /// down for this device.
    pub relays_fixed: bool,
    /// Whether to hold a link to one relay or to every one.
    pub relay_use: RelayUse,
    /// How relays are dialled.
    pub links: LinkOptions,
    /// Whether to accept direct links (the authority's front).
    pub listen: Option<Listen>,
    /// Names to answer to and to register with relays from the start. Further
    /// ones come from the authority's updates.
    pub names: Vec<Address>,
    /// Ports that callers may name, beside the doors that the authority
    /// announces: a device's services, by port, as far as the authority allows.
    pub services: Vec<(u16, String)>,
    /// Where accepted streams go. When it is full, streams are refused with `overloaded`.
    pub incoming: Option<mpsc::Sender<Incoming>>,
    /// How long a session without a link waits for another before its streams
    /// end with `link-lost`.
    pub session_wait: Duration,
    /// Where the time comes from.
    pub clock: ClockSource,
    /// Keeps trust set, time floor and credential across restarts.
    pub store: Option<Arc<dyn Store>>,
    /// Counters; made by [`Metrics::register`] before the registry is shared.
    pub metrics: Metrics,
}

impl EndpointConfig {
    /// A configuration with nothing but an anchor: no relays, no credential
    /// (every session is anonymous), the system's clock.
    pub fn new(trust_domain: TrustDomain, pin: RootHash) -> Self {
        Self {
            trust_domain,
            pin,
            trust: None,
            credential: CredentialSource::Anonymous,
            ticket: None,
            saved: None,
            authority: None,
            relays: Vec::new(),
            relays_fixed: false,
            relay_use: RelayUse::One,
            links: LinkOptions::default(),
            listen: None,
            names: Vec::new(),
            services: Vec::new(),
            incoming: None,
            session_wait: SESSION_WAIT,
            clock: ClockSource::System,
            store: None,
            metrics: Metrics::default(),
        }
    }
}

/// How an endpoint proves to the authority who it is.
#[derive(Clone)]
pub enum CredentialSource {
    /// Not at all: sessions are anonymous and reach nothing but the authority.
    /// For joining with a ticket.
    Anonymous,
    /// An enrolled device, by its long-lived signing key.
    Device {
        /// Namespace of the `DeviceIdentity`.
        namespace: Label,
        /// Name of the `DeviceIdentity`.
        name: Label,
        /// The device's key, made on the device.
        key: Arc<dyn Signer + Send + Sync>,
    },
    /// A pod, by a projected ServiceAccount token, read anew at each use.
    Workload {
        /// Path of the token file.
        token: PathBuf,
    },
    /// The authority's front, over the Unix socket that only its pod has.
    Front {
        /// Path of the authority's Unix socket.
        socket: PathBuf,
    },
}

/// How many of the known relays to hold a link to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayUse {
    /// None, whatever the authority says: relays themselves.
    None,
    /// One, and another when it fails: devices.
    One,
    /// Every one: sidecars and the authority.
    All,
}

/// How relays are dialled.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Which certificates are good enough, for TLS, WebSocket and QUIC.
    pub tls_trust: TlsTrust,
    /// Whether links go through an HTTP proxy.
    pub proxy: ProxyUse,
    /// A link over a lesser transport than there may be is kept this long before
    /// better ones are tried again; longer and longer while they do not work.
    pub upgrade_after: Duration,
}

impl Default for LinkOptions {
    /// Any certificate, no proxy, a minute.
    fn default() -> Self {
        Self {
            tls_trust: TlsTrust::default(),
            proxy: ProxyUse::default(),
            upgrade_after: UPGRADE_MIN,
        }
    }
}

/// Accepts direct links.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Local address, port 0 for any.
    pub address: SocketAddr,
    /// The authority's Unix socket, to which `Control` streams are piped.
    pub socket: PathBuf,
}

/// Where an endpoint's time comes from.
#[derive(Clone, Copy, Debug)]
pub enum ClockSource {
    /// The system's clock is right (nodes of a cluster).
    System,
    /// The system's clock is not to be trusted: ask the authority for signed
    /// time, then count. Until then nothing expired at `floor` is accepted.
    Unknown {
        /// The last time known, from disk; 0 when there is none.
        floor: UnixSeconds,
    },
    /// Another clock that is right, such as a GNSS receiver's.
    Other(fn() -> UnixSeconds),
}

/// A credential and its private key, as kept by a [`Store`].
#[derive(Clone)]
pub struct SavedCredential {
    /// The X25519 private key that the credential certifies.
    pub secret: Zeroizing<[u8; 32]>,
    /// Lean form.
    pub lean: Vec<u8>,
    /// Full form.
    pub full: Vec<u8>,
    /// When to renew it.
    pub renew_at: UnixSeconds,
    /// When it expires.
    pub expires: UnixSeconds,
}

/// Keeps state across restarts. Called from a blocking thread; errors are
/// logged and the endpoint goes on with what it has in memory.
pub trait Store: Send + Sync {
    /// Replaces what was kept before under the same variant.
    ///
    /// # Errors
    ///
    /// Whatever the file system says.
    fn keep(&self, what: &Keep) -> std::io::Result<()>;
}

/// One thing to keep across restarts.
#[derive(Clone, Debug)]
pub enum Keep {
    /// The newest trust set, signed by the root.
    TrustSet(VerifiedTrustSet),
    /// The credential in use.
    Credential(SavedCredential),
    /// A lower bound of the true time.
    TimeFloor(UnixSeconds),
    /// Relay addresses, from the authority.
    Relays(Vec<RelayAddress>),
}

// === impl Debug: no keys ===

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Device {
                namespace, name, ..
            } => write!(f, "Device({namespace}/{name})"),
            Self::Workload { token } => write!(f, "Workload({})", token.display()),
            Self::Front { socket } => write!(f, "Front({})", socket.display()),
        }
    }
}

impl fmt::Debug for SavedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedCredential")
            .field("renew_at", &self.renew_at)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointConfig")
            .field("trust_domain", &self.trust_domain)
            .field("pin", &self.pin)
            .field("credential", &self.credential)
            .field("authority", &self.authority)
            .field("relays", &self.relays)
            .field("relay_use", &self.relay_use)
            .field("links", &self.links)
            .field("listen", &self.listen)
            .field("names", &self.names)
            .field("services", &self.services)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
