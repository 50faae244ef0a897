//! Two sessions, two queues, one clock.

use bytes::{Bytes, BytesMut};
use fairway_identity::{Address, Clock};

use super::world::{START, World, address, broker_rules, open_rules};
use crate::{
    Batch, ClosedBy, Config, Event, Grant, Local, Now, OpenRequest, Output, PathId, ReadOutcome,
    Rules, Session, StreamId, Time,
};

/// The time after `seconds` of a test, with a good clock.
pub(super) fn now(seconds: u64) -> Now {
    Now {
        mono: Time::from_secs(seconds),
        clock: Clock::Trusted(START.plus(seconds)),
    }
}

/// One end: a session and what came out of it.
pub(super) struct End {
    pub(super) session: Session,
    pub(super) events: Vec<Event>,
    timeout: Option<Time>,
    /// Whether this end knows the time, or only that it is not before `START`.
    pub(super) knows_time: bool,
}

pub(super) struct Pair {
    pub(super) dialler: End,
    pub(super) answerer: End,
    pub(super) at: Time,
    /// Changes packets on their way, by direction (true: from the dialler).
    pub(super) tamper: fn(bool, &mut BytesMut),
}

impl Pair {
    /// Nothing has been sent yet.
    pub(super) fn new(
        dialler: (Local, Rules),
        answerer: (Local, Rules),
        names: &[Address],
        dialled: Address,
    ) -> Self {
        Self::at(dialler, answerer, names, dialled, true)
    }

    pub(super) fn at(
        dialler: (Local, Rules),
        answerer: (Local, Rules),
        names: &[Address],
        dialled: Address,
        dialler_knows_time: bool,
    ) -> Self {
        let start = now(0);
        let floor = Now {
            clock: Clock::Floor(START),
            ..start
        };
        let dial_now = if dialler_knows_time { start } else { floor };
        let (local, rules) = dialler;
        let dial = Session::dial(Config::new(), local, rules, dialled, [3; 32], dial_now).unwrap();
        let (local, rules) = answerer;
        let answer =
            Session::answer(Config::new(), local, rules, names.into(), [4; 32], start).unwrap();
        Self {
            dialler: End::new(dial, dialler_knows_time),
            answerer: End::new(answer, true),
            at: Time::ZERO,
            tamper: |_, _| {},
        }
    }

    /// The pump dials the broker, who plays by `rules`.
    pub(super) fn pump_to_broker(world: &World, rules: Rules) -> Self {
        let name = address("broker.factory.svc");
        Self::new(
            (world.pump(), Rules::default()),
            (world.broker(), rules),
            std::slice::from_ref(&name),
            name.clone(),
        )
    }

    /// As above, established, with these policies.
    pub(super) fn established(world: &World, policies: Vec<fairway_policy::Policy>) -> Self {
        let mut pair = Self::pump_to_broker(world, broker_rules(policies));
        pair.drive();
        assert!(
            pair.dialler.session.is_established(),
            "{:?}",
            pair.dialler.events
        );
        assert!(
            pair.answerer.session.is_established(),
            "{:?}",
            pair.answerer.events
        );
        pair.dialler.events.clear();
        pair.answerer.events.clear();
        pair
    }

    /// A newcomer at the authority's front.
    pub(super) fn newcomer_to_authority(world: &World) -> Self {
        Self::at(
            (world.newcomer(), Rules::default()),
            (world.authority(), open_rules()),
            &[Address::Authority],
            Address::Authority,
            false,
        )
    }

    /// Carries packets until neither end has any.
    pub(super) fn drive(&mut self) {
        for _ in 0..1000 {
            let from_dialler = self.dialler.drain(self.at);
            let from_answerer = self.answerer.drain(self.at);
            if from_dialler.is_empty() && from_answerer.is_empty() {
                return;
            }
            for (path, mut packet) in from_dialler {
                (self.tamper)(true, &mut packet);
                let now = self.answerer.now(self.at);
                self.answerer.session.handle_input(now, path, packet);
            }
            for (path, mut packet) in from_answerer {
                (self.tamper)(false, &mut packet);
                let now = self.dialler.now(self.at);
                self.dialler.session.handle_input(now, path, packet);
            }
        }
        panic!("the two never come to rest");
    }

    /// The link below is gone, and both ends have noticed.
    pub(super) fn lose_path(&mut self) {
        let at = self.at;
        for end in [&mut self.dialler, &mut self.answerer] {
            let now = end.now(at);
            let path = end.session.active_path().expect("there was one");
            end.session.path_lost(now, path);
        }
    }

    /// Lets time pass, from timeout to timeout.
    pub(super) fn advance_to(&mut self, seconds: u64) {
        let end = Time::from_secs(seconds);
        self.drive();
        for _ in 0..100_000 {
            let next = [self.dialler.timeout, self.answerer.timeout]
                .into_iter()
                .flatten()
                .min();
            match next {
                Some(next) if next <= end => self.at = self.at.max(next),
                _ => {
                    self.at = end;
                    return;
                }
            }
            for side in [&mut self.dialler, &mut self.answerer] {
                if side.timeout.is_some_and(|timeout| timeout <= self.at) {
                    let now = side.now(self.at);
                    side.session.handle_timeout(now);
                }
            }
            self.drive();
        }
        panic!("timeouts without end");
    }

