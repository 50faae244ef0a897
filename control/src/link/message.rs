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
        /// The registrant's process, the same in every message of a link.
        #[n(1)]
        instance: Instance,
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
        /// Only this process of it will do: its session is there already.
        #[n(2)]
        instance: Option<Instance>,
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
    /// This link is about to go: whoever opened this circuit should open
    /// another to the same instance, which has a newer link. No answer.
    #[n(5)]
    Move {
        /// The circuit; one that came in.
        #[n(0)]
        circuit: CircuitId,
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
    /// The other end of this circuit is about to leave it: open another to the
    /// same instance, move the session, then close this one.
    #[n(8)]
    Move {
        /// The circuit; one that this endpoint opened.
        #[n(0)]
        circuit: CircuitId,
    },
}

/// A process: what it registers and what sessions learn of it in the handshake
/// carry the same random number, so that a session finds it again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct Instance(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl Message for ToRelay {
    const MAX: usize = LINK_MESSAGE_MAX;

    fn check(&self) -> Result<(), Violation> {
        match self {
            Self::Register { names, .. } | Self::Deregister { names } => {
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
            Self::Credit { circuit, .. } | Self::Move { circuit } => not_the_link(*circuit),
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
            Self::Opened { circuit } | Self::Credit { circuit, .. } | Self::Move { circuit } => {
                not_the_link(*circuit)
            }
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::*;

    fn even() -> impl Strategy<Value = CircuitId> {
        (1..=u32::MAX / 2).prop_map(|n| CircuitId(n * 2))
    }

    fn odd() -> impl Strategy<Value = CircuitId> {
        (0..=u32::MAX / 2).prop_map(|n| CircuitId(n * 2 + 1))
    }

    fn circuit() -> impl Strategy<Value = CircuitId> {
        prop_oneof![even(), odd()]
    }

    fn instance() -> impl Strategy<Value = Instance> {
        any::<[u8; 16]>().prop_map(Instance)
    }

    fn to_relay() -> impl Strategy<Value = ToRelay> {
        prop_oneof![
            (vec(address(), 0..4), instance())
                .prop_map(|(names, instance)| ToRelay::Register { names, instance }),
            vec(address(), 0..4).prop_map(|names| ToRelay::Deregister { names }),
            (even(), address(), proptest::option::of(instance())).prop_map(
                |(circuit, destination, instance)| ToRelay::Open {
                    circuit,
                    destination,
                    instance,
                }
            ),
            (circuit(), reason()).prop_map(|(circuit, reason)| ToRelay::Close { circuit, reason }),
            (circuit(), any::<u64>())
                .prop_map(|(circuit, max_bytes)| ToRelay::Credit { circuit, max_bytes }),
            circuit().prop_map(|circuit| ToRelay::Move { circuit }),
        ]
    }

    fn to_endpoint() -> impl Strategy<Value = ToEndpoint> {
        prop_oneof![
            address().prop_map(|name| ToEndpoint::Registered { name }),
            (address(), reason())
                .prop_map(|(name, reason)| ToEndpoint::RegisterRefused { name, reason }),
            (odd(), address()).prop_map(|(circuit, destination)| ToEndpoint::Incoming {
                circuit,
                destination
            }),
            circuit().prop_map(|circuit| ToEndpoint::Opened { circuit }),
            (circuit(), reason())
                .prop_map(|(circuit, reason)| ToEndpoint::Refused { circuit, reason }),
            (circuit(), reason())
                .prop_map(|(circuit, reason)| ToEndpoint::Closed { circuit, reason }),
            (circuit(), any::<u64>())
                .prop_map(|(circuit, max_bytes)| ToEndpoint::Credit { circuit, max_bytes }),
            Just(ToEndpoint::Drain),
            circuit().prop_map(|circuit| ToEndpoint::Move { circuit }),
        ]
    }

    proptest! {
        #[test]
        fn messages_to_a_relay(message in to_relay()) {
            check_codec(&message);
        }

        #[test]
        fn messages_to_an_endpoint(message in to_endpoint()) {
            check_codec(&message);
        }

        #[test]
        fn garbage_is_refused(bytes in garbage()) {
            check_garbage::<ToRelay>(&bytes);
            check_garbage::<ToEndpoint>(&bytes);
        }
    }

    #[test]
    fn oversize_is_refused() {
        check_oversize::<ToRelay>();
        check_oversize::<ToEndpoint>();
    }

    #[test]
    fn the_largest_registration_fits() {
        let label = |text: &str| fairway_identity::Label::new(&text.repeat(63)).unwrap();
        let names = vec![
            Address::Pod {
                namespace: label("n"),
                service: label("s"),
                pod: label("p")
            };
            NAMES_MAX
        ];
        let instance = Instance([0xff; 16]);
        check_codec(&ToRelay::Register {
            names: names.clone(),
            instance,
        });
        let names = [names, vec![Address::Relay]].concat();
        assert!(ToRelay::Register { names, instance }.to_bytes().is_err());
    }

    /// Each row: a message and its bytes, as SPEC.md has them.
    #[test]
    fn the_bytes_are_as_written() {
        let instance = Instance([0xab; 16]);
        let id = format!("50{}", "ab".repeat(16));
        let name = "x.y.device.fairway.internal";
        let text = format!("78{:02x}{}", name.len(), hex(name.as_bytes()));
        let destination: Address = name.parse().unwrap();
        let open = |instance| ToRelay::Open {
            circuit: CircuitId(2),
            destination: destination.clone(),
            instance,
        };
        let names = vec![destination.clone()];
        let circuit = CircuitId(3);
        for (message, bytes) in [
            (
                ToRelay::Register { names, instance },
                format!("01820082 81{text}{id}"),
            ),
            (open(Some(instance)), format!("01820283 02{text}{id}")),
            (open(None), format!("01820282 02{text}")),
            (ToRelay::Move { circuit }, "018205 8103".to_owned()),
        ] {
            assert_eq!(hex(&message.to_bytes().unwrap()), bytes.replace(' ', ""));
        }
        let moved = ToEndpoint::Move { circuit };
        assert_eq!(hex(&moved.to_bytes().unwrap()), "0182088103");
        // Null is as good as missing.
        let null = unhex(&format!("01820283 02{text}f6").replace(' ', ""));
        assert_eq!(ToRelay::from_bytes(&null).unwrap(), open(None));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digits).collect()
    }

    #[test]
    fn each_side_opens_only_its_own_circuits() {
        let open = |id| ToRelay::Open {
            circuit: CircuitId(id),
            destination: Address::Authority,
            instance: None,
        };
        let incoming = |id| ToEndpoint::Incoming {
            circuit: CircuitId(id),
            destination: Address::Relay,
        };
        for (id, endpoints, relays) in [(0, false, false), (1, false, true), (2, true, false)] {
            assert_eq!(open(id).to_bytes().is_ok(), endpoints, "{id}");
            assert_eq!(incoming(id).to_bytes().is_ok(), relays, "{id}");
        }
    }

    #[test]
    fn the_link_itself_is_no_circuit_to_close_or_credit() {
        let circuit = CircuitId::LINK;
        let reason = longest_reason();
        assert!(
            ToRelay::Close {
                circuit,
                reason: reason.clone()
            }
            .to_bytes()
            .is_err()
        );
        assert!(
            ToRelay::Credit {
                circuit,
                max_bytes: 1
            }
            .to_bytes()
            .is_err()
        );
        assert!(ToEndpoint::Closed { circuit, reason }.to_bytes().is_err());
        assert!(ToEndpoint::Opened { circuit }.to_bytes().is_err());
    }
}
