//! Time as this crate sees it: seconds that the caller brings.

use std::fmt;

/// Whole seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This time plus `seconds`; stays at the end of time instead of wrapping.
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// This time minus `seconds`; stays at 1970 instead of wrapping.
    pub const fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// Seconds from `earlier` to this time; 0 if `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the caller knows about the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The time now, from a clock that was set.
    Trusted(UnixSeconds),
    /// It is at least this late; how much later is not known. Good enough to
    /// meet the authority or a relay and ask, and for nothing else.
    Floor(UnixSeconds),
}

impl Clock {
    /// The earliest time that it can be now.
    pub const fn at_least(self) -> UnixSeconds {
        match self {
            Self::Trusted(now) | Self::Floor(now) => now,
        }
    }
}
