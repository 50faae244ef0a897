//! The Kubernetes resources of Fairway (`fairway.dev/v1alpha1`) and what they
//! mean.
//!
//! Three kinds, each with schema, CEL rules, printer columns and a status:
//!
//! - [`DeviceIdentity`]: a device that may have a credential ([`device`]).
//! - [`EnrollmentTicket`]: the right to enrol as one device, once ([`ticket`]).
//! - [`ChannelPolicy`]: who may open what on whom ([`channel_policy`]).
//!
//! What operator, authority and command line all need to agree on is here as
//! pure functions: [`ChannelPolicy::compile`] makes a `fairway_policy::Policy`
//! and says whom it protects, [`DeviceIdentity::claims`] gives what a
//! credential says of a device, [`conditions`] keeps conditions by the
//! conventions of Kubernetes, [`labels`] holds every label and annotation.
//!
//! The YAML beside this crate (`crds/*.yaml`) is written by `crdgen` from these
//! types; a test fails when it is stale. Nothing here talks to a cluster.

pub mod channel_policy;
pub mod claims;
pub mod compile;
pub mod conditions;
pub mod device;
pub mod generate;
pub mod labels;
pub mod limits;
mod rules;
mod schema;
pub mod selector;
pub mod ticket;

pub use channel_policy::{ChannelPolicy, ChannelPolicySpec, ChannelPolicyStatus};
pub use claims::{ClaimsError, DeviceClaims};
pub use compile::{CompiledPolicy, PolicyError, PolicyTarget};
pub use device::{DeviceIdentity, DeviceIdentitySpec, DeviceIdentityStatus, DeviceState};
pub use ticket::{EnrollmentTicket, EnrollmentTicketSpec, EnrollmentTicketStatus};

/// API group of all resources.
pub const GROUP: &str = "fairway.dev";
/// The one version that is served.
pub const VERSION: &str = "v1alpha1";
