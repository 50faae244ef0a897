//! Bounds of the operator, each with its reason.

use std::time::Duration;

/// Reconciles of one kind that run at the same time. kube-runtime has no bound
/// of its own; each is one request to the API server.
pub const RECONCILES_AT_ONCE: u16 = 8;

/// Answer to a request of the API server that the client waits for. kube's
/// client has no bound of its own on ordinary requests.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait before a failed reconcile is tried again.
pub const RETRY_MAX: Duration = Duration::from_secs(300);

/// First wait before a failed reconcile is tried again.
pub const RETRY_MIN: Duration = Duration::from_secs(1);

/// Objects of one page of a list.
pub const PAGE: u32 = 500;

/// Body of an admission review. The API server bounds objects at about 3 MiB,
/// and a review may hold two of them.
pub const REVIEW_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Inlets of one pod; each is a listening port.
pub const INLETS_MAX: usize = 32;

/// Ports that one pod may list as exposed on purpose.
pub const EXPOSED_PORTS_MAX: usize = 32;

/// Objects whose last event or failure is remembered, so that it is not told
/// twice. When it is full, it starts anew, and something may be told again.
pub const REMEMBERED_MAX: usize = 16_384;
