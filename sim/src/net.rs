//! What happens to packets between ends.

use std::collections::BTreeMap;

use fairway_session::Time;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// One of the two ends of a [`Pair`](crate::Pair).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The one that dials.
    Initiator,
    /// The one that answers.
    Responder,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// What happens to packets on their way. Chances are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// Least time on the way.
    pub delay: Time,
    /// Up to this much is added to it, which reorders packets.
    pub jitter: Time,
    /// Chance of never arriving.
    pub loss: f64,
    /// Chance of arriving twice.
    pub duplication: f64,
    /// Chance of arriving with one bit changed.
    pub damage: f64,
}

impl Conditions {
    /// A wire: 1 ms, in order, nothing lost.
    pub const fn perfect() -> Self {
        Self {
            delay: Time::from_millis(1),
            jitter: Time::ZERO,
            loss: 0.0,
            duplication: 0.0,
            damage: 0.0,
        }
    }

    /// A bad radio link: a fifth is lost, and the order means little.
    pub const fn bad() -> Self {
        Self {
            delay: Time::from_millis(20),
            jitter: Time::from_millis(60),
            loss: 0.2,
            duplication: 0.1,
            damage: 0.02,
        }
    }
}

/// Packets on their way to addresses of the kind `A`.
#[derive(Debug)]
pub struct Net<A> {
    /// What happens to packets sent from now on.
    pub conditions: Conditions,
    /// Nothing that is sent now arrives.
    pub cut: bool,
    /// Packets put into the net, and those of them that it swallowed.
    pub sent: u64,
    /// How many of them were lost.
    pub lost: u64,
    /// By arrival; the counter keeps those of one instant in order.
    flying: BTreeMap<(Time, u64), (A, Vec<u8>)>,
    flights: u64,
    /// When the last packet of a lane arrives.
    lanes: BTreeMap<u64, Time>,
}

impl<A: Clone> Net<A> {
    /// An empty net.
    pub fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            cut: false,
            sent: 0,
            lost: 0,
            flying: BTreeMap::new(),
            flights: 0,
            lanes: BTreeMap::new(),
        }
    }

    /// Takes a packet on its way; what becomes of it is up to the conditions.
    pub fn send(&mut self, now: Time, to: A, packet: &[u8], random: &mut ChaCha8Rng) {
        let Conditions {
            delay,
            jitter,
            loss,
            duplication,
            damage,
        } = self.conditions;
        self.sent += 1;
        if self.cut || random.random_bool(loss) {
            self.lost += 1;
            return;
        }
        let copies = 1 + u32::from(random.random_bool(duplication));
        for _ in 0..copies {
            let mut packet = packet.to_vec();
            if random.random_bool(damage) && !packet.is_empty() {
                let at = random.random_range(0..packet.len());
                packet[at] ^= 1 << random.random_range(0..8);
            }
            let arrival = now + delay + jitter.mul_f64(random.random());
            self.fly(arrival, to.clone(), packet);
        }
    }

    /// Takes a packet that is not lost and comes behind all that were sent on
    /// this lane before, not before `earliest`: as on a TCP connection.
    pub fn send_in_order(
        &mut self,
        now: Time,
        earliest: Time,
        lane: u64,
        to: A,
        packet: Vec<u8>,
        random: &mut ChaCha8Rng,
    ) {
        self.sent += 1;
        let Conditions { delay, jitter, .. } = self.conditions;
        let arrival = now + delay + jitter.mul_f64(random.random());
        let last = self.lanes.entry(lane).or_default();
        *last = arrival.max(*last).max(earliest);
        let arrival = *last;
        self.fly(arrival, to, packet);
    }

    fn fly(&mut self, arrival: Time, to: A, packet: Vec<u8>) {
        self.flights += 1;
        self.flying.insert((arrival, self.flights), (to, packet));
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Time> {
        self.flying.keys().next().map(|&(at, _)| at)
    }

    /// A packet that has arrived by now.
    pub fn receive(&mut self, now: Time) -> Option<(A, Vec<u8>)> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Loses what is on its way to such addresses.
    pub fn lose(&mut self, doomed: impl Fn(&A) -> bool) {
        let before = self.flying.len();
        self.flying.retain(|_, (to, _)| !doomed(to));
        self.lost += (before - self.flying.len()) as u64;
    }
}
