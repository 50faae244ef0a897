//! The number of a stream.

use core::fmt;

use crate::varint;

/// Names one stream within its channel. Streams opened by the initiator are
/// even, those of the responder odd; a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// The `index`th stream opened by the initiator (or the responder).
    pub(crate) const fn new(by_initiator: bool, index: u64) -> Self {
        Self(index << 1 | !by_initiator as u64)
    }

    /// From the number on the wire.
    pub(crate) const fn from_wire(value: u64) -> Self {
        Self(value)
    }

    /// The number as it is on the wire, for logs and maps.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// How many bytes [`put`](Self::put) appends, at most 8.
    pub const fn size(self) -> usize {
        varint::size(self.0)
    }

    /// Appends it as it is in frames, for layers above that name streams.
    pub fn put(self, out: &mut Vec<u8>) {
        varint::put(out, self.0);
    }

    /// Takes one off the front, as [`put`](Self::put) writes it; `None` when it
    /// is cut short or not in its shortest form.
    pub fn take(rest: &mut &[u8]) -> Option<Self> {
        varint::take(rest).map(Self::from_wire)
    }

    /// Whether the initiator of the channel opened this stream.
    pub const fn by_initiator(self) -> bool {
        self.0 & 1 == 0
    }

    /// How many streams its opener had opened before this one.
    pub(crate) const fn index(self) -> u64 {
        self.0 >> 1
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
