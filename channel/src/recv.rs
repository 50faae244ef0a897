//! The receiving half of a stream: puts pieces in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, Bytes, BytesMut};

use crate::{
    Reason,
    flow::{Allowance, Overrun, Pace, SharedAllowance},
    limits,
};

/// When collected small pieces are handed out as one chunk.
const TAIL_MAX: usize = 64 * 1024;

/// What is wrong with a frame for this half. Always the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// More than the credit of the stream or the channel.
    Overrun,
    /// Data beyond the end, or a second, different end.
    FinalSize,
    /// The same offset with other bytes.
    Differs,
}

impl From<Overrun> for Fault {
    fn from(_: Overrun) -> Self {
        Self::Overrun
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Taken.
    Yes,
    /// There is no place for another piece out of order: as if it were lost.
    NoRoom,
}

/// Things that are counted over all streams of a channel.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The channel's own allowance.
    pub(crate) allowance: SharedAllowance,
    /// What windows of streams may still grow by, all together.
    pub(crate) growth: u64,
    /// Pieces held out of order.
    pub(crate) pieces: usize,
}

impl Shared {
    pub(crate) fn new(allowance: SharedAllowance, growth: u64) -> Self {
        Self {
            allowance,
            growth,
            pieces: 0,
        }
    }

    fn consume(&mut self, bytes: u64) {
        self.allowance.consume(bytes);
    }
}

/// How far the half has come.
#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    /// This side wants no more; what still comes is counted and dropped.
    Stopped(Box<Reason>),
    /// The peer gave it up.
    Reset(Box<Reason>),
    /// The reader has seen the end.
    Finished,
}

/// What a read gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Chunk(Bytes),
    Empty,
    Finished,
    Reset(Reason),
    Stopped,
}

/// The receiving half of a stream. Takes no buffer memory while nothing waits.
#[derive(Debug)]
pub(crate) struct RecvHalf {
    allowance: Allowance,
    /// Whether it is time to tell the peer a new limit.
    raise: bool,
    /// The reader has taken everything below.
    read_to: u64,
    /// Everything below is in order: read, or in `ready` and `tail`.
    next: u64,
    /// The highest offset seen.
    highest: u64,
    ready: VecDeque<Bytes>,
    /// Small pieces, copied together; behind `ready`.
    tail: BytesMut,
    /// What came ahead of a gap, by offset; they do not overlap.
    pieces: BTreeMap<u64, Bytes>,
    final_size: Option<u64>,
    state: State,
    /// The reader waits: tell it when something comes.
    armed: bool,
}

impl RecvHalf {
    /// Gives back what empty buffers hold.
    pub(crate) fn release_memory(&mut self) {
        self.ready.shrink_to_fit();
        if self.tail.is_empty() {
            self.tail = BytesMut::new();
        }
    }

    /// With a window of so much, that may grow to `most`.
    pub(crate) fn new(window: u64, most: u64) -> Self {
        Self {
            allowance: Allowance::new(window, most),
            raise: false,
            read_to: 0,
            next: 0,
            highest: 0,
            ready: VecDeque::new(),
            tail: BytesMut::new(),
            pieces: BTreeMap::new(),
            final_size: None,
            state: State::Open,
            armed: true,
        }
    }

    /// Nothing more will come or be read.
    pub(crate) fn is_over(&self) -> bool {
        match self.state {
            State::Open => false,
            State::Stopped(_) => self.final_size.is_some(),
            State::Reset(_) | State::Finished => true,
        }
    }

    /// A STREAM frame.
    pub(crate) fn on_data(
        &mut self,
        offset: u64,
        fin: bool,
        data: Bytes,
        shared: &mut Shared,
    ) -> Result<Taken, Fault> {
        let end = offset + data.len() as u64;
        self.account(end, fin, shared)?;
        match self.state {
            State::Open => {}
            State::Stopped(_) => {
                self.discard(shared);
                return Ok(Taken::Yes);
            }
            State::Reset(_) | State::Finished => return Ok(Taken::Yes),
        }
        if offset == self.next && self.pieces.is_empty() {
            self.push(data);
            return Ok(Taken::Yes);
        }
        self.sort_in(offset, data, shared)
    }

