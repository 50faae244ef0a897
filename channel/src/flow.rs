//! Credit, as it is counted for each stream and for the whole channel.
//!
//! A stream's window is what it may have on the way or unread: it bounds what
//! one slow reader holds. The channel's window is what all streams together
//! may have on the way; what waits to be read does not count against it, as
//! long as everything together stays within the channel's memory. So a slow
//! reader costs memory, within its bound, and stalls nobody else. Both windows
//! begin small and grow with the product of bandwidth and delay.

use crate::{Time, limits, varint};

/// What is known about the speed of the path, when credit is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) now: Time,
    /// The least round trip time, once measured.
    pub(crate) rtt: Option<Time>,
}

/// A window that doubles as long as it is what holds the peer back.
#[derive(Debug)]
struct Window {
    size: u64,
    most: u64,
    /// When it was last looked at, in microseconds, and how far the peer was then.
    at: u64,
    from: u64,
}

impl Window {
    fn new(size: u64, most: u64) -> Self {
        Self {
            size,
            most,
            at: 0,
            from: 0,
        }
    }

    /// The peer is at `count` now. If it went through the window in less than
    /// two round trips (on short paths, two turns of the processes), it had to
    /// wait for credit: the window doubles, by no more than `budget`. The answer
    /// is by how much.
    fn grow(&mut self, pace: Pace, count: u64, budget: u64) -> u64 {
        let now = pace.now.as_micros() as u64;
        let (elapsed, moved) = (now.saturating_sub(self.at), count - self.from);
        if self.size >= self.most {
            return 0;
        }
        (self.at, self.from) = (now, count);
        let Some(rtt) = pace.rtt else {
            return 0;
        };
        let rtt = rtt.max(limits::MIN_WINDOW_RTT).as_micros();
        if u128::from(elapsed) * u128::from(self.size) >= 2 * rtt * u128::from(moved) {
            return 0;
        }
        let more = self.size.min(self.most - self.size).min(budget);
        self.size += more;
        more
    }
}

/// What this side allows the peer to send on one stream.
#[derive(Debug)]
pub(crate) struct Allowance {
    window: Window,
    /// By how much the window has grown.
    grown: u64,
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

/// Counts what came against what was allowed.
fn receive(received: &mut u64, max: u64, bytes: u64) -> Result<(), Overrun> {
    match received.checked_add(bytes) {
        Some(sum) if sum <= max => {
            *received = sum;
            Ok(())
        }
        _ => Err(Overrun),
    }
}

impl Allowance {
    /// The first `window` bytes are allowed from the start; it may grow to `most`.
    pub(crate) fn new(window: u64, most: u64) -> Self {
        Self {
            window: Window::new(window, most),
            grown: 0,
            max: window,
            received: 0,
            consumed: 0,
        }
    }

    /// The peer sent this many more bytes.
    pub(crate) fn receive(&mut self, bytes: u64) -> Result<(), Overrun> {
        receive(&mut self.received, self.max, bytes)
    }

    /// The reader took (or will never take) this many bytes. Whether it is
    /// time to tell the peer: when a quarter of the window can be given back.
    pub(crate) fn consume(&mut self, bytes: u64) -> bool {
        self.consumed += bytes;
        debug_assert!(self.consumed <= self.received);
        self.consumed + self.window.size - self.max >= self.window.size / 4
    }

    /// Gives back what was consumed: the new limit to tell. `budget` is what
    /// windows of streams may grow by, all together.
    pub(crate) fn raise(&mut self, pace: Pace, budget: &mut u64) -> u64 {
        let more = self.window.grow(pace, self.consumed, *budget);
        *budget -= more;
        self.grown += more;
        self.max = (self.consumed + self.window.size).min(varint::MAX);
        self.max
    }

    /// What it had of the budget, when its stream is over.
    pub(crate) fn grown(&self) -> u64 {
        self.grown
    }
}

/// What this side allows the peer to send on all streams together.
#[derive(Debug)]
pub(crate) struct SharedAllowance {
    window: Window,
    /// What may wait here unread, together with the window.
    memory: u64,
    max: u64,
    received: u64,
    consumed: u64,
}

impl SharedAllowance {
    /// The first `window` bytes are allowed from the start; it may grow to
    /// `most`, and with what waits to be read never beyond `memory`.
    pub(crate) fn new(window: u64, most: u64, memory: u64) -> Self {
        Self {
            window: Window::new(window, most),
            memory: memory.max(window),
            max: window,
            received: 0,
            consumed: 0,
        }
    }

