//! Records: frames sealed with AES-256-GCM (SPEC.md section 5).
//!
//! The packet number is explicit and never used twice under a key. A byte is
//! copied once, from where the data lies to where it is sent from, and sealed
//! there; opening happens in place.

use bytes::{Buf, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::{
    crypto::{self, Aes256Gcm, CryptoError, NONCE_LEN, TAG_LEN},
    limits, packet,
    path::{ATTACH_PREFIX, ConnectionId},
    replay::Replay,
};

/// Type and packet number.
pub(crate) const HEADER_LEN: usize = 9;

/// What stands before the header of a record, and is authenticated with it:
/// nothing, or what makes it an ATTACH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    None,
    Attach,
}

impl Prefix {
    const fn of(attach: Option<&ConnectionId>) -> Self {
        match attach {
            None => Self::None,
            Some(_) => Self::Attach,
        }
    }

    const fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Attach => ATTACH_PREFIX,
        }
    }
}

/// Key and IV of one direction.
#[derive(Clone)]
pub(crate) struct RecordKey {
    key: Zeroizing<[u8; 32]>,
    iv: Zeroizing<[u8; NONCE_LEN]>,
}

impl RecordKey {
    /// From one half of the split and the handshake hash, and for a renewal
    /// from the secret of the epoch before (empty for the first).
    pub(crate) fn derive(split: &[u8; 32], handshake_hash: &[u8; 32], before: &[u8]) -> Self {
        let ikm = Zeroizing::new([split, before].concat());
        Self {
            key: crypto::hkdf(handshake_hash, &ikm, &[b"fairway/1 record key"]),
            iv: crypto::hkdf(handshake_hash, &ikm, &[b"fairway/1 record iv"]),
        }
    }

    /// For test vectors.
    #[cfg(test)]
    pub(crate) fn expose(&self) -> (&[u8; 32], &[u8; 12]) {
        (&self.key, &self.iv)
    }
}

/// A [`RecordKey`] made ready for use. The cipher's own state is large beside
/// it (600 bytes) and cheap to make, so a channel that is quiet goes without.
/// It is made again at the next packet, be it forged: the one allocation that
/// an unauthenticated record can cause, once and of this size.
struct Cipher {
    record: RecordKey,
    ready: Option<Box<Aes256Gcm>>,
}

impl Cipher {
    fn new(record: &RecordKey) -> Self {
        Self {
            record: record.clone(),
            ready: None,
        }
    }

    fn nonce(&self, number: u64) -> [u8; NONCE_LEN] {
        nonce(&self.record.iv, number)
    }

    fn key(&mut self) -> &Aes256Gcm {
        self.ready
            .get_or_insert_with(|| Box::new(Aes256Gcm::new(&self.record.key)))
    }
}

/// The sending direction.
pub(crate) struct Sealer {
    cipher: Cipher,
    /// The type byte of this epoch's records.
    kind: u8,
    next: u64,
    /// The first number under this key.
    since: u64,
    /// Bytes of plaintext under this key.
    bytes: u64,
}

impl Sealer {
    /// Of the first epoch.
    pub(crate) fn new(key: &RecordKey) -> Self {
        Self {
            cipher: Cipher::new(key),
            kind: packet::RECORD,
            next: 0,
            since: 0,
            bytes: 0,
        }
    }

    /// Goes over to the key of the next epoch; the old one is wiped. Packet
    /// numbers go on.
    pub(crate) fn switch(&mut self, key: &RecordKey) {
        self.cipher = Cipher::new(key);
        self.kind = other_kind(self.kind);
        self.since = self.next;
        self.bytes = 0;
    }

    /// Gives up the cipher's state until it is needed again.
    pub(crate) fn release_memory(&mut self) {
        self.cipher.ready = None;
    }

    /// The number that the next record gets, which is also how many were
    /// sealed in all.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// How many were sealed under this key.
    pub(crate) fn sealed(&self) -> u64 {
        self.next - self.since
    }

    /// How many bytes of plaintext were sealed under this key.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.bytes
    }

    /// Seals a record (an ATTACH, if a connection id is given) whose plaintext
    /// is `frames` and then `data`, from where they lie into `out`, which has
    /// [`sealed_len`] bytes. `None` when the key is used up: no number is ever
    /// used twice.
    #[must_use]
    pub(crate) fn seal(
        &mut self,
        attach: Option<&ConnectionId>,
        frames: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Option<u64> {
        let number = self.next;
        if self.sealed() >= limits::MAX_KEY_RECORDS || number > limits::MAX_PACKET_NUMBER {
            return None;
        }
        self.next += 1;
        self.bytes += out.len() as u64;
        let (clear, sealed) = out.split_at_mut(Prefix::of(attach).len() + HEADER_LEN);
        let (prefix, header) = clear.split_at_mut(clear.len() - HEADER_LEN);
        if let (Some(id), Some((kind, rest))) = (attach, prefix.split_first_mut()) {
            *kind = packet::ATTACH;
            rest.copy_from_slice(id.as_bytes());
        }
        header.copy_from_slice(&header_of(self.kind, number));
        let nonce = self.cipher.nonce(number);
        let key = self.cipher.key();
        key.seal(nonce, clear, [frames, data], sealed);
        Some(number)
    }

    /// The same into a buffer of its own, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn seal_alone(
        &mut self,
        attach: Option<&ConnectionId>,
        text: &[u8],
    ) -> Option<Vec<u8>> {
        let mut out = vec![0xff; sealed_len(attach, text.len())];
        let (frames, data) = text.split_at(text.len() / 3);
        self.seal(attach, frames, data, &mut out)?;
        Some(out)
    }
}

