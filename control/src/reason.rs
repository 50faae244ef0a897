//! Why something was refused or ended: a word for machines, a text for people.

use std::fmt;

use minicbor::{Decode, Encode};

use crate::limits::{REASON_TEXT_MAX, REASON_WORD_MAX};
use crate::wire::Violation;

/// A name is not registered at this relay.
pub const NOT_HERE: &str = "not-here";
/// A name is registered at this relay, but not by the instance asked for.
pub const OTHER_INSTANCE: &str = "other-instance";
/// A circuit was opened to move a session that the callee does not have.
pub const UNKNOWN_SESSION: &str = "unknown-session";
/// The sender used more credit than it was given.
pub const CREDIT_OVERRUN: &str = "credit-overrun";
/// The peer broke the protocol.
pub const PROTOCOL: &str = "protocol-violation";
/// The component is shutting down; try another.
pub const DRAINING: &str = "draining";
/// A bound of the component is reached; try again later.
pub const OVERLOADED: &str = "overloaded";
/// The credential shown does not carry this name.
pub const NAME_NOT_YOURS: &str = "name-not-yours";
/// Without a credential only the authority may be called.
pub const AUTHORITY_ONLY: &str = "authority-only";
/// The link below ended.
pub const LINK_LOST: &str = "link-lost";
/// No such ticket, or not for this device.
pub const TICKET_UNKNOWN: &str = "ticket-unknown";
/// The ticket was used with another key.
pub const TICKET_USED: &str = "ticket-used";
/// The ticket's time is over.
pub const TICKET_EXPIRED: &str = "ticket-expired";
/// A signature or key does not match what is on record.
pub const WRONG_KEY: &str = "wrong-key";
/// The ServiceAccount token was not accepted.
pub const TOKEN_REFUSED: &str = "token-refused";
/// No such device.
pub const DEVICE_UNKNOWN: &str = "device-unknown";
/// The identity is suspended or revoked.
pub const REVOKED: &str = "revoked";
/// The authority cannot serve right now.
pub const UNAVAILABLE: &str = "unavailable";
/// The request asks for what its session may not have.
pub const FORBIDDEN: &str = "forbidden";

/// A machine-readable word and a human text.
///
/// The fields are private so that a word is always a short kebab-case one and
/// the text always fits.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Reason {
    #[n(0)]
    word: String,
    #[n(1)]
    text: String,
}

impl Reason {
    /// Makes a reason. A text that is too long is cut at a character border; a
    /// word that is not kebab-case becomes `unspecified`, since a reason must
    /// never be the reason for another failure.
    pub fn new(word: &str, text: impl Into<String>) -> Self {
        let word = if is_kebab_word(word) {
            word
        } else {
            "unspecified"
        };
        let mut text = text.into();
        if text.len() > REASON_TEXT_MAX {
            let cut = (0..=REASON_TEXT_MAX)
                .rev()
                .find(|&i| text.is_char_boundary(i));
            text.truncate(cut.unwrap_or(0));
        }
        Self {
            word: word.to_owned(),
            text,
        }
    }

    /// The kebab-case word, for example `not-here`.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// The human text.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn check(&self) -> Result<(), Violation> {
        if !is_kebab_word(&self.word) {
            return Err(Violation("a reason's word is not a short kebab-case word"));
        }
        if self.text.len() > REASON_TEXT_MAX {
            return Err(Violation("a reason's text is too long"));
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            f.write_str(&self.word)
        } else {
            write!(f, "{}: {}", self.word, self.text)
        }
    }
}

fn is_kebab_word(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= REASON_WORD_MAX
        && word
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !word.starts_with('-')
        && !word.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kebab_case() {
        for (word, good) in [
            ("not-here", true),
            ("a", true),
            ("", false),
            ("Not-Here", false),
            ("-x", false),
            ("x-", false),
            ("a b", false),
            (&"x".repeat(REASON_WORD_MAX + 1), false),
        ] {
            assert_eq!(Reason::new(word, "").word() == word, good, "{word:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let reason = Reason::new("x", "ø".repeat(REASON_TEXT_MAX));
        assert_eq!(reason.text().len(), REASON_TEXT_MAX);
        let odd = Reason::new("x", format!("a{}", "ø".repeat(REASON_TEXT_MAX)));
        assert_eq!(odd.text().len(), REASON_TEXT_MAX - 1);
        odd.check().expect("a made reason is always a valid one");
    }
}
