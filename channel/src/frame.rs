//! Frames: what is inside a record (SPEC.md section 6). Encoding and decoding,
//! nothing else.

use thiserror::Error;

use crate::{StreamId, limits, path::Challenge, varint};

const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const HELLO: u8 = 0x03;
const SETTINGS: u8 = 0x04;
const OPEN: u8 = 0x05;
const ACCEPT: u8 = 0x06;
const STREAM: u8 = 0x08;
const STREAM_FIN: u8 = 0x09;
const RESET: u8 = 0x0a;
const STOP: u8 = 0x0b;
const MAX_DATA: u8 = 0x0c;
const MAX_STREAM_DATA: u8 = 0x0d;
const MAX_STREAMS: u8 = 0x0e;
const DATAGRAM: u8 = 0x10;
const CLOSE: u8 = 0x11;
const PATH_CHALLENGE: u8 = 0x12;
const PATH_RESPONSE: u8 = 0x13;
const RENEW: u8 = 0x14;
const RENEW_REQUEST: u8 = 0x15;

/// One frame, borrowing from the record it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// This many bytes of nothing.
    Padding(usize),
    /// Wants an acknowledgement.
    Ping,
    Ack(AckFrame<'a>),
    /// The responder's last hello.
    Hello(&'a [u8]),
    Settings(Settings),
    Open {
        stream: StreamId,
        header: &'a [u8],
    },
    Accept {
        stream: StreamId,
    },
    Stream {
        stream: StreamId,
        offset: u64,
        fin: bool,
        data: &'a [u8],
    },
    Reset {
        stream: StreamId,
        final_size: u64,
        code: u32,
        reason: &'a str,
    },
    Stop {
        stream: StreamId,
        code: u32,
        reason: &'a str,
    },
    MaxData(u64),
    MaxStreamData {
        stream: StreamId,
        max: u64,
    },
    MaxStreams(u64),
    Datagram(&'a [u8]),
    Close {
        code: u32,
        reason: &'a str,
    },
    /// To be answered with the same bytes on the path that it came on.
    PathChallenge(Challenge),
    PathResponse(Challenge),
    /// A message of the handshake that makes the keys of this epoch.
    Renew {
        epoch: u64,
        part: RenewPart,
        message: &'a [u8],
    },
    /// The responder wants new keys.
    RenewRequest,
}

/// Which message of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RenewPart {
    /// From the initiator.
    First,
    /// From the responder.
    Second,
    /// From the initiator.
    Third,
}

impl RenewPart {
    fn from_wire(value: u64) -> Option<Self> {
        match value {
            1 => Some(Self::First),
            2 => Some(Self::Second),
            3 => Some(Self::Third),
            _ => None,
        }
    }

    fn to_wire(self) -> u64 {
        match self {
            Self::First => 1,
            Self::Second => 2,
            Self::Third => 3,
        }
    }
}

/// A record's plaintext is not a row of frames. Always the peer's fault: it
/// was authentic.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("a frame is cut short or holds a number that is not in its shortest form")]
    Truncated,
    #[error("unknown frame type {0:#04x}")]
    Unknown(u8),
    #[error("a field of a frame is longer or larger than allowed")]
    TooLarge,
    #[error("a reason is not UTF-8")]
    Text,
    #[error("the ranges of an ACK are impossible")]
    Ranges,
}

/// What a side tells the other once, at the start. Unknown settings are skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Initial session credit (setting 1).
    pub(crate) max_data: u64,
    /// Initial credit of every stream (setting 2).
    pub(crate) max_stream_data: u64,
    /// How many streams the other may open to begin with (setting 3).
    pub(crate) max_streams: u64,
}

/// Which packets were received, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AckFrame<'a> {
    pub(crate) largest: u64,
    /// Microseconds between the arrival of `largest` and this ACK.
    pub(crate) delay: u64,
    /// Packets before `largest` in its range.
    first: u64,
    /// (gap, length) pairs, validated.
    rest: &'a [u8],
}

