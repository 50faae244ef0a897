//! channel/SPEC.md sections 8 and 9. The victim's windows: 3,000 bytes for the
//! channel, 2,000 for a stream, 4 streams.

use fairway_session::Time;

use crate::scene::{Case, Ends, Scene, case, run};
use crate::wire::{Text, text};

const VIOLATION: Ends = Ends::Closes("protocol-violation");
const OVERRUN: Ends = Ends::Closes("flow-control");

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // --- stream ids
    case("an OPEN for a stream of the victim", |s| s.say(text().open_port(1)), VIOLATION),
    case("an ACCEPT for a stream of the victim that is not", |s| s.say(text().accept(1)), VIOLATION),
    case("an ACCEPT for one's own stream", |s| s.say(text().open_port(0).accept(0)), VIOLATION),
    case("data on a stream that the victim never opened", |s| s.say(text().stream(1, 0, b"x")), VIOLATION),
    case("an end of a stream that the victim never opened", |s| s.say(text().end(1, 0, b"")), VIOLATION),
    case("a RESET of a stream that the victim never opened", |s| s.say(text().reset(1, 0)), VIOLATION),
    case("a STOP of a stream that the victim never opened", |s| s.say(text().stop(1)), VIOLATION),
    case("credit for a stream that the victim never opened", |s| s.say(text().max_stream_data(1, 9)), VIOLATION),
    case("the last stream id there is", |s| s.say(text().open_port((1 << 62) - 2)), OVERRUN),
    // --- MAX_STREAMS
    case("four streams", |s| (0..4).for_each(|n| s.say(text().open_port(2 * n))), Ends::Goes),
    case("five streams", |s| (0..5).for_each(|n| s.say(text().open_port(2 * n))), OVERRUN),
    case("data on a fifth stream", |s| s.say(text().stream(8, 0, b"x")), OVERRUN),
    case("a RESET of a fifth stream", |s| s.say(text().reset(8, 0)), OVERRUN),
    case("a STOP of a fifth stream", |s| s.say(text().stop(8)), OVERRUN),
    case("credit for a fifth stream", |s| s.say(text().max_stream_data(8, 1)), OVERRUN),
    case("streams opened and abandoned without end", |s| {
        // As many as there is room for, again and again.
        for n in 0..200 {
            s.say(text().open_port(2 * n).reset(2 * n, 0).stop(2 * n));
            let next = s.victims_next();
            s.say(text().ack(0, next - 1));
            s.pass(Time::from_millis(30));
        }
        assert!(s.victim.live_streams() <= 4);
    }, Ends::Goes),
    // --- credit
    case("all of a stream's credit", |s| s.say(text().open_port(0).stream(0, 0, &[1; 2000])), Ends::Goes),
    case("a byte beyond a stream's credit", |s| s.say(text().open_port(0).stream(0, 0, &[1; 2001])), OVERRUN),
    case("an offset beyond a stream's credit", |s| s.say(text().open_port(0).stream(0, 2000, b"x")), OVERRUN),
    case("an empty piece beyond a stream's credit", |s| s.say(text().open_port(0).stream(0, 2001, b"")), OVERRUN),
    case("an end beyond a stream's credit", |s| s.say(text().open_port(0).end(0, 2001, b"")), OVERRUN),
    case("a final size beyond a stream's credit", |s| s.say(text().open_port(0).reset(0, 2001)), OVERRUN),
    case("a final size of 2^62 - 1", |s| s.say(text().open_port(0).reset(0, (1 << 62) - 1)), OVERRUN),
    case("all of the channel's credit", |s| both_streams(s, 1000), Ends::Goes),
    case("a byte beyond the channel's credit", |s| both_streams(s, 1001), OVERRUN),
    case("a final size beyond the channel's credit", |s| {
        s.say(text().open_port(0).stream(0, 0, &[1; 2000]));
        s.say(text().open_port(2).reset(2, 1001));
    }, OVERRUN),
    case("credit is not given twice for a piece that comes twice", |s| {
        s.say(text().open_port(0));
        (0..10).for_each(|_| s.say(text().stream(0, 0, &[1; 2000])));
        s.say(text().open_port(2).stream(2, 0, &[1; 1000]));
        s.say(text().stream(2, 1000, &[1; 1]));
    }, OVERRUN),
    case("data before the OPEN, beyond the credit", |s| s.say(text().stream(0, 0, &[1; 2001])), OVERRUN),
    case("data without an OPEN", |s| s.say(text().stream(0, 0, b"hello?")), Ends::Goes),
    case("pieces of a byte each with gaps between", |s| {
        s.say(text().open_port(0));
        (0..1000).for_each(|n| s.say(text().stream(0, 2 * n + 1, b"x")));
        assert_eq!(s.read(0), b"");
    }, Ends::Goes),
    // --- offsets
    case("the same data again", |s| pieces(s, &[(0, b"abcdef"), (0, b"abcdef"), (2, b"cd")]), Ends::Goes),
    case("other bytes at the same offset", |s| pieces(s, &[(0, b"abcdef"), (0, b"Abcdef")]), VIOLATION),
    case("other bytes within an overlap", |s| pieces(s, &[(0, b"abcdef"), (2, b"cdeXg")]), VIOLATION),
    case("other bytes ahead of a gap", |s| pieces(s, &[(10, b"abcdef"), (8, b"__aX")]), VIOLATION),
    case("other bytes over the whole of a piece", |s| pieces(s, &[(10, b"b"), (9, b"aXc")]), VIOLATION),
    case("other bytes than were read already", |s| {
        s.say(text().open_port(0).stream(0, 0, b"abc"));
        assert_eq!(s.read(0), b"abc");
        // Nobody can tell any more, and nobody gets them.
        s.say(text().stream(0, 0, b"XYZ"));
        assert_eq!(s.read(0), b"");
    }, Ends::Goes),
    // --- the final size
    case("the end again", |s| s.say(ended().end(0, 0, b"abc")), Ends::Goes),
    case("an earlier end", |s| s.say(ended().end(0, 0, b"ab")), VIOLATION),
    case("a later end", |s| s.say(ended().end(0, 0, b"abcd")), VIOLATION),
    case("data beyond the end", |s| s.say(ended().stream(0, 3, b"d")), VIOLATION),
    case("an end before data that came", |s| s.say(text().open_port(0).stream(0, 5, b"x").end(0, 0, b"")), VIOLATION),
    case("a RESET with an earlier size", |s| s.say(ended().reset(0, 2)), VIOLATION),
    case("a RESET with a later size", |s| s.say(ended().reset(0, 4)), VIOLATION),
    case("a RESET below data that came", |s| s.say(text().open_port(0).stream(0, 0, b"abc").reset(0, 2)), VIOLATION),
    case("two RESETs with different sizes", |s| {
        s.say(text().open_port(0).reset(0, 5));
        s.say(text().reset(0, 6));
    }, VIOLATION),
    case("data behind a RESET", |s| {
        s.say(text().open_port(0).reset(0, 5));
        s.say(text().stream(0, 4, b"xy"));
    }, VIOLATION),
    case("a RESET after the end means nothing", |s| {
        s.say(ended());
        s.say(text().reset(0, 3));
        assert_eq!(s.read(0), b"abc");
    }, Ends::Goes),
    // --- streams that are over
    case("frames for a stream that is over", |s| {
        s.say(text().open_port(0).reset(0, 0).stop(0));
        s.pass(Time::from_millis(50));
        let next = s.victims_next();
        s.say(text().ack(0, next - 1));
        let all = text().open_port(0).stream(0, 0, b"again").reset(0, 9).stop(0);
        s.say(all.max_stream_data(0, 5));
    }, Ends::Goes),
    case("a STOP is answered with its own code", |s| s.say(text().open_port(0).stop(0)), Ends::Resets("cancelled")),
    // --- datagrams
    case("ten thousand datagrams that nobody fetches", |s| {
        s.say(text().open_port(0));
        let record = text().datagram(&[0; 1000]);
        let records: Vec<_> = (0..10_000).map(|_| s.evil.seal(&record.0)).collect();
        s.deliver_all(&records);
        assert!((1..=64).contains(&s.datagrams()), "{}", s.datagrams());
    }, Ends::Goes),
];

#[test]
fn streams() {
    run(CASES);
}

/// All of a stream's credit on one, and so much on another.
fn both_streams(scene: &mut Scene, second: usize) {
    scene.say(text().open_port(0).stream(0, 0, &[1; 2000]));
    scene.say(text().open_port(2).stream(2, 0, &vec![2; second]));
}

fn pieces(scene: &mut Scene, pieces: &[(u64, &[u8])]) {
    scene.say(text().open_port(0));
    for (offset, data) in pieces {
        scene.say(text().stream(0, *offset, data));
    }
}

/// A stream of three bytes with its end.
fn ended() -> Text {
    text().open_port(0).end(0, 0, b"abc")
}
