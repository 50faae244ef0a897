//! Cuts, moves and renewals under loss, reordering and duplication, by seed:
//! nothing is lost, nothing doubled, nothing stuck.

use bytes::Bytes;
use fairway_channel::{Code, Config, Event, PathId, ReadOutcome, StreamError, StreamId, Time};
use fairway_sim::{Conditions, Pair, Side, seeds};
use rand::Rng;

/// One direction of a stream: byte `n` is a function of `n`.
#[derive(Default)]
struct Flow {
    written: u64,
    finished: bool,
    read: u64,
    ended: bool,
}

struct Run {
    pair: Pair,
    streams: Vec<(StreamId, [Flow; 2])>,
    length: u64,
    next_path: u32,
    /// When it began: all is written over [`WRITING`] from then on.
    start: Time,
    /// When the next thing happens to the paths.
    next_cut: Time,
    moves: u32,
    renewals: u32,
}

/// How long the ends write.
const WRITING: Time = Time::from_secs(6);

const SIDES: [Side; 2] = [Side::Initiator, Side::Responder];

fn byte_at(stream: StreamId, at: u64) -> u8 {
    (at ^ at >> 8 ^ at >> 16 ^ stream.get() << 3) as u8
}

impl Run {
    fn new(seed: u64, conditions: Conditions, n_streams: usize, length: u64) -> Self {
        let config = || Config::new().renew_records(16).expect("in range");
        // A damaged handshake message ends the channel, rightly.
        let mut pair = Pair::with_configs(seed, Conditions::perfect(), config(), config());
        pair.connect().expect("a handshake");
        pair.net.conditions = conditions;
        let now = pair.now;
        let streams = (0..n_streams)
            .map(|_| pair.initiator.channel.open(now, vec![1]).expect("room"))
            .map(|id| (id, Default::default()))
            .collect();
        Self {
            start: pair.now,
            next_cut: pair.now,
            pair,
            streams,
            length,
            next_path: 1,
            moves: 0,
            renewals: 0,
        }
    }

    fn turn(&mut self) {
        let now = self.pair.now;
        for side in SIDES {
            while let Some(event) = self.pair.end(side).events.pop_front() {
                match event {
                    Event::Opened { stream, .. } => {
                        let channel = &mut self.pair.end(side).channel;
                        channel.accept(now, stream).expect("just offered");
                    }
                    Event::PathActive { .. } => self.moves += 1,
                    Event::Renewed { .. } => self.renewals += 1,
                    Event::PathFailed { .. }
                        if side == Side::Initiator
                            && self.pair.initiator.channel.candidate_path().is_none() =>
                    {
                        self.attach();
                    }
                    Event::Closed { reason, .. } => panic!("closed: {reason}"),
                    Event::Reset { reason, .. } | Event::Stopped { reason, .. } => {
                        panic!("reset: {reason}")
                    }
                    _ => {}
                }
            }
        }
        if now >= self.next_cut && !self.is_done() {
            self.change_paths();
        }
        for index in 0..self.streams.len() {
            for side in SIDES {
                self.write(side, index);
                self.read(side, index);
            }
        }
    }

    /// A planned move, a cut that is noticed, or one that is not.
    fn change_paths(&mut self) {
        let now = self.pair.now;
        let active = self.pair.initiator.channel.active_path();
        match (self.pair.random.random_range(0..3), active) {
            (0, _) | (_, None) => {}
            (1, Some(path)) => self.pair.kill(path),
            (_, Some(path)) => {
                self.pair.kill(path);
                for side in SIDES {
                    let channel = &mut self.pair.end(side).channel;
                    if let Some(active) = channel.active_path() {
                        channel.path_lost(now, active);
                    }
                }
            }
        }
        self.attach();
        let pause = self.pair.random.random_range(1..1_500);
        self.next_cut = now + Time::from_millis(pause);
    }

    fn attach(&mut self) {
        let path = PathId(self.next_path);
        self.next_path += 1;
        let now = self.pair.now;
        let attached = self.pair.initiator.channel.attach(now, path);
        attached.expect("a fresh path");
    }

    fn write(&mut self, side: Side, index: usize) {
        let now = self.pair.now;
        let (id, flows) = &mut self.streams[index];
        let flow = &mut flows[side as usize];
        let share = (now - self.start).as_millis() as u64 * self.length;
        let allowed = (share / WRITING.as_millis() as u64).min(self.length);
        while flow.written < allowed {
            let size = self.pair.random.random_range(1..20_000);
            let to = (flow.written + size).min(allowed);
            let data: Vec<u8> = (flow.written..to).map(|at| byte_at(*id, at)).collect();
            let end = match side {
                Side::Initiator => &mut self.pair.initiator,
                Side::Responder => &mut self.pair.responder,
            };
            match end.channel.write(now, *id, &mut Bytes::from(data)) {
                Ok(0) | Err(StreamError::Unknown | StreamError::NotAccepted) => return,
                Ok(taken) => flow.written += taken as u64,
                Err(error) => panic!("{error}"),
            }
        }
        if !flow.finished && flow.written == self.length {
            flow.finished = true;
            self.pair.end(side).channel.finish(now, *id).expect("open");
        }
    }

