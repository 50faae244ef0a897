//! A small sorted set of ranges of numbers.

use core::ops::Range;

/// Disjoint, non-touching, ascending half-open ranges. A `Vec`, because there
/// are few of them: callers bound how many.
#[derive(Debug, Default, Clone)]
pub(crate) struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    pub(crate) fn shrink_to_fit(&mut self) {
        self.0.shrink_to_fit();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.0.first().cloned()
    }

    pub(crate) fn last(&self) -> Option<Range<u64>> {
        self.0.last().cloned()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Range<u64>> {
        self.0.iter()
    }

    pub(crate) fn contains(&self, value: u64) -> bool {
        let at = self.0.partition_point(|range| range.end <= value);
        self.0.get(at).is_some_and(|range| range.start <= value)
    }

    /// Adds a range, joining those that it touches.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|other| other.end < range.start);
        let to = self.0.partition_point(|other| other.start <= range.end);
        if from == to {
            self.0.insert(from, range);
            return;
        }
        let joined = self.0[from].start.min(range.start)..self.0[to - 1].end.max(range.end);
        self.0[from] = joined;
        self.0.drain(from + 1..to);
    }

    /// Takes a range out, whether or not all of it is in.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|other| other.end <= range.start);
        let to = self.0.partition_point(|other| other.start < range.end);
        if from >= to {
            return;
        }
        let left = self.0[from].start..range.start;
        let right = range.end..self.0[to - 1].end;
        let keep = [left, right].into_iter().filter(|part| !part.is_empty());
        self.0.splice(from..to, keep);
    }

    /// Takes up to `max` numbers off the lowest range.
    pub(crate) fn pop_first(&mut self, max: u64) -> Option<Range<u64>> {
        let first = self.0.first_mut()?;
        if first.end - first.start <= max {
            return Some(self.0.remove(0));
        }
        let taken = first.start..first.start + max;
        first.start = taken.end;
        Some(taken)
    }

    /// Drops the lowest range.
    pub(crate) fn drop_first(&mut self) {
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }

    /// Gives the memory back.
    pub(crate) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..40)
        ) {
            let (mut ranges, mut model) = (RangeSet::default(), BTreeSet::new());
            for (insert, start, length) in steps {
                let range = start..start + length;
                if insert {
                    ranges.insert(range.clone());
                    model.extend(range);
                } else {
                    ranges.remove(range.clone());
                    model.retain(|value| !range.contains(value));
                }
                prop_assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.end < b.start));
            }
            let flat: Vec<u64> = ranges.iter().cloned().flatten().collect();
            prop_assert_eq!(flat, model.iter().copied().collect::<Vec<_>>());
            prop_assert!((0..90).all(|value| ranges.contains(value) == model.contains(&value)));
        }
    }

    #[test]
    fn pops_from_the_front_in_pieces() {
        let mut ranges = RangeSet::default();
        ranges.insert(5..10);
        ranges.insert(20..21);
        assert_eq!(ranges.pop_first(3), Some(5..8));
        assert_eq!(ranges.pop_first(3), Some(8..10));
        assert_eq!(ranges.pop_first(3), Some(20..21));
        assert_eq!(ranges.pop_first(3), None);
    }
}
