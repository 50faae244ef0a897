//! The network between two ends.

use std::collections::{BTreeMap, BTreeSet};

use fairway_channel::{PathId, Time};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// One of the two ends.
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

/// A packet on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flying {
    /// Who gets it.
    pub to: Side,
    /// The path that it takes.
    pub path: PathId,
    /// Its bytes.
    pub packet: Vec<u8>,
}

/// Packets on their way.
#[derive(Debug)]
pub struct Net {
    /// What happens to packets sent from now on.
    pub conditions: Conditions,
    /// Nothing that is sent now arrives.
    pub cut: bool,
    /// Nothing that is sent on these paths arrives.
    pub dead: BTreeSet<PathId>,
    /// Packets put into the net, and those of them that it swallowed.
    pub sent: u64,
    /// How many of them were lost.
    pub lost: u64,
    /// By arrival; the counter keeps those of one instant in order.
    flying: BTreeMap<(Time, u64), Flying>,
}

impl Net {
    /// An empty net.
    pub fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            cut: false,
            dead: BTreeSet::new(),
            sent: 0,
            lost: 0,
            flying: BTreeMap::new(),
        }
    }

    /// Takes a packet on its way to `to` over `path`.
    pub fn send(
        &mut self,
        now: Time,
        to: Side,
        path: PathId,
        packet: &[u8],
        random: &mut ChaCha8Rng,
    ) {
        let Conditions {
            delay,
            jitter,
            loss,
            duplication,
            damage,
        } = self.conditions;
        self.sent += 1;
        if self.cut || self.dead.contains(&path) || random.random_bool(loss) {
            self.lost += 1;
            return;
        }
        let copies = 1 + u32::from(random.random_bool(duplication));
        for _ in 0..copies {
            let mut packet = packet.to_vec();
            if random.random_bool(damage) {
                let at = random.random_range(0..packet.len());
                packet[at] ^= 1 << random.random_range(0..8);
            }
            let arrival = now + delay + jitter.mul_f64(random.random());
            let key = (
                arrival,
                self.sent << 1 | u64::from(self.flying.contains_key(&(arrival, self.sent << 1))),
            );
            self.flying.insert(key, Flying { to, path, packet });
        }
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Time> {
        self.flying.keys().next().map(|&(at, _)| at)
    }

    /// A packet that has arrived by now.
    pub fn receive(&mut self, now: Time) -> Option<Flying> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// A path dies with all that is on its way there.
    pub fn kill(&mut self, path: PathId) {
        self.dead.insert(path);
        let before = self.flying.len();
        self.flying.retain(|_, flying| flying.path != path);
        self.lost += (before - self.flying.len()) as u64;
    }

    /// Loses everything that is on its way.
    pub fn lose_all(&mut self) {
        self.lost += self.flying.len() as u64;
        self.flying.clear();
    }
}
