//! What the core tells the shell.

use fairway_control::Reason;
use fairway_control::link::CircuitId;
use fairway_identity::Address;

use super::circuit::CircuitRecord;

/// A link, for as long as this process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(crate) u64);

impl LinkId {
    /// The number that logs show.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// One link, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LinkDescription {
    /// [`LinkId::number`].
    pub link: u64,
    /// Who is at the other end.
    pub peer: String,
    /// The names that lead there.
    pub names: Vec<String>,
    /// Circuits in use.
    pub circuits: usize,
    /// Whether nothing new goes there.
    pub leaving: bool,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Output {
    /// Messages wait for this link: [`Core::take_messages`](super::Core::take_messages).
    Deliver(LinkId),
    /// Throw away what waits for `link` on `circuit`, in whole frames, and
    /// report it by [`Core::drained`](super::Core::drained).
    Discard {
        /// The link that it waits for.
        link: LinkId,
        /// The circuit's id on that link.
        circuit: CircuitId,
    },
    /// End the link, tell it why if possible, and then call [`Core::link_down`](super::Core::link_down).
    CloseLink {
        /// The link.
        link: LinkId,
        /// Why.
        reason: Reason,
    },
    /// For the access log: a circuit is over.
    CircuitEnded(Box<CircuitRecord>),
    /// For the access log: a circuit was refused.
    CircuitRefused {
        /// The link that asked.
        link: LinkId,
        /// What it asked for.
        destination: Address,
        /// Why not.
        reason: Reason,
    },
    /// For the log: a registration was refused.
    NameRefused {
        /// The link that asked.
        link: LinkId,
        /// The name that it wanted.
        name: Address,
        /// Why not.
        reason: Reason,
    },
}

/// Where DATA goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// To this link, under this circuit id.
    To(LinkId, CircuitId),
    /// Nowhere: the circuit is not (or no longer) there.
    Drop,
}

/// A link is not wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("link refused: {0}")]
pub struct Refusal(pub Reason);

/// Gauges and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Names that lead somewhere.
    pub names: usize,
    /// Bytes that wait for slow links.
    pub queued_bytes: usize,
    /// Frames dropped because their circuit is not there, in runs.
    pub runs_dropped: u64,
    /// Circuits opened.
    pub circuits_opened: u64,
}
