//! All the streams of a channel: which exist, and what the owner does with them.
//!
//! `peer.rs` acts on the peer's frames, `outgoing.rs` fills records and hears
//! what became of them, `schedule.rs` says whose turn it is.

mod outgoing;
mod peer;
mod schedule;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use self::schedule::{Place, Schedule};
use crate::{
    Code, Event, OpenError, Priority, ReadOutcome, Reason, StreamError, StreamId, config,
    flow::{Credit, SharedAllowance},
    frame::Settings,
    limits,
    ranges::RangeSet,
    recv::{Fault, Read, RecvHalf, Shared},
    send::SendHalf,
};

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
    place: Place,
    /// Is in `starved`.
    starved: bool,
}

/// Counters for [`crate::Stats`].
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) out: u64,
    pub(crate) again: u64,
}

/// What only a channel that is not idle needs to remember about its streams.
#[derive(Debug, Default)]
struct Busy {
    /// Streams with something to send, in turn.
    ready: Schedule,
    /// Streams that wait for the channel's credit.
    starved: Vec<StreamId>,
    /// Which of the peer's streams below `remote_next` were never seen.
    skipped: RangeSet,
}

impl Busy {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.starved.is_empty() && self.skipped.is_empty()
    }
}

/// The streams of one channel.
#[derive(Debug)]
pub(crate) struct Streams {
    initiator: bool,
    config: Arc<config::Settings>,
    /// What all streams buffer together.
    buffered: usize,
    map: BTreeMap<StreamId, Box<Stream>>,
    /// Nothing in it while the channel is idle.
    busy: Option<Box<Busy>>,
    /// How many streams this side opened, and may open.
    local_next: u64,
    local_max: u64,
    /// `open` was refused for want of `local_max`.
    wants_streams: bool,
    /// Streams of the peer: the lowest never seen, how many it may open, and how
    /// many are over.
    remote_next: u64,
    remote_max: u64,
    remote_over: u64,
    /// What the peer allows each stream to begin with, and all together.
    initial_credit: u64,
    credit: Credit,
    /// What bulk transfers leave of it to others.
    reserve: u64,
    shared: Shared,
    owes_max_data: bool,
    owes_max_streams: bool,
    pub(crate) counts: Counts,
}

impl Streams {
    pub(crate) fn new(config: &Arc<config::Settings>, initiator: bool) -> Self {
        Self {
            initiator,
            config: Arc::clone(config),
            buffered: 0,
            map: BTreeMap::new(),
            busy: None,
            local_next: 0,
            local_max: 0,
            wants_streams: false,
            remote_next: 0,
            remote_max: config.max_streams,
            remote_over: 0,
            initial_credit: 0,
            credit: Credit::default(),
            reserve: 0,
            shared: Shared::new(
                SharedAllowance::new(
                    config.session_window,
                    config.session_window_max,
                    config.session_memory,
                ),
                config.session_memory / 2,
            ),
            owes_max_data: false,
            owes_max_streams: false,
            counts: Counts::default(),
        }
    }

    /// Gives back what empty buffers and lists hold.
    pub(crate) fn release_memory(&mut self) {
        self.busy.take_if(|busy| busy.is_empty());
        for stream in self.map.values_mut() {
            stream.send.release_memory();
            stream.recv.release_memory();
        }
    }

    /// What to tell the peer at the start.
    pub(crate) fn settings(config: &config::Settings) -> Settings {
        Settings {
            max_data: config.session_window,
            max_stream_data: config.stream_window,
            max_streams: config.max_streams,
        }
    }

    /// Bytes of stream data that came in for the first time.
    pub(crate) fn received(&self) -> u64 {
        self.shared.allowance.received()
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
        self.buffered -= stream.send.buffered();
        stream.owes.reset |= stream.send.reset(reason);
        self.buffered += stream.send.buffered();
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
        let stream = Self::sending(&mut self.map, id)?;
        let (least, most) = (self.config.send_buffer, self.config.send_buffer_max);
        let limit = stream.send.limit(least, most);
        // Within the bound of all together, of which each has its least.
        let left = self.config.send_memory.saturating_sub(self.buffered);
        let together = (stream.send.buffered() + left).max(limits::MIN_SEND_BUFFER);
        let taken = stream.send.write(data, limit.min(together));
        self.buffered += taken;
        if taken > 0 {
            self.enqueue(id);
        }
        Ok(taken)
    }

