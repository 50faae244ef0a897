//! Records: frames sealed with AES-256-GCM (SPEC.md section 5).
//!
//! The packet number is explicit and never used twice under a key; sealing
//! and opening happen in place.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use bytes::{Buf, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::{
    crypto::{self, TAG_LEN},
    limits, packet,
    replay::Replay,
};

/// Type and packet number.
pub(crate) const HEADER_LEN: usize = 9;

/// Key and IV of one direction.
#[derive(Clone)]
pub(crate) struct RecordKey {
    key: Zeroizing<[u8; 32]>,
    iv: Zeroizing<[u8; 12]>,
}

impl RecordKey {
    /// From one half of the split and the handshake hash.
    pub(crate) fn derive(split: &[u8; 32], handshake_hash: &[u8; 32]) -> Self {
        Self {
            key: crypto::hkdf(handshake_hash, split, &[b"fairway/1 record key"]),
            iv: crypto::hkdf(handshake_hash, split, &[b"fairway/1 record iv"]),
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
    ready: Option<LessSafeKey>,
}

impl Cipher {
    fn new(record: &RecordKey) -> Self {
        Self {
            record: record.clone(),
            ready: None,
        }
    }

    fn nonce(&self, number: u64) -> Nonce {
        nonce(&self.record.iv, number)
    }

    fn key(&mut self) -> &LessSafeKey {
        self.ready
            .get_or_insert_with(|| crypto::aes_256_gcm(&self.record.key))
    }
}

/// The sending direction.
pub(crate) struct Sealer {
    cipher: Cipher,
    next: u64,
}

impl Sealer {
    pub(crate) fn new(key: &RecordKey) -> Self {
        Self {
            cipher: Cipher::new(key),
            next: 0,
        }
    }

    /// Gives up the cipher's state until it is needed again.
    pub(crate) fn release_memory(&mut self) {
        self.cipher.ready = None;
    }

    /// The number that the next record gets, which is also how many were sealed.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// Appends an empty header; the plaintext goes behind it.
    pub(crate) fn begin(out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; HEADER_LEN]);
    }

    /// Seals the record that starts at `start` and runs to the end of `out`.
    /// `None` when the key is used up: no number is ever used twice.
    #[must_use]
    pub(crate) fn seal(&mut self, out: &mut Vec<u8>, start: usize) -> Option<u64> {
        let number = self.next;
        if number >= limits::MAX_KEY_RECORDS {
            return None;
        }
        self.next += 1;
        let (header, text) = out[start..].split_first_chunk_mut::<HEADER_LEN>()?;
        *header = header_of(number);
        let nonce = self.cipher.nonce(number);
        let tag = self
            .cipher
            .key()
            .seal_in_place_separate_tag(nonce, Aad::from(&*header), text)
            .expect("a record is far shorter than AES-GCM allows");
        out.extend_from_slice(tag.as_ref());
        Some(number)
    }
}

/// Why a record was dropped. Nothing has been allocated or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Too short, too long, of another kind, or not authentic.
    Forged,
    /// Seen before, or too old to know.
    Replayed,
}

/// The receiving direction.
pub(crate) struct Opener {
    cipher: Cipher,
    replay: Replay,
}

impl Opener {
    pub(crate) fn new(key: &RecordKey) -> Self {
        Self {
            cipher: Cipher::new(key),
            replay: Replay::default(),
        }
    }

    /// Gives up the cipher's state until it is needed again.
    pub(crate) fn release_memory(&mut self) {
        self.cipher.ready = None;
    }

    /// Opens a record in place and gives its number and its plaintext.
    pub(crate) fn open(&mut self, mut packet: BytesMut) -> Result<(u64, Bytes), Dropped> {
        if packet.len() > limits::MAX_PACKET {
            return Err(Dropped::Forged);
        }
        let (header, sealed) = packet
            .split_first_chunk_mut::<HEADER_LEN>()
            .ok_or(Dropped::Forged)?;
        let [kind, number @ ..] = *header;
        let number = u64::from_be_bytes(number);
        if kind != packet::RECORD || sealed.len() < TAG_LEN || number >= limits::MAX_KEY_RECORDS {
            return Err(Dropped::Forged);
        }
        if !self.replay.is_new(number) {
            return Err(Dropped::Replayed);
        }
        let nonce = self.cipher.nonce(number);
        let length = self
            .cipher
            .key()
            .open_in_place(nonce, Aad::from(&*header), sealed)
            .map_err(|_| Dropped::Forged)?
            .len();
        self.replay.mark(number);
        packet.advance(HEADER_LEN);
        packet.truncate(length);
        Ok((number, packet.freeze()))
    }
}

fn header_of(number: u64) -> [u8; HEADER_LEN] {
    let mut header = [packet::RECORD; HEADER_LEN];
    header[1..].copy_from_slice(&number.to_be_bytes());
    header
}

/// The IV with the packet number over its last eight bytes (RFC 8446 section 5.3).
fn nonce(iv: &[u8; 12], number: u64) -> Nonce {
    let mut nonce = *iv;
    for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= number;
    }
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sealer, Opener) {
        let key = RecordKey::derive(&[1; 32], &[2; 32]);
        (Sealer::new(&key), Opener::new(&key))
    }

    fn sealed(sealer: &mut Sealer, text: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        Sealer::begin(&mut out);
        out.extend_from_slice(text);
        sealer.seal(&mut out, 6).unwrap();
        out.split_off(6)
    }

    #[test]
    fn what_is_sealed_opens_once() {
        let (mut sealer, mut opener) = pair();
        for text in [&b""[..], b"x", &[7; limits::MAX_RECORD_PLAINTEXT]] {
            let record = sealed(&mut sealer, text);
            assert_eq!(record.len(), text.len() + limits::RECORD_OVERHEAD);
            let (_, opened) = opener.open(BytesMut::from(&record[..])).unwrap();
            assert_eq!(opened, text);
            sealer.release_memory();
            opener.release_memory();
            assert_eq!(
                opener.open(BytesMut::from(&record[..])),
                Err(Dropped::Replayed)
            );
        }
    }

    #[test]
    fn damage_anywhere_is_found_and_changes_nothing() {
        let (mut sealer, mut opener) = pair();
        let record = sealed(&mut sealer, b"some frames");
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 1;
            assert_eq!(
                opener.open(BytesMut::from(&damaged[..])),
                Err(Dropped::Forged)
            );
            let short = BytesMut::from(&record[..at]);
            assert_eq!(opener.open(short), Err(Dropped::Forged), "cut at {at}");
        }
        assert!(opener.open(BytesMut::from(&record[..])).is_ok());
    }

    #[test]
    fn a_forged_number_does_not_move_the_window() {
        let (mut sealer, mut opener) = pair();
        let record = sealed(&mut sealer, b"first");
        let mut far = record.clone();
        far[1..9].copy_from_slice(&(limits::MAX_KEY_RECORDS - 1).to_be_bytes());
        assert_eq!(opener.open(BytesMut::from(&far[..])), Err(Dropped::Forged));
        far[1..9].copy_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(opener.open(BytesMut::from(&far[..])), Err(Dropped::Forged));
        assert!(opener.open(BytesMut::from(&record[..])).is_ok());
    }

    #[test]
    fn a_used_up_key_seals_no_more() {
        let (mut sealer, _) = pair();
        sealer.next = limits::MAX_KEY_RECORDS;
        let mut out = vec![0; HEADER_LEN];
        assert_eq!(sealer.seal(&mut out, 0), None);
    }
}
