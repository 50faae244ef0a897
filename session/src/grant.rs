//! The right to serve one stream of a peer.

use std::fmt;
use std::sync::Arc;

use fairway_channel::StreamId;
use fairway_identity::Address;
use fairway_policy::{
    Caller, Decision, DoorMiss, HttpRequest, NearestMiss, PolicySet, Target, Verdict, evaluate_open,
};

use crate::code::{self, Refusal};
use crate::doors::Door;
use crate::live::{Asked, Live, What, denial};
use crate::open::{OpenRequest, OpenTarget};
use crate::peer::PeerInfo;

/// The right to serve one stream of a peer, made from a verified peer and a
/// decision, by a session only. It cannot be copied, and it is worth nothing
/// once its stream or session has ended.
pub struct Grant(Box<Inner>);

/// Boxed, so that events stay small.
struct Inner {
    stream: StreamId,
    peer: PeerInfo,
    permit: Permit,
    decision: Option<Decision>,
    live: Arc<Live>,
}

/// What a grant permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Control messages of the authority or the relay.
    Control,
    /// The bytes of the stream, as they are.
    Tcp(Door),
    /// HTTP requests, each of which must be authorized by itself with
    /// [`Grant::authorize_http`] before it is passed on.
    Http(Door),
}

/// The answer to [`Grant::authorize_http`].
#[derive(Debug)]
#[must_use]
pub enum HttpAnswer {
    /// The request may be passed on.
    Allowed {
        /// To be kept until the answer has been passed back: while it is
        /// alive, a change of the rules that forbids the request ends the
        /// stream.
        pass: HttpPass,
        /// Which policy allowed it.
        decision: Decision,
    },
    /// It may not; the stream goes on.
    Denied(Decision),
    /// The stream or its session has ended, or carries too many requests.
    Ended(Refusal),
}

/// An authorized HTTP request in flight. Drop it when the exchange is over.
#[must_use = "dropping the pass at once means that a change of policy no longer ends the request"]
pub struct HttpPass {
    live: Arc<Live>,
    stream: StreamId,
    id: u64,
}

/// Why there is no grant.
pub(crate) struct Denied {
    pub(crate) refusal: Refusal,
    pub(crate) decision: Option<Box<Decision>>,
}

impl Grant {
    /// The one maker: from an admitted peer, under the rules of now. The
    /// stream counts as alive from here on.
    pub(crate) fn decide(
        stream: StreamId,
        peer: &PeerInfo,
        open: &OpenRequest,
        live: &Arc<Live>,
    ) -> Result<Self, Denied> {
        let (permit, decision, what) = match open.target {
            OpenTarget::Control => (control(peer)?, None, What::Control),
            OpenTarget::Port(port) => {
                let (permit, decision, what) = door(peer, port, live)?;
                (permit, Some(decision), what)
            }
        };
        live.insert(stream, what);
        Ok(Self(Box::new(Inner {
            stream,
            peer: peer.clone(),
            permit,
            decision,
            live: Arc::clone(live),
        })))
    }

    /// The stream that it is for.
    pub fn stream(&self) -> StreamId {
        self.0.stream
    }

    /// Who calls.
    pub fn peer(&self) -> &PeerInfo {
        &self.0.peer
    }

    /// What is permitted.
    pub fn permit(&self) -> &Permit {
        &self.0.permit
    }

    /// The decision at opening, with the policy's name and audited policies;
    /// `None` for Control, of which no policy speaks.
    pub fn decision(&self) -> Option<&Decision> {
        self.0.decision.as_ref()
    }

    /// Why the grant is no longer worth anything; `None` while it is good.
    pub fn ended(&self) -> Option<Refusal> {
        self.0.live.ended(self.0.stream)
    }

    /// Whether this request may pass, by the session's rules of now. `path` is
    /// in its normal form, without the query.
    pub fn authorize_http(&self, method: &str, path: &str) -> HttpAnswer {
        match self
            .0
            .live
            .ask_http(self.0.stream, &HttpRequest { method, path })
        {
            Asked::Pass(id, decision) => {
                let pass = HttpPass {
                    live: Arc::clone(&self.0.live),
                    stream: self.0.stream,
                    id,
                };
                HttpAnswer::Allowed { pass, decision }
            }
            Asked::Denied(decision) => HttpAnswer::Denied(decision),
            Asked::Ended(refusal) => HttpAnswer::Ended(refusal),
        }
    }

