//! Entries for fuzzing, gated by the feature `testing`.
//!
//! Each takes any bytes and must neither panic nor grow without bound; what it
//! asserts beyond that is in its own docs. `testdata/fuzz/ENTRY/` holds a small
//! corpus for each, which a test replays; a fuzzer
//! (`fuzz_target!(|data: &[u8]| fairway_channel::testing::frames(data))`)
//! starts from it.

use bytes::{Bytes, BytesMut};

use crate::{
    Batch, Channel, Config, Event, Output, PathId, ReadOutcome, StaticSecret, StreamId, Time,
    frame, frame::Frame, packet,
};

/// A fuzz entry: survives any bytes.
pub type Entry = fn(&[u8]);

/// All entries, by name.
pub const ENTRIES: [(&str, Entry); 4] = [
    ("first_packet", first_packet),
    ("frames", frames),
    ("packets", packets),
    ("records", records),
];

const NOW: Time = Time::from_secs(1);

/// A first packet from anybody: its name is peeked at, and it is answered.
pub fn first_packet(data: &[u8]) {
    if let Ok(name) = packet::peek_dialled(data) {
        assert!(!name.is_empty());
    }
    let secret = StaticSecret::from_bytes([2; 32]);
    let mut channel = Channel::responder(Config::new(), &secret, [4; 32], Vec::new(), NOW);
    channel.handle_input(NOW, PathId::FIRST, BytesMut::from(data));
    drain(&mut channel);
    assert!(!channel.is_ready());
}

/// The plaintext of a record: whatever can be read has one encoding only.
pub fn frames(data: &[u8]) {
    let mut rest = data;
    while !rest.is_empty() {
        let before = rest;
        let Ok(frame) = frame::take(&mut rest) else {
            return;
        };
        // SETTINGS may hold unknown settings, which are not kept.
        if !matches!(frame, Frame::Settings(_)) {
            let mut out = Vec::new();
            frame.put(&mut out);
            assert_eq!(out, &before[..before.len() - rest.len()]);
        }
    }
}

/// Packets from anybody to an established channel, each after one byte that
/// says how long it is (in eights): none of them changes anything.
pub fn packets(data: &[u8]) {
    let (_, mut channel) = established();
    for packet in pieces(data, 8) {
        channel.handle_input(NOW, PathId::FIRST, BytesMut::from(packet));
    }
    drain(&mut channel);
    assert!(channel.is_ready() && channel.stats().packets_in <= 2);
}

/// Authentic records of a peer that cheats, each after one byte that says how
/// long it is. The owner accepts and reads what it is offered.
pub fn records(data: &[u8]) {
    let (mut peer, mut channel) = established();
    for text in pieces(data, 1) {
        let Some(record) = peer.seal_raw(text) else {
            return;
        };
        channel.handle_input(NOW, PathId::FIRST, record);
        for event in drain(&mut channel) {
            let Event::Opened { stream, .. } = event else {
                continue;
            };
            if channel.accept(NOW, stream).is_ok() {
                read_all(&mut channel, stream);
                let _ = channel.write(NOW, stream, &mut Bytes::from_static(b"an answer"));
                let _ = channel.finish(NOW, stream);
            }
        }
        assert!(channel.streams() <= 16);
    }
}

fn read_all(channel: &mut Channel, stream: StreamId) {
    while let Ok(ReadOutcome::Chunk(chunk)) = channel.read(NOW, stream) {
        assert!(!chunk.is_empty());
    }
}

fn pieces(mut data: &[u8], unit: usize) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (&length, rest) = data.split_first()?;
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(length) * unit));
        data = rest;
        Some(piece)
    })
}

/// Everything the channel has to say; its packets go nowhere.
fn drain(channel: &mut Channel) -> Vec<Event> {
    let mut events = Vec::new();
    let mut batch = Batch::new(0);
    loop {
        batch.clear();
        match channel.poll_output(NOW, &mut batch) {
            Output::Transmit { .. } => {}
            Output::Event(event) => events.push(event),
            Output::Timeout(_) => return events,
        }
    }
}

/// Two ends that are ready, with small windows.
fn established() -> (Channel, Channel) {
    let config = Config::new()
        .max_streams(16)
        .and_then(|config| config.session_window(100_000))
        .expect("in range");
    let secret = |byte| StaticSecret::from_bytes([byte; 32]);
    let mut a = Channel::initiator(config.clone(), &secret(1), [3; 32], 0, "b", NOW)
        .expect("the name is short");
    let mut b = Channel::responder(config, &secret(2), [4; 32], Vec::new(), NOW);
    while !(a.is_ready() && b.is_ready()) {
        carry(&mut a, &mut b);
        carry(&mut b, &mut a);
    }
    drain(&mut a);
    drain(&mut b);
    (a, b)
}

fn carry(from: &mut Channel, to: &mut Channel) {
    let mut batch = Batch::new(0);
    loop {
        match from.poll_output(NOW, &mut batch) {
            Output::Timeout(_) => return,
            Output::Event(Event::PeerHello { .. }) => from.proceed(NOW, Vec::new()),
            Output::Event(_) => {}
            Output::Transmit { .. } => {
                for packet in batch.packets_mut() {
                    to.handle_input(NOW, PathId::FIRST, BytesMut::from(&*packet));
                }
                batch.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_corpus_is_survived() {
        for (name, entry) in ENTRIES {
            let folder = format!("{}/testdata/fuzz/{name}", env!("CARGO_MANIFEST_DIR"));
            let files: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
            assert!(!files.is_empty(), "{folder} is empty");
            for file in files {
                let path = file.unwrap().path();
                let data = std::fs::read(&path).unwrap();
                entry(&data);
                // Its neighbourhood too.
                for at in 0..data.len().min(40) {
                    let mut near = data.clone();
                    near[at] = near[at].wrapping_add(1);
                    entry(&near);
                    entry(&data[..at]);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_bytes_are_survived(data in prop::collection::vec(any::<u8>(), 0..600)) {
            for (_, entry) in ENTRIES {
                entry(&data);
            }
        }
    }
}
