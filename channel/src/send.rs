//! The sending half of a stream.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::{Reason, flow::Credit, limits, ranges::RangeSet};

/// Bytes that were written and not yet acknowledged. Takes no memory while
/// there are none.
#[derive(Debug, Default)]
struct Buffer {
    /// Offset of the first byte in `chunks`.
    base: u64,
    /// Offset behind the last byte.
    end: u64,
    chunks: VecDeque<Bytes>,
    /// The newest bytes, being collected from small writes; behind `chunks`.
    tail: BytesMut,
    /// Where `sent_to` is in `chunks`, so that sending in order never searches.
    cursor: Cursor,
}

/// A place in `chunks`: which chunk (or the tail, one behind the last), and
/// the stream's offset of that chunk's start.
#[derive(Debug, Default, Clone, Copy)]
struct Cursor {
    chunk: usize,
    start: u64,
}

impl Buffer {
    fn len(&self) -> usize {
        (self.end - self.base) as usize
    }

    fn push(&mut self, data: Bytes) {
        self.end += data.len() as u64;
        let waiting = !self.chunks.is_empty() || !self.tail.is_empty();
        if waiting && data.len() <= limits::MAX_COALESCED_WRITE {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= limits::MAX_STREAM_DATA {
                self.freeze_tail();
            }
            return;
        }
        self.freeze_tail();
        self.chunks.push_back(data);
    }

    fn freeze_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = core::mem::take(&mut self.tail);
            self.chunks.push_back(tail.freeze());
        }
    }

    /// Moves the cursor to the chunk in which `offset` lies.
    fn seek(&mut self, offset: u64) {
        if offset < self.cursor.start {
            self.cursor = Cursor {
                chunk: 0,
                start: self.base,
            };
        }
        while let Some(bytes) = self.chunks.get(self.cursor.chunk)
            && offset - self.cursor.start >= bytes.len() as u64
        {
            self.cursor.chunk += 1;
            self.cursor.start += bytes.len() as u64;
        }
    }

    /// `length` bytes from `offset` without a copy, if they are in one chunk.
    fn slice(&mut self, offset: u64, length: usize) -> Option<Bytes> {
        self.seek(offset);
        let bytes = self.chunks.get(self.cursor.chunk)?;
        let skip = (offset - self.cursor.start) as usize;
        (bytes.len() - skip >= length).then(|| bytes.slice(skip..skip + length))
    }

    /// Copies `length` bytes from `offset`, all of which are in the buffer.
    fn copy_out(&mut self, offset: u64, length: usize, out: &mut Vec<u8>) {
        let (mut offset, mut left) = (offset, length);
        while left > 0 {
            self.seek(offset);
            let Cursor { chunk, start } = self.cursor;
            let bytes: &[u8] = match self.chunks.get(chunk) {
                Some(bytes) => bytes,
                None => &self.tail,
            };
            let skip = (offset - start) as usize;
            let take = left.min(bytes.len() - skip);
            out.extend_from_slice(&bytes[skip..skip + take]);
            offset += take as u64;
            left -= take;
        }
    }

    /// Forgets everything below `offset`.
    fn release(&mut self, offset: u64) {
        while self.base < offset {
            let left = offset - self.base;
            let Some(first) = self.chunks.front_mut() else {
                let _ = self.tail.split_to(left as usize);
                self.base = offset;
                break;
            };
            let length = first.len() as u64;
            if length > left {
                let _ = first.split_to(left as usize);
                self.base = offset;
                break;
            }
            self.chunks.pop_front();
            self.base += length;
            self.cursor.chunk = self.cursor.chunk.saturating_sub(1);
        }
        if self.cursor.start < self.base {
            self.cursor = Cursor {
                chunk: 0,
                start: self.base,
            };
        }
        if self.base == self.end {
            // Idle: give the memory back.
            *self = Self {
                base: self.base,
                end: self.end,
                cursor: self.cursor,
                ..Self::default()
            };
        }
    }
}

/// How far the half has come.
#[derive(Debug, Default)]
enum State {
    /// May be written.
    #[default]
    Open,
    /// The end is known: after all that was written.
    Finishing { fin_queued: bool, fin_acked: bool },
    /// Given up; RESET is on its way or has arrived.
    Reset { reason: Box<Reason>, acked: bool },
}

/// One piece to put into a STREAM frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: usize,
    pub(crate) fin: bool,
    /// Sent before.
    pub(crate) again: bool,
}

