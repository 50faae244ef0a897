//! An endpoint: what the crate `endpoint` does around its sessions, in
//! simulated time. Its apps read and write what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fairway_control::link::{CircuitId, Instance, ReceiveCredit, SendCredit, ToEndpoint, ToRelay};
use fairway_control::{Reason, reason};
use fairway_identity::{Address, Clock, SpiffeId, Uid, UnixSeconds};
use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, Mode, Policy, PolicySet, Protocol,
};
use fairway_session::{
    Batch, Config, ConnectionId, Doors, Event, Grant, Local, Now, OpenError, OpenRequest, Output,
    PathId, ReadOutcome, Refusal, Rules, Session, StaticSecret, StreamError, StreamId, Time, code,
    peek_attach,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::model::{Callee, Ended, State, bytes_at};
use super::relay::encode;
use super::{Errand, Link, LinkNo, What, World};
use crate::Conditions;
use crate::authority::{Authority, START, label};

/// Sessions of a node are counted.
pub(super) type SessionKey = u64;

/// What may wait to be read in one session, in bytes.
const MEMORY: u64 = 512 << 10;
/// The port that everybody offers.
const PORT: u16 = 1883;
/// No answer, no path: so much later once more.
const RETRY: Time = Time::from_millis(400);

pub(super) struct Node {
    number: usize,
    pub(super) is_device: bool,
    name: Address,
    id: SpiffeId,
    uid: Uid,
    local: Local,
    /// The full credential, and its key.
    full: Vec<u8>,
    key: [u8; 32],
    pub(super) instance: [u8; 16],
    pub(super) rules: Rules,
    /// Seconds by which its clock is wrong.
    clock: i64,
    pub(super) links: Vec<LinkNo>,
    next_circuit: BTreeMap<LinkNo, CircuitId>,
    circuits: BTreeMap<(LinkNo, CircuitId), Circuit>,
    pub(super) sessions: BTreeMap<SessionKey, Held>,
    last_session: SessionKey,
    by_id: BTreeMap<ConnectionId, SessionKey>,
    redial_at: Time,
    /// Its apps do not read before.
    pub(super) apps_sleep_until: Time,
}

struct Circuit {
    send: SendCredit,
    receive: ReceiveCredit,
    leads: Leads,
}

#[derive(Clone, Debug)]
enum Leads {
    /// To nobody yet: this side is to dial once it is there.
    Dial(Address),
    /// To where a session is to be attached.
    Attach(SessionKey),
    /// Here; its first packet says to which session.
    Here,
    Session(SessionKey, PathId),
}

pub(super) struct Held {
    session: Session,
    dials: Option<Address>,
    peer: Option<usize>,
    peer_instance: [u8; 16],
    hash: [u8; 32],
    since: Time,
    paths: BTreeMap<PathId, (LinkNo, CircuitId)>,
    next_path: u32,
    /// A circuit was asked for, to attach the session to.
    opening: bool,
    wants_move: bool,
    retry_at: Time,
    /// Relays that say that the peer's process is not there.
    gone: BTreeSet<usize>,
    timeout: Option<Time>,
    grants: Vec<Grant>,
    /// The calls of its streams, and which flow this side writes.
    calls: BTreeMap<StreamId, (usize, usize)>,
    read: u64,
}

impl Node {
    pub(super) fn new(
        number: usize,
        is_device: bool,
        authority: &mut Authority,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let (name, id, uid) = match is_device {
            true => (
                format!("pump-{number}.factory.device.fairway.internal"),
                authority.device("factory", &format!("pump-{number}")),
                format!("device-{number}"),
            ),
            false => (
                "broker.factory.svc.fairway.internal".to_owned(),
                authority.workload("factory", "mosquitto"),
                format!("pod-{number}"),
            ),
        };
        let secret = StaticSecret::from_bytes(random.random());
        let mut node = Self {
            number,
            is_device,
            name: name.parse().expect("an address"),
            id,
            uid: Uid::new(&uid).expect("letters and digits"),
            key: secret.public(),
            local: Local::anonymous(secret, authority.pin(), [0; 16]),
            full: Vec::new(),
            instance: random.random(),
            rules: Rules::default(),
            clock: 0,
            links: Vec::new(),
            next_circuit: BTreeMap::new(),
            circuits: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_session: 0,
            by_id: BTreeMap::new(),
            redial_at: Time::ZERO,
            apps_sleep_until: Time::ZERO,
        };
        node.rules = node.rules_that_allow(true);
        node.be_issued(authority, Time::ZERO, random);
        node
    }

    /// A fresh key and credential.
    pub(super) fn be_issued(
        &mut self,
        authority: &mut Authority,
        now: Time,
        random: &mut ChaCha8Rng,
    ) {
        let secret = StaticSecret::from_bytes(random.random());
        self.key = secret.public();
        let mut claims = authority.claims(self.id.clone(), self.key, START.plus(now.as_secs()));
        claims.uid = self.uid.clone();
        match self.is_device {
            true => drop(
                claims
                    .attributes
                    .insert("model".to_owned(), "pump".to_owned()),
            ),
            false => claims.services = vec![label("broker")],
        }
        self.local = authority.local(secret, &claims, self.instance);
        let [_, full] = authority.issue(&claims);
        self.full = full;
    }

    pub(super) fn uid(&self) -> &Uid {
        &self.uid
    }

    /// Its sessions by handshake hash, each with the streams that others have
    /// opened in it.
    pub(super) fn live_streams(&self) -> impl Iterator<Item = ([u8; 32], usize)> {
        let sessions = self.sessions.values();
        sessions.map(|held| (held.hash, held.session.live_streams()))
    }

    /// What it shows to a relay: its credential, and the key.
    pub(super) fn shown(&self) -> (&[u8], [u8; 32]) {
        (&self.full, self.key)
    }

    pub(super) fn rules_that_allow(&self, allow: bool) -> Rules {
        let mut doors = Doors::new();
        let factory = || label("factory");
        let (from, door) = if self.is_device {
            let name = label(&format!("pump-{}", self.number));
            let added = doors.add_device_service(factory(), name, "config", PORT);
            added.expect("one door");
            (
                CallerRule::Workloads {
                    namespaces: vec!["factory".to_owned()],
                    service_accounts: vec!["mosquitto".to_owned()],
                },
                Door::Service {
                    service: "config".to_owned(),
                    protocol: Protocol::Tcp,
                },
            )
        } else {
            let added = doors.add_service(factory(), label("broker"), PORT, 11883);
            added.expect("one door");
            (
                CallerRule::Devices {
                    namespaces: vec!["factory".to_owned()],
                    names: vec![],
                    attributes: AttributeSelector {
                        match_attributes: BTreeMap::from([("model".to_owned(), "pump".to_owned())]),
                        expressions: vec![],
                    },
                },
                Door::Port {
                    port: 11883,
                    protocol: Protocol::Tcp,
                },
            )
        };
        let policy = Policy {
            namespace: "factory".to_owned(),
            name: "sim".to_owned(),
            action: Action::Allow,
            mode: Mode::Enforce,
            from: vec![from],
            to: vec![door],
        };
        Rules {
            policy: Arc::new(PolicySet {
                policies: if allow { vec![policy] } else { vec![] },
            }),
            doors: Arc::new(doors),
            revoked: Arc::clone(&self.rules.revoked),
            ..Rules::default()
        }
    }

    fn at(&self, now: Time) -> Now {
        let seconds = (START.0 + now.as_secs()).saturating_add_signed(self.clock);
        Now {
            mono: now,
            clock: Clock::Trusted(UnixSeconds(seconds)),
        }
    }

    pub(super) fn describe(&self, now: Time) -> String {
        let sessions = self.sessions.iter().map(|(key, held)| {
            format!(
                "  session {key} with {:?}, {:?}, active {:?}, candidate {:?}, paths {:?}, {:?}",
                held.peer,
                held.session,
                held.session.active_path(),
                held.session.candidate_path(),
                held.paths,
                held.session.stats(),
            )
        });
        let sessions: Vec<String> = sessions.collect();
        let (number, links) = (self.number, &self.links);
        format!(
            "node {number} at {now:?}, links {links:?}\n{}",
            sessions.join("\n")
        )
    }
}

fn config() -> Config {
    Config::new()
        .session_windows(64 << 10, 256 << 10, MEMORY)
        .and_then(|config| config.stream_windows(16 << 10, 128 << 10))
        .and_then(|config| config.send_buffer(32 << 10))
        .and_then(|config| config.renew_records(64))
        .expect("in range")
}

impl Held {
    fn new(session: Session, dials: Option<Address>, now: Time) -> Self {
        Self {
            session,
            dials,
            peer: None,
            peer_instance: [0; 16],
            hash: [0; 32],
            since: now,
            paths: BTreeMap::new(),
            next_path: 1,
            opening: false,
            wants_move: false,
            retry_at: Time::ZERO,
            gone: BTreeSet::new(),
            timeout: None,
            grants: Vec::new(),
            calls: BTreeMap::new(),
            read: 0,
        }
    }

    fn fresh_path(&mut self) -> PathId {
        self.next_path += 1;
        PathId(self.next_path)
    }
}

// === links and circuits ===

impl World {
    /// Brings up what a node lacks, now and from time to time.
    pub(super) fn tend(&mut self, node: usize) {
        let pause = Time::from_millis(self.random.random_range(250..400));
        self.plan(pause, Errand::Tend(node));
        self.model.processes.insert(self.nodes[node].instance, node);
        self.link_up_where_missing(node);
        self.attach_where_missing(node);
        self.begin_calls(node);
    }

    fn link_up_where_missing(&mut self, node: usize) {
        let linked: BTreeSet<usize> = self.nodes[node]
            .links
            .iter()
            .filter_map(|link| self.links.get(link))
            .map(|link| link.relay)
            .collect();
        if self.nodes[node].is_device && !linked.is_empty() {
            return;
        }
        let missing: Vec<usize> = (0..self.relays.len())
            .filter(|relay| !linked.contains(relay))
            .collect();
        let wanted = match self.nodes[node].is_device {
            true => vec![missing[self.random.random_range(0..missing.len())]],
            false => missing,
        };
        for relay in wanted {
            self.link(node, relay);
        }
    }

    pub(super) fn link(&mut self, node: usize, relay: usize) {
        let link = self.last_link + 1;
        if !self.relay_accepts(relay, link, node) {
            return;
        }
        self.last_link = link;
        let lossy = !self.calm && self.random.random_bool(0.3);
        let conditions = match lossy {
            true => Conditions {
                loss: 0.1,
                // Circuits count bytes, and a link repeats none.
                duplication: 0.0,
                damage: if self.model.meddled { 0.01 } else { 0.0 },
                ..Conditions::bad()
            },
            false => Conditions {
                jitter: Time::from_millis(self.random.random_range(0..20)),
                ..Conditions::perfect()
            },
        };
        let state = Link {
            node,
            relay,
            up_at_node: true,
            up_at_relay: true,
            lossy,
            conditions,
            stalled_until: Time::ZERO,
        };
        self.links.insert(link, state);
        let state = &mut self.nodes[node];
        state.links.push(link);
        let register = ToRelay::Register {
            names: vec![state.name.clone()],
            instance: Instance(state.instance),
        };
        self.put(link, true, What::Control, encode(&register));
    }

    /// A node finds that a link is gone.
    pub(super) fn node_loses(&mut self, link: LinkNo) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        if !std::mem::replace(&mut state.up_at_node, false) {
            return;
        }
        let number = state.node;
        let node = &mut self.nodes[number];
        node.links.retain(|&other| other != link);
        node.next_circuit.remove(&link);
        let all = node
            .circuits
            .range((link, CircuitId(0))..=(link, CircuitId(u32::MAX)));
        let circuits: Vec<CircuitId> = all.map(|(&(_, circuit), _)| circuit).collect();
        for circuit in circuits {
            self.lose_circuit(number, link, circuit, reason::LINK_LOST);
        }
        self.forget_link(link);
    }

    pub(super) fn forget_link(&mut self, link: LinkNo) {
        let is_over = |link: &Link| !link.up_at_node && !link.up_at_relay;
        if self.links.get(&link).is_some_and(is_over) {
            self.links.remove(&link);
        }
    }

    fn open_circuit(
        &mut self,
        node: usize,
        link: LinkNo,
        destination: Address,
        instance: Option<[u8; 16]>,
        leads: Leads,
    ) {
        let state = &mut self.nodes[node];
        let next = state.next_circuit.entry(link);
        let next = next.or_insert(CircuitId::FIRST_OF_ENDPOINT);
        let circuit = *next;
        *next = circuit.next().expect("few circuits");
        state.circuits.insert((link, circuit), Circuit::new(leads));
        let open = ToRelay::Open {
            circuit,
            destination,
            instance: instance.map(Instance),
        };
        self.put(link, true, What::Control, encode(&open));
    }

    pub(super) fn close_circuit(
        &mut self,
        node: usize,
        link: LinkNo,
        circuit: CircuitId,
        word: &str,
    ) {
        if self.nodes[node].circuits.contains_key(&(link, circuit)) {
            let reason = Reason::new(word, "");
            let close = ToRelay::Close { circuit, reason };
            self.put(link, true, What::Control, encode(&close));
            self.lose_circuit(node, link, circuit, "done");
        }
    }

    /// A circuit is over at this end.
    fn lose_circuit(&mut self, number: usize, link: LinkNo, circuit: CircuitId, word: &str) {
        let now = self.now;
        let relay = self.links.get(&link).map(|link| link.relay);
        let node = &mut self.nodes[number];
        let Some(lost) = node.circuits.remove(&(link, circuit)) else {
            return;
        };
        let at = node.at(now);
        match lost.leads {
            Leads::Dial(_) => node.redial_at = now + RETRY,
            Leads::Here => {}
            Leads::Attach(key) => {
                let Some(held) = node.sessions.get_mut(&key) else {
                    return;
                };
                held.opening = false;
                held.retry_at = now + RETRY;
                if word == reason::OTHER_INSTANCE {
                    held.gone.extend(relay);
                }
                // A pod may have lost one of its links; a device has but one.
                let is_gone = held.gone.len() >= if node.is_device { 2 } else { 1 };
                if is_gone && held.session.active_path().is_none() {
                    let text = "the peer's process is gone";
                    held.session.close(at, Refusal::new(code::LINK_LOST, text));
                    self.dirty.insert((number, key));
                }
            }
            Leads::Session(key, path) => {
                let Some(held) = node.sessions.get_mut(&key) else {
                    return;
                };
                held.paths.remove(&path);
                held.retry_at = held.retry_at.max(now + RETRY / 8);
                if word == reason::UNKNOWN_SESSION {
                    let text = "the peer does not know the session";
                    held.session.close(at, Refusal::new(code::LINK_LOST, text));
                } else {
                    held.session.path_lost(at, path);
                }
                self.dirty.insert((number, key));
            }
        }
    }

    pub(super) fn on_message(&mut self, number: usize, link: LinkNo, message: ToEndpoint) {
        match message {
            ToEndpoint::Incoming { circuit, .. } => {
                let here = Circuit::new(Leads::Here);
                self.nodes[number].circuits.insert((link, circuit), here);
            }
            ToEndpoint::Opened { circuit } => self.on_opened(number, link, circuit),
            ToEndpoint::Refused { circuit, reason } | ToEndpoint::Closed { circuit, reason } => {
                self.lose_circuit(number, link, circuit, reason.word());
            }
            ToEndpoint::Credit { circuit, max_bytes } => {
                let node = &mut self.nodes[number];
                if let Some(state) = node.circuits.get_mut(&(link, circuit)) {
                    state.send.raise(max_bytes);
                    if let Leads::Session(key, _) = state.leads {
                        self.dirty.insert((number, key));
                    }
                }
            }
            ToEndpoint::Move { circuit } => {
                let circuit = self.nodes[number].circuits.get(&(link, circuit));
                if let Some(Leads::Session(key, _)) = circuit.map(|circuit| circuit.leads.clone())
                    && let Some(held) = self.nodes[number].sessions.get_mut(&key)
                {
                    held.wants_move = true;
                }
            }
            ToEndpoint::Registered { .. }
            | ToEndpoint::RegisterRefused { .. }
            | ToEndpoint::Drain => {}
        }
    }

    /// A circuit that was asked for is there.
    fn on_opened(&mut self, number: usize, link: LinkNo, circuit: CircuitId) {
        let (now, seed) = (self.now, self.random.random());
        let node = &mut self.nodes[number];
        let at = node.at(now);
        let Some(state) = node.circuits.get_mut(&(link, circuit)) else {
            return;
        };
        let (key, path) = match state.leads.clone() {
            Leads::Dial(name) => {
                let (local, rules) = (node.local.clone(), node.rules.clone());
                let session = Session::dial(config(), local, rules, name.clone(), seed, at);
                let session = session.expect("the name fits");
                node.last_session += 1;
                let held = Held::new(session, Some(name), now);
                node.sessions.insert(node.last_session, held);
                (node.last_session, PathId::FIRST)
            }
            Leads::Attach(key) => {
                let Some(held) = node.sessions.get_mut(&key) else {
                    return self.close_circuit(number, link, circuit, "done");
                };
                held.opening = false;
                held.gone.clear();
                let path = held.fresh_path();
                if held.session.attach(at, path).is_err() {
                    return self.close_circuit(number, link, circuit, "done");
                }
                (key, path)
            }
            Leads::Here | Leads::Session(..) => return,
        };
        state.leads = Leads::Session(key, path);
        if let Some(held) = node.sessions.get_mut(&key) {
            held.paths.insert(path, (link, circuit));
        }
        self.dirty.insert((number, key));
    }

    pub(super) fn on_data(
        &mut self,
        number: usize,
        link: LinkNo,
        circuit: CircuitId,
        packet: Vec<u8>,
    ) {
        let node = &mut self.nodes[number];
        let Some(state) = node.circuits.get_mut(&(link, circuit)) else {
            return;
        };
        // A meddling relay repeats packets, and a bad link does.
        let _ = state.receive.receive(packet.len());
        if let Some(max_bytes) = state.receive.consume(packet.len()) {
            let credit = ToRelay::Credit { circuit, max_bytes };
            self.put(link, true, What::Control, encode(&credit));
        }
        if let Some((key, path)) = self.session_for(number, link, circuit, &packet) {
            let node = &mut self.nodes[number];
            let at = node.at(self.now);
            if let Some(held) = node.sessions.get_mut(&key) {
                let packet = BytesMut::from(&packet[..]);
                held.session.handle_input(at, path, packet);
                self.dirty.insert((number, key));
            }
        }
    }

    /// Whose packet it is. The first of a circuit decides.
    fn session_for(
        &mut self,
        number: usize,
        link: LinkNo,
        circuit: CircuitId,
        packet: &[u8],
    ) -> Option<(SessionKey, PathId)> {
        let (now, seed) = (self.now, self.random.random());
        let node = &mut self.nodes[number];
        let at = node.at(now);
        let state = node.circuits.get_mut(&(link, circuit))?;
        match state.leads.clone() {
            Leads::Session(key, path) => return Some((key, path)),
            Leads::Dial(_) | Leads::Attach(_) => return None,
            Leads::Here => {}
        }
        let (key, path) = match peek_attach(packet) {
            Some(id) => {
                let Some(&key) = node.by_id.get(&id) else {
                    self.close_circuit(number, link, circuit, reason::UNKNOWN_SESSION);
                    return None;
                };
                (key, node.sessions.get_mut(&key)?.fresh_path())
            }
            // Over a bad link another packet may come before the first.
            None if packet.first() != Some(&1) => return None,
            None => {
                let (local, rules) = (node.local.clone(), node.rules.clone());
                let names = [node.name.clone()].into();
                let session = Session::answer(config(), local, rules, names, seed, at);
                let session = session.expect("it has a credential");
                node.last_session += 1;
                let held = Held::new(session, None, now);
                node.sessions.insert(node.last_session, held);
                (node.last_session, PathId::FIRST)
            }
        };
        state.leads = Leads::Session(key, path);
        if let Some(held) = node.sessions.get_mut(&key) {
            held.paths.insert(path, (link, circuit));
        }
        Some((key, path))
    }
}

