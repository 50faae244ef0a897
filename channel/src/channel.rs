//! The machine: joins handshake, records, frames, streams, loss and time.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::{
    Batch, ClosedBy, Code, Config, CreateError, DatagramError, Event, OpenError, Output,
    ReadOutcome, Reason, StaticSecret, Stats, StreamError, StreamId, Time,
    ack::Acks,
    crypto::{self, CryptoError, KemKey},
    frame::{self, Frame},
    handshake::{Established, Initiator, InitiatorChecking, Responder},
    limits,
    packet::{self, FirstHeader},
    record::{Dropped, HEADER_LEN, Opener, Sealer},
    recovery::{Cargo, Carried, Fate, Recovery},
    recv::Taken,
    streams::{Filled, Streams, Violation},
    timer::{Timer, Timers},
};

/// A handshake packet is sent again after this, then after twice as long, ...
const RESEND_FIRST: Time = Time::from_millis(500);
/// ... up to this.
const RESEND_MAX: Time = Time::from_secs(4);

/// One end of a secure channel. The [crate docs](crate) have the contract.
pub struct Channel {
    config: Config,
    initiator: bool,
    /// The latest time seen.
    now: Time,
    phase: Phase,
    dialled: Option<Box<str>>,
    purpose: Option<u8>,
    remote_static: Option<[u8; 32]>,
    handshake_hash: Option<[u8; 32]>,
    greeting: Greeting,
    keys: Option<Box<Keys>>,
    owes: Owes,
    streams: Streams,
    acks: Acks,
    recovery: Recovery,
    timers: Timers,
    events: VecDeque<Event>,
    /// How many of `events` are datagrams.
    datagrams_in: usize,
    datagrams_out: VecDeque<Bytes>,
    /// An explicit `ping` has not been answered.
    pinged: bool,
    stats: Stats,
}

/// How far the channel has come.
enum Phase {
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
    Admitting(Vec<BytesMut>),
    /// The peer is admitted, its SETTINGS are to come.
    AwaitingSettings,
    Ready,
    Closed(Closing),
}

/// What a responder needs until message 1 comes.
struct Listening {
    secret: StaticSecret,
    seed: zeroize::Zeroizing<[u8; 32]>,
    hello: Vec<u8>,
}

/// The last handshake packet of this side, as long as it may have to be sent again.
#[derive(Default)]
struct Greeting {
    packet: Option<Bytes>,
    due: bool,
    /// SHA-256 of the peer's packet that this one answers.
    answers: Option<[u8; 32]>,
    resend_after: Time,
    sent_at: Time,
    /// Sent more than once: useless for measuring the round trip.
    resent: bool,
}

struct Keys {
    sealer: Sealer,
    opener: Opener,
}

/// What the channel itself (not a stream) has to put into a record.
#[derive(Default)]
struct Owes {
    settings: bool,
    hello: bool,
    /// The responder's last hello, until it has arrived.
    hello_bytes: Option<Box<[u8]>>,
    ping: bool,
    settings_seen: bool,
}

/// A closed channel only repeats why.
struct Closing {
    /// `None`: the peer closed, or there are no keys to say it with.
    reason: Option<Reason>,
    due: bool,
    packets_since: u32,
    repeats: u32,
}

impl Channel {
    /// The end that dials. `purpose` is a free byte of the layer above, bound
    /// by the handshake; `dialled` names who is wanted and goes in the clear.
    ///
    /// `seed` must be fresh random bytes: the ephemeral key is derived from it.
    pub fn initiator(
        config: Config,
        secret: &StaticSecret,
        seed: [u8; 32],
        purpose: u8,
        dialled: &str,
        now: Time,
    ) -> Result<Self, CreateError> {
        let seed = zeroize::Zeroizing::new(seed);
        match dialled.len() {
            0 => return Err(CreateError::DialledEmpty),
            1..=limits::MAX_DIALLED => {}
            length => return Err(CreateError::DialledTooLong { length }),
        }
        let header = FirstHeader { purpose, dialled };
        let (state, first) = KemKey::generate()
            .and_then(|kem| Initiator::start(secret, &seed, kem, &header))
            .map_err(|CryptoError| CreateError::Crypto)?;
        let mut channel = Self::new(config, true, Phase::Dialling(Box::new(state)), now);
        channel.dialled = Some(dialled.into());
        channel.purpose = Some(purpose);
        channel.greet(first, None);
        Ok(channel)
    }

