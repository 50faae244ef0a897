//! The two clocks of a node: a monotonic one, and what is known of the true time.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use fairway_identity::{Clock, UnixSeconds};
use fairway_session::Now;
use tokio::time::Instant;

use crate::ClockSource;

/// Answers "what time is it" for every session of a node.
#[derive(Debug)]
pub(crate) struct NodeClock {
    /// Monotonic time is counted from here.
    origin: Instant,
    known: Mutex<Known>,
}

/// The authority's time cannot be right.
#[derive(Debug, thiserror::Error)]
#[error("the authority says that it is {time}, but it was {floor} before")]
pub(crate) struct BeforeFloor {
    time: UnixSeconds,
    floor: UnixSeconds,
}

#[derive(Clone, Copy, Debug)]
enum Known {
    /// Ask this each time.
    Trusted(fn() -> UnixSeconds),
    /// Nothing but a lower bound.
    Floor(UnixSeconds),
    /// It was `time` at `at`.
    Since { at: Instant, time: UnixSeconds },
}

impl NodeClock {
    pub(crate) fn new(source: ClockSource) -> Self {
        let known = match source {
            ClockSource::System => Known::Trusted(system_time),
            ClockSource::Other(time) => Known::Trusted(time),
            ClockSource::Unknown { floor } => Known::Floor(floor),
        };
        Self {
            origin: Instant::now(),
            known: Mutex::new(known),
        }
    }

    /// Monotonic time since the node began.
    pub(crate) fn mono(&self) -> Duration {
        self.origin.elapsed()
    }

    /// What sessions are told.
    pub(crate) fn now(&self) -> Now {
        self.at(Instant::now())
    }

    /// What sessions are told at this moment, which is now.
    pub(crate) fn at(&self, now: Instant) -> Now {
        Now {
            mono: now.duration_since(self.origin),
            clock: self.clock_at(now),
        }
    }

    /// The moment of a monotonic time.
    pub(crate) fn instant(&self, mono: Duration) -> Instant {
        // A time too far to express is never waited for.
        self.origin
            .checked_add(mono)
            .unwrap_or_else(|| self.origin + Duration::from_secs(365 * 24 * 3600))
    }

    /// What is known of the true time.
    pub(crate) fn clock(&self) -> Clock {
        self.clock_at(Instant::now())
    }

    fn clock_at(&self, now: Instant) -> Clock {
        match *self.lock() {
            Known::Trusted(time) => Clock::Trusted(time()),
            Known::Floor(floor) => Clock::Floor(floor),
            Known::Since { at, time } => {
                Clock::Trusted(time.plus(now.duration_since(at).as_secs()))
            }
        }
    }

    /// Whether the true time is known.
    pub(crate) fn is_set(&self) -> bool {
        matches!(self.clock(), Clock::Trusted(_))
    }

    /// The authority signed `time`, and it was asked at `asked`. A clock that
    /// is trusted stays as it is; a time before the floor is not believed.
    pub(crate) fn set(&self, asked: Instant, time: UnixSeconds) -> Result<(), BeforeFloor> {
        let mut known = self.lock();
        match *known {
            Known::Trusted(_) => {}
            Known::Floor(floor) if time < floor => return Err(BeforeFloor { time, floor }),
            Known::Floor(_) | Known::Since { .. } => *known = Known::Since { at: asked, time },
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while the lock is held")
    }
}

fn system_time() -> UnixSeconds {
    // A clock before 1970 is at 1970: everything that is signed is then not
    // yet valid, which is the safe side.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |d| d.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unknown_clock_is_a_floor_until_it_is_set_and_then_counts() {
        let clock = NodeClock::new(ClockSource::Unknown {
            floor: UnixSeconds(1_000),
        });
        assert_eq!(clock.clock(), Clock::Floor(UnixSeconds(1_000)));
        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(clock.set(asked, UnixSeconds(999)).is_err());
        clock.set(asked, UnixSeconds(5_000)).unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clock.clock(), Clock::Trusted(UnixSeconds(5_062)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_system_clock_is_not_overruled() {
        let clock = NodeClock::new(ClockSource::System);
        clock.set(Instant::now(), UnixSeconds(5)).unwrap();
        assert!(clock.is_set());
        assert!(clock.clock().at_least() > UnixSeconds(1_000_000_000));
    }
}
