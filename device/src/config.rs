//! What a device offers, and which local ports lead where. It is the device's
//! own file: the cluster never says what to dial on a device.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use fairway_endpoint::LinkOptions;
use fairway_endpoint::portal::InletSpec;
use fairway_endpoint::transport::{ProxyError, ProxyUse, TlsTrust, TlsTrustError};
use fairway_identity::{AddressError, Destination, RelayAddress};
use serde::Deserialize;

/// Largest config file, in bytes; a larger one is a mistake.
const MAX_FILE: u64 = 1024 * 1024;

/// The config of a device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What callers in the cluster may reach, if policy allows it and the
    /// DeviceIdentity names it (or names none at all).
    pub services: Vec<ServiceConfig>,
    /// Loopback ports that lead to one destination each.
    pub inlets: Vec<InletConfig>,
    /// Loopback address of the HTTP proxy for `*.fairway.internal`; `null` for none.
    pub proxy: Option<SocketAddr>,
    /// Whose time to believe.
    pub clock: ClockConfig,
    /// Where relays are (`HOST:PORT` for TCP, or with `quic://`, `tls://` or
    /// `wss://` before it), instead of what ticket and authority say. The
    /// transports are tried in this order: QUIC, TCP, TLS, WebSocket.
    pub relays: Vec<String>,
    /// An HTTP proxy that leads to the relays, for all transports but QUIC:
    /// `http://HOST:PORT` or `http://USER:PASSWORD@HOST:PORT`. Unless it is
    /// given, `HTTPS_PROXY` and `NO_PROXY` say, for TLS and WebSocket; `none`
    /// ignores these too.
    pub https_proxy: Option<ProxyUrl>,
    /// A PEM file with the authorities that must have signed a relay's TLS
    /// certificate (TLS, WebSocket, QUIC). Without it any certificate will do:
    /// the link's own handshake authenticates the relay in any case.
    pub tls_ca: Option<PathBuf>,
}

/// A proxy's URL, perhaps with a password, which `Debug` leaves out.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ProxyUrl(String);

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What comes before the last @ is secret.
        let shown = self.0.rsplit('@').next().unwrap_or_default();
        f.debug_tuple("ProxyUrl").field(&shown).finish()
    }
}

/// Whose time a device believes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockConfig {
    /// The authority's, signed, asked for at each start. Right for devices
    /// without a clock that somebody sets; but one that restarts while the
    /// authority is away waits for it before it calls anybody else.
    #[default]
    Authority,
    /// The system's, as set by NTP or the like.
    System,
}

/// One service that the device offers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Its name, as `spec.services` of the DeviceIdentity and policies have it.
    pub name: String,
    /// The port that callers name.
    pub port: u16,
    /// Where it is served, on this device.
    pub to: SocketAddr,
}

/// One inlet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InletConfig {
    /// A loopback address of this device.
    pub listen: SocketAddr,
    /// `HOST:PORT` under `fairway.internal`.
    pub to: String,
}

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the config file {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any config should be.
    #[error("the config file {path} is larger than {MAX_FILE} bytes")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// It is no YAML, or not of this shape.
    #[error("the config file {path} is not understood")]
    Parse {
        /// The file.
        path: String,
        /// Where and what.
        #[source]
        source: serde_yaml::Error,
    },
    /// Two services share a name or a port.
    #[error("{what} occurs twice among the services")]
    Twice {
        /// The name or the port.
        what: String,
    },
    /// A service has port 0.
    #[error("service {name}: write a port from 1 to 65535")]
    Port {
        /// The service.
        name: String,
    },
    /// An inlet's destination is not usable.
    #[error("inlet {listen}: the destination {to} is not usable")]
    Inlet {
        /// Where it listens.
        listen: SocketAddr,
        /// What was written.
        to: String,
        /// What is wrong with it.
        #[source]
        source: fairway_identity::AddressError,
    },
    /// A relay's address is not usable.
    #[error("relays: {text:?} is not usable")]
    Relay {
        /// What was written.
        text: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// The proxy to the relays is not usable.
    #[error("https_proxy is not usable")]
    HttpsProxy(#[source] ProxyError),
    /// The file with authorities cannot be read.
    #[error("tls_ca: cannot read {path}")]
    TlsCa {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file with authorities is of no use.
    #[error("tls_ca: {path} is not usable")]
    TlsTrust {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: TlsTrustError,
    },
    /// The proxy would listen where others can reach it.
    #[error(
        "the proxy may listen on loopback only, not on {0}: whoever reaches it speaks with this device's identity"
    )]
    ProxyNotLoopback(SocketAddr),
}

impl Default for Config {
    /// Offers nothing, and has the proxy on 127.0.0.1:7480.
    fn default() -> Self {
        Self {
            services: Vec::new(),
            inlets: Vec::new(),
            proxy: Some((Ipv4Addr::LOCALHOST, 7480).into()),
            clock: ClockConfig::default(),
            relays: Vec::new(),
            https_proxy: None,
            tls_ca: None,
        }
    }
}

impl Config {
    /// Reads and checks a YAML file.
    ///
    /// # Errors
    /// It cannot be read, or does not say what it should.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let read = |source| ConfigError::Read {
            path: shown.clone(),
            source,
        };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE {
            return Err(ConfigError::TooLarge { path: shown });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let config: Self = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_yaml::from_str(&text).map_err(|source| ConfigError::Parse {
                path: shown,
                source,
            })?
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for service in &self.services {
            if service.port == 0 {
                return Err(ConfigError::Port {
                    name: service.name.clone(),
                });
            }
            if !names.insert(&service.name) {
                return Err(ConfigError::Twice {
                    what: format!("name {}", service.name),
                });
            }
            if !ports.insert(service.port) {
                return Err(ConfigError::Twice {
                    what: format!("port {}", service.port),
                });
            }
        }
        if let Some(proxy) = self.proxy.filter(|proxy| !proxy.ip().is_loopback()) {
            return Err(ConfigError::ProxyNotLoopback(proxy));
        }
        self.relay_addresses()?;
        self.link_options()?;
        self.inlet_specs().map(drop)
    }

    /// The relays that are written down here, if any.
    ///
    /// # Errors
    /// One of them is no address of a relay.
    pub fn relay_addresses(&self) -> Result<Vec<RelayAddress>, ConfigError> {
        let parse = |text: &String| {
            text.parse().map_err(|source| ConfigError::Relay {
                text: text.clone(),
                source,
            })
        };
        self.relays.iter().map(parse).collect()
    }

    /// How relays are dialled.
    ///
    /// # Errors
    /// The proxy's URL is none, or the file with authorities is of no use.
    pub fn link_options(&self) -> Result<LinkOptions, ConfigError> {
        let proxy = match self.https_proxy.as_ref().map(|url| url.0.as_str()) {
            None => ProxyUse::from_env(),
            Some("none") => ProxyUse::None,
            Some(url) => ProxyUse::from_url(url).map_err(ConfigError::HttpsProxy)?,
        };
        let tls_trust = self.tls_ca.as_deref().map(tls_trust).transpose()?;
        Ok(LinkOptions {
            tls_trust: tls_trust.unwrap_or_default(),
            proxy,
            ..LinkOptions::default()
        })
    }

    /// The inlets, with their destinations parsed.
    ///
    /// # Errors
    /// A destination is no Fairway address with a port.
    pub fn inlet_specs(&self) -> Result<Vec<InletSpec>, ConfigError> {
        self.inlets
            .iter()
            .map(|inlet| {
                let to: Destination = inlet.to.parse().map_err(|source| ConfigError::Inlet {
                    listen: inlet.listen,
                    to: inlet.to.clone(),
                    source,
                })?;
                Ok(InletSpec {
                    listen: inlet.listen,
                    to,
                })
            })
            .collect()
    }

    /// Local addresses by name of the service.
    pub(crate) fn local_addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.services
            .iter()
            .map(|service| (service.name.clone(), service.to))
            .collect()
    }
}

