//! Credentials: CWTs (RFC 8392) in COSE_Sign1 that bind a name to a handshake
//! key.
//!
//! They are written here, and what they claim is read. Whether to believe it is
//! decided in [`crate::trust`].

mod bounds;
mod codec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use self::bounds::check_claims;
pub(crate) use self::bounds::check_lifetime;
use self::codec::{from_cbor, to_cbor};
use crate::cbor;
use crate::cose::{self, Kind, SealError, Unverified};
use crate::key::{SignError, Signer};
use crate::limits;
use crate::name::{Label, NameError, SpiffeId};
use crate::time::UnixSeconds;
use crate::trust::IssuerId;

/// What a credential says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialClaims {
    /// Which key of the trust set signs it (`iss`).
    pub issuer: IssuerId,
    /// Whose credential it is (`sub`).
    pub id: SpiffeId,
    /// The X25519 key that the handshake must prove (`cnf`).
    pub handshake_key: [u8; 32],
    /// Not valid before (`nbf`).
    pub not_before: UnixSeconds,
    /// Not valid from then on (`exp`).
    pub expires: UnixSeconds,
    /// When it was issued (`iat`); revocation goes by this.
    pub issued_at: UnixSeconds,
    /// Serial number (`cti`).
    pub serial: Serial,
    /// UID of the object behind it.
    pub uid: Uid,
    /// Attributes of a device; must be empty for a workload.
    pub attributes: BTreeMap<String, String>,
    /// Names of the Services (in the workload's own namespace) that the pod
    /// backs; must be empty for a device, whose services its own config names.
    pub services: Vec<Label>,
    /// Name of the pod where it can be dialled by name (headless Services);
    /// must be `None` for a device.
    pub pod: Option<Label>,
}

/// Which of its two forms a credential has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Everything.
    Full,
    /// Without attributes, Services and pod name: for the one handshake
    /// message that somebody who has not yet said who he is can read.
    Lean,
}

/// The serial number of a credential (`cti`), chosen at random by the issuer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub [u8; 16]);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The UID of the Kubernetes object behind a credential: the DeviceIdentity's,
/// or the pod's. A new object under an old name has another UID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(Box<str>);

impl Uid {
    /// Checks that `text` is 1 to [`limits::UID_LEN`] letters, digits or `-`.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let what = "UID";
        if text.is_empty() {
            return Err(NameError::Empty { what });
        }
        if text.len() > limits::UID_LEN {
            return Err(NameError::TooLong {
                what,
                max: limits::UID_LEN,
                len: text.len(),
            });
        }
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        match text.chars().find(|&c| !good(c)) {
            Some(found) => Err(NameError::Character {
                what,
                allowed: "letters, digits and '-'",
                found,
            }),
            None => Ok(Self(text.into())),
        }
    }

    /// The UID as Kubernetes writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Why a credential was not issued. All but `Sign` are mistakes of the caller:
/// what the CRDs admit breaks no bound.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Claims break one of the bounds in [`limits`], or contradict each other.
    #[error("claims of {id} cannot be certified: {what}")]
    Bound {
        /// Whose claims.
        id: Box<SpiffeId>,
        /// Which bound.
        what: &'static str,
    },
    /// The issuer's key is not Ed25519, or is not the one that `issuer` names.
    #[error("the signing key is not the Ed25519 key that the claims name as issuer")]
    WrongKey,
    /// Larger than [`limits::CREDENTIAL_BYTES`]: the bounds contradict each other.
    #[error("the credential would have {len} bytes; this is a defect in Fairway's bounds")]
    TooLarge {
        /// Size in bytes.
        len: usize,
    },
    /// The key did not sign.
    #[error("the issuer's key did not sign")]
    Sign(#[source] SignError),
}

