//! The admission webhook: every replica serves it, with a certificate that
//! the replicas make, share and rotate themselves.
//!
//! [`keyring`] is the certificates and when they change, [`keeper`] keeps them
//! in a Secret and in the webhook configuration, [`review`] answers one
//! review, [`server`] is the HTTPS server, `crowd` bounds its connections.

mod crowd;
pub mod keeper;
pub mod keyring;
pub mod review;
pub mod server;