    /// A RESET frame; whether the reader is to be told.
    pub(crate) fn on_reset(
        &mut self,
        final_size: u64,
        reason: Reason,
        shared: &mut Shared,
    ) -> Result<bool, Fault> {
        if final_size < self.highest {
            return Err(Fault::FinalSize);
        }
        let ended = self.final_size.is_some();
        self.account(final_size, true, shared)?;
        match self.state {
            // All is here, its end too: the reader may have it.
            State::Open if ended && self.next == final_size => return Ok(false),
            State::Open => {}
            State::Stopped(_) => {
                self.discard(shared);
                return Ok(false);
            }
            State::Reset(_) | State::Finished => return Ok(false),
        }
        self.state = State::Reset(Box::new(reason));
        self.discard(shared);
        Ok(true)
    }

    /// The reader wants no more. Whether the peer should be told: not when
    /// everything has come already.
    pub(crate) fn stop(&mut self, reason: &Reason, shared: &mut Shared) -> bool {
        if !matches!(self.state, State::Open) {
            return false;
        }
        self.state = State::Stopped(Box::new(reason.clone()));
        self.discard(shared);
        self.final_size.is_none()
    }

    /// The reason for the STOP frame, as long as one makes sense.
    pub(crate) fn stop_frame(&self) -> Option<&Reason> {
        match &self.state {
            State::Stopped(reason) if self.final_size.is_none() => Some(reason),
            State::Open | State::Stopped(_) | State::Reset(_) | State::Finished => None,
        }
    }

    /// The next chunk in order.
    pub(crate) fn read(&mut self, shared: &mut Shared) -> Read {
        match &self.state {
            State::Open => {}
            State::Stopped(_) => return Read::Stopped,
            State::Reset(reason) => return Read::Reset((**reason).clone()),
            State::Finished => return Read::Finished,
        }
        let chunk = match self.ready.pop_front() {
            Some(chunk) => chunk,
            None => core::mem::take(&mut self.tail).freeze(),
        };
        if chunk.is_empty() {
            if self.final_size == Some(self.read_to) {
                self.state = State::Finished;
                return Read::Finished;
            }
            self.armed = true;
            return Read::Empty;
        }
        if self.ready.is_empty() {
            // An idle stream keeps no memory.
            self.ready = VecDeque::new();
        }
        let length = chunk.len() as u64;
        self.read_to += length;
        self.raise |= self.allowance.consume(length);
        shared.consume(length);
        Read::Chunk(chunk)
    }

    /// How many bytes are there to be read.
    pub(crate) fn readable(&self) -> u64 {
        match &self.state {
            State::Open => self.next - self.read_to,
            State::Stopped(_) | State::Reset(_) | State::Finished => 0,
        }
    }

    /// Whether the reader may still get something, if only the end.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Like a read that takes nothing: `Finished` once all was read and the end
    /// has come, `Empty` while that is not so. As after a read that came back
    /// empty, the reader is told when something comes.
    pub(crate) fn peek_end(&mut self) -> Read {
        match &self.state {
            State::Open if self.final_size == Some(self.read_to) => Read::Finished,
            State::Open => {
                // Of what is there already the reader was told.
                self.armed |= self.next == self.read_to;
                Read::Empty
            }
            State::Stopped(_) => Read::Stopped,
            State::Reset(reason) => Read::Reset((**reason).clone()),
            State::Finished => Read::Finished,
        }
    }

    /// Whether to say `Readable`: once, after the reader came back empty.
    pub(crate) fn take_readable(&mut self) -> bool {
        let something = self.next > self.read_to || self.final_size == Some(self.next);
        let tell = self.armed && something && matches!(self.state, State::Open);
        self.armed &= !tell;
        tell
    }

    /// The new limit to tell, if it is time to.
    pub(crate) fn wants_raise(&self) -> bool {
        self.raise && self.final_size.is_none() && matches!(self.state, State::Open)
    }

    /// The limit was told, but the telling was lost.
    pub(crate) fn owe_raise(&mut self) {
        self.raise = true;
    }