    pub(crate) fn set_priority(&mut self, id: StreamId, priority: Priority) {
        if let Some(stream) = self.map.get_mut(&id) {
            // From its next turn on, if it is waiting for one.
            stream.place.priority = priority;
        }
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

    pub(crate) fn owes_credit(&self, id: StreamId) -> bool {
        let stream = self.map.get(&id);
        stream.is_some_and(|stream| stream.recv.wants_raise())
            || self.shared.allowance.wants_raise()
    }

    pub(crate) fn readable(&self, id: StreamId) -> u64 {
        let stream = self.map.get(&id);
        stream.map_or(0, |stream| stream.recv.readable())
    }

    pub(crate) fn is_read_out(&mut self, id: StreamId) -> Result<bool, StreamError> {
        match Self::live(&mut self.map, id)?.recv.peek_end() {
            Read::Finished => Ok(true),
            Read::Chunk(_) | Read::Empty => Ok(false),
            Read::Reset(reason) => Err(StreamError::Reset(reason)),
            Read::Stopped => Err(StreamError::Ended),
        }
    }

    pub(crate) fn is_receiving(&self, id: StreamId) -> bool {
        let stream = self.map.get(&id);
        stream.is_some_and(|stream| match stream.life {
            Life::Live | Life::Asked => stream.recv.is_open(),
            Life::Unopened | Life::Offered | Life::Abandoned => false,
        })
    }

    pub(crate) fn check_sending(&mut self, id: StreamId) -> Result<(), StreamError> {
        Self::sending(&mut self.map, id).map(|_| ())
    }

    // ---- helpers ----

    fn is_ours(&self, id: StreamId) -> bool {
        id.by_initiator() == self.initiator
    }

    fn fresh(&self, life: Life) -> Box<Stream> {
        Box::new(Stream {
            send: SendHalf::new(self.initial_credit),
            recv: RecvHalf::new(self.config.stream_window, self.config.stream_window_max),
            owes: Owes::default(),
            life,
            header: None,
            place: Place::default(),
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

    /// A stream that the owner may still write.
    fn sending(
        map: &mut BTreeMap<StreamId, Box<Stream>>,
        id: StreamId,
    ) -> Result<&mut Stream, StreamError> {
        let stream = Self::live(map, id)?;
        if let Some((_, reason)) = stream.send.reset_frame() {
            return Err(StreamError::Stopped(reason.clone()));
        }
        match stream.send.is_open() {
            true => Ok(stream),
            false => Err(StreamError::Ended),
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
                // Those in between are still to come.
                if index > self.remote_next {
                    let between = self.remote_next..index;
                    self.busy.get_or_insert_default().skipped.insert(between);
                }
                self.remote_next = index + 1;
                self.give_streams_back();
                let stream = self.fresh(Life::Unopened);
                self.map.insert(id, stream);
            } else if let Some(busy) = &mut self.busy
                && busy.skipped.contains(index)
            {
                busy.skipped.remove(index..index + 1);
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
        if let Some(stream) = self.map.get_mut(&id) {
            let is_bulk = stream.send.is_bulk();
            let busy = self.busy.get_or_insert_default();
            busy.ready.add(id, &mut stream.place, is_bulk);
        }
    }

    /// Forgets a stream of which both halves are over.
    fn settle(&mut self, id: StreamId) {
        let over = self.map.get(&id).is_some_and(|stream| stream.is_over());
        if !over {
            return;
        }
        if let Some(stream) = self.map.remove(&id) {
            self.shared.growth += stream.recv.grown();
        }
        if !self.is_ours(id) {
            self.remote_over += 1;
            self.give_streams_back();
        }
    }

    /// Lets the peer open as many streams as are over: a quarter of all at a
    /// time, or each by itself while it is short of them and waits.
    fn give_streams_back(&mut self) {
        let max = self.remote_over + self.config.max_streams;
        let quarter = (self.config.max_streams / 4).max(1);
        let back = max - self.remote_max;
        let is_short = self.remote_max - self.remote_next < quarter;
        if back >= quarter || (back > 0 && is_short) {
            self.remote_max = max;
            self.owes_max_streams = true;
        }
    }
}

impl Stream {
    /// Nothing is left to do. Not before our OPEN has arrived: all else may
    /// have, and the peer would hold it without ever being told.
    fn is_over(&self) -> bool {
        self.send.is_over() && self.recv.is_over() && self.header.is_none()
    }

    fn accepted(&mut self, id: StreamId, events: &mut VecDeque<Event>) {
        if self.life == Life::Asked {
            self.life = Life::Live;
            events.push_back(Event::Accepted(id));
        }
    }
}
