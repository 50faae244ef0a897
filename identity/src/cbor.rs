//! Deterministic CBOR (RFC 8949 section 4.2.1), checked before it is decoded.
//!
//! [`check`] walks over the bytes without allocating: one data item, shortest
//! lengths, no indefinite ones, map keys in order and none twice, valid UTF-8,
//! no floats, bounded depth and number of items. So the decoder behind it only
//! ever sees input of one spelling and of known cost, and a value that was
//! decoded encodes to the same bytes again.

use std::collections::BTreeMap;

use ciborium::Value;

use crate::limits;

/// Input that is not deterministic CBOR within the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not deterministic CBOR within the bounds")]
pub(crate) struct CborError;

/// Encodes `value` with map keys in order.
pub(crate) fn encode(value: Value) -> Vec<u8> {
    encode_sorted(&sort(value))
}

/// Decodes `bytes` after [`check`] has passed them.
pub(crate) fn decode(bytes: &[u8], max_len: usize) -> Result<Value, CborError> {
    check(bytes, max_len)?;
    ciborium::from_reader(bytes).map_err(|_| CborError)
}

/// Whether `bytes` are exactly one data item in deterministic CBOR, of at most
/// `max_len` bytes, [`limits::CBOR_DEPTH`] deep and [`limits::CBOR_ITEMS`] items.
pub(crate) fn check(bytes: &[u8], max_len: usize) -> Result<(), CborError> {
    if bytes.len() > max_len {
        return Err(CborError);
    }
    let mut walk = Walk {
        rest: bytes,
        items: 0,
    };
    walk.item(limits::CBOR_DEPTH)?;
    if walk.rest.is_empty() {
        Ok(())
    } else {
        Err(CborError)
    }
}

/// An unsigned integer.
pub(crate) fn uint(n: u64) -> Value {
    Value::Integer(n.into())
}

/// A map with integer keys.
pub(crate) fn map<const N: usize>(fields: [(u64, Value); N]) -> Value {
    Value::Map(
        fields
            .into_iter()
            .map(|(key, value)| (uint(key), value))
            .collect(),
    )
}

/// The fields of a map with small unsigned keys, taken out one by one. Unknown
/// ones are left alone: a later version may add some.
pub(crate) struct Fields(BTreeMap<u64, Value>);

impl Fields {
    pub(crate) fn new(value: Value) -> Result<Self, CborError> {
        let Value::Map(entries) = value else {
            return Err(CborError);
        };
        let entry = |(key, value): (Value, Value)| Ok((as_uint(&key)?, value));
        Ok(Self(
            entries.into_iter().map(entry).collect::<Result<_, _>>()?,
        ))
    }

    pub(crate) fn uint(&mut self, key: u64) -> Result<u64, CborError> {
        as_uint(&self.value(key)?)
    }

    pub(crate) fn text(&mut self, key: u64) -> Result<String, CborError> {
        self.value(key)?.into_text().map_err(|_| CborError)
    }

    pub(crate) fn bytes(&mut self, key: u64) -> Result<Vec<u8>, CborError> {
        self.value(key)?.into_bytes().map_err(|_| CborError)
    }

    pub(crate) fn array(&mut self, key: u64) -> Result<Vec<Value>, CborError> {
        self.value(key)?.into_array().map_err(|_| CborError)
    }

    fn value(&mut self, key: u64) -> Result<Value, CborError> {
        self.0.remove(&key).ok_or(CborError)
    }
}

struct Walk<'a> {
    rest: &'a [u8],
    items: usize,
}

impl<'a> Walk<'a> {
    /// Walks over one data item that may nest `depth` levels deep.
    fn item(&mut self, depth: usize) -> Result<(), CborError> {
        self.items += 1;
        let depth = depth.checked_sub(1).ok_or(CborError)?;
        if self.items > limits::CBOR_ITEMS {
            return Err(CborError);
        }
        let (major, argument) = self.head()?;
        match major {
            UINT | NINT => Ok(()),
            BYTES => self.take(argument).map(|_| ()),
            TEXT => {
                let text = self.take(argument)?;
                std::str::from_utf8(text).map(|_| ()).map_err(|_| CborError)
            }
            ARRAY => {
                for _ in 0..argument {
                    self.item(depth)?;
                }
                Ok(())
            }
            MAP => self.entries(argument, depth),
            TAG => self.item(depth),
            // false, true and null; no floats, no other simple values.
            SIMPLE if (20..=22).contains(&argument) => Ok(()),
            _ => Err(CborError),
        }
    }

