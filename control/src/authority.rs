//! Requests to the authority and its answers.
//!
//! One request per Control stream, answered by one response; `Watch` alone
//! keeps its stream open, for [`Response::Update`]s down and [`Ack`]s up.
//!
//! A request that has a credential issued comes over a session of its own
//! whose static key *is* the handshake key to certify: the handshake proves
//! that the caller holds it, and the proofs sign the handshake hash.

use fairway_identity::signed_time::Nonce;
use fairway_identity::{Label, UnixSeconds, VerifyingKey};
use minicbor::{Decode, Encode};

use crate::limits::{
    CREDENTIAL_MAX, NAME_MAX, REQUEST_MAX, SIGNATURE_MAX, TOKEN_MAX, TRUST_SET_MAX, UPDATE_MAX,
};
use crate::reason::Reason;
use crate::update::{Update, Version};
use crate::wire::{Message, Violation};

/// What an endpoint asks of the authority.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// The time, signed over the nonce. For a device without a trusted clock;
    /// needs no credential.
    #[n(0)]
    GetTime {
        /// Fresh random bytes.
        #[cbor(n(0), with = "minicbor::bytes")]
        nonce: Nonce,
    },
    /// A device's first credential, by ticket.
    #[n(1)]
    Enroll(#[n(0)] Enroll),
    /// A device's next credential, also after the last one has expired.
    #[n(2)]
    RenewDevice(#[n(0)] RenewDevice),
    /// A workload's credential, by its ServiceAccount token.
    #[n(3)]
    AttestWorkload(#[n(0)] AttestWorkload),
    /// Everything that concerns the caller, now and as it changes. Needs a
    /// credential.
    #[n(4)]
    Watch {
        /// The version the caller has from before, so that only what changed
        /// since needs to be sent.
        #[n(0)]
        have: Option<Version>,
    },
    /// The credential of the authority's own front. Answered only on the Unix
    /// socket itself (`front::Preamble::Local`), never for a session.
    #[n(5)]
    FrontCredential {
        /// The X25519 key to certify.
        #[cbor(n(0), with = "minicbor::bytes")]
        handshake_key: [u8; 32],
    },
}

/// A device's first credential, by ticket.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Enroll {
    /// The EnrollmentTicket resource's name.
    #[n(0)]
    pub ticket: String,
    /// The device's namespace.
    #[cbor(n(1), with = "crate::wire::text")]
    pub namespace: Label,
    /// The DeviceIdentity's name.
    #[cbor(n(2), with = "crate::wire::text")]
    pub device: Label,
    /// The public half of the ticket's key.
    #[cbor(n(3), with = "crate::wire::key")]
    pub ticket_key: VerifyingKey,
    /// The device's new long-lived signing key.
    #[cbor(n(4), with = "crate::wire::key")]
    pub device_key: VerifyingKey,
    /// The X25519 key to certify: the session's own static key.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub handshake_key: [u8; 32],
    /// By the ticket's key; see `identity::proof`.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub ticket_signature: Vec<u8>,
    /// By the device's key; see `identity::proof`.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub device_signature: Vec<u8>,
}

/// A device's next credential.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RenewDevice {
    /// The device's namespace.
    #[cbor(n(0), with = "crate::wire::text")]
    pub namespace: Label,
    /// The DeviceIdentity's name.
    #[cbor(n(1), with = "crate::wire::text")]
    pub device: Label,
    /// The device's signing key, as enrolled.
    #[cbor(n(2), with = "crate::wire::key")]
    pub device_key: VerifyingKey,
    /// The X25519 key to certify: the session's own static key.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub handshake_key: [u8; 32],
    /// By the device's key; see `identity::proof`.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
}

/// A workload's credential.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct AttestWorkload {
    /// The projected ServiceAccount token, audience `fairway`.
    #[n(0)]
    pub token: String,
    /// The X25519 key to certify: the session's own static key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub handshake_key: [u8; 32],
}

