//! The phases of a channel, and how it goes from one to the next.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::{Channel, renew::Renewing};
use crate::{
    ClosedBy, Code, Config, Event, PathId, Reason, StaticSecret, Time,
    ack::Acks,
    frame::Frame,
    handshake::{EpochSecret, Established, Initiator, InitiatorChecking, Responder},
    limits,
    path::Paths,
    record::{Opener, Sealer},
    recovery::Recovery,
    streams::Streams,
    timer::{Timer, Timers},
};

/// A handshake packet is sent again after this, then after twice as long, ...
const RESEND_FIRST: Time = Time::from_millis(500);
/// ... up to this.
const RESEND_MAX: Time = Time::from_secs(4);

/// How far the channel has come.
pub(super) enum Phase {
    /// Initiator: message 1 is out.
    Dialling(Box<Initiator>),
    /// Initiator: the owner looks at the hello of message 2.
    Checking(Box<InitiatorChecking>),
    /// Initiator: message 3 is out, the responder's last hello is to come.
    AwaitingHello,
    /// Responder: message 1 is to come.
    Listening(Box<Listening>),
    /// Responder: message 2 is out.
    Answered(Box<Responder>),
    /// The owner looks at the peer's last hello; what comes meanwhile is held.
    Admitting(Box<Held>),
    /// The peer is admitted, its SETTINGS are to come.
    AwaitingSettings,
    Ready,
    Closed(Box<Closing>),
}

/// Records that came too early.
#[derive(Default)]
pub(super) struct Held(pub(super) Vec<(PathId, BytesMut)>);

/// Datagrams that wait; few channels have any.
#[derive(Default)]
pub(super) struct Datagrams {
    /// How many of the events are datagrams.
    pub(super) received: usize,
    pub(super) out: VecDeque<Bytes>,
}

impl Datagrams {
    pub(super) fn is_empty(&self) -> bool {
        self.received == 0 && self.out.is_empty()
    }
}

/// What [`Stats`](crate::Stats) is made of, besides what the parts count.
/// Small, since there is one for each idle channel: the seldom ones stop at
/// their end.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) packets_out: u64,
    pub(super) packets_in: u64,
    pub(super) dropped_forged: u32,
    pub(super) dropped_replayed: u32,
    pub(super) dropped_unexpected: u32,
    pub(super) dropped_datagrams: u32,
    pub(super) moves: u32,
    pub(super) renewals: u32,
}

/// Counts one more.
pub(super) fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}

/// What a responder needs until message 1 comes.
pub(super) struct Listening {
    pub(super) secret: StaticSecret,
    pub(super) seed: Zeroizing<[u8; 32]>,
    pub(super) hello: Vec<u8>,
}

/// The last handshake packet of this side, as long as it may have to be sent again.
#[derive(Default)]
pub(super) struct Greeting {
    pub(super) packet: Option<Bytes>,
    pub(super) due: bool,
    /// SHA-256 of the peer's packet that this one answers.
    pub(super) answers: Option<[u8; 32]>,
    pub(super) resend_after: Time,
    pub(super) sent_at: Time,
    /// Sent more than once: useless for measuring the round trip.
    pub(super) resent: bool,
}

pub(super) struct Keys {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    /// How often they have been renewed.
    pub(super) epoch: u64,
    /// What the next ones are bound to.
    pub(super) secret: EpochSecret,
}

/// What the channel itself (not a stream) has to put into a record.
#[derive(Default)]
pub(super) struct Owes {
    pub(super) settings: bool,
    pub(super) hello: bool,
    /// The responder's last hello, until it has arrived.
    pub(super) hello_bytes: Option<Box<[u8]>>,
    pub(super) ping: bool,
    /// This side's message of the renewal that is under way.
    pub(super) renew: bool,
    pub(super) renew_request: bool,
    pub(super) settings_seen: bool,
}

impl Owes {
    /// Whether there is anything to put into a record.
    pub(super) fn any(&self) -> bool {
        self.settings || self.hello || self.ping || self.renew || self.renew_request
    }
}

/// A closed channel only repeats why.
pub(super) struct Closing {
    /// `None`: the peer closed, or there are no keys to say it with.
    pub(super) reason: Option<Reason>,
    pub(super) due: bool,
    pub(super) packets_since: u32,
    pub(super) repeats: u32,
}

