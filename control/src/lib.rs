//! The versioned messages that Fairway's parts send each other besides
//! application data, and the logic by which a watcher resumes. No IO.
//!
//! `SPEC.md` beside this crate is normative for the bytes. What is here, in
//! reading order:
//!
//! - [`wire`]: the one way in which a message becomes bytes and back
//!   ([`Message`], [`FrameReader`]), with its limits.
//! - [`link`]: the frames between an endpoint and a relay, and the link's own
//!   control messages.
//! - [`authority`]: requests to the authority and its answers.
//! - [`update`]: what the authority streams to each endpoint (policy,
//!   revocations, doors, ...), as a snapshot and then by changed section.
//! - [`policy`]: the wire form of a policy set, checked on the way in.
//! - [`front`]: what the endpoint in front of the authority tells the
//!   authority's process about a stream.
//!
//! Invariants: nothing here reads a clock, a socket or a random source; domain
//! types of `identity` and `policy` are not serialisable themselves, so their
//! wire form can stay stable while they change.

pub mod authority;
pub mod front;
pub mod limits;
pub mod link;
pub mod policy;
pub mod reason;
pub mod update;
pub mod wire;

#[cfg(test)]
mod testing;

pub use reason::Reason;
pub use wire::{DecodeError, EncodeError, FrameReader, Message, Violation, frame};
