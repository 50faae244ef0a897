//! The tokio runtime that sidecar, device, relay and the authority's front share.
//!
//! [`Endpoint`] is the entry: it keeps links, finds or makes a session for each
//! peer that is called, renews the credential, follows the authority's updates
//! and hands out [`Stream`]s. Security decisions are made below, in
//! `fairway-session`; a stream that reaches a portal carries the `Grant` that
//! allowed it.
//!
//! Reading order: [`Endpoint`], [`Stream`], [`AuthorityClient`], then
//! [`link`] (frames and the loop that drives them) and [`transport`] (what links
//! run on).
//!
//! Never in here: Kubernetes, decisions about who may do what, credential formats.

mod authority;
mod backoff;
mod buffer;
mod clock;
mod config;
mod conn;
mod credential;
mod dial;
mod early;
mod endpoint;
mod error;
mod front;
mod identity;
mod join;
pub mod limits;
pub mod link;
mod metrics;
mod moving;
mod node;
pub mod portal;
mod race;
mod random;
mod relays;
mod sessions;
mod status;
mod stream;
#[cfg(test)]
mod testing;
pub mod transport;

pub use self::authority::{AuthorityClient, Issued, front_anchor};
pub use self::config::{
    ClockSource, CredentialSource, EndpointConfig, Keep, LinkOptions, Listen, RelayUse,
    SavedCredential, Store,
};
pub use self::endpoint::{Endpoint, Incoming};
pub use self::error::{AuthorityError, DatagramError, OpenError, StartError, StreamError};
pub use self::join::{Joined, join};
pub use self::metrics::Metrics;
pub use self::status::{CredentialStatus, LinkStatus, SessionStatus, Status};
pub use self::stream::{RecvStream, SendStream, Stream};
