//! Published vectors through the primitives of this crate.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

// Private to the crate; here is the very same file.
#[path = "../../src/crypto.rs"]
#[allow(dead_code, unreachable_pub, reason = "only some of it is used here")]
mod crypto;

mod ml_kem;
mod noise;
mod wycheproof;
