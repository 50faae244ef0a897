//! Distribution: what each endpoint has to know, and the streams that tell it.
//!
//! - [`facts`]: the few fields that matter of each Kubernetes object; pure.
//! - [`index`]: all facts; pure, tested by plain function calls.
//! - [`audience`]: who watches, and which revocations concern it.
//! - [`view`]: what one endpoint has to know; pure.
//! - [`feed`]: watches of the API server that keep the index up to date.
//! - [`hub`]: who watches, and whom a change wakes.
//! - [`watch`]: one endpoint's stream: a snapshot, then what changed, and its
//!   acknowledgements.

pub mod audience;
pub mod facts;
pub mod feed;
pub mod hub;
pub mod index;
pub mod view;
pub mod watch;

pub use audience::Audience;
pub use hub::Hub;
pub use index::{Index, Touched};
pub use view::Gone;
