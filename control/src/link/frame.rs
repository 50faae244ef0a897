//! Link frames: an 8-byte header and one packet of a circuit.
//!
//! ```text
//! type u8 | length u24 | circuit u32 | payload (length bytes)      big endian
//! ```
//!
//! The header is made so that a relay can switch frames without assembling or
//! copying them: [`take_run`] splits off all complete frames of one circuit
//! that lie next to each other in a read buffer, [`Run::rewrite`] puts the
//! other circuit id into their headers in place, and the run goes into the
//! other link's write queue as it is.

use bytes::BytesMut;
use thiserror::Error;

use crate::limits::{LINK_DATAGRAM_MAX, LINK_HEADER, LINK_PAYLOAD_MAX};
use crate::reason::Reason;

/// A circuit on one link.
///
/// The endpoint picks even ids from 2, the relay odd ones, so that both can
/// open at the same time. Ids are not used twice on a link.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, minicbor::Encode, minicbor::Decode,
)]
#[cbor(transparent)]
pub struct CircuitId(#[n(0)] pub u32);

impl CircuitId {
    /// The session between the two ends of the link itself.
    pub const LINK: Self = Self(0);

    /// The first id that an endpoint picks; the next is 2 further.
    pub const FIRST_OF_ENDPOINT: Self = Self(2);

    /// The first id that a relay picks; the next is 2 further.
    pub const FIRST_OF_RELAY: Self = Self(1);

    /// Whether an endpoint may open a circuit under this id.
    pub fn is_endpoints(self) -> bool {
        self.0 != 0 && self.0.is_multiple_of(2)
    }

    /// Whether a relay may open a circuit under this id.
    pub fn is_relays(self) -> bool {
        !self.0.is_multiple_of(2)
    }

    /// The id after this one on the same side, or `None` at the end of the
    /// range: then the link has to be renewed.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(2).map(Self)
    }
}

impl std::fmt::Display for CircuitId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame carries. Other type numbers are reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// One packet of the circuit's session.
    Data,
    /// Whoever accepted the connection does not want the link, and says why
    /// without a session, which would cost what it has not got.
    Refused,
    /// One packet of the circuit's session that is never sent again: it may be
    /// lost, and overtake others. Outside of the circuit's credit.
    Datagram,
}

impl FrameKind {
    const DATA: u8 = 0;
    const REFUSED: u8 = 1;
    const DATAGRAM: u8 = 2;

    fn from_byte(byte: u8) -> Result<Self, FrameError> {
        match byte {
            Self::DATA => Ok(Self::Data),
            Self::REFUSED => Ok(Self::Refused),
            Self::DATAGRAM => Ok(Self::Datagram),
            other => Err(FrameError::UnknownType(other)),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Data => Self::DATA,
            Self::Refused => Self::REFUSED,
            Self::Datagram => Self::DATAGRAM,
        }
    }

    /// Checks the payload's length.
    fn check(self, length: usize) -> Result<(), FrameError> {
        let max = match self {
            Self::Data | Self::Refused => LINK_PAYLOAD_MAX,
            Self::Datagram => LINK_DATAGRAM_MAX,
        };
        if length > max {
            return Err(FrameError::TooLarge { length, max });
        }
        Ok(())
    }
}

/// A frame's header, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the frame carries.
    pub kind: FrameKind,
    /// Bytes of payload after the header.
    pub length: usize,
    /// The circuit on this link.
    pub circuit: CircuitId,
}

impl Header {
    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> usize {
        LINK_HEADER + self.length
    }

    /// Reads the header at the start of `bytes`; `None` when it is not all
    /// there yet.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(head) = bytes.first_chunk::<LINK_HEADER>() else {
            return Ok(None);
        };
        let [kind, l2, l1, l0, c3, c2, c1, c0] = *head;
        let kind = FrameKind::from_byte(kind)?;
        let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
        kind.check(length)?;
        Ok(Some(Self {
            kind,
            length,
            circuit: CircuitId(u32::from_be_bytes([c3, c2, c1, c0])),
        }))
    }
}

