//! Bounds of the command line, each with its reason.

use std::time::Duration;

/// How long the cluster may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to answer a request.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a sidecar may take to tell its state.
pub const SIDECAR_TIMEOUT: Duration = Duration::from_secs(5);

/// Objects asked for at once.
pub const PAGE: u32 = 500;

/// Objects of one kind that are looked at; more are said to be left out.
pub const OBJECTS: usize = 50_000;

/// Pods without a sidecar that are named; the rest is counted.
pub const NAMED_PODS: usize = 20;

/// Bytes of a sidecar's state.
pub const STATE_BYTES: usize = 1 << 20;

/// Sidecars asked for their state in one `status`.
pub const ASKED_SIDECARS: usize = 5;

/// Longest time that a ticket can be used for: 30 days. It lies around until
/// then.
pub const TICKET_SECONDS: u64 = 30 * 24 * 3600;