impl Circuit {
    fn new(leads: Leads) -> Self {
        Self {
            send: SendCredit::new(),
            receive: ReceiveCredit::new(),
            leads,
        }
    }
}

// === sessions ===

impl World {
    pub(super) fn on_session_timeout(&mut self, number: usize, key: SessionKey) {
        let node = &mut self.nodes[number];
        let at = node.at(self.now);
        if let Some(held) = node.sessions.get_mut(&key) {
            held.timeout = None;
            held.session.handle_timeout(at);
            self.dirty.insert((number, key));
        }
    }

    /// Drains a session, and lets its apps use what came.
    pub(super) fn drive(&mut self, number: usize, key: SessionKey) {
        let mut batch = Batch::new(0);
        loop {
            let node = &mut self.nodes[number];
            let at = node.at(self.now);
            let Some(held) = node.sessions.get_mut(&key) else {
                return;
            };
            let over = held
                .session
                .pending_path()
                .and_then(|path| held.paths.get(&path));
            let circuit = over.and_then(|over| node.circuits.get(over));
            batch.clear();
            batch.set_room(circuit.map_or(usize::MAX, |circuit| circuit.send.available() as usize));
            match held.session.poll_output(at, &mut batch) {
                Output::Transmit { path } => {
                    let over = held.paths.get(&path).copied();
                    let packets: Vec<_> = batch.packets_mut().map(|p| p.to_vec()).collect();
                    self.transmit(number, over, packets);
                }
                Output::Event(event) => self.on_event(number, key, event),
                Output::Timeout(timeout) => {
                    // Before the session is established: the dialler, which is
                    // so first, may lose its path at once.
                    if let Some(id) = held.session.connection_id() {
                        node.by_id.insert(id, key);
                    }
                    let before = std::mem::replace(&mut held.timeout, timeout);
                    if before != timeout {
                        if let Some(before) = before {
                            self.timeouts.remove(&(before, number, key));
                        }
                        if let Some(timeout) = timeout {
                            self.timeouts.insert((timeout, number, key));
                        }
                    }
                    if !self.use_streams(number, key) {
                        return;
                    }
                }
            }
        }
    }

