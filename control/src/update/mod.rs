//! What the authority streams to each endpoint, and how a watcher resumes.
//!
//! The [`State`] of an endpoint is a handful of *sections*. The authority
//! keeps a [`Publisher`] for each endpoint it serves and sets its state as
//! things change; an [`Update`] carries only the sections that changed since
//! the version that the watcher acknowledged, or all of them when the watcher
//! is new or comes from another publisher. The endpoint keeps a
//! [`Subscriber`].
//!
//! One update is in flight at a time, so a slow watcher gets fewer, larger
//! steps and never a queue. A section that cannot be read does not spoil the
//! others: it is taken in its safest meaning and reported.

mod publish;
mod revocation;
mod section;
mod subscribe;
#[cfg(test)]
mod tests;

pub use publish::{NotInFlight, Publisher, Unpublishable, Watcher};
pub use section::{Changed, Door, State};
pub use subscribe::{Applied, OutOfStep, Subscriber};

use minicbor::{Decode, Encode};

use crate::limits::{UPDATE_MAX, UPDATE_OVERHEAD};
use crate::wire::Violation;
use section::Sections;

/// How far a watcher is.
///
/// Versions count up within one publisher. A publisher is one life of one
/// authority replica's knowledge about one endpoint, under a random id: after
/// a restart or on another replica, old versions mean nothing, and the id says
/// so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Version {
    /// The publisher's random id.
    #[n(0)]
    pub publisher: u64,
    /// The version within it.
    #[n(1)]
    pub number: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}.{}", self.publisher, self.number)
    }
}

/// A step from one version of a [`State`] to another. Made by a
/// [`Publisher`], applied by a [`Subscriber`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Update {
    #[n(0)]
    version: Version,
    /// The version this step starts from; `None` for a snapshot.
    #[n(1)]
    base: Option<u64>,
    #[n(2)]
    sections: Sections,
}

impl Update {
    /// The version that the watcher has after this step.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it stands for itself.
    pub fn is_snapshot(&self) -> bool {
        self.base.is_none()
    }

    pub(crate) fn check(&self) -> Result<(), Violation> {
        if self.sections.size() > UPDATE_MAX - UPDATE_OVERHEAD {
            return Err(Violation("an update's sections are too large"));
        }
        if self.base.is_some_and(|base| base >= self.version.number) {
            return Err(Violation("an update does not go forward"));
        }
        Ok(())
    }
}
