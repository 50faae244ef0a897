//! The state machine of a session. `paths.rs` and `renewal.rs` are parts of it.

mod paths;
mod renewal;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fairway_channel::{
    self as channel, Batch, Channel, Config, CreateError, DatagramError, PathId, Priority,
    ReadOutcome, Stats, StreamError, StreamId, Time,
};
use fairway_identity::{Address, Clock, VerifiedPeer, VerifiedTrustSet};
use thiserror::Error;

use crate::Code;
use crate::admit::{self, Known};
use crate::code::{self, Refusal};
use crate::event::{Event, Output};
use crate::grant::{Denied, Grant};
use crate::hello::{Hello, WireTicket};
use crate::limits::{CLOCK_WAIT, NAMES_MAX};
use crate::live::{Half, Live};
use crate::local::{Admit, Credential, Local, Now, Rules};
use crate::open::{OpenRequest, OpenTarget};
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
}

// === streams ===

impl Session {
    /// Opens a stream to the peer. Data may be written before the peer
    /// accepts.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&mut self, now: Now, request: &OpenRequest) -> Result<StreamId, OpenError> {
        if let Role::Answerer(_) = self.role {
            return Err(OpenError::WrongSide);
        }
        if !self.is_established() {
            return Err(OpenError::NotEstablished);
        }
        match request.target {
            OpenTarget::Port(_) if self.local.is_anonymous() => Err(OpenError::NoCredential),
            OpenTarget::Port(_) | OpenTarget::Control => {
                Ok(self.channel.open(now.mono, request.to_bytes())?)
            }
        }
    }

    /// What a peer does that does not keep to the rules above.
    #[cfg(test)]
    pub(crate) fn open_unchecked(&mut self, now: Now, header: Vec<u8>) -> StreamId {
        self.channel
            .open(now.mono, header)
            .expect("the channel has room for a stream")
    }

    /// Accepts the stream that the grant is for.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub fn accept(&mut self, now: Now, grant: &Grant) -> Result<(), AcceptError> {
        if !grant.is_of(&self.live) {
            return Err(AcceptError::ForeignGrant);
        }
        if let Some(refusal) = grant.ended() {
            return Err(AcceptError::Ended(refusal));
        }
        Ok(self.channel.accept(now.mono, grant.stream())?)
    }

    /// Takes as much of `data` as there is room for, advances it, and says how
    /// much. Less than all: wait for [`Event::Writable`].
    ///
    /// # Errors
    /// The sending half is over.
    pub fn write(
        &mut self,
        now: Now,
        stream: StreamId,
        data: &mut Bytes,
    ) -> Result<usize, StreamError> {
        self.channel.write(now.mono, stream, data)
    }

    /// The next bytes of a stream; gives credit back to the peer.
    ///
    /// # Errors
    /// The receiving half is over, other than in good order.
    pub fn read(&mut self, now: Now, stream: StreamId) -> Result<ReadOutcome, StreamError> {
        let outcome = self.channel.read(now.mono, stream);
        if let Ok(ReadOutcome::Finished) | Err(StreamError::Reset(_)) = &outcome {
            self.live.half_ended(stream, Half::Receiving);
        }
        outcome
    }

    /// Ends the sending half in good order.
    ///
    /// # Errors
    /// The sending half is over already.
    pub fn finish(&mut self, now: Now, stream: StreamId) -> Result<(), StreamError> {
        // It is alive until all has arrived (`Event::Finished`): until then a
        // change of the rules can still hold something back.
        self.channel.finish(now.mono, stream)
    }

    /// Ends both halves at once; also refuses a stream that was not accepted.
    pub fn reset(&mut self, now: Now, stream: StreamId, refusal: &Refusal) {
        self.live.remove(stream, refusal);
        self.channel.reset(now.mono, stream, refusal.to_reason());
    }

    /// Wants nothing more from the peer on this stream.
    pub fn stop(&mut self, now: Now, stream: StreamId, refusal: &Refusal) {
        self.live.half_ended(stream, Half::Receiving);
        self.channel.stop(now.mono, stream, refusal.to_reason());
    }

    /// How soon a stream of either side gets its turn when several have
    /// something to send. Local: the peer is not told.
    pub fn set_priority(&mut self, now: Now, stream: StreamId, priority: Priority) {
        self.channel.set_priority(now.mono, stream, priority);
    }

    /// Sends bytes that may get lost.
    ///
    /// # Errors
    /// See [`DatagramError`].
    pub fn send_datagram(&mut self, now: Now, data: Bytes) -> Result<(), DatagramError> {
        self.channel.send_datagram(now.mono, data)
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
            E::Datagram(data) => self.events.push_back(Event::Datagram(data)),
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

// === getting to know each other ===

impl Session {
    /// Judges a peer by what it has shown; one for which nothing but the time
    /// is lacking is kept waiting for it.
    fn meet(&mut self, now: Now, shown: Shown) {
        let Err(refusal) = self.on_hello(now, &shown) else {
            return;
        };
        if refusal.code == code::CLOCK_UNKNOWN && now.mono < shown.until {
            self.phase = Phase::AwaitingTime(Box::new(shown));
        } else {
            self.end(now, refusal);
        }
    }

    fn on_hello(&mut self, now: Now, shown: &Shown) -> Result<(), Refusal> {
        let (key, last) = (shown.key, shown.last);
        let hello = admit::read_hello(&shown.hello)?;
        let dialled = match &self.role {
            Role::Dialler(address) => address.clone(),
            Role::Answerer(names) => self.check_dialled(names)?,
        };
        self.learn_trust(&hello)?;
        let rules = self.live.rules();
        let known = Known {
            trust: self.local.trust.as_ref(),
            rules: &rules,
            clock: now.clock,
        };
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        let (phase, answer) = match (&self.role, phase, last) {
            (Role::Dialler(_), Phase::Unknown, false) => {
                let peer = admit::check_lean(&hello, &key, dialled.address(), &known)?;
                (
                    Phase::LeanChecked(peer),
                    self.own_hello(&hello, self.full_credential()),
                )
            }
            (Role::Dialler(_), Phase::LeanChecked(lean), true) => {
                let peer = admit::check_full(&hello, &key, dialled.address(), &lean, &known)?;
                let standing = Standing::Verified(peer);
                let info = PeerInfo::new(standing, key, self.hash()?, hello.instance, dialled);
                (Phase::Admitted(Admitted::new(info, now.clock)), Vec::new())
            }
            (Role::Answerer(_), Phase::Unknown, true) => {
                let standing = admit::check_caller(&hello, &key, &known)?;
                let answer = self.own_hello(&hello, self.full_credential());
                let info = PeerInfo::new(standing, key, self.hash()?, hello.instance, dialled);
                (Phase::Admitted(Admitted::new(info, now.clock)), answer)
            }
            _ => return Err(Refusal::new(code::MALFORMED, "a hello out of turn")),
        };
        self.phase = phase;
        self.channel.proceed(now.mono, answer);
        Ok(())
    }

    fn check_dialled(&self, names: &Arc<[Address]>) -> Result<Dialled, Refusal> {
        let dialled = admit::check_dialled(self.channel.dialled(), names)?;
        if self.channel.purpose() != Some(purpose_of(dialled.address())) {
            return Err(Refusal::new(
                code::MALFORMED,
                "the handshake's purpose is not the name's",
            ));
        }
        Ok(dialled)
    }

    /// The hash of the handshake, which is complete when the peer's last hello comes.
    fn hash(&self) -> Result<[u8; 32], Refusal> {
        let hash = self.channel.handshake_hash();
        hash.ok_or_else(|| Refusal::new(code::MALFORMED, "no handshake hash"))
    }

    /// This credential of this side's, and the trust set if `theirs` is older.
    fn own_hello(&self, theirs: &Hello, credential: Option<Vec<u8>>) -> Vec<u8> {
        let trust = self.local.trust.as_ref().map(VerifiedTrustSet::bytes);
        let known = trust == theirs.trust_set.as_deref();
        // In its HELLO frame the answering side repeats nothing: the dialler
        // has seen the trust set in message 2.
        let dials = matches!(self.role, Role::Dialler(_));
        let send_trust = !known && dials;
        let ticket = self.local.own.ticket.as_deref();
        Hello {
            ticket: ticket
                .filter(|_| dials && credential.is_none())
                .map(WireTicket::from),
            credential,
            trust_set: trust.filter(|_| send_trust).map(<[u8]>::to_vec),
            instance: self.local.own.instance,
        }
        .to_bytes()
    }

    fn learn_trust(&mut self, hello: &Hello) -> Result<(), Refusal> {
        let shown = hello.trust_set.as_deref();
        let newer = admit::newer_trust(shown, self.local.trust.as_ref(), &self.local.own.pin)?;
        if let Some(trust) = newer {
            self.local.trust = Some(trust.clone());
            self.events.push_back(Event::TrustSetLearned(trust));
        }
        Ok(())
    }

    fn on_ready(&mut self, now: Now) {
        let admitted = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Admitted(admitted) => admitted,
            Phase::Unknown
            | Phase::AwaitingTime(_)
            | Phase::LeanChecked(_)
            | Phase::Established(..)
            | Phase::Ended => {
                let text = "the channel is ready, but nobody was admitted";
                return self.end(now, Refusal::new(code::MALFORMED, text));
            }
        };
        self.events
            .push_back(Event::Established(admitted.info.clone()));
        self.phase = Phase::Established(admitted);
        self.apply_next_local(now);
    }

    fn on_opened(&mut self, now: Now, stream: StreamId, header: &[u8]) {
        let Some(peer) = self.peer().cloned() else {
            let text = "a stream before the session was established";
            return self.end(now, Refusal::new(code::MALFORMED, text));
        };
        let open = OpenRequest::from_bytes(header)
            .map_err(|error| Refusal::new(code::MALFORMED, format!("the OPEN header: {error}")));
        let target = open.as_ref().ok().map(|open| open.target);
        let answer = match (&self.role, open) {
            (Role::Dialler(_), _) => Err(Denied::from(Refusal::new(
                code::WRONG_DIRECTION,
                "only the side that dialled opens streams",
            ))),
            (Role::Answerer(_), Err(refusal)) => Err(Denied::from(refusal)),
            (Role::Answerer(_), Ok(open)) => {
                Grant::decide(stream, &peer, &open, &self.live).map(|grant| (grant, open))
            }
        };
        self.events.push_back(match answer {
            Ok((grant, open)) => Event::Incoming {
                stream,
                grant,
                open,
            },
            Err(Denied { refusal, decision }) => {
                self.channel.reset(now.mono, stream, refusal.to_reason());
                Event::Refused {
                    stream,
                    peer,
                    target,
                    refusal,
                    decision,
                }
            }
        });
    }
}

