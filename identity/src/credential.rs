//! Credentials: CWTs in COSE_Sign1 that bind a name to a handshake key.
#![allow(clippy::todo)]

use std::collections::BTreeMap;
use std::fmt;

use crate::key::{SignError, Signer};
use crate::limits;
use crate::name::{Label, NameError, SpiffeId};
use crate::time::UnixSeconds;
use crate::trust::IssuerId;

/// The serial number of a credential (`cti`), chosen at random by the issuer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub [u8; 16]);

/// The UID of the Kubernetes object behind a credential: the DeviceIdentity's,
/// or the pod's. A new object under an old name has another UID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(Box<str>);

impl Uid {
    /// Checks that `text` is 1 to 36 printable ASCII characters.
    pub fn new(_text: &str) -> Result<Self, NameError> {
        todo!()
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

/// Which of its two forms a credential has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Everything.
    Full,
    /// Without attributes, Services and pod name: for the one handshake
    /// message that somebody who has not yet said who he is can read.
    Lean,
}

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
    /// Attributes of a device; empty for a workload.
    pub attributes: BTreeMap<String, String>,
    /// Names of the Services (in the workload's own namespace) that the pod
    /// backs; empty for a device, whose services its own config names.
    pub services: Vec<Label>,
    /// Host name of the pod where it is to be dialled by name (headless
    /// Services); `None` for a device.
    pub pod: Option<Label>,
}

/// Why a credential was not issued: the claims break a bound, or signing failed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The key did not sign.
    #[error("the issuer's key did not sign")]
    Sign(#[source] SignError),
}

/// Why a credential was not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Past its `exp`.
    #[error("the credential has expired")]
    Expired,
}

impl CredentialError {
    /// The machine-readable word for it, such as `credential-expired`.
    pub fn reason(&self) -> &'static str {
        todo!()
    }
}

/// Issues a credential: at most [`limits::CREDENTIAL_BYTES`] bytes.
pub fn issue(
    _claims: &CredentialClaims,
    _form: Form,
    _issuer: &dyn Signer,
) -> Result<Vec<u8>, IssueError> {
    let _ = limits::CREDENTIAL_BYTES;
    todo!()
}

/// Splits `names` into those that fit into a credential, in order of name, and
/// those that are left out and deserve an event.
pub fn fitting_services(_names: impl IntoIterator<Item = Label>) -> (Vec<Label>, Vec<Label>) {
    todo!()
}
