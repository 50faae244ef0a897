//! The state machine of a session: how it is made, what it is told, what comes
//! out. Its subjects have files of their own beside this one.

mod datagrams;
mod judging;
mod meeting;
mod paths;
mod renewal;
mod streams;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use fairway_channel::{
    self as channel, Batch, Channel, Config, CreateError, PathId, Stats, StreamError, StreamId,
    Time,
};
use fairway_identity::{Address, VerifiedPeer, VerifiedTrustSet};
use thiserror::Error;

pub use self::datagrams::DatagramError;
use crate::Code;
use crate::admit;
use crate::code::{self, Refusal};
use crate::event::{Event, Output};
use crate::hello::Hello;
use crate::limits::{CLOCK_WAIT, NAMES_MAX};
use crate::live::{Half, Live};
use crate::local::{Admit, Credential, Local, Now, Rules};
use crate::peer::{Dialled, PeerInfo, Standing};

/// A secure channel whose ends know each other. The [crate docs](crate) have
/// the contract.
pub struct Session {
    channel: Channel,
    local: Local,
    /// Came during the handshake, and is put to use after it.
    next_local: Option<Box<Local>>,
    /// What goes with the key of the renewal that this side has begun; it may
    /// have a newer one by the time it shows it.
    begun_with: Option<Arc<Credential>>,
    role: Role,
    phase: Phase,
    live: Arc<Live>,
    events: VecDeque<Event>,
}

enum Role {
    /// This side dialled this name.
    Dialler(Dialled),
    /// This side answers to these names.
    Answerer(Arc<[Address]>),
}

/// How far the two sides are with each other.
enum Phase {
    /// Nothing is known about the peer.
    Unknown,
    /// The peer has shown itself, and is judged once this side knows the time.
    AwaitingTime(Box<Shown>),
    /// The dialler has checked the lean credential of message 2.
    LeanChecked(VerifiedPeer),
    /// The peer is admitted; the channel is not ready yet.
    Admitted(Admitted),
    /// Streams may open.
    Established(Admitted),
    /// Over, or about to be.
    Ended,
}

/// What a peer has shown in the handshake.
struct Shown {
    key: [u8; 32],
    hello: Vec<u8>,
    last: bool,
    /// Until when it waits for the time, at most.
    until: Time,
}

/// An admitted peer.
struct Admitted {
    info: PeerInfo,
    /// Verified without knowing the time; to be done again once it is known.
    by_floor: bool,
}

/// A stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The session is not established yet.
    #[error("the session is not established yet; wait for Established")]
    NotEstablished,
    /// Only the side that dialled opens streams: the other has dialled nobody.
    #[error("only the side that dialled opens streams; dial the peer by its own name")]
    WrongSide,
    /// This side has no credential, and so may open Control streams only.
    #[error("without a credential only Control streams can be opened")]
    NoCredential,
    /// The channel says no.
    #[error("the channel cannot open a stream")]
    Channel(#[from] channel::OpenError),
}

/// A stream of the peer could not be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AcceptError {
    /// The grant is of another session. Our bug.
    #[error("the grant belongs to another session")]
    ForeignGrant,
    /// The stream or session has ended meanwhile, or the rules have changed.
    #[error("the grant is no longer good")]
    Ended(#[source] Refusal),
    /// The channel says no.
    #[error("the channel cannot accept the stream")]
    Channel(#[from] StreamError),
}

/// A session could not be answered: local configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// Without a credential nobody could know who answers.
    #[error("an endpoint without a credential cannot answer; wait until it has one")]
    NoCredential,
    /// More names than an endpoint can have.
    #[error("an endpoint can have at most {NAMES_MAX} names")]
    TooManyNames,
}

// === making one ===

