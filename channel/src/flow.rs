//! Credit, as it is counted for each stream and for the whole channel.

use crate::varint;

/// What this side allows the peer to send.
#[derive(Debug)]
pub(crate) struct Allowance {
    window: u64,
    /// Told to the peer: it may send up to here.
    max: u64,
    /// The peer has sent up to here.
    received: u64,
    /// The reader has taken up to here.
    consumed: u64,
}

/// The peer sent more than it was allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overrun;

impl Allowance {
    /// The first `window` bytes are allowed from the start.
    pub(crate) fn new(window: u64) -> Self {
        Self {
            window,
            max: window,
            received: 0,
            consumed: 0,
        }
    }

    /// The peer sent this many more bytes.
    pub(crate) fn receive(&mut self, bytes: u64) -> Result<(), Overrun> {
        match self.received.checked_add(bytes) {
            Some(received) if received <= self.max => {
                self.received = received;
                Ok(())
            }
            _ => Err(Overrun),
        }
    }

    /// The reader took (or will never take) this many bytes. Whether it is
    /// time to tell the peer: when a quarter of the window can be given back.
    pub(crate) fn consume(&mut self, bytes: u64) -> bool {
        self.consumed += bytes;
        debug_assert!(self.consumed <= self.received);
        self.consumed + self.window - self.max >= self.window / 4
    }

    /// Gives back what was consumed: the new limit to tell.
    pub(crate) fn raise(&mut self) -> u64 {
        self.max = (self.consumed + self.window).min(varint::MAX);
        self.max
    }
}

/// What the peer allows this side to send.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    max: u64,
    used: u64,
}

impl Credit {
    pub(crate) fn new(max: u64) -> Self {
        Self { max, used: 0 }
    }

    pub(crate) fn available(&self) -> u64 {
        self.max - self.used
    }

    /// How much was used in all.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Uses some of what is available.
    pub(crate) fn spend(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.available());
        self.used += bytes;
    }

    /// The peer's limit is now at least `max`; whether that is news. Limits
    /// arrive in any order and never shrink.
    pub(crate) fn raise(&mut self, max: u64) -> bool {
        let news = max > self.max;
        self.max = self.max.max(max);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overrun_by_one_byte_is_found() {
        let mut allowance = Allowance::new(100);
        assert_eq!(allowance.receive(100), Ok(()));
        assert_eq!(allowance.receive(1), Err(Overrun));
        assert_eq!(allowance.receive(u64::MAX), Err(Overrun));
    }

    #[test]
    fn credit_comes_back_by_the_quarter() {
        let mut allowance = Allowance::new(100);
        allowance.receive(60).unwrap();
        assert!(!allowance.consume(24));
        assert!(allowance.consume(1));
        assert_eq!(allowance.raise(), 125);
        assert!(!allowance.consume(10));
    }

    #[test]
    fn an_old_limit_takes_nothing_away() {
        let mut credit = Credit::new(10);
        assert!(credit.raise(30));
        assert!(!credit.raise(20));
        credit.spend(25);
        assert_eq!((credit.available(), credit.used()), (5, 25));
    }
}