    fn entries(&mut self, count: u64, depth: usize) -> Result<(), CborError> {
        let mut last: &[u8] = &[];
        for _ in 0..count {
            let before = self.rest;
            self.item(depth)?;
            let key = &before[..before.len() - self.rest.len()];
            if key <= last {
                return Err(CborError);
            }
            last = key;
            self.item(depth)?;
        }
        Ok(())
    }

    /// Major type and argument of the next item, if written in the shortest way.
    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 0x1f);
        let (width, least) = match info {
            0..=23 => return Ok((major, u64::from(info))),
            // Floats and two-byte simple values share these codes.
            _ if major == SIMPLE => return Err(CborError),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => return Err(CborError),
        };
        let argument = self
            .take(width)?
            .iter()
            .fold(0, |n, &byte| n << 8 | u64::from(byte));
        if argument < least {
            Err(CborError)
        } else {
            Ok((major, argument))
        }
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], CborError> {
        let len = usize::try_from(len).map_err(|_| CborError)?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CborError)?;
        self.rest = rest;
        Ok(taken)
    }
}

const UINT: u8 = 0;
const NINT: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

fn as_uint(value: &Value) -> Result<u64, CborError> {
    value
        .as_integer()
        .and_then(|n| n.try_into().ok())
        .ok_or(CborError)
}

fn sort(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sort).collect()),
        Value::Tag(tag, inner) => Value::Tag(tag, Box::new(sort(*inner))),
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries
                .into_iter()
                .map(|(key, value)| (sort(key), sort(value)))
                .collect();
            entries.sort_by_cached_key(|(key, _)| encode_sorted(key));
            Value::Map(entries)
        }
        scalar => scalar,
    }
}

fn encode_sorted(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("writing to a Vec does not fail");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_deterministic() {
        for good in [
            "00",
            "17",
            "1818",
            "190100",
            "1a00010000",
            "1b0000000100000000",
            "20",
            "40",
            "4101",
            "6161",
            "80",
            "820102",
            "a0",
            "a20102200a",
            "a201020304",
            "d28440a04040",
            "f4",
            "f5",
            "f6",
        ] {
            assert_eq!(check(&hex(good), 64), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_not() {
        for (bad, why) in [
            ("", "nothing"),
            ("0000", "two items"),
            ("1817", "23 in two bytes"),
            ("1900ff", "255 in three bytes"),
            ("1a0000ffff", "65535 in five bytes"),
            ("1b00000000ffffffff", "2^32-1 in nine bytes"),
            ("5801ff", "length 1 in two bytes"),
            ("5f41014102ff", "indefinite bytes"),
            ("9f01ff", "indefinite array"),
            ("bf0102ff", "indefinite map"),
            ("a201020103", "key twice"),
            ("a203040102", "keys out of order"),
            ("a2200a0102", "negative key before a positive one"),
            ("61ff", "not UTF-8"),
            ("f93c00", "half float"),
            ("fb3ff0000000000000", "float"),
            ("f7", "undefined"),
            ("f820", "simple value 32"),
            ("1c", "reserved"),
            ("8201", "array too short"),
            ("4201", "bytes too short"),
            ("9bffffffffffffffff", "array of 2^64-1"),
            ("5bffffffffffffffff", "bytes of 2^64-1"),
            ("81818181818100", "seven deep"),
        ] {
            assert_eq!(check(&hex(bad), 64), Err(CborError), "{why}");
        }
        assert_eq!(check(&[0x40], 0), Err(CborError), "longer than the bound");
        let many = [&[0x99, 0x01, 0x00][..], &[0; 256]].concat();
        assert_eq!(check(&many, 1024), Err(CborError), "257 items");
    }

    proptest! {
        #[test]
        fn garbage_is_survived_and_what_passes_has_one_spelling(
            bytes in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            if let Ok(value) = decode(&bytes, 64) {
                prop_assert_eq!(encode(value), bytes);
            }
        }
    }
}