    /// The end that answers. `hello` goes into message 2, which whoever dials
    /// can read without having shown who it is. More than
    /// [`limits::MAX_HELLO`](crate::limits::MAX_HELLO) bytes close the channel.
    pub fn responder(
        config: Config,
        secret: &StaticSecret,
        seed: [u8; 32],
        hello: Vec<u8>,
        now: Time,
    ) -> Self {
        let too_long = hello.len() > limits::MAX_HELLO;
        let listening = Listening {
            secret: secret.clone(),
            seed: zeroize::Zeroizing::new(seed),
            hello,
        };
        let mut channel = Self::new(config, false, Phase::Listening(Box::new(listening)), now);
        if too_long {
            channel.fail_handshake("this side's own hello is too long");
        }
        channel
    }

    /// Whether this end dialled.
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Whom the initiator wants to reach; the responder knows it after message 1.
    /// Before the handshake is complete a responder must not trust it.
    pub fn dialled(&self) -> Option<&str> {
        self.dialled.as_deref()
    }

    /// The purpose byte of the initiator; the responder knows it after message 1.
    pub fn purpose(&self) -> Option<u8> {
        self.purpose
    }

    /// The hash of the complete handshake, equal at both ends and unique to
    /// this channel. `None` before the handshake is complete.
    pub fn handshake_hash(&self) -> Option<[u8; 32]> {
        self.handshake_hash
    }

    /// The peer's static key, once it has been proven.
    pub fn remote_static(&self) -> Option<[u8; 32]> {
        self.remote_static
    }