impl Session {
    /// Dials `address`. `seed` must be fresh random bytes.
    ///
    /// # Errors
    /// The address does not fit into the handshake.
    pub fn dial(
        config: Config,
        local: Local,
        rules: Rules,
        address: Address,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self, CreateError> {
        let name = address.to_string();
        let purpose = purpose_of(&address);
        let channel =
            Channel::initiator(config, &local.own.secret, seed, purpose, &name, now.mono)?;
        let role = Role::Dialler(Dialled::new(address));
        Ok(Self::new(channel, local, rules, role))
    }

    /// Answers whoever dials one of `names`. `seed` must be fresh random bytes.
    ///
    /// # Errors
    /// There is nothing to answer with.
    pub fn answer(
        config: Config,
        local: Local,
        rules: Rules,
        names: Arc<[Address]>,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self, AnswerError> {
        if names.len() > NAMES_MAX {
            return Err(AnswerError::TooManyNames);
        }
        let credential = local
            .own
            .credential
            .as_ref()
            .ok_or(AnswerError::NoCredential)?;
        // Whoever dials may know only the root's hash, so the trust set goes along.
        let hello = Hello {
            credential: Some(credential.lean.clone()),
            trust_set: local.trust.as_ref().map(|trust| trust.bytes().to_vec()),
            instance: local.own.instance,
            ticket: None,
        };
        let channel =
            Channel::responder(config, &local.own.secret, seed, hello.to_bytes(), now.mono);
        Ok(Self::new(channel, local, rules, Role::Answerer(names)))
    }

    fn new(channel: Channel, local: Local, rules: Rules, role: Role) -> Self {
        Self {
            channel,
            local,
            next_local: None,
            begun_with: None,
            role,
            phase: Phase::Unknown,
            live: Arc::new(Live::new(rules)),
            events: VecDeque::new(),
        }
    }
}

// === getters ===

impl Session {
    /// The other end, once the session is established and while it is.
    pub fn peer(&self) -> Option<&PeerInfo> {
        match &self.phase {
            Phase::Established(admitted) => Some(&admitted.info),
            Phase::Unknown
            | Phase::AwaitingTime(_)
            | Phase::LeanChecked(_)
            | Phase::Admitted(_)
            | Phase::Ended => None,
        }
    }

    /// Whether this side dialled.
    pub fn is_dialler(&self) -> bool {
        matches!(self.role, Role::Dialler(_))
    }

    /// Whether streams may be opened.
    pub fn is_established(&self) -> bool {
        self.peer().is_some()
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }

    /// The newest trust set that this session knows.
    pub fn trust(&self) -> Option<&VerifiedTrustSet> {
        self.local.trust.as_ref()
    }

    /// How many streams of the peer are alive.
    pub fn live_streams(&self) -> usize {
        self.live.len()
    }

    /// The channel's counters.
    pub fn stats(&self) -> Stats {
        self.channel.stats()
    }
}

// === what happened ===

impl Session {
    /// Takes one packet that came on this path.
    pub fn handle_input(&mut self, now: Now, path: PathId, packet: BytesMut) {
        self.channel.handle_input(now.mono, path, packet);
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.channel.handle_timeout(now.mono);
        self.judge_by_clock(now);
    }

    /// Puts new rules in force, at once and for everything: streams that they
    /// do not allow are ended, and the session if its peer is revoked.
    pub fn set_rules(&mut self, now: Now, rules: Rules) {
        let over = self.live.set_rules(rules.clone());
        self.end_streams(now, over);
        let standing = match &self.phase {
            Phase::LeanChecked(peer) => Standing::Verified(peer.clone()),
            Phase::Admitted(admitted) | Phase::Established(admitted) => {
                admitted.info.standing().clone()
            }
            // It will be judged by the rules of then.
            Phase::Unknown | Phase::AwaitingTime(_) | Phase::Ended => return,
        };
        let welcome = match (&standing, rules.admit) {
            (Standing::Verified(_), _) | (_, Admit::AlsoAnonymous) => Ok(()),
            (Standing::Expired(peer), Admit::Credentialed) => Err(admit::expired(peer.id())),
            (Standing::TicketHolder(_) | Standing::Anonymous, Admit::Credentialed) => {
                let text = "peers without a credential are not admitted any more";
                Err(Refusal::new(code::ANONYMOUS, text))
            }
        };
        if let Err(refusal) = welcome.and_then(|()| admit::check_revoked(&standing, &rules)) {
            self.end(now, refusal);
        }
    }

    fn end_streams(&mut self, now: Now, over: Vec<(StreamId, Refusal)>) {
        for (stream, refusal) in over {
            self.channel.reset(now.mono, stream, refusal.to_reason());
            self.events.push_back(Event::Ended { stream, refusal });
        }
    }

    /// Puts a newer trust set in force: the session ends if its peer's
    /// credential does not hold under it, and else renews itself within a
    /// minute. An older one is ignored.
    pub fn set_trust(&mut self, now: Now, trust: VerifiedTrustSet) {
        if self
            .local
            .trust
            .as_ref()
            .is_some_and(|ours| trust.version() <= ours.version())
        {
            return;
        }
        self.local.trust = Some(trust);
        self.judge_again(now);
        self.renew_soon(now);
    }
}

impl Session {
    /// Gives back memory that nothing is in. For a session that has been quiet
    /// for some time and may stay so.
    pub fn release_memory(&mut self) {
        self.events.shrink_to_fit();
        self.channel.release_memory();
    }

    /// Asks the peer for a sign of life ([`Event::Alive`]).
    pub fn ping(&mut self, now: Now) {
        self.channel.ping(now.mono);
    }

    /// Ends the session; the peer is told why, if it can be.
    pub fn close(&mut self, now: Now, refusal: Refusal) {
        self.end(now, refusal);
    }
}

// === output ===

impl Session {
    /// What is to be done next. Call until it answers [`Output::Timeout`].
    pub fn poll_output(&mut self, now: Now, batch: &mut Batch) -> Output {
        self.judge_by_clock(now);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Output::Event(event);
            }
            match self.channel.poll_output(now.mono, batch) {
                channel::Output::Transmit { path } => return Output::Transmit { path },
                channel::Output::Event(event) => self.on_event(now, event),
                channel::Output::Timeout(at) => {
                    return Output::Timeout(earliest(at, self.expiry(now)));
                }
            }
        }
    }

