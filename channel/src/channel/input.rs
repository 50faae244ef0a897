//! What came in: packets, records, frames.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{
    Channel, jitter,
    phase::{Greeting, Listening, Owes, Phase, count},
};
use crate::{
    ClosedBy, Code, Event, PathId, Reason,
    ack::Acks,
    crypto::{self, CryptoError},
    frame::{self, Frame},
    handshake::Responder,
    limits,
    packet::{self, FirstHeader},
    record::{Dropped, Prefix},
    recovery::{Carried, Fate},
    recv::Taken,
    streams::{Streams, Violation},
    timer::Timer,
};

impl Channel {
    pub(super) fn on_first(&mut self, packet: &[u8]) {
        if let Phase::Listening(_) = &self.phase {
            let (header, header_len) = match FirstHeader::decode(packet) {
                Ok(decoded) => decoded,
                Err(error) => return self.fail_handshake(&error.to_string()),
            };
            let (prologue, message) = packet.split_at(header_len);
            (self.dialled, self.purpose) = (Some(header.dialled.into()), Some(header.purpose));
            let Phase::Listening(listening) =
                core::mem::replace(&mut self.phase, Phase::AwaitingHello)
            else {
                return;
            };
            let Listening {
                secret,
                seed,
                hello,
            } = *listening;
            self.renewing.jitter = jitter(&seed);
            let (out, encapsulate) = (vec![packet::SECOND], crypto::encapsulate);
            match Responder::answer(&secret, &seed, prologue, message, &hello, out, encapsulate) {
                Ok((state, second)) => {
                    self.phase = Phase::Answered(Box::new(state));
                    self.greet(second, Some(crypto::sha256(&[packet])));
                }
                Err(CryptoError) => self.fail_handshake("message 1 is damaged"),
            }
        } else {
            self.on_repeated(packet);
        }
    }

    pub(super) fn on_second(&mut self, packet: &[u8]) {
        if !matches!(self.phase, Phase::Dialling(_)) {
            return self.on_repeated(packet);
        }
        let Phase::Dialling(state) = core::mem::replace(&mut self.phase, Phase::AwaitingHello)
        else {
            return;
        };
        match state.read_second(&packet[1..]) {
            Ok((state, hello)) => {
                self.measure_greeting();
                self.greeting = Some(Box::new(Greeting {
                    answers: Some(crypto::sha256(&[packet])),
                    ..Greeting::default()
                }));
                self.timers.set(Timer::Resend, None);
                let static_key = state.remote_static();
                self.remote_static = Some(static_key);
                self.phase = Phase::Checking(Box::new(state));
                self.events.push_back(Event::PeerHello {
                    static_key,
                    hello,
                    last: false,
                });
            }
            Err(CryptoError) => self.fail_handshake("message 2 is damaged or forged"),
        }
    }

    pub(super) fn on_third(&mut self, packet: &[u8]) {
        if !matches!(self.phase, Phase::Answered(_)) {
            return self.on_repeated(packet);
        }
        let Phase::Answered(state) = core::mem::replace(&mut self.phase, Phase::AwaitingHello)
        else {
            return;
        };
        match state.read_third(&packet[1..], None) {
            Ok((hello, established)) => {
                self.measure_greeting();
                self.greeting = None;
                let static_key = established.remote_static;
                self.establish(established);
                self.phase = Phase::Admitting(Box::default());
                self.events.push_back(Event::PeerHello {
                    static_key,
                    hello,
                    last: true,
                });
            }
            Err(CryptoError) => self.fail_handshake("message 3 is damaged or forged"),
        }
    }

    /// A handshake packet out of place: a repetition of the one that was
    /// answered means that the answer was lost; all others mean nothing.
    fn on_repeated(&mut self, packet: &[u8]) {
        if let Some(greeting) = &mut self.greeting
            && greeting.packet.is_some()
            && greeting.answers == Some(crypto::sha256(&[packet]))
        {
            greeting.due = true;
            greeting.resent = true;
        } else {
            count(&mut self.stats.dropped_unexpected);
        }
    }

