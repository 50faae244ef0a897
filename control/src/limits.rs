//! Every bound of this crate, with the reason for its size.

use std::time::Duration;

// --- link frames -----------------------------------------------------------

/// Bytes of a link frame's header: type u8, length u24, circuit u32.
pub const LINK_HEADER: usize = 8;

/// Largest payload of a link frame: one channel packet. A record carries
/// 16 KiB of stream data; 512 bytes are left for its header, tag, the STREAM
/// frame's own header and acknowledgements beside it. Handshake packets
/// (1,184 bytes of ML-KEM key, a 4 KiB hello) are far below.
pub const LINK_PAYLOAD_MAX: usize = 16 * 1024 + 512;

/// Largest payload of a DATAGRAM frame: a channel's largest datagram (1,208
/// bytes) as a packet, rounded up.
pub const LINK_DATAGRAM_MAX: usize = 1_280;

/// Credit that each direction of a circuit starts with, in DATA payload
/// bytes. Enough for 80 Mbit/s at a round trip of 100 ms; what a slow reader
/// makes wait in a relay is bounded by it.
pub const CIRCUIT_CREDIT: u64 = 1024 * 1024;

/// What it may grow to for a reader that is fast: a relay takes a grant beyond
/// what was sent and this for a lie.
pub const CIRCUIT_CREDIT_MAX: u64 = 4 * CIRCUIT_CREDIT;

/// A circuit's credit should last for so long. With less, sender, relay and
/// receiver wait for each other's turns on a processor.
pub const CIRCUIT_CREDIT_LASTS: Duration = Duration::from_millis(10);

/// Largest link control message: a registration of all names at once.
pub const LINK_MESSAGE_MAX: usize = 16 * 1024;

/// Names in one registration: a pod backs at most 16 Services, each may be
/// headless (one more name for the pod itself).
pub const NAMES_MAX: usize = 40;

// --- requests to the authority ---------------------------------------------

/// Largest request. A projected ServiceAccount token is 1 to 2 KiB, larger
/// with many claims.
pub const REQUEST_MAX: usize = 12 * 1024;

/// Largest ServiceAccount token.
pub const TOKEN_MAX: usize = 8 * 1024;

/// Largest signature, as `identity` makes them.
pub const SIGNATURE_MAX: usize = fairway_identity::limits::SIGNATURE_LEN;

/// Largest credential or signed time, as `identity` issues them.
pub const CREDENTIAL_MAX: usize = fairway_identity::limits::CREDENTIAL_BYTES;

/// Largest trust set, as `identity` signs it.
pub const TRUST_SET_MAX: usize = fairway_identity::limits::TRUST_SET_BYTES;

/// Largest preamble on the authority's Unix socket.
pub const PREAMBLE_MAX: usize = 1024;

/// Largest Kubernetes object name, and so of each part of a name.
pub const NAME_MAX: usize = 253;

// --- updates -----------------------------------------------------------------

/// Largest update. A full revocation list (16,384 entries of about 50 bytes)
/// and all policies of a busy namespace have to fit; an endpoint holds at most
/// one.
pub const UPDATE_MAX: usize = 2 * 1024 * 1024;

/// What an update needs besides the bytes of its sections: version, ids and
/// lengths, at most about 120 bytes.
pub const UPDATE_OVERHEAD: usize = 256;

/// Longest name, key or value in a policy: the longest Kubernetes name.
pub const POLICY_TEXT_MAX: usize = 253;

/// Attributes that one selector asks for: as many as a device can have.
pub const ATTRIBUTES_MAX: usize = fairway_identity::limits::ATTRIBUTES;

/// Doors (Service ports) of one pod: 16 Services with 16 ports each.
pub const DOORS_MAX: usize = 256;

/// Services that a device may offer: as many as its DeviceIdentity can name.
pub const SERVICES_MAX: usize = fairway_identity::limits::SERVICES;

/// Longest name of a service that a device offers.
pub const SERVICE_NAME_MAX: usize = fairway_identity::limits::DEVICE_SERVICE_NAME_LEN;

/// Tickets that a relay is told about. Holders of others draw on the budget of
/// those who show nothing.
pub const TICKETS_MAX: usize = 8 * 1024;

/// Relays that an endpoint is told about.
pub const RELAYS_MAX: usize = 32;

// --- text --------------------------------------------------------------------

/// Longest machine-readable reason (a kebab-case word).
pub const REASON_WORD_MAX: usize = 48;

/// Longest human text beside it.
pub const REASON_TEXT_MAX: usize = 256;
