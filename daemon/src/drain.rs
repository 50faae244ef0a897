//! Leaving in good order: one value that says "finish what you have", counts
//! who has not yet finished, and says "stop now" when the time is up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Coordinates the end of a process. Cheap to clone; all clones are one drain.
///
/// It has two steps. After [`begin`](Self::begin), nothing new is taken on and
/// holders of a [`DrainGuard`] finish at their own pace. After
/// [`stop`](Self::stop) (called by [`finish`](Self::finish) when the time is
/// up, or by a second signal), they drop what they hold.
#[derive(Clone, Debug)]
pub struct Drain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    begun: CancellationToken,
    stopped: CancellationToken,
    tracker: TaskTracker,
}

/// Work in progress: while one lives, [`Drain::finish`] waits.
#[derive(Debug)]
pub struct DrainGuard {
    _token: TaskTrackerToken,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Every guard was dropped in time.
    Clean,
    /// The time was up, or a second signal came; this many guards were left.
    Cut(usize),
}

impl Drain {
    /// A drain that has not been started.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                begun: CancellationToken::new(),
                stopped: CancellationToken::new(),
                tracker: TaskTracker::new(),
            }),
        }
    }

    /// Starts the drain on the first SIGTERM or SIGINT and stops on the second.
    ///
    /// # Errors
    ///
    /// The operating system refused to install the handlers.
    pub fn begin_on_signal(&self) -> io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        tokio::spawn(async move {
            for step in [Self::begin, Self::stop] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                tracing::info!(event = "signal", signal = name, "leaving");
                step(&drain);
            }
        });
        Ok(())
    }

    /// Nothing new from here on. Doing it twice is the same as once.
    pub fn begin(&self) {
        self.inner.begun.cancel();
        self.inner.tracker.close();
    }

    /// Drop everything now. Implies [`begin`](Self::begin).
    pub fn stop(&self) {
        self.begin();
        self.inner.stopped.cancel();
    }

    /// Whether [`begin`](Self::begin) was called.
    pub fn is_started(&self) -> bool {
        self.inner.begun.is_cancelled()
    }

    /// Resolves once the drain has begun.
    pub async fn started(&self) {
        self.inner.begun.cancelled().await;
    }

    /// Resolves once everything must be dropped.
    pub async fn stopped(&self) {
        self.inner.stopped.cancelled().await;
    }

    /// Marks work that should be finished before the process ends.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard {
            _token: self.inner.tracker.token(),
        }
    }

    /// How many guards there are now.
    pub fn guards(&self) -> usize {
        self.inner.tracker.len()
    }

    /// Begins the drain, waits for all guards at most `limit`, then stops.
    pub async fn finish(&self, limit: Duration) -> Finished {
        self.begin();
        let finished = tokio::select! {
            () = self.inner.tracker.wait() => Finished::Clean,
            () = self.stopped() => Finished::Cut(self.guards()),
            () = tokio::time::sleep(limit) => Finished::Cut(self.guards()),
        };
        self.stop();
        finished
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_the_last_guard() {
        let drain = Drain::new();
        let (first, second) = (drain.guard(), drain.guard());
        let work = tokio::spawn({
            let drain = drain.clone();
            async move {
                drain.started().await;
                drop(first);
                tokio::time::sleep(Duration::from_secs(5)).await;
                drop(second);
            }
        });
        assert!(!drain.is_started());
        assert_eq!(drain.finish(Duration::from_secs(10)).await, Finished::Clean);
        assert!(work.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn finish_gives_up_when_the_time_is_over() {
        let drain = Drain::new();
        let _held = drain.guard();
        assert_eq!(drain.finish(Duration::from_secs(1)).await, Finished::Cut(1));
        drain.stopped().await;
    }

    #[tokio::test(start_paused = true)]
    async fn stop_cuts_a_drain_short() {
        let drain = Drain::new();
        let _held = drain.guard();
        drain.stop();
        let limit = Duration::from_secs(3_600);
        assert_eq!(drain.finish(limit).await, Finished::Cut(1));
    }
}
