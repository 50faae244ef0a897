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

/// Body of an admission review: the API server bounds requests at 3 MiB, and a
/// review of a creation holds one object.
pub const REVIEW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Inlets of one pod; each is a listening port.
pub const INLETS_MAX: usize = 32;

/// Ports that one pod may list as exposed on purpose.
pub const EXPOSED_PORTS_MAX: usize = 32;

/// Objects whose last event or failure is remembered, so that it is not told
/// twice. When it is full, it starts anew, and something may be told again.
pub const REMEMBERED_MAX: usize = 16_384;

/// Connections to the webhook at once. API servers need a few each; the others
/// are of whoever is in reach. With TLS and buffers each takes some 100 KiB.
pub const WEBHOOK_CONNECTIONS_MAX: usize = 128;

/// New connections to the webhook: each is a handshake of about a millisecond.
pub const WEBHOOK_ACCEPTS: fairway_daemon::Rate = fairway_daemon::Rate {
    per_second: 200,
    burst: 400,
};

/// The TLS handshake of a connection to the webhook is over within this time,
/// and so is, after it, the head of the first request.
pub const WEBHOOK_HEAD_TIME: Duration = Duration::from_secs(5);

/// A connection that asks nothing for so long is closed; API servers close
/// theirs after 90 s by themselves.
pub const WEBHOOK_IDLE_TIME: Duration = Duration::from_secs(300);

/// Reviews that are worked on at the same time; with the bound on a body this
/// bounds the memory that floods of the webhook can take.
pub const REVIEWS_AT_ONCE: usize = 16;

/// How long a review may take from its first byte to its answer. The API
/// server waits 10 s.
pub const REVIEW_TIME: Duration = Duration::from_secs(10);

/// Lifetime of the webhook's certificate in days. Replicas find the next one
/// within seconds; the length only bounds what a stolen key is good for.
pub const CERTIFICATE_DAYS: i64 = 90;

/// Age at which a certificate gets a successor, in days.
pub const CERTIFICATE_ROTATE_DAYS: i64 = 60;

/// How long the API server knows a new certificate's CA before it is served.
pub const CERTIFICATE_OVERLAP: Duration = Duration::from_secs(600);

/// The certificate and its place in the webhook configuration are looked at
/// this often even if no watch says that something changed.
pub const CERTIFICATE_CHECK: Duration = Duration::from_secs(60);
