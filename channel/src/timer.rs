//! The clocks of a channel that belong to none of its parts.

use crate::Time;

/// What a timer is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Timer {
    /// The handshake with its hellos must be complete.
    Handshake,
    /// Send the last handshake packet again.
    Resend,
    /// Send a PING, nothing was heard for long.
    Keepalive,
    /// Give the peer up.
    Idle,
    /// There has been no path for too long.
    Path,
    /// Try the candidate path again, or give it up.
    Candidate,
    /// The keys are old.
    Renew,
    /// The keys of the epoch before are no longer needed.
    Retire,
}

impl Timer {
    const ALL: [Self; 8] = [
        Self::Handshake,
        Self::Resend,
        Self::Keepalive,
        Self::Idle,
        Self::Path,
        Self::Candidate,
        Self::Renew,
        Self::Retire,
    ];
}

/// A table of deadlines; they are few enough to look at all of them. In
/// nanoseconds, since there is one such table for each idle channel.
#[derive(Debug)]
pub(crate) struct Timers([u64; Timer::ALL.len()]);

/// A time in nanoseconds: half as large as a [`Time`], of which an idle channel
/// has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp(u64);

impl From<Time> for Stamp {
    fn from(at: Time) -> Self {
        Self(nanos(at))
    }
}

impl From<Stamp> for Time {
    fn from(stamp: Stamp) -> Self {
        Self::from_nanos(stamp.0)
    }
}

const OFF: u64 = u64::MAX;

impl Default for Timers {
    fn default() -> Self {
        Self([OFF; Timer::ALL.len()])
    }
}

fn nanos(at: Time) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(OFF)
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Time>) {
        self.0[timer as usize] = at.map_or(OFF, nanos);
    }

    /// Sets a timer, unless it goes off before anyway.
    pub(crate) fn set_earlier(&mut self, timer: Timer, at: Time) {
        let slot = &mut self.0[timer as usize];
        *slot = nanos(at).min(*slot);
    }

    /// Takes a timer whose time has come.
    pub(crate) fn expired(&mut self, now: Time) -> Option<Timer> {
        let timer = Timer::ALL
            .into_iter()
            .find(|&timer| self.0[timer as usize] <= nanos(now))?;
        self.0[timer as usize] = OFF;
        Some(timer)
    }

    pub(crate) fn next(&self) -> Option<Time> {
        let next = self.0.iter().min().copied().filter(|&at| at != OFF);
        next.map(Time::from_nanos)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_timer_fires_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Idle, Some(Time::from_secs(2)));
        timers.set(Timer::Keepalive, Some(Time::from_secs(1)));
        assert_eq!(timers.next(), Some(Time::from_secs(1)));
        let now = Time::from_secs(3);
        assert!(matches!(timers.expired(now), Some(Timer::Keepalive)));
        assert!(matches!(timers.expired(now), Some(Timer::Idle)));
        assert!(timers.expired(now).is_none());
        assert_eq!(timers.next(), None);
    }
}
