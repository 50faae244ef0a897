//! The window that lets each packet number in once (RFC 6479).

const BLOCKS: usize = 32;

/// How far behind the highest number seen a packet may come: 1,984. One block
/// of the ring is always being filled and does not count.
pub(crate) const WINDOW: u64 = (BLOCKS as u64 - 1) * 64;

/// Which packet numbers have been seen. At most 272 bytes.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// The highest number seen, plus one.
    next: u64,
    /// `None`: everything below `next` counts as seen.
    bitmap: Option<Box<[u64; BLOCKS]>>,
}

impl Replay {
    /// Whether the number was not seen and is recent enough to know. Changes
    /// nothing: ask before opening, mark after.
    pub(crate) fn is_new(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        let (block, bit) = Self::place(number);
        let unseen = |bitmap: &[u64; BLOCKS]| bitmap[block] & bit == 0;
        self.next - number <= WINDOW && self.bitmap.as_deref().is_some_and(unseen)
    }

    /// From here on what has not come yet is too late: it will be sent again.
    /// For a channel that has been quiet.
    pub(crate) fn forget(&mut self) {
        self.bitmap = None;
    }

    /// Remembers the number of an authenticated packet.
    pub(crate) fn mark(&mut self, number: u64) {
        // What is below `next` counts as seen, if it was forgotten.
        let seen = if self.next == 0 { 0 } else { u64::MAX };
        let bitmap = self.bitmap.get_or_insert_with(|| {
            let mut bitmap = Box::new([seen; BLOCKS]);
            // But not what comes after it in its own block.
            let (block, bit) = Self::place(self.next);
            if bit > 1 {
                bitmap[block] = bit - 1;
            }
            bitmap
        });
        if number >= self.next {
            let current = self.next.saturating_sub(1) / 64;
            let skipped = (number / 64 - current).min(BLOCKS as u64);
            for block in current + 1..=current + skipped {
                bitmap[block as usize % BLOCKS] = 0;
            }
            self.next = number + 1;
        }
        let (block, bit) = Self::place(number);
        bitmap[block] |= bit;
    }

    fn place(number: u64) -> (usize, u64) {
        ((number / 64) as usize % BLOCKS, 1 << (number % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lets_each_number_in_once(
            steps in prop::collection::vec(
                (prop_oneof![0u64..200, 0u64..5000, 0u64..1_000_000], prop::bool::weighted(0.02)),
                1..300,
            )
        ) {
            let (mut replay, mut seen) = (Replay::default(), BTreeSet::new());
            let mut forgotten = 0;
            for (number, forget) in steps {
                if forget {
                    replay.forget();
                    forgotten = seen.last().map_or(0, |last| last + 1);
                }
                let next = seen.last().map_or(0, |last| last + 1);
                let expected =
                    !seen.contains(&number) && number + WINDOW >= next && number >= forgotten;
                prop_assert_eq!(replay.is_new(number), expected, "number {}", number);
                if expected {
                    replay.mark(number);
                    seen.insert(number);
                }
            }
        }
    }

    #[test]
    fn reaches_at_least_1024_back() {
        const { assert!(WINDOW >= 1024) };
        let mut replay = Replay::default();
        replay.mark(WINDOW);
        assert!(replay.is_new(1));
        assert!(
            !Replay {
                next: WINDOW + 2,
                bitmap: Some(Box::new([0; BLOCKS])),
            }
            .is_new(1)
        );
    }
}
