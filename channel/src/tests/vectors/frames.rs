//! `frames.json`: every frame, and what must be refused.

use serde_json::{Value, json};

use super::{compare, hex, unhex};
use crate::{
    StreamId,
    frame::{self, Frame, FrameError, RenewPart, Settings},
    varint,
};

/// Every frame once or more, and what must be refused.
#[test]
fn frames() {
    compare("frames.json", |_| {
        let mut ack = Vec::new();
        frame::put_ack(&mut ack, [90..101, 85..88, 7..8].iter(), 3, 1500);
        let Ok(Frame::Ack(ack)) = frame::take(&mut &ack[..]) else {
            panic!("not an ACK")
        };
        let stream = StreamId::from_wire(4);
        let other = StreamId::from_wire(16_385);
        let good: Vec<Value> = [
            Frame::Padding(3),
            Frame::Ping,
            Frame::Ack(ack),
            Frame::Hello(b"a credential"),
            Frame::Settings(Settings {
                max_data: 4 << 20,
                max_stream_data: 1 << 20,
                max_streams: 1024,
            }),
            Frame::Open {
                stream,
                header: b"\x01\x02",
            },
            Frame::Accept { stream: other },
            Frame::Stream {
                stream,
                offset: 0,
                fin: false,
                data: b"hello",
            },
            Frame::Stream {
                stream: other,
                offset: 1 << 30,
                fin: true,
                data: b"",
            },
            Frame::Reset {
                stream,
                final_size: 1000,
                code: 0x101,
                reason: "policy-denied",
            },
            Frame::Stop {
                stream,
                code: 0,
                reason: "",
            },
            Frame::MaxData(8 << 20),
            Frame::MaxStreamData {
                stream,
                max: varint::MAX,
            },
            Frame::MaxStreams(2048),
            Frame::Datagram(b"\x00\xff"),
            Frame::Close {
                code: u32::MAX,
                reason: "fertig ✓",
            },
            Frame::PathChallenge([1, 2, 3, 4, 5, 6, 7, 8]),
            Frame::PathResponse([1, 2, 3, 4, 5, 6, 7, 8]),
            Frame::Renew {
                epoch: 300,
                part: RenewPart::Third,
                message: b"a handshake message",
            },
            Frame::RenewRequest,
        ]
        .iter()
        .map(good_frame)
        .collect();
        has_every_type(&good);
        let short = REFUSED.iter().map(|(why, hex)| refused(why, hex, 0));
        let long = TOO_LONG.iter().map(|(why, hex, n)| refused(why, hex, *n));
        let refused: Vec<Value> = short.chain(long).collect();
        json!({ "frames": good, "refused": refused })
    });
}

/// Every type that is read has a vector, a new one too.
fn has_every_type(good: &[Value]) {
    let types: Vec<u8> = good.iter().map(|frame| unhex(&frame["bytes"])[0]).collect();
    for kind in 0..=u8::MAX {
        let known = frame::take(&mut &[kind][..]) != Err(FrameError::Unknown(kind));
        assert_eq!(known, types.contains(&kind), "type {kind:#04x}");
    }
}

const REFUSED: [(&str, &str); 13] = [
    ("unknown frame type", "16"),
    ("challenge of 7 bytes", "1201020304050607"),
    ("part 4 of a renewal", "14010400"),
    ("part 0 of a renewal", "14010000"),
    ("frame type is a reserved one", "07"),
    ("cut short", "0800"),
    ("data shorter than its length", "08000005686921"),
    ("stream id not in its shortest form", "064004"),
    ("ACK range below zero", "0203000004"),
    ("ACK gap below zero", "0209000105 0300"),
    ("reason not UTF-8", "110001ff"),
    ("code larger than 32 bits", "11c00000010000000000"),
    ("MAX_STREAMS above 2^61 - 1", "0ee000000000000000"),
];