    /// Whether the channel is over (nothing more can be read or written).
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// Whether streams may be opened.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// How many streams exist at the moment, opened by either side.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            stream_bytes_in: self.streams.received(),
            stream_bytes_out: self.streams.counts.out,
            stream_bytes_resent: self.streams.counts.again,
            packets_lost: self.recovery.lost(),
            rtt_micros: self.recovery.rtt().map_or(0, |rtt| rtt.as_micros() as u64),
            ..self.stats
        }
    }

    /// Takes one packet. It is opened in place; a large piece of a stream that
    /// comes in order is handed out by [`Channel::read`] as a slice of it. Such
    /// a slice keeps the whole allocation that `packet` is a part of in memory
    /// until it is dropped, so a read buffer should hold a few packets, not
    /// megabytes.
    pub fn handle_input(&mut self, now: Time, packet: BytesMut) {
        self.advance(now);
        if let Phase::Closed(closing) = &mut self.phase {
            closing.on_packet();
            return;
        }
        match packet.first() {
            Some(&packet::RECORD) => self.on_record(packet),
            Some(&packet::FIRST) => self.on_first(&packet),
            Some(&packet::SECOND) => self.on_second(&packet),
            Some(&packet::THIRD) => self.on_third(&packet),
            Some(_) | None => self.stats.dropped_forged += 1,
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
        while let Some(timer) = self.timers.expired(self.now) {
            match timer {
                Timer::Handshake => {
                    let text = "the handshake did not complete in time";
                    self.end(
                        ClosedBy::Protocol,
                        Reason::new(Code::HANDSHAKE_TIMEOUT, text),
                    );
                }
                Timer::Idle => {
                    let text = "the peer was not heard of for too long";
                    self.end(ClosedBy::Protocol, Reason::new(Code::IDLE_TIMEOUT, text));
                }
                Timer::Resend => self.resend_greeting(),
                Timer::Keepalive => {
                    self.owes.ping = true;
                    self.set_after(Timer::Keepalive, self.config.keepalive);
                }
            }
        }
        self.acks.on_timeout(self.now);
        let mut sink = Sink {
            streams: &mut self.streams,
            acks: &mut self.acks,
            owes: &mut self.owes,
            events: &mut self.events,
            pinged: &mut self.pinged,
        };
        self.recovery
            .on_timeout(self.now, |fate, carried| sink.take(fate, carried));
    }

    /// What is to be done next. Call until it answers [`Output::Timeout`].
    /// Packets are put behind those that `batch` already has; a batch that is
    /// full, or has no room, gets none.
    pub fn poll_output(&mut self, now: Time, batch: &mut Batch) -> Output {
        self.advance(now);
        // A closed channel first says so to the peer: after the last event the
        // owner may not ask again.
        if self.is_closed() && self.fill_batch(batch) {
            return Output::Transmit;
        }
        if let Some(event) = self.events.pop_front() {
            self.datagrams_in -= usize::from(matches!(event, Event::Datagram(_)));
            return Output::Event(event);
        }
        if self.fill_batch(batch) {
            return Output::Transmit;
        }
        // Filling may have found the key used up.
        if let Some(event) = self.events.pop_front() {
            return Output::Event(event);
        }
        Output::Timeout(self.next_timeout())
    }

    /// The answer to [`Event::PeerHello`]: the peer is fine, go on. `hello` is
    /// this side's own: of message 3 for the initiator's first, of the HELLO
    /// frame for the responder; for the initiator's second it is not used and
    /// should be empty. More than [`limits::MAX_HELLO`] bytes close the channel.
    pub fn proceed(&mut self, now: Time, hello: Vec<u8>) {
        self.advance(now);
        if hello.len() > limits::MAX_HELLO {
            self.fail_handshake("this side's own hello is too long");
            return;
        }
        match core::mem::replace(&mut self.phase, Phase::AwaitingHello) {
            Phase::Checking(state) => match state.write_third(&hello) {
                Ok((third, established)) => {
                    self.greet(third, self.greeting.answers);
                    self.establish(established);
                    self.owes.settings = true;
                }
                Err(CryptoError) => self.fail_handshake("message 3 could not be made"),
            },
            Phase::Admitting(held) => {
                if !self.initiator {
                    self.owes.settings = true;
                    self.owes.hello = true;
                    self.owes.hello_bytes = Some(hello.into_boxed_slice());
                }
                self.phase = Phase::AwaitingSettings;
                self.become_ready();
                for packet in held {
                    self.handle_input(now, packet);
                }
            }
            // Nothing was asked: nothing to proceed with.
            other => self.phase = other,
        }
    }

    /// Opens a stream; data may be written at once, before the peer accepts.
    pub fn open(&mut self, now: Time, header: Vec<u8>) -> Result<StreamId, OpenError> {
        self.advance(now);
        match self.phase {
            Phase::Ready => self.streams.open(header),
            Phase::Closed(_) => Err(OpenError::Closed),
            _ => Err(OpenError::NotReady),
        }
    }

    /// Accepts a stream that the peer opened. Only then can it be read and written.
    pub fn accept(&mut self, now: Time, stream: StreamId) -> Result<(), StreamError> {
        self.advance(now);
        self.streams.accept(stream, &mut self.events)
    }

    /// Ends both halves at once: RESET for what this side sends, STOP for what
    /// the peer sends. Refuses a stream that was not accepted yet. No event
    /// follows; a stream that is over already is left alone.
    pub fn reset(&mut self, now: Time, stream: StreamId, reason: Reason) {
        self.advance(now);
        self.streams.reset(stream, &reason);
    }

    /// Wants nothing more from the peer on this stream; the sending half stays.
    pub fn stop(&mut self, now: Time, stream: StreamId, reason: Reason) {
        self.advance(now);
        self.streams.stop(stream, &reason);
    }

    /// Ends the sending half in good order, after all that was written.
    pub fn finish(&mut self, now: Time, stream: StreamId) -> Result<(), StreamError> {
        self.advance(now);
        self.streams.finish(stream)
    }

    /// Takes as much of `data` as the send buffer has room for, advances it,
    /// and says how much. Less than all: wait for [`Event::Writable`]. The
    /// bytes of large writes are not copied here, only once, into the batch.
    pub fn write(
        &mut self,
        now: Time,
        stream: StreamId,
        data: &mut Bytes,
    ) -> Result<usize, StreamError> {
        self.advance(now);
        self.streams.write(stream, data)
    }

    /// The next bytes of a stream. Taking them gives credit back to the peer.
    pub fn read(&mut self, now: Time, stream: StreamId) -> Result<ReadOutcome, StreamError> {
        self.advance(now);
        self.streams.read(stream)
    }

    /// Sends bytes that may get lost.
    pub fn send_datagram(&mut self, now: Time, data: Bytes) -> Result<(), DatagramError> {
        self.advance(now);
        if data.len() > limits::MAX_DATAGRAM {
            return Err(DatagramError::TooLong { length: data.len() });
        }
        if !self.is_ready() {
            return Err(DatagramError::NotReady);
        }
        if self.datagrams_out.len() >= limits::MAX_DATAGRAMS {
            return Err(DatagramError::QueueFull);
        }
        self.datagrams_out.push_back(data);
        Ok(())
    }

    /// Asks the peer for a sign of life: [`Event::Alive`]. Before the handshake
    /// is complete it does nothing.
    pub fn ping(&mut self, now: Time) {
        self.advance(now);
        if self.keys.is_some() && !self.is_closed() {
            self.owes.ping = true;
            self.pinged = true;
        }
    }

    /// Ends the channel at once; the peer is told why, if it can be.
    pub fn close(&mut self, now: Time, reason: Reason) {
        self.advance(now);
        self.end(ClosedBy::Owner, reason);
    }
}

