//! What goes out: the batch, its records, and what is in them.

use bytes::Bytes;

use super::{
    Channel,
    phase::{Keys, Phase},
};
use crate::{
    Batch, ClosedBy, Code, PathId, Reason, Time,
    flow::Pace,
    frame::Frame,
    limits,
    path::ConnectionId,
    record::{self, Sealer},
    recovery::{Cargo, Carried},
    streams::Streams,
};

/// So many ACKs go out in a row with nothing that is to be acknowledged itself:
/// as many as a peer whose probes are not answered asks for in 1.5 s.
const ACKS_ALONE_MAX: u8 = 4;

impl Channel {
    /// Puts packets of one path into the batch; which path, if there are any.
    pub(super) fn fill_batch(&mut self, batch: &mut Batch) -> Option<PathId> {
        let before = batch.len();
        let path = self
            .fill_candidate(batch)
            .or_else(|| self.fill_active(batch))?;
        self.stats.packets_out += (batch.len() - before) as u64;
        Some(path)
    }

    fn fill_active(&mut self, batch: &mut Batch) -> Option<PathId> {
        let path = self.paths.active.filter(|&path| batch.takes(path))?;
        let before = batch.len();
        if let Some(greeting) = &mut self.greeting
            && greeting.due
            && batch.has_room()
            && let Some(packet) = &greeting.packet
        {
            batch.add(packet.len()).copy_from_slice(packet);
            greeting.due = false;
            greeting.sent_at = self.now;
        }
        while batch.has_room() && self.wants_record() && self.fill_record(batch) {}
        (batch.len() > before).then_some(path)
    }

    /// What goes over the path that is being tried: a challenge, the answer to
    /// the peer's, and what has been received, so that as little as possible
    /// is sent again after the move.
    fn fill_candidate(&mut self, batch: &mut Batch) -> Option<PathId> {
        if !self.paths.candidate.as_ref().is_some_and(|new| new.due) {
            return None;
        }
        let id = self.connection_id()?;
        let candidate = self.paths.candidate.as_mut()?;
        let keys = self.keys.as_mut()?;
        if !batch.takes(candidate.path) || !batch.has_room() {
            return None;
        }
        let mut frames = batch.lend_frames();
        self.acks.put(&mut frames, self.now);
        if let Some(answer) = candidate.answer.take() {
            Frame::PathResponse(answer).put(&mut frames);
        }
        Frame::PathChallenge(candidate.challenge).put(&mut frames);
        candidate.due = false;
        candidate.sends += 1;
        candidate.sent_at = self.now;
        let attach = self.initiator.then_some(&id);
        let number = seal(&mut keys.sealer, attach, &frames, &[], batch);
        batch.return_frames(frames);
        number?;
        Some(candidate.path)
    }

    pub(super) fn wants_record(&self) -> bool {
        if let Phase::Closed(closing) = &self.phase {
            return closing.due;
        }
        if self.keys.is_none() {
            return false;
        }
        self.acks.is_due(self.now)
            || self.paths.answer.is_some()
            || self.may_send_more() && (self.datagrams_wait() || self.wants_answer())
    }

    /// Whether there is something to be sent that the peer must acknowledge.
    pub(super) fn wants_answer(&self) -> bool {
        self.owes.any() || self.streams.wants_to_send()
    }

    fn datagrams_wait(&self) -> bool {
        let out = self.datagrams.as_ref().map(|datagrams| &datagrams.out);
        out.is_some_and(|out| !out.is_empty())
    }

    /// Bookkeeping for packets on their way is bounded; ACKs need none.
    fn may_send_more(&self) -> bool {
        self.recovery.tracked() < limits::MAX_UNACKNOWLEDGED
    }

