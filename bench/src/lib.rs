//! The whole chain as processes on one machine, without a cluster: an authority
//! with throwaway keys, apps, haproxy's chains for comparison, and what is
//! measured on each.

pub mod apps;
pub mod authority;
pub mod chain;
pub mod handshakes;
pub mod links;
pub mod measure;
pub mod process;
