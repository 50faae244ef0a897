//! Enrolment tickets: one line of text that lets a device ask for its first
//! credential, once.
//!
//! `fairway1-` and base32 of: seed (32 bytes), root hash (32), trust domain,
//! namespace, device, the number of relay addresses and each of them in short
//! (every text after a byte with its length), and four bytes of checksum.
//! Base32 because a
//! ticket is read aloud, typed, and printed as a QR code, where upper-case
//! letters and digits take little room; upper and lower case mean the same.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use crate::address::{AddressError, HostPort};
use crate::key::{Ed25519Key, Signer, VerifyingKey};
use crate::limits;
use crate::name::{Label, TrustDomain};
use crate::relay::{RelayAddress, Transport};
use crate::trust::{RootHash, sha256};

/// A ticket, private half of its key included. `Display` is the secret text
/// that the device needs; `Debug` leaves the secret out.
pub struct Ticket {
    relays: Vec<RelayAddress>,
    trust_domain: TrustDomain,
    root: RootHash,
    namespace: Label,
    device: Label,
    key: Ed25519Key,
}

/// Why a ticket could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else than a ticket.
    #[error("this is not a Fairway ticket: it must begin with fairway1-")]
    NotATicket,
    /// A ticket of a later (or no) version.
    #[error(
        "this ticket has version {version:?}, and only version 1 is understood; use a newer fairway-device"
    )]
    UnsupportedVersion {
        /// What stands where the version should.
        version: String,
    },
    /// Checksum, alphabet or length wrong.
    #[error("the ticket is damaged: copy the whole line again, from fairway1- to its end")]
    Damaged,
    /// Longer than any ticket.
    #[error("a ticket has at most {} characters", limits::TICKET_TEXT_LEN)]
    TooLong,
    /// The checksum is right, but what is inside makes no sense.
    #[error("the ticket was made wrongly: {what}; make a new one with a matching kubectl-fairway")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// No relay, or too many.
    #[error(
        "a ticket needs one to {} relay addresses, not {count}",
        limits::TICKET_RELAYS
    )]
    Relays {
        /// How many there are.
        count: usize,
    },
}

impl TicketError {
    /// The machine-readable word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotATicket => "not-a-ticket",
            Self::UnsupportedVersion { .. } => "ticket-version-unsupported",
            Self::Damaged => "ticket-damaged",
            Self::TooLong => "ticket-too-long",
            Self::Malformed { .. } => "ticket-malformed",
            Self::Relays { .. } => "ticket-relays",
        }
    }
}

impl Ticket {
    /// Makes a ticket; `seed` is fresh randomness, the private half of its key.
    pub fn new(
        relays: Vec<RelayAddress>,
        trust_domain: TrustDomain,
        root: RootHash,
        namespace: Label,
        device: Label,
        seed: [u8; 32],
    ) -> Result<Self, TicketError> {
        if relays.is_empty() || relays.len() > limits::TICKET_RELAYS {
            return Err(TicketError::Relays {
                count: relays.len(),
            });
        }
        let key = Ed25519Key::from_seed(seed);
        let ticket = Self {
            relays,
            trust_domain,
            root,
            namespace,
            device,
            key,
        };
        if ticket.text().len() > limits::TICKET_TEXT_LEN {
            return Err(TicketError::TooLong);
        }
        Ok(ticket)
    }

    /// Where relays can be reached.
    pub fn relays(&self) -> &[RelayAddress] {
        &self.relays
    }

    /// The trust domain to join.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Hash of the root to trust.
    pub fn root(&self) -> &RootHash {
        &self.root
    }

    /// Namespace of the device.
    pub fn namespace(&self) -> &Label {
        &self.namespace
    }

    /// Name of the device.
    pub fn device(&self) -> &Label {
        &self.device
    }

    /// The one-time key that signs the enrolment.
    pub fn key(&self) -> &Ed25519Key {
        &self.key
    }

    /// Name of the EnrollmentTicket resource that belongs to this ticket.
    pub fn resource_name(&self) -> String {
        resource_name(&self.device, &self.key.verifying_key())
    }

    /// The public half as the resource's `spec.publicKey` carries it.
    pub fn public_key_text(&self) -> String {
        self.key.verifying_key().to_string()
    }

    /// The ticket in upper case, which a QR code holds in a third less room.
    pub fn qr_text(&self) -> Zeroizing<String> {
        let mut text = self.text();
        text.make_ascii_uppercase();
        text
    }

    fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(limits::TICKET_TEXT_LEN));
        bytes.extend_from_slice(self.key.seed());
        bytes.extend_from_slice(&self.root.0);
        for text in [
            self.trust_domain.as_str(),
            self.namespace.as_str(),
            self.device.as_str(),
        ] {
            push_text(&mut bytes, text);
        }
        bytes.push(u8::try_from(self.relays.len()).expect("bounded by TICKET_RELAYS"));
        let mut before = None;
        for relay in &self.relays {
            push_text(&mut bytes, &short(relay, before));
            before = Some(relay);
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len() + PREFIX.len()));
        text.push_str(PREFIX);
        BASE32_NOPAD.encode_append(&bytes, &mut text);
        text.make_ascii_lowercase();
        text
    }
}

/// Name of the EnrollmentTicket resource for `device` and a ticket's public
/// key: `DEVICE-` and ten characters of the key's hash, so that the device can
/// name it without being told.
pub fn resource_name(device: &Label, public_key: &VerifyingKey) -> String {
    let hash = BASE32_NOPAD.encode(&sha256(&public_key.to_cose_key()));
    format!("{device}-{}", hash[..10].to_ascii_lowercase())
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("namespace", &self.namespace)
            .field("device", &self.device)
            .field("relays", &self.relays)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket in any case; white space anywhere (a terminal's line
    /// breaks) is ignored.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        if text.len() > 2 * limits::TICKET_TEXT_LEN {
            return Err(TicketError::TooLong);
        }
        let mut lower = Zeroizing::new(String::with_capacity(text.len()));
        lower.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
        lower.make_ascii_lowercase();
        if lower.len() > limits::TICKET_TEXT_LEN {
            return Err(TicketError::TooLong);
        }
        let code = strip_prefix(&lower)?;
        let upper = Zeroizing::new(code.to_ascii_uppercase());
        let bytes = BASE32_NOPAD
            .decode(upper.as_bytes())
            .map_err(|_| TicketError::Damaged)?;
        parse(&Zeroizing::new(bytes))
    }
}

/// Takes `fairway1-` off, or says what stands there instead.
fn strip_prefix(text: &str) -> Result<&str, TicketError> {
    if let Some(code) = text.strip_prefix(PREFIX) {
        return Ok(code);
    }
    let rest = text
        .strip_prefix("fairway")
        .ok_or(TicketError::NotATicket)?;
    match rest.split_once('-') {
        Some((version, _)) if version.len() <= 8 => Err(TicketError::UnsupportedVersion {
            version: version.to_owned(),
        }),
        _ => Err(TicketError::NotATicket),
    }
}

fn parse(bytes: &[u8]) -> Result<Ticket, TicketError> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(TicketError::Damaged)?;
    if checksum(body) != *sum {
        return Err(TicketError::Damaged);
    }
    let wrong = |what| TicketError::Malformed { what };
    let (seed, rest) = body
        .split_first_chunk::<32>()
        .ok_or(wrong("it is too short"))?;
    let (root, rest) = rest
        .split_first_chunk::<32>()
        .ok_or(wrong("it is too short"))?;
    let mut rest = rest;
    let trust_domain =
        TrustDomain::new(take_text(&mut rest)?).map_err(|_| wrong("trust domain"))?;
    let namespace = Label::new(take_text(&mut rest)?).map_err(|_| wrong("namespace"))?;
    let device = Label::new(take_text(&mut rest)?).map_err(|_| wrong("device"))?;
    let (&count, mut rest) = rest.split_first().ok_or(wrong("it is too short"))?;
    let count = usize::from(count);
    if count == 0 || count > limits::TICKET_RELAYS {
        return Err(TicketError::Relays { count });
    }
    let mut relays = Vec::with_capacity(count);
    for _ in 0..count {
        let relay = from_short(take_text(&mut rest)?, relays.last());
        relays.push(relay.map_err(|_| wrong("relay address"))?);
    }
    if !rest.is_empty() {
        return Err(wrong("it is too long"));
    }
    Ticket::new(
        relays,
        trust_domain,
        RootHash(*root),
        namespace,
        device,
        *seed,
    )
}

/// A relay's address in short: the transport's letter and a slash (nothing for
/// TCP), the host unless it is that of the address before, and the port.
fn short(relay: &RelayAddress, before: Option<&RelayAddress>) -> String {
    let mut text = String::new();
    if let Some(letter) = relay.transport().letter() {
        text.extend([letter, '/']);
    }
    if before.is_some_and(|before| before.host() == relay.host()) {
        text.push_str(&format!(":{}", relay.at().port()));
    } else {
        text.push_str(&relay.at().to_string());
    }
    text
}

