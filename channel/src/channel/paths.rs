//! From one path to another (SPEC.md section 11): the initiator tries a new
//! path, each side moves once the peer has answered its challenge there.

use bytes::BytesMut;

use super::{
    Channel,
    input::Sink,
    phase::{Phase, count},
};
use crate::{
    AttachError, ClosedBy, Code, ConnectionId, Event, PathId, Reason, Time,
    crypto::{self, CryptoError},
    path::{Candidate, Challenge, peek_attach},
    record::Prefix,
    timer::Timer,
};

/// A packet on a new path is sent again after this, then after twice as long, ...
const RESEND_FIRST: Time = Time::from_millis(250);
/// ... up to this.
const RESEND_MAX: Time = Time::from_secs(2);

/// A path is called silent after so many times what an acknowledgement may take
/// with all that waits on the way, two probes at least, ...
const SILENT_AFTER: u32 = 4;
/// ... so many least round trips, in which a lossy link below sends something
/// for the third time, ...
const SILENT_AFTER_TRIPS: u32 = 16;
/// ... and not before this: a peer's process may have to wait for a processor.
const SILENT_MIN: Time = Time::from_secs(1);
/// A clock that goes off so late says that this process was held up: what came
/// meanwhile is still to be read, ...
const LATE: Time = Time::from_millis(100);
/// ... for which there is so much time.
const GRACE: Time = Time::from_millis(250);

impl Channel {
    /// Names this channel in an ATTACH; equal at both ends. `None` before the
    /// handshake is complete.
    pub fn connection_id(&self) -> Option<ConnectionId> {
        self.handshake_hash.as_ref().map(ConnectionId::derive)
    }

    /// The path that traffic of this side goes over; `None` while there is none.
    pub fn active_path(&self) -> Option<PathId> {
        self.paths.active
    }

    /// The path that is being tried.
    pub fn candidate_path(&self) -> Option<PathId> {
        self.paths.candidate.as_ref().map(|new| new.path)
    }

    /// The path that the next packet goes over, if there is one to be sent.
    /// Of use with [`Batch::set_path`](crate::Batch::set_path): whoever serves
    /// that path is to poll.
    pub fn pending_path(&self) -> Option<PathId> {
        let greets = self.greeting.as_ref().is_some_and(|greeting| greeting.due);
        let greeting = self.paths.active.filter(|_| greets);
        let candidate = self.paths.candidate.as_ref().filter(|new| new.due);
        greeting
            .or(candidate.map(|new| new.path))
            .or_else(|| self.paths.active.filter(|_| self.wants_record()))
    }

