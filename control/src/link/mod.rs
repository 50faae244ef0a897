//! The link between an endpoint and a relay: its frames, its control
//! messages, its credit.
//!
//! A link is a byte stream of [frames](frame). Each belongs to a *circuit*.
//! Circuit 0 is the session between the two ends of the link themselves; on a
//! link to a relay it is dialled as `relay.fairway.internal`, on a direct link
//! to the authority's front it *is* the end-to-end session and there are no
//! other circuits. The dialler of the link opens one Control stream in
//! circuit 0's session, and on it go the [messages](message) that register
//! names, open and close circuits and grant [credit].

pub mod credit;
pub mod frame;
pub mod message;

pub use credit::{CreditOverrun, ReceiveCredit, SendCredit};
pub use frame::{
    CircuitId, FrameError, FrameKind, Header, Run, header, refused_frame, rewrite_circuits,
    take_run,
};
pub use message::{Instance, ToEndpoint, ToRelay};