/// Bytes of a sealed record (or ATTACH) with `text` bytes of plaintext.
pub(crate) fn sealed_len(attach: Option<&ConnectionId>, text: usize) -> usize {
    Prefix::of(attach).len() + HEADER_LEN + text + TAG_LEN
}

/// Why a record was dropped. Nothing has been allocated or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Too short, too long, of another kind, or not authentic.
    Forged,
    /// Seen before, or too old to know.
    Replayed,
}

/// A record that was authentic and new.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) number: u64,
    pub(crate) text: Bytes,
    /// Whether it was sealed under the epoch that [`Opener::expect`] announced.
    pub(crate) expected: bool,
}

/// The receiving direction.
pub(crate) struct Opener {
    cipher: Cipher,
    kind: u8,
    /// The epoch before, or the next one, while both can be read.
    other: Option<Box<Other>>,
    replay: Replay,
}

struct Other {
    cipher: Cipher,
    /// It is the next one.
    expected: bool,
}

impl Opener {
    /// Of the first epoch.
    pub(crate) fn new(key: &RecordKey) -> Self {
        Self {
            cipher: Cipher::new(key),
            kind: packet::RECORD,
            other: None,
            replay: Replay::default(),
        }
    }

    /// From now on the next epoch can be read too, and the one before the
    /// present one no more.
    pub(crate) fn expect(&mut self, key: &RecordKey) {
        self.other = Some(Box::new(Other {
            cipher: Cipher::new(key),
            expected: true,
        }));
    }

    /// The next epoch was announced, and no record of it has come.
    pub(crate) fn is_expecting(&self) -> bool {
        self.other.as_ref().is_some_and(|other| other.expected)
    }

    /// The expected epoch is the present one; what was can still be read.
    pub(crate) fn advance(&mut self) {
        if let Some(other) = self.other.as_mut().filter(|other| other.expected) {
            core::mem::swap(&mut self.cipher, &mut other.cipher);
            other.expected = false;
            self.kind = other_kind(self.kind);
        }
    }

    /// The epoch before can be read no more, and its key is wiped.
    pub(crate) fn retire(&mut self) {
        self.other = self.other.take().filter(|other| other.expected);
    }

    /// Gives up the cipher's state until it is needed again, and no longer
    /// waits for records that have not come.
    pub(crate) fn release_memory(&mut self) {
        self.cipher.ready = None;
        if let Some(other) = &mut self.other {
            other.cipher.ready = None;
        }
        self.replay.forget();
    }

    /// Opens a record in place.
    pub(crate) fn open(&mut self, mut packet: BytesMut, prefix: Prefix) -> Result<Opened, Dropped> {
        let clear_len = prefix.len() + HEADER_LEN;
        if packet.len() > limits::MAX_PACKET || packet.len() < clear_len + TAG_LEN {
            return Err(Dropped::Forged);
        }
        let (clear, sealed) = packet.split_at_mut(clear_len);
        let Some(&[kind, number @ ..]) = clear[prefix.len()..].first_chunk::<HEADER_LEN>() else {
            return Err(Dropped::Forged);
        };
        let number = u64::from_be_bytes(number);
        if number > limits::MAX_PACKET_NUMBER {
            return Err(Dropped::Forged);
        }
        if !self.replay.is_new(number) {
            return Err(Dropped::Replayed);
        }
        let (cipher, expected) = match &mut self.other {
            _ if kind == self.kind => (&mut self.cipher, false),
            Some(other) if kind == other_kind(self.kind) => (&mut other.cipher, other.expected),
            Some(_) | None => return Err(Dropped::Forged),
        };
        let nonce = cipher.nonce(number);
        let length = cipher
            .key()
            .open(nonce, clear, sealed)
            .map_err(|CryptoError| Dropped::Forged)?
            .len();
        self.replay.mark(number);
        packet.advance(clear_len);
        packet.truncate(length);
        Ok(Opened {
            number,
            text: packet.freeze(),
            expected,
        })
    }
}

const fn other_kind(kind: u8) -> u8 {
    kind ^ packet::RECORD ^ packet::RECORD_ODD
}

fn header_of(kind: u8, number: u64) -> [u8; HEADER_LEN] {
    let mut header = [kind; HEADER_LEN];
    header[1..].copy_from_slice(&number.to_be_bytes());
    header
}

