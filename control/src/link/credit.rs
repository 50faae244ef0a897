//! Credit of one direction of a circuit, counted in DATA payload bytes.
//!
//! Limits are absolute (`max_bytes` since the circuit began), so a repeated or
//! overtaken grant does no harm.

use thiserror::Error;

use crate::limits::CIRCUIT_CREDIT;

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
}

impl ReceiveCredit {
    /// A new circuit's credit.
    pub fn new() -> Self {
        Self {
            granted: CIRCUIT_CREDIT,
            received: 0,
            consumed: 0,
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

    /// Counts what was taken out of our buffers. The answer is the grant to
    /// send, once a quarter of the window has been used up since the last one.
    #[must_use]
    pub fn consume(&mut self, bytes: usize) -> Option<u64> {
        self.consumed = self
            .consumed
            .saturating_add(bytes as u64)
            .min(self.received);
        let target = self.consumed.saturating_add(CIRCUIT_CREDIT);
        if target - self.granted < CIRCUIT_CREDIT / 4 {
            return None;
        }
        self.granted = target;
        Some(target)
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