/// What the authority answers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// To `GetTime`: see `identity::SignedTime`.
    #[n(0)]
    Time {
        /// The signed time.
        #[cbor(n(0), with = "minicbor::bytes")]
        signed: Vec<u8>,
        /// The newest trust set, by which the signature is verified.
        #[cbor(n(1), with = "minicbor::bytes")]
        trust_set: Vec<u8>,
    },
    /// To every request for a credential.
    #[n(1)]
    Issued(#[n(0)] Issued),
    /// To `Watch`, the first at once and more as things change. The next one
    /// is sent only after the last was acknowledged.
    #[n(2)]
    Update(#[n(0)] Update),
    /// The request is refused; the stream ends.
    #[n(3)]
    Error {
        /// Why.
        #[n(0)]
        reason: Reason,
        /// Seconds after which trying again makes sense; `None`: it never
        /// does, somebody has to act first.
        #[n(1)]
        retry_after_seconds: Option<u32>,
    },
}

/// A freshly issued credential.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Issued {
    /// The form without attributes, for message 2.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub lean: Vec<u8>,
    /// The full form.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub full: Vec<u8>,
    /// The newest root-signed trust set.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub trust_set: Vec<u8>,
    /// When to renew, before jitter.
    #[cbor(n(3), with = "crate::wire::time")]
    pub renew_at: UnixSeconds,
    /// When it ends.
    #[cbor(n(4), with = "crate::wire::time")]
    pub expires: UnixSeconds,
}

/// The watcher's answer to an [`Update`], on the same stream.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Ack {
    /// The update's version.
    #[n(0)]
    pub version: Version,
    /// A section that could not be read; the endpoint then does the safe thing
    /// (denies) and says so here.
    #[n(1)]
    pub problem: Option<Reason>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::GetTime { .. } => f.write_str("GetTime"),
            Self::Enroll(enroll) => write!(f, "Enroll({}/{})", enroll.namespace, enroll.device),
            Self::RenewDevice(renew) => {
                write!(f, "RenewDevice({}/{})", renew.namespace, renew.device)
            }
            Self::AttestWorkload(attest) => attest.fmt(f),
            Self::Watch { have } => f.debug_struct("Watch").field("have", have).finish(),
            Self::FrontCredential { .. } => f.write_str("FrontCredential"),
        }
    }
}

/// The token is a bearer secret.
impl std::fmt::Debug for AttestWorkload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttestWorkload(token redacted)")
    }
}

impl Message for Request {
    const MAX: usize = REQUEST_MAX;

    fn check(&self) -> Result<(), Violation> {
        match self {
            Self::GetTime { .. } | Self::Watch { .. } | Self::FrontCredential { .. } => Ok(()),
            Self::Enroll(enroll) => {
                check_name(&enroll.ticket)?;
                check_signature(&enroll.ticket_signature)?;
                check_signature(&enroll.device_signature)
            }
            Self::RenewDevice(renew) => check_signature(&renew.signature),
            Self::AttestWorkload(attest) => {
                if attest.token.is_empty() || attest.token.len() > TOKEN_MAX {
                    return Err(Violation("a ServiceAccount token is empty or too long"));
                }
                Ok(())
            }
        }
    }
}

impl Message for Response {
    // One stream carries updates and everything else, so the largest counts.
    const MAX: usize = UPDATE_MAX;

    fn check(&self) -> Result<(), Violation> {
        match self {
            Self::Time { signed, trust_set } => {
                check_size(signed, CREDENTIAL_MAX, "signed time is too large")?;
                check_size(trust_set, TRUST_SET_MAX, "trust set is too large")
            }
            Self::Issued(issued) => issued.check(),
            Self::Update(update) => update.check(),
            Self::Error { reason, .. } => reason.check(),
        }
    }
}

impl Issued {
    fn check(&self) -> Result<(), Violation> {
        check_size(&self.lean, CREDENTIAL_MAX, "lean credential is too large")?;
        check_size(&self.full, CREDENTIAL_MAX, "full credential is too large")?;
        check_size(&self.trust_set, TRUST_SET_MAX, "trust set is too large")
    }
}

impl Message for Ack {
    const MAX: usize = 1024;

    fn check(&self) -> Result<(), Violation> {
        self.problem.as_ref().map_or(Ok(()), Reason::check)
    }
}

/// Kubernetes checks names when it is asked for them; this only bounds what
/// the authority asks it for.
fn check_name(name: &str) -> Result<(), Violation> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(plain) {
        return Err(Violation("a name is not a Kubernetes object name"));
    }
    Ok(())
}

fn check_signature(signature: &[u8]) -> Result<(), Violation> {
    check_size(signature, SIGNATURE_MAX, "a signature is too long")
}

fn check_size(bytes: &[u8], max: usize, what: &'static str) -> Result<(), Violation> {
    if bytes.len() > max {
        Err(Violation(what))
    } else {
        Ok(())
    }
}
