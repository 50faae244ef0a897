//! Paths: the ways between the two ends that a channel may use, one at a time
//! (SPEC.md section 11).
//!
//! A path is whatever the owner sends packets through and gets them from: a
//! circuit of a relay, a direct connection. The channel knows only the number
//! that the owner gave it. `channel/paths.rs` moves traffic from one to
//! another; here is what it remembers.

use core::fmt;

use crate::{
    Time,
    crypto::{self, TAG_LEN},
    packet,
    record::HEADER_LEN,
};

/// Names one path of a channel. The owner chooses the numbers and uses none
/// twice for one channel; they never go over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

impl PathId {
    /// The path that a channel is made on: its handshake goes there.
    pub const FIRST: Self = Self(0);
}

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names a channel on the wire when it comes back on another path: derived by
/// both ends from their handshake, so that nobody has to send it before.
/// Whoever sees an ATTACH learns it; it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId([u8; Self::LEN]);

impl ConnectionId {
    /// Its length in bytes.
    pub const LEN: usize = 16;

    /// Of the channel with this handshake.
    pub(crate) fn derive(handshake_hash: &[u8; 32]) -> Self {
        Self(*crypto::hkdf(
            b"fairway/1 connection id",
            handshake_hash,
            &[],
        ))
    }

    /// As it is on the wire.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

/// The type byte and the connection id of an ATTACH; a record follows.
pub(crate) const ATTACH_PREFIX: usize = 1 + ConnectionId::LEN;

/// The channel that a packet wants to be attached to, if it is an ATTACH: for
/// routing, nothing in it has been verified yet. Hand the packet to that
/// channel's [`Channel::handle_input`](crate::Channel::handle_input) with the
/// path it came on; where there is no such channel, close the circuit.
pub fn peek_attach(packet: &[u8]) -> Option<ConnectionId> {
    let (prefix, record) = packet.split_first_chunk::<ATTACH_PREFIX>()?;
    let (&kind, id) = prefix.split_first()?;
    (kind == packet::ATTACH && record.len() >= HEADER_LEN + TAG_LEN)
        .then(|| id.try_into().ok().map(ConnectionId))
        .flatten()
}

/// Eight bytes that come back over the path that they went out on.
pub(crate) type Challenge = [u8; 8];

/// The paths of one channel.
#[derive(Debug)]
pub(crate) struct Paths {
    /// Carries everything. `None`: lost, the channel waits for another.
    pub(crate) active: Option<PathId>,
    /// Is being tried.
    pub(crate) candidate: Option<Box<Candidate>>,
    /// The peer's challenge that came on the active path and is to be answered there.
    pub(crate) answer: Option<Challenge>,
    /// `PathSilent` was said, and nothing has been acknowledged since.
    pub(crate) silent: bool,
    /// Since when the peer owes an acknowledgement and has given none: of what
    /// was sent, or would be if the path took it.
    pub(crate) unanswered: Option<Time>,
    /// The clock on that went off late: this process was held up, and gives the
    /// peer some time more, once.
    pub(crate) was_late: bool,
}

/// A path that is being tried. Its packets are repeated like those of a
/// handshake: loss recovery has no part in them.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) path: PathId,
    /// Ours, to be answered by the peer on this path.
    pub(crate) challenge: Challenge,
    /// The peer's, to be answered on this path.
    pub(crate) answer: Option<Challenge>,
    /// A packet is to be sent now.
    pub(crate) due: bool,
    pub(crate) resend_after: Time,
    pub(crate) sent_at: Time,
    /// How often it was sent: the answer to more than one is useless for
    /// measuring the round trip.
    pub(crate) sends: u32,
    pub(crate) gives_up_at: Time,
}

impl Paths {
    pub(crate) fn new() -> Self {
        Self {
            active: Some(PathId::FIRST),
            candidate: None,
            answer: None,
            silent: false,
            unanswered: None,
            was_late: false,
        }
    }

    /// The candidate, if this is its path.
    pub(crate) fn candidate_on(&mut self, path: PathId) -> Option<&mut Candidate> {
        self.candidate
            .as_deref_mut()
            .filter(|candidate| candidate.path == path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_attach_is_known_by_its_type_and_length() {
        let mut packet = vec![packet::ATTACH];
        packet.extend_from_slice(&[7; 16]);
        packet.extend_from_slice(&[0; HEADER_LEN + TAG_LEN]);
        let id = peek_attach(&packet).unwrap();
        assert_eq!(id.as_bytes(), &[7; 16]);
        assert_eq!(id.to_string(), "07".repeat(16));
        assert_eq!(peek_attach(&packet[..packet.len() - 1]), None);
        packet[0] = packet::RECORD;
        assert_eq!(peek_attach(&packet), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = peek_attach(&bytes);
        }
    }
}
