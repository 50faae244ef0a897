//! An endpoint: what the crate `endpoint` does around its sessions, in
//! simulated time. Its apps read and write what the model says.

mod apps;
mod links;
mod process;

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
            // It is on its way to another.
            Event::PathRecovered { .. } => {}
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
                let call = apps::call_of(&open).expect("the calls of this world say which");
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
            | Event::Datagram { .. }
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
