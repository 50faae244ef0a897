//! What goes out: the batch, its records, and what is in them.

use super::{
    Channel,
    phase::{Keys, Phase},
};
use crate::{
    Batch, ClosedBy, Code, Reason, Time,
    frame::Frame,
    limits,
    record::{HEADER_LEN, Sealer},
    recovery::{Cargo, Carried},
    streams::{Filled, Streams},
};

impl Channel {
    /// Puts packets into the batch; whether there are any.
    pub(super) fn fill_batch(&mut self, batch: &mut Batch) -> bool {
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

    pub(super) fn next_timeout(&self) -> Option<Time> {
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
