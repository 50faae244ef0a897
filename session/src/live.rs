//! The part of a session that its grants share: the rules of this moment and
//! which streams of the peer are alive under them.
//!
//! Grants live with the portals, on other threads than the session's driver.
//! One small mutex is taken when a stream opens or ends, when an HTTP request
//! is authorized, for a datagram and when rules change; never for data.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fairway_channel::{Code, StreamId};
use fairway_policy::{
    Caller, Decision, HttpRequest, Target, Verdict, evaluate_http, evaluate_open,
};

use crate::code::{self, Refusal};
use crate::limits::HTTP_PASSES_MAX;
use crate::local::Rules;

pub(crate) struct Live(Mutex<State>);

struct State {
    rules: Rules,
    /// Boxed, as there is one of these for each idle session.
    ended: Option<Box<Refusal>>,
    /// Boxed: most sessions have few, and a node of the map has room for eleven.
    streams: BTreeMap<StreamId, Box<LiveStream>>,
    /// Why streams ended whose grants are still held by somebody.
    over: BTreeMap<StreamId, Refusal>,
}

/// A stream of the peer for which there is a grant.
struct LiveStream {
    what: What,
    receiving: bool,
    sending: bool,
    /// Whether somebody holds the grant.
    granted: bool,
    /// HTTP requests in flight: method and path.
    passes: BTreeMap<u64, (String, String)>,
    next_pass: u64,
}

/// What a live stream was granted.
pub(crate) enum What {
    /// Control messages: no policy speaks of them.
    Control,
    /// A door, as seen by policy.
    Door {
        caller: Caller,
        target: Target,
        http: bool,
    },
}

/// Which half of a stream.
#[derive(Clone, Copy)]
pub(crate) enum Half {
    Receiving,
    Sending,
}

/// The answer to an HTTP request on a live stream.
pub(crate) enum Asked {
    Pass(u64, Decision),
    Denied(Decision),
    Ended(Refusal),
}

impl Live {
    pub(crate) fn new(rules: Rules) -> Self {
        Self(Mutex::new(State {
            rules,
            ended: None,
            streams: BTreeMap::new(),
            over: BTreeMap::new(),
        }))
    }

    pub(crate) fn rules(&self) -> Rules {
        self.state().rules.clone()
    }

    /// Why a stream, or its session, is over; `None` while it is not.
    pub(crate) fn ended(&self, stream: StreamId) -> Option<Refusal> {
        self.state().ended(stream)
    }

    /// The session is over: nothing is authorized from here on.
    pub(crate) fn end(&self, refusal: &Refusal) {
        let mut state = self.state();
        state.ended.get_or_insert_with(|| Box::new(refusal.clone()));
        state.streams.clear();
        state.over.clear();
    }

    pub(crate) fn insert(&self, stream: StreamId, what: What) {
        let live = LiveStream {
            what,
            receiving: true,
            sending: true,
            granted: true,
            passes: BTreeMap::new(),
            next_pass: 0,
        };
        self.state().streams.insert(stream, Box::new(live));
    }

    /// This side ends the stream.
    pub(crate) fn remove(&self, stream: StreamId, refusal: &Refusal) {
        self.state().remove(stream, refusal);
    }

    /// Nobody asks about this stream any more; it is still judged by the rules
    /// as long as it is alive.
    pub(crate) fn grant_dropped(&self, stream: StreamId) {
        let mut state = self.state();
        state.over.remove(&stream);
        if let Some(live) = state.streams.get_mut(&stream) {
            live.granted = false;
        }
    }

    /// Number of the peer's streams that are alive.
    pub(crate) fn len(&self) -> usize {
        self.state().streams.len()
    }

    /// One half has ended; with both, the stream has.
    pub(crate) fn half_ended(&self, stream: StreamId, half: Half) {
        let mut state = self.state();
        let Some(live) = state.streams.get_mut(&stream) else {
            return;
        };
        match half {
            Half::Receiving => live.receiving = false,
            Half::Sending => live.sending = false,
        }
        if !live.receiving && !live.sending {
            state.remove(stream, &Refusal::new(Code::DONE, "the stream has ended"));
        }
    }

    /// Puts new rules in force. The answer is the streams that must end, no
    /// longer alive here.
    pub(crate) fn set_rules(&self, rules: Rules) -> Vec<(StreamId, Refusal)> {
        let mut state = self.state();
        let mut over = Vec::new();
        for (id, stream) in &state.streams {
            if let Err(refusal) = stream.still_allowed(&rules) {
                over.push((*id, refusal));
            }
        }
        for (id, refusal) in &over {
            state.remove(*id, refusal);
        }
        state.rules = rules;
        over
    }

