//! What the peer says about streams.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Life, Streams, Violation};
use crate::{Code, Event, Reason, StreamId, frame::Settings, limits, recv::Taken};

impl Streams {
    pub(crate) fn on_settings(&mut self, settings: Settings, events: &mut VecDeque<Event>) {
        self.initial_credit = self.initial_credit.max(settings.max_stream_data);
        let ids: Vec<StreamId> = self.map.keys().copied().collect();
        for id in ids {
            self.on_max_stream_data_known(id, settings.max_stream_data);
        }
        self.reserve = (settings.max_data / 8).min(limits::MAX_RESERVE);
        self.on_max_data(settings.max_data);
        self.on_max_streams(settings.max_streams, events);
    }

    pub(crate) fn on_open(
        &mut self,
        id: StreamId,
        header: &[u8],
        events: &mut VecDeque<Event>,
    ) -> Result<(), Violation> {
        if self.is_ours(id) {
            return Err(Violation::new("OPEN of a stream that only this side opens"));
        }
        let Some(stream) = self.incoming(id)? else {
            return Ok(());
        };
        if stream.life != Life::Unopened {
            return Ok(());
        }
        if stream.recv.is_over() {
            // The peer has given it up before it was seen.
            stream.life = Life::Abandoned;
            let reason = Reason::new(Code::DONE, "the stream was reset before it was opened");
            stream.owes.reset |= stream.send.reset(&reason);
            self.enqueue(id);
            self.settle(id);
            return Ok(());
        }
        stream.life = Life::Offered;
        events.push_back(Event::Opened {
            stream: id,
            header: header.to_vec(),
        });
        // A STOP that overtook the OPEN: the other half goes on.
        if let Some((_, reason)) = stream.send.reset_frame() {
            let reason = reason.clone();
            events.push_back(Event::Stopped { stream: id, reason });
        }
        Ok(())
    }

    pub(crate) fn on_accept(
        &mut self,
        id: StreamId,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Violation> {
        if !self.is_ours(id) {
            return Err(Violation::new("ACCEPT of a stream that the peer opened"));
        }
        if let Some(stream) = self.incoming(id)? {
            stream.accepted(id, events);
        }
        Ok(())
    }

    pub(crate) fn on_stream(
        &mut self,
        id: StreamId,
        offset: u64,
        fin: bool,
        data: Bytes,
        events: &mut VecDeque<Event>,
    ) -> Result<Taken, Violation> {
        if self.incoming(id)?.is_none() {
            return Ok(Taken::Yes);
        }
        let Some(stream) = self.map.get_mut(&id) else {
            return Ok(Taken::Yes);
        };
        let taken = stream.recv.on_data(offset, fin, data, &mut self.shared)?;
        // Whoever sends on a stream has accepted it.
        stream.accepted(id, events);
        if stream.life == Life::Live && stream.recv.take_readable() {
            events.push_back(Event::Readable(id));
        }
        if fin {
            self.settle(id);
        }
        Ok(taken)
    }

    pub(crate) fn on_reset(
        &mut self,
        id: StreamId,
        final_size: u64,
        reason: Reason,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Violation> {
        if self.incoming(id)?.is_none() {
            return Ok(());
        }
        let Some(stream) = self.map.get_mut(&id) else {
            return Ok(());
        };
        let told = stream
            .recv
            .on_reset(final_size, reason.clone(), &mut self.shared)?;
        if told && stream.life.is_told() {
            events.push_back(Event::Reset { stream: id, reason });
        }
        self.settle(id);
        Ok(())
    }

    pub(crate) fn on_stop(
        &mut self,
        id: StreamId,
        reason: Reason,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Violation> {
        let Some(stream) = self.incoming(id)? else {
            return Ok(());
        };
        let buffered = stream.send.buffered();
        if stream.send.reset(&reason) {
            stream.owes.reset = true;
            if stream.life.is_told() {
                events.push_back(Event::Stopped { stream: id, reason });
            }
            self.buffered -= buffered;
            self.enqueue(id);
        }
        Ok(())
    }

    pub(crate) fn on_max_data(&mut self, max: u64) {
        if self.credit.raise(max) {
            let starved = self.busy.as_mut().map(|busy| &mut busy.starved);
            for id in starved.map(core::mem::take).unwrap_or_default() {
                if let Some(stream) = self.map.get_mut(&id) {
                    stream.starved = false;
                    self.enqueue(id);
                }
            }
        }
    }

    pub(crate) fn on_max_stream_data(&mut self, id: StreamId, max: u64) -> Result<(), Violation> {
        if self.incoming(id)?.is_some() {
            self.on_max_stream_data_known(id, max);
        }
        Ok(())
    }

    pub(crate) fn on_max_streams(&mut self, max: u64, events: &mut VecDeque<Event>) {
        if max > self.local_max {
            self.local_max = max;
            if core::mem::take(&mut self.wants_streams) {
                events.push_back(Event::StreamsAvailable);
            }
        }
    }
}
