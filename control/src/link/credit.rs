//! Credit of one direction of a circuit, counted in DATA payload bytes.
//!
//! Limits are absolute (`max_bytes` since the circuit began), so a repeated or
//! overtaken grant does no harm.

use std::time::Duration;

use thiserror::Error;

use crate::limits::{CIRCUIT_CREDIT, CIRCUIT_CREDIT_LASTS, CIRCUIT_CREDIT_MAX};

/// The sender's side: how much may still go out.
#[derive(Debug, Clone)]
pub struct SendCredit {
    limit: u64,
    used: u64,
}

impl SendCredit {
    /// A new circuit's credit.
    pub fn new() -> Self {
        Self {
            limit: CIRCUIT_CREDIT,
            used: 0,
        }
    }

    /// Bytes that may be sent now.
    pub fn available(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Counts `bytes` as sent; `false`, and nothing counted, when there is not
    /// enough credit for all of them.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes as u64 <= self.available();
        if fits {
            self.used += bytes as u64;
        }
        fits
    }

    /// A grant came; one that is lower than what we have is ignored.
    pub fn raise(&mut self, max_bytes: u64) {
        self.limit = self.limit.max(max_bytes);
    }
}

impl Default for SendCredit {
    fn default() -> Self {
        Self::new()
    }
}

/// The receiver's side: polices what comes and grants as it is consumed.
#[derive(Debug, Clone)]
pub struct ReceiveCredit {
    granted: u64,
    received: u64,
    consumed: u64,
    /// What may be on its way: doubles while it is used up too fast.
    window: u64,
    /// When `granted` was set (monotonic).
    granted_at: Duration,
}

impl ReceiveCredit {
    /// A new circuit's credit.
    pub fn new() -> Self {
        Self {
            granted: CIRCUIT_CREDIT,
            received: 0,
            consumed: 0,
            window: CIRCUIT_CREDIT,
            granted_at: Duration::ZERO,
        }
    }

    /// Counts what came.
    ///
    /// # Errors
    /// The sender overran its credit; reset the circuit.
    pub fn receive(&mut self, bytes: usize) -> Result<(), CreditOverrun> {
        let received = self.received.saturating_add(bytes as u64);
        if received > self.granted {
            return Err(CreditOverrun);
        }
        self.received = received;
        Ok(())
    }

    /// Counts what was taken out of our buffers by `now` (monotonic). The answer
    /// is the grant to send, once a quarter of the window has been used up since
    /// the last one.
    #[must_use]
    pub fn consume(&mut self, now: Duration, bytes: usize) -> Option<u64> {
        self.consumed = self
            .consumed
            .saturating_add(bytes as u64)
            .min(self.received);
        let used = self.consumed.saturating_add(self.window) - self.granted;
        if used < self.window / 4 {
            return None;
        }
        let elapsed = now.saturating_sub(self.granted_at).as_micros();
        let lasts = CIRCUIT_CREDIT_LASTS.as_micros();
        if elapsed * u128::from(self.window) < lasts * u128::from(used) {
            self.window = (2 * self.window).min(CIRCUIT_CREDIT_MAX);
        }
        self.granted_at = now;
        self.granted = self.consumed.saturating_add(self.window);
        Some(self.granted)
    }

    /// What the sender may have sent in all by now, at most.
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// For who passes credit through (a relay): the other side granted
    /// `max_bytes`, so that is what the sender here may have. The answer is
    /// whether it is more than before.
    #[must_use]
    pub fn grant(&mut self, max_bytes: u64) -> bool {
        let more = max_bytes > self.granted;
        self.granted = self.granted.max(max_bytes);
        more
    }
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        Self::new()
    }
}

/// More came than was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the circuit's sender used more credit than it was given")]
pub struct CreditOverrun;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A sender that keeps to its credit is never found overrunning, and
        /// as long as the receiver consumes, it always gets more.
        #[test]
        fn sender_and_receiver_agree(
            sizes in proptest::collection::vec(1usize..20_000, 1..400),
            micros in 0..1_000_u64,
        ) {
            let mut now = Duration::ZERO;
            let (mut sender, mut receiver) = (SendCredit::new(), ReceiveCredit::new());
            let mut unread = std::collections::VecDeque::new();
            for size in sizes {
                while !sender.take(size) {
                    let bytes = unread.pop_front().expect("a sender without credit has unread data");
                    now += Duration::from_micros(micros);
                    if let Some(max) = receiver.consume(now, bytes) {
                        prop_assert!(max <= receiver.consumed + CIRCUIT_CREDIT_MAX);
                        sender.raise(max);
                    }
                }
                receiver.receive(size).expect("the sender keeps to its credit");
                unread.push_back(size);
            }
        }
    }

    #[test]
    fn overrun_is_found_at_the_first_byte_too_many() {
        let mut receiver = ReceiveCredit::new();
        receiver.receive(CIRCUIT_CREDIT as usize).unwrap();
        assert_eq!(receiver.receive(1), Err(CreditOverrun));
        assert_eq!(receiver.receive(usize::MAX), Err(CreditOverrun));
        assert!(receiver.grant(CIRCUIT_CREDIT + 1));
        assert_eq!(receiver.receive(1), Ok(()));
    }

    #[test]
    fn grants_never_go_back() {
        let mut sender = SendCredit::new();
        sender.raise(5);
        assert_eq!(sender.available(), CIRCUIT_CREDIT);
        assert!(!sender.take(CIRCUIT_CREDIT as usize + 1));
        assert!(sender.take(CIRCUIT_CREDIT as usize));
        sender.raise(CIRCUIT_CREDIT + 7);
        assert_eq!(sender.available(), 7);
        let mut receiver = ReceiveCredit::new();
        assert!(!receiver.grant(5));
        // Consuming what never came grants nothing.
        assert_eq!(receiver.consume(Duration::ZERO, 10 << 20), None);
    }

    #[test]
    fn only_a_fast_reader_gets_more() {
        let quarter = CIRCUIT_CREDIT as usize / 4;
        // A window in 40 ms, and then in 4 ms.
        for (millis, most) in [(10, CIRCUIT_CREDIT), (1, CIRCUIT_CREDIT_MAX)] {
            let mut receiver = ReceiveCredit::new();
            for n in 1..100 {
                receiver.receive(quarter).unwrap();
                let _ = receiver.consume(Duration::from_millis(1_000 + millis * n), quarter);
            }
            assert_eq!(receiver.window, most);
        }
    }
}
