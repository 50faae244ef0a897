//! The endpoint's side.

use std::collections::BTreeSet;

use super::section::{Changed, Section, State};
use super::{Update, Version};
use crate::authority::{Ack, Request};
use crate::reason::Reason;

/// What an endpoint was told so far.
#[derive(Debug, Default)]
pub struct Subscriber {
    have: Option<Version>,
    /// What could be read, as it was told.
    told: State,
    /// What could not.
    unreadable: BTreeSet<Section>,
    /// What holds: `told`, less whatever the unreadable ones put in doubt.
    state: State,
}

/// What an update did.
#[derive(Debug)]
pub struct Applied {
    /// The sections that it touched.
    pub changed: Changed,
    /// To be sent back once the change is in force.
    pub ack: Ack,
}

/// The update does not fit on what we have; open a new watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("update {got} does not follow on the version at hand; watch again")]
pub struct OutOfStep {
    /// The update's version.
    pub got: Version,
}

impl Subscriber {
    /// One that was told nothing: everything is denied.
    pub fn new() -> Self {
        Self::default()
    }

    /// The request to (re)open the watch with.
    pub fn request(&self) -> Request {
        Request::Watch { have: self.have }
    }

    /// What was told so far, in its safest meaning where something could not
    /// be read.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes an update.
    ///
    /// # Errors
    /// It is a delta on something else; nothing has changed. The next
    /// [`request`](Self::request) asks for a snapshot.
    pub fn apply(&mut self, update: &Update) -> Result<Applied, OutOfStep> {
        let version = update.version;
        if let Some(base) = update.base
            && self.have
                != Some(Version {
                    publisher: version.publisher,
                    number: base,
                })
        {
            self.have = None;
            return Err(OutOfStep { got: version });
        }
        let mut changed = Changed::default();
        let mut problems = Vec::new();
        if update.is_snapshot() {
            self.start_over();
            Section::ALL
                .iter()
                .for_each(|section| section.mark(&mut changed));
        }
        for (section, bytes) in &update.sections.0 {
            section.mark(&mut changed);
            match section.read(bytes, &mut self.told) {
                Ok(()) => {
                    self.unreadable.remove(section);
                }
                Err(error) => {
                    self.unreadable.insert(*section);
                    problems.push(format!("{}: {error}", section.name()));
                }
            }
        }
        // Unreadable revocations close the policies too.
        changed.policies |= changed.revocations;
        self.state = self.told.clone();
        for section in &self.unreadable {
            section.fail_closed(&mut self.state);
        }
        self.have = Some(version);
        let problem =
            (!problems.is_empty()).then(|| Reason::new("unreadable-section", problems.join("; ")));
        Ok(Applied {
            changed,
            ack: Ack { version, problem },
        })
    }

    /// A snapshot says everything, so what it does not say is not so. Only
    /// what helps to reach the authority again is kept.
    fn start_over(&mut self) {
        self.unreadable.clear();
        self.told = State {
            trust_set: std::mem::take(&mut self.told.trust_set),
            relays: std::mem::take(&mut self.told.relays),
            ..State::default()
        };
    }
}
