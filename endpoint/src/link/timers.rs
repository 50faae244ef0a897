//! When a driver acts though nothing happens: timers of its sessions and its own.

use std::collections::BTreeSet;
use std::task::Context;

use fairway_channel::Batch;
use fairway_control::limits::LINK_HEADER;
use fairway_daemon::has_released_memory;
use tokio::time::Instant;

use super::Driver;
use crate::conn::Polled;
use crate::limits::{LINK_QUIET, LINK_UNANSWERED_MAX, QUIET};
use crate::transport::LinkIo;

/// When a session is to be told that time has passed.
#[derive(Default)]
pub(super) struct Timer {
    due: Option<Instant>,
    /// Where it stands in [`Timers`]: no later than it is due.
    stands: Option<Instant>,
}

/// The timers of all circuits, in order. One that is put off stays where it
/// stands until then: that happens with every packet, and moving it is dear.
#[derive(Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, u32)>,
}

impl Timers {
    /// A circuit's timer is due at `at` from now on.
    pub(super) fn set(&mut self, circuit: u32, timer: &mut Timer, at: Option<Instant>) {
        timer.due = at;
        let Some(at) = at else {
            return;
        };
        if timer.stands.is_none_or(|stands| at < stands) {
            self.forget_place(circuit, timer);
            self.by_time.insert((at, circuit));
            timer.stands = Some(at);
        }
    }

    /// It is due at `at` at the latest.
    pub(super) fn hasten(&mut self, circuit: u32, timer: &mut Timer, at: Instant) {
        if timer.due.is_none_or(|due| at < due) {
            self.set(circuit, timer, Some(at));
        }
    }

    /// The circuit goes.
    pub(super) fn forget(&mut self, circuit: u32, timer: &mut Timer) {
        timer.due = None;
        self.forget_place(circuit, timer);
    }

    fn forget_place(&mut self, circuit: u32, timer: &mut Timer) {
        if let Some(stands) = timer.stands.take() {
            self.by_time.remove(&(stands, circuit));
        }
    }

    /// The earliest.
    pub(super) fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|&(at, _)| at)
    }

    /// Takes one circuit that stands at a time which has come: see whether its
    /// timer [`fires`](Self::fires).
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, circuit) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        Some(circuit)
    }

    /// Whether the timer is due; one that was put off gets its place anew.
    pub(super) fn fires(&mut self, circuit: u32, timer: &mut Timer, now: Instant) -> bool {
        timer.stands = None;
        if timer.due.is_some_and(|at| at <= now) {
            timer.due = None;
            return true;
        }
        self.set(circuit, timer, timer.due);
        false
    }
}

impl<IO: LinkIo> Driver<IO> {
    /// Sessions are told the time of this reading until the next: it is dear,
    /// and nothing waits in between.
    pub(super) fn read_clock(&mut self) -> Instant {
        let now = Instant::now();
        self.now = self.node.clock.at(now);
        now
    }

    pub(super) fn set_timer(&mut self, id: u32, at: Option<Instant>) {
        if let Some(circuit) = self.circuits.get_mut(&id) {
            self.timers.set(id, &mut circuit.timer, at);
        }
    }

    pub(super) fn fire_timers(&mut self, now: Instant) {
        if now < self.sleep.deadline() {
            return;
        }
        while let Some(id) = self.timers.pop_due(now) {
            let Some(circuit) = self.circuits.get_mut(&id) else {
                continue;
            };
            if self.timers.fires(id, &mut circuit.timer, now)
                && let Some((conn, _)) = &circuit.conn
            {
                conn.timeout(self.now);
                self.make_ready(id);
            }
        }
        self.give_up_half_open(now);
        self.judge_silence();
        self.control.retry_refused(now);
        if self.holds_buffers && now.duration_since(self.read_at) >= QUIET && self.batch.is_empty()
        {
            self.release_memory();
        }
    }

    /// Nothing has come for a while: what is kept for speed is given back.
    fn release_memory(&mut self) {
        self.reader.release();
        self.batch = Batch::new(LINK_HEADER);
        self.polled = Polled::default();
        self.holds_buffers = false;
        for circuit in self.circuits.values() {
            if let Some((conn, _)) = &circuit.conn {
                conn.release_memory();
            }
        }
        has_released_memory();
    }

    /// Sleeps until the first timer. A sleep that is too short is left as it
    /// is: timers move back with every packet, and waking in vain is cheaper.
    pub(super) fn arm(&mut self, cx: &mut Context<'_>) {
        let quiet = self.holds_buffers.then(|| self.read_at + QUIET);
        let half_open = self.half_open.front().map(|&(at, _)| at);
        let silent = self
            .unanswered
            .map(|since| (self.read_at + LINK_QUIET).min(since + LINK_UNANSWERED_MAX));
        let candidates = [
            self.timers.first(),
            quiet,
            half_open,
            silent,
            self.control.retry_at(),
        ];
        let Some(first) = candidates.into_iter().flatten().min() else {
            return;
        };
        if self.sleep.is_elapsed() || first < self.sleep.deadline() {
            self.sleep.as_mut().reset(first);
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What fires at `at`, and only that.
    fn fired(timers: &mut Timers, timer: &mut Timer, at: Instant) -> Vec<u32> {
        let mut fired = Vec::new();
        while let Some(circuit) = timers.pop_due(at) {
            fired.extend(timers.fires(circuit, timer, at).then_some(circuit));
        }
        fired
    }

    #[test]
    fn a_timer_fires_when_it_is_due_however_often_it_was_moved() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let (mut timers, mut timer) = (Timers::default(), Timer::default());
        for ms in [30, 50, 20, 40] {
            timers.set(7, &mut timer, Some(at(ms)));
        }
        assert_eq!(timers.first(), Some(at(20)), "woken early, once");
        assert!(fired(&mut timers, &mut timer, at(39)).is_empty());
        assert_eq!(timers.first(), Some(at(40)));
        assert_eq!(fired(&mut timers, &mut timer, at(40)), [7]);
        assert_eq!(timers.first(), None);
        timers.set(7, &mut timer, Some(at(60)));
        timers.set(7, &mut timer, None);
        assert!(fired(&mut timers, &mut timer, at(100)).is_empty());
        timers.set(7, &mut timer, Some(at(200)));
        timers.forget(7, &mut timer);
        assert_eq!(timers.first(), None);
    }
}
