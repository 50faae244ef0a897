//! The codes with which streams and sessions are refused or ended.
//!
//! On the wire a code is a number, with a human text beside it; in logs,
//! metrics and HTTP answers it is the kebab-case word.

use std::fmt;

use fairway_channel::{Code, Reason};

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $offset:literal, $word:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: Code = Code(Code::FIRST_FREE.0 + $offset);)*

        /// The kebab-case word of a code, also of the channel's own codes;
        /// `unknown-code` for one of a newer peer.
        pub fn word(code: Code) -> &'static str {
            match code {
                $($name => $word,)*
                other => other.name().unwrap_or("unknown-code"),
            }
        }

        /// All codes of this crate with their words, for docs and metrics.
        pub const ALL: &[(Code, &str)] = &[$(($name, $word)),*];
    };
}

codes! {
    /// No policy allows this, or one denies it.
    POLICY_DENIED = 0, "policy-denied";
    /// The peer's credential was revoked.
    REVOKED = 1, "revoked";
    /// The peer's credential has expired.
    CREDENTIAL_EXPIRED = 2, "credential-expired";
    /// The credential is not acceptable for another reason (the text says which).
    CREDENTIAL_REFUSED = 3, "credential-refused";
    /// The trust set that the peer showed is not signed by the pinned root.
    TRUST_REFUSED = 4, "trust-refused";
    /// The peer is not whom this side dialled, or was not dialled by one of
    /// this side's names.
    NAME_MISMATCH = 5, "name-mismatch";
    /// A peer without a credential, where one is needed.
    ANONYMOUS = 6, "credential-required";
    /// Nothing is offered on this port.
    UNKNOWN_PORT = 7, "unknown-port";
    /// Nothing listens behind the door.
    NOT_LISTENING = 8, "not-listening";
    /// The app listens beyond loopback, so callers could come without Fairway.
    EXPOSED_PORT = 9, "exposed-port";
    /// The app refused the connection.
    CONNECT_REFUSED = 10, "connect-refused";
    /// The app did not answer in time.
    CONNECT_TIMEOUT = 11, "connect-timeout";
    /// This endpoint is shutting down.
    SHUTDOWN = 12, "shutdown";
    /// A hello or OPEN header that cannot be read.
    MALFORMED = 13, "malformed";
    /// The side that answered tried to open a stream.
    WRONG_DIRECTION = 14, "wrong-direction";
    /// The user of the stream went away before its end.
    CANCELLED = 15, "cancelled";
    /// A bound of this endpoint is reached; try again later.
    OVERLOADED = 16, "overloaded";
    /// This side's clock is not good enough to judge the credential.
    CLOCK_UNKNOWN = 17, "clock-unknown";
    /// The link below was lost.
    LINK_LOST = 18, "link-lost";
    /// Control was asked of an endpoint that is neither authority nor relay.
    NO_CONTROL = 19, "no-control";
    /// Reading from or writing to the app failed.
    APP_FAILED = 20, "app-failed";
    /// HTTP that is ambiguous or malformed.
    BAD_REQUEST = 21, "bad-request";
}

/// Why something was refused or ended: a code, and a text for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// For programs; [`word`](Self::word) is its name.
    pub code: Code,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// The machine-readable word, such as `policy-denied`.
    pub fn word(&self) -> &'static str {
        word(self.code)
    }

    pub(crate) fn to_reason(&self) -> Reason {
        Reason::new(self.code, self.text.clone())
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            code: reason.code,
            text: reason.text,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            f.write_str(self.word())
        } else {
            write!(f, "{}: {}", self.word(), self.text)
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_number_and_word() {
        let codes: BTreeSet<Code> = ALL.iter().map(|(code, _)| *code).collect();
        let words: BTreeSet<&str> = ALL.iter().map(|(_, word)| *word).collect();
        assert_eq!((codes.len(), words.len()), (ALL.len(), ALL.len()));
        for (code, name) in ALL {
            assert_eq!(word(*code), *name);
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{name}"
            );
        }
        assert_eq!(word(Code::IDLE_TIMEOUT), "idle-timeout");
        assert_eq!(word(Code(u32::MAX)), "unknown-code");
    }

    #[test]
    fn the_specification_lists_them_all() {
        let spec = include_str!("../SPEC.md");
        for (code, name) in ALL {
            let row = format!("| {:#x} | {name} |", code.0);
            assert!(spec.contains(&row), "SPEC.md lacks {row}");
        }
    }
}
