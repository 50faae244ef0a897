//! Fairway's simulator: the sans-IO crates on a network that loses, delays,
//! reorders, repeats and damages packets, all by seed.
//!
//! The same seed gives the same run: the clock is simulated, and every choice
//! comes from one generator. (The one thing that differs is the bytes of the
//! ML-KEM keys, see `fairway_channel`'s `crypto.rs`; nothing here depends on
//! them.) A test that fails prints its seed.
//!
//! Start reading at [`Pair`]: two channels, a [`Net`] between them, one clock.

pub mod authority;
mod net;
mod pair;

pub use net::{Conditions, Flying, Net, Side};
pub use pair::{End, Pair, StepLimit};