/// Why there is no piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPiece {
    /// Nothing to send.
    Nothing,
    /// The stream's own credit is used up.
    StreamCredit,
    /// The channel's credit is used up.
    ChannelCredit,
}

/// The sending half of a stream.
#[derive(Debug)]
pub(crate) struct SendHalf {
    buffer: Buffer,
    credit: Credit,
    /// Ranges above the buffer's base that have arrived.
    arrived: RangeSet,
    /// Ranges to be sent again.
    lost: RangeSet,
    state: State,
    /// `write` took less than all, and `Writable` has not come since.
    wants_room: bool,
}

impl SendHalf {
    /// Gives back what empty buffers hold.
    pub(crate) fn release_memory(&mut self) {
        self.buffer.chunks.shrink_to_fit();
        if self.buffer.tail.is_empty() {
            self.buffer.tail = BytesMut::new();
        }
    }

    pub(crate) fn new(credit: u64) -> Self {
        Self {
            buffer: Buffer::default(),
            credit: Credit::new(credit),
            arrived: RangeSet::default(),
            lost: RangeSet::default(),
            state: State::Open,
            wants_room: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Nothing is left to do: all has arrived, or the RESET has.
    pub(crate) fn is_over(&self) -> bool {
        match self.state {
            State::Open => false,
            State::Finishing { fin_acked, .. } => fin_acked && self.buffer.len() == 0,
            State::Reset { acked, .. } => acked,
        }
    }

    /// How much this half may buffer: `least`, or what the peer would take at
    /// once, up to `most`.
    pub(crate) fn limit(&self, least: usize, most: usize) -> usize {
        let window = self.credit.max() - self.buffer.base.min(self.credit.max());
        (window.min(most as u64) as usize).max(least)
    }

    /// Bytes that were sent and not yet acknowledged, or are to be sent again.
    pub(crate) fn is_bulk(&self) -> bool {
        self.credit.used().saturating_sub(self.buffer.base) >= limits::MAX_STREAM_DATA as u64
    }

    /// Takes what fits into `limit` bytes of unacknowledged data.
    pub(crate) fn write(&mut self, data: &mut Bytes, limit: usize) -> usize {
        let room = limit.saturating_sub(self.buffer.len());
        let taken = room.min(data.len());
        if taken > 0 {
            self.buffer.push(data.split_to(taken));
        }
        self.wants_room = !data.is_empty();
        taken
    }

    /// Whether to say `Writable`: once when a quarter of the buffer is free
    /// again, so that writers wake up for a worthwhile amount.
    pub(crate) fn take_writable(&mut self, limit: usize) -> bool {
        let ready = self.wants_room && self.is_open() && self.buffer.len() <= limit / 4 * 3;
        self.wants_room &= !ready;
        ready
    }

    /// No more will be written.
    pub(crate) fn finish(&mut self) {
        if self.is_open() {
            self.state = State::Finishing {
                fin_queued: true,
                fin_acked: false,
            };
        }
    }

    /// Gives the half up. `false` if there is nothing to give up: it is over
    /// or reset already.
    pub(crate) fn reset(&mut self, reason: &Reason) -> bool {
        if self.is_over() || matches!(self.state, State::Reset { .. }) {
            return false;
        }
        self.state = State::Reset {
            reason: Box::new(reason.clone()),
            acked: false,
        };
        self.buffer = Buffer::default();
        self.arrived.clear();
        self.lost.clear();
        true
    }

    /// The final size and the reason for the RESET frame.
    pub(crate) fn reset_frame(&self) -> Option<(u64, &Reason)> {
        match &self.state {
            State::Reset { reason, .. } => Some((self.credit.used(), reason)),
            State::Open | State::Finishing { .. } => None,
        }
    }

    pub(crate) fn on_reset_arrived(&mut self) {
        if let State::Reset { acked, .. } = &mut self.state {
            *acked = true;
        }
    }

    /// More credit; whether that is news and there is data that waits for it.
    pub(crate) fn raise_credit(&mut self, max: u64) -> bool {
        self.credit.raise(max) && self.buffer.end > self.credit.used()
    }

    /// What to send next, with at most `max` bytes, of which new ones cost
    /// the channel's `channel` credit. The last `reserve` of that is not for
    /// bulk: one that sends little need not wait until credit comes back.
    pub(crate) fn next_piece(
        &mut self,
        max: usize,
        channel: &mut Credit,
        reserve: u64,
    ) -> Result<Piece, NoPiece> {
        if let State::Reset { .. } = self.state {
            return Err(NoPiece::Nothing);
        }
        if let Some(range) = self.lost.pop_first(max as u64) {
            return Ok(self.piece(range.start, (range.end - range.start) as usize, true));
        }
        let unsent = self.buffer.end - self.credit.used();
        let reserve = if self.is_bulk() { reserve } else { 0 };
        let of_channel = channel.available().saturating_sub(reserve);
        let credit = self.credit.available().min(of_channel);
        let length = unsent.min(credit).min(max as u64);
        if length == 0 && unsent > 0 && max > 0 {
            return Err(match self.credit.available() {
                0 => NoPiece::StreamCredit,
                _ => NoPiece::ChannelCredit,
            });
        }
        let fin_queued = matches!(
            self.state,
            State::Finishing {
                fin_queued: true,
                ..
            }
        );
        if length == 0 && !fin_queued {
            return Err(NoPiece::Nothing);
        }
        let offset = self.credit.used();
        self.credit.spend(length);
        channel.spend(length);
        Ok(self.piece(offset, length as usize, false))
    }

    /// The piece's bytes without a copy, if they lie together.
    pub(crate) fn slice(&mut self, piece: Piece) -> Option<Bytes> {
        self.buffer.slice(piece.offset, piece.length)
    }

    /// Appends the piece's bytes.
    pub(crate) fn copy_out(&mut self, piece: Piece, out: &mut Vec<u8>) {
        self.buffer.copy_out(piece.offset, piece.length, out);
    }

    fn piece(&mut self, offset: u64, length: usize, again: bool) -> Piece {
        let at_end = offset + length as u64 == self.buffer.end;
        let fin = match &mut self.state {
            State::Finishing { fin_queued, .. } if at_end => {
                *fin_queued = false;
                true
            }
            _ => false,
        };
        Piece {
            offset,
            length,
            fin,
            again,
        }
    }

    /// A piece has arrived. Whether with it everything has.
    pub(crate) fn on_arrived(&mut self, offset: u64, length: u64, fin: bool) -> bool {
        let was_over = self.is_over();
        if let State::Finishing { fin_acked, .. } = &mut self.state {
            *fin_acked |= fin;
        }
        if !matches!(self.state, State::Reset { .. }) {
            let range = offset.max(self.buffer.base)..offset + length;
            // A copy that was thought lost need not go out again.
            self.lost.remove(range.clone());
            self.arrived.insert(range);
            if let Some(first) = self.arrived.first()
                && first.start <= self.buffer.base
            {
                self.buffer.release(first.end);
                self.arrived.drop_first();
            }
        }
        !was_over && self.is_over() && !matches!(self.state, State::Reset { .. })
    }

    /// A piece was lost; whether there is something to send again.
    pub(crate) fn on_lost(&mut self, offset: u64, length: u64, fin: bool) -> bool {
        let fin_lost = match &mut self.state {
            State::Reset { .. } => return false,
            State::Finishing {
                fin_queued,
                fin_acked: false,
            } if fin => {
                *fin_queued = true;
                true
            }
            State::Open | State::Finishing { .. } => false,
        };
        let range = offset.max(self.buffer.base)..offset + length;
        if range.start < range.end {
            self.lost.insert(range);
            for arrived in self.arrived.iter() {
                self.lost.remove(arrived.clone());
            }
        }
        fin_lost || !self.lost.is_empty()
    }

    /// Bytes held for this half.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn half() -> (SendHalf, Credit) {
        (SendHalf::new(1 << 20), Credit::new(1 << 20))
    }

    fn bytes_of(half: &mut SendHalf, piece: Piece) -> Vec<u8> {
        let mut out = Vec::new();
        half.copy_out(piece, &mut out);
        out
    }

    #[test]
    fn writes_are_bounded_and_room_is_told_once() {
        let (mut half, mut channel) = half();
        let mut data = Bytes::from(vec![1; 150]);
        assert_eq!(half.write(&mut data, 100), 100);
        assert_eq!(data.len(), 50);
        assert!(!half.take_writable(100));
        let piece = half.next_piece(60, &mut channel, 0).unwrap();
        half.on_arrived(piece.offset, piece.length as u64, false);
        assert!(half.take_writable(100));
        assert!(!half.take_writable(100));
    }

    #[test]
    fn both_levels_of_credit_hold_it_back() {
        let (mut half, mut channel) = (SendHalf::new(10), Credit::new(5));
        half.write(&mut Bytes::from_static(&[0; 20]), 100);
        assert_eq!(half.next_piece(100, &mut channel, 0).unwrap().length, 5);
        assert_eq!(
            half.next_piece(100, &mut channel, 0),
            Err(NoPiece::ChannelCredit)
        );
        channel.raise(100);
        assert_eq!(half.next_piece(100, &mut channel, 0).unwrap().length, 5);
        assert_eq!(
            half.next_piece(100, &mut channel, 0),
            Err(NoPiece::StreamCredit)
        );
        assert!(half.raise_credit(12));
        assert!(!half.raise_credit(11));
    }

    #[test]
    fn the_end_alone_is_a_piece_too_and_goes_again_when_lost() {
        let (mut half, mut channel) = half();
        half.finish();
        let end = Piece {
            offset: 0,
            length: 0,
            fin: true,
            again: false,
        };
        assert_eq!(half.next_piece(100, &mut channel, 0), Ok(end));
        assert_eq!(half.next_piece(100, &mut channel, 0), Err(NoPiece::Nothing));
        assert!(half.on_lost(0, 0, true));
        assert_eq!(half.next_piece(100, &mut channel, 0), Ok(end));
        assert!(half.on_arrived(0, 0, true));
        assert!(half.is_over());
    }

    #[test]
    fn a_reset_says_how_much_was_sent_and_forgets_the_rest() {
        let (mut half, mut channel) = half();
        half.write(&mut Bytes::from_static(&[0; 20]), 100);
        half.next_piece(7, &mut channel, 0).unwrap();
        let reason = Reason::new(crate::Code(0x100), "why");
        assert!(half.reset(&reason));
        assert!(!half.reset(&reason));
        assert_eq!(half.reset_frame(), Some((7, &reason)));
        assert_eq!(half.buffered(), 0);
        assert!(!half.on_lost(0, 7, false));
        half.on_reset_arrived();
        assert!(half.is_over());
    }

    proptest! {
        /// Whatever is written in whatever sizes, lost and acknowledged in
        /// whatever order: every byte goes out as it was written, and at the
        /// end the half is over and holds nothing.
        #[test]
        fn every_byte_goes_out_until_it_has_arrived(
            writes in vec(1usize..5000, 1..20),
            choices in vec((any::<u8>(), 1usize..4000), 1..400),
        ) {
            let (mut half, mut channel) = half();
            let total: usize = writes.iter().sum();
            let text: Vec<u8> = (0..total).map(|at| (at * 7 + at / 251) as u8).collect();
            let (mut writes, mut written) = (writes.into_iter(), 0);
            let (mut flying, mut arrived) = (Vec::new(), vec![false; total]);
            for (choice, max) in choices {
                match choice % 4 {
                    0 => if let Some(length) = writes.next() {
                        half.write(&mut Bytes::copy_from_slice(&text[written..written + length]), usize::MAX);
                        written += length;
                    },
                    1 => if let Ok(piece) = half.next_piece(max, &mut channel, 0) {
                        let at = piece.offset as usize;
                        prop_assert_eq!(&bytes_of(&mut half, piece)[..], &text[at..at + piece.length]);
                        flying.push(piece);
                    },
                    2 if !flying.is_empty() => {
                        let piece: Piece = flying.remove(max % flying.len());
                        half.on_lost(piece.offset, piece.length as u64, piece.fin);
                    }
                    3 if !flying.is_empty() => {
                        let piece: Piece = flying.remove(max % flying.len());
                        half.on_arrived(piece.offset, piece.length as u64, piece.fin);
                        arrived[piece.offset as usize..][..piece.length].fill(true);
                    }
                    _ => {}
                }
            }
            for length in writes {
                half.write(&mut Bytes::copy_from_slice(&text[written..written + length]), usize::MAX);
                written += length;
            }
            half.finish();
            for piece in flying {
                half.on_lost(piece.offset, piece.length as u64, piece.fin);
            }
            while let Ok(piece) = half.next_piece(1000, &mut channel, 0) {
                let at = piece.offset as usize;
                prop_assert_eq!(&bytes_of(&mut half, piece)[..], &text[at..at + piece.length]);
                arrived[at..at + piece.length].fill(true);
                half.on_arrived(piece.offset, piece.length as u64, piece.fin);
            }
            prop_assert!(half.is_over());
            prop_assert_eq!(half.buffered(), 0);
            prop_assert!(arrived.into_iter().all(|byte| byte));
        }
    }
}