    pub(super) fn on_record(&mut self, path: PathId, packet: BytesMut, prefix: Prefix) {
        let Some(keys) = &mut self.keys else {
            count(&mut self.stats.dropped_unexpected);
            return;
        };
        if let Phase::Admitting(held) = &mut self.phase {
            if held.0.len() < limits::MAX_HELD_RECORDS && packet.len() <= limits::MAX_PACKET {
                held.0.push((path, packet));
            }
            return;
        }
        let size = packet.len();
        let opened = match keys.opener.open(packet, prefix) {
            Ok(opened) => opened,
            Err(Dropped::Forged) => {
                count(&mut self.stats.dropped_forged);
                return;
            }
            Err(Dropped::Replayed) => {
                count(&mut self.stats.dropped_replayed);
                return;
            }
        };
        self.stats.packets_in += 1;
        self.on_sign_of_life();
        if opened.expected {
            self.on_expected_epoch();
        }
        let origin = Origin { path, prefix };
        match self.on_frames(origin, &opened.text) {
            Ok(Some(eliciting)) => {
                self.acks
                    .on_received(opened.number, eliciting, size, self.now);
            }
            // Not acknowledged, so that it comes again.
            Ok(None) => {}
            Err(Violation { code, text }) => {
                self.end(ClosedBy::Protocol, Reason::new(code, text));
            }
        }
    }

    /// Acts on the frames of a record. Gives whether it wants to be
    /// acknowledged, or `None` if it must not be: something in it could not be
    /// taken now.
    fn on_frames(&mut self, origin: Origin, text: &Bytes) -> Result<Option<bool>, Violation> {
        let mut rest = &text[..];
        if rest.is_empty() {
            return Err(Violation::new("a record without frames"));
        }
        let mut eliciting = false;
        let mut challenged = false;
        let mut is_asked = false;
        while !rest.is_empty() {
            let frame = frame::take(&mut rest)
                .map_err(|_| Violation::new("a record that is not a row of frames"))?;
            eliciting |= is_eliciting(&frame);
            challenged |= matches!(frame, Frame::PathChallenge(_));
            is_asked |= matches!(frame, Frame::Ping);
            match self.on_frame(origin, frame, text)? {
                Taken::Yes => {}
                Taken::NoRoom => return Ok(None),
            }
            if self.is_closed() {
                return Ok(None);
            }
        }
        if origin.prefix == Prefix::Attach && !challenged {
            return Err(Violation::new("an ATTACH without a challenge"));
        }
        if is_asked {
            // Whoever asks waits for it.
            self.acks.urge(self.now);
        }
        Ok(Some(eliciting))
    }

    fn on_frame(
        &mut self,
        origin: Origin,
        frame: Frame<'_>,
        text: &Bytes,
    ) -> Result<Taken, Violation> {
        match frame {
            Frame::Padding(_) | Frame::Ping => {}
            Frame::Ack(ack) => self.on_ack(&ack)?,
            Frame::Hello(hello) => self.on_hello(hello)?,
            Frame::Settings(settings) => {
                self.streams.on_settings(settings, &mut self.events);
                self.owes.settings_seen = true;
                self.become_ready();
            }
            Frame::Close { code, reason } => {
                self.end(ClosedBy::Peer, Reason::new(Code(code), reason));
            }
            Frame::PathChallenge(challenge) => {
                self.on_challenge(origin.path, challenge, origin.prefix);
            }
            Frame::PathResponse(challenge) => self.on_response(origin.path, challenge),
            // All that follow are about what only exists once both are ready.
            // A peer that is may be ahead of this side: later, then.
            _ if !self.is_ready() => return Ok(Taken::NoRoom),
            Frame::Open { stream, header } => {
                self.streams.on_open(stream, header, &mut self.events)?;
            }
            Frame::Accept { stream } => self.streams.on_accept(stream, &mut self.events)?,
            Frame::Stream {
                stream,
                offset,
                fin,
                data,
            } => {
                let data = text.slice_ref(data);
                let events = &mut self.events;
                return self.streams.on_stream(stream, offset, fin, data, events);
            }
            Frame::Reset {
                stream,
                final_size,
                code,
                reason,
            } => {
                let reason = Reason::new(Code(code), reason);
                let events = &mut self.events;
                self.streams.on_reset(stream, final_size, reason, events)?;
            }
            Frame::Stop {
                stream,
                code,
                reason,
            } => {
                let reason = Reason::new(Code(code), reason);
                self.streams.on_stop(stream, reason, &mut self.events)?;
            }
            Frame::MaxData(max) => self.streams.on_max_data(max),
            Frame::MaxStreamData { stream, max } => {
                self.streams.on_max_stream_data(stream, max)?;
            }
            Frame::MaxStreams(max) => self.streams.on_max_streams(max, &mut self.events),
            Frame::Datagram(data) => self.on_datagram(text.slice_ref(data)),
            Frame::Renew {
                epoch,
                part,
                message,
            } => return self.on_renew(epoch, part, message),
            Frame::RenewRequest => self.on_renew_request()?,
        }
        Ok(Taken::Yes)
    }

