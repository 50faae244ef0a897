//! Revocation: what is dead, since when, until when that has to be remembered,
//! and who is known to know.
//!
//! - [`record`]: the entries, as the ConfigMap `fairway-revocations` holds them; pure.
//! - [`due`]: which entries the objects of the cluster ask for; pure.
//! - [`issued`]: whom credentials were issued to, so that what is deleted
//!   while no authority runs is found by comparing.
//! - [`keeper`]: the task that writes entries, and keeps the records tidy.
//! - [`acks`]: how many connected endpoints enforce a revocation.
//!
//! The way of a revocation: an object changes, [`due`] says which entry that
//! asks for, [`keeper`] writes it, every replica sees the ConfigMap change and
//! its index wakes the watches that the entry concerns.

pub mod acks;
pub mod due;
pub mod issued;
pub mod keeper;
pub mod record;

pub use record::{Cause, Entry, Kind, Record};