impl<'a> AckFrame<'a> {
    /// The ranges as (lowest, highest), from the highest down.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let mut next = Some((self.largest - self.first, self.largest));
        let mut rest = self.rest;
        core::iter::from_fn(move || {
            let current = next?;
            next = take_range(&mut rest, current.0);
            Some(current)
        })
    }
}

/// The range below one that starts at `low`.
fn take_range(rest: &mut &[u8], low: u64) -> Option<(u64, u64)> {
    let gap = varint::take(rest)?;
    let length = varint::take(rest)?;
    let high = low.checked_sub(gap.checked_add(2)?)?;
    Some((high.checked_sub(length)?, high))
}

/// Takes one frame off the front of a record.
pub(crate) fn take<'a>(rest: &mut &'a [u8]) -> Result<Frame<'a>, FrameError> {
    let (&kind, tail) = rest.split_first().ok_or(FrameError::Truncated)?;
    *rest = tail;
    Ok(match kind {
        PADDING => {
            let more = rest.iter().take_while(|&&byte| byte == PADDING).count();
            *rest = &rest[more..];
            Frame::Padding(1 + more)
        }
        PING => Frame::Ping,
        ACK => Frame::Ack(take_ack(rest)?),
        HELLO => Frame::Hello(take_bytes(rest, limits::MAX_HELLO)?),
        SETTINGS => Frame::Settings(take_settings(rest)?),
        OPEN => Frame::Open {
            stream: take_stream(rest)?,
            header: take_bytes(rest, limits::MAX_OPEN_HEADER)?,
        },
        ACCEPT => Frame::Accept {
            stream: take_stream(rest)?,
        },
        STREAM | STREAM_FIN => {
            let stream = take_stream(rest)?;
            let offset = number(rest)?;
            let data = take_bytes(rest, limits::MAX_STREAM_DATA)?;
            if offset + data.len() as u64 > varint::MAX {
                return Err(FrameError::TooLarge);
            }
            Frame::Stream {
                stream,
                offset,
                fin: kind == STREAM_FIN,
                data,
            }
        }
        RESET => Frame::Reset {
            stream: take_stream(rest)?,
            final_size: number(rest)?,
            code: take_code(rest)?,
            reason: take_text(rest)?,
        },
        STOP => Frame::Stop {
            stream: take_stream(rest)?,
            code: take_code(rest)?,
            reason: take_text(rest)?,
        },
        MAX_DATA => Frame::MaxData(number(rest)?),
        MAX_STREAM_DATA => Frame::MaxStreamData {
            stream: take_stream(rest)?,
            max: number(rest)?,
        },
        MAX_STREAMS => Frame::MaxStreams(take_count(rest)?),
        DATAGRAM => Frame::Datagram(take_bytes(rest, limits::MAX_DATAGRAM)?),
        CLOSE => Frame::Close {
            code: take_code(rest)?,
            reason: take_text(rest)?,
        },
        PATH_CHALLENGE => Frame::PathChallenge(take_challenge(rest)?),
        PATH_RESPONSE => Frame::PathResponse(take_challenge(rest)?),
        RENEW => Frame::Renew {
            epoch: number(rest)?,
            part: RenewPart::from_wire(number(rest)?).ok_or(FrameError::TooLarge)?,
            message: take_bytes(rest, limits::MAX_RENEW)?,
        },
        RENEW_REQUEST => Frame::RenewRequest,
        unknown => return Err(FrameError::Unknown(unknown)),
    })
}

fn number(rest: &mut &[u8]) -> Result<u64, FrameError> {
    varint::take(rest).ok_or(FrameError::Truncated)
}

fn take_stream(rest: &mut &[u8]) -> Result<StreamId, FrameError> {
    number(rest).map(StreamId::from_wire)
}

/// A number of streams: their ids must be numbers too.
fn take_count(rest: &mut &[u8]) -> Result<u64, FrameError> {
    let count = number(rest)?;
    (count <= varint::MAX >> 1)
        .then_some(count)
        .ok_or(FrameError::TooLarge)
}

