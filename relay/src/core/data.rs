//! Data on its way: where it goes, and what waits.

use fairway_control::link::CircuitId;
use fairway_control::reason;

use super::output::{Forward, LinkId, Output};
use super::{Core, Time};

impl Core {
    /// DATA with `payload` bytes came from `id` on `circuit`: where does it go?
    ///
    /// A circuit that overruns its credit or budget is reset here; nothing else
    /// suffers.
    pub fn forward(
        &mut self,
        now: Time,
        id: LinkId,
        circuit: CircuitId,
        payload: usize,
    ) -> Forward {
        let Some(half) = self.half(id, circuit) else {
            self.runs_dropped += 1;
            return Forward::Drop;
        };
        let (fits, other) = (half.receive(payload), half.other);
        if !fits {
            self.runs_dropped += 1;
            self.reset_circuit(
                now,
                id,
                circuit,
                reason::CREDIT_OVERRUN,
                "more was sent than there was credit for",
            );
            return Forward::Drop;
        }
        self.within_budget(now, id, circuit, other)
    }

    /// DATAGRAMs with `payload` bytes came from `id` on `circuit`: where do they
    /// go? No credit limits them: what the other link does not take in time is
    /// thrown away.
    pub fn forward_datagrams(
        &mut self,
        now: Time,
        id: LinkId,
        circuit: CircuitId,
        payload: usize,
    ) -> Forward {
        let Some(half) = self.half(id, circuit) else {
            self.runs_dropped += 1;
            return Forward::Drop;
        };
        half.receive_datagrams(payload);
        let other = half.other;
        self.within_budget(now, id, circuit, other)
    }

    fn within_budget(
        &mut self,
        now: Time,
        id: LinkId,
        circuit: CircuitId,
        other: (LinkId, CircuitId),
    ) -> Forward {
        if self.is_budget_spent(id, circuit, other) {
            self.runs_dropped += 1;
            self.reset_circuit(
                now,
                id,
                circuit,
                reason::OVERLOADED,
                "the bytes of a circuit without a valid credential are spent",
            );
            return Forward::Drop;
        }
        Forward::To(other.0, other.1)
    }

    /// Bytes wait for `id` on `circuit` because the link is slower than its
    /// senders. When too much waits, the worst offender is reset.
    pub fn queued(&mut self, now: Time, id: LinkId, circuit: CircuitId, bytes: usize) {
        if !self.links.contains_key(&id) {
            return;
        }
        self.memory.add(id, circuit, bytes);
        while let Some((link, worst)) = self.memory.offender(&self.settings.memory, id) {
            let held = self.memory.remove_circuit(link, worst);
            debug_assert!(held > 0, "an offender holds something");
            self.reset_circuit(
                now,
                link,
                worst,
                reason::OVERLOADED,
                "this circuit's reader is too slow for the relay's memory",
            );
            // Also when the circuit is over already and only its bytes wait.
            self.outputs.push_back(Output::Discard {
                link,
                circuit: worst,
            });
        }
    }

    /// Bytes that waited were written or thrown away.
    pub fn drained(&mut self, id: LinkId, circuit: CircuitId, bytes: usize) {
        self.memory.remove(id, circuit, bytes);
    }

    /// Whether the circuit has used up the bytes that its opener's class may have.
    fn is_budget_spent(
        &mut self,
        id: LinkId,
        circuit: CircuitId,
        other: (LinkId, CircuitId),
    ) -> bool {
        let budgets = self.settings.budgets;
        let mut bytes = 0;
        let mut max = None;
        for (link, circuit) in [(id, circuit), other] {
            if let Some(half) = self.half(link, circuit) {
                bytes += half.all_bytes();
                if let Some(opened) = &half.opened {
                    max = budgets.of(opened.class).bytes_per_circuit;
                }
            }
        }
        max.is_some_and(|max| bytes > max)
    }
}
