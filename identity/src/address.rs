//! The addresses that applications use, all under `fairway.internal`.

use std::fmt;
use std::str::FromStr;

use crate::limits;
use crate::name::{Label, NameError};

/// The suffix of every Fairway address.
pub const SUFFIX: &str = "fairway.internal";

/// Why a text is not an address, a destination or a `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Does not end in `.fairway.internal`.
    #[error("not a Fairway address: it must end in .{SUFFIX}")]
    Foreign,
    /// Ends rightly, but is none of the known forms.
    #[error(
        "not a Fairway address: write NAME.NAMESPACE.device.{SUFFIX}, SERVICE.NAMESPACE.svc.{SUFFIX}, or POD.SERVICE.NAMESPACE.svc.{SUFFIX}"
    )]
    Form,
    /// One of its labels is malformed.
    #[error("a part of the address is malformed")]
    Label(#[source] NameError),
    /// Longer than any address can be.
    #[error("an address may have at most {} characters", limits::ADDRESS_LEN)]
    TooLong,
    /// No port, or not a number from 1 to 65535.
    #[error("write HOST:PORT with a port from 1 to 65535")]
    Port,
    /// A relay's address with a scheme that means nothing.
    #[error("write quic://, tcp://, tls:// or wss:// before HOST:PORT, or nothing for TCP")]
    Scheme,
    /// Not a host name or an IP address (IPv6 in brackets).
    #[error("not a host name or an IP address; write IPv6 addresses in brackets")]
    Host,
}

/// Whom an application, or an endpoint, can dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `NAME.NAMESPACE.device.fairway.internal`
    Device {
        /// Namespace of the DeviceIdentity.
        namespace: Label,
        /// Name of the DeviceIdentity.
        name: Label,
    },
    /// `SERVICE.NAMESPACE.svc.fairway.internal`: any pod that backs the Service.
    Service {
        /// Namespace of the Service.
        namespace: Label,
        /// Name of the Service.
        service: Label,
    },
    /// `POD.SERVICE.NAMESPACE.svc.fairway.internal`: one pod of a headless Service.
    Pod {
        /// Namespace of the Service.
        namespace: Label,
        /// Name of the Service.
        service: Label,
        /// Name of the pod.
        pod: Label,
    },
    /// `authority.fairway.internal`
    Authority,
    /// `relay.fairway.internal`: the relay at the other end of the link.
    Relay,
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads an address in any case; it is lower case from then on.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > limits::ADDRESS_LEN {
            return Err(AddressError::TooLong);
        }
        let lower = text.to_ascii_lowercase();
        let head = lower
            .strip_suffix(SUFFIX)
            .and_then(|head| head.strip_suffix('.'))
            .ok_or(AddressError::Foreign)?;
        let label = |text: &str| Label::new(text).map_err(AddressError::Label);
        let mut parts = [""; 4];
        let mut count = 0;
        for part in head.split('.') {
            *parts.get_mut(count).ok_or(AddressError::Form)? = part;
            count += 1;
        }
        match &parts[..count] {
            ["authority"] => Ok(Self::Authority),
            ["relay"] => Ok(Self::Relay),
            [name, namespace, "device"] => Ok(Self::Device {
                namespace: label(namespace)?,
                name: label(name)?,
            }),
            [service, namespace, "svc"] => Ok(Self::Service {
                namespace: label(namespace)?,
                service: label(service)?,
            }),
            [pod, service, namespace, "svc"] => Ok(Self::Pod {
                namespace: label(namespace)?,
                service: label(service)?,
                pod: label(pod)?,
            }),
            _ => Err(AddressError::Form),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { namespace, name } => write!(f, "{name}.{namespace}.device.{SUFFIX}"),
            Self::Service { namespace, service } => {
                write!(f, "{service}.{namespace}.svc.{SUFFIX}")
            }
            Self::Pod {
                namespace,
                service,
                pod,
            } => {
                write!(f, "{pod}.{service}.{namespace}.svc.{SUFFIX}")
            }
            Self::Authority => write!(f, "authority.{SUFFIX}"),
            Self::Relay => write!(f, "relay.{SUFFIX}"),
        }
    }
}

