//! The relay's decisions, without IO: who may register and open what, which
//! link a circuit goes to, how much may be under way.
//!
//! # The contract
//!
//! The shell tells the core what happened ([`Core::link_up`],
//! [`Core::link_down`], [`Core::handle_message`], [`Core::forward`],
//! [`Core::queued`], [`Core::handle_timeout`], ...) and then carries out what
//! [`Core::poll_output`] says until it says `None`. Messages for a link wait in
//! the core until the shell can send them ([`Core::take_messages`]); those of
//! one link must be sent in the order in which they were taken, and before DATA
//! that is forwarded afterwards.
//!
//! `now` is monotonic, from any origin.
//!
//! Reading order: `who` and `budget` (what a peer may use), `names` (where
//! names lead), `circuit` (two links joined), `memory` (what waits), `switch`
//! (the [`Core`] itself), `requests` and `data` (what comes over links), `drain`.
//!
//! Never in here: sockets, clocks, sessions, plaintext.

mod budget;
mod circuit;
mod data;
mod drain;
mod memory;
mod names;
mod output;
mod requests;
mod switch;
mod who;

pub use self::budget::{Budget, Budgets, Class};
pub use self::circuit::CircuitRecord;
pub use self::memory::MemoryLimits;
pub use self::output::{Forward, LinkDescription, LinkId, Output, Refusal, Stats};
pub use self::switch::{Core, Settings};
pub use self::who::Who;
pub use fairway_daemon::Rate;

/// Monotonic time, from an origin that the shell chooses.
pub type Time = std::time::Duration;

#[cfg(test)]
mod tests;
