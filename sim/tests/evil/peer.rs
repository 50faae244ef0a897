//! The evil peer's own handshake and records: written after channel/SPEC.md
//! over snow, so that every message can be made wrong.
//!
//! The primitives are the channel's (`crypto.rs`), with dice and
//! Diffie-Hellman keys that can be loaded.

use std::sync::atomic::{AtomicU8, Ordering};

use fairway_session::StaticSecret;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};

use crate::crypto::{self, Aes256Gcm, CT_LEN, KemKey, Resolver};

/// A key that is not a key: its public half is these bytes, and its shared
/// secrets are all zero, as with a point of small order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadKey(pub(crate) Vec<u8>);

/// How the handshake is spoiled from inside; by default not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trick {
    /// In place of the ephemeral key.
    pub(crate) ephemeral: Option<BadKey>,
    /// In place of the static key.
    pub(crate) fixed: Option<BadKey>,
    /// In place of the ML-KEM key or ciphertext.
    pub(crate) kem: Option<Vec<u8>>,
    /// In place of the psk that ML-KEM gives.
    pub(crate) psk: Option<[u8; 32]>,
}

/// One handshake, from the first message to the keys.
pub(crate) struct Noise {
    state: HandshakeState,
    kem: Option<KemKey>,
    /// What message 1 said.
    ek: Vec<u8>,
    trick: Trick,
}

/// What a handshake gives, whoever made it.
#[derive(Clone)]
pub(crate) struct Split {
    pub(crate) hash: [u8; 32],
    pub(crate) to_responder: Key,
    pub(crate) to_initiator: Key,
    pub(crate) secret: [u8; 32],
}

impl Noise {
    pub(crate) fn new(initiator: bool, secret: u8, prologue: &[u8], trick: Trick) -> Self {
        let secret = [secret; 32];
        let name = "Noise_XXpsk3_25519_AESGCM_SHA256".parse().unwrap();
        let resolver = Loaded {
            honest: Resolver::new(&[secret[0] ^ 0x55; 32]),
            trick: trick.clone(),
            keys_given: AtomicU8::new(0),
        };
        let builder = Builder::with_resolver(name, Box::new(resolver));
        let builder = builder.local_private_key(&secret).unwrap();
        let builder = builder.prologue(prologue).unwrap();
        let state = match initiator {
            true => builder.build_initiator().unwrap(),
            false => builder.build_responder().unwrap(),
        };
        Self {
            state,
            kem: None,
            ek: Vec::new(),
            trick,
        }
    }

    fn write(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; payload.len() + 200];
        let length = self.state.write_message(payload, &mut out).unwrap();
        out.truncate(length);
        out
    }

    fn read(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; message.len()];
        let length = self.state.read_message(message, &mut out).ok()?;
        out.truncate(length);
        Some(out)
    }

    fn mix(&mut self, shared: &[u8], ct: &[u8]) {
        let transcript = crypto::sha256(&[&self.ek, ct]);
        let psk = crypto::hkdf::<32>(b"fairway/1 ml-kem-768 psk", shared, &[&transcript]);
        let psk = self.trick.psk.unwrap_or(*psk);
        self.state.set_psk(3, &psk).unwrap();
    }

    /// Initiator: message 1.
    pub(crate) fn first(&mut self) -> Vec<u8> {
        let kem = KemKey::generate().unwrap();
        self.ek = match &self.trick.kem {
            Some(bad) => bad.clone(),
            None => kem.public.to_vec(),
        };
        self.kem = Some(kem);
        let ek = self.ek.clone();
        self.write(&ek)
    }

    /// Responder: message 2, after message 1.
    pub(crate) fn second(&mut self, first: &[u8], hello: &[u8]) -> Vec<u8> {
        self.ek = self.read(first).expect("the victim's is good");
        let good = crypto::encapsulate(&self.ek).unwrap();
        let ct = match &self.trick.kem {
            Some(bad) => bad.clone(),
            None => good.ciphertext.clone(),
        };
        let second = self.write(&[&ct[..], hello].concat());
        self.mix(&good.shared, &ct);
        second
    }

    /// Initiator: message 3, after message 2. What the responder's hello was
    /// comes with it.
    pub(crate) fn third(&mut self, second: &[u8], hello: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut payload = self.read(second).expect("the victim's is good");
        let theirs = payload.split_off(CT_LEN);
        let shared = self.kem.as_ref().unwrap().open(&payload).unwrap();
        self.mix(&shared, &payload);
        (self.write(hello), theirs)
    }

    /// Responder: reads message 3.
    pub(crate) fn read_third(&mut self, third: &[u8]) -> Option<Vec<u8>> {
        self.read(third)
    }

    /// The keys, in a renewal with the secret of the epoch before.
    pub(crate) fn split(mut self, before: &[u8]) -> Split {
        let hash: [u8; 32] = self.state.get_handshake_hash().try_into().unwrap();
        let (k1, k2) = self.state.dangerously_get_raw_split();
        let all = [&k1[..], &k2, before].concat();
        Split {
            hash,
            to_responder: Key::derive(&k1, &hash, before),
            to_initiator: Key::derive(&k2, &hash, before),
            secret: *crypto::hkdf(&hash, &all, &[b"fairway/1 epoch secret"]),
        }
    }
}