    fn on_event(&mut self, now: Now, event: channel::Event) {
        use channel::Event as E;
        match event {
            E::Closed { by, reason } => {
                let mut refusal = Refusal::from(reason);
                if refusal.code == Code::PATH_LOST {
                    refusal.code = code::LINK_LOST;
                }
                self.live.end(&refusal);
                self.phase = Phase::Ended;
                self.events.push_back(Event::Closed { by, refusal });
            }
            // What was under way when this side ended the session is void.
            _ if matches!(self.phase, Phase::Ended) => {}
            E::PeerHello {
                static_key,
                hello,
                last,
            } => {
                let until = now.mono.saturating_add(CLOCK_WAIT);
                let (key, hello) = (static_key, hello);
                self.meet(
                    now,
                    Shown {
                        key,
                        hello,
                        last,
                        until,
                    },
                );
            }
            E::Ready => self.on_ready(now),
            E::PathActive { path } => self.events.push_back(Event::PathActive { path }),
            E::PathFailed { path } => self.events.push_back(Event::PathFailed { path }),
            E::PathSilent { path } => self.events.push_back(Event::PathSilent { path }),
            E::PathRecovered { path } => self.events.push_back(Event::PathRecovered { path }),
            E::RenewalDue => self.renew(now),
            E::RenewalAsked => self.answer_renewal(now),
            E::RenewalHello { static_key, hello } => {
                if let Err(refusal) = self.on_renewal_hello(now, static_key, &hello) {
                    self.end(now, refusal);
                }
            }
            // The peer was admitted anew before; its keys concern the channel.
            E::Renewed { .. } => {}
            E::Opened { stream, header } => self.on_opened(now, stream, &header),
            E::StreamsAvailable => self.events.push_back(Event::StreamsAvailable),
            E::Accepted(stream) => self.events.push_back(Event::Accepted(stream)),
            E::Readable(stream) => self.events.push_back(Event::Readable(stream)),
            E::Writable(stream) => self.events.push_back(Event::Writable(stream)),
            E::Finished(stream) => {
                self.live.half_ended(stream, Half::Sending);
                self.events.push_back(Event::Finished(stream));
            }
            E::Reset { stream, reason } => {
                self.live.half_ended(stream, Half::Receiving);
                self.events.push_back(Event::Reset {
                    stream,
                    refusal: reason.into(),
                });
            }
            E::Stopped { stream, reason } => {
                self.live.half_ended(stream, Half::Sending);
                self.events.push_back(Event::Stopped {
                    stream,
                    refusal: reason.into(),
                });
            }
            E::Datagram(data) => self.on_datagram(now, data),
            E::Alive => self.events.push_back(Event::Alive),
        }
    }

    /// Ends the session from this side. Grants die with it at once.
    fn end(&mut self, now: Now, refusal: Refusal) {
        self.live.end(&refusal);
        self.phase = Phase::Ended;
        self.channel.close(now.mono, refusal.to_reason());
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Unknown => "unknown",
            Phase::AwaitingTime(_) => "awaiting-time",
            Phase::LeanChecked(_) => "lean-checked",
            Phase::Admitted(_) => "admitted",
            Phase::Established(..) => "established",
            Phase::Ended => "ended",
        };
        f.debug_struct("Session")
            .field("dialler", &self.is_dialler())
            .field("phase", &phase)
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

/// The handshake's purpose byte: what kind of name was dialled.
fn purpose_of(address: &Address) -> u8 {
    match address {
        Address::Device { .. } | Address::Service { .. } | Address::Pod { .. } => 0,
        Address::Relay => 1,
        Address::Authority => 2,
    }
}

fn earliest(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
