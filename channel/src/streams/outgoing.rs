//! Filling records with what streams owe, and what became of it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Counts, Stream, Streams};
use crate::{
    Event, StreamId,
    flow::{Credit, Pace},
    frame::{self, Frame},
    limits,
    recovery::{Cargo, Carried, Fate},
    send::NoPiece,
};

/// The room that a control frame needs at most, and a STREAM frame's header.
const FRAME_MAX: usize = limits::MAX_OPEN_HEADER + 16;
const SMALL_FRAME_MAX: usize = limits::MAX_REASON + 32;
const STREAM_HEADER_MAX: usize = 24;
/// Less data than this is not worth a STREAM frame at the end of a record: a
/// full piece stands alone, so that it is sealed from where it lies and handed
/// on as it came.
const MIN_PIECE: usize = 1024;

impl Streams {
    /// Something that belongs to streams arrived or was lost.
    pub(crate) fn on_fate(&mut self, fate: Fate, carried: Carried, events: &mut VecDeque<Event>) {
        match (carried, fate) {
            (
                Carried::Stream {
                    stream,
                    offset,
                    length,
                    fin,
                },
                Fate::Arrived,
            ) => self.on_piece_arrived(stream, offset, length.into(), fin, events),
            (
                Carried::Stream {
                    stream,
                    offset,
                    length,
                    fin,
                },
                Fate::Lost,
            ) => {
                if let Some(entry) = self.map.get_mut(&stream)
                    && entry.send.on_lost(offset, length.into(), fin)
                {
                    self.enqueue(stream);
                }
            }
            (Carried::Open(id), Fate::Arrived) => {
                if let Some(stream) = self.map.get_mut(&id) {
                    stream.header = None;
                    stream.owes.open = false;
                    self.settle(id);
                }
            }
            (Carried::Reset(id), Fate::Arrived) => {
                if let Some(stream) = self.map.get_mut(&id) {
                    stream.send.on_reset_arrived();
                    self.settle(id);
                }
            }
            (Carried::Open(id), Fate::Lost) => {
                self.owe_again(id, |stream| stream.owes.open = stream.header.is_some());
            }
            (Carried::Accept(id), Fate::Lost) => {
                self.owe_again(id, |stream| stream.owes.accept = true);
            }
            (Carried::Reset(id), Fate::Lost) => {
                self.owe_again(id, |stream| stream.owes.reset = true);
            }
            (Carried::Stop(id), Fate::Lost) => {
                self.owe_again(id, |stream| stream.owes.stop = true);
            }
            (Carried::MaxStreamData(id), Fate::Lost) => {
                self.owe_again(id, |stream| stream.recv.owe_raise());
            }
            (Carried::MaxData, Fate::Lost) => self.owes_max_data = true,
            (Carried::MaxStreams, Fate::Lost) => self.owes_max_streams = true,
            (
                Carried::Accept(_)
                | Carried::Stop(_)
                | Carried::MaxStreamData(_)
                | Carried::MaxData
                | Carried::MaxStreams,
                Fate::Arrived,
            )
            | (
                Carried::Hello
                | Carried::Settings
                | Carried::Ping
                | Carried::Renew
                | Carried::RenewRequest
                | Carried::Ack(_),
                Fate::Arrived | Fate::Lost,
            ) => {}
        }
    }

    fn on_piece_arrived(
        &mut self,
        id: StreamId,
        offset: u64,
        length: u64,
        fin: bool,
        events: &mut VecDeque<Event>,
    ) {
        let Some(stream) = self.map.get_mut(&id) else {
            return;
        };
        self.buffered -= stream.send.buffered();
        let finished = stream.send.on_arrived(offset, length, fin);
        self.buffered += stream.send.buffered();
        if stream.life.is_told() {
            if finished {
                events.push_back(Event::Finished(id));
            }
            let (least, most) = (self.config.send_buffer, self.config.send_buffer_max);
            let limit = stream.send.limit(least, most);
            if stream.send.take_writable(limit) {
                events.push_back(Event::Writable(id));
            }
        }
        if finished {
            self.settle(id);
        }
    }

    fn owe_again(&mut self, id: StreamId, mark: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.map.get_mut(&id) {
            mark(stream);
            self.enqueue(id);
        }
    }

    /// Whether there is anything to put into a record.
    pub(crate) fn wants_to_send(&self) -> bool {
        self.busy
            .as_ref()
            .is_some_and(|busy| !busy.ready.is_empty())
            || self.owes_max_data
            || self.owes_max_streams
            || self.shared.allowance.wants_raise()
    }

