//! A session: a secure channel whose two ends know who the other is and what
//! it may do. Sans-IO.
//!
//! This crate joins `channel` (keys and streams), `identity` (who a key is),
//! `policy` (who may call what) and revocation. It is the one place where a
//! verified peer and a decision become a [`Grant`], and no stream of a peer
//! opens without one:
//!
//! - a [`PeerInfo`] is made only by a [`Session`] that has verified the peer's
//!   credential against the trust set, or that was told to admit peers without
//!   one;
//! - a [`Grant`] is made only in `admit.rs`, from a peer, a door and a decision
//!   under the rules of that moment;
//! - [`Session::accept`] wants the grant of that very stream.
//!
//! # The contract
//!
//! As with `channel`: feed what happened (`handle_*`, wishes), then call
//! [`Session::poll_output`] until it answers [`Output::Timeout`]. Every call
//! takes a [`Now`]: monotonic time for the channel's timers, and what is known
//! about the wall clock for credentials. There is no clock, no randomness and
//! no IO in here.
//!
//! # What ends what
//!
//! | event | effect |
//! |---|---|
//! | rules change ([`Session::set_rules`]) | streams that they no longer allow are reset (`policy-denied`), also waiting ones and ones that carry an HTTP request no longer allowed |
//! | peer revoked | session closed (`revoked`) |
//! | peer's credential expires | session closed (`credential-expired`), by timeout |
//! | trust set changes ([`Session::set_trust`]) | session closed if the peer's credential does not hold under it |
//!
//! `SPEC.md` beside this crate is normative for what goes over the wire.
//!
//! Reading order: [`local`] and [`doors`] (what a session is given), [`session`]
//! (the state machine), `admit` (every check), [`grant`], [`event`], [`code`].

pub mod code;
pub mod doors;
pub mod event;
pub mod grant;
pub mod limits;
pub mod local;
pub mod open;
pub mod peer;
pub mod session;

mod admit;
mod hello;
mod live;
#[cfg(test)]
mod tests;

pub use code::Refusal;
pub use doors::{Door, Doors, DoorsFull};
pub use event::{ClosedBy, Event, Output};
pub use grant::{Grant, HttpAnswer, HttpPass, Permit};
pub use local::{Admit, Local, Now, Rules};
pub use open::{OpenRequest, OpenTarget};
pub use peer::{PeerInfo, Standing};
pub use session::{AcceptError, AnswerError, DatagramError, OpenError, Session};

// What callers need of the channel below.
pub use fairway_channel::{
    AttachError, Batch, Code, Config, ConnectionId, CreateError, PathId, Priority, ReadOutcome,
    StaticSecret, Stats, StreamError, StreamId, Time, peek_attach,
};
