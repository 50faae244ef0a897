//! What waits to be written to a link.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use fairway_control::link::CircuitId;

use crate::limits::{
    DATAGRAM_BYTES_QUEUED_MAX, QUEUED_PIECE_COPIED_BELOW, QUEUED_PIECE_OVERHEAD, WRITE_SLICES_MAX,
};

/// Whole frames in the order in which they go out: DATAGRAMs before all else.
///
/// Pieces are written at once when the socket takes them. What it does not take
/// is *held*: counted against the relay's memory until it is written or thrown
/// away.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pieces: VecDeque<Piece>,
    /// The first piece has been written in part: it must be finished, or the
    /// link would lose its framing.
    is_front_begun: bool,
    /// Pieces from here on are not held yet.
    n_held: usize,
    /// Pieces of DATAGRAMs; none is behind another piece but a begun one.
    n_datagrams: usize,
    datagram_bytes: usize,
    /// Bytes of DATAGRAMs that may still overtake others. What others write
    /// adds to it, so that a link that is too slow for both is shared.
    overtaking: usize,
}

#[derive(Debug)]
struct Piece {
    circuit: CircuitId,
    bytes: Bytes,
    is_datagram: bool,
    /// What it was counted with; 0 while it is not.
    held: usize,
}

/// Something changed in what is held: `true` for more, `false` for less.
pub(super) type Held = (CircuitId, usize, bool);

impl Outbound {
    /// Puts whole frames of one circuit at the end.
    pub(super) fn push(&mut self, circuit: CircuitId, bytes: Bytes) {
        self.renew_overtaking();
        self.pieces.push_back(Piece {
            circuit,
            bytes,
            is_datagram: false,
            held: 0,
        });
    }

    /// Puts DATAGRAMs of one circuit before all other frames; `false`, and they
    /// are gone, when too many wait. Reports in `held` what is now held.
    pub(super) fn push_datagrams(
        &mut self,
        circuit: CircuitId,
        bytes: Bytes,
        held: impl FnMut(Held),
    ) -> bool {
        self.renew_overtaking();
        let room = DATAGRAM_BYTES_QUEUED_MAX - self.datagram_bytes;
        if bytes.len() > room.min(self.overtaking) {
            return false;
        }
        self.overtaking -= bytes.len();
        let is_behind_other =
            self.is_front_begun && self.pieces.front().is_some_and(|front| !front.is_datagram);
        let at = self.n_datagrams + usize::from(is_behind_other);
        self.n_datagrams += 1;
        self.datagram_bytes += bytes.len();
        let mut piece = Piece {
            circuit,
            bytes,
            is_datagram: true,
            held: 0,
        };
        if at < self.n_held {
            piece.hold(held);
            self.n_held += 1;
        }
        self.pieces.insert(at, piece);
        true
    }

