//! The machine: joins handshake, records, frames, streams, loss and time.
//!
//! Here is what the owner sees. `input.rs` acts on packets, `output.rs` makes
//! them, `phase.rs` goes from phase to phase, `paths.rs` from path to path, and
//! `renew.rs` from epoch to epoch.

mod input;
mod output;
mod paths;
mod phase;
mod renew;

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use self::{
    input::Sink,
    phase::{Counters, Datagrams, Greeting, Keys, Listening, Owes, Phase, count},
    renew::Renewing,
};
use crate::{
    Batch, ClosedBy, Code, Config, CreateError, DatagramError, Event, OpenError, Output, PathId,
    Priority, ReadOutcome, Reason, StaticSecret, Stats, StreamError, StreamId, Time,
    ack::Acks,
    config::Settings,
    crypto::{self, CryptoError, KemKey},
    handshake::Initiator,
    limits,
    packet::{self, FirstHeader},
    path::Paths,
    record::Prefix,
    recovery::Recovery,
    streams::Streams,
    timer::{Stamp, Timer, Timers},
};

/// One end of a secure channel. The [crate docs](crate) have the contract.
pub struct Channel {
    config: Arc<Settings>,
    initiator: bool,
    /// The latest time seen.
    now: Time,
    phase: Phase,
    dialled: Option<Box<str>>,
    purpose: Option<u8>,
    remote_static: Option<[u8; 32]>,
    handshake_hash: Option<[u8; 32]>,
    greeting: Option<Box<Greeting>>,
    keys: Option<Keys>,
    paths: Paths,
    renewing: Renewing,
    /// When the last authentic record came.
    heard_at: Stamp,
    owes: Owes,
    streams: Streams,
    acks: Acks,
    recovery: Recovery,
    timers: Timers,
    events: VecDeque<Event>,
    datagrams: Option<Box<Datagrams>>,
    /// An explicit `ping` has not been answered.
    pinged: bool,
    stats: Counters,
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
        let seed = Zeroizing::new(seed);
        match dialled.len() {
            0 => return Err(CreateError::DialledEmpty),
            1..=limits::MAX_DIALLED => {}
            length => return Err(CreateError::DialledTooLong { length }),
        }
        let header = FirstHeader { purpose, dialled };
        let (state, first) = KemKey::generate()
            .and_then(|kem| {
                let header = header.encode();
                Initiator::start(secret, &seed, kem, &header, header.clone())
            })
            .map_err(|CryptoError| CreateError::Crypto)?;
        let mut channel = Self::new(config, true, Phase::Dialling(Box::new(state)), now);
        channel.dialled = Some(dialled.into());
        channel.purpose = Some(purpose);
        channel.renewing.jitter = jitter(&seed);
        channel.greet(first, None);
        Ok(channel)
    }

    /// The end that answers. `hello` goes into message 2, which whoever dials
    /// can read without having shown who it is. More than
    /// [`limits::MAX_HELLO`] bytes close the channel.
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
            seed: Zeroizing::new(seed),
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
            packets_out: self.stats.packets_out,
            packets_in: self.stats.packets_in,
            packets_lost: self.recovery.lost(),
            rtt_micros: self.recovery.rtt().map_or(0, |rtt| rtt.as_micros() as u64),
            dropped_forged: self.stats.dropped_forged.into(),
            dropped_replayed: self.stats.dropped_replayed.into(),
            dropped_unexpected: self.stats.dropped_unexpected.into(),
            dropped_datagrams: self.stats.dropped_datagrams.into(),
            moves: self.stats.moves.into(),
            renewals: self.stats.renewals.into(),
        }
    }

    /// Takes one packet that came on this path. It is opened in place; a large piece of a stream that
    /// comes in order is handed out by [`Channel::read`] as a slice of it. Such
    /// a slice keeps the whole allocation that `packet` is a part of in memory
    /// until it is dropped, so a read buffer should hold a few packets, not
    /// megabytes.
    pub fn handle_input(&mut self, now: Time, path: PathId, packet: BytesMut) {
        self.advance(now);
        if let Phase::Closed(closing) = &mut self.phase {
            closing.on_packet();
            return;
        }
        match packet.first() {
            Some(&(packet::RECORD | packet::RECORD_ODD)) => {
                self.on_record(path, packet, Prefix::None);
            }
            Some(&packet::ATTACH) => self.on_attach(path, packet),
            Some(&packet::FIRST) => self.on_first(&packet),
            Some(&packet::SECOND) => self.on_second(&packet),
            Some(&packet::THIRD) => self.on_third(&packet),
            Some(_) | None => count(&mut self.stats.dropped_forged),
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
                Timer::Path => self.path_expired("no path to the peer for too long"),
                Timer::Candidate => self.on_candidate_timer(),
                Timer::Renew => self.on_renew_timer(),
                Timer::Retire => self.retire_epoch(),
            }
        }
        if self.paths.active.is_none() {
            return;
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
        self.suspect_path();
        self.keep_asking();
    }

    /// What is to be done next. Call until it answers [`Output::Timeout`].
    /// Packets are put behind those that `batch` already has; a batch that is
    /// full, or has no room, gets none.
    pub fn poll_output(&mut self, now: Time, batch: &mut Batch) -> Output {
        self.advance(now);
        // A closed channel first says so to the peer: after the last event the
        // owner may not ask again.
        if self.is_closed()
            && let Some(path) = self.fill_batch(batch)
        {
            return Output::Transmit { path };
        }
        if let Some(event) = self.events.pop_front() {
            if let (Event::Datagram(_), Some(datagrams)) = (&event, &mut self.datagrams) {
                datagrams.received -= 1;
            }
            return Output::Event(event);
        }
        if let Some(path) = self.fill_batch(batch) {
            return Output::Transmit { path };
        }
        // Filling may have found the key used up.
        if let Some(event) = self.events.pop_front() {
            return Output::Event(event);
        }
        self.watch_path();
        Output::Timeout(self.next_timeout())
    }

    /// Gives back memory that nothing is in. For a channel that has been quiet
    /// for some time and may stay so: what it needs is taken again at its next
    /// packet.
    pub fn release_memory(&mut self) {
        self.events.shrink_to_fit();
        self.datagrams.take_if(|datagrams| datagrams.is_empty());
        self.recovery.release_memory();
        self.acks.release_memory();
        self.streams.release_memory();
        if let Some(keys) = &mut self.keys {
            keys.sealer.release_memory();
            keys.opener.release_memory();
        }
    }

    /// The answer to [`Event::PeerHello`] and [`Event::RenewalHello`]: the peer
    /// is fine, go on. `hello` is this side's own: of message 3 for the
    /// initiator's first, of the HELLO frame for the responder, of part 3 for
    /// the initiator in a renewal; else it is not used and should be empty. More than [`limits::MAX_HELLO`] bytes close the channel.
    pub fn proceed(&mut self, now: Time, hello: Vec<u8>) {
        self.advance(now);
        if hello.len() > limits::MAX_HELLO {
            self.fail_handshake("this side's own hello is too long");
            return;
        }
        match core::mem::replace(&mut self.phase, Phase::AwaitingHello) {
            Phase::Checking(state) => match state.write_third(&hello, vec![packet::THIRD], None) {
                Ok((third, established)) => {
                    let answers = self.greeting.as_ref().and_then(|greeting| greeting.answers);
                    self.greet(third, answers);
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
                for (path, packet) in held.0 {
                    self.handle_input(now, path, packet);
                }
            }
            // Nothing was asked, unless it is in a renewal.
            other => {
                self.phase = other;
                self.proceed_renewal(&hello);
            }
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

    /// Whether the reads of a stream so far have left credit to be given back.
    /// Most do not, and whoever drives the channel need not be woken for those.
    pub fn owes_credit(&self, stream: StreamId) -> bool {
        self.streams.owes_credit(stream)
    }

    /// How many bytes of a stream have come and were not read yet, also before
    /// it is accepted.
    pub fn readable(&self, stream: StreamId) -> u64 {
        self.streams.readable(stream)
    }

    /// Whether all of a stream has been read and its end has come, for owners who
    /// wait for that without reading. While it is not so, [`Event::Readable`]
    /// follows when something comes.
    pub fn is_read_out(&mut self, stream: StreamId) -> Result<bool, StreamError> {
        self.streams.is_read_out(stream)
    }

    /// Whether this side still takes what the peer sends on a stream: it was
    /// opened by this side or accepted, and its receiving half is not over.
    pub fn is_receiving(&self, stream: StreamId) -> bool {
        self.streams.is_receiving(stream)
    }

    /// Whether [`write`](Self::write) would take something, room aside.
    pub fn check_sending(&mut self, stream: StreamId) -> Result<(), StreamError> {
        self.streams.check_sending(stream)
    }

    /// How soon a stream gets its turn.
    pub fn set_priority(&mut self, now: Time, stream: StreamId, priority: Priority) {
        self.advance(now);
        self.streams.set_priority(stream, priority);
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
        let waiting = &mut self.datagrams.get_or_insert_default().out;
        if waiting.len() >= limits::MAX_DATAGRAMS {
            return Err(DatagramError::QueueFull);
        }
        waiting.push_back(data);
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

/// A number that differs between channels and, unlike their keys, follows from
/// the seed.
fn jitter(seed: &[u8; 32]) -> u8 {
    crypto::hkdf::<1>(b"fairway/1 jitter", seed, &[])[0]
}

/// Doors for tests and fuzzing.
#[cfg(any(test, feature = "testing"))]
impl Channel {
    /// A record of this end with any plaintext, sealed with the true key.
    pub(crate) fn seal_raw(&mut self, plaintext: &[u8]) -> Option<BytesMut> {
        let record = self.keys.as_mut()?.sealer.seal_alone(None, plaintext)?;
        Some(BytesMut::from(&record[..]))
    }

    /// An ATTACH of this end with any plaintext, sealed with the true key.
    #[cfg(test)]
    pub(crate) fn seal_attach(&mut self, plaintext: &[u8]) -> Option<BytesMut> {
        let id = self.connection_id()?;
        let keys = self.keys.as_mut()?;
        let record = keys.sealer.seal_alone(Some(&id), plaintext)?;
        Some(BytesMut::from(&record[..]))
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