fn take_code(rest: &mut &[u8]) -> Result<u32, FrameError> {
    u32::try_from(number(rest)?).map_err(|_| FrameError::TooLarge)
}

fn take_bytes<'a>(rest: &mut &'a [u8], max: usize) -> Result<&'a [u8], FrameError> {
    let length = number(rest)?;
    if length > max as u64 {
        return Err(FrameError::TooLarge);
    }
    let (bytes, tail) = rest
        .split_at_checked(length as usize)
        .ok_or(FrameError::Truncated)?;
    *rest = tail;
    Ok(bytes)
}

fn take_challenge(rest: &mut &[u8]) -> Result<Challenge, FrameError> {
    let (challenge, tail) = rest.split_first_chunk().ok_or(FrameError::Truncated)?;
    *rest = tail;
    Ok(*challenge)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, FrameError> {
    let bytes = take_bytes(rest, limits::MAX_REASON)?;
    core::str::from_utf8(bytes).map_err(|_| FrameError::Text)
}

fn take_ack<'a>(rest: &mut &'a [u8]) -> Result<AckFrame<'a>, FrameError> {
    let largest = number(rest)?;
    let delay = number(rest)?;
    let more = number(rest)?;
    let first = number(rest)?;
    if more >= limits::MAX_ACK_RANGES_READ as u64 {
        return Err(FrameError::TooLarge);
    }
    let mut low = largest.checked_sub(first).ok_or(FrameError::Ranges)?;
    let start = *rest;
    for _ in 0..more {
        // Told apart, so that a cut one is not blamed on its ranges.
        let mut probe = *rest;
        number(&mut probe)?;
        number(&mut probe)?;
        low = take_range(rest, low).ok_or(FrameError::Ranges)?.0;
    }
    Ok(AckFrame {
        largest,
        delay,
        first,
        rest: &start[..start.len() - rest.len()],
    })
}

fn take_settings(rest: &mut &[u8]) -> Result<Settings, FrameError> {
    let count = number(rest)?;
    if count > limits::MAX_SETTINGS as u64 {
        return Err(FrameError::TooLarge);
    }
    let mut settings = Settings::default();
    for _ in 0..count {
        match number(rest)? {
            1 => settings.max_data = number(rest)?,
            2 => settings.max_stream_data = number(rest)?,
            3 => settings.max_streams = take_count(rest)?,
            _ => drop(number(rest)?),
        }
    }
    Ok(settings)
}