/// Key and IV of one direction in one epoch.
#[derive(Clone)]
pub(crate) struct Key {
    key: [u8; 32],
    iv: [u8; 12],
}

impl Key {
    fn derive(split: &[u8; 32], hash: &[u8; 32], before: &[u8]) -> Self {
        let ikm = [&split[..], before].concat();
        Self {
            key: *crypto::hkdf(hash, &ikm, &[b"fairway/1 record key"]),
            iv: *crypto::hkdf(hash, &ikm, &[b"fairway/1 record iv"]),
        }
    }

    fn nonce(&self, number: u64) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// A record packet: `prefix` stands before its header and is authenticated.
    pub(crate) fn seal(&self, prefix: &[u8], kind: u8, number: u64, text: &[u8]) -> Vec<u8> {
        let clear = [prefix, &[kind], &number.to_be_bytes()].concat();
        let mut packet = [&clear[..], text, &[0; 16]].concat();
        let sealed = &mut packet[clear.len()..];
        Aes256Gcm::new(&self.key).seal(self.nonce(number), &clear, [text, &[]], sealed);
        packet
    }

    /// The text of a record packet of the victim's.
    pub(crate) fn open(&self, packet: &[u8]) -> Option<Vec<u8>> {
        // The victim, where it dials, attaches too.
        let clear = if packet[0] == 5 { 26 } else { 9 };
        let number = u64::from_be_bytes(packet[clear - 8..clear].try_into().unwrap());
        let mut sealed = packet[clear..].to_vec();
        let key = Aes256Gcm::new(&self.key);
        let text = key
            .open(self.nonce(number), &packet[..clear], &mut sealed)
            .ok()?;
        Some(text.to_vec())
    }
}

/// The prologue of a renewal to `epoch`.
pub(crate) fn renewal_prologue(secret: &[u8; 32], epoch: u64) -> Vec<u8> {
    let binding = crypto::hkdf::<32>(b"fairway/1 renewal binding", secret, &[]);
    [&b"fairway/1 renewal"[..], &epoch.to_be_bytes(), &*binding].concat()
}

/// The connection id of a channel.
pub(crate) fn connection_id(hash: &[u8; 32]) -> [u8; 16] {
    *crypto::hkdf(b"fairway/1 connection id", hash, &[])
}

/// The public key of a secret of one byte, as these tests have them.
pub(crate) fn secret(byte: u8) -> StaticSecret {
    StaticSecret::from_bytes([byte; 32])
}

/// The honest resolver, but for the keys of the trick.
struct Loaded {
    honest: Resolver,
    trick: Trick,
    /// Snow asks for the static key first.
    keys_given: AtomicU8,
}

impl CryptoResolver for Loaded {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        self.honest.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let bad = match self.keys_given.fetch_add(1, Ordering::Relaxed) {
            0 => &self.trick.fixed,
            _ => &self.trick.ephemeral,
        };
        match bad {
            Some(bad) => Some(Box::new(bad.clone())),
            None => self.honest.resolve_dh(choice),
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.honest.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.honest.resolve_cipher(choice)
    }
}

impl Dh for BadKey {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        self.0.len()
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, _: &[u8]) {}

    fn generate(&mut self, _: &mut dyn Random) -> Result<(), snow::Error> {
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.0
    }

    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, _: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        out[..32].fill(0);
        Ok(())
    }

    fn dh_len(&self) -> usize {
        32
    }
}
