//! The operator of Fairway.

pub mod call;
pub mod controllers;
pub mod inject;
pub mod leader;
pub mod limits;
pub mod metrics;
pub mod trust;
pub mod webhook;

#[cfg(test)]
mod testing;

/// Who writes, in `managedFields`.
pub const FIELD_MANAGER: &str = "fairway-operator";
