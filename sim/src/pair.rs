//! Two channels, one clock.

use std::collections::{BTreeSet, VecDeque};

use bytes::BytesMut;
use fairway_channel::{Batch, Channel, Config, Event, Output, PathId, StaticSecret, Time};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Conditions, Net, Side};

/// More steps than any test needs: a run that takes more has come to no end.
const MAX_STEPS: u64 = 5_000_000;

/// One end, and what it said.
#[derive(Debug)]
pub struct End {
    /// The machine under test. After calls on it, the next [`Pair::step`] drains it.
    pub channel: Channel,
    /// What it said and nobody has taken yet.
    pub events: VecDeque<Event>,
    /// Answer `PeerHello` with `proceed`. On by default.
    pub admits: bool,
    /// Its static key, which renewals show again.
    pub secret: StaticSecret,
    timeout: Option<Time>,
}

/// Two channels, a net between them and one clock.
#[derive(Debug)]
pub struct Pair {
    /// The simulated time.
    pub now: Time,
    /// The net between the two.
    pub net: Net<(Side, PathId)>,
    /// Nothing that is sent on these paths arrives.
    pub dead: BTreeSet<PathId>,
    /// The dice, for tests that need some too.
    pub random: ChaCha8Rng,
    /// The end that dials.
    pub initiator: End,
    /// The end that answers.
    pub responder: End,
    batch: Batch,
    steps: u64,
}

/// The run did not come to where it should within its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimit;

impl Pair {
    /// Two fresh ends; all chance comes from `seed`.
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Self::with_configs(seed, conditions, Config::new(), Config::new())
    }

    /// As [`Pair::new`], with the settings of the initiator and the responder.
    pub fn with_configs(seed: u64, conditions: Conditions, a: Config, b: Config) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = || {
            let mut bytes = [0; 32];
            random.fill_bytes(&mut bytes);
            bytes
        };
        let [secret_a, seed_a, secret_b, seed_b] = [draw(), draw(), draw(), draw()];
        let secret_a = StaticSecret::from_bytes(secret_a);
        let initiator = Channel::initiator(a, &secret_a, seed_a, 0, "responder.sim", Time::ZERO)
            .expect("the dialled name is short");
        let secret_b = StaticSecret::from_bytes(secret_b);
        let hello = b"responder, lean".to_vec();
        let responder = Channel::responder(b, &secret_b, seed_b, hello, Time::ZERO);
        Self {
            now: Time::ZERO,
            net: Net::new(conditions),
            dead: BTreeSet::new(),
            random,
            initiator: End::new(initiator, secret_a),
            responder: End::new(responder, secret_b),
            batch: Batch::new(8),
            steps: 0,
        }
    }

    /// One of the ends.
    pub fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Initiator => &mut self.initiator,
            Side::Responder => &mut self.responder,
        }
    }

    /// Drains both ends at the present time.
    pub fn drain(&mut self) {
        for side in [Side::Initiator, Side::Responder] {
            self.drain_end(side);
        }
    }

    /// Drains both ends, then goes to the next instant at which something
    /// happens and lets it happen. `false`: nothing will ever happen.
    pub fn step(&mut self) -> bool {
        self.steps += 1;
        self.drain();
        let timeouts = [self.initiator.timeout, self.responder.timeout];
        let next = timeouts
            .into_iter()
            .chain([self.net.next_arrival()])
            .flatten()
            .min();
        let Some(next) = next else {
            return false;
        };
        self.now = self.now.max(next);
        while let Some(((to, path), packet)) = self.net.receive(self.now) {
            let now = self.now;
            let packet = BytesMut::from(&packet[..]);
            self.end(to).channel.handle_input(now, path, packet);
        }
        for side in [Side::Initiator, Side::Responder] {
            let now = self.now;
            let end = self.end(side);
            if end.timeout.is_some_and(|timeout| timeout <= now) {
                end.channel.handle_timeout(now);
            }
        }
        self.drain();
        true
    }

    /// Steps until `done` says so, at most for `within` of simulated time.
    pub fn run_until(
        &mut self,
        within: Time,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), StepLimit> {
        let end = self.now + within;
        self.drain();
        while !done(self) {
            if self.now > end || self.steps > MAX_STEPS || !self.step() {
                return Err(StepLimit);
            }
        }
        Ok(())
    }

    /// A path dies with all that is on its way there.
    pub fn kill(&mut self, path: PathId) {
        self.dead.insert(path);
        self.net.lose(|&(_, on)| on == path);
    }

    /// Lets this much time pass.
    pub fn run_for(&mut self, time: Time) {
        let end = self.now + time;
        while self.now < end && self.next_instant().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs the handshake; both ends are ready after it.
    pub fn connect(&mut self) -> Result<(), StepLimit> {
        self.run_until(Time::from_secs(30), |pair| {
            pair.initiator.channel.is_ready() && pair.responder.channel.is_ready()
        })
    }

    fn next_instant(&mut self) -> Option<Time> {
        self.drain();
        let timeouts = [self.initiator.timeout, self.responder.timeout];
        let all = timeouts.into_iter().chain([self.net.next_arrival()]);
        all.flatten().min()
    }

    fn drain_end(&mut self, side: Side) {
        let now = self.now;
        loop {
            let mut batch = core::mem::replace(&mut self.batch, Batch::new(8));
            let end = self.end(side);
            let path = match end.channel.poll_output(now, &mut batch) {
                Output::Transmit { path } => path,
                Output::Event(event) => {
                    end.on_event(now, event);
                    self.batch = batch;
                    continue;
                }
                Output::Timeout(timeout) => {
                    end.timeout = timeout;
                    self.batch = batch;
                    return;
                }
            };
            let cut = self.net.cut;
            self.net.cut |= self.dead.contains(&path);
            for packet in batch.packets_mut() {
                let to = (side.other(), path);
                self.net.send(now, to, &packet[8..], &mut self.random);
            }
            self.net.cut = cut;
            batch.clear();
            self.batch = batch;
        }
    }
}

impl End {
    fn new(channel: Channel, secret: StaticSecret) -> Self {
        Self {
            channel,
            events: VecDeque::new(),
            admits: true,
            secret,
            timeout: None,
        }
    }

    fn on_event(&mut self, now: Time, event: Event) {
        if self.admits
            && let Event::PeerHello { last, .. } = &event
        {
            let hello = match (self.channel.is_initiator(), last) {
                (true, false) => b"initiator".to_vec(),
                (true, true) => Vec::new(),
                (false, _) => b"responder, full".to_vec(),
            };
            self.channel.proceed(now, hello);
        }
        match &event {
            Event::RenewalDue => {
                let renewed = self.channel.renew(now, &self.secret);
                renewed.expect("a renewal that is due can begin");
            }
            Event::RenewalAsked => {
                let hello = b"responder, again";
                let answered = self.channel.answer_renewal(now, &self.secret, hello);
                answered.expect("a renewal that was asked for can be answered");
            }
            Event::RenewalHello { .. } if self.admits => {
                self.channel.proceed(now, b"initiator, again".to_vec());
            }
            _ => {}
        }
        self.events.push_back(event);
    }
}
