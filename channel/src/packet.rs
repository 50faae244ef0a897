//! Packets: what one of them is, and the clear header of the first.

use crate::{PacketError, limits};

/// Handshake message 1, with its clear header.
pub(crate) const FIRST: u8 = 1;
/// Handshake message 2.
pub(crate) const SECOND: u8 = 2;
/// Handshake message 3.
pub(crate) const THIRD: u8 = 3;
/// A record of an even epoch.
pub(crate) const RECORD: u8 = 4;
/// A record on a new path, after the channel's connection id.
pub(crate) const ATTACH: u8 = 5;
/// A record of an odd epoch.
pub(crate) const RECORD_ODD: u8 = 6;

/// The protocol version that this crate speaks.
pub(crate) const VERSION: u8 = 1;
/// X25519, ML-KEM-768, AES-256-GCM, SHA-256.
pub(crate) const SUITE: u8 = 1;

/// The clear header of packet 1, which is also the Noise prologue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FirstHeader<'a> {
    pub(crate) purpose: u8,
    pub(crate) dialled: &'a str,
}

impl<'a> FirstHeader<'a> {
    /// `dialled` has 1 to 255 bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert!((1..=limits::MAX_DIALLED).contains(&self.dialled.len()));
        let mut out = vec![
            FIRST,
            VERSION,
            SUITE,
            self.purpose,
            self.dialled.len() as u8,
        ];
        out.extend_from_slice(self.dialled.as_bytes());
        out
    }

    /// The header and its length.
    pub(crate) fn decode(packet: &'a [u8]) -> Result<(Self, usize), PacketError> {
        let &kind = packet.first().ok_or(PacketError::Truncated)?;
        if kind != FIRST {
            return Err(PacketError::NotHandshake(kind));
        }
        // The version comes before anything that another version may change.
        let &version = packet.get(1).ok_or(PacketError::Truncated)?;
        if version != VERSION {
            return Err(PacketError::Version(version));
        }
        let &suite = packet.get(2).ok_or(PacketError::Truncated)?;
        if suite != SUITE {
            return Err(PacketError::Suite(suite));
        }
        let &[purpose, length] = packet.get(3..5).ok_or(PacketError::Truncated)? else {
            return Err(PacketError::Truncated);
        };
        let end = 5 + usize::from(length);
        let name = packet.get(5..end).ok_or(PacketError::Truncated)?;
        let dialled = core::str::from_utf8(name).map_err(|_| PacketError::Dialled)?;
        if dialled.is_empty() {
            return Err(PacketError::Dialled);
        }
        Ok((Self { purpose, dialled }, end))
    }
}

/// The name that a first handshake packet wants to reach, for routing: nothing
/// in it has been verified yet.
pub fn peek_dialled(packet: &[u8]) -> Result<&str, PacketError> {
    FirstHeader::decode(packet).map(|(header, _)| header.dialled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip_and_every_truncation(purpose: u8, dialled in "[a-z.é-]{1,100}") {
            let header = FirstHeader { purpose, dialled: &dialled };
            let bytes = header.encode();
            prop_assert_eq!(FirstHeader::decode(&bytes), Ok((header, bytes.len())));
            for cut in 0..bytes.len() {
                prop_assert_eq!(peek_dialled(&bytes[..cut]), Err(PacketError::Truncated));
            }
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = peek_dialled(&bytes);
        }
    }

    #[test]
    fn what_it_does_not_know_it_names() {
        let good = FirstHeader {
            purpose: 0,
            dialled: "a",
        }
        .encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            peek_dialled(&bytes).map(str::to_owned)
        };
        assert_eq!(with(0, 4), Err(PacketError::NotHandshake(4)));
        assert_eq!(with(1, 2), Err(PacketError::Version(2)));
        assert_eq!(with(2, 9), Err(PacketError::Suite(9)));
        assert_eq!(with(4, 0), Err(PacketError::Dialled));
        assert_eq!(with(5, 0xff), Err(PacketError::Dialled));
    }
}