    /// Appends frames until `out` has `end` bytes or there is nothing left. The
    /// answer is the data of the last one, where it need not be copied.
    pub(crate) fn fill(
        &mut self,
        out: &mut Vec<u8>,
        end: usize,
        cargo: &mut Cargo,
        pace: Pace,
    ) -> Bytes {
        if end - out.len() < SMALL_FRAME_MAX {
            return Bytes::new();
        }
        if core::mem::take(&mut self.owes_max_data) || self.shared.allowance.wants_raise() {
            Frame::MaxData(self.shared.allowance.raise(pace)).put(out);
            cargo.push(Carried::MaxData);
        }
        if core::mem::take(&mut self.owes_max_streams) {
            Frame::MaxStreams(self.remote_max).put(out);
            cargo.push(Carried::MaxStreams);
        }
        let Some(busy) = &mut self.busy else {
            return Bytes::new();
        };
        while let Some(turn) = busy.ready.next() {
            let id = turn.stream;
            let Some(stream) = self.map.get_mut(&id) else {
                continue;
            };
            let before = out.len();
            let mut common = Common {
                end,
                pace,
                reserve: self.reserve,
                credit: &mut self.credit,
                growth: &mut self.shared.growth,
                counts: &mut self.counts,
            };
            let filled = stream.fill(id, out, cargo, &mut common);
            let (more, is_starved, data) = match filled {
                StreamFilled::Done => (false, false, Bytes::new()),
                StreamFilled::Starved => (false, true, Bytes::new()),
                StreamFilled::More => (true, false, Bytes::new()),
                StreamFilled::Ends(data) => (true, false, data),
            };
            let sent = out.len() - before + data.len();
            busy.ready.settle(turn, &mut stream.place, sent, more);
            if is_starved && !core::mem::replace(&mut stream.starved, true) {
                busy.starved.push(id);
            }
            if more {
                return data;
            }
        }
        Bytes::new()
    }
}

enum StreamFilled {
    /// Nothing more to send for now.
    Done,
    /// Waits for the channel's credit.
    Starved,
    /// The record is full.
    More,
    /// The record is full, and ends with this data.
    Ends(Bytes),
}

/// What the streams of a channel have in common when they fill a record.
struct Common<'a> {
    /// Where the record ends.
    end: usize,
    pace: Pace,
    reserve: u64,
    credit: &'a mut Credit,
    growth: &'a mut u64,
    counts: &'a mut Counts,
}

impl Stream {
    fn fill(
        &mut self,
        id: StreamId,
        out: &mut Vec<u8>,
        cargo: &mut Cargo,
        common: &mut Common<'_>,
    ) -> StreamFilled {
        let Common { end, reserve, .. } = *common;
        if !self.fill_control(id, out, cargo, common) {
            return StreamFilled::More;
        }
        loop {
            let room = (end - out.len()).saturating_sub(STREAM_HEADER_MAX);
            if room < MIN_PIECE {
                return StreamFilled::More;
            }
            let piece = match self.send.next_piece(
                room.min(limits::MAX_STREAM_DATA),
                common.credit,
                reserve,
            ) {
                Ok(piece) => piece,
                Err(NoPiece::Nothing | NoPiece::StreamCredit) => return StreamFilled::Done,
                Err(NoPiece::ChannelCredit) => return StreamFilled::Starved,
            };
            frame::put_stream_header(out, id, piece.offset, piece.fin, piece.length);
            match piece.again {
                true => common.counts.again += piece.length as u64,
                false => common.counts.out += piece.length as u64,
            }
            cargo.push(Carried::Stream {
                stream: id,
                offset: piece.offset,
                length: piece.length as u32,
                fin: piece.fin,
            });
            if room - piece.length < MIN_PIECE
                && let Some(data) = self.send.slice(piece)
            {
                return StreamFilled::Ends(data);
            }
            self.send.copy_out(piece, out);
        }
    }

    /// Writes the control frames that are owed; `false` when one found no room.
    fn fill_control(
        &mut self,
        id: StreamId,
        out: &mut Vec<u8>,
        cargo: &mut Cargo,
        common: &mut Common<'_>,
    ) -> bool {
        let end = common.end;
        if self.owes.open {
            let Some(header) = &self.header else {
                self.owes.open = false;
                return self.fill_control(id, out, cargo, common);
            };
            if end - out.len() < FRAME_MAX {
                return false;
            }
            Frame::Open { stream: id, header }.put(out);
            cargo.push(Carried::Open(id));
            self.owes.open = false;
        }
        // ACCEPT, RESET, STOP and MAX_STREAM_DATA together.
        if end - out.len() < 3 * SMALL_FRAME_MAX {
            return false;
        }
        if core::mem::take(&mut self.owes.accept) {
            Frame::Accept { stream: id }.put(out);
            cargo.push(Carried::Accept(id));
        }
        if core::mem::take(&mut self.owes.reset)
            && let Some((final_size, reason)) = self.send.reset_frame()
        {
            Frame::Reset {
                stream: id,
                final_size,
                code: reason.code.0,
                reason: &reason.text,
            }
            .put(out);
            cargo.push(Carried::Reset(id));
        }
        if core::mem::take(&mut self.owes.stop)
            && let Some(reason) = self.recv.stop_frame()
        {
            Frame::Stop {
                stream: id,
                code: reason.code.0,
                reason: &reason.text,
            }
            .put(out);
            cargo.push(Carried::Stop(id));
        }
        if self.recv.wants_raise() {
            let max = self.recv.raise(common.pace, common.growth);
            Frame::MaxStreamData { stream: id, max }.put(out);
            cargo.push(Carried::MaxStreamData(id));
        }
        true
    }
}