/// The IV with the packet number over its last eight bytes (RFC 8446 section 5.3).
fn nonce(iv: &[u8; NONCE_LEN], number: u64) -> [u8; NONCE_LEN] {
    let mut nonce = *iv;
    for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= number;
    }
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> RecordKey {
        RecordKey::derive(&[byte; 32], &[2; 32], b"")
    }

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(&key(1)), Opener::new(&key(1)))
    }

    fn sealed(sealer: &mut Sealer, text: &[u8]) -> Vec<u8> {
        sealer.seal_alone(None, text).unwrap()
    }

    fn open(opener: &mut Opener, record: &[u8]) -> Result<Opened, Dropped> {
        opener.open(BytesMut::from(record), Prefix::None)
    }

    #[test]
    fn what_is_sealed_opens_once() {
        let (mut sealer, mut opener) = pair();
        for text in [&b""[..], b"x", &[7; limits::MAX_RECORD_PLAINTEXT]] {
            let record = sealed(&mut sealer, text);
            assert_eq!(record.len(), text.len() + limits::RECORD_OVERHEAD);
            assert_eq!(open(&mut opener, &record).unwrap().text, text);
            sealer.release_memory();
            opener.release_memory();
            assert_eq!(open(&mut opener, &record), Err(Dropped::Replayed));
        }
    }

    #[test]
    fn damage_anywhere_is_found_and_changes_nothing() {
        let (mut sealer, mut opener) = pair();
        let record = sealed(&mut sealer, b"some frames");
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 1;
            assert_eq!(open(&mut opener, &damaged), Err(Dropped::Forged));
            let short = open(&mut opener, &record[..at]);
            assert_eq!(short, Err(Dropped::Forged), "cut at {at}");
        }
        assert!(open(&mut opener, &record).is_ok());
    }

    #[test]
    fn an_attach_is_no_record_and_a_record_no_attach() {
        let (mut sealer, mut opener) = pair();
        let id = ConnectionId::derive(&[5; 32]);
        let attach = sealer.seal_alone(Some(&id), b"text").unwrap();
        let plain = sealed(&mut sealer, b"text");

        let wrapped = [&attach[..ATTACH_PREFIX], &plain].concat();
        let forged = opener.open(BytesMut::from(&wrapped[..]), Prefix::Attach);
        assert_eq!(forged, Err(Dropped::Forged));
        let bare = open(&mut opener, &attach[ATTACH_PREFIX..]);
        assert_eq!(bare, Err(Dropped::Forged));
        let mut other = attach.clone();
        other[1] ^= 1;
        let forged = opener.open(BytesMut::from(&other[..]), Prefix::Attach);
        assert_eq!(forged, Err(Dropped::Forged));

        let opened = opener.open(BytesMut::from(&attach[..]), Prefix::Attach);
        assert_eq!(opened.unwrap().text, b"text"[..]);
        assert!(open(&mut opener, &plain).is_ok());
    }

    #[test]
    fn two_epochs_can_be_read_and_numbers_go_on() {
        let (mut sealer, mut opener) = pair();
        let records = [b"0", b"1"].map(|text| sealed(&mut sealer, text));
        sealer.switch(&key(3));
        let next = sealed(&mut sealer, b"2");
        assert_eq!((sealer.next_number(), sealer.sealed()), (3, 1));
        assert_eq!((next[0], next[8]), (packet::RECORD_ODD, 2));
        assert_eq!(open(&mut opener, &next), Err(Dropped::Forged), "unknown");

        opener.expect(&key(3));
        assert!(open(&mut opener, &next).unwrap().expected);
        opener.advance();
        assert!(!open(&mut opener, &records[0]).unwrap().expected);
        assert_eq!(open(&mut opener, &next), Err(Dropped::Replayed));
        opener.retire();
        assert_eq!(open(&mut opener, &records[1]), Err(Dropped::Forged));
        let after = sealed(&mut sealer, b"3");
        assert_eq!(open(&mut opener, &after).unwrap().number, 3);
    }

    #[test]
    fn a_forged_number_does_not_move_the_window() {
        let (mut sealer, mut opener) = pair();
        let record = sealed(&mut sealer, b"first");
        let mut far = record.clone();
        for number in [1 << 40, limits::MAX_PACKET_NUMBER, u64::MAX] {
            far[1..9].copy_from_slice(&number.to_be_bytes());
            assert_eq!(open(&mut opener, &far), Err(Dropped::Forged));
        }
        assert!(open(&mut opener, &record).is_ok());
    }

    #[test]
    fn a_used_up_key_seals_no_more_until_the_next() {
        let (mut sealer, _) = pair();
        sealer.next = limits::MAX_KEY_RECORDS;
        let mut out = [0; limits::RECORD_OVERHEAD];
        assert_eq!(sealer.seal(None, &[], &[], &mut out), None);
        sealer.switch(&key(2));
        let number = sealer.seal(None, &[], &[], &mut out);
        assert_eq!(number, Some(limits::MAX_KEY_RECORDS));
    }
}
