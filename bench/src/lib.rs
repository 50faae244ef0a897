//! The whole chain as processes on one machine, without a cluster: an authority
//! with throwaway keys, apps, haproxy's chains for comparison, and what is
//! measured on each; and links to a relay without an endpoint.

pub mod apps;
pub mod authority;
pub mod chain;
pub mod handshakes;
pub mod links;
pub mod measure;
pub mod process;
pub mod raw_link;