    fn transmit(&mut self, node: usize, over: Option<(LinkNo, CircuitId)>, packets: Vec<Vec<u8>>) {
        let Some((link, circuit)) = over else { return };
        for packet in packets {
            let Some(state) = self.nodes[node].circuits.get_mut(&(link, circuit)) else {
                return;
            };
            assert!(
                state.send.take(packet.len()),
                "set_room keeps to the credit"
            );
            self.put(link, true, What::Data(circuit), packet);
        }
    }

    fn on_event(&mut self, number: usize, key: SessionKey, event: Event) {
        let now = self.now;
        match event {
            Event::Established(info) => {
                let peer = self.model.processes.get(info.instance()).copied();
                let peer = peer.expect("a process of this world");
                let believes = &self.model.beliefs[number];
                assert!(
                    !believes.revoked.contains(&peer),
                    "a revoked peer was admitted"
                );
                assert_eq!(info.id(), Some(&self.nodes[peer].id), "somebody else");
                self.model.summary.sessions += 1;
                let node = &mut self.nodes[number];
                if let Some(held) = node.sessions.get_mut(&key) {
                    held.peer = Some(peer);
                    held.peer_instance = *info.instance();
                    held.hash = *info.handshake_hash();
                    held.since = now;
                }
                self.begin_calls(number);
            }
            Event::Renewed(info) => {
                self.model.summary.renewals += 1;
                let peer = self.nodes[number]
                    .sessions
                    .get(&key)
                    .and_then(|held| held.peer);
                let peer = peer.expect("it was established");
                assert_eq!(info.id(), Some(&self.nodes[peer].id), "somebody else");
                let believes = &self.model.beliefs[number];
                assert!(
                    !believes.revoked.contains(&peer),
                    "a revoked peer was admitted"
                );
            }
            Event::PathActive { path } => self.on_path_active(number, key, path),
            Event::PathFailed { path } => {
                let held = self.nodes[number].sessions.get_mut(&key);
                if let Some((link, circuit)) = held.and_then(|held| held.paths.remove(&path)) {
                    self.close_circuit(number, link, circuit, "done");
                }
            }
            Event::PathSilent { .. } => {
                if let Some(held) = self.nodes[number].sessions.get_mut(&key) {
                    held.wants_move = true;
                }
            }
            Event::TrustSetLearned(trust) => {
                let local = self.nodes[number].local.clone();
                self.nodes[number].local = local.with_trust(trust);
            }
            Event::Incoming {
                stream,
                grant,
                open,
            } => {
                let call = call_of(&open).expect("the calls of this world say which");
                self.model.on_granted(call, number);
                let node = &mut self.nodes[number];
                let at = node.at(now);
                if let Some(held) = node.sessions.get_mut(&key) {
                    held.session.accept(at, &grant).expect("just granted");
                    held.grants.push(grant);
                    held.calls.insert(stream, (call, 1));
                }
            }
            Event::Refused { refusal, .. } => {
                self.model.on_refused(number, refusal.word());
            }
            Event::Ended { stream, refusal }
            | Event::Reset { stream, refusal }
            | Event::Stopped { stream, refusal } => {
                let held = self.nodes[number].sessions.get_mut(&key);
                if let Some((call, _)) = held.and_then(|held| held.calls.remove(&stream)) {
                    self.model.on_stream_ended(call, refusal.word());
                }
            }
            Event::Closed { refusal, .. } => self.on_closed(number, key, &refusal),
            Event::StreamsAvailable
            | Event::Accepted(_)
            | Event::Readable(_)
            | Event::Writable(_)
            | Event::Finished(_)
            | Event::Datagram(_)
            | Event::Alive => {}
        }
    }

