//! What a driver knows of each circuit.

use std::sync::Arc;

use fairway_channel::PathId;
use fairway_control::Reason;
use fairway_control::link::{ReceiveCredit, SendCredit};
use fairway_identity::Address;
use tokio::sync::oneshot;

use super::timers::Timer;
use crate::conn::Conn;

/// One circuit of a link.
pub(super) struct Circuit {
    /// The session on it, and which of its paths this is; none between the
    /// relay's yes and the dialler's choice, and before the first packet of
    /// one that came in.
    pub(super) conn: Option<(Arc<Conn>, PathId)>,
    /// The name that was dialled, for the session of the first packet.
    pub(super) dialled: Option<Address>,
    /// What may go out.
    pub(super) send: SendCredit,
    /// What may come in.
    pub(super) receive: ReceiveCredit,
    /// Who waits for the relay's answer.
    pub(super) reply: Option<oneshot::Sender<Result<(), Reason>>>,
    /// The session's timer.
    pub(super) timer: Timer,
    /// Whether it stands in the driver's queue.
    pub(super) is_ready: bool,
    /// Whether it waits for the socket.
    pub(super) is_held: bool,
    /// Whether somebody dialled it and has not shown who they are.
    pub(super) is_half_open: bool,
}

impl Circuit {
    pub(super) fn new(conn: Option<(Arc<Conn>, PathId)>) -> Self {
        Self {
            conn,
            dialled: None,
            send: SendCredit::new(),
            receive: ReceiveCredit::new(),
            reply: None,
            timer: Timer::default(),
            is_ready: false,
            is_held: false,
            is_half_open: false,
        }
    }
}
