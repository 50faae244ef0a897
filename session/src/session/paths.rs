//! The paths of a session: as those of its channel.

use fairway_channel::{AttachError, ConnectionId, PathId};

use super::{Phase, Session};
use crate::local::Now;

impl Session {
    /// Names this session when it comes back on another path; equal at both
    /// ends. `None` until the peer has been admitted: a table of those that may
    /// come back has no place for who has not shown who they are.
    pub fn connection_id(&self) -> Option<ConnectionId> {
        match self.phase {
            Phase::Unknown | Phase::AwaitingTime(_) | Phase::LeanChecked(_) => None,
            Phase::Admitted(_) | Phase::Established(_) | Phase::Ended => {
                self.channel.connection_id()
            }
        }
    }

    /// The path that traffic of this side goes over; `None` while there is none.
    pub fn active_path(&self) -> Option<PathId> {
        self.channel.active_path()
    }

    /// The path that is being tried.
    pub fn candidate_path(&self) -> Option<PathId> {
        self.channel.candidate_path()
    }

    /// The path that the next packet goes over, if there is one to be sent: for
    /// owners that serve their paths by different tasks
    /// ([`Batch::set_path`](crate::Batch::set_path)).
    pub fn pending_path(&self) -> Option<PathId> {
        self.channel.pending_path()
    }

    /// The dialler tries another path, to the same name and instance
    /// ([`PeerInfo::instance`](crate::PeerInfo::instance)). Traffic stays where
    /// it is until [`Event::PathActive`](crate::Event::PathActive);
    /// [`Event::PathFailed`](crate::Event::PathFailed) says that it came to
    /// nothing.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&mut self, now: Now, path: PathId) -> Result<(), AttachError> {
        self.channel.attach(now.mono, path)
    }

    /// A path is gone. A session without one keeps its streams, and waits: the
    /// dialler is to [`attach`](Self::attach) it to another, the other side
    /// waits for that. After 2 minutes ([`Config`](crate::Config)) it ends with
    /// `link-lost`; at once, if it was not established yet.
    pub fn path_lost(&mut self, now: Now, path: PathId) {
        self.channel.path_lost(now.mono, path);
    }
}
