//! The one way in which a message becomes bytes and back.
//!
//! A message on a stream is `length: u32 big endian`, `version: u8`, then the
//! message in CBOR. The length counts the version byte and the CBOR. Within a
//! version, fields may be added when they are optional (unknown ones are
//! skipped); anything else is a new version.

use bytes::{Buf, BytesMut};
use minicbor::{Decode, Encode};
use thiserror::Error;

/// The version of all messages that this build speaks.
pub const VERSION: u8 = 1;

/// Bytes of the length prefix.
const PREFIX: usize = 4;

/// A message with its own size limit and its own rules beyond the syntax.
pub trait Message: Encode<()> + for<'b> Decode<'b, ()> + Sized {
    /// Largest encoding in bytes, version byte included.
    const MAX: usize;

    /// The rules that the types alone do not express, such as list lengths.
    fn check(&self) -> Result<(), Violation>;

    /// The message as version byte and CBOR, without a length.
    fn to_bytes(&self) -> Result<Vec<u8>, EncodeError> {
        self.check()?;
        let mut out = vec![VERSION];
        minicbor::encode(self, &mut out).expect("encoding into a Vec cannot fail");
        if out.len() > Self::MAX {
            return Err(EncodeError::TooLarge {
                size: out.len(),
                max: Self::MAX,
            });
        }
        Ok(out)
    }

    /// Reads what [`Message::to_bytes`] wrote, all of it.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > Self::MAX {
            return Err(DecodeError::TooLarge {
                size: bytes.len(),
                max: Self::MAX,
            });
        }
        let (&version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
        if version != VERSION {
            return Err(DecodeError::Version { got: version });
        }
        let mut decoder = minicbor::Decoder::new(body);
        let message: Self = decoder.decode()?;
        if decoder.position() != body.len() {
            return Err(DecodeError::TrailingBytes);
        }
        message.check()?;
        Ok(message)
    }
}

/// The message with its length in front, ready to be written to a stream.
pub fn frame<M: Message>(message: &M) -> Result<Vec<u8>, EncodeError> {
    let body = message.to_bytes()?;
    let length = u32::try_from(body.len()).map_err(|_| EncodeError::TooLarge {
        size: body.len(),
        max: M::MAX,
    })?;
    let mut out = Vec::with_capacity(PREFIX + body.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Takes the bytes of a stream as they come and gives whole messages.
///
/// After each [`push`](Self::push), call [`next_message`](Self::next_message) until it answers
/// `None`: then it holds less than one message of the type last asked for.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// An empty reader.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they arrived. Their number is the caller's read size;
    /// the reader itself never holds back more than one message.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` when more bytes are needed.
    ///
    /// A length beyond `M::MAX` is an error as soon as the prefix is there. An
    /// error is final: the stream has lost its framing and must be reset.
    pub fn next_message<M: Message>(&mut self) -> Result<Option<M>, DecodeError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > M::MAX {
            return Err(DecodeError::TooLarge {
                size: length,
                max: M::MAX,
            });
        }
        if self.buffer.len() - PREFIX < length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let body = self.buffer.split_to(length);
        M::from_bytes(&body).map(Some)
    }

    /// What came after the last whole message; for protocols that change from
    /// messages to raw bytes.
    pub fn into_rest(self) -> BytesMut {
        self.buffer
    }

    /// Whether the reader is between two messages; at the end of a stream
    /// anything else is a truncation.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// A rule of a message that is broken; the text names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Violation(pub &'static str);

/// Our own message cannot be sent: a bug or a limit reached on our side.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The encoding is larger than the type allows.
    #[error("message of {size} bytes is larger than its limit of {max}; send less at once")]
    TooLarge {
        /// Bytes of the encoding.
        size: usize,
        /// The limit of this message type, in bytes.
        max: usize,
    },
    /// A rule of the message is broken.
    #[error("message breaks a rule of its own")]
    Rule(#[from] Violation),
}

/// The peer's fault: bytes that are no message.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Not even a version byte.
    #[error("empty message")]
    Empty,
    /// Made by a build that speaks another version.
    #[error(
        "message version {got} is not supported (this build speaks {VERSION}); update the older side"
    )]
    Version {
        /// The version byte that came.
        got: u8,
    },
    /// The announced or actual size is beyond the limit.
    #[error("message of {size} bytes is larger than its limit of {max}")]
    TooLarge {
        /// Bytes announced or there.
        size: usize,
        /// The limit of this message type, in bytes.
        max: usize,
    },
    /// Not the CBOR that the message type wants.
    #[error("malformed message")]
    Malformed(#[from] minicbor::decode::Error),
    /// Bytes after the end of the message.
    #[error("bytes after the end of the message")]
    TrailingBytes,
    /// Well-formed, but a rule is broken.
    #[error("message breaks a rule")]
    Rule(#[from] Violation),
}

/// `#[cbor(with = "crate::wire::text")]`: a domain type by its text form.
pub(crate) mod text {
    use std::fmt::{Display, Write as _};
    use std::str::FromStr;

    use minicbor::decode::{self, Decoder};
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn encode<C, T: Display, W: Write>(
        value: &T,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let mut text = String::new();
        write!(text, "{value}").expect("writing to a String cannot fail");
        e.str(&text)?.ok()
    }

    pub(crate) fn decode<'b, C, T: FromStr>(
        d: &mut Decoder<'b>,
        _: &mut C,
    ) -> Result<T, decode::Error> {
        let at = d.position();
        d.str()?
            .parse()
            .map_err(|_| decode::Error::message("text is not valid here").at(at))
    }
}

