//! The authority: it attests endpoints, issues their credentials, and streams
//! each one the policy, trust and revocations that concern it.
//!
//! It alone reads the signing keys. It never parses a byte from the network:
//! in its pod an ordinary endpoint, the *front*, terminates the channels and
//! passes bounded control messages on over a Unix socket, together with what
//! each channel proved.
//!
//! Reading order: [`server`] (the socket and the dispatch of requests),
//! [`attest`] (who may have a credential), [`issue`], [`keys`],
//! [`distribute`] (what each endpoint is told), [`revoke`].
//!
//! Never in here: channels, sockets of the network, anything that changes
//! pods, the conditions that the operator writes.

pub mod attest;
pub mod authority;
pub mod clock;
pub mod cluster;
pub mod config_map;
pub mod distribute;
pub mod events;
pub mod issue;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod names;
pub mod random;
pub mod refusal;
pub mod revoke;
pub mod seen;
pub mod server;

#[cfg(test)]
mod testing;