    pub(crate) fn is_of(&self, live: &Arc<Live>) -> bool {
        Arc::ptr_eq(&self.0.live, live)
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("stream", &self.0.stream)
            .field("peer", &self.0.peer)
            .field("permit", &self.0.permit)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.live.grant_dropped(self.stream);
    }
}

impl Drop for HttpPass {
    fn drop(&mut self) {
        self.live.pass_over(self.stream, self.id);
    }
}

impl fmt::Debug for HttpPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpPass({} of stream {})", self.id, self.stream)
    }
}

impl Denied {
    fn new(code: fairway_channel::Code, text: impl Into<String>) -> Self {
        Self {
            refusal: Refusal::new(code, text),
            decision: None,
        }
    }
}

/// Control is for whoever was admitted, at the authority and at relays only.
fn control(peer: &PeerInfo) -> Result<Permit, Denied> {
    match peer.dialled() {
        Address::Authority | Address::Relay => Ok(Permit::Control),
        Address::Device { .. } | Address::Service { .. } | Address::Pod { .. } => Err(Denied::new(
            code::NO_CONTROL,
            format!("{} is neither authority nor relay", peer.dialled()),
        )),
    }
}

fn door(peer: &PeerInfo, port: u16, live: &Live) -> Result<(Permit, Decision, What), Denied> {
    let Some(caller) = peer.caller() else {
        return Err(Denied::new(
            code::ANONYMOUS,
            "without a valid credential only Control streams can be opened",
        ));
    };
    let rules = live.rules();
    let Some(door) = rules.doors.find(peer.dialled(), port).cloned() else {
        let decision = evaluate_open(&rules.policy, &caller, &no_door(peer.dialled(), port));
        let refusal = if decision.is_allowed() {
            let text = format!("{} offers nothing on port {port}", peer.dialled());
            Refusal::new(code::UNKNOWN_PORT, text)
        } else {
            Refusal::new(code::POLICY_DENIED, told(decision.clone(), port))
        };
        return Err(Denied {
            refusal,
            decision: Some(Box::new(decision)),
        });
    };
    let decision = evaluate_open(&rules.policy, &caller, &door.target);
    let target = door.target.clone();
    let (permit, http) = match decision.verdict {
        Verdict::Allow => (Permit::Tcp(door), false),
        Verdict::AllowHttp => (Permit::Http(door), true),
        Verdict::Deny => {
            let text = match &decision.by {
                Some(_) => denial(&decision),
                None => not_allowed(&rules.policy, &caller, peer.dialled(), port),
            };
            return Err(Denied {
                refusal: Refusal::new(code::POLICY_DENIED, text),
                decision: Some(Box::new(decision)),
            });
        }
    };
    Ok((
        permit,
        decision,
        What::Door {
            caller,
            target,
            http,
        },
    ))
}

// A caller whom no policy lets through must not learn which ports are offered:
// the answer to a port that is not there, and what the caller is told of the
// nearest policy, are those of a door that no policy names.

/// What stands for a port that is not offered: only a policy for the port's
/// number, or for every door, speaks of it.
fn no_door(dialled: &Address, port: u16) -> Target {
    match dialled {
        // No service can have this name.
        Address::Device { .. } => Target::Service(String::new()),
        Address::Service { .. } | Address::Pod { .. } | Address::Authority | Address::Relay => {
            Target::Port(port)
        }
    }
}

/// What a caller is told whom no Allow lets through a door that is there.
fn not_allowed(policies: &PolicySet, caller: &Caller, dialled: &Address, port: u16) -> String {
    let decision = evaluate_open(policies, caller, &no_door(dialled, port));
    match decision.verdict {
        Verdict::Deny => told(decision, port),
        // A policy for the number of the Service's port, which leads elsewhere.
        Verdict::Allow | Verdict::AllowHttp => "no ChannelPolicy allows it".to_owned(),
    }
}

/// A denial without a word about what is behind the port.
fn told(mut decision: Decision, port: u16) -> String {
    if let Some(NearestMiss::Lacks { caller, door, .. }) = &mut decision.reason {
        let asked = Target::Port(port);
        *door = caller.is_none().then_some(DoorMiss::Target { asked });
    }
    denial(&decision)
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            decision: None,
        }
    }
}
