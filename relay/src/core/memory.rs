//! What waits for links that are slower than their senders, and who holds most
//! of it.

use std::collections::{BTreeMap, BTreeSet};

use fairway_control::link::CircuitId;

use super::LinkId;
use crate::limits::{LINK_QUEUED_BYTES_MAX, QUEUED_BYTES_MAX};

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// For all links together, in bytes.
    pub total: usize,
    /// For one link, in bytes.
    pub link: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            total: QUEUED_BYTES_MAX,
            link: LINK_QUEUED_BYTES_MAX,
        }
    }
}

/// Bytes that wait, by link and circuit.
#[derive(Debug, Default)]
pub(super) struct Memory {
    total: usize,
    links: BTreeMap<LinkId, LinkQueue>,
    /// The same links, in order of what waits for them.
    by_bytes: BTreeSet<(usize, LinkId)>,
}

#[derive(Debug, Default)]
struct LinkQueue {
    total: usize,
    circuits: BTreeMap<CircuitId, usize>,
}

impl Memory {
    /// Bytes wait for `link` on `circuit` (its id there).
    pub(super) fn add(&mut self, link: LinkId, circuit: CircuitId, bytes: usize) {
        let queue = self.links.entry(link).or_default();
        *queue.circuits.entry(circuit).or_default() += bytes;
        self.by_bytes.remove(&(queue.total, link));
        queue.total += bytes;
        self.total += bytes;
        self.by_bytes.insert((queue.total, link));
    }

    /// Bytes were written or thrown away.
    pub(super) fn remove(&mut self, link: LinkId, circuit: CircuitId, bytes: usize) {
        let Some(queue) = self.links.get_mut(&link) else {
            return;
        };
        let Some(held) = queue.circuits.get_mut(&circuit) else {
            return;
        };
        let bytes = bytes.min(*held);
        *held -= bytes;
        if *held == 0 {
            queue.circuits.remove(&circuit);
        }
        self.by_bytes.remove(&(queue.total, link));
        queue.total -= bytes;
        self.total -= bytes;
        if queue.circuits.is_empty() {
            self.links.remove(&link);
        } else {
            self.by_bytes.insert((queue.total, link));
        }
    }

    /// All that waits on a circuit is being thrown away; the answer is how much.
    pub(super) fn remove_circuit(&mut self, link: LinkId, circuit: CircuitId) -> usize {
        let queue = self.links.get(&link);
        let held = queue.and_then(|queue| queue.circuits.get(&circuit).copied());
        self.remove(link, circuit, held.unwrap_or_default());
        held.unwrap_or_default()
    }

    /// The link has gone and its queue with it.
    pub(super) fn remove_link(&mut self, link: LinkId) {
        if let Some(queue) = self.links.remove(&link) {
            self.by_bytes.remove(&(queue.total, link));
            self.total -= queue.total;
        }
    }

    /// The circuit to reset when a limit is passed: the largest on the link
    /// for which most waits. `link` is the one that has just grown.
    pub(super) fn offender(
        &self,
        limits: &MemoryLimits,
        link: LinkId,
    ) -> Option<(LinkId, CircuitId)> {
        let link_total = self.links.get(&link).map_or(0, |queue| queue.total);
        let worst = if self.total > limits.total {
            self.by_bytes.last()?.1
        } else if link_total > limits.link {
            link
        } else {
            return None;
        };
        let circuits = &self.links.get(&worst)?.circuits;
        let (&circuit, _) = circuits.iter().max_by_key(|&(_, &bytes)| bytes)?;
        Some((worst, circuit))
    }

    /// Bytes that wait in all.
    pub(super) fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MemoryLimits = MemoryLimits {
        total: 1_000,
        link: 600,
    };
    const A: LinkId = LinkId(1);
    const B: LinkId = LinkId(2);
    const C: LinkId = LinkId(3);

    #[test]
    fn the_offender_is_the_largest_circuit_of_the_largest_queue() {
        let mut memory = Memory::default();
        memory.add(A, CircuitId(1), 300);
        memory.add(A, CircuitId(3), 250);
        memory.add(B, CircuitId(1), 400);
        assert_eq!(memory.offender(&LIMITS, B), None);
        memory.add(C, CircuitId(1), 100);
        assert_eq!(memory.offender(&LIMITS, C), Some((A, CircuitId(1))));
        memory.remove(A, CircuitId(1), 300);
        assert_eq!((memory.total(), memory.offender(&LIMITS, C)), (750, None));
    }

    #[test]
    fn one_link_has_a_limit_of_its_own() {
        let mut memory = Memory::default();
        memory.add(A, CircuitId(1), 200);
        memory.add(A, CircuitId(3), 401);
        assert_eq!(memory.offender(&LIMITS, A), Some((A, CircuitId(3))));
        assert_eq!(memory.offender(&LIMITS, B), None);
    }

    #[test]
    fn what_left_is_forgotten() {
        let mut memory = Memory::default();
        memory.add(A, CircuitId(1), 10);
        memory.remove(A, CircuitId(1), 99);
        memory.remove(A, CircuitId(1), 1);
        memory.remove(B, CircuitId(1), 1);
        memory.add(B, CircuitId(1), 7);
        memory.remove_link(B);
        assert_eq!(memory.total(), 0);
        assert!(memory.links.is_empty() && memory.by_bytes.is_empty());
    }
}