/// What is right but for its length, with so many zeros behind it.
const TOO_LONG: [(&str, &str, usize); 11] = [
    ("ACK of 65 ranges", "024400004040 00", 128),
    ("hello of 4,097 bytes", "035001", 4097),
    ("33 settings", "0421", 66),
    ("header of 1,025 bytes", "05004401", 1025),
    ("data of 16,385 bytes", "08000080004001", 16_385),
    ("last data of 16,385 bytes", "09000080004001", 16_385),
    ("reason of a RESET of 257 bytes", "0a0000004101", 257),
    ("reason of a STOP of 257 bytes", "0b00004101", 257),
    ("datagram of 1,209 bytes", "1044b9", 1209),
    ("reason of a CLOSE of 257 bytes", "11004101", 257),
    ("message of a renewal of 6,145 bytes", "1401015801", 6145),
];

fn refused(why: &str, text: &str, zeros: usize) -> Value {
    let text = text.replace(' ', "");
    let bytes = [unhex(&json!(text)), vec![0; zeros]].concat();
    assert!(frame::take(&mut &bytes[..]).is_err(), "{why}");
    if zeros > 0 {
        let error = frame::take(&mut &bytes[..]);
        assert_ne!(error, Err(FrameError::Truncated), "{why}");
    }
    json!({ "why": why, "bytes": text, "zeros": zeros })
}

fn good_frame(frame: &Frame<'_>) -> Value {
    let mut out = Vec::new();
    frame.put(&mut out);
    assert_eq!(&frame::take(&mut &out[..]).unwrap(), frame);
    let mut value = fields(frame);
    value["bytes"] = json!(hex(&out));
    value
}

fn fields(frame: &Frame<'_>) -> Value {
    match *frame {
        Frame::Padding(count) => json!({ "frame": "PADDING", "count": count }),
        Frame::Ping => json!({ "frame": "PING" }),
        Frame::Ack(ref ack) => json!({
            "frame": "ACK",
            "delay": ack.delay,
            "ranges": ack.ranges().map(|(low, high)| json!([low, high])).collect::<Vec<_>>(),
        }),
        Frame::Hello(hello) => json!({ "frame": "HELLO", "hello": hex(hello) }),
        Frame::Settings(settings) => json!({
            "frame": "SETTINGS",
            "max_data": settings.max_data,
            "max_stream_data": settings.max_stream_data,
            "max_streams": settings.max_streams,
        }),
        Frame::Open { stream, header } => {
            json!({ "frame": "OPEN", "stream": stream.get(), "header": hex(header) })
        }
        Frame::Accept { stream } => json!({ "frame": "ACCEPT", "stream": stream.get() }),
        Frame::Stream {
            stream,
            offset,
            fin,
            data,
        } => json!({
            "frame": "STREAM",
            "stream": stream.get(),
            "offset": offset,
            "fin": fin,
            "data": hex(data),
        }),
        Frame::Reset {
            stream,
            final_size,
            code,
            reason,
        } => json!({
            "frame": "RESET",
            "stream": stream.get(),
            "final_size": final_size,
            "code": code,
            "reason": reason,
        }),
        Frame::Stop {
            stream,
            code,
            reason,
        } => json!({ "frame": "STOP", "stream": stream.get(), "code": code, "reason": reason }),
        Frame::MaxData(max) => json!({ "frame": "MAX_DATA", "max": max }),
        Frame::MaxStreamData { stream, max } => {
            json!({ "frame": "MAX_STREAM_DATA", "stream": stream.get(), "max": max })
        }
        Frame::MaxStreams(max) => json!({ "frame": "MAX_STREAMS", "max": max }),
        Frame::Datagram(data) => json!({ "frame": "DATAGRAM", "data": hex(data) }),
        Frame::Close { code, reason } => {
            json!({ "frame": "CLOSE", "code": code, "reason": reason })
        }
        Frame::PathChallenge(data) => json!({ "frame": "PATH_CHALLENGE", "data": hex(&data) }),
        Frame::PathResponse(data) => json!({ "frame": "PATH_RESPONSE", "data": hex(&data) }),
        Frame::Renew {
            epoch,
            part,
            message,
        } => json!({
            "frame": "RENEW",
            "epoch": epoch,
            "part": match part {
                RenewPart::First => 1,
                RenewPart::Second => 2,
                RenewPart::Third => 3,
            },
            "message": hex(message),
        }),
        Frame::RenewRequest => json!({ "frame": "RENEW_REQUEST" }),
    }
}