// ---- what came in ----

impl Channel {
    fn on_first(&mut self, packet: &[u8]) {
        if let Phase::Listening(_) = &self.phase {
            let header = match FirstHeader::decode(packet) {
                Ok((header, _)) => header,
                Err(error) => return self.fail_handshake(&error.to_string()),
            };
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
            match Responder::answer(&secret, &seed, packet, &hello, crypto::encapsulate) {
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

    fn on_second(&mut self, packet: &[u8]) {
        if !matches!(self.phase, Phase::Dialling(_)) {
            return self.on_repeated(packet);
        }
        let Phase::Dialling(state) = core::mem::replace(&mut self.phase, Phase::AwaitingHello)
        else {
            return;
        };
        match state.read_second(packet) {
            Ok((state, hello)) => {
                self.measure_greeting();
                self.greeting = Greeting {
                    answers: Some(crypto::sha256(&[packet])),
                    ..Greeting::default()
                };
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

    fn on_third(&mut self, packet: &[u8]) {
        if !matches!(self.phase, Phase::Answered(_)) {
            return self.on_repeated(packet);
        }
        let Phase::Answered(state) = core::mem::replace(&mut self.phase, Phase::AwaitingHello)
        else {
            return;
        };
        match state.read_third(packet) {
            Ok((hello, established)) => {
                self.measure_greeting();
                self.greeting = Greeting::default();
                let static_key = established.remote_static;
                self.establish(established);
                self.phase = Phase::Admitting(Vec::new());
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
        let answered = self
            .greeting
            .answers
            .filter(|_| self.greeting.packet.is_some());
        if answered.is_some_and(|digest| digest == crypto::sha256(&[packet])) {
            self.greeting.due = true;
            self.greeting.resent = true;
        } else {
            self.stats.dropped_unexpected += 1;
        }
    }

    fn on_record(&mut self, packet: BytesMut) {
        let Some(keys) = &mut self.keys else {
            self.stats.dropped_unexpected += 1;
            return;
        };
        if let Phase::Admitting(held) = &mut self.phase {
            if held.len() < limits::MAX_HELD_RECORDS && packet.len() <= limits::MAX_PACKET {
                held.push(packet);
            }
            return;
        }
        let size = packet.len();
        let (number, text) = match keys.opener.open(packet) {
            Ok(opened) => opened,
            Err(Dropped::Forged) => {
                self.stats.dropped_forged += 1;
                return;
            }
            Err(Dropped::Replayed) => {
                self.stats.dropped_replayed += 1;
                return;
            }
        };
        self.stats.packets_in += 1;
        self.on_sign_of_life();
        match self.on_frames(&text) {
            Ok(Some(eliciting)) => self.acks.on_received(number, eliciting, size, self.now),
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
    fn on_frames(&mut self, text: &Bytes) -> Result<Option<bool>, Violation> {
        let mut rest = &text[..];
        if rest.is_empty() {
            return Err(Violation::new("a record without frames"));
        }
        let mut eliciting = false;
        while !rest.is_empty() {
            let frame = frame::take(&mut rest)
                .map_err(|_| Violation::new("a record that is not a row of frames"))?;
            eliciting |= is_eliciting(&frame);
            match self.on_frame(frame, text)? {
                Taken::Yes => {}
                Taken::NoRoom => return Ok(None),
            }
            if self.is_closed() {
                return Ok(None);
            }
        }
        Ok(Some(eliciting))
    }

    fn on_frame(&mut self, frame: Frame<'_>, text: &Bytes) -> Result<Taken, Violation> {
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
        self.recovery
            .on_ack(ack, next, self.now, |fate, carried| {
                sink.take(fate, carried)
            })
            .map_err(|_| Violation::new("an ACK for a packet that was never sent"))
    }

    fn on_hello(&mut self, hello: &[u8]) -> Result<(), Violation> {
        if !self.initiator {
            return Err(Violation::new("a HELLO frame from the initiator"));
        }
        // A repetition of one that was taken means nothing.
        if let (Phase::AwaitingHello, Some(static_key)) = (&self.phase, self.remote_static) {
            self.phase = Phase::Admitting(Vec::new());
            self.events.push_back(Event::PeerHello {
                static_key,
                hello: hello.to_vec(),
                last: true,
            });
        }
        Ok(())
    }

    fn on_datagram(&mut self, data: Bytes) {
        if self.datagrams_in >= limits::MAX_DATAGRAMS {
            self.stats.dropped_datagrams += 1;
            return;
        }
        self.datagrams_in += 1;
        // Copied, because it would hold its packet's memory.
        let data = Bytes::copy_from_slice(&data);
        self.events.push_back(Event::Datagram(data));
    }

    /// An authentic, new record came in.
    fn on_sign_of_life(&mut self) {
        if self.greeting.packet.is_some() {
            // The peer has our last handshake packet: it sealed with the key.
            self.greeting = Greeting::default();
            self.timers.set(Timer::Resend, None);
        }
        self.set_after(Timer::Idle, self.config.idle_timeout);
        self.set_after(Timer::Keepalive, self.config.keepalive);
    }
}

// ---- what goes out ----

impl Channel {
    /// Puts packets into the batch; whether there are any.
    fn fill_batch(&mut self, batch: &mut Batch) -> bool {
        let before = batch.len();
        if self.greeting.due
            && batch.has_room()
            && let Some(packet) = &self.greeting.packet
        {
            let start = batch.begin();
            batch.buffer().extend_from_slice(packet);
            batch.end(start);
            self.greeting.due = false;
            self.greeting.sent_at = self.now;
        }
        while batch.has_room() && self.wants_record() && self.fill_record(batch) {}
        let made = batch.len() - before;
        self.stats.packets_out += made as u64;
        made > 0
    }

    fn wants_record(&self) -> bool {
        if let Phase::Closed(closing) = &self.phase {
            return closing.due;
        }
        if self.keys.is_none() {
            return false;
        }
        self.acks.is_due(self.now)
            || self.may_send_more()
                && (self.owes.settings
                    || self.owes.hello
                    || self.owes.ping
                    || !self.datagrams_out.is_empty()
                    || self.streams.wants_to_send())
    }

    /// Bookkeeping for packets on their way is bounded; ACKs need none.
    fn may_send_more(&self) -> bool {
        self.recovery.tracked() < limits::MAX_UNACKNOWLEDGED
    }

    /// Makes one record; whether it made one.
    fn fill_record(&mut self, batch: &mut Batch) -> bool {
        let exhausted = |keys: &Keys| keys.sealer.next_number() >= self.config.key_limit;
        if !self.is_closed() && self.keys.as_deref().is_none_or(exhausted) {
            let text = "the channel's key has sealed as many records as it may";
            self.end(ClosedBy::Protocol, Reason::new(Code::KEY_EXHAUSTED, text));
        }
        let start = batch.begin();
        let out = batch.buffer();
        Sealer::begin(out);
        let mut cargo = Cargo::default();
        self.fill_frames(out, start + HEADER_LEN, &mut cargo);
        let Some(keys) = &mut self.keys else {
            batch.abort(start);
            return false;
        };
        if out.len() == start + HEADER_LEN {
            batch.abort(start);
            return false;
        }
        let Some(number) = keys.sealer.seal(out, start) else {
            batch.abort(start);
            return false;
        };
        batch.end(start);
        if cargo.eliciting {
            self.recovery.on_sent(number, cargo, self.now);
        }
        true
    }

    /// Appends frames from `start` on.
    fn fill_frames(&mut self, out: &mut Vec<u8>, start: usize, cargo: &mut Cargo) {
        if let Phase::Closed(closing) = &mut self.phase {
            closing.put(out);
            return;
        }
        let end = start + limits::MAX_RECORD_PLAINTEXT;
        if self.acks.is_owed()
            && let Some(largest) = self.acks.put(out, self.now)
        {
            cargo.push(Carried::Ack(largest));
        }
        if !self.may_send_more() {
            return;
        }
        if core::mem::take(&mut self.owes.settings) {
            Frame::Settings(Streams::settings(&self.config)).put(out);
            cargo.push(Carried::Settings);
        }
        if core::mem::take(&mut self.owes.hello)
            && let Some(hello) = &self.owes.hello_bytes
        {
            Frame::Hello(hello).put(out);
            cargo.push(Carried::Hello);
        }
        if core::mem::take(&mut self.owes.ping) {
            Frame::Ping.put(out);
            cargo.push(Carried::Ping);
        }
        while let Some(datagram) = self.datagrams_out.front()
            && end - out.len() >= datagram.len() + 4
        {
            Frame::Datagram(datagram).put(out);
            self.datagrams_out.pop_front();
        }
        match self.streams.fill(out, end, cargo) {
            Filled::Full | Filled::Drained => {}
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        if self.is_closed() {
            return None;
        }
        [
            self.timers.next(),
            self.acks.deadline(),
            self.recovery.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

// ---- from phase to phase ----

impl Channel {
    fn new(config: Config, initiator: bool, phase: Phase, now: Time) -> Self {
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
            greeting: Greeting::default(),
            keys: None,
            owes: Owes::default(),
            acks: Acks::default(),
            recovery: Recovery::default(),
            timers,
            events: VecDeque::new(),
            datagrams_in: 0,
            datagrams_out: VecDeque::new(),
            pinged: false,
            stats: Stats::default(),
        }
    }

    /// Time never goes backwards.
    fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn set_after(&mut self, timer: Timer, after: Option<Time>) {
        self.timers.set(timer, after.map(|after| self.now + after));
    }

    /// A new handshake packet of this side. Only the initiator sends its own
    /// again by itself: the responder's is asked for by repetition.
    fn greet(&mut self, packet: Vec<u8>, answers: Option<[u8; 32]>) {
        self.greeting = Greeting {
            packet: Some(packet.into()),
            due: true,
            answers,
            resend_after: RESEND_FIRST,
            sent_at: self.now,
            resent: false,
        };
        if self.initiator {
            self.set_after(Timer::Resend, Some(RESEND_FIRST));
        }
    }

    fn resend_greeting(&mut self) {
        if self.greeting.packet.is_some() {
            self.greeting.due = true;
            self.greeting.resent = true;
            self.greeting.resend_after = (self.greeting.resend_after * 2).min(RESEND_MAX);
            self.set_after(Timer::Resend, Some(self.greeting.resend_after));
        }
    }

    /// The answer to a greeting that was sent once measures the round trip.
    fn measure_greeting(&mut self) {
        if !self.greeting.resent {
            let rtt = self.now.saturating_sub(self.greeting.sent_at);
            self.recovery.first_rtt(rtt);
        }
    }

    fn establish(&mut self, established: Established) {
        let (seal, open) = match self.initiator {
            true => (&established.to_responder, &established.to_initiator),
            false => (&established.to_initiator, &established.to_responder),
        };
        self.keys = Some(Box::new(Keys {
            sealer: Sealer::new(seal),
            opener: Opener::new(open),
        }));
        self.handshake_hash = Some(established.hash);
        self.remote_static = Some(established.remote_static);
        self.set_after(Timer::Idle, self.config.idle_timeout);
        self.set_after(Timer::Keepalive, self.config.keepalive);
    }

    fn become_ready(&mut self) {
        if matches!(self.phase, Phase::AwaitingSettings) && self.owes.settings_seen {
            self.phase = Phase::Ready;
            self.timers.set(Timer::Handshake, None);
            self.events.push_back(Event::Ready);
        }
    }

    fn fail_handshake(&mut self, text: &str) {
        self.end(
            ClosedBy::Protocol,
            Reason::new(Code::HANDSHAKE_FAILED, text),
        );
    }

    /// Ends everything, and keeps only what is needed to tell the peer.
    fn end(&mut self, by: ClosedBy, reason: Reason) {
        if self.is_closed() {
            return;
        }
        let tell = self.keys.is_some() && by != ClosedBy::Peer;
        self.phase = Phase::Closed(Closing {
            reason: tell.then(|| reason.clone()),
            due: tell,
            packets_since: 0,
            repeats: 0,
        });
        if !tell {
            self.keys = None;
        }
        self.streams = Streams::new(&self.config, self.initiator);
        self.acks = Acks::default();
        self.recovery = Recovery::default();
        self.timers.clear();
        self.owes = Owes::default();
        self.greeting = Greeting::default();
        self.datagrams_out = VecDeque::new();
        self.datagrams_in = 0;
        self.events.clear();
        self.events.push_back(Event::Closed { by, reason });
    }
}

/// Doors for tests and fuzzing.
#[cfg(any(test, feature = "testing"))]
impl Channel {
    /// A record of this end with any plaintext, sealed with the true key.
    pub(crate) fn seal_raw(&mut self, plaintext: &[u8]) -> Option<BytesMut> {
        let mut out = Vec::new();
        Sealer::begin(&mut out);
        out.extend_from_slice(plaintext);
        self.keys.as_mut()?.sealer.seal(&mut out, 0)?;
        Some(BytesMut::from(&out[..]))
    }
}

impl Closing {
    /// The peer goes on sending: it may not have heard. Answered ever more
    /// seldom (RFC 9000 section 10.2.1).
    fn on_packet(&mut self) {
        self.packets_since = self.packets_since.saturating_add(1);
        if self.reason.is_some()
            && self.packets_since.is_power_of_two()
            && self.repeats < limits::MAX_CLOSE_REPEATS
        {
            self.repeats += 1;
            self.due = true;
        }
    }

    fn put(&mut self, out: &mut Vec<u8>) {
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

/// The parts that care what became of what was sent.
struct Sink<'a> {
    streams: &'a mut Streams,
    acks: &'a mut Acks,
    owes: &'a mut Owes,
    events: &'a mut VecDeque<Event>,
    pinged: &'a mut bool,
}

impl Sink<'_> {
    fn take(&mut self, fate: Fate, carried: Carried) {
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
            _ => self.streams.on_fate(fate, carried, self.events),
        }
    }
}

/// Whether a frame wants to be acknowledged: all that would be sent again do.
fn is_eliciting(frame: &Frame<'_>) -> bool {
    match frame {
        Frame::Padding(_) | Frame::Ack(_) | Frame::Datagram(_) | Frame::Close { .. } => false,
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
        | Frame::MaxStreams(_) => true,
    }
}

impl core::fmt::Debug for Channel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Channel")
            .field("initiator", &self.initiator)
            .field("dialled", &self.dialled)
            .field("ready", &self.is_ready())
            .field("closed", &self.is_closed())
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}