    /// Makes one record; whether it made one.
    fn fill_record(&mut self, batch: &mut Batch) -> bool {
        let exhausted = |keys: &Keys| keys.sealer.sealed() >= self.config.key_limit;
        if !self.is_closed() && self.keys.as_ref().is_none_or(exhausted) {
            let text = "the channel's key has sealed as many records as it may";
            self.end(ClosedBy::Protocol, Reason::new(Code::KEY_EXHAUSTED, text));
        }
        let mut cargo = Cargo::default();
        let mut frames = batch.lend_frames();
        let is_datagram = self.put_datagrams(&mut frames);
        let data = match is_datagram {
            true => Bytes::new(),
            false => self.fill_frames(&mut frames, &mut cargo),
        };
        self.ask_for_answer(&mut frames, &mut cargo);
        let keys = self.keys.as_mut().filter(|_| !frames.is_empty());
        let number = keys.and_then(|keys| seal(&mut keys.sealer, None, &frames, &data, batch));
        batch.return_frames(frames);
        let Some(number) = number else {
            return false;
        };
        let oldest = self.recovery.oldest().unwrap_or(number);
        if is_datagram && number.saturating_sub(oldest) < limits::MAX_OVERTAKEN {
            batch.mark_datagram();
        }
        if cargo.eliciting {
            if self.recovery.is_at_rest() {
                // It may have waited long for the path to take it.
                self.paths.unanswered = Some(self.now);
            }
            self.recovery.on_sent(number, cargo, self.now);
            self.acks.n_alone = 0;
        }
        self.mind_the_key();
        true
    }

    /// Appends datagrams that wait to `out`, as many as make no larger record
    /// than the largest alone; whether there are any. They have records of their
    /// own, which a link below may carry as datagrams.
    fn put_datagrams(&mut self, out: &mut Vec<u8>) -> bool {
        if self.is_closed() || !self.may_send_more() {
            return false;
        }
        while let Some(datagrams) = &mut self.datagrams
            && let Some(datagram) = datagrams.out.front()
            && out.len() + datagram.len() <= limits::MAX_DATAGRAM
        {
            Frame::Datagram(datagram).put(out);
            datagrams.out.pop_front();
        }
        !out.is_empty()
    }

    /// Appends the frames of a record to `out`. The answer is the data that the
    /// last of them ends with, where it need not be copied.
    fn fill_frames(&mut self, out: &mut Vec<u8>, cargo: &mut Cargo) -> Bytes {
        if let Phase::Closed(closing) = &mut self.phase {
            closing.put(out);
            return Bytes::new();
        }
        let end = limits::MAX_RECORD_PLAINTEXT;
        if self.acks.is_owed()
            && let Some(largest) = self.acks.put(out, self.now)
        {
            cargo.push(Carried::Ack(largest));
        }
        if let Some(answer) = self.paths.answer.take() {
            Frame::PathResponse(answer).put(out);
        }
        if !self.may_send_more() {
            return Bytes::new();
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
        self.put_renewal(out, cargo);
        let pace = Pace {
            now: self.now,
            rtt: self.recovery.least_rtt(),
        };
        self.streams.fill(out, end, cargo, pace)
    }

    /// An end that sends nothing but ACKs would never find out that they do not
    /// arrive: now and then a PING goes along with one (RFC 9000 section 13.2.4).
    fn ask_for_answer(&mut self, out: &mut Vec<u8>, cargo: &mut Cargo) {
        if cargo.is_ack_only() && self.is_ready() && self.may_send_more() {
            self.acks.n_alone = self.acks.n_alone.saturating_add(1);
            if self.acks.n_alone >= ACKS_ALONE_MAX {
                Frame::Ping.put(out);
                cargo.push(Carried::Ping);
            }
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        if self.is_closed() {
            return None;
        }
        let with_path = self.paths.active.is_some();
        [
            self.timers.next(),
            self.acks.deadline().filter(|_| with_path),
            self.recovery.deadline().filter(|_| with_path),
            self.silent_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Seals a record into the batch; its number.
fn seal(
    sealer: &mut Sealer,
    attach: Option<&ConnectionId>,
    frames: &[u8],
    data: &[u8],
    batch: &mut Batch,
) -> Option<u64> {
    let out = batch.add(record::sealed_len(attach, frames.len() + data.len()));
    let number = sealer.seal(attach, frames, data, out);
    if number.is_none() {
        batch.remove_last();
    }
    number
}