    /// The peer has shown itself anew: its streams are judged by that from now
    /// on. The answer is the streams that must end, no longer alive here.
    pub(crate) fn set_caller(&self, renewed: &Caller) -> Vec<(StreamId, Refusal)> {
        let mut state = self.state();
        let State { rules, streams, .. } = &mut *state;
        let mut over = Vec::new();
        for (id, stream) in streams {
            match &mut stream.what {
                What::Door { caller, .. } if caller != renewed => *caller = renewed.clone(),
                What::Door { .. } | What::Control => continue,
            }
            if let Err(refusal) = stream.still_allowed(rules) {
                over.push((*id, refusal));
            }
        }
        for (id, refusal) in &over {
            state.remove(*id, refusal);
        }
        over
    }

    /// Authorizes one HTTP request under the rules of now, and keeps it in
    /// mind until [`Live::pass_over`].
    pub(crate) fn ask_http(&self, stream: StreamId, request: &HttpRequest<'_>) -> Asked {
        let mut state = self.state();
        if let Some(refusal) = state.ended(stream) {
            return Asked::Ended(refusal);
        }
        let State { rules, streams, .. } = &mut *state;
        let Some(live) = streams.get_mut(&stream) else {
            return Asked::Ended(not_alive());
        };
        let What::Door { caller, target, .. } = &live.what else {
            return Asked::Ended(Refusal::new(
                code::POLICY_DENIED,
                "no HTTP on a Control stream",
            ));
        };
        if live.passes.len() >= HTTP_PASSES_MAX {
            return Asked::Ended(Refusal::new(
                code::OVERLOADED,
                "too many requests on one stream",
            ));
        }
        let decision = evaluate_http(&rules.policy, caller, target, request);
        match decision.verdict {
            Verdict::Allow => {}
            // `evaluate_http` never answers AllowHttp; if it did, it would not
            // be a yes.
            Verdict::AllowHttp | Verdict::Deny => return Asked::Denied(decision),
        }
        let pass = live.next_pass;
        live.next_pass += 1;
        live.passes
            .insert(pass, (request.method.to_owned(), request.path.to_owned()));
        Asked::Pass(pass, decision)
    }

    /// Whether this stream is alive and policy does not look into it.
    pub(crate) fn takes_datagrams(&self, stream: StreamId) -> bool {
        let state = self.state();
        state
            .streams
            .get(&stream)
            .is_some_and(|live| match live.what {
                What::Control | What::Door { http: false, .. } => true,
                What::Door { http: true, .. } => false,
            })
    }

    pub(crate) fn pass_over(&self, stream: StreamId, pass: u64) {
        if let Some(live) = self.state().streams.get_mut(&stream) {
            live.passes.remove(&pass);
        }
    }

    /// A panic of another holder leaves nothing half done: each method changes
    /// the state in single steps.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ended(&self, stream: StreamId) -> Option<Refusal> {
        if let Some(refusal) = &self.ended {
            return Some(Refusal::clone(refusal));
        }
        if self.streams.contains_key(&stream) {
            return None;
        }
        Some(self.over.get(&stream).cloned().unwrap_or_else(not_alive))
    }

    fn remove(&mut self, stream: StreamId, refusal: &Refusal) {
        let granted = self
            .streams
            .remove(&stream)
            .is_some_and(|live| live.granted);
        if granted {
            self.over.insert(stream, refusal.clone());
        }
    }
}

impl LiveStream {
    fn still_allowed(&self, rules: &Rules) -> Result<(), Refusal> {
        let What::Door {
            caller,
            target,
            http,
        } = &self.what
        else {
            return Ok(());
        };
        let denied = |decision: &Decision| Refusal::new(code::POLICY_DENIED, denial(decision));
        let decision = evaluate_open(&rules.policy, caller, target);
        match (decision.verdict, http) {
            (Verdict::Deny, _) => return Err(denied(&decision)),
            // Its requests were never looked at, and now they would have to be.
            (Verdict::AllowHttp, false) => {
                let text = "a policy now wants each HTTP request authorized; connect again";
                return Err(Refusal::new(code::POLICY_DENIED, text));
            }
            (Verdict::AllowHttp, true) | (Verdict::Allow, _) => {}
        }
        for (method, path) in self.passes.values() {
            let decision =
                evaluate_http(&rules.policy, caller, target, &HttpRequest { method, path });
            if decision.verdict != Verdict::Allow {
                return Err(denied(&decision));
            }
        }
        Ok(())
    }
}

fn not_alive() -> Refusal {
    Refusal::new(code::CANCELLED, "there is no such stream")
}

/// What a denial says to people.
pub(crate) fn denial(decision: &Decision) -> String {
    match (&decision.by, &decision.reason) {
        (_, Some(miss)) => miss.to_string(),
        (Some(policy), None) => format!("denied by ChannelPolicy {policy}"),
        (None, None) => "no ChannelPolicy allows it".to_owned(),
    }
}
