//! The buffer that packets go out in.

use crate::{PathId, limits};

/// Packets on their way out, one behind the other, each with `headroom` bytes
/// before it that the caller fills in (a link's frame header). One large write
/// of [`Batch::as_slice`] sends them all. Made once and used again and again:
/// it keeps its memory.
#[derive(Debug)]
pub struct Batch {
    /// All of it is initialised, so that nothing is cleared twice; what counts
    /// are the first `length` bytes.
    buffer: Vec<u8>,
    length: usize,
    /// Where each packet (with its headroom) ends.
    ends: Vec<usize>,
    /// Which packets hold nothing but datagrams: bit `n` for packet `n`.
    datagrams: u64,
    /// The frames of the record that is being made.
    frames: Vec<u8>,
    headroom: usize,
    room: usize,
    only: Option<PathId>,
}

impl Batch {
    /// An empty batch with `headroom` bytes before each packet.
    pub fn new(headroom: usize) -> Self {
        Self {
            buffer: Vec::new(),
            length: 0,
            ends: Vec::new(),
            datagrams: 0,
            frames: Vec::new(),
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
        self.length = 0;
        self.ends.clear();
        self.datagrams = 0;
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
        let mut rest = &mut self.buffer[..self.length];
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let (packet, tail) = core::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (tail, end);
            packet
        })
    }

    /// The same, and whether the packet holds nothing but datagrams: it is never
    /// sent again, so a link may lose it, and may have it overtake others.
    pub fn marked_packets_mut(&mut self) -> impl Iterator<Item = (bool, &mut [u8])> {
        let datagrams = self.datagrams;
        let packets = self.packets_mut().enumerate();
        packets.map(move |(n, packet)| (datagrams & 1 << n != 0, packet))
    }

    /// Whether another packet of any size may be put in.
    pub(crate) fn has_room(&self) -> bool {
        self.ends.len() < limits::MAX_BATCH && self.room >= limits::MAX_PACKET
    }

    /// Adds a packet of `length` bytes, all of which the caller writes.
    pub(crate) fn add(&mut self, length: usize) -> &mut [u8] {
        let start = self.length + self.headroom;
        let end = start + length;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer[self.length..start].fill(0);
        self.length = end;
        self.ends.push(end);
        self.room = self.room.saturating_sub(length);
        &mut self.buffer[start..end]
    }

    /// The packet that was added last holds nothing but datagrams.
    pub(crate) fn mark_datagram(&mut self) {
        const { assert!(limits::MAX_BATCH <= u64::BITS as usize) };
        if let Some(last) = self.ends.len().checked_sub(1) {
            self.datagrams |= 1 << last;
        }
    }

    /// Takes back the packet that was added last.
    pub(crate) fn remove_last(&mut self) {
        self.ends.pop();
        self.length = self.ends.last().copied().unwrap_or(0);
    }

    /// Lends an empty buffer for the frames of a record.
    pub(crate) fn lend_frames(&mut self) -> Vec<u8> {
        let mut frames = core::mem::take(&mut self.frames);
        frames.clear();
        frames
    }

    /// Takes the buffer back, for its memory.
    pub(crate) fn return_frames(&mut self, frames: Vec<u8>) {
        self.frames = frames;
    }

    /// Everything, contiguous: headroom, packet, headroom, packet, ...
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_lie_one_behind_the_other_with_their_headroom() {
        let mut batch = Batch::new(2);
        for text in [&b"first"[..], b"second"] {
            batch.add(text.len()).copy_from_slice(text);
        }
        batch.add(7);
        batch.remove_last();
        for packet in batch.packets_mut() {
            packet[..2].copy_from_slice(b"##");
        }
        assert_eq!(batch.as_slice(), b"##first##second");
        assert_eq!(batch.len(), 2);
        batch.clear();
        assert!(batch.is_empty() && batch.as_slice().is_empty());
    }

    #[test]
    fn which_packets_are_datagrams_is_known_until_they_are_forgotten() {
        let mut batch = Batch::new(0);
        for n in 0..limits::MAX_BATCH {
            batch.add(1);
            if n % 3 == 0 {
                batch.mark_datagram();
            }
        }
        for (n, (is_datagram, _)) in batch.marked_packets_mut().enumerate() {
            assert_eq!(is_datagram, n % 3 == 0);
        }
        batch.clear();
        batch.add(1);
        let marked: Vec<_> = batch.marked_packets_mut().map(|(is, _)| is).collect();
        assert_eq!(marked, [false]);
    }

    #[test]
    fn room_is_counted_down() {
        let mut batch = Batch::new(8);
        assert!(batch.has_room());
        batch.set_room(limits::MAX_PACKET + 3);
        assert!(batch.has_room());
        batch.add(4);
        assert!(!batch.has_room());
    }
}
