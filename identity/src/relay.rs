//! Where relays listen, and what a link to one runs on.

use std::fmt;
use std::str::FromStr;

use crate::address::{AddressError, HostPort};

/// What a link to a relay runs on. In order of preference: the first survives
/// loss and a change of address best, the last gets through most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// QUIC, over UDP.
    Quic,
    /// TCP as it is.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TLS over TCP.
    WebSocket,
}

impl Transport {
    /// All of them, the preferred first.
    pub const ALL: [Self; 4] = [Self::Quic, Self::Tcp, Self::Tls, Self::WebSocket];

    /// The scheme of addresses with this transport.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "wss",
        }
    }

    fn of_scheme(scheme: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|transport| transport.scheme().eq_ignore_ascii_case(scheme))
    }

    /// The letter that stands for it in a ticket; TCP has none.
    pub(crate) fn letter(self) -> Option<char> {
        match self {
            Self::Quic => Some('q'),
            Self::Tcp => None,
            Self::Tls => Some('t'),
            Self::WebSocket => Some('w'),
        }
    }

    pub(crate) fn of_letter(letter: char) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|transport| transport.letter() == Some(letter))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme())
    }
}

/// Where a relay takes links of one kind: `quic://HOST:PORT`, `tls://HOST:PORT`,
/// `wss://HOST:PORT`, or `HOST:PORT` for TCP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayAddress {
    transport: Transport,
    at: HostPort,
}

impl RelayAddress {
    /// A relay that takes links over `transport` at `at`.
    pub fn new(transport: Transport, at: HostPort) -> Self {
        Self { transport, at }
    }

    /// What links to it run on.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Host and port (of TCP, or of UDP for QUIC).
    pub fn at(&self) -> &HostPort {
        &self.at
    }

    /// The host: a DNS name or an IP address (IPv6 without brackets).
    pub fn host(&self) -> &str {
        self.at.host()
    }
}

impl From<HostPort> for RelayAddress {
    /// TCP, as an address without a scheme.
    fn from(at: HostPort) -> Self {
        Self::new(Transport::Tcp, at)
    }
}

impl FromStr for RelayAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some((scheme, at)) = text.split_once("://") else {
            return text.parse().map(|at: HostPort| at.into());
        };
        let transport = Transport::of_scheme(scheme).ok_or(AddressError::Scheme)?;
        let at = at.strip_suffix('/').unwrap_or(at);
        Ok(Self::new(transport, at.parse()?))
    }
}

impl fmt::Display for RelayAddress {
    /// The shortest form: TCP has no scheme.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => self.at.fmt(f),
            Transport::Quic | Transport::Tls | Transport::WebSocket => {
                write!(f, "{}://{}", self.transport, self.at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_round_trip_and_tcp_needs_no_scheme() {
        for (text, transport) in [
            ("relay.example.com:7440", Transport::Tcp),
            ("quic://relay.example.com:7440", Transport::Quic),
            ("tls://203.0.113.9:443", Transport::Tls),
            ("wss://[2001:db8::1]:7443", Transport::WebSocket),
        ] {
            let address: RelayAddress = text.parse().unwrap();
            assert_eq!(address.transport(), transport);
            assert_eq!(address.to_string(), text);
        }
        for (text, same) in [
            ("tcp://relay.example.com:1", "relay.example.com:1"),
            ("WSS://Relay.example.com:1/", "wss://relay.example.com:1"),
        ] {
            assert_eq!(text.parse::<RelayAddress>().unwrap().to_string(), same);
        }
    }

    #[test]
    fn what_is_no_relay_address() {
        for (text, want) in [
            ("https://relay.example.com:443", AddressError::Scheme),
            ("://relay.example.com:443", AddressError::Scheme),
            ("wss://relay.example.com", AddressError::Port),
            ("wss://relay.example.com:443/fairway", AddressError::Port),
            ("wss://user@relay.example.com:443", AddressError::Host),
            ("quic://", AddressError::Port),
            ("relay.example.com", AddressError::Port),
        ] {
            assert_eq!(text.parse::<RelayAddress>(), Err(want), "{text}");
        }
    }

    #[test]
    fn the_preferred_transport_comes_first() {
        let mut sorted = Transport::ALL;
        sorted.sort();
        assert_eq!(sorted, Transport::ALL);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z:/.0-9\\[\\]]{0,40}") {
            if let Ok(address) = text.parse::<RelayAddress>() {
                let again: RelayAddress = address.to_string().parse().unwrap();
                prop_assert_eq!(again, address);
            }
        }
    }
}
