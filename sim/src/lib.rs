//! Fairway's simulator: the sans-IO crates on a network that loses, delays,
//! reorders, repeats and damages packets, all by seed.
//!
//! The same seed gives the same run: the clock is simulated, and every choice
//! comes from one generator. (The one thing that differs is the bytes of the
//! ML-KEM keys, see `fairway_channel`'s `crypto.rs`; nothing here depends on
//! them.) A test that fails prints its seed.
//!
//! Two scales: [`Pair`] is two channels and a [`Net`] between them; [`World`] is
//! an installation of endpoints, relays and an authority, with a reference model
//! beside it. [`for_seeds`] runs either for many seeds.

pub mod authority;
mod net;
mod pair;
mod seeds;
mod world;

pub use net::{Conditions, Net, Side};
pub use pair::{End, Pair, StepLimit};
pub use seeds::{for_seeds, seeds};
pub use world::{Summary, World};
