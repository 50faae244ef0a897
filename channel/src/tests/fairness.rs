//! Many streams on one channel: who gets how much, and who waits for whom.

use bytes::Bytes;

use super::Duo;
use crate::{Config, Event, OpenError, Priority, ReadOutcome, StreamId, Time, limits};

const MIB: usize = 1 << 20;

/// `a` has opened so many streams, and `b` accepted them.
fn with_streams(config: Config, count: usize) -> (Duo, Vec<StreamId>) {
    let mut duo = Duo::ready(config.clone(), config);
    let mut ids = Vec::new();
    while ids.len() < count {
        match duo.a.channel.open(duo.now, b"x".to_vec()) {
            Ok(id) => ids.push(id),
            Err(OpenError::TooMany) => duo.rest(),
            Err(error) => panic!("{error}"),
        }
    }
    duo.run();
    for id in &ids {
        duo.b.channel.accept(duo.now, *id).unwrap();
    }
    duo.rest();
    (duo, ids)
}

fn write(duo: &mut Duo, id: StreamId, size: usize) -> usize {
    let mut data = Bytes::from(vec![id.get() as u8; size]);
    duo.a.channel.write(duo.now, id, &mut data).unwrap()
}

/// What `b` can read of a stream now.
fn read(duo: &mut Duo, id: StreamId) -> usize {
    let mut size = 0;
    while let Ok(ReadOutcome::Chunk(chunk)) = duo.b.channel.read(duo.now, id) {
        assert_eq!(chunk.last(), Some(&(id.get() as u8)));
        size += chunk.len();
    }
    size
}

/// Carries so many packets from `a` to `b`, and nothing back.
fn carry(duo: &mut Duo, packets: usize) {
    duo.a.drain(duo.now);
    for _ in 0..packets {
        let packet = duo.a.out.pop_front().expect("a packet");
        let path = crate::PathId::FIRST;
        duo.b.channel.handle_input(duo.now, path, packet);
    }
}

#[test]
fn a_small_message_passes_bulk_that_waits_to_be_sent() {
    let (mut duo, ids) = with_streams(Config::new(), 9);
    let (small, bulk) = ids.split_last().unwrap();
    for &id in bulk {
        assert_eq!(write(&mut duo, id, MIB), MIB);
    }
    // They have had their first turn, and credit is left.
    let mut batch = crate::Batch::new(0);
    duo.a.channel.poll_output(duo.now, &mut batch);
    assert_eq!(batch.len(), limits::MAX_BATCH);
    for packet in batch.packets_mut() {
        let packet = bytes::BytesMut::from(&*packet);
        duo.b
            .channel
            .handle_input(duo.now, crate::PathId::FIRST, packet);
    }
    write(&mut duo, *small, 64);
    carry(&mut duo, 1);
    assert_eq!(read(&mut duo, *small), 64, "in the very next packet");
    assert!(
        bulk.iter()
            .all(|&id| read(&mut duo, id) >= limits::MAX_STREAM_DATA)
    );
}

#[test]
fn a_small_message_has_credit_when_bulk_has_used_up_its_own() {
    let config = Config::new().session_window(MIB as u64).unwrap();
    let (mut duo, ids) = with_streams(config, 5);
    let (small, bulk) = ids.split_last().unwrap();
    for &id in bulk {
        write(&mut duo, id, MIB);
    }
    duo.run();
    let sent = duo.b.channel.stats().stream_bytes_in;
    assert_eq!(sent, MIB as u64 - limits::MAX_RESERVE);
    write(&mut duo, *small, 1000);
    duo.run();
    assert_eq!(read(&mut duo, *small), 1000);
}

#[test]
fn bulk_streams_get_equal_shares() {
    let (mut duo, ids) = with_streams(Config::new(), 4);
    for &id in &ids {
        write(&mut duo, id, MIB);
    }
    carry(&mut duo, 40);
    let got: Vec<usize> = ids.iter().map(|&id| read(&mut duo, id)).collect();
    let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(most - least <= limits::MAX_STREAM_DATA, "{got:?}");
}