impl Frame<'_> {
    /// Appends the frame. Lengths must be within their limits.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Padding(count) => out.resize(out.len() + count, PADDING),
            Self::Ping => out.push(PING),
            Self::Ack(ref ack) => {
                let ranges = ack.ranges().map(|(low, high)| low..high + 1);
                let ranges: Vec<_> = ranges.collect();
                put_ack(out, ranges.iter(), ranges.len(), ack.delay);
            }
            Self::Hello(hello) => {
                out.push(HELLO);
                put_bytes(out, hello);
            }
            Self::Settings(settings) => {
                out.push(SETTINGS);
                varint::put(out, 3);
                for (id, value) in [
                    (1, settings.max_data),
                    (2, settings.max_stream_data),
                    (3, settings.max_streams),
                ] {
                    varint::put(out, id);
                    varint::put(out, value);
                }
            }
            Self::Open { stream, header } => {
                out.push(OPEN);
                varint::put(out, stream.get());
                put_bytes(out, header);
            }
            Self::Accept { stream } => {
                out.push(ACCEPT);
                varint::put(out, stream.get());
            }
            Self::Stream {
                stream,
                offset,
                fin,
                data,
            } => {
                put_stream_header(out, stream, offset, fin, data.len());
                out.extend_from_slice(data);
            }
            Self::Reset {
                stream,
                final_size,
                code,
                reason,
            } => {
                out.push(RESET);
                varint::put(out, stream.get());
                varint::put(out, final_size);
                varint::put(out, code.into());
                put_bytes(out, reason.as_bytes());
            }
            Self::Stop {
                stream,
                code,
                reason,
            } => {
                out.push(STOP);
                varint::put(out, stream.get());
                varint::put(out, code.into());
                put_bytes(out, reason.as_bytes());
            }
            Self::MaxData(max) => {
                out.push(MAX_DATA);
                varint::put(out, max);
            }
            Self::MaxStreamData { stream, max } => {
                out.push(MAX_STREAM_DATA);
                varint::put(out, stream.get());
                varint::put(out, max);
            }
            Self::MaxStreams(max) => {
                out.push(MAX_STREAMS);
                varint::put(out, max);
            }
            Self::Datagram(data) => {
                out.push(DATAGRAM);
                put_bytes(out, data);
            }
            Self::Close { code, reason } => {
                out.push(CLOSE);
                varint::put(out, code.into());
                put_bytes(out, reason.as_bytes());
            }
            Self::PathChallenge(challenge) => {
                out.push(PATH_CHALLENGE);
                out.extend_from_slice(&challenge);
            }
            Self::PathResponse(challenge) => {
                out.push(PATH_RESPONSE);
                out.extend_from_slice(&challenge);
            }
            Self::Renew {
                epoch,
                part,
                message,
            } => {
                out.push(RENEW);
                varint::put(out, epoch);
                varint::put(out, part.to_wire());
                put_bytes(out, message);
            }
            Self::RenewRequest => out.push(RENEW_REQUEST),
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The start of a STREAM frame; `length` bytes of data must follow it.
pub(crate) fn put_stream_header(
    out: &mut Vec<u8>,
    stream: StreamId,
    offset: u64,
    fin: bool,
    length: usize,
) {
    out.push(if fin { STREAM_FIN } else { STREAM });
    varint::put(out, stream.get());
    varint::put(out, offset);
    varint::put(out, length as u64);
}

