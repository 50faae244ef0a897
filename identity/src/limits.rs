//! Every bound of this crate, each with its reason.
//!
//! The bounds on names, attributes and Services are chosen together so that
//! the largest object that they allow still makes a full credential of at most
//! [`CREDENTIAL_BYTES`]: issuing never fails on size. The CRDs take their
//! schema bounds and CEL rules from here, and a test in `credential` builds
//! the largest allowed credentials.

/// A credential's size in bytes, signature included. It must fit, with a
/// trust set beside it, into one handshake message.
pub const CREDENTIAL_BYTES: usize = 1024;

/// Length of a DNS label: names of namespaces, devices, Services and pods'
/// hostnames (RFC 1123).
pub const LABEL_LEN: usize = 63;

/// Length of a trust domain. SPIFFE allows 255; 63 keeps the credential small
/// and the ticket short.
pub const TRUST_DOMAIN_LEN: usize = 63;

/// Length of a ServiceAccount's name. Kubernetes allows 253; a longer one than
/// this is refused at attestation, by name.
pub const ACCOUNT_NAME_LEN: usize = 63;

/// Length of a Kubernetes UID (a UUID in text).
pub const UID_LEN: usize = 36;

/// Attributes of a device.
pub const ATTRIBUTES: usize = 16;

/// Length of an attribute's key in bytes.
pub const ATTRIBUTE_KEY_LEN: usize = 32;

/// Length of an attribute's value in bytes.
pub const ATTRIBUTE_VALUE_LEN: usize = 63;

/// Bytes of all keys and values of a device's attributes together.
pub const ATTRIBUTES_BYTES: usize = 400;

/// Services that one workload credential lists (design: at most 16 a pod).
pub const SERVICES: usize = 16;

/// Bytes of all Service names in a credential together. Service names are not
/// Fairway's to bound, so the authority lists as many as fit, in order of
/// name, and reports the rest: see [`crate::credential::fitting_services`].
pub const SERVICES_BYTES: usize = 400;

/// Length of the name of a service that a device offers
/// (`DeviceIdentity.spec.services`), as for names of ports in Kubernetes.
pub const DEVICE_SERVICE_NAME_LEN: usize = 15;

/// Longest lifetime of a credential in seconds (31 days): what a device that
/// is seldom on the air can live with, and how long a revocation must be kept.
pub const CREDENTIAL_SECONDS: u64 = 31 * 24 * 3600;

/// How far in the future `nbf` may lie, in seconds: two honest clocks differ.
/// There is no leeway on `exp`.
pub const NOT_BEFORE_LEEWAY_SECONDS: u64 = 60;

/// A signed trust set's size in bytes: with a credential it fits into a
/// handshake message's hello of 4 KiB.
pub const TRUST_SET_BYTES: usize = 2048;

/// Issuer keys in one trust set: the current one, the next one, and a few that
/// have signed credentials which are still alive.
pub const ISSUERS: usize = 8;

/// A signed time's size in bytes.
pub const SIGNED_TIME_BYTES: usize = 256;

/// Nesting of any CBOR that is decoded here. The deepest object is a trust
/// set (map, array of issuers, issuer).
pub const CBOR_DEPTH: usize = 6;

/// Data items in any CBOR that is decoded here, counted before anything is
/// allocated. The largest credential has about 80.
pub const CBOR_ITEMS: usize = 256;

/// Length of a ticket's text. A usual one is under 350 characters; this is
/// what the longest names and four hosts with every transport need, and a QR
/// code of medium size holds.
pub const TICKET_TEXT_LEN: usize = 1024;

/// Relay addresses in a ticket: four hosts, each with every transport. A
/// device learns the rest once it is connected.
pub const TICKET_RELAYS: usize = 16;

/// Length of a host in `host:port` (RFC 1035).
pub const HOST_LEN: usize = 253;

/// Length of an `Address` in text: five labels, their dots and the suffix.
pub const ADDRESS_LEN: usize = 253;

/// Entries in a revocation list. At 100 bytes an entry this is about 2 MiB at
/// an endpoint; when it is full the authority raises the trust set's floor
/// instead.
pub const REVOCATIONS: usize = 16_384;

/// Length of a public key in text (a P-256 COSE_Key has 75 bytes).
pub const KEY_TEXT_LEN: usize = 100;

/// Size of every signature: Ed25519, and ECDSA P-256 as `r ‖ s`.
pub const SIGNATURE_LEN: usize = 64;