/// The header of a frame with `length` bytes of payload.
///
/// # Errors
/// [`FrameError::TooLarge`] beyond what a frame of this kind may have.
pub fn header(
    kind: FrameKind,
    circuit: CircuitId,
    length: usize,
) -> Result<[u8; LINK_HEADER], FrameError> {
    kind.check(length)?;
    let [_, l2, l1, l0] = (length as u32).to_be_bytes();
    let [c3, c2, c1, c0] = circuit.0.to_be_bytes();
    Ok([kind.byte(), l2, l1, l0, c3, c2, c1, c0])
}

/// Complete frames of one kind and circuit, one after the other in one buffer.
#[derive(Debug)]
pub struct Run {
    kind: FrameKind,
    circuit: CircuitId,
    frames: usize,
    bytes: BytesMut,
}

impl Run {
    /// What all frames carry.
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The circuit that all frames are of.
    pub fn circuit(&self) -> CircuitId {
        self.circuit
    }

    /// How many frames there are; at least one.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes of payload without headers: what circuit credit counts, of DATA.
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - self.frames * LINK_HEADER
    }

    /// Puts another circuit id into every header, in place, and gives the
    /// bytes to write to the other link.
    pub fn rewrite(mut self, circuit: CircuitId) -> BytesMut {
        rewrite_circuits(&mut self.bytes, circuit);
        self.bytes
    }

    /// The first frame's payload, as it lies there.
    pub fn first_payload(&self) -> &[u8] {
        match Header::peek(&self.bytes) {
            Ok(Some(header)) => &self.bytes[LINK_HEADER..header.frame_len()],
            Ok(None) | Err(_) => &[],
        }
    }

    /// Takes the first frame's payload off the run; `None` at its end.
    pub fn next_payload(&mut self) -> Option<BytesMut> {
        let header = Header::peek(&self.bytes).ok().flatten()?;
        let mut frame = self.bytes.split_to(header.frame_len());
        self.frames -= 1;
        Some(frame.split_off(LINK_HEADER))
    }
}