    fn on_ack(&mut self, ack: &frame::AckFrame<'_>) -> Result<(), Violation> {
        let next = self
            .keys
            .as_ref()
            .map_or(0, |keys| keys.sealer.next_number());
        let mut sink = Sink {
            streams: &mut self.streams,
            acks: &mut self.acks,
            owes: &mut self.owes,
            events: &mut self.events,
            pinged: &mut self.pinged,
        };
        let is_news = self
            .recovery
            .on_ack(ack, next, self.now, |fate, carried| {
                sink.take(fate, carried)
            })
            .map_err(|_| Violation::new("an ACK for a packet that was never sent"))?;
        if is_news {
            self.on_answer();
        }
        Ok(())
    }

    fn on_hello(&mut self, hello: &[u8]) -> Result<(), Violation> {
        if !self.initiator {
            return Err(Violation::new("a HELLO frame from the initiator"));
        }
        // A repetition of one that was taken means nothing.
        if let (Phase::AwaitingHello, Some(static_key)) = (&self.phase, self.remote_static) {
            self.phase = Phase::Admitting(Box::default());
            self.events.push_back(Event::PeerHello {
                static_key,
                hello: hello.to_vec(),
                last: true,
            });
        }
        Ok(())
    }

    fn on_datagram(&mut self, data: Bytes) {
        let datagrams = self.datagrams.get_or_insert_default();
        if datagrams.received >= limits::MAX_DATAGRAMS {
            count(&mut self.stats.dropped_datagrams);
            return;
        }
        datagrams.received += 1;
        // Copied, because it would hold its packet's memory.
        let data = Bytes::copy_from_slice(&data);
        self.events.push_back(Event::Datagram(data));
    }

    /// An authentic, new record came in.
    fn on_sign_of_life(&mut self) {
        if self.greeting.is_some() {
            // The peer has our last handshake packet: it sealed with the key.
            self.greeting = None;
            self.timers.set(Timer::Resend, None);
        }
        self.heard_at = self.now.into();
        if self.paths.active.is_some() {
            self.set_after(Timer::Idle, self.config.idle_timeout);
            self.set_after(Timer::Keepalive, self.config.keepalive);
        }
    }
}

/// Where a record came from, and whether it was an ATTACH.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    path: PathId,
    prefix: Prefix,
}

/// The parts that care what became of what was sent.
pub(super) struct Sink<'a> {
    pub(super) streams: &'a mut Streams,
    pub(super) acks: &'a mut Acks,
    pub(super) owes: &'a mut Owes,
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) pinged: &'a mut bool,
}

impl Sink<'_> {
    pub(super) fn take(&mut self, fate: Fate, carried: Carried) {
        match (carried, fate) {
            (Carried::Ack(largest), Fate::Arrived) => self.acks.on_ack_acked(largest),
            (Carried::Ping, Fate::Arrived) => {
                if core::mem::take(self.pinged) {
                    self.events.push_back(Event::Alive);
                }
            }
            (Carried::Hello, Fate::Arrived) => self.owes.hello_bytes = None,
            (Carried::Settings, Fate::Lost) => self.owes.settings = true,
            (Carried::Hello, Fate::Lost) => self.owes.hello = self.owes.hello_bytes.is_some(),
            (Carried::Ping, Fate::Lost) => self.owes.ping = true,
            (Carried::Renew, Fate::Lost) => self.owes.renew = true,
            (Carried::RenewRequest, Fate::Lost) => self.owes.renew_request = true,
            _ => self.streams.on_fate(fate, carried, self.events),
        }
    }
}

/// Whether a frame wants to be acknowledged: all that would be sent again do.
fn is_eliciting(frame: &Frame<'_>) -> bool {
    match frame {
        Frame::Padding(_)
        | Frame::Ack(_)
        | Frame::Datagram(_)
        | Frame::PathChallenge(_)
        | Frame::PathResponse(_)
        | Frame::Close { .. } => false,
        Frame::Ping
        | Frame::Hello(_)
        | Frame::Settings(_)
        | Frame::Open { .. }
        | Frame::Accept { .. }
        | Frame::Stream { .. }
        | Frame::Reset { .. }
        | Frame::Stop { .. }
        | Frame::MaxData(_)
        | Frame::MaxStreamData { .. }
        | Frame::MaxStreams(_)
        | Frame::Renew { .. }
        | Frame::RenewRequest => true,
    }
}
