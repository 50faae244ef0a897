//! What the scenarios of `tests/scenarios/` are told with.
//!
//! Real processes at both ends: pods that the injector gave a sidecar, devices
//! in a network namespace of their own behind NAT. Nothing here looks inside
//! Fairway; it does what users do, with their tools (helm, `kubectl fairway`,
//! `fairway-device`), and sees what they see.
//!
//! Reading order: [`scenario()`] (a namespace for each, cleaned up, and shown by `show` on
//! failure), [`cluster`] (installed once a run) and [`relays`], [`objects`] and [`pod`] (the
//! cluster's side), [`device`] (the other side) and what [`flow`]s between them, [`process`],
//! [`lines`] and [`wait`] (every wait is for a state, and has a bound).

pub mod cluster;
pub mod device;
pub mod flow;
pub mod lines;
pub mod objects;
pub mod pod;
pub mod process;
pub mod relays;
pub mod scenario;
mod show;
mod system;
pub mod wait;

pub use anyhow::{Context, Result, bail, ensure};
pub use cluster::Way;
pub use device::{Device, ROUTER};
pub use objects::App;
pub use pod::{Answer, Pod};
pub use process::Output;
pub use scenario::{Scenario, alone, scenario};
pub use serde_json::{Value, json};
pub use wait::{LATER, SOON, eventually};