/// `#[cbor(with = "crate::wire::texts")]`: a list of them.
pub(crate) mod texts {
    use std::fmt::Display;
    use std::str::FromStr;

    use minicbor::decode::{self, Decoder};
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn encode<C, T: Display, W: Write>(
        values: &[T],
        e: &mut Encoder<W>,
        c: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.array(values.len() as u64)?;
        for value in values {
            super::text::encode(value, e, c)?;
        }
        Ok(())
    }

    pub(crate) fn decode<'b, C, T: FromStr>(
        d: &mut Decoder<'b>,
        c: &mut C,
    ) -> Result<Vec<T>, decode::Error> {
        let at = d.position();
        let count = d
            .array()?
            .ok_or_else(|| decode::Error::message("list without a length").at(at))?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(super::text::decode(d, c)?);
        }
        Ok(out)
    }
}

/// A public key as its COSE_Key in a byte string.
pub(crate) mod key {
    use fairway_identity::VerifyingKey;
    use minicbor::decode::{self, Decoder};
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn encode<C, W: Write>(
        value: &VerifyingKey,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&value.to_cose_key())?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<VerifyingKey, decode::Error> {
        let at = d.position();
        VerifyingKey::from_cose_key(d.bytes()?)
            .map_err(|_| decode::Error::message("not a public key").at(at))
    }
}

/// A time as an unsigned integer.
pub(crate) mod time {
    use fairway_identity::UnixSeconds;
    use minicbor::decode::{self, Decoder};
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn encode<C, W: Write>(
        value: &UnixSeconds,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.u64(value.0)?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<UnixSeconds, decode::Error> {
        d.u64().map(UnixSeconds)
    }
}

/// A Kubernetes UID as text.
pub(crate) mod uid {
    use fairway_identity::Uid;
    use minicbor::decode::{self, Decoder};
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn encode<C, W: Write>(
        value: &Uid,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.str(value.as_str())?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Uid, decode::Error> {
        let at = d.position();
        Uid::new(d.str()?).map_err(|_| decode::Error::message("not a UID").at(at))
    }
}

/// A credential's serial as a byte string.
pub(crate) mod serial {
    use fairway_identity::Serial;
    use minicbor::decode::{self, Decoder};
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn encode<C, W: Write>(
        value: &Serial,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&value.0)?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Serial, decode::Error> {
        minicbor::bytes::decode(d, &mut ()).map(Serial)
    }
}

/// Checks a list's length; `what` names the rule.
pub(crate) fn at_most<T>(list: &[T], max: usize, what: &'static str) -> Result<(), Violation> {
    if list.len() > max {
        Err(Violation(what))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::ToEndpoint;

    #[test]
    fn a_reader_waits_for_whole_messages_and_keeps_the_rest() {
        let one = frame(&ToEndpoint::Drain).unwrap();
        let mut reader = FrameReader::new();
        reader.push(&[&one[..], &one[..], b"raw"].concat());
        assert_eq!(reader.next_message().unwrap(), Some(ToEndpoint::Drain));
        assert_eq!(reader.next_message().unwrap(), Some(ToEndpoint::Drain));
        assert!(!reader.is_empty());
        assert_eq!(&reader.into_rest()[..], b"raw");
    }

    #[test]
    fn an_empty_message_is_an_error() {
        let mut reader = FrameReader::new();
        reader.push(&0u32.to_be_bytes());
        assert!(matches!(
            reader.next_message::<ToEndpoint>(),
            Err(DecodeError::Empty)
        ));
    }

    #[test]
    fn version_1_of_the_smallest_message_stays_as_it_is() {
        // A change of these bytes breaks deployed peers.
        assert_eq!(
            frame(&ToEndpoint::Drain).unwrap(),
            [0, 0, 0, 4, 1, 0x82, 7, 0x80]
        );
    }
}