    /// The circuits before are closed a moment later.
    fn on_path_active(&mut self, number: usize, key: SessionKey, path: PathId) {
        self.model.summary.moves += 1;
        let Some(held) = self.nodes[number].sessions.get_mut(&key) else {
            return;
        };
        held.wants_move = false;
        if held.dials.is_none() {
            return;
        }
        let old: Vec<_> = held
            .paths
            .iter()
            .filter(|(other, _)| **other != path)
            .collect();
        let old: Vec<_> = old.into_iter().map(|(_, &circuit)| circuit).collect();
        for (link, CircuitId(circuit)) in old {
            let errand = Errand::CloseCircuit(number, link, circuit);
            self.plan(Time::from_secs(1), errand);
        }
    }

    fn on_closed(&mut self, number: usize, key: SessionKey, refusal: &Refusal) {
        let word = refusal.word();
        let node = &mut self.nodes[number];
        let Some(held) = node.sessions.remove(&key) else {
            return;
        };
        if let Some(timeout) = held.timeout {
            self.timeouts.remove(&(timeout, number, key));
        }
        if let Some(id) = held.session.connection_id() {
            node.by_id.remove(&id);
        }
        node.redial_at = node.redial_at.max(self.now + RETRY);
        match held.peer {
            Some(peer) => {
                let ended = Ended {
                    refusal,
                    node: number,
                    peer,
                    id: held.session.connection_id(),
                    since: held.since,
                    same_processes: self.nodes[peer].instance == held.peer_instance,
                };
                self.model.on_session_ended(&ended);
            }
            None => self
                .model
                .on_dial_failed(refusal, held.session.connection_id()),
        }
        for (call, _) in held.calls.into_values() {
            self.model.fail(call, word);
        }
        for (link, circuit) in held.paths.into_values() {
            self.close_circuit(number, link, circuit, "done");
        }
    }