/// Appends an ACK of `count` ranges (at least one), given from the highest down.
pub(crate) fn put_ack<'a>(
    out: &mut Vec<u8>,
    ranges: impl Iterator<Item = &'a core::ops::Range<u64>>,
    count: usize,
    delay: u64,
) {
    let mut low = None;
    for range in ranges.take(count) {
        let length = range.end - range.start - 1;
        match low {
            None => {
                out.push(ACK);
                varint::put(out, range.end - 1);
                varint::put(out, delay.min(varint::MAX));
                varint::put(out, count as u64 - 1);
            }
            Some(low) => varint::put(out, low - range.end - 1),
        }
        varint::put(out, length);
        low = Some(range.start);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn stream() -> impl Strategy<Value = StreamId> {
        (0..=varint::MAX).prop_map(StreamId::from_wire)
    }

    /// Owned parts, because frames borrow.
    fn check(frame: &Frame<'_>) -> Result<(), TestCaseError> {
        let mut out = Vec::new();
        frame.put(&mut out);
        let mut rest = &out[..];
        prop_assert_eq!(&take(&mut rest).unwrap(), frame);
        prop_assert!(rest.is_empty());
        if !matches!(frame, Frame::Padding(_)) {
            for cut in 0..out.len() {
                prop_assert_eq!(take(&mut &out[..cut]), Err(FrameError::Truncated));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn every_frame_makes_the_round_trip(
            stream in stream(),
            a in 0..=varint::MAX >> 1,
            code: u32,
            fin: bool,
            bytes in vec(any::<u8>(), 0..300),
            text in "\\PC{0,60}",
        ) {
            check(&Frame::Padding(bytes.len() + 1))?;
            check(&Frame::Ping)?;
            check(&Frame::Hello(&bytes))?;
            check(&Frame::Settings(Settings { max_data: a, max_stream_data: a / 3, max_streams: a / 7 }))?;
            check(&Frame::Open { stream, header: &bytes })?;
            check(&Frame::Accept { stream })?;
            check(&Frame::Stream { stream, offset: a, fin, data: &bytes })?;
            check(&Frame::Reset { stream, final_size: a, code, reason: &text })?;
            check(&Frame::Stop { stream, code, reason: &text })?;
            check(&Frame::MaxData(a))?;
            check(&Frame::MaxStreamData { stream, max: a })?;
            check(&Frame::MaxStreams(a))?;
            check(&Frame::Datagram(&bytes))?;
            check(&Frame::Close { code, reason: &text })?;
            check(&Frame::PathChallenge(a.to_be_bytes()))?;
            check(&Frame::PathResponse(a.to_le_bytes()))?;
            for part in [RenewPart::First, RenewPart::Second, RenewPart::Third] {
                check(&Frame::Renew { epoch: a, part, message: &bytes })?;
            }
            check(&Frame::RenewRequest)?;
        }

        #[test]
        fn acks_make_the_round_trip(
            steps in vec((1u64..50, 1u64..50), 1..limits::MAX_ACK_RANGES_READ),
            delay in 0u64..100_000,
        ) {
            let mut ranges = Vec::new();
            let mut at = 0;
            for (gap, length) in steps {
                ranges.push(at + gap..at + gap + length);
                at += gap + length;
            }
            let mut out = Vec::new();
            put_ack(&mut out, ranges.iter().rev(), ranges.len(), delay);
            for cut in 0..out.len() {
                prop_assert_eq!(take(&mut &out[..cut]), Err(FrameError::Truncated));
            }
            let Frame::Ack(ack) = take(&mut &out[..]).unwrap() else { panic!("not an ACK") };
            let read: Vec<_> = ack.ranges().map(|(low, high)| low..high + 1).collect();
            ranges.reverse();
            prop_assert_eq!(read, ranges);
            prop_assert_eq!(ack.delay, delay);
            check(&Frame::Ack(ack))?;
        }

        #[test]
        fn garbage_never_panics_and_what_is_read_is_canonical(bytes in vec(any::<u8>(), 0..200)) {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let before = rest;
                let Ok(frame) = take(&mut rest) else { break };
                if !matches!(frame, Frame::Settings(_)) {
                    let mut out = Vec::new();
                    frame.put(&mut out);
                    prop_assert_eq!(&out[..], &before[..before.len() - rest.len()]);
                }
            }
        }
    }

    #[test]
    fn oversize_fields_are_refused() {
        let long = vec![0; 5000];
        let text = "x".repeat(257);
        let stream = StreamId::from_wire(0);
        for frame in [
            Frame::Hello(&long),
            Frame::Open {
                stream,
                header: &long,
            },
            Frame::Datagram(&long),
            Frame::Close {
                code: 0,
                reason: &text,
            },
            Frame::MaxStreams(varint::MAX),
            Frame::Stream {
                stream,
                offset: varint::MAX,
                fin: false,
                data: b"x",
            },
        ] {
            let mut out = Vec::new();
            frame.put(&mut out);
            assert_eq!(take(&mut &out[..]), Err(FrameError::TooLarge));
        }
    }

    #[test]
    fn impossible_acks_are_refused() {
        // first range longer than there are numbers; a gap below zero.
        for bytes in [&[ACK, 3, 0, 0, 4][..], &[ACK, 9, 0, 1, 5, 3, 0]] {
            assert_eq!(take(&mut &bytes[..]), Err(FrameError::Ranges));
        }
        assert_eq!(
            take(&mut &[ACK, 3, 0, 0x40, 64, 0][..]),
            Err(FrameError::TooLarge)
        );
    }

    #[test]
    fn unknown_settings_are_skipped_and_unknown_frames_are_not() {
        let bytes = [SETTINGS, 2, 0x3f, 5, 1, 9];
        let expected = Settings {
            max_data: 9,
            ..Settings::default()
        };
        assert_eq!(take(&mut &bytes[..]), Ok(Frame::Settings(expected)));
        assert_eq!(take(&mut &[0x3f][..]), Err(FrameError::Unknown(0x3f)));
    }
}