fn tls_trust(path: &Path) -> Result<TlsTrust, ConfigError> {
    let shown = || path.display().to_string();
    let pem = std::fs::read(path).map_err(|source| ConfigError::TlsCa {
        path: shown(),
        source,
    })?;
    TlsTrust::from_pem(&pem).map_err(|source| ConfigError::TlsTrust {
        path: shown(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path())
    }

    #[test]
    fn a_whole_config() {
        let config = read(
            "services: [{name: metrics, port: 9100, to: 127.0.0.1:9100}]\n\
             inlets: [{listen: 127.0.0.1:1883, to: mosquitto.factory.svc.fairway.internal:1883}]\n",
        )
        .unwrap();
        assert_eq!(config.inlet_specs().unwrap()[0].to.port, 1883);
        assert_eq!(config.proxy, Some("127.0.0.1:7480".parse().unwrap()));
        assert_eq!(read("").unwrap(), Config::default());
        assert_eq!(read("proxy: null").unwrap().proxy, None);
        assert_eq!(read("clock: system").unwrap().clock, ClockConfig::System);
    }

    #[test]
    fn the_way_to_the_relays() {
        let config = read(
            "relays: [quic://relay.example.com:7440, 'relay.example.com:7440']\n\
             https_proxy: http://user:secret@proxy.example.com:3128\n",
        )
        .unwrap();
        let relays = config.relay_addresses().unwrap();
        assert_eq!(relays[0].to_string(), "quic://relay.example.com:7440");
        let debug = format!("{config:?} {:?}", config.link_options().unwrap());
        assert!(debug.contains("proxy.example.com:3128"), "{debug}");
        assert!(!debug.contains("secret"), "{debug}");
        let none = read("https_proxy: none").unwrap().link_options().unwrap();
        assert!(matches!(none.proxy, ProxyUse::None));
    }

    #[test]
    fn what_is_refused() {
        for (text, expected) in [
            ("servces: []", "not understood"),
            (
                "services: [{name: a, port: 1, to: 127.0.0.1:1}, {name: a, port: 2, to: 127.0.0.1:2}]",
                "name a occurs twice",
            ),
            (
                "services: [{name: a, port: 1, to: 127.0.0.1:1}, {name: b, port: 1, to: 127.0.0.1:2}]",
                "port 1 occurs twice",
            ),
            (
                "services: [{name: a, port: 0, to: 127.0.0.1:1}]",
                "from 1 to 65535",
            ),
            (
                "inlets: [{listen: 127.0.0.1:1, to: example.com:80}]",
                "not usable",
            ),
            ("proxy: 0.0.0.0:7480", "loopback only"),
            (
                "relays: [relay.example.com]",
                "relays: \"relay.example.com\"",
            ),
            ("relays: ['https://relay.example.com:1']", "relays: "),
            ("https_proxy: https://proxy:1", "https_proxy"),
            ("tls_ca: /nonexistent", "tls_ca: cannot read /nonexistent"),
            ("tls_ca: /dev/null", "tls_ca: /dev/null is not usable"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(matches!(
            Config::read(Path::new("/nonexistent")),
            Err(ConfigError::Read { .. })
        ));
    }
}
