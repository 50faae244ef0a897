//! Whole channels against one another, and against peers that cheat.
//!
//! No loss here: bad networks are the business of the crate `sim`.

mod fairness;
mod handshake;
mod hostile;
mod paths;
mod renewal;
mod streams;
mod vectors;

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::{
    Batch, Channel, Config, Event, Output, PathId, Reason, StaticSecret, Time, frame::Frame,
};

/// One end with what it said, and the packets it wants to send.
pub(crate) struct End {
    pub(crate) channel: Channel,
    pub(crate) events: Vec<Event>,
    pub(crate) timeout: Option<Time>,
    pub(crate) out: VecDeque<BytesMut>,
    pub(crate) admits: bool,
    pub(crate) secret: StaticSecret,
}

/// Two ends and a clock.
pub(crate) struct Duo {
    pub(crate) now: Time,
    pub(crate) a: End,
    pub(crate) b: End,
}

impl Duo {
    pub(crate) fn new(a: Config, b: Config) -> Self {
        let secret = |byte| StaticSecret::from_bytes([byte; 32]);
        let now = Time::from_secs(1000);
        let a = Channel::initiator(a, &secret(1), [11; 32], 9, "b.example", now).unwrap();
        let b = Channel::responder(b, &secret(2), [12; 32], b"lean b".to_vec(), now);
        Self {
            now,
            a: End::new(a, secret(1)),
            b: End::new(b, secret(2)),
        }
    }

    /// Both ends ready, nothing under way, no events left.
    pub(crate) fn ready(a: Config, b: Config) -> Self {
        let mut duo = Self::new(a, b);
        duo.run();
        assert!(duo.a.channel.is_ready() && duo.b.channel.is_ready());
        duo.rest();
        duo.a.events.clear();
        duo.b.events.clear();
        duo
    }

    /// Carries packets until there are none.
    pub(crate) fn run(&mut self) {
        loop {
            self.a.drain(self.now);
            self.b.drain(self.now);
            if self.a.out.is_empty() && self.b.out.is_empty() {
                return;
            }
            for packet in self.a.out.drain(..) {
                self.b.channel.handle_input(self.now, PathId::FIRST, packet);
            }
            for packet in self.b.out.drain(..) {
                self.a.channel.handle_input(self.now, PathId::FIRST, packet);
            }
        }
    }

    /// Lets owed acknowledgements go out.
    pub(crate) fn rest(&mut self) {
        self.pass(Time::from_millis(60));
    }

    /// Lets time pass, timer by timer.
    pub(crate) fn pass(&mut self, time: Time) {
        let end = self.now + time;
        loop {
            self.run();
            let next = [self.a.timeout, self.b.timeout].into_iter().flatten().min();
            let Some(next) = next.filter(|&next| next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            self.a.channel.handle_timeout(self.now);
            self.b.channel.handle_timeout(self.now);
        }
    }

    /// `a`, a cheat, seals these frames with its true key and sends them.
    pub(crate) fn cheat(&mut self, frames: &[Frame<'_>]) {
        let mut text = Vec::new();
        for frame in frames {
            frame.put(&mut text);
        }
        self.cheat_bytes(&text);
    }

    pub(crate) fn cheat_bytes(&mut self, text: &[u8]) {
        let record = self.a.channel.seal_raw(text).unwrap();
        self.b.channel.handle_input(self.now, PathId::FIRST, record);
        self.b.drain(self.now);
    }
}

impl End {
    fn new(channel: Channel, secret: StaticSecret) -> Self {
        Self {
            channel,
            events: Vec::new(),
            timeout: None,
            out: VecDeque::new(),
            admits: true,
            secret,
        }
    }

    pub(crate) fn drain(&mut self, now: Time) {
        let mut batch = Batch::new(3);
        loop {
            match self.channel.poll_output(now, &mut batch) {
                Output::Transmit { .. } => {
                    for packet in batch.packets_mut() {
                        self.out.push_back(BytesMut::from(&packet[3..]));
                    }
                    batch.clear();
                }
                Output::Event(event) => {
                    if self.admits
                        && let Event::PeerHello { last, .. } = event
                    {
                        let hello: &[u8] = match (self.channel.is_initiator(), last) {
                            (true, false) => b"full a",
                            (true, true) => b"",
                            (false, _) => b"full b",
                        };
                        self.channel.proceed(now, hello.to_vec());
                    }
                    match &event {
                        Event::RenewalDue => self.channel.renew(now, &self.secret).unwrap(),
                        Event::RenewalAsked if self.admits => self
                            .channel
                            .answer_renewal(now, &self.secret, b"b again")
                            .unwrap(),
                        Event::RenewalHello { .. } if self.admits => {
                            self.channel.proceed(now, b"a again".to_vec());
                        }
                        _ => {}
                    }
                    self.events.push(event);
                }
                Output::Timeout(timeout) => {
                    self.timeout = timeout;
                    return;
                }
            }
        }
    }

    pub(crate) fn closed(&self) -> Option<(crate::ClosedBy, &Reason)> {
        self.events.iter().find_map(|event| match event {
            Event::Closed { by, reason } => Some((*by, reason)),
            _ => None,
        })
    }
}
