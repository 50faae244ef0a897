//! The reference model: what each call should carry, who may call whom, and
//! which ends have an excuse.
//!
//! What must hold, in one place:
//!
//! 1. What is read of a stream is what was written, in order, without gap or
//!    repetition, and its end comes after all of it.
//! 2. A stream or session that ends before its time ends with a reason that
//!    something explains: a revocation, a changed policy, a clock that was
//!    wrong, a process that started anew. A violation is never explained.
//! 3. Once a revocation has reached an endpoint, nothing of the peer is
//!    delivered there any more; what policy denies is neither opened nor read.
//! 4. What waits to be read at an endpoint is within its windows; what waits in
//!    a relay within its limits.
//! 5. When the faults are over, all that may go on does, and comes to its end in
//!    bounded time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use fairway_session::{ConnectionId, Refusal, StreamId, Time};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A stream that an app of one node wants to another.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) from: usize,
    pub(super) to: Callee,
    /// From the caller, and to it.
    pub(super) flows: [Flow; 2],
    pub(super) state: State,
    pub(super) begins: Time,
    /// Which of the callees it got.
    pub(super) answered_by: Option<usize>,
}

/// Whom an app wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callee {
    /// Any pod of the Service.
    Service,
    /// This device.
    Device(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    /// Opened by the caller, in this session of its, as this stream.
    Open(u64, StreamId),
    Done,
    Failed(String),
}

/// One direction of a call. What its bytes are follows from the call.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) to_write: u64,
    pub(super) written: u64,
    pub(super) finished: bool,
    pub(super) read: u64,
    pub(super) ended: bool,
}

/// What the model knows of a node.
#[derive(Debug, Default)]
pub(super) struct Belief {
    /// Whom it has heard to be revoked.
    pub(super) revoked: BTreeSet<usize>,
    /// Its policy lets others in.
    pub(super) allows: bool,
    /// When its policy was changed last.
    pub(super) policy_changed: Option<Time>,
    /// When its clock was wrong last.
    pub(super) clock_wrong: Option<Time>,
}

/// How much happened in a life, to see that the seeds do something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Calls that were carried to their end.
    pub done: u64,
    /// Calls that ended early, with an excuse.
    pub excused: u64,
    /// Sessions that were established.
    pub sessions: u64,
    /// Sessions that went over to another path.
    pub moves: u64,
    /// Keys that were renewed.
    pub renewals: u64,
    /// Things that went wrong.
    pub faults: u64,
}

pub(super) struct Model {
    /// The devices come first among the nodes.
    n_devices: usize,
    pub(super) calls: Vec<Call>,
    pub(super) beliefs: Vec<Belief>,
    /// Revoked by the authority, heard of or not.
    pub(super) revoked: BTreeSet<usize>,
    /// Each process that there ever was, and whose.
    pub(super) processes: BTreeMap<[u8; 16], usize>,
    /// Sessions that ended with an excuse at one end.
    pub(super) ended: BTreeSet<ConnectionId>,
    /// A relay has meddled, or packets were damaged.
    pub(super) meddled: bool,
    pub(super) summary: Summary,
}

/// Whose session it was that has ended.
pub(super) struct Ended<'a> {
    pub(super) refusal: &'a Refusal,
    pub(super) node: usize,
    pub(super) peer: usize,
    pub(super) id: Option<ConnectionId>,
    pub(super) since: Time,
    /// Both processes are the newest of their nodes.
    pub(super) same_processes: bool,
}

impl Model {
    pub(super) fn new(n_devices: usize, n_pods: usize, random: &mut ChaCha8Rng) -> Self {
        let n_nodes = n_devices + n_pods;
        let calls = (0..random.random_range(2..=6)).map(|_| {
            let from = random.random_range(0..n_nodes);
            let to = match from < n_devices {
                true => Callee::Service,
                false => Callee::Device(random.random_range(0..n_devices)),
            };
            let most = if random.random_bool(0.2) {
                300_000
            } else {
                20_000
            };
            Call {
                from,
                to,
                flows: [(); 2].map(|()| Flow {
                    to_write: random.random_range(0..most),
                    ..Flow::default()
                }),
                state: State::Waiting,
                begins: Time::from_millis(random.random_range(0..15_000)),
                answered_by: None,
            }
        });
        let beliefs = (0..n_nodes).map(|_| Belief {
            allows: true,
            ..Belief::default()
        });
        Self {
            n_devices,
            calls: calls.collect(),
            beliefs: beliefs.collect(),
            revoked: BTreeSet::new(),
            processes: BTreeMap::new(),
            ended: BTreeSet::new(),
            meddled: false,
            summary: Summary::default(),
        }
    }

    /// All calls have come to an end, or never can.
    pub(super) fn is_done(&self) -> bool {
        self.calls.iter().all(|call| match &call.state {
            State::Done | State::Failed(_) => true,
            State::Open(..) => false,
            State::Waiting => !self.may_begin(call),
        })
    }

    /// Somebody is there who may answer.
    fn may_begin(&self, call: &Call) -> bool {
        let callees = match call.to {
            Callee::Service => (self.n_devices..self.beliefs.len()).collect(),
            Callee::Device(device) => vec![device],
        };
        // Which pod a call gets is the relay's choice: all must be willing.
        !self.revoked.contains(&call.from)
            && callees
                .iter()
                .all(|&callee| !self.revoked.contains(&callee) && self.beliefs[callee].allows)
    }