/// Splits complete frames of one kind and circuit off the front of a read buffer,
/// without copying: as many as lie next to each other, up to `max_bytes` (but
/// at least one). `None` when the first frame is not complete.
///
/// # Errors
/// The link has lost its framing or its peer misbehaves; close it.
pub fn take_run(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Run>, FrameError> {
    let Some(first) = Header::peek(buffer)? else {
        return Ok(None);
    };
    if buffer.len() < first.frame_len() {
        return Ok(None);
    }
    if first.kind == FrameKind::Refused {
        return Err(refusal_in(&buffer[LINK_HEADER..first.frame_len()]));
    }
    let mut end = first.frame_len();
    let mut frames = 1;
    // A bad header further on is left for the next call: what came before it
    // is good and its circuit must not lose it.
    while let Ok(Some(next)) = Header::peek(&buffer[end..]) {
        let next_end = end + next.frame_len();
        if next.kind != first.kind
            || next.circuit != first.circuit
            || next_end > buffer.len()
            || next_end > max_bytes
        {
            break;
        }
        end = next_end;
        frames += 1;
    }
    Ok(Some(Run {
        kind: first.kind,
        circuit: first.circuit,
        frames,
        bytes: buffer.split_to(end),
    }))
}

/// Puts `circuit` into the header of every frame in `frames`, which holds
/// complete frames only (as [`Run`] and a channel's batch do).
pub fn rewrite_circuits(frames: &mut [u8], circuit: CircuitId) {
    let mut rest = frames;
    while let Ok(Some(header)) = Header::peek(rest) {
        rest[4..LINK_HEADER].copy_from_slice(&circuit.0.to_be_bytes());
        let end = header.frame_len().min(rest.len());
        rest = &mut rest[end..];
    }
    debug_assert!(
        rest.is_empty(),
        "rewrite_circuits wants complete frames only"
    );
}

/// The frame that refuses a link: all that whoever accepted it ever sends.
pub fn refused_frame(reason: &Reason) -> Vec<u8> {
    let payload = minicbor::to_vec(reason).expect("encoding into a Vec cannot fail");
    let head = header(FrameKind::Refused, CircuitId::LINK, payload.len())
        .expect("a reason is far shorter than a frame can be");
    [&head[..], &payload].concat()
}

fn refusal_in(payload: &[u8]) -> FrameError {
    let reason = minicbor::decode::<Reason>(payload).ok();
    match reason.filter(|reason| reason.check().is_ok()) {
        Some(reason) => FrameError::Refused(Box::new(reason)),
        None => FrameError::Malformed,
    }
}

/// The other end of the link sends no frames of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The other end does not want the link. Nothing proves who said so: good
    /// for a log, and for trying elsewhere.
    #[error("the link was refused: {0}")]
    Refused(Box<Reason>),
    /// A refusal without a reason that can be read.
    #[error("the link was refused without a readable reason")]
    Malformed,
    /// A reserved type number.
    #[error("link frame of unknown type {0}; the other end is newer or is no Fairway link")]
    UnknownType(u8),
    /// More than one packet can be.
    #[error("link frame of {length} bytes is larger than the limit of {max}")]
    TooLarge {
        /// The length in the header.
        length: usize,
        /// What a frame of this kind may have.
        max: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn put(buffer: &mut BytesMut, circuit: u32, payload: &[u8]) {
        let head = header(FrameKind::Data, CircuitId(circuit), payload.len()).unwrap();
        buffer.extend_from_slice(&head);
        buffer.extend_from_slice(payload);
    }

    #[test]
    fn the_layout_is_as_written() {
        let head = header(FrameKind::Data, CircuitId(0x0102_0304), 0x3f01).unwrap();
        assert_eq!(head, [0, 0, 0x3f, 0x01, 1, 2, 3, 4]);
        let back = Header::peek(&head).unwrap().unwrap();
        assert_eq!(
            (back.length, back.circuit),
            (0x3f01, CircuitId(0x0102_0304))
        );
        assert_eq!(Header::peek(&head[..7]), Ok(None));
    }

    #[test]
    fn what_is_no_frame_is_refused_by_its_header() {
        for (kind, max) in [
            (FrameKind::Data, LINK_PAYLOAD_MAX),
            (FrameKind::Datagram, LINK_DATAGRAM_MAX),
        ] {
            assert!(header(kind, CircuitId(2), max).is_ok());
            let length = max + 1;
            let too_large = FrameError::TooLarge { length, max };
            assert_eq!(header(kind, CircuitId(2), length), Err(too_large.clone()));
            let [_, a, b, c] = (length as u32).to_be_bytes();
            let head = [kind.byte(), a, b, c, 0, 0, 0, 2];
            assert_eq!(Header::peek(&head), Err(too_large));
        }
        assert_eq!(Header::peek(&[9; 8]), Err(FrameError::UnknownType(9)));
    }

    #[test]
    fn a_refusal_ends_the_link_with_its_reason() {
        let reason = Reason::new("overloaded", "try another relay");
        let mut buffer = BytesMut::new();
        put(&mut buffer, 0, b"good");
        let whole = refused_frame(&reason);
        buffer.extend_from_slice(&whole[..whole.len() - 1]);
        let run = take_run(&mut buffer, usize::MAX).unwrap().unwrap();
        assert_eq!((run.frames(), run.payload_len()), (1, 4));
        assert!(take_run(&mut buffer, usize::MAX).unwrap().is_none());
        buffer.extend_from_slice(&whole[whole.len() - 1..]);
        assert_eq!(
            take_run(&mut buffer, usize::MAX).unwrap_err(),
            FrameError::Refused(Box::new(reason))
        );
        let mut empty = BytesMut::from(&[1, 0, 0, 0, 0, 0, 0, 0][..]);
        assert_eq!(
            take_run(&mut empty, usize::MAX).unwrap_err(),
            FrameError::Malformed
        );
    }

    #[test]
    fn a_bad_frame_does_not_take_the_good_one_before_it_along() {
        let mut buffer = BytesMut::new();
        put(&mut buffer, 2, b"good");
        buffer.extend_from_slice(&[9; 8]);
        let run = take_run(&mut buffer, usize::MAX).unwrap().unwrap();
        assert_eq!((run.frames(), run.payload_len()), (1, 4));
        assert_eq!(
            take_run(&mut buffer, usize::MAX).unwrap_err(),
            FrameError::UnknownType(9)
        );
    }

    #[test]
    fn data_and_datagrams_are_runs_of_their_own() {
        let mut buffer = BytesMut::new();
        put(&mut buffer, 2, b"data");
        for _ in 0..2 {
            let head = header(FrameKind::Datagram, CircuitId(2), 3).unwrap();
            buffer.extend_from_slice(&head);
            buffer.extend_from_slice(b"may");
        }
        put(&mut buffer, 2, b"more");
        let mut runs = Vec::new();
        while let Some(run) = take_run(&mut buffer, usize::MAX).unwrap() {
            runs.push((run.kind(), run.frames()));
            // The kind stays with the frames.
            let header = Header::peek(&run.rewrite(CircuitId(4))).unwrap().unwrap();
            assert_eq!((header.kind, header.circuit.0), (runs[runs.len() - 1].0, 4));
        }
        let (data, datagram) = (FrameKind::Data, FrameKind::Datagram);
        assert_eq!(runs, [(data, 1), (datagram, 2), (data, 1)]);
    }

    #[test]
    fn a_run_is_split_off_and_rewritten_in_place() {
        let mut buffer = BytesMut::new();
        put(&mut buffer, 2, b"one");
        put(&mut buffer, 2, b"");
        put(&mut buffer, 4, b"other");
        let before = buffer.as_ptr();
        let run = take_run(&mut buffer, usize::MAX).unwrap().unwrap();
        assert_eq!(
            (run.circuit(), run.frames(), run.payload_len()),
            (CircuitId(2), 2, 3)
        );
        let mut bytes = run.rewrite(CircuitId(7));
        assert_eq!(bytes.as_ptr(), before, "not copied");
        let mut again = take_run(&mut bytes, usize::MAX).unwrap().unwrap();
        assert_eq!((again.circuit(), again.frames()), (CircuitId(7), 2));
        assert_eq!(&again.next_payload().unwrap()[..], b"one");
        assert_eq!(&again.next_payload().unwrap()[..], b"");
        assert!(again.next_payload().is_none());
        assert_eq!(
            take_run(&mut buffer, 1).unwrap().unwrap().circuit(),
            CircuitId(4)
        );
        assert!(buffer.is_empty());
    }

    proptest! {
        /// However the bytes arrive, each circuit gets its payloads, in order.
        #[test]
        fn any_cut_of_the_stream_gives_the_same_frames(
            frames in vec((0u32..4, vec(any::<u8>(), 0..40)), 0..20),
            cuts in vec(1usize..50, 1..60),
            max in 1usize..200,
        ) {
            let mut stream = BytesMut::new();
            for (circuit, payload) in &frames {
                put(&mut stream, *circuit, payload);
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while !stream.is_empty() {
                let size = cuts.next().unwrap_or(1).min(stream.len());
                buffer.extend_from_slice(&stream.split_to(size));
                while let Some(mut run) = take_run(&mut buffer, max).unwrap() {
                    let circuit = run.circuit().0;
                    while let Some(payload) = run.next_payload() {
                        got.push((circuit, payload.to_vec()));
                    }
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(run)) = take_run(&mut buffer, 100) {
                let (frames, length) = (run.frames(), run.payload_len());
                prop_assert_eq!(run.rewrite(CircuitId(1)).len(), frames * LINK_HEADER + length);
            }
        }
    }
}