impl Channel {
    pub(super) fn new(config: Config, initiator: bool, phase: Phase, now: Time) -> Self {
        let config = config.into_settings();
        let mut timers = Timers::default();
        timers.set(Timer::Handshake, Some(now + config.handshake_timeout));
        Self {
            streams: Streams::new(&config, initiator),
            config,
            initiator,
            now,
            phase,
            dialled: None,
            purpose: None,
            remote_static: None,
            handshake_hash: None,
            greeting: None,
            keys: None,
            paths: Paths::new(),
            renewing: Renewing::default(),
            heard_at: now.into(),
            owes: Owes::default(),
            acks: Acks::default(),
            recovery: Recovery::default(),
            timers,
            events: VecDeque::new(),
            datagrams: None,
            pinged: false,
            stats: Counters::default(),
        }
    }

    /// Time never goes backwards.
    pub(super) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    pub(super) fn set_after(&mut self, timer: Timer, after: Option<Time>) {
        self.timers.set(timer, after.map(|after| self.now + after));
    }

    /// A new handshake packet of this side. Only the initiator sends its own
    /// again by itself: the responder's is asked for by repetition.
    pub(super) fn greet(&mut self, packet: Vec<u8>, answers: Option<[u8; 32]>) {
        self.greeting = Some(Box::new(Greeting {
            packet: Some(packet.into()),
            due: true,
            answers,
            resend_after: RESEND_FIRST,
            sent_at: self.now,
            resent: false,
        }));
        if self.initiator {
            self.set_after(Timer::Resend, Some(RESEND_FIRST));
        }
    }

    pub(super) fn resend_greeting(&mut self) {
        if let Some(greeting) = &mut self.greeting
            && greeting.packet.is_some()
        {
            greeting.due = true;
            greeting.resent = true;
            greeting.resend_after = (greeting.resend_after * 2).min(RESEND_MAX);
            let after = greeting.resend_after;
            self.set_after(Timer::Resend, Some(after));
        }
    }

    /// The answer to a greeting that was sent once measures the round trip.
    pub(super) fn measure_greeting(&mut self) {
        if let Some(greeting) = &self.greeting
            && !greeting.resent
        {
            let rtt = self.now.saturating_sub(greeting.sent_at);
            self.recovery.first_rtt(rtt);
        }
    }

    pub(super) fn establish(&mut self, established: Established) {
        let (seal, open) = match self.initiator {
            true => (&established.to_responder, &established.to_initiator),
            false => (&established.to_initiator, &established.to_responder),
        };
        self.keys = Some(Keys {
            sealer: Sealer::new(seal),
            opener: Opener::new(open),
            epoch: 0,
            secret: established.secret,
        });
        self.note_epoch();
        self.handshake_hash = Some(established.hash);
        self.remote_static = Some(established.remote_static);
        self.set_after(Timer::Idle, self.config.idle_timeout);
        self.set_after(Timer::Keepalive, self.config.keepalive);
    }

    pub(super) fn become_ready(&mut self) {
        if matches!(self.phase, Phase::AwaitingSettings) && self.owes.settings_seen {
            self.phase = Phase::Ready;
            self.timers.set(Timer::Handshake, None);
            self.events.push_back(Event::Ready);
        }
    }

    pub(super) fn fail_handshake(&mut self, text: &str) {
        self.end(
            ClosedBy::Protocol,
            Reason::new(Code::HANDSHAKE_FAILED, text),
        );
    }

    /// Ends everything, and keeps only what is needed to tell the peer.
    pub(super) fn end(&mut self, by: ClosedBy, reason: Reason) {
        if self.is_closed() {
            return;
        }
        let tell = self.keys.is_some() && self.paths.active.is_some() && by != ClosedBy::Peer;
        self.phase = Phase::Closed(Box::new(Closing {
            reason: tell.then(|| reason.clone()),
            due: tell,
            packets_since: 0,
            repeats: 0,
        }));
        if !tell {
            self.keys = None;
        }
        self.streams = Streams::new(&self.config, self.initiator);
        self.acks = Acks::default();
        self.recovery = Recovery::default();
        self.timers.clear();
        self.paths.candidate = None;
        self.renewing = Renewing::default();
        self.owes = Owes::default();
        self.greeting = None;
        self.datagrams = None;
        self.events.clear();
        self.events.push_back(Event::Closed { by, reason });
    }
}

impl Closing {
    /// The peer goes on sending: it may not have heard. Answered ever more
    /// seldom (RFC 9000 section 10.2.1).
    pub(super) fn on_packet(&mut self) {
        self.packets_since = self.packets_since.saturating_add(1);
        if self.reason.is_some()
            && self.packets_since.is_power_of_two()
            && self.repeats < limits::MAX_CLOSE_REPEATS
        {
            self.repeats += 1;
            self.due = true;
        }
    }

    pub(super) fn put(&mut self, out: &mut Vec<u8>) {
        self.due = false;
        if let Some(reason) = &self.reason {
            Frame::Close {
                code: reason.code.0,
                reason: &reason.text,
            }
            .put(out);
        }
    }
}
