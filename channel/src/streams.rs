//! All the streams of a channel: which exist, what they owe, who sends next.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{
    Code, Config, Event, OpenError, ReadOutcome, Reason, StreamError, StreamId,
    flow::Credit,
    frame::{self, Frame, Settings},
    limits,
    ranges::RangeSet,
    recovery::{Cargo, Carried, Fate},
    recv::{Fault, Read, RecvHalf, Shared, Taken},
    send::{NoPiece, SendHalf},
};

/// The room that a control frame needs at most, and a STREAM frame's header.
const FRAME_MAX: usize = limits::MAX_OPEN_HEADER + 16;
const SMALL_FRAME_MAX: usize = limits::MAX_REASON + 32;
const STREAM_HEADER_MAX: usize = 24;
/// Less data than this is not worth a STREAM frame at the end of a record.
const MIN_PIECE: usize = 64;

/// The peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) code: Code,
    pub(crate) text: &'static str,
}

impl Violation {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self {
            code: Code::PROTOCOL_VIOLATION,
            text,
        }
    }

    const fn flow(text: &'static str) -> Self {
        Self {
            code: Code::FLOW_CONTROL,
            text,
        }
    }
}

impl From<Fault> for Violation {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Overrun => Self::flow("more stream data than there was credit for"),
            Fault::FinalSize => Self::new("the end of a stream moved"),
            Fault::Differs => Self::new("the same part of a stream came with other bytes"),
        }
    }
}

/// Control frames that a stream owes the peer.
#[derive(Debug, Default, Clone, Copy)]
struct Owes {
    open: bool,
    accept: bool,
    reset: bool,
    stop: bool,
}

/// How far a stream has come with the owner of this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The peer's, of which something else came before its OPEN.
    Unopened,
    /// The peer's, shown to the owner, who has not accepted it yet.
    Offered,
    /// Ours, the peer has not accepted it yet.
    Asked,
    /// In use.
    Live,
    /// The owner wants to hear no more of it.
    Abandoned,
}

impl Life {
    /// Whether the owner knows of it and wants its events.
    fn is_told(self) -> bool {
        match self {
            Self::Offered | Self::Asked | Self::Live => true,
            Self::Unopened | Self::Abandoned => false,
        }
    }
}

#[derive(Debug)]
struct Stream {
    send: SendHalf,
    recv: RecvHalf,
    owes: Owes,
    life: Life,
    /// The header of our OPEN, until it has arrived.
    header: Option<Box<[u8]>>,
    /// Is in `ready`.
    queued: bool,
    /// Is in `starved`.
    starved: bool,
}

/// What became of a record that was being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// There may be more for the next record.
    Full,
    /// All that can be sent now is in it.
    Drained,
}

/// Counters for [`crate::Stats`].
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) out: u64,
    pub(crate) again: u64,
}

/// The streams of one channel.
#[derive(Debug)]
pub(crate) struct Streams {
    initiator: bool,
    stream_window: u64,
    send_buffer: usize,
    max_streams: u64,
    map: BTreeMap<StreamId, Box<Stream>>,
    /// Streams with something to send, in turn.
    ready: VecDeque<StreamId>,
    /// Streams that wait for the channel's credit.
    starved: Vec<StreamId>,
    /// How many streams this side opened, and may open.
    local_next: u64,
    local_max: u64,
    /// `open` was refused for want of `local_max`.
    wants_streams: bool,
    /// Streams of the peer: the lowest never seen, how many it may open, how
    /// many are over, and which below `remote_next` were never seen.
    remote_next: u64,
    remote_max: u64,
    remote_over: u64,
    skipped: RangeSet,
    /// What the peer allows each stream to begin with, and all together.
    initial_credit: u64,
    credit: Credit,
    shared: Shared,
    owes_max_data: bool,
    owes_max_streams: bool,
    pub(crate) counts: Counts,
}

