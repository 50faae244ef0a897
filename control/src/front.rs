//! What the endpoint in front of the authority says about a stream before it
//! passes the stream's bytes on.
//!
//! The authority's process parses nothing from the network: an ordinary
//! endpoint terminates the channels, opens one connection on a Unix socket for
//! each Control stream, writes one [`Preamble`] (framed like every message),
//! and from then on only copies. The socket is the border of trust: what is
//! said here was proven by the channel.

use fairway_identity::{Serial, SpiffeId, Uid, UnixSeconds};
use minicbor::{Decode, Encode};

use crate::limits::PREAMBLE_MAX;
use crate::wire::{Message, Violation};

/// The first message on each connection of the Unix socket.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Preamble {
    /// A Control stream of a session.
    #[n(0)]
    Stream(#[n(0)] Stream),
    /// The front itself: it may ask for its own credential and watch.
    #[n(1)]
    Local,
}

/// What the channel proved about a stream's other end.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Stream {
    /// The session's handshake hash, which proofs of possession sign.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub handshake_hash: [u8; 32],
    /// The peer's static key, proven by the handshake.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub proven_key: [u8; 32],
    /// Who the peer is; `None` for one without a credential.
    #[n(2)]
    pub peer: Option<Peer>,
}

/// A peer whose credential was verified.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Peer {
    /// Its identity.
    #[cbor(n(0), with = "crate::wire::text")]
    pub id: SpiffeId,
    /// The Kubernetes UID of its DeviceIdentity or pod.
    #[cbor(n(1), with = "crate::wire::uid")]
    pub uid: Uid,
    /// The credential's serial.
    #[cbor(n(2), with = "crate::wire::serial")]
    pub serial: Serial,
    /// When it was issued.
    #[cbor(n(3), with = "crate::wire::time")]
    pub issued_at: UnixSeconds,
    /// When it ends.
    #[cbor(n(4), with = "crate::wire::time")]
    pub expires: UnixSeconds,
}

impl Message for Preamble {
    const MAX: usize = PREAMBLE_MAX;

    fn check(&self) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::*;

    fn peer() -> impl Strategy<Value = Peer> {
        (spiffe_id(), uid(), serial(), time(), time()).prop_map(
            |(id, uid, serial, issued_at, expires)| Peer {
                id,
                uid,
                serial,
                issued_at,
                expires,
            },
        )
    }

    fn preamble() -> impl Strategy<Value = Preamble> {
        let stream = (
            any::<[u8; 32]>(),
            any::<[u8; 32]>(),
            proptest::option::of(peer()),
        );
        prop_oneof![
            Just(Preamble::Local),
            stream.prop_map(|(handshake_hash, proven_key, peer)| {
                Preamble::Stream(Stream {
                    handshake_hash,
                    proven_key,
                    peer,
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn preambles(message in preamble()) {
            check_codec(&message);
        }

        #[test]
        fn garbage_is_refused(bytes in garbage()) {
            check_garbage::<Preamble>(&bytes);
        }
    }

    #[test]
    fn oversize_is_refused() {
        check_oversize::<Preamble>();
    }
}
