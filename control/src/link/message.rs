//! Control messages of a link to a relay.
//!
//! They go over one Control stream of circuit 0's session, which the endpoint
//! opens. The relay believes nothing here that the endpoint's credential does
//! not carry: a name is registered only if the peer answers to it.

use fairway_identity::Address;
use minicbor::{Decode, Encode};

use super::frame::CircuitId;
use crate::limits::{LINK_MESSAGE_MAX, NAMES_MAX};
use crate::reason::Reason;
use crate::wire::{Message, Violation, at_most};

/// From the endpoint to the relay.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ToRelay {
    /// Circuits for these names may be sent here. Each is answered by
    /// `Registered` or `RegisterRefused`. Registering a name again is fine.
    #[n(0)]
    Register {
        /// The names.
        #[cbor(n(0), with = "crate::wire::texts")]
        names: Vec<Address>,
    },
    /// No new circuits for these names; open ones go on. No answer.
    #[n(1)]
    Deregister {
        /// The names.
        #[cbor(n(0), with = "crate::wire::texts")]
        names: Vec<Address>,
    },
    /// Join a new circuit with whoever has registered `destination`. Answered
    /// by `Opened` or `Refused`; the dialler may send data at once, and what
    /// comes before the answer is passed on or dropped.
    #[n(2)]
    Open {
        /// A fresh even id.
        #[n(0)]
        circuit: CircuitId,
        /// Whom to join.
        #[cbor(n(1), with = "crate::wire::text")]
        destination: Address,
    },
    /// The circuit is over, or an `Incoming` one is not wanted. No answer.
    #[n(3)]
    Close {
        /// The circuit.
        #[n(0)]
        circuit: CircuitId,
        /// Why; the other end is told.
        #[n(1)]
        reason: Reason,
    },
    /// The endpoint has consumed data; the other end may send up to
    /// `max_bytes` in all.
    #[n(4)]
    Credit {
        /// The circuit.
        #[n(0)]
        circuit: CircuitId,
        /// Absolute limit in DATA payload bytes since the circuit began.
        #[n(1)]
        max_bytes: u64,
    },
}

/// From the relay to the endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ToEndpoint {
    /// The name now leads here.
    #[n(0)]
    Registered {
        /// The name.
        #[cbor(n(0), with = "crate::wire::text")]
        name: Address,
    },
    /// It does not.
    #[n(1)]
    RegisterRefused {
        /// The name.
        #[cbor(n(0), with = "crate::wire::text")]
        name: Address,
        /// Why.
        #[n(1)]
        reason: Reason,
    },
    /// Somebody dialled a name that the endpoint registered. Data may follow
    /// at once; the endpoint answers only to refuse, with `Close`.
    #[n(2)]
    Incoming {
        /// A fresh odd id.
        #[n(0)]
        circuit: CircuitId,
        /// The name that was dialled.
        #[cbor(n(1), with = "crate::wire::text")]
        destination: Address,
    },
    /// The circuit that the endpoint asked for is joined.
    #[n(3)]
    Opened {
        /// The circuit.
        #[n(0)]
        circuit: CircuitId,
    },
    /// It is not; the id is used up.
    #[n(4)]
    Refused {
        /// The circuit.
        #[n(0)]
        circuit: CircuitId,
        /// Why, for example `not-here`.
        #[n(1)]
        reason: Reason,
    },
    /// A joined circuit is over.
    #[n(5)]
    Closed {
        /// The circuit.
        #[n(0)]
        circuit: CircuitId,
        /// Why, as the other end or the relay says.
        #[n(1)]
        reason: Reason,
    },
    /// The endpoint may send up to `max_bytes` in all.
    #[n(6)]
    Credit {
        /// The circuit.
        #[n(0)]
        circuit: CircuitId,
        /// Absolute limit in DATA payload bytes since the circuit began.
        #[n(1)]
        max_bytes: u64,
    },
    /// The relay is going away: move to another, then close this link.
    #[n(7)]
    Drain,
}

impl Message for ToRelay {
    const MAX: usize = LINK_MESSAGE_MAX;

    fn check(&self) -> Result<(), Violation> {
        match self {
            Self::Register { names } | Self::Deregister { names } => {
                at_most(names, NAMES_MAX, "too many names in one message")
            }
            Self::Open { circuit, .. } => {
                if circuit.is_endpoints() {
                    Ok(())
                } else {
                    Err(Violation("an endpoint opens circuits with even ids from 2"))
                }
            }
            Self::Close { circuit, reason } => not_the_link(*circuit).and_then(|()| reason.check()),
            Self::Credit { circuit, .. } => not_the_link(*circuit),
        }
    }
}

impl Message for ToEndpoint {
    const MAX: usize = LINK_MESSAGE_MAX;

    fn check(&self) -> Result<(), Violation> {
        match self {
            Self::Registered { .. } | Self::Drain => Ok(()),
            Self::RegisterRefused { reason, .. } => reason.check(),
            Self::Incoming { circuit, .. } => {
                if circuit.is_relays() {
                    Ok(())
                } else {
                    Err(Violation("a relay opens circuits with odd ids"))
                }
            }
            Self::Opened { circuit } | Self::Credit { circuit, .. } => not_the_link(*circuit),
            Self::Refused { circuit, reason } | Self::Closed { circuit, reason } => {
                not_the_link(*circuit).and_then(|()| reason.check())
            }
        }
    }
}

fn not_the_link(circuit: CircuitId) -> Result<(), Violation> {
    if circuit == CircuitId::LINK {
        return Err(Violation(
            "circuit 0 is the link itself and is not opened, closed or credited",
        ));
    }
    Ok(())
}
