//! Telling links to move, a few at a time, so that the other relays are not
//! stormed.

use std::collections::VecDeque;

use super::{LinkId, Time};
use crate::limits::DRAIN_TICK;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    waiting: VecDeque<LinkId>,
    per_tick: usize,
    next_at: Time,
}

impl Drain {
    /// Tells `links` within `span`, beginning now.
    pub(super) fn new(now: Time, links: impl Iterator<Item = LinkId>, span: Time) -> Self {
        let waiting: VecDeque<_> = links.collect();
        let ticks = (span.as_millis() / DRAIN_TICK.as_millis()).max(1);
        let per_tick = waiting
            .len()
            .div_ceil(usize::try_from(ticks).unwrap_or(usize::MAX));
        Self {
            waiting,
            per_tick: per_tick.max(1),
            next_at: now,
        }
    }

    /// When the next links are to be told; `None` once all have been.
    pub(super) fn next_at(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then_some(self.next_at)
    }

    /// The links to tell now.
    pub(super) fn due(&mut self, now: Time) -> Vec<LinkId> {
        if now < self.next_at {
            return Vec::new();
        }
        self.next_at = now + DRAIN_TICK;
        let n = self.per_tick.min(self.waiting.len());
        self.waiting.drain(..n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_told_at_a_limited_rate() {
        let mut now = Time::from_secs(1);
        let mut drain = Drain::new(now, (0..95).map(LinkId), DRAIN_TICK * 10);
        let mut told = Vec::new();
        while let Some(at) = drain.next_at() {
            now = at;
            let due = drain.due(now);
            assert!(due.len() <= 10);
            assert!(drain.due(now).is_empty());
            told.extend(due);
        }
        assert_eq!(told.len(), 95);
        assert_eq!(now, Time::from_secs(1) + DRAIN_TICK * 9);
    }
}
