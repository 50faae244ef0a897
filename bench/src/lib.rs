//! The whole chain as processes on one machine, without a cluster.

pub mod authority;
