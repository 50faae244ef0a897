//! A peer that passed the handshake and then cheats: `a` is the cheat, `b` the
//! one that must notice, close, and say why.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::Duo;
use crate::{
    ClosedBy, Code, Config, Event, PathId, ReadOutcome, StreamId,
    frame::{Frame, Settings},
    limits, packet,
};

fn config() -> Config {
    Config::new()
        .stream_window(2000)
        .and_then(|config| config.session_window(3000))
        .and_then(|config| config.max_streams(4))
        .unwrap()
}

/// The `index`th stream that the cheat opened.
fn theirs(index: u64) -> StreamId {
    StreamId::new(true, index)
}

fn open(index: u64) -> Frame<'static> {
    Frame::Open {
        stream: theirs(index),
        header: b"header",
    }
}

fn data(index: u64, offset: u64, data: &[u8]) -> Frame<'_> {
    Frame::Stream {
        stream: theirs(index),
        offset,
        fin: false,
        data,
    }
}

/// What `b` closes with after these records.
fn caught(records: &[&[Frame<'_>]]) -> Option<Code> {
    let mut duo = Duo::ready(config(), config());
    for frames in records {
        duo.cheat(frames);
    }
    let (by, reason) = duo.b.closed()?;
    let (code, text) = (reason.code, reason.text.clone());
    assert_eq!(by, ClosedBy::Protocol);
    // The cheat is told.
    duo.run();
    assert_eq!(duo.a.closed().unwrap().1.text, text);
    Some(code)
}

const VIOLATION: Option<Code> = Some(Code::PROTOCOL_VIOLATION);
const OVERRUN: Option<Code> = Some(Code::FLOW_CONTROL);

#[test]
fn credit_is_policed_at_both_levels() {
    assert_eq!(caught(&[&[open(0), data(0, 0, &[0; 2000])]]), None);
    assert_eq!(caught(&[&[open(0), data(0, 0, &[0; 2001])]]), OVERRUN);
    assert_eq!(caught(&[&[open(0), data(0, 2000, &[0; 1])]]), OVERRUN);
    let both = |second: &[u8]| caught(&[&[data(0, 0, &[0; 2000])], &[data(1, 0, second)]]);
    assert_eq!(both(&[0; 1000]), None);
    assert_eq!(both(&[0; 1001]), OVERRUN);
}

#[test]
fn a_reset_cannot_claim_more_than_the_credit_either() {
    let reset = |final_size| Frame::Reset {
        stream: theirs(0),
        final_size,
        code: 0,
        reason: "",
    };
    assert_eq!(caught(&[&[open(0), reset(2000)]]), None);
    assert_eq!(caught(&[&[open(0), reset(2001)]]), OVERRUN);
    assert_eq!(caught(&[&[data(0, 0, b"abc"), reset(2)]]), VIOLATION);
}

#[test]
fn streams_are_counted() {
    assert_eq!(caught(&[&[open(3)]]), None);
    assert_eq!(caught(&[&[open(4)]]), OVERRUN);
    assert_eq!(caught(&[&[data(1 << 40, 0, b"x")]]), OVERRUN);
}

#[test]
fn stream_ids_are_not_misused() {
    let ours = StreamId::new(false, 0);
    let mine = |frame| caught(&[&[frame]]);
    assert_eq!(
        mine(Frame::Open {
            stream: ours,
            header: b""
        }),
        VIOLATION
    );
    assert_eq!(mine(Frame::Accept { stream: ours }), VIOLATION);
    assert_eq!(mine(Frame::Accept { stream: theirs(0) }), VIOLATION);
    let stream = Frame::Stream {
        stream: ours,
        offset: 0,
        fin: false,
        data: b"x",
    };
    assert_eq!(mine(stream), VIOLATION);
    let max = 5;
    assert_eq!(mine(Frame::MaxStreamData { stream: ours, max }), VIOLATION);
}

#[test]
fn the_same_offset_with_other_bytes_is_noticed() {
    let first: &[_] = &[data(0, 0, b"abcdef")];
    assert_eq!(caught(&[first, &[data(0, 2, b"cdefg")]]), None);
    assert_eq!(caught(&[first, &[data(0, 2, b"cdeXg")]]), VIOLATION);
    let ahead: &[_] = &[data(0, 10, b"abcdef")];
    assert_eq!(caught(&[ahead, &[data(0, 8, b"__aX")]]), VIOLATION);
}

#[test]
fn the_end_of_a_stream_does_not_move() {
    let fin = |offset, data| Frame::Stream {
        stream: theirs(0),
        offset,
        fin: true,
        data,
    };
    assert_eq!(caught(&[&[fin(0, b"abc")], &[fin(0, b"abc")]]), None);
    assert_eq!(caught(&[&[fin(0, b"abc")], &[fin(0, b"ab")]]), VIOLATION);
    assert_eq!(caught(&[&[fin(0, b"abc")], &[data(0, 3, b"d")]]), VIOLATION);
}

#[test]
fn records_that_mean_nothing_are_violations() {
    let bytes = |text: &[u8]| {
        let mut duo = Duo::ready(config(), config());
        duo.cheat_bytes(text);
        duo.b.closed().map(|(_, reason)| reason.code)
    };
    assert_eq!(bytes(b""), VIOLATION, "no frame at all");
    assert_eq!(bytes(&[0x3f]), VIOLATION, "an unknown frame");
    assert_eq!(bytes(&[0x08, 0]), VIOLATION, "a frame cut short");
    assert_eq!(bytes(&[0x00; 50]), None, "padding");
    assert_eq!(
        caught(&[&[Frame::Hello(b"again")]]),
        VIOLATION,
        "HELLO is the responder's"
    );
}

#[test]
fn an_ack_for_what_was_never_sent_is_a_lie() {
    let mut text = Vec::new();
    crate::frame::put_ack(&mut text, core::iter::once(&(0..1_000_000)), 1, 0);
    let mut duo = Duo::ready(config(), config());
    duo.cheat_bytes(&text);
    assert_eq!(duo.b.closed().unwrap().1.code, Code::PROTOCOL_VIOLATION);
}

#[test]
fn settings_that_come_again_take_nothing_away() {
    let mut duo = Duo::ready(config(), config());
    duo.cheat(&[Frame::Settings(Settings::default())]);
    assert!(duo.b.channel.open(duo.now, Vec::new()).is_ok());
    assert!(duo.b.closed().is_none());
}

#[test]
fn short_and_long_records_are_counted_and_dropped() {
    let mut duo = Duo::ready(config(), config());
    for length in (1..64).chain([limits::MAX_PACKET, limits::MAX_PACKET + 1, 70_000]) {
        let packet = vec![packet::RECORD; length];
        duo.b
            .channel
            .handle_input(duo.now, PathId::FIRST, BytesMut::from(&packet[..]));
    }
    duo.b
        .channel
        .handle_input(duo.now, PathId::FIRST, BytesMut::new());
    assert_eq!(duo.b.channel.stats().dropped_forged, 63 + 3 + 1);
    duo.run();
    assert!(duo.b.closed().is_none());
}

#[test]
fn a_repeated_record_is_dropped_and_counted() {
    let mut duo = Duo::ready(config(), config());
    let mut text = Vec::new();
    Frame::Datagram(b"once").put(&mut text);
    let record = duo.a.channel.seal_raw(&text).unwrap();
    for _ in 0..3 {
        duo.b
            .channel
            .handle_input(duo.now, PathId::FIRST, record.clone());
    }
    duo.b.drain(duo.now);
    assert_eq!(duo.b.events, [Event::Datagram(Bytes::from_static(b"once"))]);
    assert_eq!(duo.b.channel.stats().dropped_replayed, 2);
}

#[test]
fn datagrams_that_nobody_fetches_are_bounded() {
    let mut duo = Duo::ready(config(), config());
    let mut text = Vec::new();
    Frame::Datagram(&[1; 1000]).put(&mut text);
    for _ in 0..limits::MAX_DATAGRAMS + 10 {
        let record = duo.a.channel.seal_raw(&text).unwrap();
        duo.b.channel.handle_input(duo.now, PathId::FIRST, record);
    }
    assert_eq!(duo.b.channel.stats().dropped_datagrams, 10);
    duo.b.drain(duo.now);
    assert_eq!(duo.b.events.len(), limits::MAX_DATAGRAMS);
}

#[test]
fn streams_that_are_never_opened_stay_unseen_and_bounded() {
    let mut duo = Duo::ready(config(), config());
    for _ in 0..50 {
        duo.cheat(&[data(3, 0, b"hello?"), data(2, 0, b"hello?")]);
    }
    assert!(duo.b.events.is_empty());
    assert_eq!(duo.b.channel.streams(), 2);
    // The OPEN may still come: then all is there.
    duo.cheat(&[open(3)]);
    duo.b.channel.accept(duo.now, theirs(3)).unwrap();
    let chunk = ReadOutcome::Chunk(Bytes::from_static(b"hello?"));
    assert_eq!(duo.b.channel.read(duo.now, theirs(3)), Ok(chunk));
}

#[test]
fn frames_for_streams_that_are_over_are_ignored() {
    let mut duo = Duo::ready(config(), config());
    let fin = Frame::Stream {
        stream: theirs(0),
        offset: 0,
        fin: true,
        data: b"",
    };
    duo.cheat(&[open(0), fin]);
    duo.b.channel.accept(duo.now, theirs(0)).unwrap();
    duo.b.channel.finish(duo.now, theirs(0)).unwrap();
    assert_eq!(
        duo.b.channel.read(duo.now, theirs(0)),
        Ok(ReadOutcome::Finished)
    );
    duo.b.drain(duo.now);
    // `a` never opened it, so its acknowledgement has to be made up too.
    let mut text = Vec::new();
    crate::frame::put_ack(
        &mut text,
        core::iter::once(&(0..duo.b.channel.stats().packets_out - 1)),
        1,
        0,
    );
    duo.cheat_bytes(&text);
    assert_eq!(duo.b.channel.streams(), 0);
    duo.cheat(&[open(0), data(0, 0, b"again")]);
    assert!(duo.b.closed().is_none());
    assert_eq!(duo.b.channel.streams(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Authentic nonsense: never a panic, and memory stays within the windows.
    #[test]
    fn authentic_garbage_never_panics(
        texts in prop::collection::vec(prop::collection::vec(prop_oneof![0u8..0x14, any::<u8>()], 1..120), 1..20)
    ) {
        let mut duo = Duo::ready(config(), config());
        for text in texts {
            if duo.b.channel.is_closed() {
                break;
            }
            duo.cheat_bytes(&text);
            let opened: Vec<_> = duo.b.events.drain(..).collect();
            for event in opened {
                if let Event::Opened { stream, .. } = event {
                    let _ = duo.b.channel.accept(duo.now, stream);
                    while let Ok(ReadOutcome::Chunk(_)) = duo.b.channel.read(duo.now, stream) {}
                }
            }
            prop_assert!(duo.b.channel.streams() <= 4);
        }
    }
}
