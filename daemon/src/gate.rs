//! Who may come in: connections counted, in all and by where they come from,
//! before anything is spent on them.
//!
//! A connection is *half-open* until whoever is at its other end has shown who
//! they are. There is room for a bounded number of those. When it is full, the
//! oldest half-open connection of the source that has most of them gives way:
//! who floods drives out their own, and a newcomer always gets a try.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::rate::{Rate, TokenBucket};

/// What a [`Gate`] lets in.
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Connections at once, in whatever state.
    pub connections: usize,
    /// Connections at once that have not been authenticated.
    pub half_open: usize,
    /// New connections from everywhere together.
    pub accepts: Rate,
    /// New connections from one source.
    pub accepts_per_source: Rate,
}

/// Sources whose rates are remembered one by one. All others share one more
/// bucket of a source, until those remembered have been quiet.
const SOURCES_MAX: usize = 16_384;

/// Counts the connections of one process. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: GateLimits,
    origin: Instant,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    n_connections: usize,
    next_id: u64,
    half_open: BTreeMap<u64, HalfOpen>,
    by_source: BTreeMap<Source, BTreeSet<u64>>,
    /// The same sources, in order of how many they have.
    ranks: BTreeSet<(usize, Source)>,
    accepts: TokenBucket,
    rates: HashMap<Source, TokenBucket>,
    other_rates: TokenBucket,
}

#[derive(Debug)]
struct HalfOpen {
    source: Source,
    waiting: Arc<Waiting>,
}

/// How a half-open connection hears that it has to go.
#[derive(Debug, Default)]
struct Waiting(Mutex<(bool, Option<Waker>)>);

/// Where connections come from: an IPv4 address, or the network of an IPv6
/// one, since a host has as many addresses there as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Source(u128);

/// A connection that was let in; counted while it lives.
#[derive(Debug)]
pub struct Entry {
    gate: Gate,
    id: u64,
    /// While half-open.
    waiting: Option<Arc<Waiting>>,
}

/// A connection is not let in. All of these pass: try again later, or elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// As many connections as the process can have.
    #[error("too many connections; try another, or again later")]
    Full,
    /// Too many new ones at once, from everywhere together.
    #[error("too many new connections at once; try another, or again later")]
    TooFast,
    /// Too many new ones at once from this source.
    #[error("too many new connections at once from this address; try again later")]
    SourceTooFast,
}

impl Gate {
    /// A gate through which nobody has come.
    pub fn new(limits: GateLimits) -> Self {
        Self(Arc::new(Shared {
            limits,
            origin: Instant::now(),
            books: Mutex::new(Books {
                n_connections: 0,
                next_id: 0,
                half_open: BTreeMap::new(),
                by_source: BTreeMap::new(),
                ranks: BTreeSet::new(),
                accepts: TokenBucket::new(limits.accepts),
                rates: HashMap::new(),
                other_rates: TokenBucket::new(limits.accepts_per_source),
            }),
        }))
    }

    /// Counts a new connection from `from`, half-open.
    ///
    /// # Errors
    ///
    /// It is not to be served: close it.
    pub fn admit(&self, from: IpAddr) -> Result<Entry, NotAdmitted> {
        let now = self.0.origin.elapsed();
        let (limits, source) = (&self.0.limits, Source::of(from));
        let mut books = self.books();
        if books.n_connections >= limits.connections {
            return Err(NotAdmitted::Full);
        }
        // A source that is too fast does not use up what is there for all.
        if !books.take_from(source, limits, now) {
            return Err(NotAdmitted::SourceTooFast);
        }
        if !books.accepts.take(now) {
            return Err(NotAdmitted::TooFast);
        }
        let waiting = Arc::<Waiting>::default();
        let id = books.next_id;
        books.next_id += 1;
        books.n_connections += 1;
        books.add_half_open(id, source, waiting.clone());
        let gives_way = (books.half_open.len() > limits.half_open)
            .then(|| books.first_of_the_heaviest())
            .flatten();
        drop(books);
        if let Some(gives_way) = gives_way {
            gives_way.evict();
        }
        Ok(Entry {
            gate: self.clone(),
            id,
            waiting: Some(waiting),
        })
    }

