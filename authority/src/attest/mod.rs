//! Who may have a credential.
//!
//! - [`workload`]: a pod, by its projected ServiceAccount token.
//! - [`ticket`]: a device, the first time, by a ticket.
//! - [`device`]: a device, every other time, by its own key.
//! - [`front`]: the authority's own front.
//!
//! Each takes what the front says that the channel proved, and believes
//! nothing of what the caller says about itself that it cannot check.

pub mod device;
pub mod front;
pub mod ticket;
pub mod workload;

use fairway_control::front::Stream;

use crate::refusal::Refusal;

/// The key to certify is the session's own, so that the handshake has proven
/// that the caller holds it.
fn check_key(stream: &Stream, asked: &[u8; 32]) -> Result<(), Refusal> {
    if stream.proven_key == *asked {
        Ok(())
    } else {
        Err(Refusal::Forbidden(
            "the key to certify is not the one that the handshake proved",
        ))
    }
}