    /// The limit for the MAX_STREAM_DATA frame.
    pub(crate) fn raise(&mut self, pace: Pace, growth: &mut u64) -> u64 {
        self.raise = false;
        self.allowance.raise(pace, growth)
    }

    /// What its window has grown by, which is free again when it is over.
    pub(crate) fn grown(&self) -> u64 {
        self.allowance.grown()
    }

    /// Counts a frame that reaches to `end` against both allowances and the
    /// final size.
    fn account(&mut self, end: u64, fin: bool, shared: &mut Shared) -> Result<(), Fault> {
        let beyond = self.final_size.is_some_and(|size| end > size);
        let moved = fin && (end < self.highest || self.final_size.is_some_and(|size| size != end));
        if beyond || moved {
            return Err(Fault::FinalSize);
        }
        let new = end.saturating_sub(self.highest);
        self.allowance.receive(new)?;
        shared.allowance.receive(new)?;
        self.highest += new;
        if fin {
            self.final_size = Some(end);
        }
        Ok(())
    }

    /// Drops what is held and gives the channel's credit for it back.
    fn discard(&mut self, shared: &mut Shared) {
        shared.consume(self.highest - self.read_to);
        shared.pieces -= self.pieces.len();
        (self.read_to, self.next) = (self.highest, self.highest);
        self.ready = VecDeque::new();
        self.tail = BytesMut::new();
        self.pieces = BTreeMap::new();
    }

    /// Takes data that starts at `next`.
    fn push(&mut self, data: Bytes) {
        self.next += data.len() as u64;
        if data.len() < limits::MIN_ZERO_COPY {
            self.tail.extend_from_slice(&data);
            if self.tail.len() < TAIL_MAX {
                return;
            }
        }
        if !self.tail.is_empty() {
            self.ready
                .push_back(core::mem::take(&mut self.tail).freeze());
        }
        if data.len() >= limits::MIN_ZERO_COPY {
            self.ready.push_back(data);
        }
    }

    /// Takes data that overlaps what is here, or comes ahead of a gap.
    fn sort_in(
        &mut self,
        offset: u64,
        mut data: Bytes,
        shared: &mut Shared,
    ) -> Result<Taken, Fault> {
        let mut at = offset;
        if at < self.next {
            let known = (self.next - at).min(data.len() as u64) as usize;
            self.compare_with_ready(at, &data[..known])?;
            data.advance(known);
            at += known as u64;
        }
        let mut taken = Taken::Yes;
        while !data.is_empty() {
            let before = self.pieces.range(..=at).next_back();
            if let Some((&start, piece)) = before
                && start + piece.len() as u64 > at
            {
                let inside = &piece[(at - start) as usize..];
                let both = inside.len().min(data.len());
                if inside[..both] != data[..both] {
                    return Err(Fault::Differs);
                }
                data.advance(both);
                at += both as u64;
                continue;
            }
            let gap = match self.pieces.range(at..).next() {
                Some((&start, _)) => ((start - at) as usize).min(data.len()),
                None => data.len(),
            };
            let piece = data.split_to(gap);
            if at == self.next {
                self.push(piece);
            } else if shared.pieces < limits::MAX_PIECES {
                shared.pieces += 1;
                self.pieces.insert(at, own_if_small(piece));
            } else {
                taken = Taken::NoRoom;
            }
            at += gap as u64;
        }
        while let Some(piece) = self.pieces.remove(&self.next) {
            shared.pieces -= 1;
            self.push(piece);
        }
        Ok(taken)
    }

    /// Compares repeated bytes with those that are still here; what the reader
    /// has taken cannot be compared.
    fn compare_with_ready(&self, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let gone = self.read_to.saturating_sub(offset).min(data.len() as u64);
        let (mut at, mut rest) = (offset + gone, &data[gone as usize..]);
        let mut start = self.read_to;
        for chunk in self
            .ready
            .iter()
            .map(|chunk| &chunk[..])
            .chain([&self.tail[..]])
        {
            let end = start + chunk.len() as u64;
            if at < end && !rest.is_empty() {
                let inside = &chunk[(at - start) as usize..];
                let both = inside.len().min(rest.len());
                if inside[..both] != rest[..both] {
                    return Err(Fault::Differs);
                }
                rest = &rest[both..];
                at += both as u64;
            }
            start = end;
        }
        Ok(())
    }
}

