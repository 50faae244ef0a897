//! Fairway's relay: it joins circuits by name and forwards bytes that it
//! cannot read.
//!
//! - [`core`] decides: who may register and open what, which link a circuit
//!   goes to, how much may be under way. No IO.
//! - [`server`] carries it out on tokio.
//! - [`limits`] has every bound, with its reason.
//!
//! The relay is trusted with availability and routing metadata only: it sees
//! who talks with whom, how much and when, and nothing of what they say.

pub mod core;
pub mod limits;
pub mod server;

#[cfg(test)]
mod testing;