    /// What the other side wrote.
    fn read(&mut self, side: Side, index: usize) {
        let now = self.pair.now;
        let (id, flows) = &mut self.streams[index];
        let flow = &mut flows[side.other() as usize];
        while !flow.ended {
            match self.pair.end(side).channel.read(now, *id) {
                Ok(ReadOutcome::Chunk(chunk)) => {
                    for byte in chunk {
                        assert_eq!(byte, byte_at(*id, flow.read), "at {} of {id}", flow.read);
                        flow.read += 1;
                    }
                }
                Ok(ReadOutcome::Finished) => {
                    assert_eq!(flow.read, self.length, "{id} ended early");
                    flow.ended = true;
                }
                Ok(ReadOutcome::Empty) => return,
                Err(StreamError::Unknown | StreamError::NotAccepted) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn is_done(&self) -> bool {
        let over = |flows: &[Flow; 2]| flows.iter().all(|flow| flow.ended);
        self.streams.iter().all(|(_, flows)| over(flows))
    }

    fn go(&mut self, within: Time) {
        let end = self.pair.now + within;
        loop {
            self.turn();
            if self.is_done() {
                return;
            }
            self.pair.run_for(Time::from_millis(10));
            assert!(
                self.pair.now < end,
                "stuck at {:?}: {:?}",
                self.pair.now,
                self.streams
                    .iter()
                    .map(|(id, flows)| (id.get(), flows[0].read, flows[1].read))
                    .collect::<Vec<_>>()
            );
        }
    }
}

fn run(seed: u64, conditions: Conditions) -> Run {
    println!("seed {seed}");
    let mut run = Run::new(seed, conditions, 3, 150_000);
    run.go(Time::from_secs(900));
    run
}

#[test]
fn nothing_is_lost_or_doubled_by_cuts_and_moves_on_a_good_network() {
    let (mut moves, mut renewals) = (0, 0);
    for seed in seeds(0..20) {
        let run = run(seed, Conditions::perfect());
        moves += run.moves;
        renewals += run.renewals;
    }
    assert!(moves > 60, "{moves} moves");
    assert!(renewals > 20, "{renewals} renewals");
}

#[test]
fn nothing_is_lost_or_doubled_by_cuts_and_moves_on_a_bad_network() {
    let (mut moves, mut renewals) = (0, 0);
    for seed in seeds(1000..1020) {
        let run = run(seed, Conditions::bad());
        moves += run.moves;
        renewals += run.renewals;
    }
    assert!(moves > 60, "{moves} moves");
    assert!(renewals > 20, "{renewals} renewals");
}

#[test]
fn a_channel_outlives_many_renewals_on_a_bad_network() {
    for seed in seeds(2000..2010) {
        println!("seed {seed}");
        let mut pair = Pair::new(seed, Conditions::perfect());
        pair.connect().expect("a handshake");
        pair.net.conditions = Conditions::bad();
        for _ in 0..20 {
            let now = pair.now;
            match pair.random.random_range(0..3) {
                0 => pair.responder.channel.request_renewal(now),
                _ => {
                    let secret = pair.initiator.secret.clone();
                    let renewed = pair.initiator.channel.renew(now, &secret);
                    renewed.expect("ready");
                }
            }
            let pause = pair.random.random_range(1..8_000);
            pair.run_for(Time::from_millis(pause));
        }
        pair.run_for(Time::from_secs(60));
        let epochs = [&pair.initiator, &pair.responder].map(|end| end.channel.epoch());
        assert_eq!(epochs[0], epochs[1]);
        assert!(epochs[0] > Some(3), "{epochs:?}");
        pair.responder.channel.ping(pair.now);
        pair.run_for(Time::from_secs(30));
        assert!(pair.responder.events.contains(&Event::Alive));
    }
}

#[test]
fn a_channel_that_nobody_fetches_ends_after_its_time() {
    let mut pair = Pair::new(7, Conditions::perfect());
    pair.connect().expect("a handshake");
    pair.kill(PathId::FIRST);
    let now = pair.now;
    pair.initiator.channel.path_lost(now, PathId::FIRST);
    pair.responder.channel.path_lost(now, PathId::FIRST);
    pair.run_for(Time::from_secs(119));
    assert!(!pair.initiator.channel.is_closed() && !pair.responder.channel.is_closed());
    pair.run_for(Time::from_secs(2));
    for end in [&pair.initiator, &pair.responder] {
        let lost = |event: &Event| matches!(event, Event::Closed { reason, .. } if reason.code == Code::PATH_LOST);
        assert!(end.events.iter().any(lost), "{:?}", end.events);
    }
}

/// A round trip of 200 ms of which every third comes to nothing, by the channel's
/// own means: a bad radio, and not a dead one.
#[test]
fn a_bad_radio_is_not_called_silent() {
    let radio = Conditions {
        delay: Time::from_millis(100),
        jitter: Time::from_millis(20),
        loss: 0.2,
        ..Conditions::perfect()
    };
    let (mut silences, mut exchanges) = (0, 0);
    for seed in seeds(3000..3020) {
        println!("seed {seed}");
        let mut pair = Pair::new(seed, Conditions { loss: 0.0, ..radio });
        pair.connect().expect("a handshake");
        pair.net.conditions = radio;
        for _ in 0..60 {
            let now = pair.now;
            pair.initiator.channel.ping(now);
            exchanges += 1;
            let pause = pair.random.random_range(200..3_000);
            pair.run_for(Time::from_millis(pause));
            let silent = |event: &Event| matches!(event, Event::PathSilent { .. });
            let events = pair.initiator.events.drain(..);
            silences += events.filter(silent).count();
        }
    }
    println!("{silences} of {exchanges}");
    assert!(silences * 300 < exchanges, "{silences} of {exchanges}");
}