    /// The peer sent this many more bytes.
    pub(crate) fn receive(&mut self, bytes: u64) -> Result<(), Overrun> {
        receive(&mut self.received, self.max, bytes)
    }

    /// How much came in all.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Readers took (or will never take) this many bytes.
    pub(crate) fn consume(&mut self, bytes: u64) {
        self.consumed += bytes;
        debug_assert!(self.consumed <= self.received);
    }

    /// Whether it is time to tell the peer: when a quarter of the window can
    /// be given.
    pub(crate) fn wants_raise(&self) -> bool {
        self.limit().saturating_sub(self.max) >= self.window.size / 4
    }

    /// The new limit to tell.
    pub(crate) fn raise(&mut self, pace: Pace) -> u64 {
        let budget = self.memory - self.window.size;
        self.window.grow(pace, self.received, budget);
        self.max = self.limit().clamp(self.max, varint::MAX);
        self.max
    }

    fn limit(&self) -> u64 {
        (self.received + self.window.size).min(self.consumed + self.memory)
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

    /// What the peer allows in all.
    pub(crate) fn max(&self) -> u64 {
        self.max
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

    fn still() -> Pace {
        Pace {
            now: Time::ZERO,
            rtt: None,
        }
    }

    fn at(millis: u64) -> Pace {
        Pace {
            now: Time::from_millis(millis),
            rtt: Some(Time::from_millis(100)),
        }
    }

    #[test]
    fn an_overrun_by_one_byte_is_found() {
        let mut allowance = Allowance::new(100, 100);
        assert_eq!(allowance.receive(100), Ok(()));
        assert_eq!(allowance.receive(1), Err(Overrun));
        assert_eq!(allowance.receive(u64::MAX), Err(Overrun));
        let mut shared = SharedAllowance::new(100, 100, 1000);
        assert_eq!(shared.receive(101), Err(Overrun));
        assert_eq!(shared.receive(100), Ok(()));
    }

    #[test]
    fn credit_comes_back_by_the_quarter() {
        let mut allowance = Allowance::new(100, 100);
        allowance.receive(60).unwrap();
        assert!(!allowance.consume(24));
        assert!(allowance.consume(1));
        assert_eq!(allowance.raise(still(), &mut 1000), 125);
        assert!(!allowance.consume(10));
    }

    #[test]
    fn a_window_that_holds_the_peer_back_doubles_up_to_its_bounds() {
        let (mut allowance, mut budget) = (Allowance::new(1000, 8000), 4000);
        let mut window = 1000;
        let mut sizes = Vec::new();
        // A whole window in each round trip: the peer waits for credit.
        for round in 0..6 {
            allowance.receive(window).unwrap();
            allowance.consume(window);
            let before = allowance.consumed;
            window = allowance.raise(at(1000 + 100 * round), &mut budget) - before;
            sizes.push(window);
        }
        assert_eq!(sizes, [1000, 2000, 4000, 5000, 5000, 5000], "the budget");
        assert_eq!((allowance.grown(), budget), (4000, 0));
    }

    #[test]
    fn a_window_that_nobody_waits_for_stays_small() {
        let (mut allowance, mut budget) = (Allowance::new(1000, 8000), 4000);
        for round in 0..20 {
            allowance.receive(300).unwrap();
            allowance.consume(300);
            allowance.raise(at(1000 + 100 * round), &mut budget);
        }
        assert_eq!((allowance.grown(), budget), (0, 4000));
    }

    #[test]
    fn what_waits_to_be_read_costs_memory_and_not_credit() {
        let mut shared = SharedAllowance::new(100, 100, 350);
        for expected in [200, 300, 350] {
            let free = shared.max - shared.received;
            shared.receive(free).unwrap();
            assert!(shared.wants_raise());
            assert_eq!(shared.raise(still()), expected);
        }
        shared.receive(50).unwrap();
        assert!(!shared.wants_raise(), "memory is full");
        shared.consume(40);
        assert_eq!(shared.raise(still()), 390);
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
