//! Two channels and a network that does what the bytes say.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use fairway_channel::{
    Batch, Channel, Code, Config, Event, Output, PathId, ReadOutcome, Reason, StaticSecret,
    StreamId, Time,
};

use crate::Script;

/// Opens, writes, reads, ends and resets streams at both ends, moves to other
/// paths and renews keys, while packets are lost, repeated, reordered, changed
/// and delayed: what is read is what was written, in order. When the network is
/// good again, everything that was written and not given up arrives, whatever
/// came before.
pub(crate) fn pair(data: &[u8]) {
    let mut pair = Pair::new();
    let mut script = Script::new(data);
    for _ in 0..200 {
        if script.is_over() {
            break;
        }
        pair.step(&mut script);
        pair.drain();
    }
    pair.heal();
}

/// The longest that a script can wait, in all: less than any time after which a
/// channel gives up.
const WAIT_MAX: Time = Time::from_secs(8);

struct Pair {
    now: Time,
    ends: [End; 2],
    /// Packets on their way to each end.
    wires: [VecDeque<(PathId, Vec<u8>)>; 2],
    /// Which packets of which path arrive.
    path: PathId,
    waited: Time,
}

struct End {
    channel: Channel,
    secret: StaticSecret,
    pending: VecDeque<StreamId>,
    streams: Vec<StreamId>,
    written: BTreeMap<StreamId, Half>,
    read: BTreeMap<StreamId, Half>,
    timeout: Option<Time>,
    closed: bool,
}

/// One direction of a stream, as one end sees it.
#[derive(Debug, Default)]
struct Half {
    bytes: u64,
    finished: bool,
    given_up: bool,
}

impl Pair {
    /// Both ends ready.
    fn new() -> Self {
        let config = Config::new()
            .max_streams(8)
            .and_then(|config| config.session_window(100_000))
            .unwrap();
        let secrets = [1, 2].map(|byte| StaticSecret::from_bytes([byte; 32]));
        let a = Channel::initiator(config.clone(), &secrets[0], [3; 32], 0, "b", Time::ZERO);
        let b = Channel::responder(config, &secrets[1], [4; 32], Vec::new(), Time::ZERO);
        let [secret_a, secret_b] = secrets;
        let mut pair = Self {
            now: Time::ZERO,
            ends: [End::new(a.unwrap(), secret_a), End::new(b, secret_b)],
            wires: [VecDeque::new(), VecDeque::new()],
            path: PathId::FIRST,
            waited: Time::ZERO,
        };
        while !pair.ends.iter().all(|end| end.channel.is_ready()) {
            pair.drain();
            pair.deliver(0, usize::MAX);
            pair.deliver(1, usize::MAX);
        }
        pair
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let op = script.byte();
        let (side, op) = (usize::from(op >> 7), op & 0x7f);
        match op % 16 {
            0..=7 => self.ends[side].act(self.now, op % 8, script),
            8 | 9 => self.deliver(side, 1 + script.below(16)),
            10 => {
                let count = script.below(64).min(self.wires[side].len());
                self.wires[side].drain(..count);
            }
            11 => {
                if let Some(packet) = self.wires[side].front().cloned() {
                    self.wires[side].push_back(packet);
                }
            }
            12 => {
                let length = self.wires[side].len().max(1);
                let (one, other) = (script.below(length), script.below(length));
                if other < self.wires[side].len() {
                    self.wires[side].swap(one, other);
                }
            }
            13 => {
                let (at, bit) = (script.below(1 << 15), script.byte() | 1);
                if let Some((_, packet)) = self.wires[side].front_mut() {
                    let at = at % packet.len();
                    packet[at] ^= bit;
                }
            }
            14 => self.wait(Time::from_millis(1 + 8 * u64::from(script.byte()))),
            _ => self.move_on(script.byte()),
        }
    }

    /// Time goes by, unless the script had enough of it already.
    fn wait(&mut self, time: Time) {
        if self.waited + time <= WAIT_MAX {
            self.waited += time;
            self.pass(time);
        }
    }

    fn pass(&mut self, time: Time) {
        self.now += time;
        for end in &mut self.ends {
            if end.timeout.is_some_and(|timeout| timeout <= self.now) {
                end.channel.handle_timeout(self.now);
            }
        }
    }