    /// A dialled session without a path, or with one that is silent, gets a circuit.
    fn attach_where_missing(&mut self, number: usize) {
        let (now, node) = (self.now, &mut self.nodes[number]);
        let mut wanted = Vec::new();
        for (&key, held) in &mut node.sessions {
            let session = &held.session;
            let lacks = session.active_path().is_none() || held.wants_move;
            if let Some(name) = &held.dials
                && session.is_established()
                && lacks
                && !held.opening
                && session.candidate_path().is_none()
                && now >= held.retry_at
                && !node.links.is_empty()
            {
                held.opening = true;
                wanted.push((key, name.clone(), held.peer_instance));
            }
        }
        for (key, name, instance) in wanted {
            let links = &self.nodes[number].links;
            let link = links[self.random.random_range(0..links.len())];
            self.open_circuit(number, link, name, Some(instance), Leads::Attach(key));
        }
    }

    /// A process dies with all that it knew, and another begins.
    pub(super) fn restart_node(&mut self, number: usize) {
        let (now, instance) = (self.now, self.random.random());
        let node = &mut self.nodes[number];
        for (key, held) in std::mem::take(&mut node.sessions) {
            if let Some(timeout) = held.timeout {
                self.timeouts.remove(&(timeout, number, key));
            }
            self.model.ended.extend(held.session.connection_id());
            for (call, _) in held.calls.into_values() {
                self.model.fail(call, "restart");
            }
        }
        node.by_id.clear();
        node.circuits.clear();
        node.instance = instance;
        self.model.processes.insert(instance, number);
        if !self.model.revoked.contains(&number) {
            node.be_issued(&mut self.authority, now, &mut self.random);
        }
        let links = std::mem::take(&mut node.links);
        node.next_circuit.clear();
        for link in links {
            self.put(link, true, What::Down, Vec::new());
            if let Some(state) = self.links.get_mut(&link) {
                state.up_at_node = false;
            }
        }
    }