    /// Connections at present.
    pub fn n_connections(&self) -> usize {
        self.books().n_connections
    }

    /// Connections at present that have not been authenticated.
    pub fn n_half_open(&self) -> usize {
        self.books().half_open.len()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0
            .books
            .lock()
            .expect("no panic while the lock is held")
    }
}

impl Entry {
    /// Whoever is at the other end has shown who they are: the connection is
    /// half-open no more, and gives way to nobody.
    pub fn authenticated(&mut self) {
        self.gate.books().remove_half_open(self.id);
        // There may be very many of these.
        self.waiting = None;
    }

    /// Resolves when the connection has to give way to others: close it. Never
    /// for one that was [`authenticated`](Self::authenticated) before.
    pub async fn evicted(&self) {
        std::future::poll_fn(|cx| self.poll_evicted(cx)).await;
    }

    /// Poll form of [`evicted`](Self::evicted); one task at a time is woken.
    pub fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(waiting) = &self.waiting else {
            return Poll::Pending;
        };
        let mut state = waiting.lock();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut books = self.gate.books();
        books.remove_half_open(self.id);
        books.n_connections -= 1;
    }
}

impl Waiting {
    fn evict(&self) {
        let waker = {
            let mut state = self.lock();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, (bool, Option<Waker>)> {
        self.0.lock().expect("no panic while the lock is held")
    }
}

impl Books {
    fn take_from(&mut self, source: Source, limits: &GateLimits, now: Duration) -> bool {
        if !self.rates.contains_key(&source) && self.rates.len() >= SOURCES_MAX {
            self.rates.retain(|_, bucket| !bucket.is_full(now));
        }
        let is_remembered = self.rates.contains_key(&source) || self.rates.len() < SOURCES_MAX;
        if !is_remembered {
            return self.other_rates.take(now);
        }
        let fresh = || TokenBucket::new(limits.accepts_per_source);
        self.rates.entry(source).or_insert_with(fresh).take(now)
    }

    fn add_half_open(&mut self, id: u64, source: Source, waiting: Arc<Waiting>) {
        self.half_open.insert(id, HalfOpen { source, waiting });
        let ids = self.by_source.entry(source).or_default();
        self.ranks.remove(&(ids.len(), source));
        ids.insert(id);
        self.ranks.insert((ids.len(), source));
    }

    fn remove_half_open(&mut self, id: u64) -> Option<Arc<Waiting>> {
        let HalfOpen { source, waiting } = self.half_open.remove(&id)?;
        if let Some(ids) = self.by_source.get_mut(&source) {
            self.ranks.remove(&(ids.len(), source));
            ids.remove(&id);
            if ids.is_empty() {
                self.by_source.remove(&source);
            } else {
                self.ranks.insert((ids.len(), source));
            }
        }
        Some(waiting)
    }

    /// Takes the one out that gives way.
    fn first_of_the_heaviest(&mut self) -> Option<Arc<Waiting>> {
        let &(n, source) = self.ranks.last()?;
        let id = if n > 1 {
            *self.by_source.get(&source)?.first()?
        } else {
            // All sources have one: the oldest of all had the most time.
            *self.half_open.first_key_value()?.0
        };
        self.remove_half_open(id)
    }
}

impl Source {
    fn of(address: IpAddr) -> Self {
        let bits = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => Ipv6Addr::to_bits(v6) >> 64 << 64,
        };
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Rate = Rate {
        per_second: 1_000_000,
        burst: 1_000_000,
    };
    const LIMITS: GateLimits = GateLimits {
        connections: 100,
        half_open: 8,
        accepts: PLENTY,
        accepts_per_source: PLENTY,
    };

    fn address(last: u16) -> IpAddr {
        let [high, low] = last.to_be_bytes();
        IpAddr::from([198, 18, high, low])
    }

    fn is_evicted(entry: &Entry) -> bool {
        entry
            .poll_evicted(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn one_source_that_floods_drives_out_its_own() {
        let gate = Gate::new(LIMITS);
        let others: Vec<_> = (1..=4).map(|n| gate.admit(address(n)).unwrap()).collect();
        let flood: Vec<_> = (0..50).map(|_| gate.admit(address(9)).unwrap()).collect();
        assert!(others.iter().all(|entry| !is_evicted(entry)));
        // Its newest four are left, and its next one still comes in.
        let left: Vec<_> = flood.iter().map(is_evicted).collect();
        assert!(left[..46].iter().all(|gone| *gone) && !left[46..].contains(&true));
        assert_eq!((gate.n_half_open(), gate.n_connections()), (8, 54));
        drop(flood);
        assert_eq!((gate.n_half_open(), gate.n_connections()), (4, 4));
    }

    #[test]
    fn of_many_sources_the_oldest_gives_way() {
        let gate = Gate::new(LIMITS);
        let entries: Vec<_> = (1..=9).map(|n| gate.admit(address(n)).unwrap()).collect();
        let gone: Vec<_> = entries.iter().map(is_evicted).collect();
        assert!(gone[0] && !gone[1..].contains(&true));
    }

    #[test]
    fn who_is_authenticated_gives_way_to_nobody_and_still_counts() {
        let gate = Gate::new(LIMITS);
        let links: Vec<_> = (0..50)
            .map(|_| {
                let mut entry = gate.admit(address(1)).unwrap();
                entry.authenticated();
                entry
            })
            .collect();
        let flood: Vec<_> = (0..50).map(|_| gate.admit(address(2)).unwrap()).collect();
        assert!(!links.iter().any(is_evicted));
        assert_eq!(gate.admit(address(3)).unwrap_err(), NotAdmitted::Full);
        drop(flood);
        assert_eq!((gate.n_half_open(), gate.n_connections()), (0, 50));
        assert!(gate.admit(address(3)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn new_connections_have_a_rate_by_source_and_in_all() {
        let slow = |per_second, burst| Rate { per_second, burst };
        let gate = Gate::new(GateLimits {
            connections: 1_000,
            half_open: 1_000,
            accepts: slow(10, 50),
            accepts_per_source: slow(1, 20),
        });
        let admit = |n| gate.admit(address(n)).map(std::mem::forget);
        let admitted = |n| (0..100).filter(|_| admit(n).is_ok()).count();
        assert_eq!((admitted(1), admitted(2), admitted(3)), (20, 20, 10));
        assert_eq!(admit(1), Err(NotAdmitted::SourceTooFast));
        assert_eq!(admit(4), Err(NotAdmitted::TooFast));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((admitted(1), admitted(4)), (1, 9));
    }

    #[test]
    fn what_is_remembered_of_sources_is_bounded() {
        let gate = Gate::new(GateLimits {
            connections: usize::MAX,
            half_open: 0,
            accepts: PLENTY,
            accepts_per_source: Rate {
                per_second: 1,
                burst: 5,
            },
        });
        for n in 0..SOURCES_MAX as u32 + 100 {
            let _ = gate.admit(IpAddr::from(n.to_be_bytes()));
        }
        let books = gate.books();
        assert_eq!(books.rates.len(), SOURCES_MAX);
        assert!(books.by_source.is_empty() && books.ranks.is_empty());
    }

    #[test]
    fn the_addresses_of_one_host_are_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("198.18.0.1"), of("::ffff:198.18.0.1"));
        assert_ne!(of("198.18.0.1"), of("198.18.0.2"));
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_it() {
        let gate = Gate::new(GateLimits {
            half_open: 1,
            ..LIMITS
        });
        let first = gate.admit(address(1)).unwrap();
        let waiting = tokio::spawn(async move { first.evicted().await });
        tokio::task::yield_now().await;
        let _second = gate.admit(address(1)).unwrap();
        waiting.await.unwrap();
    }
}
