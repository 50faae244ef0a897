//! Rates with bursts, by the generic cell rate algorithm (ITU-T I.371): one
//! time instead of a count that must be refilled.

use std::time::Duration;

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Sustained, in events a second.
    pub per_second: u32,
    /// At once, after a quiet time.
    pub burst: u32,
}

/// Counts events against a [`Rate`]. Times are monotonic, from any origin.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    rate: Rate,
    /// When the bucket will be full again.
    full_at: Duration,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            full_at: Duration::ZERO,
        }
    }

    /// Takes one event; `false`, and nothing taken, when there are too many.
    pub fn take(&mut self, now: Duration) -> bool {
        let Some(one) = Duration::from_secs(1).checked_div(self.rate.per_second) else {
            return false;
        };
        let full_at = self.full_at.max(now) + one;
        let fits = full_at - now <= one * self.rate.burst;
        if fits {
            self.full_at = full_at;
        }
        fits
    }

    /// Whether nothing was taken for so long that a new bucket would be the same.
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(Rate {
            per_second: 10,
            burst: 3,
        });
        let mut now = Duration::from_secs(7);
        let taken = |bucket: &mut TokenBucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, now), 3);
        assert!(!bucket.is_full(now));
        now += Duration::from_millis(99);
        assert_eq!(taken(&mut bucket, now), 0);
        now += Duration::from_millis(101);
        assert_eq!(taken(&mut bucket, now), 2);
        now += Duration::from_secs(3_600);
        assert!(bucket.is_full(now));
        assert_eq!(taken(&mut bucket, now), 3);
    }

    #[test]
    fn a_rate_or_burst_of_zero_gives_nothing() {
        for (per_second, burst) in [(0, 3), (3, 0)] {
            assert!(!TokenBucket::new(Rate { per_second, burst }).take(Duration::ZERO));
        }
    }
}