    /// A node's own sessions are told of its new credential.
    pub(super) fn renew_credential(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.be_issued(&mut self.authority, self.now, &mut self.random);
        let at = node.at(self.now);
        for (&key, held) in &mut node.sessions {
            held.session.set_local(at, node.local.clone());
            self.dirty.insert((number, key));
        }
    }

    /// New rules, and the newest trust set, come to a node.
    pub(super) fn apply_rules(&mut self, number: usize, rules: Rules) {
        let trust = self.authority.trust().clone();
        let node = &mut self.nodes[number];
        let at = node.at(self.now);
        node.rules = rules;
        let known = node.local.trust().map_or(0, |known| known.version());
        if trust.version() > known {
            node.local = node.local.clone().with_trust(trust.clone());
        }
        for (&key, held) in &mut node.sessions {
            held.session.set_rules(at, node.rules.clone());
            held.session.set_trust(at, trust.clone());
            self.dirty.insert((number, key));
        }
    }

    pub(super) fn set_clock(&mut self, number: usize, wrong: i64) {
        self.model.beliefs[number].clock_wrong = Some(self.now);
        let node = &mut self.nodes[number];
        node.clock = wrong;
        let keys: Vec<SessionKey> = node.sessions.keys().copied().collect();
        self.dirty.extend(keys.into_iter().map(|key| (number, key)));
    }
}