fn own_if_small(piece: Bytes) -> Bytes {
    if piece.len() < limits::MIN_ZERO_COPY {
        Bytes::copy_from_slice(&piece)
    } else {
        piece
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn shared(window: u64) -> Shared {
        Shared::new(SharedAllowance::new(window, window, window), 0)
    }

    fn told(shared: &mut Shared) -> u64 {
        let now = crate::Time::ZERO;
        shared.allowance.raise(Pace { now, rtt: None })
    }

    fn half() -> (RecvHalf, Shared) {
        (RecvHalf::new(1 << 20, 1 << 20), shared(1 << 20))
    }

    fn data(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }

    fn read_all(half: &mut RecvHalf, shared: &mut Shared) -> Vec<u8> {
        let mut out = Vec::new();
        while let Read::Chunk(chunk) = half.read(shared) {
            out.extend_from_slice(&chunk);
        }
        out
    }

    #[test]
    fn large_pieces_in_order_are_not_copied() {
        let (mut half, mut shared) = half();
        let big = Bytes::from(vec![7; limits::MIN_ZERO_COPY]);
        let address = big.as_ptr();
        half.on_data(0, false, big, &mut shared).unwrap();
        let Read::Chunk(chunk) = half.read(&mut shared) else {
            panic!("nothing to read")
        };
        assert_eq!(chunk.as_ptr(), address);
    }

    #[test]
    fn readable_is_told_once_until_the_reader_comes_back_empty() {
        let (mut half, mut shared) = half();
        assert!(!half.take_readable());
        half.on_data(0, false, data(b"ab"), &mut shared).unwrap();
        assert!(half.take_readable());
        half.on_data(2, false, data(b"cd"), &mut shared).unwrap();
        assert!(!half.take_readable());
        assert_eq!(read_all(&mut half, &mut shared), b"abcd");
        half.on_data(4, true, data(b""), &mut shared).unwrap();
        assert!(half.take_readable());
        assert_eq!(half.read(&mut shared), Read::Finished);
        assert!(half.is_over());
    }

    #[test]
    fn other_bytes_at_the_same_place_are_a_fault() {
        for (offset, bytes) in [(1, &b"BB"[..]), (2, b"cD"), (6, b"ghX"), (8, b"X")] {
            let (mut half, mut shared) = half();
            half.on_data(0, false, data(b"abcd"), &mut shared).unwrap();
            half.on_data(6, false, data(b"ghi"), &mut shared).unwrap();
            assert_eq!(
                half.on_data(offset, false, data(bytes), &mut shared),
                Err(Fault::Differs),
                "{bytes:?} at {offset}"
            );
        }
    }

    #[test]
    fn the_end_cannot_move() {
        let (mut half, mut shared) = half();
        half.on_data(0, true, data(b"abcd"), &mut shared).unwrap();
        for (offset, fin, bytes) in [(4, false, &b"e"[..]), (0, true, b"abc"), (5, true, b"")] {
            assert_eq!(
                half.on_data(offset, fin, data(bytes), &mut shared),
                Err(Fault::FinalSize)
            );
        }
        let reason = Reason::new(crate::Code::DONE, "");
        assert_eq!(
            half.on_reset(3, reason.clone(), &mut shared),
            Err(Fault::FinalSize)
        );
        assert_eq!(half.on_reset(4, reason, &mut shared), Ok(false));
        assert_eq!(read_all(&mut half, &mut shared), b"abcd");
    }

    #[test]
    fn an_end_below_what_came_is_a_fault() {
        let (mut half, mut shared) = half();
        half.on_data(5, false, data(b"x"), &mut shared).unwrap();
        assert_eq!(
            half.on_data(0, true, data(b"ab"), &mut shared),
            Err(Fault::FinalSize)
        );
    }

    #[test]
    fn credit_is_policed_at_both_levels() {
        let mut shared = shared(100);
        let mut half = RecvHalf::new(10, 10);
        assert_eq!(
            half.on_data(0, false, data(&[0; 11]), &mut shared),
            Err(Fault::Overrun)
        );
        let mut half = RecvHalf::new(100, 100);
        let mut shared = self::shared(10);
        assert_eq!(
            half.on_data(10, false, data(&[0; 1]), &mut shared),
            Err(Fault::Overrun)
        );
    }

    #[test]
    fn a_reset_gives_the_channels_credit_back() {
        let (mut half, mut shared) = (RecvHalf::new(1000, 1000), shared(100));
        half.on_data(0, false, data(&[0; 60]), &mut shared).unwrap();
        let reason = Reason::new(crate::Code::DONE, "gone");
        assert_eq!(half.on_reset(80, reason.clone(), &mut shared), Ok(true));
        assert!(shared.allowance.wants_raise());
        assert_eq!(told(&mut shared), 180);
        assert_eq!(half.read(&mut shared), Read::Reset(reason));
    }

    #[test]
    fn a_reset_is_told_whatever_came_before_it_unless_that_was_everything() {
        let reason = Reason::new(crate::Code::DONE, "gone");
        for (text, fin, told) in [
            (&b""[..], false, true),
            (b"ab", false, true),
            (b"ab", true, false),
        ] {
            let (mut half, mut shared) = half();
            half.on_data(0, fin, data(text), &mut shared).unwrap();
            let size = text.len() as u64;
            assert_eq!(half.on_reset(size, reason.clone(), &mut shared), Ok(told));
            assert_eq!(half.is_over(), told);
        }
    }

    #[test]
    fn after_a_stop_everything_is_counted_and_dropped() {
        let (mut half, mut shared) = half();
        half.on_data(0, false, data(b"ab"), &mut shared).unwrap();
        half.on_data(9, false, data(b"z"), &mut shared).unwrap();
        let reason = Reason::new(crate::Code::DONE, "enough");
        assert!(half.stop(&reason, &mut shared));
        assert_eq!(half.stop_frame(), Some(&reason));
        half.on_data(10, false, data(&[0; 90]), &mut shared)
            .unwrap();
        assert_eq!(shared.pieces, 0);
        assert_eq!(told(&mut shared), (1 << 20) + 100);
        half.on_data(100, true, data(b""), &mut shared).unwrap();
        assert!(half.is_over() && half.stop_frame().is_none());
    }

    #[test]
    fn pieces_ahead_of_gaps_are_bounded() {
        let (mut half, mut shared) = half();
        for at in 0..limits::MAX_PIECES as u64 {
            let taken = half.on_data(2 * at + 1, false, data(b"x"), &mut shared);
            assert_eq!(taken, Ok(Taken::Yes));
        }
        assert_eq!(
            half.on_data(100_001, false, data(b"x"), &mut shared),
            Ok(Taken::NoRoom)
        );
        // What fills a gap at the front is always taken.
        assert_eq!(
            half.on_data(0, false, data(b"x"), &mut shared),
            Ok(Taken::Yes)
        );
        assert_eq!(read_all(&mut half, &mut shared), b"xx");
    }

    proptest! {
        /// Cuts of a text in any order, any number of times: what is read is
        /// the text, and no piece is left behind.
        #[test]
        fn any_order_gives_the_text(
            cuts in vec((0usize..3000, 1usize..1500, any::<bool>()), 1..60),
            length in 1usize..3000,
        ) {
            let (mut half, mut shared) = half();
            let text: Vec<u8> = (0..length).map(|at| (at * 31 + at / 200) as u8).collect();
            let mut out = Vec::new();
            for (start, size, read) in cuts {
                let start = start.min(length);
                let end = (start + size).min(length);
                let taken = half.on_data(start as u64, end == length, data(&text[start..end]), &mut shared);
                prop_assert_eq!(taken, Ok(Taken::Yes));
                if read {
                    out.extend(read_all(&mut half, &mut shared));
                }
                prop_assert_eq!(&out[..], &text[..out.len()]);
            }
            half.on_data(0, true, data(&text), &mut shared).unwrap();
            out.extend(read_all(&mut half, &mut shared));
            prop_assert_eq!(out, text);
            prop_assert!(half.is_over());
            prop_assert_eq!(shared.pieces, 0);
        }
    }
}
