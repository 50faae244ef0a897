//! What each kind of peer may use, so that one kind cannot starve another.

use super::Time;

/// A kind of peer. Each has a [`Budget`] of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A pod with a valid credential.
    Workload,
    /// A device with a valid credential.
    Device,
    /// A genuine credential that has expired: it may reach the authority to renew.
    Expired,
    /// No credential: it may reach the authority to enrol.
    Anonymous,
}

/// What all peers of one class may use together, and each of them.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Links at once.
    pub links: usize,
    /// Circuits at once that links of this class opened.
    pub circuits: usize,
    /// Circuits at once on one link, whoever opened them.
    pub circuits_per_link: usize,
    /// How often circuits may be opened, by all together.
    pub opens: Rate,
    /// How often one link may open circuits.
    pub opens_per_link: Rate,
    /// DATA payload bytes of one circuit, both directions together, in its
    /// whole life. `None`: no limit.
    pub bytes_per_circuit: Option<u64>,
    /// How long a link may last. `None`: no limit.
    pub lifetime: Option<Time>,
}

/// A rate with a burst.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Sustained, in events a second.
    pub per_second: u32,
    /// At once, after a quiet time.
    pub burst: u32,
}

/// The budgets of all classes.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Of [`Class::Workload`].
    pub workload: Budget,
    /// Of [`Class::Device`].
    pub device: Budget,
    /// Of [`Class::Expired`].
    pub expired: Budget,
    /// Of [`Class::Anonymous`].
    pub anonymous: Budget,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 4] = [Self::Workload, Self::Device, Self::Expired, Self::Anonymous];

    /// A short word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Device => "device",
            Self::Expired => "expired",
            Self::Anonymous => "anonymous",
        }
    }
}

impl Budgets {
    /// The budget of `class`.
    pub fn of(&self, class: Class) -> &Budget {
        match class {
            Class::Workload => &self.workload,
            Class::Device => &self.device,
            Class::Expired => &self.expired,
            Class::Anonymous => &self.anonymous,
        }
    }
}

/// What one class uses now.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) links: usize,
    pub(super) circuits: usize,
    opens: TokenBucket,
}

impl Usage {
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            links: 0,
            circuits: 0,
            opens: TokenBucket::new(budget.opens),
        }
    }

    /// Takes one circuit out of the budget; `false` when there is none.
    pub(super) fn take_circuit(&mut self, now: Time, budget: &Budget) -> bool {
        let fits = self.circuits < budget.circuits && self.opens.take(now);
        self.circuits += usize::from(fits);
        fits
    }
}

/// A token bucket by the generic cell rate algorithm (ITU-T I.371): one time
/// instead of a count that must be refilled.
#[derive(Debug)]
pub(super) struct TokenBucket {
    rate: Rate,
    /// When the bucket will be full again.
    full_at: Time,
}

impl TokenBucket {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            full_at: Time::ZERO,
        }
    }

    pub(super) fn take(&mut self, now: Time) -> bool {
        let Some(one) = Time::from_secs(1).checked_div(self.rate.per_second) else {
            return false;
        };
        let full_at = self.full_at.max(now) + one;
        let fits = full_at - now <= one * self.rate.burst;
        if fits {
            self.full_at = full_at;
        }
        fits
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
        let mut now = Time::from_secs(7);
        let taken = |bucket: &mut TokenBucket, now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, now), 3);
        now += Time::from_millis(99);
        assert_eq!(taken(&mut bucket, now), 0);
        now += Time::from_millis(101);
        assert_eq!(taken(&mut bucket, now), 2);
        now += Time::from_secs(3_600);
        assert_eq!(taken(&mut bucket, now), 3);
    }

    #[test]
    fn a_rate_or_burst_of_zero_gives_nothing() {
        for (per_second, burst) in [(0, 3), (3, 0)] {
            assert!(!TokenBucket::new(Rate { per_second, burst }).take(Time::ZERO));
        }
    }
}
