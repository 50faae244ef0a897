//! Waiting longer after each failure, and never in step with others.

use std::time::Duration;

use crate::random::random_u64;

/// Doubles from `min` to `max`; each wait is a random half to whole of that,
/// so that a thousand devices that lost one relay do not come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            next: min,
        }
    }

    /// The next wait.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        jittered(whole)
    }

    /// Something worked: begin from the start.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

/// A random half to whole of `whole`.
pub(crate) fn jittered(whole: Duration) -> Duration {
    let half = whole / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX - 1);
    half + Duration::from_nanos(random_u64() % (nanos + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_with_jitter_and_begin_anew() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max);
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let whole = Duration::from_millis(whole);
            let wait = backoff.next_wait();
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= min);
    }
}
