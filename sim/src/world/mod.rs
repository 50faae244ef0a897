//! A small installation under bad luck: devices and pods, two relays, an
//! authority, links that break, and a reference model of what must come of it.
//!
//! The sessions are real, with real credentials; the relays are the real core
//! (`fairway_relay::core`), and control messages travel in their wire form.
//! Simulated are what surrounds them: the network, the shells around the cores
//! (`node.rs`, `relay.rs` here), and time. A link is authenticated by
//! looking at the credential, without a handshake of its own.
//!
//! Reading order: `model.rs` (what must hold), `node.rs` (an endpoint),
//! `relay.rs`, `faults.rs` (what goes wrong, and how it ends), and here: how
//! time passes.

mod faults;
mod model;
mod node;
mod relay;

use std::collections::{BTreeMap, BTreeSet};

use fairway_control::link::{CircuitId, ToEndpoint};
use fairway_session::Time;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::model::Model;
use self::node::{Node, SessionKey};
use self::relay::Relay;
use crate::authority::Authority;
use crate::{Conditions, Net};

pub use self::model::Summary;

/// Links are counted; a number is never used twice.
type LinkNo = u64;

/// Where something arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hop {
    link: LinkNo,
    to_relay: bool,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A control message.
    Control,
    /// A packet of a circuit.
    Data(CircuitId),
    /// The other end has closed the link.
    Down,
}

/// A link between a node and a relay.
#[derive(Debug)]
struct Link {
    node: usize,
    relay: usize,
    /// Whether each end thinks that it is up.
    up_at_node: bool,
    up_at_relay: bool,
    /// Data is lost and reordered, as over QUIC datagrams; else it is as over TCP.
    lossy: bool,
    conditions: Conditions,
    /// Nothing arrives before.
    stalled_until: Time,
}

/// Everything.
pub struct World {
    now: Time,
    random: ChaCha8Rng,
    authority: Authority,
    nodes: Vec<Node>,
    relays: Vec<Relay>,
    links: BTreeMap<LinkNo, Link>,
    last_link: LinkNo,
    net: Net<Hop>,
    /// Sessions that have to be polled.
    dirty: BTreeSet<(usize, SessionKey)>,
    /// When sessions want to be called again.
    timeouts: BTreeSet<(Time, usize, SessionKey)>,
    /// What nodes and the plan of faults have to do later.
    agenda: BTreeSet<(Time, u64, Errand)>,
    errands: u64,
    model: Model,
    /// No more faults.
    calm: bool,
}

/// Something that is to be done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Errand {
    /// A node looks at what it lacks: links, paths, sessions.
    Tend(usize),
    /// An app of a node reads and writes again.
    Apps(usize),
    /// The next thing goes wrong.
    Fault,
    /// A node hears of the newest revocations, policies and trust set.
    Learn(usize),
    /// So does a relay.
    RelayLearns(usize),
    /// A node closes a circuit that it has moved away from.
    CloseCircuit(usize, LinkNo, u32),
    /// A relay notices that a link is gone.
    RelayNotices(LinkNo),
    /// So does a node.
    NodeNotices(LinkNo),
    /// A relay that was drained is started anew.
    RelayRestarts(usize),
    /// A node's clock is right again.
    ClockMended(usize),
}