    pub(super) fn dialler_now(&self) -> Now {
        self.dialler.now(self.at)
    }

    pub(super) fn answerer_now(&self) -> Now {
        self.answerer.now(self.at)
    }

    /// The dialler opens a stream, and both are driven.
    pub(super) fn open(&mut self, request: &OpenRequest) -> StreamId {
        let now = self.dialler_now();
        let stream = self.dialler.session.open(now, request).unwrap();
        self.drive();
        stream
    }

    /// Opens and accepts.
    pub(super) fn connect(&mut self, request: &OpenRequest) -> (StreamId, Grant) {
        let stream = self.open(request);
        let grant = self.answerer.incoming(stream);
        let now = self.answerer_now();
        self.answerer.session.accept(now, &grant).unwrap();
        self.drive();
        assert!(
            self.dialler
                .take(|e| matches!(e, Event::Accepted(s) if *s == stream))
                .is_some()
        );
        (stream, grant)
    }

    /// Carries `text` over an accepted stream and reads it at the other end.
    pub(super) fn send(&mut self, stream: StreamId, text: &'static str) -> Bytes {
        let mut data = Bytes::from_static(text.as_bytes());
        let now = self.dialler_now();
        self.dialler.session.write(now, stream, &mut data).unwrap();
        self.drive();
        let now = self.answerer_now();
        match self.answerer.session.read(now, stream).unwrap() {
            ReadOutcome::Chunk(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    /// Neither end is, or ever was, established; each said why.
    pub(super) fn assert_refused(&mut self, by_dialler: bool, word: &str) {
        self.drive();
        let (refuser, other) = if by_dialler {
            (&mut self.dialler, &mut self.answerer)
        } else {
            (&mut self.answerer, &mut self.dialler)
        };
        let (by, refusal) = refuser.closed().expect("the refuser closes");
        assert_eq!((by, refusal.word()), (ClosedBy::Owner, word), "{refusal}");
        for end in [&refuser, &other] {
            assert!(!end.session.is_established());
        }
        let admitted = |e: &Event| matches!(e, Event::Incoming { .. });
        assert!(!refuser.events.iter().any(admitted) && !other.events.iter().any(admitted));
        assert!(
            !refuser
                .events
                .iter()
                .any(|e| matches!(e, Event::Established(_)))
        );
    }
}

impl End {
    fn new(session: Session, knows_time: bool) -> Self {
        Self {
            session,
            events: Vec::new(),
            timeout: None,
            knows_time,
        }
    }

    fn now(&self, at: Time) -> Now {
        let now = now(at.as_secs());
        let clock = if self.knows_time {
            now.clock
        } else {
            Clock::Floor(now.clock.at_least())
        };
        Now { mono: at, clock }
    }

    pub(super) fn drain(&mut self, at: Time) -> Vec<(PathId, BytesMut)> {
        let now = self.now(at);
        let mut batch = Batch::new(0);
        let mut packets = Vec::new();
        loop {
            match self.session.poll_output(now, &mut batch) {
                Output::Transmit { path } => {
                    let sent = batch.packets_mut();
                    packets.extend(sent.map(|packet| (path, BytesMut::from(&*packet))));
                    batch.clear();
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout(at) => {
                    self.timeout = at;
                    return packets;
                }
            }
        }
    }

    /// Takes the first event that `wanted` likes out of the log.
    pub(super) fn take(&mut self, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let at = self.events.iter().position(wanted)?;
        Some(self.events.remove(at))
    }

    /// The grant that came for this stream.
    pub(super) fn incoming(&mut self, stream: StreamId) -> Grant {
        let wanted = |e: &Event| matches!(e, Event::Incoming { stream: s, .. } if *s == stream);
        match self.take(wanted) {
            Some(Event::Incoming { grant, .. }) => grant,
            _ => panic!("no grant for {stream}: {:?}", self.events),
        }
    }

    /// The word with which this stream was refused here.
    pub(super) fn refused(&mut self, stream: StreamId) -> &'static str {
        let wanted = |e: &Event| matches!(e, Event::Refused { stream: s, .. } if *s == stream);
        match self.take(wanted) {
            Some(Event::Refused { refusal, .. }) => refusal.word(),
            _ => panic!("{stream} was not refused: {:?}", self.events),
        }
    }

    /// The word with which the peer reset this stream.
    pub(super) fn reset_by_peer(&mut self, stream: StreamId) -> &'static str {
        let wanted = |e: &Event| matches!(e, Event::Reset { stream: s, .. } if *s == stream);
        match self.take(wanted) {
            Some(Event::Reset { refusal, .. }) => refusal.word(),
            _ => panic!("{stream} was not reset: {:?}", self.events),
        }
    }

    /// Who closed the session and why, if it is closed.
    pub(super) fn closed(&self) -> Option<(ClosedBy, &crate::Refusal)> {
        self.events.iter().find_map(|event| match event {
            Event::Closed { by, refusal } => Some((*by, refusal)),
            _ => None,
        })
    }
}