/// An address and a port of it, such as
/// `mosquitto.factory.svc.fairway.internal:1883`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Whom to dial.
    pub address: Address,
    /// Which port there: of the Service, or of the device's own config.
    pub port: u16,
}

impl FromStr for Destination {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Port)?;
        Ok(Self {
            port: parse_port(port)?,
            address: host.parse()?,
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

/// A place on the ordinary network: where a relay or the authority listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: Box<str>,
    port: u16,
}

impl HostPort {
    /// Checks `host` (a DNS name or an IP address, IPv6 without brackets) and
    /// joins it with `port`.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        if port == 0 {
            return Err(AddressError::Port);
        }
        let host = host.to_ascii_lowercase();
        if !is_ip(&host) && !is_dns_name(&host) {
            return Err(AddressError::Host);
        }
        Ok(Self {
            host: host.into(),
            port,
        })
    }

    /// The host: a DNS name or an IP address (IPv6 without brackets).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Port)?;
        let port = parse_port(port)?;
        match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => Self::new(v6, port),
            Some(_) => Err(AddressError::Host),
            None if host.contains(':') => Err(AddressError::Host),
            None => Self::new(host, port),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Decimal digits only: `u16::from_str` would accept a leading `+`.
fn parse_port(text: &str) -> Result<u16, AddressError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AddressError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(AddressError::Port),
        Ok(port) => Ok(port),
    }
}

fn is_ip(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

fn is_dns_name(host: &str) -> bool {
    host.len() <= limits::HOST_LEN && host.split('.').all(|part| Label::new(part).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "pump-7.factory.device.fairway.internal",
            "collector.factory.svc.fairway.internal",
            "db-0.db.factory.svc.fairway.internal",
            "authority.fairway.internal",
            "relay.fairway.internal",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn case_does_not_matter() {
        let address: Address = "Pump-7.Factory.DEVICE.Fairway.Internal".parse().unwrap();
        assert_eq!(
            address.to_string(),
            "pump-7.factory.device.fairway.internal"
        );
    }

    #[test]
    fn what_is_not_an_address() {
        for (text, want) in [
            ("", AddressError::Foreign),
            ("example.com", AddressError::Foreign),
            ("a.b.device.notfairway.internal", AddressError::Foreign),
            ("a.b.devicefairway.internal", AddressError::Foreign),
            ("fairway.internal", AddressError::Foreign),
            (
                "pump.factory.device.fairway.internal.",
                AddressError::Foreign,
            ),
            ("x.fairway.internal", AddressError::Form),
            (".fairway.internal", AddressError::Form),
            ("a.b.pod.fairway.internal", AddressError::Form),
            ("x.pump.factory.device.fairway.internal", AddressError::Form),
            ("a.b.c.d.svc.fairway.internal", AddressError::Form),
        ] {
            assert_eq!(text.parse::<Address>(), Err(want), "{text:?}");
        }
        for text in ["..device.fairway.internal", "a_b.ns.svc.fairway.internal"] {
            assert!(
                matches!(text.parse::<Address>(), Err(AddressError::Label(_))),
                "{text:?}"
            );
        }
        let long = format!("{}.fairway.internal", "a.".repeat(200));
        assert_eq!(long.parse::<Address>(), Err(AddressError::TooLong));
    }

    #[test]
    fn destinations_need_a_port() {
        let text = "mosquitto.factory.svc.fairway.internal:1883";
        assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        for port in ["", ":", ":0", ":+80", ":65536", ":8o"] {
            let text = format!("mosquitto.factory.svc.fairway.internal{port}");
            assert_eq!(
                text.parse::<Destination>(),
                Err(AddressError::Port),
                "{text}"
            );
        }
    }

    #[test]
    fn hosts_and_ports() {
        for text in [
            "relay.example.com:7440",
            "203.0.113.9:30740",
            "[2001:db8::1]:7440",
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for bad in [
            "2001:db8::1:7440",
            "[203.0.113.9]:1",
            "a b:1",
            "[::1:1",
            ":1",
            "x/y:1",
        ] {
            assert_eq!(bad.parse::<HostPort>(), Err(AddressError::Host), "{bad}");
        }
    }
}