    /// The callee was asked for a stream by this node and has let it in.
    pub(super) fn on_granted(&mut self, call: usize, node: usize) {
        let call = &mut self.calls[call];
        let belief = &self.beliefs[node];
        assert!(belief.allows, "policy denies, and a stream was granted");
        assert!(
            !belief.revoked.contains(&call.from),
            "a revoked peer was granted a stream"
        );
        assert_eq!(call.answered_by.replace(node), None, "answered twice");
    }

    /// The callee has refused a stream.
    pub(super) fn on_refused(&self, node: usize, word: &str) {
        assert_eq!(word, "policy-denied");
        assert!(!self.beliefs[node].allows, "policy allows what was refused");
    }

    /// A session was never established. The caller tries again.
    pub(super) fn on_dial_failed(&mut self, refusal: &Refusal, id: Option<ConnectionId>) {
        // The other end may believe that it is established.
        self.ended.extend(id);
        let known = match refusal.word() {
            "handshake-timeout" | "link-lost" | "revoked" => true,
            "credential-expired" | "credential-refused" => true,
            "handshake-failed" => self.meddled,
            _ => false,
        };
        assert!(known, "a handshake ended: {refusal}");
    }

    /// What a reader was given. `side` is 0 for what the caller wrote.
    pub(super) fn on_read(&mut self, call: usize, side: usize, reader: usize, bytes: &[u8]) {
        let state = &self.calls[call];
        let peer = match side {
            0 => Some(state.from),
            _ => state.answered_by,
        };
        if let Some(peer) = peer {
            assert!(
                !self.beliefs[reader].revoked.contains(&peer),
                "bytes of a revoked peer were delivered"
            );
        }
        assert!(
            side == 1 || self.beliefs[reader].allows,
            "bytes were delivered that policy denies"
        );
        let flow = &mut self.calls[call].flows[side];
        let expected = bytes_at(call, side, flow.read, bytes.len());
        assert!(
            bytes == expected,
            "call {call}: other bytes at {}",
            flow.read
        );
        flow.read += bytes.len() as u64;
        assert!(flow.read <= flow.written, "more was read than was written");
    }

    /// A reader has seen the end.
    pub(super) fn on_end(&mut self, call: usize, side: usize) {
        let flow = &mut self.calls[call].flows[side];
        assert!(
            flow.finished && flow.read == flow.to_write,
            "call {call} ended early"
        );
        flow.ended = true;
        let call = &mut self.calls[call];
        if call.flows.iter().all(|flow| flow.ended) && matches!(call.state, State::Open(..)) {
            call.state = State::Done;
            self.summary.done += 1;
        }
    }

    /// A stream was reset or stopped by the peer, or by this side's rules.
    pub(super) fn on_stream_ended(&mut self, call: usize, word: &str) {
        let over = matches!(self.calls[call].state, State::Failed(_) | State::Done);
        // Who has not answered has refused, and was asked why (`on_refused`).
        let denies = self.calls[call].answered_by.is_none_or(|callee| {
            let belief = &self.beliefs[callee];
            !belief.allows || belief.policy_changed.is_some()
        });
        let explained = word == "policy-denied" && denies;
        assert!(over || explained, "call {call} was ended: {word}");
        self.fail(call, word);
    }

    /// A session has ended that was established.
    pub(super) fn on_session_ended(&mut self, ended: &Ended<'_>) {
        let Ended {
            refusal,
            node,
            peer,
            ..
        } = *ended;
        let word = refusal.word();
        let revoked = self.revoked.contains(&node) || self.revoked.contains(&peer);
        let clock = [node, peer].iter().any(|&node| {
            let wrong = self.beliefs[node].clock_wrong;
            wrong.is_some_and(|wrong| wrong + Time::from_secs(100) >= ended.since)
        });
        let explained = match word {
            "revoked" => revoked,
            "credential-expired" | "credential-refused" => clock,
            "link-lost" | "idle-timeout" => !ended.same_processes || revoked || self.meddled,
            // The first words of the one that dialled took too long.
            "handshake-timeout" => ended.id.is_some_and(|id| self.ended.contains(&id)),
            _ => false,
        };
        // The other end has gone, and this one has not heard why.
        let known = matches!(word, "link-lost" | "idle-timeout")
            && ended.id.is_some_and(|id| self.ended.contains(&id));
        assert!(
            explained || known,
            "a session of {node} with {peer} ended: {refusal}"
        );
        self.ended.extend(ended.id);
    }

    pub(super) fn fail(&mut self, call: usize, word: &str) {
        let call = &mut self.calls[call];
        if !matches!(call.state, State::Done | State::Failed(_)) {
            call.state = State::Failed(word.to_owned());
            self.summary.excused += 1;
        }
    }

    pub(super) fn summary(&self) -> Summary {
        self.summary
    }

    pub(super) fn describe(&self) -> String {
        let calls = self.calls.iter().enumerate().map(|(number, call)| {
            format!(
                "call {number}: {} -> {:?}, {:?}, {:?}",
                call.from, call.to, call.state, call.flows
            )
        });
        calls.collect::<Vec<_>>().join("\n")
    }
}

/// A prime, so that no two flows look alike after a shift by a power of two.
const PATTERN: usize = 65_521;

/// Noise that is written over and over again.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut noise = vec![0; PATTERN];
    ChaCha8Rng::seed_from_u64(0).fill_bytes(&mut noise);
    noise
});

/// The bytes of a call's direction from `at` on.
pub(super) fn bytes_at(call: usize, side: usize, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    let mut from = (at as usize + call * 9_973 + side * 31_337) % PATTERN;
    while bytes.len() < length {
        let to = PATTERN.min(from + length - bytes.len());
        bytes.extend_from_slice(&NOISE[from..to]);
        from = 0;
    }
    bytes
}