    /// Another path, with or without losing the one before it.
    fn move_on(&mut self, how: u8) {
        let old = self.path;
        self.path = PathId(old.0 + 1);
        if how & 1 == 1 {
            for wire in &mut self.wires {
                wire.retain(|(path, _)| *path != old);
            }
            self.ends[0].channel.path_lost(self.now, old);
            if how & 2 == 2 {
                self.ends[1].channel.path_lost(self.now, old);
            }
        }
        self.ends[0].channel.attach(self.now, self.path).unwrap();
    }

    fn deliver(&mut self, to: usize, count: usize) {
        for _ in 0..count {
            let Some((path, packet)) = self.wires[to].pop_front() else {
                return;
            };
            let packet = BytesMut::from(&packet[..]);
            self.ends[to].channel.handle_input(self.now, path, packet);
        }
    }

    fn drain(&mut self) {
        let [a, b] = &mut self.ends;
        let [to_a, to_b] = &mut self.wires;
        a.drain(self.now, to_b);
        b.drain(self.now, to_a);
    }

    /// The network is good again, and both ends read what they have.
    fn heal(&mut self) {
        for round in 0..4_000 {
            self.drain();
            self.deliver(0, usize::MAX);
            self.deliver(1, usize::MAX);
            self.drain();
            for end in &mut self.ends {
                assert!(!end.closed, "a bad network closed the channel");
                end.accept_all(self.now);
                end.read_all(self.now);
            }
            if self.is_all_there() {
                return;
            }
            let channel = &mut self.ends[0].channel;
            if channel.active_path().is_none() && channel.candidate_path().is_none() {
                self.path = PathId(self.path.0 + 1);
                channel.attach(self.now, self.path).unwrap();
            }
            self.pass(Time::from_millis(if round < 100 { 1 } else { 50 }));
        }
        let [a, b] = &self.ends;
        panic!(
            "what was written never arrived: {} and {}",
            a.missing_at(b),
            b.missing_at(a)
        );
    }

    fn is_all_there(&self) -> bool {
        let [a, b] = &self.ends;
        a.written.keys().all(|stream| a.arrived_at(b, *stream))
            && b.written.keys().all(|stream| b.arrived_at(a, *stream))
    }
}

impl End {
    fn new(channel: Channel, secret: StaticSecret) -> Self {
        Self {
            channel,
            secret,
            pending: VecDeque::new(),
            streams: Vec::new(),
            written: BTreeMap::new(),
            read: BTreeMap::new(),
            timeout: None,
            closed: false,
        }
    }

    /// What the owner of this end does.
    fn act(&mut self, now: Time, op: u8, script: &mut Script<'_>) {
        match op {
            0 => {
                if let Ok(stream) = self.channel.open(now, script.piece().to_vec()) {
                    self.add(stream);
                }
                return;
            }
            1 => return self.accept_all(now),
            2 => {
                let _ = self
                    .channel
                    .send_datagram(now, vec![7; script.below(1300)].into());
                return;
            }
            3 if self.channel.is_initiator() => {
                let _ = self.channel.renew(now, &self.secret);
                return;
            }
            3 => return self.channel.request_renewal(now),
            _ => {}
        }
        let Some(&stream) = self.streams.get(script.below(self.streams.len())) else {
            return;
        };
        let done = Reason::new(Code::DONE, "");
        match op {
            4 => self.write(now, stream, script.below(1 << 16)),
            5 => self.read_some(now, stream),
            6 => {
                if self.channel.finish(now, stream).is_ok() {
                    self.written.entry(stream).or_default().finished = true;
                }
            }
            _ if script.byte() & 1 == 1 => {
                self.channel.stop(now, stream, done);
                self.read.entry(stream).or_default().given_up = true;
            }
            _ => {
                self.channel.reset(now, stream, done);
                self.give_up(stream);
            }
        }
    }

    fn add(&mut self, stream: StreamId) {
        self.streams.push(stream);
        self.written.insert(stream, Half::default());
        self.read.insert(stream, Half::default());
    }

    fn give_up(&mut self, stream: StreamId) {
        self.written.entry(stream).or_default().given_up = true;
        self.read.entry(stream).or_default().given_up = true;
    }

    fn accept_all(&mut self, now: Time) {
        while let Some(stream) = self.pending.pop_front() {
            if self.channel.accept(now, stream).is_ok() {
                self.add(stream);
            }
        }
    }

