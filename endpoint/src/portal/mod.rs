//! Portals: where sessions meet local applications.
//!
//! - [`Proxy`]: an app calls out through an HTTP or SOCKS5 proxy on loopback.
//! - [`Inlet`]: an app calls out through a loopback port that is bound to one
//!   destination, without knowing of any proxy.
//! - [`Outlet`]: a peer calls in; the stream, or each HTTP request in it, is
//!   handed to a local port.
//!
//! A portal decides nothing about who may do what: an outgoing stream is
//! allowed by the peer, an incoming one carries its `Grant`.

mod access;
mod forward;
pub mod http;
mod inlet;
mod listening;
mod metrics;
mod others;
mod outlet;
mod proxy;
mod socks;
mod trace;

pub use self::inlet::{Inlet, InletError, InletSpec};
pub use self::listening::{ListenTable, Listening};
pub use self::metrics::PortalMetrics;
pub use self::outlet::{Delivery, Outlet};
pub use self::proxy::{Others, Proxy};

/// Local connections that one portal serves at the same time; beyond it, new
/// ones wait in the kernel's queue. An app that leaks connections then runs out
/// of them before the process runs out of file descriptors.
pub(crate) const LOCAL_CONNECTIONS: usize = 4_096;

/// How long an app may take to send the head of a request.
pub(crate) const HEAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Largest request or response head, in bytes.
pub(crate) const HEAD_SIZE: usize = 64 * 1024;