    /// While nobody waits, nobody is overtaken.
    fn renew_overtaking(&mut self) {
        if self.pieces.is_empty() {
            self.overtaking = DATAGRAM_BYTES_QUEUED_MAX;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Gives back what an empty queue holds.
    pub(super) fn release_memory(&mut self) {
        self.pieces.shrink_to_fit();
    }

    /// Writes as much as `write` takes; `Ok(true)` when nothing is left.
    /// Reports in `held` what is now held and what no longer is.
    ///
    /// # Errors
    ///
    /// The socket failed, other than by being full.
    pub(super) fn flush(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
        mut held: impl FnMut(Held),
        n_bytes: &mut u64,
    ) -> io::Result<bool> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let n_slices = self
                .pieces
                .iter()
                .zip(&mut slices)
                .map(|(piece, slice)| *slice = IoSlice::new(&piece.bytes))
                .count();
            match write(&slices[..n_slices]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    *n_bytes += n as u64;
                    self.advance(n, &mut held);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.hold(&mut held);
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // What a long queue took is given back; a short one is likely wanted again.
        if self.pieces.capacity() > WRITE_SLICES_MAX {
            self.pieces.shrink_to(WRITE_SLICES_MAX);
        }
        Ok(true)
    }

    /// Throws away what waits on `circuit`, but for a piece that is half out.
    pub(super) fn discard(&mut self, circuit: CircuitId, mut held: impl FnMut(Held)) {
        let mut position = 0;
        let (is_front_begun, n_held) = (self.is_front_begun, &mut self.n_held);
        let (n_datagrams, datagram_bytes) = (&mut self.n_datagrams, &mut self.datagram_bytes);
        let mut n_removed_held = 0;
        self.pieces.retain(|piece| {
            let is_begun = position == 0 && is_front_begun;
            let keep = piece.circuit != circuit || is_begun;
            if !keep && position < *n_held {
                n_removed_held += 1;
                held((circuit, piece.held, false));
            }
            if !keep && piece.is_datagram {
                *n_datagrams -= 1;
                *datagram_bytes -= piece.bytes.len();
            }
            position += 1;
            keep
        });
        *n_held -= n_removed_held;
    }

    fn advance(&mut self, mut n: usize, held: &mut impl FnMut(Held)) {
        while n > 0 {
            let Some(first) = self.pieces.front_mut() else {
                debug_assert!(false, "no more is written than there is");
                return;
            };
            let n_taken = n.min(first.bytes.len());
            if first.is_datagram {
                self.datagram_bytes -= n_taken;
            } else {
                self.overtaking = (self.overtaking + n_taken).min(DATAGRAM_BYTES_QUEUED_MAX);
            }
            if n < first.bytes.len() {
                first.bytes.advance(n);
                self.is_front_begun = true;
                return;
            }
            n -= n_taken;
            self.n_datagrams -= usize::from(first.is_datagram);
            if self.n_held > 0 {
                self.n_held -= 1;
                if first.held > 0 {
                    held((first.circuit, first.held, false));
                }
            }
            self.pieces.pop_front();
            self.is_front_begun = false;
        }
    }

    /// From now on all pieces are held.
    fn hold(&mut self, held: &mut impl FnMut(Held)) {
        for piece in self.pieces.range_mut(self.n_held..) {
            piece.hold(&mut *held);
        }
        self.n_held = self.pieces.len();
    }
}

impl Piece {
    /// A small one leaves the large read buffer that it lies in. The link's own
    /// messages are not counted: its session bounds them.
    fn hold(&mut self, mut held: impl FnMut(Held)) {
        if self.bytes.len() < QUEUED_PIECE_COPIED_BELOW {
            self.bytes = Bytes::copy_from_slice(&self.bytes);
        }
        if self.circuit != CircuitId::LINK {
            self.held = self.bytes.len() + QUEUED_PIECE_OVERHEAD;
            held((self.circuit, self.held, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const A: CircuitId = CircuitId(2);
    const B: CircuitId = CircuitId(4);

    /// A socket that takes `room` bytes.
    fn take<'a>(
        room: &'a mut usize,
        out: &'a mut Vec<u8>,
    ) -> impl FnMut(&[IoSlice<'_>]) -> io::Result<usize> + 'a {
        move |slices| {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let n = all.len().min(*room);
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            *room -= n;
            out.extend_from_slice(&all[..n]);
            Ok(n)
        }
    }

    #[test]
    fn a_begun_piece_is_finished_and_the_rest_of_its_circuit_thrown_away() {
        let (mut outbound, mut out, mut books) = (Outbound::default(), Vec::new(), 0_isize);
        outbound.push(A, Bytes::from_static(b"aaaa"));
        outbound.push(B, Bytes::from_static(b"bbbb"));
        outbound.push(A, Bytes::from_static(b"cccc"));
        let mut room = 2;
        let mut book = |(_, bytes, more): Held| {
            books += if more { 1 } else { -1 } * bytes as isize;
        };
        let mut n = 0;
        assert!(
            !outbound
                .flush(take(&mut room, &mut out), &mut book, &mut n)
                .unwrap()
        );
        outbound.discard(A, &mut book);
        room = 100;
        assert!(
            outbound
                .flush(take(&mut room, &mut out), &mut book, &mut n)
                .unwrap()
        );
        assert_eq!((out.as_slice(), n, books), (&b"aaaabbbb"[..], 8, 0));
    }

    /// Flushes what a socket with so much room takes; what that was.
    fn flush(outbound: &mut Outbound, mut room: usize, books: &mut isize) -> Vec<u8> {
        let mut out = Vec::new();
        let book = |(_, bytes, more): Held| *books += if more { 1 } else { -1 } * bytes as isize;
        outbound
            .flush(take(&mut room, &mut out), book, &mut 0)
            .unwrap();
        out
    }

    #[test]
    fn datagrams_overtake_all_but_a_begun_piece_and_each_other() {
        let (mut outbound, mut books) = (Outbound::default(), 0);
        outbound.push(A, Bytes::from_static(b"aaaa"));
        outbound.push(B, Bytes::from_static(b"bbbb"));
        assert_eq!(flush(&mut outbound, 2, &mut books), b"aa");
        for datagram in [&b"1111"[..], b"2222", b"3333"] {
            let book = |(_, bytes, _): Held| books += bytes as isize;
            assert!(outbound.push_datagrams(B, Bytes::from_static(datagram), book));
        }
        assert_eq!(flush(&mut outbound, 4, &mut books), b"aa11");
        assert!(
            outbound.push_datagrams(A, Bytes::from_static(b"4444"), |(_, bytes, _)| {
                books += bytes as isize;
            })
        );
        outbound.discard(A, |(_, bytes, _)| books -= bytes as isize);
        assert_eq!(flush(&mut outbound, 100, &mut books), b"1122223333bbbb");
        let left = (outbound.n_datagrams, outbound.datagram_bytes, books);
        assert_eq!(left, (0, 0, 0));
    }

    #[test]
    fn datagrams_that_a_full_socket_does_not_take_are_bounded() {
        let mut outbound = Outbound::default();
        let piece = Bytes::from_static(&[7; 1_000]);
        let mut n_taken = 0;
        while outbound.push_datagrams(A, piece.clone(), |_| {}) {
            n_taken += 1;
        }
        assert_eq!(n_taken, DATAGRAM_BYTES_QUEUED_MAX / piece.len());
        flush(&mut outbound, usize::MAX, &mut 0);
        assert!(outbound.push_datagrams(A, piece, |_| {}));
    }

    /// However many datagrams come, half of a slow link is for the others.
    #[test]
    fn datagrams_cannot_keep_others_out() {
        let mut outbound = Outbound::default();
        for _ in 0..1_000 {
            outbound.push(A, Bytes::from_static(&[1; 1_000]));
        }
        let (mut n_datagrams, mut n_others) = (0, 0);
        for _ in 0..1_000 {
            while outbound.push_datagrams(B, Bytes::from_static(&[2; 500]), |_| {}) {}
            let out = flush(&mut outbound, 1_000, &mut 0);
            n_datagrams += out.iter().filter(|&&byte| byte == 2).count();
            n_others += out.iter().filter(|&&byte| byte == 1).count();
        }
        assert_eq!(n_datagrams + n_others, 1_000_000);
        assert!(n_datagrams > 400_000 && n_others > 400_000, "{n_others}");
    }

    #[test]
    fn a_failing_socket_is_an_error() {
        let mut outbound = Outbound::default();
        outbound.push(A, Bytes::from_static(b"aaaa"));
        let broken = |_: &[IoSlice<'_>]| Err(io::ErrorKind::BrokenPipe.into());
        assert!(outbound.flush(broken, |_| {}, &mut 0).is_err());
        assert!(
            outbound
                .flush(|_: &[IoSlice<'_>]| Ok(0), |_| {}, &mut 0)
                .is_err()
        );
    }

    proptest! {
        /// Whatever the socket takes and whatever is thrown away, what goes out
        /// is whole pieces in order, and the books are empty at the end.
        #[test]
        fn pieces_stay_whole_and_the_books_balance(
            steps in prop::collection::vec((0_u8..5, 1_usize..300), 1..60),
        ) {
            let (mut outbound, mut out, mut n_pieces) = (Outbound::default(), Vec::new(), 0_u16);
            let mut books = BTreeMap::<CircuitId, isize>::new();
            let mut book = |(circuit, bytes, more): Held| {
                *books.entry(circuit).or_default() += if more { 1 } else { -1 } * bytes as isize;
            };
            let mut n = 0;
            for (what, size) in steps {
                match what {
                    0 | 1 => {
                        // length, number, filling
                        let mut piece = vec![0; size + 4];
                        piece[..2].copy_from_slice(&(size as u16).to_be_bytes());
                        piece[2..4].copy_from_slice(&n_pieces.to_be_bytes());
                        n_pieces += 1;
                        outbound.push([A, B][usize::from(what)], piece.into());
                    }
                    2 => {
                        let mut room = size;
                        outbound.flush(take(&mut room, &mut out), &mut book, &mut n).unwrap();
                    }
                    3 => {
                        // Without a number: it has no place in the order.
                        let mut piece = vec![0xff; size + 4];
                        piece[..2].copy_from_slice(&(size as u16).to_be_bytes());
                        outbound.push_datagrams(B, piece.into(), &mut book);
                    }
                    _ => outbound.discard([A, B][size % 2], &mut book),
                }
            }
            let mut room = usize::MAX;
            prop_assert!(outbound.flush(take(&mut room, &mut out), &mut book, &mut n).unwrap());
            prop_assert!(books.values().all(|&bytes| bytes == 0));
            prop_assert_eq!((outbound.n_datagrams, outbound.datagram_bytes), (0, 0));
            prop_assert_eq!(n, out.len() as u64);
            let (mut rest, mut last) = (out.as_slice(), None);
            while !rest.is_empty() {
                let size = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                let number = u16::from_be_bytes([rest[2], rest[3]]);
                if number != u16::MAX {
                    prop_assert!(last < Some(number));
                    last = Some(number);
                }
                rest = &rest[4 + size..];
            }
        }
    }
}
