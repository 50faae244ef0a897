//! Speed of the channel alone: no sockets, both ends on one core, in memory.
//!
//! `cargo run --release -p fairway-channel --example throughput`
//!
//! One line a figure: `bench NAME VALUE UNIT`. The GB/s are of stream data
//! that was written at one end and read at the other: both ends' work is in it.
//! All figures are per second of processor time, so that a busy machine counts
//! little.

use bytes::{Bytes, BytesMut};
use fairway_channel::{
    Batch, Channel, Config, Event, Output, PathId, ReadOutcome, StaticSecret, StreamId, Time,
    limits,
};

/// Full packets in one read buffer, and how many of those are used in turn. A
/// buffer whose slices have all been dropped is used again as it is: fresh
/// memory from the kernel for each would cost more than the sealing.
const READ_PACKETS: usize = 4;
const READ_BUFFERS: usize = 40;

/// Room for a link's frame header before each packet.
const HEADROOM: usize = 8;

fn main() {
    for (name, chunk) in [("16k", 16 * 1024), ("64k", 64 * 1024), ("1k", 1024)] {
        let (mut a, mut b) = connected();
        let id = a.channel.open(NOW, Vec::new()).expect("a stream");
        pump(&mut a, &mut b);
        pump(&mut b, &mut a);
        let start = Cpu::now();
        let (total, packets) = stream(&mut a, &mut b, &[id], chunk, 1 << 30);
        let seconds = start.seconds();
        let rate = total as f64 / seconds / 1e9;
        println!("bench channel_stream_writes_of_{name} {rate:.2} GB/s");
        println!(
            "bench channel_bytes_per_packet_{name} {:.0} B",
            total as f64 / packets as f64
        );
    }

    let (mut a, mut b) = connected();
    let ids: Vec<StreamId> = (0..8)
        .map(|_| a.channel.open(NOW, Vec::new()).expect("a stream"))
        .collect();
    pump(&mut a, &mut b);
    pump(&mut b, &mut a);
    let start = Cpu::now();
    let (total, _) = stream(&mut a, &mut b, &ids, 16 * 1024, 1 << 30);
    let rate = total as f64 / start.seconds() / 1e9;
    println!("bench channel_eight_streams {rate:.2} GB/s");

    let rounds = 200_000;
    let (mut a, mut b) = connected();
    let id = a.channel.open(NOW, Vec::new()).expect("a stream");
    pump(&mut a, &mut b);
    pump(&mut b, &mut a);
    let start = Cpu::now();
    for _ in 0..rounds {
        say(&mut a, id);
        pump(&mut a, &mut b);
        hear(&mut b, id);
        say(&mut b, id);
        pump(&mut b, &mut a);
        hear(&mut a, id);
    }
    let micros = start.seconds() * 1e6 / f64::from(rounds);
    println!("bench channel_ping_pong_64 {micros:.2} us");

    let rounds = 100_000;
    let (mut a, mut b) = connected();
    let start = Cpu::now();
    for _ in 0..rounds {
        let id = a.channel.open(NOW, vec![0; 40]).expect("a stream");
        say(&mut a, id);
        a.channel.finish(NOW, id).expect("open");
        pump(&mut a, &mut b);
        pump(&mut b, &mut a);
        hear(&mut b, id);
        say(&mut b, id);
        b.channel.finish(NOW, id).expect("open");
        pump(&mut b, &mut a);
        hear(&mut a, id);
        hear_end(&mut b, id);
        hear_end(&mut a, id);
        pump(&mut a, &mut b);
        pump(&mut b, &mut a);
    }
    let rate = f64::from(rounds) / start.seconds();
    println!("bench channel_streams {rate:.0} 1/s");

    let rounds = 2_000_u64;
    let start = Cpu::now();
    for _ in 0..rounds {
        connected();
    }
    let rate = rounds as f64 / start.seconds();
    println!("bench channel_handshakes_both_ends {rate:.0} 1/s");

    let (mut a, mut b) = connected();
    let (mut now, start) = (NOW, Cpu::now());
    for _ in 0..rounds {
        // Renewals have a least distance, which is not what is measured.
        now += Time::from_secs(2);
        a.channel.renew(now, &secret(1)).expect("ready");
        pump_at(now, &mut a, &mut b);
        pump_at(now, &mut b, &mut a);
        pump_at(now, &mut a, &mut b);
        pump_at(now, &mut b, &mut a);
    }
    assert_eq!(a.channel.epoch(), Some(rounds));
    let rate = rounds as f64 / start.seconds();
    println!("bench channel_renewals_both_ends {rate:.0} 1/s");

    let rounds = 4_000;
    let before = resident();
    let mut pairs: Vec<(End, End)> = (0..rounds).map(|_| connected()).collect();
    for (a, b) in &mut pairs {
        a.channel.release_memory();
        b.channel.release_memory();
        (a.reads, b.reads) = (Vec::new(), Vec::new());
        (a.batch, b.batch) = (Batch::new(HEADROOM), Batch::new(HEADROOM));
    }
    let idle = (resident() - before) / (2 * rounds);
    println!("bench channel_idle_memory {idle} B");
    for (a, b) in &mut pairs {
        for _ in 0..4 {
            let id = a.channel.open(NOW, vec![0; 40]).expect("a stream");
            say(a, id);
            pump(a, b);
            pump(b, a);
            hear(b, id);
        }
    }
    let streams = (resident() - before) / (2 * rounds) - idle;
    println!("bench channel_idle_stream_memory {} B", streams / 4);
}

