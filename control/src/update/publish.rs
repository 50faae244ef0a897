//! The authority's side.

use std::collections::BTreeMap;

use super::section::{Section, Sections, State};
use super::{Update, Version};
use crate::authority::Ack;
use crate::limits::{UPDATE_MAX, UPDATE_OVERHEAD};
use crate::wire::Violation;

/// The newest state of one endpoint, and when each section last changed.
#[derive(Debug)]
pub struct Publisher {
    id: u64,
    number: u64,
    sections: BTreeMap<Section, Published>,
}

#[derive(Debug)]
struct Published {
    changed_at: u64,
    bytes: Vec<u8>,
}

/// One watcher's position, kept with its stream.
#[derive(Debug, Clone, Default)]
pub struct Watcher {
    acknowledged: Option<Version>,
    in_flight: Option<Version>,
}

impl Publisher {
    /// A publisher with a fresh random id and the state of somebody who has
    /// nothing.
    pub fn new(id: u64) -> Self {
        Self {
            id,
            number: 0,
            sections: BTreeMap::new(),
        }
    }

    /// Takes the newest state. The answer is whether anything changed.
    ///
    /// # Errors
    /// The sections that break a rule (too large, mostly). They are published
    /// as unreadable, so that watchers do the safe thing, and all others as
    /// they are: an oversized policy set must not hold back a revocation.
    pub fn set(&mut self, state: &State) -> Result<bool, Unpublishable> {
        let next = self.number + 1;
        let mut changed = false;
        let mut problems = Vec::new();
        let mut total = 0;
        for section in Section::ALL {
            let mut bytes = section.write(state).unwrap_or_else(|rule| {
                problems.push((section.name(), rule));
                Vec::new()
            });
            if total + bytes.len() > UPDATE_MAX - UPDATE_OVERHEAD {
                problems.push((section.name(), Violation("does not fit into an update")));
                bytes = Vec::new();
            }
            total += bytes.len();
            let known = self
                .sections
                .get(&section)
                .is_some_and(|p| p.bytes == bytes);
            if !known {
                self.sections.insert(
                    section,
                    Published {
                        changed_at: next,
                        bytes,
                    },
                );
                changed = true;
            }
        }
        if changed {
            self.number = next;
        }
        if problems.is_empty() {
            Ok(changed)
        } else {
            Err(Unpublishable { problems })
        }
    }

    /// The newest version.
    pub fn version(&self) -> Version {
        Version {
            publisher: self.id,
            number: self.number,
        }
    }

    /// What to send this watcher now; `None` while it is up to date, or has
    /// not acknowledged the last update yet.
    pub fn poll(&self, watcher: &mut Watcher) -> Option<Update> {
        if watcher.in_flight.is_some() {
            return None;
        }
        let base = watcher
            .acknowledged
            .filter(|v| v.publisher == self.id && v.number <= self.number)
            .map(|v| v.number);
        if base == Some(self.number) {
            return None;
        }
        let sections = self
            .sections
            .iter()
            .filter(|(_, published)| base.is_none_or(|base| published.changed_at > base))
            .map(|(section, published)| (*section, published.bytes.clone()))
            .collect();
        let version = self.version();
        watcher.in_flight = Some(version);
        Some(Update {
            version,
            base,
            sections: Sections(sections),
        })
    }
}

impl Watcher {
    /// A watcher that asked with `Watch { have }`.
    pub fn new(have: Option<Version>) -> Self {
        Self {
            acknowledged: have,
            in_flight: None,
        }
    }

    /// Takes an acknowledgement.
    ///
    /// # Errors
    /// It is not for the update in flight: the watcher misbehaves, end its
    /// stream.
    pub fn acknowledge(&mut self, ack: &Ack) -> Result<(), NotInFlight> {
        if self.in_flight != Some(ack.version) {
            return Err(NotInFlight { got: ack.version });
        }
        self.acknowledged = self.in_flight.take();
        Ok(())
    }

    /// The version that the watcher certainly has.
    pub fn acknowledged(&self) -> Option<Version> {
        self.acknowledged
    }
}

/// Sections that cannot be sent; they were published as unreadable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "sections of an endpoint's state cannot be published: {}",
    list(problems)
)]
pub struct Unpublishable {
    /// Each section's name and the rule that it breaks.
    pub problems: Vec<(&'static str, Violation)>,
}

/// An acknowledgement of what was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("acknowledgement of version {got}, which is not in flight")]
pub struct NotInFlight {
    /// The version acknowledged.
    pub got: Version,
}

fn list(problems: &[(&'static str, Violation)]) -> String {
    let parts: Vec<String> = problems
        .iter()
        .map(|(name, rule)| format!("{name} ({rule})"))
        .collect();
    parts.join(", ")
}
