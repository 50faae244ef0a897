//! The operator of Fairway.

pub mod call;
pub mod inject;
pub mod limits;
pub mod metrics;
pub mod trust;
pub mod webhook;

/// Who writes, in `managedFields`.
pub const FIELD_MANAGER: &str = "fairway-operator";