#[test]
fn priorities_go_first_and_none_starves() {
    let (mut duo, ids) = with_streams(Config::new(), 3);
    let priorities = [Priority::Background, Priority::Normal, Priority::Urgent];
    for (&id, priority) in ids.iter().zip(priorities) {
        duo.a.channel.set_priority(duo.now, id, priority);
        write(&mut duo, id, 500_000);
    }
    carry(&mut duo, 25);
    let got: Vec<usize> = ids.iter().map(|&id| read(&mut duo, id)).collect();
    assert!(got[2] > 20 * limits::MAX_STREAM_DATA, "{got:?}");
    assert!(got[0] + got[1] > 0, "{got:?}");
}

#[test]
fn a_hundred_slow_readers_stall_nobody() {
    let config = Config::new().stream_window(64 << 10).unwrap();
    let (mut duo, ids) = with_streams(config, 101);
    let (quick, slow) = ids.split_last().unwrap();
    for &id in slow {
        assert_eq!(write(&mut duo, id, 128 << 10), 128 << 10);
    }
    duo.rest();
    let held = 100 * (64 << 10);
    assert_eq!(duo.b.channel.stats().stream_bytes_in, held);
    assert!(
        held > 4 * MIB as u64,
        "more than the channel's first window"
    );
    let mut total = 0;
    for _ in 0..200 {
        write(&mut duo, *quick, 64 << 10);
        duo.run();
        total += read(&mut duo, *quick);
        duo.rest();
    }
    assert_eq!(total, 200 * (64 << 10));
}

#[test]
fn what_waits_to_be_read_stays_within_its_memory() {
    let config = Config::new()
        .session_windows(64 << 10, 64 << 10, 256 << 10)
        .and_then(|config| config.stream_window(64 << 10))
        .unwrap();
    let (mut duo, ids) = with_streams(config, 10);
    for &id in &ids {
        write(&mut duo, id, MIB);
    }
    duo.rest();
    let held = duo.b.channel.stats().stream_bytes_in;
    assert!((240 << 10..=256 << 10).contains(&held), "{held}");
}

#[test]
fn what_waits_to_be_sent_stays_within_its_memory_and_nobody_starves() {
    let config = Config::new().send_memory(MIB).unwrap();
    let (mut duo, ids) = with_streams(config, 20);
    let taken: usize = ids.iter().map(|&id| write(&mut duo, id, MIB)).sum();
    assert!(taken <= MIB + 20 * limits::MIN_SEND_BUFFER, "{taken}");
    // Everybody gets through.
    let mut got = vec![0; 20];
    for _ in 0..400 {
        duo.rest();
        for (index, &id) in ids.iter().enumerate() {
            got[index] += read(&mut duo, id);
            write(&mut duo, id, 50_000);
        }
    }
    assert!(got.iter().all(|&got| got > 200_000), "{got:?}");
}

#[test]
fn thousands_of_streams_come_and_go() {
    let config = Config::new().max_streams(4096).unwrap();
    let (mut duo, ids) = with_streams(config, 4000);
    assert_eq!(duo.b.channel.streams(), 4000);
    for &id in &ids {
        assert_eq!(write(&mut duo, id, 300), 300);
        duo.a.channel.finish(duo.now, id).unwrap();
    }
    duo.rest();
    for &id in &ids {
        assert_eq!(read(&mut duo, id), 300);
        duo.b.channel.finish(duo.now, id).unwrap();
    }
    duo.rest();
    for &id in &ids {
        let end = duo.a.channel.read(duo.now, id);
        assert_eq!(end, Ok(ReadOutcome::Finished));
    }
    duo.pass(Time::from_secs(1));
    assert_eq!((duo.a.channel.streams(), duo.b.channel.streams()), (0, 0));
    let finished = |event: &&Event| matches!(event, Event::Finished(_));
    assert_eq!(duo.a.events.iter().filter(finished).count(), 4000);
}
