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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::*;

    fn signature() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 64)
    }

    fn version() -> impl Strategy<Value = Version> {
        any::<(u64, u64)>().prop_map(|(publisher, number)| Version { publisher, number })
    }

    fn enroll() -> impl Strategy<Value = Enroll> {
        let keys = (key(), key(), any::<[u8; 32]>());
        (label(), label(), label(), keys, signature(), signature()).prop_map(
            |(ticket, namespace, device, keys, ticket_signature, device_signature)| Enroll {
                ticket: ticket.to_string(),
                namespace,
                device,
                ticket_key: keys.0,
                device_key: keys.1,
                handshake_key: keys.2,
                ticket_signature,
                device_signature,
            },
        )
    }

    fn renew() -> impl Strategy<Value = RenewDevice> {
        (label(), label(), key(), any::<[u8; 32]>(), signature()).prop_map(
            |(namespace, device, device_key, handshake_key, signature)| RenewDevice {
                namespace,
                device,
                device_key,
                handshake_key,
                signature,
            },
        )
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            any::<Nonce>().prop_map(|nonce| Request::GetTime { nonce }),
            enroll().prop_map(Request::Enroll),
            renew().prop_map(Request::RenewDevice),
            ("[A-Za-z0-9._-]{1,200}", any::<[u8; 32]>()).prop_map(|(token, handshake_key)| {
                Request::AttestWorkload(AttestWorkload {
                    token,
                    handshake_key,
                })
            }),
            proptest::option::of(version()).prop_map(|have| Request::Watch { have }),
            any::<[u8; 32]>().prop_map(|handshake_key| Request::FrontCredential { handshake_key }),
        ]
    }

    fn response() -> impl Strategy<Value = Response> {
        let bytes = || vec(any::<u8>(), 0..100);
        prop_oneof![
            (bytes(), bytes()).prop_map(|(signed, trust_set)| Response::Time { signed, trust_set }),
            (bytes(), bytes(), bytes(), time(), time()).prop_map(
                |(lean, full, trust_set, renew_at, expires)| {
                    Response::Issued(Issued {
                        lean,
                        full,
                        trust_set,
                        renew_at,
                        expires,
                    })
                }
            ),
            (reason(), any::<Option<u32>>()).prop_map(|(reason, retry_after_seconds)| {
                Response::Error {
                    reason,
                    retry_after_seconds,
                }
            }),
        ]
    }

    proptest! {
        // Each case tries every truncation, some with keys that are checked
        // to be points.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn requests(message in request()) {
            check_codec(&message);
        }

        #[test]
        fn responses(message in response()) {
            check_codec(&message);
        }

        #[test]
        fn acks(version in version(), problem in proptest::option::of(reason())) {
            check_codec(&Ack { version, problem });
        }

        #[test]
        fn garbage_is_refused(bytes in garbage()) {
            check_garbage::<Request>(&bytes);
            check_garbage::<Response>(&bytes);
            check_garbage::<Ack>(&bytes);
        }
    }

    #[test]
    fn oversize_is_refused() {
        check_oversize::<Request>();
        check_oversize::<Response>();
        check_oversize::<Ack>();
    }

    #[test]
    fn the_largest_messages_fit() {
        let token = "t".repeat(TOKEN_MAX);
        check_codec(&Request::AttestWorkload(AttestWorkload {
            token,
            handshake_key: [1; 32],
        }));
        let issued = Issued {
            lean: vec![1; CREDENTIAL_MAX],
            full: vec![2; CREDENTIAL_MAX],
            trust_set: vec![3; TRUST_SET_MAX],
            renew_at: UnixSeconds(u64::MAX),
            expires: UnixSeconds(u64::MAX),
        };
        check_codec(&Response::Issued(issued));
        let version = Version {
            publisher: u64::MAX,
            number: u64::MAX,
        };
        check_codec(&Ack {
            version,
            problem: Some(longest_reason()),
        });
    }

    #[test]
    fn rules_hold_on_the_way_out_and_in() {
        let attest = |token: String| {
            Request::AttestWorkload(AttestWorkload {
                token,
                handshake_key: [0; 32],
            })
        };
        assert!(attest(String::new()).to_bytes().is_err());
        assert!(attest("t".repeat(TOKEN_MAX + 1)).to_bytes().is_err());
        let mut bad = vec![crate::wire::VERSION];
        minicbor::encode(attest(String::new()), &mut bad).unwrap();
        assert!(matches!(
            Request::from_bytes(&bad),
            Err(crate::DecodeError::Rule(_))
        ));
    }

    #[test]
    fn a_token_is_not_in_debug_output() {
        let attest = AttestWorkload {
            token: "s3cret".to_owned(),
            handshake_key: [0; 32],
        };
        for text in [
            format!("{attest:?}"),
            format!("{:?}", Request::AttestWorkload(attest.clone())),
        ] {
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
