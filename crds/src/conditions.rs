//! Conditions by the conventions of Kubernetes: one writer each, and
//! `lastTransitionTime` moves only when `status` does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::limits::CONDITION_MESSAGE_BYTES_MAX;

/// On a DeviceIdentity: policies can let it in, nothing stands against it.
pub const READY: &str = "Ready";
/// On a DeviceIdentity: it has a key.
pub const ENROLLED: &str = "Enrolled";
/// On a ChannelPolicy: it can be compiled.
pub const ACCEPTED: &str = "Accepted";
/// On an EnrollmentTicket: somebody can enrol with it now.
pub const USABLE: &str = "Usable";

/// A condition as a controller sees it now, without a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Which condition.
    pub kind: &'static str,
    /// Whether it holds; `None` is `Unknown`.
    pub status: Option<bool>,
    /// Why, in one CamelCase word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Observed {
    /// The condition to store, given the one that is stored now. Nothing but
    /// a change of status moves `lastTransitionTime`.
    pub fn onto(&self, stored: &[Condition], generation: Option<i64>, now: Timestamp) -> Condition {
        let status = match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let last_transition_time = find(stored, self.kind)
            .filter(|old| old.status == status)
            .map_or(Time(now), |old| old.last_transition_time.clone());
        Condition {
            type_: self.kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: bounded(&self.message),
            observed_generation: generation,
            last_transition_time,
        }
    }
}

/// The stored condition of a kind.
pub fn find<'a>(stored: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    stored.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition is stored as `True`.
pub fn is_true(stored: &[Condition], kind: &str) -> bool {
    find(stored, kind).is_some_and(|condition| condition.status == "True")
}

/// Cuts a message to what the schema allows, at a character's border.
fn bounded(message: &str) -> String {
    if message.len() <= CONDITION_MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let room = CONDITION_MESSAGE_BYTES_MAX - '…'.len_utf8();
    let end = (0..=room)
        .rev()
        .find(|at| message.is_char_boundary(*at))
        .unwrap_or(0);
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(status: bool, message: &str) -> Observed {
        Observed {
            kind: READY,
            status: Some(status),
            reason: "Because",
            message: message.to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn time_moves_only_with_the_status() {
        let first = observed(true, "a").onto(&[], Some(1), at(10));
        let same = observed(true, "b").onto(std::slice::from_ref(&first), Some(2), at(20));
        assert_eq!(same.last_transition_time, Time(at(10)));
        assert_eq!(
            (same.message.as_str(), same.observed_generation),
            ("b", Some(2))
        );
        let flipped = observed(false, "b").onto(&[same], Some(2), at(30));
        assert_eq!(flipped.last_transition_time, Time(at(30)));
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let message = "ü".repeat(CONDITION_MESSAGE_BYTES_MAX);
        let stored = observed(false, &message).onto(&[], None, at(0)).message;
        assert!(stored.len() <= CONDITION_MESSAGE_BYTES_MAX);
        assert!(stored.ends_with('…'));
    }
}