/// Processor time of this process (Linux: /proc/self/schedstat, in nanoseconds).
struct Cpu(u64);

impl Cpu {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Self(nanos.expect("a number"))
    }

    fn seconds(&self) -> f64 {
        (Self::now().0 - self.0) as f64 / 1e9
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4096 * pages.unwrap_or(0_usize)
}

/// Nothing here waits, so the clock may stand still.
const NOW: Time = Time::ZERO;

struct End {
    channel: Channel,
    batch: Batch,
    reads: Vec<BytesMut>,
    next_read: usize,
    packets: u64,
}

fn secret(byte: u8) -> StaticSecret {
    StaticSecret::from_bytes([byte; 32])
}

fn connected() -> (End, End) {
    let config = Config::new();
    let a = Channel::initiator(config.clone(), &secret(1), [3; 32], 0, "b", NOW).expect("valid");
    let b = Channel::responder(config, &secret(2), [4; 32], vec![0; 400], NOW);
    let (mut a, mut b) = (End::new(a), End::new(b));
    while !(a.channel.is_ready() && b.channel.is_ready()) {
        pump(&mut a, &mut b);
        pump(&mut b, &mut a);
    }
    (a, b)
}

impl End {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            batch: Batch::new(HEADROOM),
            reads: Vec::new(),
            next_read: 0,
            packets: 0,
        }
    }

    fn read_buffer(&mut self) -> &mut BytesMut {
        if self.reads.len() < READ_BUFFERS {
            self.reads.push(BytesMut::new());
        }
        self.next_read = (self.next_read + 1) % self.reads.len();
        let buffer = &mut self.reads[self.next_read];
        buffer.reserve(READ_PACKETS * (limits::MAX_PACKET + HEADROOM));
        buffer
    }
}

/// Drains `from` into `to`, as a link would: whole batches, received into read
/// buffers and cut into packets.
fn pump(from: &mut End, to: &mut End) {
    pump_at(NOW, from, to);
}

fn pump_at(now: Time, from: &mut End, to: &mut End) {
    loop {
        match from.channel.poll_output(now, &mut from.batch) {
            Output::Timeout(_) => return,
            Output::Event(Event::PeerHello { .. } | Event::RenewalHello { .. }) => {
                from.channel.proceed(now, vec![0; 900]);
            }
            Output::Event(Event::RenewalAsked) => from
                .channel
                .answer_renewal(now, &secret(2), &[0; 900])
                .expect("asked"),
            Output::Event(Event::Opened { stream, .. }) => {
                from.channel.accept(NOW, stream).expect("just opened");
            }
            Output::Event(Event::Closed { reason, .. }) => panic!("{reason}"),
            Output::Event(_) => {}
            Output::Transmit { .. } => {
                let mut lengths = from
                    .batch
                    .packets_mut()
                    .map(|packet| packet.len())
                    .collect::<Vec<_>>()
                    .into_iter()
                    .peekable();
                let mut rest = from.batch.as_slice();
                while lengths.peek().is_some() {
                    let some: Vec<usize> = lengths.by_ref().take(READ_PACKETS).collect();
                    let (read, tail) = rest.split_at(some.iter().sum());
                    rest = tail;
                    let received = to.read_buffer();
                    received.extend_from_slice(read);
                    let packets: Vec<BytesMut> = some
                        .into_iter()
                        .map(|length| received.split_to(length).split_off(HEADROOM))
                        .collect();
                    for packet in packets {
                        to.channel.handle_input(now, PathId::FIRST, packet);
                        from.packets += 1;
                    }
                }
                from.batch.clear();
            }
        }
    }
}

/// Sends `total` bytes over the streams; gives how many arrived, and packets.
fn stream(a: &mut End, b: &mut End, ids: &[StreamId], chunk: usize, total: usize) -> (usize, u64) {
    let text = Bytes::from(vec![0x5a; chunk]);
    let packets = a.packets + b.packets;
    let mut arrived = 0;
    while arrived < total {
        for &id in ids {
            while {
                let mut data = text.clone();
                a.channel.write(NOW, id, &mut data).expect("open");
                data.is_empty()
            } {}
        }
        pump(a, b);
        pump(b, a);
        for &id in ids {
            while let Ok(ReadOutcome::Chunk(chunk)) = b.channel.read(NOW, id) {
                arrived += chunk.len();
            }
        }
        pump(b, a);
    }
    (arrived, a.packets + b.packets - packets)
}

fn say(end: &mut End, id: StreamId) {
    let mut data = Bytes::from_static(&[0x5a; 64]);
    end.channel.write(NOW, id, &mut data).expect("open");
}

fn hear(end: &mut End, id: StreamId) {
    let Ok(ReadOutcome::Chunk(chunk)) = end.channel.read(NOW, id) else {
        panic!("nothing to read")
    };
    assert_eq!(chunk.len(), 64);
}

fn hear_end(end: &mut End, id: StreamId) {
    assert_eq!(end.channel.read(NOW, id), Ok(ReadOutcome::Finished));
}
