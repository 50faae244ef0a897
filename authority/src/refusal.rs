//! Why a request is refused: a word for machines, a sentence for people, and
//! whether coming back makes sense.

use fairway_control::Reason;
use fairway_control::authority::Response;
use fairway_control::reason as word;

use crate::cluster::ApiError;
use crate::issue::IssueFailure;

/// A refusal of a request. Variants above the line are the caller's, below it
/// ours.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request does not fit its session (another key, a wrong name).
    #[error("{0}")]
    Forbidden(&'static str),
    /// A signature is not by the key and over the connection that it claims.
    #[error("{0}")]
    WrongKey(&'static str),
    /// No such ticket, or it speaks of another device or key.
    #[error("there is no such ticket for this device; ask for another")]
    TicketUnknown,
    /// The ticket's time was over.
    #[error("the ticket has expired; ask for another")]
    TicketExpired,
    /// The ticket was used with another key.
    #[error(
        "the ticket was already used by another key; if that was not you, revoke the device and ask for another ticket"
    )]
    TicketUsed,
    /// No such DeviceIdentity.
    #[error("there is no such device")]
    DeviceUnknown,
    /// The device has no key.
    #[error("the device is not enrolled, or has to enrol again; ask for a ticket")]
    NotEnrolled,
    /// The device, or the credential in use, is suspended or revoked.
    #[error("{0}")]
    Revoked(&'static str),
    /// The ServiceAccount token was not accepted.
    #[error("the ServiceAccount token was not accepted: {0}")]
    Token(&'static str),
    /// The pod of the token is gone or ending.
    #[error("the pod that the token belongs to {0}")]
    Pod(&'static str),

    /// Not ready yet, or too busy.
    #[error("{what}; try again")]
    NotNow {
        /// What is missing.
        what: &'static str,
        /// When to come back, in seconds.
        retry_after: u32,
    },
    /// The authority must not issue: its root key is missing or unusable.
    #[error("the authority does not issue, because of its keys; its log and its /readyz say why")]
    NoKeys,
    /// The API server did not do its part.
    #[error("the authority could not reach its API server; try again")]
    Api(#[from] ApiError),
    /// The object in the cluster cannot become a credential.
    #[error("the credential cannot be made: {0}")]
    Unissuable(String),
    /// The credential could not be signed.
    #[error("the credential could not be made")]
    Issue(#[from] IssueFailure),
}

impl Refusal {
    /// The machine-readable word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => word::FORBIDDEN,
            Self::WrongKey(_) => word::WRONG_KEY,
            Self::TicketUnknown => word::TICKET_UNKNOWN,
            Self::TicketExpired => word::TICKET_EXPIRED,
            Self::TicketUsed => word::TICKET_USED,
            Self::DeviceUnknown => word::DEVICE_UNKNOWN,
            Self::NotEnrolled => "not-enrolled",
            Self::Revoked(_) => word::REVOKED,
            Self::Token(_) => word::TOKEN_REFUSED,
            Self::Pod(_) => "pod-not-running",
            Self::NotNow { .. } | Self::NoKeys | Self::Api(_) => word::UNAVAILABLE,
            Self::Unissuable(_) | Self::Issue(_) => "unissuable",
        }
    }

    /// Seconds after which trying again makes sense; `None`: somebody has to
    /// act first.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::NotNow { retry_after, .. } => Some(*retry_after),
            Self::Api(_) => Some(5),
            // Somebody acts on the cluster, not on the caller: it may wait.
            Self::NoKeys => Some(30),
            // The kubelet renews the token, and a Suspended device becomes
            // Active again, without anybody touching the endpoint.
            Self::Token(_) | Self::Revoked(_) | Self::NotEnrolled | Self::DeviceUnknown => Some(60),
            Self::Forbidden(_)
            | Self::WrongKey(_)
            | Self::TicketUnknown
            | Self::TicketExpired
            | Self::TicketUsed
            | Self::Pod(_)
            | Self::Unissuable(_)
            | Self::Issue(_) => None,
        }
    }

    /// The refusal as the caller gets it. Causes stay in our log.
    pub fn response(&self) -> Response {
        Response::Error {
            reason: Reason::new(self.word(), self.to_string()),
            retry_after_seconds: self.retry_after(),
        }
    }
}
