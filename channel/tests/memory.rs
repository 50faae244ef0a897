//! What an idle channel costs. A test of its own, so that nothing else runs in
//! the process; `FAIRWAY_IDLE=100000` measures as many (it takes a minute).

use bytes::BytesMut;
use fairway_channel::{Batch, Channel, Config, Event, Output, PathId, StaticSecret, Time};

/// Bytes of one idle end, allocations and all.
const MOST: usize = 1024;

#[test]
fn an_idle_channel_takes_at_most_a_kibibyte() {
    let ends: usize = match std::env::var("FAIRWAY_IDLE") {
        Ok(count) => count.parse().expect("a number"),
        Err(_) => 6_000,
    };
    let config = Config::new();
    let mut channels = Vec::with_capacity(ends);
    // The first ones warm up the allocator.
    for _ in 0..200 {
        connected(&config);
    }
    let before = resident();
    while channels.len() < ends {
        channels.extend(connected(&config));
    }
    let each = (resident() - before) / ends;
    println!("{each} bytes an idle channel, {ends} of them");
    assert!(channels.iter().all(Channel::is_ready));
    assert!(each <= MOST, "{each} bytes");
    assert!(each > MOST / 2, "{each} bytes: what is measured here?");
}

/// Two ends that are ready, quiet, and have given back what they do not need.
fn connected(config: &Config) -> [Channel; 2] {
    let mut now = Time::from_secs(1);
    let secret = |byte| StaticSecret::from_bytes([byte; 32]);
    let name = "pump-7.factory.device.fairway.internal";
    let a = Channel::initiator(config.clone(), &secret(1), [3; 32], 0, name, now).expect("valid");
    let b = Channel::responder(config.clone(), &secret(2), [4; 32], vec![0; 400], now);
    let mut ends = [a, b];
    loop {
        let mut any = false;
        for from in 0..2 {
            for packet in drain(&mut ends[from], now) {
                ends[1 - from].handle_input(now, PathId::FIRST, packet);
                any = true;
            }
        }
        if !any {
            // Acknowledgements that are owed.
            now += Time::from_millis(30);
            ends.iter_mut().for_each(|end| end.handle_timeout(now));
            if now > Time::from_secs(2) {
                break;
            }
        }
    }
    ends.iter_mut().for_each(Channel::release_memory);
    ends
}

fn drain(end: &mut Channel, now: Time) -> Vec<BytesMut> {
    let (mut batch, mut packets) = (Batch::new(0), Vec::new());
    loop {
        match end.poll_output(now, &mut batch) {
            Output::Transmit { .. } => {}
            Output::Event(Event::PeerHello { .. }) => end.proceed(now, vec![0; 400]),
            Output::Event(_) => {}
            Output::Timeout(_) => break,
        }
    }
    packets.extend(batch.packets_mut().map(|packet| BytesMut::from(&*packet)));
    packets
}

/// Resident memory of this process, in bytes (Linux).
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4096 * pages.unwrap_or(0_usize)
}