// === apps ===

/// Which call a stream is for.
fn call_of(open: &OpenRequest) -> Option<usize> {
    open.traceparent
        .as_ref()?
        .strip_prefix("call-")?
        .parse()
        .ok()
}

impl World {
    /// Opens streams for the calls of a node whose time has come.
    pub(super) fn begin_calls(&mut self, number: usize) {
        let now = self.now;
        for call in 0..self.model.calls.len() {
            let state = &self.model.calls[call];
            if state.from != number || state.state != State::Waiting || state.begins > now {
                continue;
            }
            let name = match state.to {
                Callee::Service => "broker.factory.svc.fairway.internal".to_owned(),
                Callee::Device(device) => format!("pump-{device}.factory.device.fairway.internal"),
            };
            self.begin_call(number, call, &name.parse().expect("an address"));
        }
    }

    fn begin_call(&mut self, number: usize, call: usize, name: &Address) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let at = node.at(now);
        let mut sessions = node.sessions.iter_mut();
        if let Some((&key, held)) = sessions.find(|(_, held)| held.dials.as_ref() == Some(name)) {
            let trace = Some(format!("call-{call}"));
            let request = OpenRequest::port(PORT).with_traceparent(trace);
            match held.session.open(at, &request) {
                Ok(stream) => {
                    held.calls.insert(stream, (call, 0));
                    self.model.calls[call].state = State::Open(key, stream);
                    self.dirty.insert((number, key));
                }
                Err(OpenError::NotEstablished | OpenError::Channel(_)) => {}
                Err(error) => panic!("{error}"),
            }
            return;
        }
        let mut circuits = node.circuits.values();
        let is_dialled =
            |circuit: &Circuit| matches!(&circuit.leads, Leads::Dial(to) if to == name);
        if circuits.any(is_dialled) || now < node.redial_at || node.links.is_empty() {
            return;
        }
        let link = node.links[self.random.random_range(0..node.links.len())];
        self.open_circuit(number, link, name.clone(), None, Leads::Dial(name.clone()));
    }

    /// An app that slept reads and writes again.
    pub(super) fn run_apps(&mut self, number: usize) {
        let keys: Vec<SessionKey> = self.nodes[number].sessions.keys().copied().collect();
        self.dirty.extend(keys.into_iter().map(|key| (number, key)));
    }

    /// Reads and writes on the streams of a session. Whether anything moved.
    fn use_streams(&mut self, number: usize, key: SessionKey) -> bool {
        let node = &mut self.nodes[number];
        if node.apps_sleep_until > self.now {
            return false;
        }
        let at = node.at(self.now);
        let Some(held) = node.sessions.get_mut(&key) else {
            return false;
        };
        let waiting = held
            .session
            .stats()
            .stream_bytes_in
            .saturating_sub(held.read);
        assert!(waiting <= MEMORY, "{waiting} bytes wait to be read");
        let mut moved = false;
        for (stream, (call, side)) in held.calls.clone() {
            moved |= write(&mut self.model, held, at, stream, call, side);
            moved |= read(&mut self.model, held, at, stream, (call, 1 - side), number);
        }
        moved
    }
}

