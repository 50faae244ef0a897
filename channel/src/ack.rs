//! What was received, and when to say so.

use crate::{Time, frame, limits, ranges::RangeSet};

/// An acknowledgement goes out at the latest after this (SPEC.md section 7).
pub(crate) const MAX_ACK_DELAY: Time = Time::from_millis(25);

/// ... or when this many bytes are waiting for one, which is a whole batch: each
/// ACK by itself wakes every process on the way back.
const ACK_EVERY: u32 = (limits::MAX_BATCH * limits::MAX_STREAM_DATA) as u32;

/// The packet numbers received, and the acknowledgement that is owed.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    received: RangeSet,
    /// When the highest number came in, for the delay field.
    largest_at: Time,
    /// Bytes received that want an acknowledgement.
    owed: u32,
    /// When it must be sent; `Some` exactly while one is owed.
    deadline: Option<Time>,
    /// It must be sent now.
    urgent: bool,
    /// How many went out with nothing else since anything else did.
    pub(crate) n_alone: u8,
}

impl Acks {
    /// A new packet came in; `eliciting` if it wants an acknowledgement.
    pub(crate) fn on_received(&mut self, number: u64, eliciting: bool, bytes: usize, now: Time) {
        let next = self.received.last().map_or(0, |range| range.end);
        if !eliciting && number > next {
            // A datagram may overtake what is not lost: nothing to be told, and
            // what comes in its order later is not late.
            return;
        }
        if number >= next {
            self.largest_at = now;
        }
        self.received.insert(number..number + 1);
        if self.received.len() > limits::MAX_ACK_RANGES {
            self.received.drop_first();
        }
        if eliciting {
            self.owed = self.owed.saturating_add(bytes as u32);
            // A gap, or a number out of order: the sender should know early.
            self.urgent |= number != next || self.owed >= ACK_EVERY;
            self.deadline.get_or_insert(now + MAX_ACK_DELAY);
        }
    }

    /// Gives back what nothing is in.
    pub(crate) fn release_memory(&mut self) {
        self.received.shrink_to_fit();
    }

    /// Says what has been received once more: the path has changed, and what
    /// was said on the old one may be lost.
    pub(crate) fn urge(&mut self, now: Time) {
        if self.received.last().is_some() {
            self.deadline.get_or_insert(now);
            self.urgent = true;
        }
    }

    /// Whether an acknowledgement must go out even if nothing else does.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.urgent || self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Whether one is owed at all: it rides along with whatever goes out.
    pub(crate) fn is_owed(&self) -> bool {
        self.deadline.is_some()
    }

    /// When [`Acks::is_due`] will change by itself.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.deadline.filter(|_| !self.urgent)
    }

    /// The deadline has come.
    pub(crate) fn on_timeout(&mut self, now: Time) {
        self.urgent |= self.deadline.is_some_and(|deadline| deadline <= now);
    }

    /// Writes the ACK and gives the highest number in it.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, now: Time) -> Option<u64> {
        let largest = self.received.last()?.end - 1;
        let delay = now.saturating_sub(self.largest_at).as_micros() as u64;
        frame::put_ack(out, self.received.iter().rev(), self.received.len(), delay);
        (self.owed, self.urgent, self.deadline) = (0, false, None);
        Some(largest)
    }

    /// An ACK of ours arrived: what was below its highest number need not be
    /// told again, except for the number itself.
    pub(crate) fn on_ack_acked(&mut self, largest: u64) {
        self.received.remove(0..largest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn waits_for_bytes_or_time() {
        let mut acks = Acks::default();
        acks.on_received(0, true, 1000, at(0));
        assert!(!acks.is_due(at(24)) && acks.is_due(at(25)));
        acks.on_received(1, true, ACK_EVERY as usize, at(1));
        assert!(acks.is_due(at(1)));
        assert_eq!(acks.put(&mut Vec::new(), at(1)), Some(1));
        assert!(!acks.is_owed() && acks.deadline().is_none());
    }

    #[test]
    fn a_gap_is_told_at_once_but_an_ack_never_asks_for_an_ack() {
        let mut acks = Acks::default();
        acks.on_received(1, false, 50, at(0));
        assert!(!acks.is_owed());
        acks.on_received(3, true, 50, at(0));
        assert!(acks.is_due(at(0)));
    }

    #[test]
    fn what_a_datagram_overtakes_is_not_late() {
        let mut acks = Acks::default();
        acks.on_received(0, true, 50, at(0));
        acks.on_received(4, false, 50, at(0));
        for number in 1..4 {
            acks.on_received(number, true, 50, at(1));
        }
        assert!(!acks.is_due(at(1)));
    }

    #[test]
    fn remembers_a_bounded_number_of_gaps() {
        let mut acks = Acks::default();
        for number in 0..10_000 {
            acks.on_received(number * 2, true, 1, at(0));
        }
        let mut out = Vec::new();
        acks.put(&mut out, at(0));
        let Ok(frame::Frame::Ack(ack)) = frame::take(&mut &out[..]) else {
            panic!("not an ACK")
        };
        assert_eq!(ack.ranges().count(), limits::MAX_ACK_RANGES);
        assert_eq!(ack.largest, 19_998);
        acks.on_ack_acked(19_998);
        assert_eq!(acks.received.len(), 1);
    }
}