impl Streams {
    pub(crate) fn new(config: &Config, initiator: bool) -> Self {
        Self {
            initiator,
            stream_window: config.stream_window,
            send_buffer: config.send_buffer,
            max_streams: config.max_streams,
            map: BTreeMap::new(),
            ready: VecDeque::new(),
            starved: Vec::new(),
            local_next: 0,
            local_max: 0,
            wants_streams: false,
            remote_next: 0,
            remote_max: config.max_streams,
            remote_over: 0,
            skipped: RangeSet::default(),
            initial_credit: 0,
            credit: Credit::default(),
            shared: Shared::new(config.session_window),
            owes_max_data: false,
            owes_max_streams: false,
            counts: Counts::default(),
        }
    }

    /// What to tell the peer at the start.
    pub(crate) fn settings(config: &Config) -> Settings {
        Settings {
            max_data: config.session_window,
            max_stream_data: config.stream_window,
            max_streams: config.max_streams,
        }
    }

    /// Bytes of stream data that came in for the first time.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received
    }

    /// How many streams exist at the moment.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    // ---- what the owner wants ----

    pub(crate) fn open(&mut self, header: Vec<u8>) -> Result<StreamId, OpenError> {
        if header.len() > limits::MAX_OPEN_HEADER {
            return Err(OpenError::HeaderTooLong {
                length: header.len(),
            });
        }
        if self.local_next >= self.local_max {
            self.wants_streams = true;
            return Err(OpenError::TooMany);
        }
        let id = StreamId::new(self.initiator, self.local_next);
        self.local_next += 1;
        let mut stream = self.fresh(Life::Asked);
        stream.header = Some(header.into_boxed_slice());
        stream.owes.open = true;
        self.map.insert(id, stream);
        self.enqueue(id);
        Ok(id)
    }

    pub(crate) fn accept(
        &mut self,
        id: StreamId,
        events: &mut VecDeque<Event>,
    ) -> Result<(), StreamError> {
        let stream = self.map.get_mut(&id).ok_or(StreamError::Unknown)?;
        match stream.life {
            Life::Offered => {
                stream.life = Life::Live;
                stream.owes.accept = true;
                if stream.recv.take_readable() {
                    events.push_back(Event::Readable(id));
                }
                self.enqueue(id);
                Ok(())
            }
            Life::Live | Life::Asked => Ok(()),
            Life::Unopened | Life::Abandoned => Err(StreamError::Unknown),
        }
    }

    pub(crate) fn reset(&mut self, id: StreamId, reason: &Reason) {
        let Some(stream) = self.map.get_mut(&id) else {
            return;
        };
        stream.life = Life::Abandoned;
        stream.owes.reset |= stream.send.reset(reason);
        stream.owes.stop |= stream.recv.stop(reason, &mut self.shared);
        self.enqueue(id);
        self.settle(id);
    }

    pub(crate) fn stop(&mut self, id: StreamId, reason: &Reason) {
        let Some(stream) = self.map.get_mut(&id) else {
            return;
        };
        stream.owes.stop |= stream.recv.stop(reason, &mut self.shared);
        self.enqueue(id);
        self.settle(id);
    }

    pub(crate) fn finish(&mut self, id: StreamId) -> Result<(), StreamError> {
        let stream = Self::live(&mut self.map, id)?;
        if let Some((_, reason)) = stream.send.reset_frame() {
            return Err(StreamError::Stopped(reason.clone()));
        }
        stream.send.finish();
        self.enqueue(id);
        Ok(())
    }

    pub(crate) fn write(&mut self, id: StreamId, data: &mut Bytes) -> Result<usize, StreamError> {
        let stream = Self::live(&mut self.map, id)?;
        if let Some((_, reason)) = stream.send.reset_frame() {
            return Err(StreamError::Stopped(reason.clone()));
        }
        if !stream.send.is_open() {
            return Err(StreamError::Ended);
        }
        let taken = stream.send.write(data, self.send_buffer);
        if taken > 0 {
            self.enqueue(id);
        }
        Ok(taken)
    }

    pub(crate) fn read(&mut self, id: StreamId) -> Result<ReadOutcome, StreamError> {
        let stream = Self::live(&mut self.map, id)?;
        match stream.recv.read(&mut self.shared) {
            Read::Chunk(chunk) => {
                if stream.recv.wants_raise() {
                    self.enqueue(id);
                }
                Ok(ReadOutcome::Chunk(chunk))
            }
            Read::Empty => Ok(ReadOutcome::Empty),
            Read::Finished => {
                self.settle(id);
                Ok(ReadOutcome::Finished)
            }
            Read::Reset(reason) => Err(StreamError::Reset(reason)),
            Read::Stopped => Err(StreamError::Ended),
        }
    }

    // ---- what the peer sent ----

    pub(crate) fn on_settings(&mut self, settings: Settings, events: &mut VecDeque<Event>) {
        self.initial_credit = self.initial_credit.max(settings.max_stream_data);
        let ids: Vec<StreamId> = self.map.keys().copied().collect();
        for id in ids {
            self.on_max_stream_data_known(id, settings.max_stream_data);
        }
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
        if stream.recv.is_over() || !stream.send.is_open() {
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
        if stream.send.reset(&reason) {
            stream.owes.reset = true;
            if stream.life.is_told() {
                events.push_back(Event::Stopped { stream: id, reason });
            }
            self.enqueue(id);
        }
        Ok(())
    }

    pub(crate) fn on_max_data(&mut self, max: u64) {
        if self.credit.raise(max) {
            for id in core::mem::take(&mut self.starved) {
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

    // ---- what became of what was sent ----

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
                Carried::Hello | Carried::Settings | Carried::Ping | Carried::Ack(_),
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
        let finished = stream.send.on_arrived(offset, length, fin);
        if stream.life.is_told() {
            if finished {
                events.push_back(Event::Finished(id));
            }
            if stream.send.take_writable(self.send_buffer) {
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

    // ---- filling records ----

    /// Whether there is anything to put into a record.
    pub(crate) fn wants_to_send(&self) -> bool {
        !self.ready.is_empty() || self.owes_max_data || self.owes_max_streams || self.shared.raise
    }

    /// Appends frames until `out` has `end` bytes or there is nothing left.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, end: usize, cargo: &mut Cargo) -> Filled {
        if end - out.len() < SMALL_FRAME_MAX {
            return Filled::Full;
        }
        if core::mem::take(&mut self.shared.raise) || core::mem::take(&mut self.owes_max_data) {
            self.owes_max_data = false;
            Frame::MaxData(self.shared.allowance.raise()).put(out);
            cargo.push(Carried::MaxData);
        }
        if core::mem::take(&mut self.owes_max_streams) {
            Frame::MaxStreams(self.remote_max).put(out);
            cargo.push(Carried::MaxStreams);
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(stream) = self.map.get_mut(&id) else {
                continue;
            };
            match stream.fill(id, out, end, cargo, &mut self.credit, &mut self.counts) {
                StreamFilled::Done => stream.queued = false,
                StreamFilled::Starved => {
                    stream.queued = false;
                    if !core::mem::replace(&mut stream.starved, true) {
                        self.starved.push(id);
                    }
                }
                StreamFilled::NoRoomForControl => {
                    self.ready.push_front(id);
                    return Filled::Full;
                }
                StreamFilled::More => {
                    self.ready.push_back(id);
                    return Filled::Full;
                }
            }
        }
        Filled::Drained
    }

    // ---- helpers ----

    fn is_ours(&self, id: StreamId) -> bool {
        id.by_initiator() == self.initiator
    }

    fn fresh(&self, life: Life) -> Box<Stream> {
        Box::new(Stream {
            send: SendHalf::new(self.initial_credit),
            recv: RecvHalf::new(self.stream_window),
            owes: Owes::default(),
            life,
            header: None,
            queued: false,
            starved: false,
        })
    }

    /// A stream that the owner may read and write.
    fn live(
        map: &mut BTreeMap<StreamId, Box<Stream>>,
        id: StreamId,
    ) -> Result<&mut Stream, StreamError> {
        let stream = map.get_mut(&id).ok_or(StreamError::Unknown)?;
        match stream.life {
            Life::Live | Life::Asked => Ok(stream),
            Life::Offered => Err(StreamError::NotAccepted),
            Life::Unopened | Life::Abandoned => Err(StreamError::Unknown),
        }
    }

    /// The stream that a frame of the peer is about. `None`: it is over.
    fn incoming(&mut self, id: StreamId) -> Result<Option<&mut Stream>, Violation> {
        let index = id.index();
        if self.is_ours(id) {
            if index >= self.local_next {
                return Err(Violation::new("a frame for a stream that was never opened"));
            }
        } else {
            if index >= self.remote_max {
                return Err(Violation::flow("more streams than were allowed"));
            }
            if index >= self.remote_next {
                self.skipped.insert(self.remote_next..index + 1);
                self.remote_next = index + 1;
            }
            if self.skipped.contains(index) {
                self.skipped.remove(index..index + 1);
                let stream = self.fresh(Life::Unopened);
                self.map.insert(id, stream);
            }
        }
        Ok(self.map.get_mut(&id).map(|stream| &mut **stream))
    }

    fn on_max_stream_data_known(&mut self, id: StreamId, max: u64) {
        if let Some(stream) = self.map.get_mut(&id)
            && stream.send.raise_credit(max)
        {
            self.enqueue(id);
        }
    }

    fn enqueue(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id)
            && !stream.queued
        {
            stream.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Forgets a stream of which both halves are over.
    fn settle(&mut self, id: StreamId) {
        let over = self
            .map
            .get(&id)
            .is_some_and(|stream| stream.send.is_over() && stream.recv.is_over());
        if !over {
            return;
        }
        self.map.remove(&id);
        if !self.is_ours(id) {
            self.remote_over += 1;
            let max = self.remote_over + self.max_streams;
            if max - self.remote_max >= (self.max_streams / 4).max(1) {
                self.remote_max = max;
                self.owes_max_streams = true;
            }
        }
    }
}

enum StreamFilled {
    /// Nothing more to send for now.
    Done,
    /// Waits for the channel's credit.
    Starved,
    /// The record is full.
    More,
    /// The record has no room for a control frame that must come first.
    NoRoomForControl,
}

impl Stream {
    fn accepted(&mut self, id: StreamId, events: &mut VecDeque<Event>) {
        if self.life == Life::Asked {
            self.life = Life::Live;
            events.push_back(Event::Accepted(id));
        }
    }

    fn fill(
        &mut self,
        id: StreamId,
        out: &mut Vec<u8>,
        end: usize,
        cargo: &mut Cargo,
        credit: &mut Credit,
        counts: &mut Counts,
    ) -> StreamFilled {
        if !self.fill_control(id, out, end, cargo) {
            return StreamFilled::NoRoomForControl;
        }
        loop {
            let room = (end - out.len()).saturating_sub(STREAM_HEADER_MAX);
            if room < MIN_PIECE {
                return StreamFilled::More;
            }
            let piece = match self
                .send
                .next_piece(room.min(limits::MAX_STREAM_DATA), credit)
            {
                Ok(piece) => piece,
                Err(NoPiece::Nothing | NoPiece::StreamCredit) => return StreamFilled::Done,
                Err(NoPiece::ChannelCredit) => return StreamFilled::Starved,
            };
            frame::put_stream_header(out, id, piece.offset, piece.fin, piece.length);
            self.send.copy_out(piece, out);
            match piece.again {
                true => counts.again += piece.length as u64,
                false => counts.out += piece.length as u64,
            }
            cargo.push(Carried::Stream {
                stream: id,
                offset: piece.offset,
                length: piece.length as u32,
                fin: piece.fin,
            });
        }
    }

    /// Writes the control frames that are owed; `false` when one found no room.
    fn fill_control(
        &mut self,
        id: StreamId,
        out: &mut Vec<u8>,
        end: usize,
        cargo: &mut Cargo,
    ) -> bool {
        if self.owes.open {
            let Some(header) = &self.header else {
                self.owes.open = false;
                return self.fill_control(id, out, end, cargo);
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
            let max = self.recv.raise();
            Frame::MaxStreamData { stream: id, max }.put(out);
            cargo.push(Carried::MaxStreamData(id));
        }
        true
    }
}