// === judging the peer again ===

impl Session {
    /// Ends the session when the peer's credential has run out, and verifies
    /// it (for the first time, or once more) when the time has become known.
    fn judge_by_clock(&mut self, now: Now) {
        if let Phase::AwaitingTime(shown) = &self.phase
            && (matches!(now.clock, Clock::Trusted(_)) || now.mono >= shown.until)
            && let Phase::AwaitingTime(shown) = std::mem::replace(&mut self.phase, Phase::Unknown)
        {
            return self.meet(now, *shown);
        }
        let Some(admitted) = self.admitted() else {
            return;
        };
        if let Standing::Verified(peer) = admitted.info.standing()
            && now.clock.at_least() >= peer.expires()
        {
            let refusal = admit::expired(peer.id());
            return self.end(now, refusal);
        }
        if let (true, Clock::Trusted(_)) = (admitted.by_floor, now.clock) {
            self.judge_again(now);
        }
    }

    fn judge_again(&mut self, now: Now) {
        let rules = self.live.rules();
        let known = Known {
            trust: self.local.trust.as_ref(),
            rules: &rules,
            clock: now.clock,
        };
        let (Phase::Admitted(admitted) | Phase::Established(admitted)) = &mut self.phase else {
            // A lean credential is followed by the full one, which is verified
            // under the trust set of then.
            return;
        };
        match admit::check_again(admitted.info.standing(), &known) {
            // Its end may have moved with its issuer's.
            Ok(standing) => {
                admitted.info = admitted.info.with_standing(standing);
                admitted.by_floor = matches!(now.clock, Clock::Floor(_));
            }
            Err(refusal) => self.end(now, refusal),
        }
    }

    fn admitted(&self) -> Option<&Admitted> {
        match &self.phase {
            Phase::Admitted(admitted) | Phase::Established(admitted) => Some(admitted),
            Phase::Unknown | Phase::AwaitingTime(_) | Phase::LeanChecked(_) | Phase::Ended => None,
        }
    }

    /// The monotonic time at which the peer's credential runs out, or its
    /// patience; up to a second late, since the wall clock comes in whole
    /// seconds. Any call in between notices, too.
    fn expiry(&self, now: Now) -> Option<Time> {
        if let Phase::AwaitingTime(shown) = &self.phase {
            return Some(shown.until);
        }
        match self.admitted()?.info.standing() {
            Standing::Verified(peer) => {
                let left = peer.expires().since(now.clock.at_least());
                now.mono.checked_add(Time::from_secs(left))
            }
            Standing::Expired(_) | Standing::TicketHolder(_) | Standing::Anonymous => None,
        }
    }
}

impl Admitted {
    fn new(info: PeerInfo, clock: Clock) -> Self {
        Self {
            info,
            by_floor: matches!(clock, Clock::Floor(_)),
        }
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
