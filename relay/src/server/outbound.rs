//! What waits to be written to a link.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use fairway_control::link::CircuitId;

use crate::limits::{QUEUED_PIECE_COPIED_BELOW, QUEUED_PIECE_OVERHEAD, WRITE_SLICES_MAX};

/// Whole frames in the order in which they go out.
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
}

#[derive(Debug)]
struct Piece {
    circuit: CircuitId,
    bytes: Bytes,
    /// What it was counted with; 0 while it is not.
    held: usize,
}

/// Something changed in what is held: `true` for more, `false` for less.
pub(super) type Held = (CircuitId, usize, bool);

impl Outbound {
    /// Puts whole frames of one circuit at the end.
    pub(super) fn push(&mut self, circuit: CircuitId, bytes: Bytes) {
        let held = 0;
        self.pieces.push_back(Piece {
            circuit,
            bytes,
            held,
        });
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
        let mut n_removed_held = 0;
        self.pieces.retain(|piece| {
            let is_begun = position == 0 && is_front_begun;
            let keep = piece.circuit != circuit || is_begun;
            if !keep && position < *n_held {
                n_removed_held += 1;
                held((circuit, piece.held, false));
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
            if n < first.bytes.len() {
                first.bytes.advance(n);
                self.is_front_begun = true;
                return;
            }
            n -= first.bytes.len();
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

    /// From now on all pieces are held. Small ones leave the large read buffer
    /// that they lie in. The link's own messages are not counted: its session
    /// bounds them.
    fn hold(&mut self, held: &mut impl FnMut(Held)) {
        for piece in self.pieces.range_mut(self.n_held..) {
            if piece.bytes.len() < QUEUED_PIECE_COPIED_BELOW {
                piece.bytes = Bytes::copy_from_slice(&piece.bytes);
            }
            if piece.circuit != CircuitId::LINK {
                piece.held = piece.bytes.len() + QUEUED_PIECE_OVERHEAD;
                held((piece.circuit, piece.held, true));
            }
        }
        self.n_held = self.pieces.len();
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
            steps in prop::collection::vec((0_u8..4, 1_usize..300), 1..60),
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
                    _ => outbound.discard([A, B][size % 2], &mut book),
                }
            }
            let mut room = usize::MAX;
            prop_assert!(outbound.flush(take(&mut room, &mut out), &mut book, &mut n).unwrap());
            prop_assert!(books.values().all(|&bytes| bytes == 0));
            prop_assert_eq!(n, out.len() as u64);
            let (mut rest, mut last) = (out.as_slice(), None);
            while !rest.is_empty() {
                let size = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                let number = u16::from_be_bytes([rest[2], rest[3]]);
                prop_assert!(last < Some(number));
                last = Some(number);
                rest = &rest[4 + size..];
            }
        }
    }
}