    fn write(&mut self, now: Time, stream: StreamId, length: usize) {
        let half = self.written.entry(stream).or_default();
        let text = |at: u64| text(stream, self.channel.is_initiator(), at);
        let bytes: Vec<u8> = (half.bytes..half.bytes + length as u64).map(text).collect();
        if let Ok(taken) = self.channel.write(now, stream, &mut Bytes::from(bytes)) {
            half.bytes += taken as u64;
        }
    }

    fn read_all(&mut self, now: Time) {
        for stream in self.streams.clone() {
            self.read_some(now, stream);
        }
    }

    fn read_some(&mut self, now: Time, stream: StreamId) {
        let from_initiator = !self.channel.is_initiator();
        let half = self.read.entry(stream).or_default();
        loop {
            match self.channel.read(now, stream) {
                Ok(ReadOutcome::Chunk(chunk)) => {
                    for &byte in &chunk {
                        assert_eq!(
                            byte,
                            text(stream, from_initiator, half.bytes),
                            "other bytes"
                        );
                        half.bytes += 1;
                    }
                }
                Ok(ReadOutcome::Finished) => {
                    half.finished = true;
                    return;
                }
                Ok(ReadOutcome::Empty) | Err(_) => return,
            }
        }
    }

    /// Whether all that this end wrote on a stream has been read at the other.
    fn arrived_at(&self, other: &Self, stream: StreamId) -> bool {
        let written = &self.written[&stream];
        let Some(read) = other.read.get(&stream) else {
            // Never accepted: it was reset before, or nobody knows of it yet.
            return written.given_up;
        };
        written.given_up
            || read.given_up
            || (read.bytes, read.finished) == (written.bytes, written.finished)
    }

    /// For a person: what is missing, and where this end is.
    fn missing_at(&self, other: &Self) -> String {
        let missing = self
            .written
            .iter()
            .filter(|(stream, _)| !self.arrived_at(other, **stream));
        let streams: Vec<_> = missing
            .map(|(stream, half)| (stream, half, other.read.get(stream)))
            .collect();
        let channel = &self.channel;
        format!(
            "{streams:?} (path {:?}, tries {:?}, epoch {:?})",
            channel.active_path(),
            channel.candidate_path(),
            channel.epoch()
        )
    }

    fn drain(&mut self, now: Time, wire: &mut VecDeque<(PathId, Vec<u8>)>) {
        let mut batch = Batch::new(0);
        loop {
            match self.channel.poll_output(now, &mut batch) {
                Output::Transmit { path } => {
                    wire.extend(batch.packets_mut().map(|packet| (path, packet.to_vec())));
                    batch.clear();
                    assert!(wire.len() < 20_000, "it sends without end");
                }
                Output::Event(event) => self.on_event(now, event),
                Output::Timeout(timeout) => {
                    self.timeout = timeout;
                    return;
                }
            }
        }
    }

    fn on_event(&mut self, now: Time, event: Event) {
        match event {
            Event::PeerHello { .. } | Event::RenewalHello { .. } => {
                self.channel.proceed(now, Vec::new());
            }
            Event::RenewalDue => self.channel.renew(now, &self.secret).unwrap(),
            Event::RenewalAsked => {
                self.channel
                    .answer_renewal(now, &self.secret, b"again")
                    .unwrap();
            }
            Event::Opened { stream, .. } => self.pending.push_back(stream),
            Event::Reset { stream, .. } => {
                self.read.entry(stream).or_default().given_up = true;
            }
            Event::Stopped { stream, .. } => {
                self.written.entry(stream).or_default().given_up = true;
            }
            Event::Closed { .. } => self.closed = true,
            Event::Ready
            | Event::Accepted(_)
            | Event::Readable(_)
            | Event::Writable(_)
            | Event::Finished(_)
            | Event::StreamsAvailable
            | Event::Datagram(_)
            | Event::Alive
            | Event::PathActive { .. }
            | Event::PathFailed { .. }
            | Event::PathSilent { .. }
            | Event::PathRecovered { .. }
            | Event::Renewed { .. } => {}
        }
    }
}

/// The byte at one place of one half of one stream.
fn text(stream: StreamId, from_initiator: bool, at: u64) -> u8 {
    let mixed = at
        .wrapping_mul(31)
        .wrapping_add(at >> 8)
        .wrapping_add(stream.get().wrapping_mul(101))
        .wrapping_add(u64::from(from_initiator));
    mixed as u8
}