fn write(
    model: &mut super::Model,
    held: &mut Held,
    at: Now,
    stream: StreamId,
    call: usize,
    side: usize,
) -> bool {
    let flow = &mut model.calls[call].flows[side];
    let mut moved = false;
    while flow.written < flow.to_write {
        let end = flow.to_write.min(flow.written + 5_000);
        let piece = bytes_at(call, side, flow.written, (end - flow.written) as usize);
        match held.session.write(at, stream, &mut Bytes::from(piece)) {
            Ok(0) => return moved,
            Ok(taken) => flow.written += taken as u64,
            Err(_) => return moved,
        }
        moved = true;
    }
    if !flow.finished && held.session.finish(at, stream).is_ok() {
        flow.finished = true;
        moved = true;
    }
    moved
}

/// Reads what the other side wrote.
fn read(
    model: &mut super::Model,
    held: &mut Held,
    at: Now,
    stream: StreamId,
    (call, side): (usize, usize),
    reader: usize,
) -> bool {
    let mut moved = false;
    while !model.calls[call].flows[side].ended {
        match held.session.read(at, stream) {
            Ok(ReadOutcome::Chunk(chunk)) => {
                model.on_read(call, side, reader, &chunk);
                held.read += chunk.len() as u64;
                moved = true;
            }
            Ok(ReadOutcome::Finished) => {
                model.on_end(call, side);
                return true;
            }
            Ok(ReadOutcome::Empty) | Err(StreamError::Unknown | StreamError::NotAccepted) => break,
            // The event says why.
            Err(StreamError::Reset(_) | StreamError::Stopped(_) | StreamError::Ended) => break,
        }
    }
    moved
}
