//! The buffer that packets go out in.

/// Packets on their way out, one behind the other, each with `headroom` bytes
/// before it that the caller fills in (a link's frame header). One large write
/// of [`Batch::as_slice`] sends them all. Made once and used again and again:
/// it keeps its memory.
#[derive(Debug)]
pub struct Batch {
    buffer: Vec<u8>,
    /// Where each packet (with its headroom) ends.
    ends: Vec<usize>,
    headroom: usize,
    room: usize,
}

impl Batch {
    /// An empty batch with `headroom` bytes before each packet.
    pub fn new(headroom: usize) -> Self {
        Self {
            buffer: Vec::new(),
            ends: Vec::new(),
            headroom,
            room: usize::MAX,
        }
    }

    /// Limits the bytes of packets (without headroom) that may still be put
    /// in: what the link below has credit for. A packet that would not fit is
    /// not made. With less room than [`limits::MAX_PACKET`](crate::limits::MAX_PACKET)
    /// smaller packets are made; with none, none at all. Reset by [`Batch::clear`].
    pub fn set_room(&mut self, bytes: usize) {
        self.room = bytes;
    }

    /// Forgets the packets, keeps the memory; the room is unlimited again.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.ends.clear();
        self.room = usize::MAX;
    }

    /// Whether there is no packet in it.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Each packet together with the headroom before it.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = self.buffer.as_mut_slice();
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let (packet, tail) = core::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (tail, end);
            packet
        })
    }

    /// Everything, contiguous: headroom, packet, headroom, packet, ...
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer
    }
}