impl World {
    /// A world by seed: what is in it, and all that will happen.
    pub fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut authority = Authority::new("fairway.local", 1);
        let n_devices = random.random_range(1..=2);
        let n_pods = random.random_range(1..=2);
        let mut nodes = Vec::new();
        for number in 0..n_devices + n_pods {
            let is_device = number < n_devices;
            nodes.push(Node::new(number, is_device, &mut authority, &mut random));
        }
        let relays = (0..2).map(|_| Relay::new(authority.trust())).collect();
        let model = Model::new(n_devices, n_pods, &mut random);
        let mut world = Self {
            now: Time::ZERO,
            random,
            authority,
            nodes,
            relays,
            links: BTreeMap::new(),
            last_link: 0,
            net: Net::new(Conditions::perfect()),
            dirty: BTreeSet::new(),
            timeouts: BTreeSet::new(),
            agenda: BTreeSet::new(),
            errands: 0,
            model,
            calm: false,
        };
        for node in 0..world.nodes.len() {
            world.plan(Time::ZERO, Errand::Tend(node));
        }
        world.plan(Time::from_secs(1), Errand::Fault);
        world
    }

    /// Lives through the faults and the calm after them. Gives what happened.
    ///
    /// # Panics
    /// Something that must hold does not.
    pub fn live(mut self) -> Summary {
        let storm = Time::from_secs(self.random.random_range(5..40));
        self.pass(storm);
        self.begin_calm();
        // Everything that still can must come to its end soon.
        let end = self.now + Time::from_secs(200);
        while !self.model.is_done() {
            assert!(self.now < end, "stuck: {}", self.describe());
            self.pass(Time::from_secs(2));
        }
        self.check_calm();
        self.model.summary()
    }

    fn plan(&mut self, after: Time, errand: Errand) {
        self.errands += 1;
        self.agenda.insert((self.now + after, self.errands, errand));
    }

    /// Lets time pass, event by event.
    fn pass(&mut self, time: Time) {
        let end = self.now + time;
        loop {
            self.settle();
            let timeout = self.timeouts.first().map(|&(at, ..)| at);
            let errand = self.agenda.first().map(|&(at, ..)| at);
            let next = [self.net.next_arrival(), timeout, errand];
            let Some(next) = next.into_iter().flatten().min().filter(|&at| at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some((hop, packet)) = self.net.receive(self.now) {
                self.arrive(hop, packet);
            }
            while let Some(&(at, node, session)) = self.timeouts.first()
                && at <= self.now
            {
                self.timeouts.pop_first();
                self.on_session_timeout(node, session);
            }
            while let Some(&(at, _, errand)) = self.agenda.first()
                && at <= self.now
            {
                self.agenda.pop_first();
                self.run_errand(errand);
            }
        }
    }

    /// Polls every session that has something to say.
    fn settle(&mut self) {
        while let Some((node, session)) = self.dirty.pop_first() {
            self.drive(node, session);
        }
    }

    fn run_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Tend(node) => self.tend(node),
            Errand::Apps(node) => self.run_apps(node),
            Errand::Fault => self.next_fault(),
            Errand::Learn(node) => self.learn(node),
            Errand::RelayLearns(relay) => self.relay_learns(relay),
            Errand::CloseCircuit(node, link, circuit) => {
                self.close_circuit(node, link, CircuitId(circuit), "done");
            }
            Errand::RelayNotices(link) => self.relay_loses(link),
            Errand::NodeNotices(link) => self.node_loses(link),
            Errand::RelayRestarts(relay) => self.restart_relay(relay),
            Errand::ClockMended(node) => self.set_clock(node, 0),
        }
    }

    fn arrive(&mut self, hop: Hop, packet: Vec<u8>) {
        let Some(link) = self.links.get(&hop.link) else {
            return;
        };
        let (node, relay) = (link.node, link.relay);
        match (hop.to_relay, link.up_at_relay, link.up_at_node, hop.what) {
            (true, false, _, _) | (false, _, false, _) => {}
            (true, true, _, What::Control) => self.relay_message(relay, hop.link, &packet),
            (true, true, _, What::Data(circuit)) => {
                self.relay_data(relay, hop.link, circuit, packet);
            }
            (true, true, _, What::Down) => self.relay_loses(hop.link),
            (false, _, true, What::Control) => {
                let message = relay::decode::<ToEndpoint>(&packet);
                self.on_message(node, hop.link, message);
            }
            (false, _, true, What::Data(circuit)) => {
                self.on_data(node, hop.link, circuit, packet);
            }
            (false, _, true, What::Down) => self.node_loses(hop.link),
        }
    }

    /// Puts something on a link, on its way to the relay or to the node.
    fn put(&mut self, link: LinkNo, to_relay: bool, what: What, packet: Vec<u8>) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let hop = Hop {
            link,
            to_relay,
            what,
        };
        let stalled = state.stalled_until;
        self.net.conditions = state.conditions;
        if state.lossy && matches!(what, What::Data(_)) {
            self.net.cut = self.now < stalled;
            self.net.send(self.now, hop, &packet, &mut self.random);
            self.net.cut = false;
            return;
        }
        let lane = link * 2 + u64::from(to_relay);
        self.net
            .send_in_order(self.now, stalled, lane, hop, packet, &mut self.random);
    }

    fn describe(&self) -> String {
        let sessions = self.nodes.iter().map(|node| node.describe(self.now));
        let sessions: Vec<String> = sessions.collect();
        format!("{}\n{}", self.model.describe(), sessions.join("\n"))
    }
}
