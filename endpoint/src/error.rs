//! Errors by operation. Each has a machine-readable reason: a short kebab-case word.

use std::borrow::Cow;

use fairway_session::Refusal;

/// Why [`Endpoint::start`](crate::Endpoint::start) failed: local configuration or environment.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listening address could not be bound.
    #[error("cannot listen on {address}: is another process using it?")]
    Listen {
        /// What was asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Randomness,
}

/// Why a stream to a peer could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// This endpoint has no credential yet, and none came in time.
    #[error("no credential yet: {last_error}")]
    NoCredential {
        /// What the last attempt to obtain one met.
        last_error: String,
    },
    /// No relay (or authority) could be reached in time.
    #[error("no link: {last_error}")]
    NoLink {
        /// What the last attempt met.
        last_error: String,
    },
    /// No relay knows the destination: it is not connected.
    #[error("{destination} is not connected to any relay")]
    NotHere {
        /// Who was called.
        destination: String,
    },
    /// The relay refused the circuit.
    #[error("the relay refused the circuit: {reason}")]
    RelayRefused {
        /// The relay's reason, kebab-case.
        reason: String,
    },
    /// The peer did not answer in time.
    #[error("no answer from {destination} within {seconds} s ({phase})")]
    Timeout {
        /// Who was called.
        destination: String,
        /// How long was waited.
        seconds: u64,
        /// What was being waited for.
        phase: &'static str,
    },
    /// The peer (or our own check of the peer) ended the session before the stream was open.
    #[error("session with the peer ended: {0}")]
    SessionClosed(Refusal),
    /// The peer refused the stream.
    #[error("refused by the peer: {0}")]
    Refused(Refusal),
    /// Too many calls wait already.
    #[error("too many calls are waiting for sessions")]
    Overloaded,
    /// The endpoint is shutting down.
    #[error("the endpoint is shutting down")]
    Shutdown,
}

impl OpenError {
    /// The machine-readable reason.
    pub fn reason(&self) -> Cow<'_, str> {
        match self {
            Self::NoCredential { .. } => "no-credential".into(),
            Self::NoLink { .. } => "no-link".into(),
            Self::NotHere { .. } => "not-here".into(),
            Self::RelayRefused { reason } => Cow::Borrowed(reason),
            Self::Timeout { .. } => "timeout".into(),
            Self::SessionClosed(refusal) | Self::Refused(refusal) => refusal.word().into(),
            Self::Overloaded => "overloaded".into(),
            Self::Shutdown => "shutdown".into(),
        }
    }

    /// Whether the peer's policy said no (a 403 and not a 502).
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code == fairway_session::code::POLICY_DENIED,
            Self::NoCredential { .. }
            | Self::NoLink { .. }
            | Self::NotHere { .. }
            | Self::RelayRefused { .. }
            | Self::Timeout { .. }
            | Self::SessionClosed(_)
            | Self::Overloaded
            | Self::Shutdown => false,
        }
    }
}

/// Why an open stream ended before its end. As an [`std::io::Error`] it is the inner error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer reset the stream.
    #[error("the peer ended the stream: {0}")]
    Reset(Refusal),
    /// This side ended the stream: its rules changed, or its user reset it.
    #[error("the stream was ended by this side: {0}")]
    Ended(Refusal),
    /// The peer takes no more data.
    #[error("the peer stopped reading: {0}")]
    Stopped(Refusal),
    /// The session ended, and all its streams with it.
    #[error("the session ended: {0}")]
    SessionClosed(Refusal),
    /// The stream was already finished by this side.
    #[error("the stream was finished by this side")]
    Finished,
}

impl StreamError {
    /// The machine-readable reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::Reset(refusal)
            | Self::Ended(refusal)
            | Self::Stopped(refusal)
            | Self::SessionClosed(refusal) => refusal.word(),
            Self::Finished => "finished",
        }
    }
}

impl From<StreamError> for std::io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Reset(_) | StreamError::Ended(_) => std::io::ErrorKind::ConnectionReset,
            StreamError::Stopped(_) | StreamError::Finished => std::io::ErrorKind::BrokenPipe,
            StreamError::SessionClosed(_) => std::io::ErrorKind::ConnectionAborted,
        };
        Self::new(kind, error)
    }
}

/// Why a datagram was not sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatagramError {
    /// It does not fit; it never will.
    #[error(
        "the datagram has {length} bytes, at most {max} fit",
        max = fairway_session::limits::DATAGRAM_MAX
    )]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The path is slower than the datagrams, or there is none at the moment. This
    /// one is dropped; a later one may get through.
    #[error("the datagram queue is full; this one was dropped")]
    QueueFull,
    /// The incoming stream was not accepted yet: do that first.
    #[error("the stream has not been accepted yet; accept it first")]
    NotAccepted,
    /// Policy looks at the HTTP on this stream, and could not look at datagrams.
    #[error("policy looks at HTTP on this stream, so it takes no datagrams")]
    HttpPoliced,
    /// Nothing can be sent on the stream any more.
    #[error("nothing can be sent on the stream: {0}")]
    Over(#[source] StreamError),
}

impl DatagramError {
    /// The machine-readable reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::TooLong { .. } => "too-long",
            Self::QueueFull => "queue-full",
            Self::NotAccepted => "not-accepted",
            Self::HttpPoliced => "http-policed",
            Self::Over(error) => error.reason(),
        }
    }
}

/// Why the authority did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It could not be reached.
    #[error("cannot reach the authority")]
    Unreachable(#[from] OpenError),
    /// The stream broke before the answer.
    #[error("the authority's answer did not come")]
    Broken(#[from] StreamError),
    /// It refused.
    #[error("the authority refused: {text} ({reason})")]
    Refused {
        /// Kebab-case, for programs.
        reason: String,
        /// For people.
        text: String,
        /// When to ask again, if it said so.
        retry_after: Option<std::time::Duration>,
    },
    /// The answer is not one to the question, or too long, or malformed.
    #[error("the authority's answer makes no sense: {0}")]
    BadAnswer(String),
    /// A signature in the answer does not verify.
    #[error("the authority's answer does not verify: {0}")]
    Unverified(String),
    /// A local file (the token) could not be read.
    #[error("cannot read {path}")]
    Local {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Signing failed.
    #[error("the device's key cannot sign: {0}")]
    Sign(String),
}

impl AuthorityError {
    /// The machine-readable reason.
    pub fn reason(&self) -> Cow<'_, str> {
        match self {
            Self::Unreachable(error) => error.reason(),
            Self::Broken(error) => Cow::Borrowed(error.reason()),
            Self::Refused { reason, .. } => Cow::Borrowed(reason),
            Self::BadAnswer(_) => "bad-answer".into(),
            Self::Unverified(_) => "unverified".into(),
            Self::Local { .. } => "local-file".into(),
            Self::Sign(_) => "signing-failed".into(),
        }
    }
}
