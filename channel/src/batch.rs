//! The buffer that packets go out in.

use crate::{PathId, limits};

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
    only: Option<PathId>,
}

impl Batch {
    /// An empty batch with `headroom` bytes before each packet.
    pub fn new(headroom: usize) -> Self {
        Self {
            buffer: Vec::new(),
            ends: Vec::new(),
            headroom,
            room: usize::MAX,
            only: None,
        }
    }

    /// Limits the bytes of packets (without headroom) that may still be put
    /// in: what the link below has credit for. A packet is only made while
    /// there is room for one of [`limits::MAX_PACKET`]; with less,
    /// [`Channel::poll_output`](crate::Channel::poll_output) gives events and
    /// timeouts only. Reset by [`Batch::clear`].
    pub fn set_room(&mut self, bytes: usize) {
        self.room = bytes;
    }

    /// Takes only packets for this path from now on, until [`Batch::clear`]:
    /// for an owner whose paths are served by different tasks. Packets for the
    /// others wait, and
    /// [`Channel::pending_path`](crate::Channel::pending_path) says for which.
    pub fn set_path(&mut self, path: PathId) {
        self.only = Some(path);
    }

    /// Whether packets of this path may be put in.
    pub(crate) fn takes(&self, path: PathId) -> bool {
        self.only.is_none_or(|only| only == path)
    }

    /// Forgets the packets, keeps the memory; the room is unlimited again, and
    /// every path is taken.
    pub fn clear(&mut self) {
        self.only = None;
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

    /// Whether another packet of any size may be put in.
    pub(crate) fn has_room(&self) -> bool {
        self.ends.len() < limits::MAX_BATCH && self.room >= limits::MAX_PACKET
    }

    /// Starts a packet; what is appended to [`Batch::buffer`] from the offset
    /// that this gives is the packet.
    pub(crate) fn begin(&mut self) -> usize {
        self.buffer.resize(self.buffer.len() + self.headroom, 0);
        self.buffer.len()
    }

    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The packet that began at `start` is complete.
    pub(crate) fn end(&mut self, start: usize) {
        self.room = self.room.saturating_sub(self.buffer.len() - start);
        self.ends.push(self.buffer.len());
    }

    /// There is no packet after all.
    pub(crate) fn abort(&mut self, start: usize) {
        self.buffer.truncate(start - self.headroom);
    }

    /// Everything, contiguous: headroom, packet, headroom, packet, ...
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_lie_one_behind_the_other_with_their_headroom() {
        let mut batch = Batch::new(2);
        for text in [&b"first"[..], b"second"] {
            let start = batch.begin();
            batch.buffer().extend_from_slice(text);
            batch.end(start);
        }
        let start = batch.begin();
        batch.abort(start);
        for packet in batch.packets_mut() {
            packet[..2].copy_from_slice(b"##");
        }
        assert_eq!(batch.as_slice(), b"##first##second");
        assert_eq!(batch.len(), 2);
        batch.clear();
        assert!(batch.is_empty() && batch.as_slice().is_empty());
    }

    #[test]
    fn room_is_counted_down() {
        let mut batch = Batch::new(8);
        assert!(batch.has_room());
        batch.set_room(limits::MAX_PACKET + 3);
        assert!(batch.has_room());
        let start = batch.begin();
        batch.buffer().extend_from_slice(&[0; 4]);
        batch.end(start);
        assert!(!batch.has_room());
    }
}
