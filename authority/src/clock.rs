//! The time of day, brought in by hand so that tests can choose it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fairway_identity::UnixSeconds;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Gives the time of day. Cheap to clone.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> UnixSeconds + Send + Sync>);

impl WallClock {
    /// The system's clock. The cluster's nodes keep it right; a time before
    /// 1970 counts as 1970.
    pub fn system() -> Self {
        Self(Arc::new(|| {
            let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
            UnixSeconds(elapsed.map_or(0, |elapsed| elapsed.as_secs()))
        }))
    }

    /// A clock that asks `now` each time.
    pub fn from_fn(now: impl Fn() -> UnixSeconds + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    pub fn now(&self) -> UnixSeconds {
        (self.0)()
    }
}

impl std::fmt::Debug for WallClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallClock")
    }
}

/// A time as Kubernetes writes it. Times beyond the year 9999 become that.
pub fn to_kubernetes(time: UnixSeconds) -> Time {
    let seconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

/// A time that Kubernetes wrote. Times before 1970 become 1970.
pub fn from_kubernetes(time: &Time) -> UnixSeconds {
    UnixSeconds(u64::try_from(time.0.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_through_kubernetes() {
        let time = UnixSeconds(1_795_000_000);
        assert_eq!(from_kubernetes(&to_kubernetes(time)), time);
        assert!(from_kubernetes(&to_kubernetes(UnixSeconds(u64::MAX))).0 > 0);
    }
}