    /// Tries another path, which leads to the same process as the first did.
    /// Traffic stays where it is (nowhere, if the path was lost) until the peer
    /// has answered there: [`Event::PathActive`], or [`Event::PathFailed`].
    /// One path is tried at a time; an earlier one fails.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&mut self, now: Time, path: PathId) -> Result<(), AttachError> {
        self.advance(now);
        if !self.initiator {
            return Err(AttachError::WrongSide);
        }
        match self.phase {
            Phase::Ready => {}
            Phase::Closed(_) => return Err(AttachError::Closed),
            _ => return Err(AttachError::NotReady),
        }
        if self.paths.active == Some(path) || self.candidate_path() == Some(path) {
            return Err(AttachError::InUse);
        }
        self.try_path(path);
        Ok(())
    }

    /// A path is gone. If it was the active one, nothing is sent any more, what
    /// is written waits within the stream's buffers, and keepalive rests. The
    /// initiator is to [`attach`](Self::attach) the channel to another path, the
    /// responder waits for that. After [`Config::path_timeout`](crate::Config::path_timeout)
    /// the channel closes with [`Code::PATH_LOST`]; at once, if the handshake
    /// was still under way.
    pub fn path_lost(&mut self, now: Time, path: PathId) {
        self.advance(now);
        if self.candidate_path() == Some(path) {
            self.paths.candidate = None;
            self.timers.set(Timer::Candidate, None);
        }
        if self.paths.active != Some(path) {
            return;
        }
        self.paths.active = None;
        self.paths.answer = None;
        self.paths.silent = false;
        self.paths.unanswered = None;
        match &mut self.phase {
            Phase::Ready | Phase::AwaitingSettings => {
                self.timers.set(Timer::Handshake, None);
                self.timers.set(Timer::Keepalive, None);
                self.timers.set(Timer::Idle, None);
                self.set_after(Timer::Path, Some(self.config.path_timeout));
            }
            Phase::Closed(closing) => closing.due = false,
            _ => self.path_expired("the path was lost during the handshake"),
        }
    }

    pub(super) fn path_expired(&mut self, text: &str) {
        self.end(ClosedBy::Protocol, Reason::new(Code::PATH_LOST, text));
    }

    /// An ATTACH of the peer.
    pub(super) fn on_attach(&mut self, path: PathId, packet: BytesMut) {
        let is_awaited =
            !self.initiator && matches!(self.phase, Phase::Ready | Phase::AwaitingSettings);
        if is_awaited && peek_attach(&packet) == self.connection_id() {
            self.on_record(path, packet, Prefix::Attach);
        } else {
            count(&mut self.stats.dropped_unexpected);
        }
    }

    /// Answers a challenge on the path that it came on. In an ATTACH it is
    /// also the wish to use that path.
    pub(super) fn on_challenge(&mut self, path: PathId, challenge: Challenge, prefix: Prefix) {
        if self.paths.active == Some(path) {
            self.paths.answer = Some(challenge);
            return;
        }
        if prefix == Prefix::Attach && self.candidate_path() != Some(path) {
            self.try_path(path);
        }
        if let Some(candidate) = self.paths.candidate_on(path) {
            candidate.answer = Some(challenge);
            candidate.due = true;
        }
    }

    /// The peer's answer: only on the path that was asked does it count.
    pub(super) fn on_response(&mut self, path: PathId, challenge: Challenge) {
        let now = self.now;
        let proven = self
            .paths
            .candidate
            .take_if(|new| new.path == path && new.challenge == challenge);
        let Some(proven) = proven else {
            return;
        };
        let rtt = (proven.sends == 1).then(|| now.saturating_sub(proven.sent_at));
        self.move_to(path, proven.answer, rtt);
    }

    /// The clock of the candidate: ask again, or give up.
    pub(super) fn on_candidate_timer(&mut self) {
        let Some(candidate) = &mut self.paths.candidate else {
            return;
        };
        if self.now >= candidate.gives_up_at {
            let path = candidate.path;
            self.paths.candidate = None;
            self.events.push_back(Event::PathFailed { path });
            return;
        }
        candidate.due = true;
        candidate.resend_after = (candidate.resend_after * 2).min(RESEND_MAX);
        let next = (self.now + candidate.resend_after).min(candidate.gives_up_at);
        self.timers.set(Timer::Candidate, Some(next));
    }

    /// Something that was sent has been acknowledged: the path works both ways.
    pub(super) fn on_answer(&mut self) {
        self.paths.unanswered = None;
        self.paths.was_late = false;
        if let Some(path) = self.paths.active
            && core::mem::take(&mut self.paths.silent)
        {
            self.events.push_back(Event::PathRecovered { path });
        }
    }

    /// Starts and stops the clock on the peer's acknowledgements. It runs on
    /// while what was sent goes out again, and while the path takes nothing.
    pub(super) fn watch_path(&mut self) {
        if self.wants_answer() || self.recovery.awaits_ack() {
            self.paths.unanswered.get_or_insert(self.now);
        } else {
            self.paths.unanswered = None;
        }
    }

    /// A silent path is asked on and on, so that somebody finds out when it has
    /// come back.
    pub(super) fn keep_asking(&mut self) {
        if self.paths.silent && !self.wants_answer() && !self.recovery.awaits_ack() {
            self.owes.ping = true;
        }
    }

    /// When the path is to be called silent: when nothing has been acknowledged
    /// for long, whatever else comes (one direction may be blocked), and much
    /// sooner when nothing comes at all.
    pub(super) fn silent_at(&self) -> Option<Time> {
        if self.paths.silent || self.paths.active.is_none() || !self.is_ready() {
            return None;
        }
        let since = self.paths.unanswered?;
        let most = self.config.path_silence;
        let trips = self
            .recovery
            .least_rtt()
            .map(|rtt| rtt * SILENT_AFTER_TRIPS);
        let delayed = self.recovery.patience().map(|it| it * SILENT_AFTER);
        let soon = trips.max(delayed).unwrap_or(most);
        let soon = soon.max(SILENT_MIN).min(most);
        Some((since.max(self.heard_at.into()) + soon).min(since + most))
    }

    /// Says that the path may be dead, once.
    pub(super) fn suspect_path(&mut self) {
        let (Some(at), Some(path)) = (self.silent_at(), self.paths.active) else {
            return;
        };
        if at > self.now {
            return;
        }
        if self.now - at >= LATE && !core::mem::replace(&mut self.paths.was_late, true) {
            let held_up = self.now - at;
            self.paths.unanswered = self.paths.unanswered.map(|since| since + held_up + GRACE);
            return;
        }
        self.paths.silent = true;
        self.events.push_back(Event::PathSilent { path });
    }

    fn try_path(&mut self, path: PathId) {
        let challenge = match crypto::random() {
            Ok(challenge) => *challenge,
            Err(CryptoError) => {
                self.events.push_back(Event::PathFailed { path });
                return;
            }
        };
        let candidate = Candidate {
            path,
            challenge,
            answer: None,
            due: true,
            resend_after: RESEND_FIRST,
            sent_at: self.now,
            sends: 0,
            gives_up_at: self.now + self.config.attach_timeout,
        };
        if let Some(old) = self.paths.candidate.replace(Box::new(candidate)) {
            self.events.push_back(Event::PathFailed { path: old.path });
        }
        self.set_after(Timer::Candidate, Some(RESEND_FIRST));
    }

    fn move_to(&mut self, path: PathId, answer: Option<Challenge>, rtt: Option<Time>) {
        self.paths.active = Some(path);
        self.paths.answer = answer;
        self.paths.silent = false;
        self.paths.unanswered = None;
        self.timers.set(Timer::Candidate, None);
        self.timers.set(Timer::Path, None);
        if matches!(self.phase, Phase::AwaitingSettings) {
            self.set_after(Timer::Handshake, Some(self.config.handshake_timeout));
        }
        self.set_after(Timer::Idle, self.config.idle_timeout);
        self.set_after(Timer::Keepalive, self.config.keepalive);
        let mut sink = Sink {
            streams: &mut self.streams,
            acks: &mut self.acks,
            owes: &mut self.owes,
            events: &mut self.events,
            pinged: &mut self.pinged,
        };
        self.recovery
            .on_moved(|fate, carried| sink.take(fate, carried));
        if let Some(rtt) = rtt {
            self.recovery.first_rtt(rtt);
        }
        self.acks.urge(self.now);
        count(&mut self.stats.moves);
        self.events.push_back(Event::PathActive { path });
    }
}
