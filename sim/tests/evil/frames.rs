//! channel/SPEC.md section 6: "a record that is empty, holds an unknown frame
//! type, or breaks any bound here is a violation". And section 7.

use fairway_session::Time;

use crate::scene::{Case, Ends, case, run};
use crate::wire::{long, port, text, varint};

const VIOLATION: Ends = Ends::Closes("protocol-violation");

/// A record of these bytes is a violation.
macro_rules! bad {
    ($name:literal, $text:expr) => {
        case($name, |s| s.say($text), VIOLATION)
    };
}

/// A record of these bytes changes nothing.
macro_rules! fine {
    ($name:literal, $text:expr) => {
        case($name, |s| s.say($text), Ends::Goes)
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // --- unknown types
    bad!("frame type 0x07", text().raw(&[0x07])),
    bad!("frame type 0x0f", text().raw(&[0x0f])),
    bad!("frame type 0x16", text().raw(&[0x16])),
    bad!("frame type 0x3f", text().raw(&[0x3f])),
    bad!("frame type 0xff", text().raw(&[0xff])),
    bad!("a frame type of two bytes", text().raw(&[0x40, 0x01])),
    bad!("an unknown frame behind good ones", text().ping().padding(3).raw(&[0x3f])),
    // --- cut
    bad!("an ACK without fields", text().raw(&[2])),
    bad!("an ACK without its last range", text().raw(&[2, 1, 0, 1, 0, 0])),
    bad!("a HELLO without its bytes", text().raw(&[3, 5, 1])),
    bad!("SETTINGS without a value", text().raw(&[4, 1, 1])),
    bad!("an OPEN without its header", text().raw(&[5, 0, 9, 1])),
    bad!("an ACCEPT without a stream", text().raw(&[6])),
    bad!("a STREAM without its data", text().raw(&[8, 0, 0, 10, 1, 2])),
    bad!("a RESET without a reason", text().raw(&[10, 0, 0, 1])),
    bad!("a STOP without a code", text().raw(&[11, 0])),
    bad!("a MAX_DATA without a limit", text().raw(&[12])),
    bad!("a MAX_STREAM_DATA without a limit", text().raw(&[13, 0])),
    bad!("a MAX_STREAMS without a limit", text().raw(&[14])),
    bad!("a DATAGRAM without its data", text().raw(&[16, 4, 1])),
    bad!("a CLOSE without a reason", text().raw(&[17, 0])),
    bad!("a PATH_CHALLENGE of seven bytes", text().raw(&[18]).raw(&[1; 7])),
    bad!("a PATH_RESPONSE of seven bytes", text().raw(&[19]).raw(&[1; 7])),
    bad!("a RENEW without a message", text().raw(&[20, 1, 1, 9])),
    bad!("a number that is cut", text().raw(&[12, 0x40])),
    // --- "only the shortest form is valid"
    bad!("a long form of a stream id", text().raw(&[6]).raw(&long(0))),
    bad!("a long form of a length", text().raw(&[16]).raw(&long(1)).raw(b"x")),
    bad!("a long form of an offset", text().open_port(0).raw(&[8, 0]).raw(&long(0)).raw(&[0])),
    bad!("a long form of a code", text().raw(&[17]).raw(&long(1)).raw(&[0])),
    bad!("a long form of a limit", text().raw(&[12]).raw(&long(5))),
    bad!("a long form of a setting's id", text().raw(&[4, 1]).raw(&long(9)).raw(&[0])),
    bad!("a long form of an acknowledged number", text().raw(&[2]).raw(&long(0)).raw(&[0, 0, 0])),
    bad!("a long form of four bytes", text().raw(&[12, 0x80, 0, 0x20, 0])),
    bad!("a long form of eight bytes", text().raw(&[12, 0xc0, 0, 0, 0, 0x20, 0, 0, 0])),
    // --- one more than the bound
    bad!("an OPEN header of 1,025 bytes", text().open(0, &[0; 1025])),
    bad!("STREAM data of 16,385 bytes", text().raw(&[8, 0, 0]).raw(&varint(16_385)).padding(16_385)),
    bad!("a DATAGRAM of 1,209 bytes", text().datagram(&[0; 1209])),
    fine!("a DATAGRAM of 1,208 bytes", text().datagram(&[0; 1208])),
    bad!("a CLOSE reason of 257 bytes", text().close(0, &[b'x'; 257])),
    bad!("a CLOSE reason that is not UTF-8", text().close(0, b"\xff")),
    bad!("a CLOSE code of 2^32", text().close(1 << 32, b"")),
    bad!("a RESET code of 2^32", text().raw(&[10, 0, 0]).number(1 << 32).raw(&[0])),
    bad!("a STOP code of 2^32", text().raw(&[11, 0]).number(1 << 32).raw(&[0])),
    bad!("a RESET reason of 257 bytes", text().raw(&[10, 0, 0, 1]).number(257).raw(&[b'x'; 257])),
    bad!("a STOP reason that is not UTF-8", text().raw(&[11, 0, 1, 1, 0xff])),
    bad!("a RENEW message of 6,145 bytes", text().renew(1, 1, &[0; 6145])),
    bad!("part 0 of a renewal", text().renew(1, 0, b"x")),
    bad!("part 4 of a renewal", text().renew(1, 4, b"x")),
    bad!("33 settings", text().settings(&[(9, 0); 33])),
    fine!("32 settings that nobody knows", text().settings(&[(9, 0); 32])),
    bad!("a MAX_STREAMS of 2^61", text().max_streams(1 << 61)),
    fine!("a MAX_STREAMS of 2^61 - 1", text().max_streams((1 << 61) - 1)),
    bad!("a setting for 2^61 streams", text().settings(&[(3, 1 << 61)])),
    bad!("data that ends beyond 2^62", text().raw(&[8, 0]).number((1 << 62) - 1).raw(&[1, 7])),
    // --- frames of the other side
    bad!("a HELLO from whoever dialled", text().hello(b"again")),
    bad!("a RENEW_REQUEST from whoever dialled", text().renew_request()),
    case("a HELLO again from whoever answers", |s| s.say(text().hello(b"what?")), Ends::Goes)
        .answering(),
    // --- settings only count upwards
    case("SETTINGS twice, with less", |s| {
        s.say(text().settings(&[(1, 0), (2, 0), (3, 0)]));
        s.say(text().open_port(0));
        s.say(text().stream(0, 0, b"and on"));
        assert_eq!(s.read(0), b"and on");
    }, Ends::Goes),
    case("SETTINGS twice, with one twice inside", |s| s.say(text().settings(&[(1, 5), (1, 6)])), Ends::Goes),
    case("limits that fall", |s| {
        s.say(text().max_data(1 << 30).max_data(0).max_streams(1 << 20).max_streams(0));
    }, Ends::Goes),
    // --- section 7: acknowledgements
    case("an ACK of what was never sent", |s| s.say(text().ack(1_000, 1_000)), VIOLATION),
    case("an ACK of the next number", |s| {
        let next = s.victims_next();
        s.say(text().ack(next, next));
    }, VIOLATION),
    case("an ACK of all and one more", |s| {
        let next = s.victims_next();
        s.say(text().ack(0, next));
    }, VIOLATION),
    case("an ACK of 2^62 - 1", |s| s.say(text().ack((1 << 62) - 1, (1 << 62) - 1)), VIOLATION),
    case("an ACK of all that was sent, ten times", |s| {
        let next = s.victims_next();
        (0..10).for_each(|_| s.say(text().ack(0, next - 1)));
    }, Ends::Goes),
    bad!("an ACK whose first range goes below zero", text().raw(&[2, 0, 0, 0, 1])),
    bad!("an ACK whose second range goes below zero", text().raw(&[2, 1, 0, 1, 0, 5, 0])),
    bad!("an ACK of 65 ranges", {
        let head = text().raw(&[2]).number(1_000).raw(&[0]).number(64).raw(&[0]);
        (0..64).fold(head, |text, _| text.raw(&[0, 0]))
    }),
    case("an ACK that was delayed for years", |s| {
        let next = s.victims_next();
        let head = text().raw(&[2]).number(next - 1).number((1 << 62) - 1);
        s.say(head.raw(&[0, 0]));
    }, Ends::Goes),
    case("no ACK ever", |s| {
        s.say(text().open_port(0));
        s.pass(Time::from_secs(20));
    }, Ends::Goes),
    case("no word ever again", |s| s.pass(Time::from_secs(100)), Ends::Closes("idle-timeout")),
    // --- the OPEN's header is the session's: section 4 there
    fine!("an OPEN header of 1,024 bytes, refused by itself", text().open(0, &[0; 1024])),
    case("an OPEN twice", |s| {
        s.say(text().open_port(0));
        s.say(text().open_port(0));
        s.say(text().open(0, &port(80)));
        s.say(text().stream(0, 0, b"one stream"));
        assert_eq!(s.read(0), b"one stream");
    }, Ends::Goes),
];

#[test]
fn frames() {
    run(CASES);
}