/// Why a credential was not believed. Time is checked last: a credential that
/// is refused as [`CredentialError::Expired`] is genuine in all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not a credential of the expected form, or one that breaks a bound.
    #[error("the credential is malformed")]
    Malformed,
    /// The trust set does not list its issuer.
    #[error(
        "the credential's issuer {0} is not in the trust set; get a newer trust set or a new credential"
    )]
    UnknownIssuer(IssuerId),
    /// The issuer's signature is not under it.
    #[error("the credential's signature is wrong")]
    Signature,
    /// Issued outside the time in which its issuer may issue.
    #[error("the credential was issued outside its issuer's time")]
    IssuerWindow,
    /// Its subject is of another trust domain.
    #[error("the credential is of another trust domain")]
    ForeignDomain,
    /// It certifies another key than the one that the handshake proved.
    #[error("the credential belongs to another key than the peer has proved")]
    KeyNotProven,
    /// Issued before the trust set's revocation floor.
    #[error("the credential was issued before the revocation floor; it needs to be renewed")]
    BelowFloor,
    /// Longer than any credential may live, or ends before it begins.
    #[error("the credential's lifetime is impossible")]
    Lifetime,
    /// A clock that is only a floor is not enough to believe this peer.
    #[error(
        "the time is not known well enough to believe this credential; get signed time from the authority first"
    )]
    ClockNeeded,
    /// Before its `nbf`.
    #[error("the credential is not valid yet; check the clocks")]
    NotYetValid,
    /// Past its `exp`.
    #[error("the credential has expired")]
    Expired,
}

impl CredentialError {
    /// The machine-readable word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "credential-malformed",
            Self::UnknownIssuer(_) => "credential-issuer-unknown",
            Self::Signature => "credential-signature-wrong",
            Self::IssuerWindow => "credential-issuer-expired",
            Self::ForeignDomain => "credential-foreign-domain",
            Self::KeyNotProven => "credential-key-mismatch",
            Self::BelowFloor => "credential-below-floor",
            Self::Lifetime => "credential-lifetime-impossible",
            Self::ClockNeeded => "clock-not-trusted",
            Self::NotYetValid => "credential-not-yet-valid",
            Self::Expired => "credential-expired",
        }
    }
}

/// Issues a credential: at most [`limits::CREDENTIAL_BYTES`] bytes.
pub fn issue(
    claims: &CredentialClaims,
    form: Form,
    issuer: &dyn Signer,
) -> Result<Vec<u8>, IssueError> {
    check_claims(claims)
        .and_then(|()| check_lifetime(claims))
        .map_err(|what| IssueError::Bound {
            id: Box::new(claims.id.clone()),
            what,
        })?;
    if IssuerId::of(&issuer.verifying_key()) != claims.issuer {
        return Err(IssueError::WrongKey);
    }
    let payload = cbor::encode(to_cbor(claims, form));
    cose::seal(Kind::Credential(form), payload, issuer).map_err(|error| match error {
        SealError::Algorithm => IssueError::WrongKey,
        SealError::TooLarge { len } => IssueError::TooLarge { len },
        SealError::Sign(source) => IssueError::Sign(source),
    })
}

/// Splits `names` into those that fit into one credential, in order of name,
/// and those that are left out and deserve an event.
pub fn fitting_services(names: impl IntoIterator<Item = Label>) -> (Vec<Label>, Vec<Label>) {
    let names: std::collections::BTreeSet<Label> = names.into_iter().collect();
    let mut taken = Vec::new();
    let mut left_out = Vec::new();
    let mut room = limits::SERVICES_BYTES;
    for name in names {
        let len = name.as_str().len();
        if taken.len() < limits::SERVICES && len <= room {
            room -= len;
            taken.push(name);
        } else {
            left_out.push(name);
        }
    }
    (taken, left_out)
}

/// What a credential claims, and the envelope by which to check it.
pub(crate) fn read(
    bytes: &[u8],
    form: Form,
) -> Result<(CredentialClaims, Unverified), CredentialError> {
    let envelope =
        cose::open(Kind::Credential(form), bytes).map_err(|_| CredentialError::Malformed)?;
    let claims = from_cbor(envelope.payload(), form).ok_or(CredentialError::Malformed)?;
    check_claims(&claims).map_err(|_| CredentialError::Malformed)?;
    Ok((claims, envelope))
}