fn from_short(text: &str, before: Option<&RelayAddress>) -> Result<RelayAddress, AddressError> {
    let (transport, at) = match text.split_once('/') {
        Some((letter, at)) => {
            let letter = letter.parse().map_err(|_| AddressError::Scheme)?;
            let transport = Transport::of_letter(letter).ok_or(AddressError::Scheme)?;
            (transport, at)
        }
        None => (Transport::Tcp, text),
    };
    let at: HostPort = match (at.strip_prefix(':'), before) {
        (Some(port), Some(before)) => {
            // The host is put back in the way it is written before a port.
            let same = before.at().to_string();
            let (host, _) = same.rsplit_once(':').ok_or(AddressError::Port)?;
            format!("{host}:{port}").parse()?
        }
        (Some(_) | None, _) => at.parse()?,
    };
    Ok(RelayAddress::new(transport, at))
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    bytes.push(len);
    bytes.extend_from_slice(&text.as_bytes()[..usize::from(len)]);
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, TicketError> {
    let wrong = || TicketError::Malformed {
        what: "a text in it",
    };
    let (&len, tail) = rest.split_first().ok_or_else(wrong)?;
    let (text, tail) = tail.split_at_checked(usize::from(len)).ok_or_else(wrong)?;
    *rest = tail;
    std::str::from_utf8(text).map_err(|_| wrong())
}

/// Against typing mistakes, not against attackers.
fn checksum(body: &[u8]) -> [u8; 4] {
    let salted = Zeroizing::new([b"fairway v1 ticket checksum", body].concat());
    let [a, b, c, d, ..] = sha256(&salted);
    [a, b, c, d]
}

/// What every ticket begins with, format version included.
const PREFIX: &str = "fairway1-";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> Ticket {
        Ticket::new(
            vec![
                "203.0.113.9:30740".parse().unwrap(),
                "relay.example.com:443".parse().unwrap(),
            ],
            TrustDomain::new("fairway.local").unwrap(),
            RootHash([3; 32]),
            Label::new("factory").unwrap(),
            Label::new("pump-7").unwrap(),
            [9; 32],
        )
        .unwrap()
    }

    /// Four hosts, each with every transport.
    fn every_transport(len: usize) -> Vec<RelayAddress> {
        let hosts = ["a", "b", "c", "d"].map(|host| host.repeat(len));
        let of = |host: &String| {
            let at = HostPort::new(host, 65_535).unwrap();
            Transport::ALL.map(|transport| RelayAddress::new(transport, at.clone()))
        };
        hosts.iter().flat_map(of).collect()
    }

    fn largest() -> Ticket {
        let label = || Label::new(&"x".repeat(limits::LABEL_LEN)).unwrap();
        Ticket::new(
            every_transport(40),
            TrustDomain::new(&"d".repeat(limits::TRUST_DOMAIN_LEN)).unwrap(),
            RootHash([255; 32]),
            label(),
            label(),
            [255; 32],
        )
        .unwrap()
    }

    fn same(a: &Ticket, b: &Ticket) -> bool {
        a.to_string() == b.to_string() && a.key().seed() == b.key().seed()
    }

    #[test]
    fn tickets_round_trip() {
        for made in [ticket(), largest()] {
            let read: Ticket = made.to_string().parse().unwrap();
            assert!(same(&read, &made));
            let read: Ticket = made.qr_text().parse().unwrap();
            assert!(same(&read, &made), "upper case");
            let text = made.to_string();
            let (head, tail) = text.split_at(80);
            let read: Ticket = format!("  {head}\r\n {tail}\n").parse().unwrap();
            assert!(same(&read, &made), "broken into lines");
        }
        assert_eq!(ticket().relays()[1].to_string(), "relay.example.com:443");
        let largest: Ticket = largest().to_string().parse().unwrap();
        assert_eq!(largest.relays(), every_transport(40));
        assert_eq!(ticket().device(), &"pump-7");
    }

    #[test]
    fn a_usual_ticket_is_one_short_line() {
        let text = ticket().to_string();
        assert!(text.len() < 300, "{}", text.len());
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        );
    }

    #[test]
    fn long_hosts_do_not_fit() {
        let long = |n: usize| format!("{}.{}.h{n}:1", "a".repeat(60), "b".repeat(60));
        let made = Ticket::new(
            (0..limits::TICKET_RELAYS)
                .map(|n| long(n).parse().unwrap())
                .collect(),
            TrustDomain::new("fairway.local").unwrap(),
            RootHash([3; 32]),
            Label::new("factory").unwrap(),
            Label::new("pump-7").unwrap(),
            [9; 32],
        );
        assert_eq!(made.err(), Some(TicketError::TooLong));
    }

    #[test]
    fn the_secret_is_not_in_debug() {
        let debug = format!("{:?}", ticket());
        assert!(debug.contains("pump-7"), "{debug}");
        for secret in [format!("{:?}", ticket().key().seed()), ticket().to_string()] {
            assert!(!debug.contains(&secret), "{debug}");
        }
    }

    #[test]
    fn the_resource_is_named_by_the_public_key() {
        let name = ticket().resource_name();
        assert!(
            name.starts_with("pump-7-") && name.len() == "pump-7-".len() + 10,
            "{name}"
        );
        let key: VerifyingKey = ticket().public_key_text().parse().unwrap();
        assert_eq!(resource_name(ticket().device(), &key), name);
        assert!(Label::new(&name).is_ok());
    }

    #[test]
    fn what_is_not_a_ticket_says_so() {
        let text = ticket().to_string();
        let last = text.len() - 1;
        let swapped = format!(
            "{}{}",
            &text[..last],
            if text.ends_with('a') { 'b' } else { 'a' }
        );
        for (bad, want) in [
            (String::new(), TicketError::NotATicket),
            ("hello".into(), TicketError::NotATicket),
            ("fairway".into(), TicketError::NotATicket),
            ("fairway1-".into(), TicketError::Damaged),
            ("fairway1-!!!!".into(), TicketError::Damaged),
            (
                text.replacen('1', "2", 1),
                TicketError::UnsupportedVersion {
                    version: "2".into(),
                },
            ),
            (swapped, TicketError::Damaged),
            (
                "fairway1-".to_owned() + &"a".repeat(limits::TICKET_TEXT_LEN),
                TicketError::TooLong,
            ),
            ("x".repeat(1_000_000), TicketError::TooLong),
        ] {
            assert_eq!(bad.parse::<Ticket>().err(), Some(want), "{bad:.40}");
        }
    }

    #[test]
    fn every_truncation_and_every_changed_character_is_noticed() {
        let text = ticket().to_string();
        for len in 0..text.len() {
            assert!(text[..len].parse::<Ticket>().is_err(), "{len} characters");
        }
        for at in PREFIX.len()..text.len() {
            let other = if &text[at..=at] == "q" { "r" } else { "q" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(changed.parse::<Ticket>().is_err(), "character {at}");
        }
    }

    #[test]
    fn a_wrong_inside_under_a_right_checksum() {
        let seal = |body: &[u8]| [body, &checksum(body)].concat();
        let head = [[1; 32], [2; 32]].concat();
        let with = |tail: &[u8]| parse(&seal(&[&head[..], tail].concat())).err();
        let is_malformed = |error| matches!(error, Some(TicketError::Malformed { .. }));
        assert!(is_malformed(parse(&seal(&head[..40])).err()));
        assert!(is_malformed(with(b"")));
        assert!(is_malformed(with(b"\x02td\x01n\xffd")));
        assert!(is_malformed(with(b"\x02TD\x01n\x01d\x01\x03a:1")));
        assert!(is_malformed(with(b"\x02td\x01n\x01d\x01\x03a:0")));
        assert!(is_malformed(with(b"\x02td\x01n\x01d\x01\x03a:1more")));
        assert_eq!(
            with(b"\x02td\x01n\x01d\x00"),
            Some(TicketError::Relays { count: 0 })
        );
        assert_eq!(
            with(b"\x02td\x01n\x01d\x11"),
            Some(TicketError::Relays { count: 17 })
        );
        // No host to repeat, no such transport, more than one letter.
        for relay in [b"\x02:1", &b"\x05x/a:1"[..], b"\x06qq/a:1"] {
            assert!(is_malformed(with(
                &[b"\x02td\x01n\x01d\x01", relay].concat()
            )));
        }
        assert_eq!(with(b"\x02td\x01n\x01d\x01\x03a:1"), None);
        assert_eq!(with(b"\x02td\x01n\x01d\x02\x05q/a:1\x02:2"), None);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in "(fairway1-)?[a-z2-7 ]{0,300}") {
            prop_assert!(text.parse::<Ticket>().is_err());
        }

        #[test]
        fn garbage_bytes_are_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            let sealed = [&bytes[..], &checksum(&bytes)].concat();
            let _ = parse(&sealed);
        }
    }
}
