//! The handshake: Noise XXpsk3 with ML-KEM-768 mixed in (SPEC.md section 4).
//!
//! The same three messages make a channel and renew its keys; only what
//! surrounds them differs. Bytes in, bytes out; when to send what, and how often, is decided in
//! `channel/`. Each step consumes the state before it, so that none can be
//! skipped or repeated. A failed step ends the handshake: snow's state is of
//! no use after a forged message.
//!
//! Snow does not wipe its chaining key and psk. What we hold ourselves is
//! zeroized; snow's state lives until message 3 and no longer.

use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::{
    StaticSecret,
    crypto::{self, CT_LEN, CryptoError, EK_LEN, Encapsulated, KemKey, Resolver, TAG_LEN},
    limits,
    record::RecordKey,
};

/// The Noise protocol name, which is also hashed into every handshake.
pub(crate) const NOISE_NAME: &str = "Noise_XXpsk3_25519_AESGCM_SHA256";

/// Message 1 after its header: `e`, then the sealed payload.
const FIRST_LEN: usize = 32 + EK_LEN + TAG_LEN;
/// Message 2 without the hello: `e`, sealed `s`, ciphertext, tag.
const SECOND_MIN: usize = 32 + 32 + TAG_LEN + CT_LEN + TAG_LEN;
/// Message 3 without the hello: sealed `s`, tag.
const THIRD_MIN: usize = 32 + TAG_LEN + TAG_LEN;

/// What a completed handshake gives.
pub(crate) struct Established {
    /// Equal at both ends, unique to this handshake.
    pub(crate) hash: [u8; 32],
    /// The key the peer proved to have.
    pub(crate) remote_static: [u8; 32],
    /// Keys of the records from initiator to responder.
    pub(crate) to_responder: RecordKey,
    /// Keys of the records from responder to initiator.
    pub(crate) to_initiator: RecordKey,
    /// What the next epoch is bound to.
    pub(crate) secret: EpochSecret,
}

/// The secret of an epoch: nothing is sealed with it, the next epoch's keys
/// depend on it. Zeroized when dropped.
pub(crate) struct EpochSecret(Zeroizing<[u8; 32]>);

impl EpochSecret {
    /// The Noise prologue of the renewal that makes this epoch, under the
    /// secret of the one before.
    pub(crate) fn renewal_prologue(&self, epoch: u64) -> Zeroizing<Vec<u8>> {
        let binding = crypto::hkdf::<32>(b"fairway/1 renewal binding", &*self.0, &[]);
        let label = &b"fairway/1 renewal"[..];
        Zeroizing::new([label, &epoch.to_be_bytes(), &*binding].concat())
    }

    /// For test vectors.
    #[cfg(test)]
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The initiator, having written message 1.
pub(crate) struct Initiator {
    noise: HandshakeState,
    kem: KemKey,
}

/// The initiator, having read message 2.
pub(crate) struct InitiatorChecking {
    noise: HandshakeState,
    remote_static: [u8; 32],
}

/// The responder, having read message 1 and written message 2.
pub(crate) struct Responder {
    noise: HandshakeState,
}

impl Initiator {
    /// Appends message 1 to `out`.
    pub(crate) fn start(
        secret: &StaticSecret,
        seed: &[u8; 32],
        kem: KemKey,
        prologue: &[u8],
        mut out: Vec<u8>,
    ) -> Result<(Self, Vec<u8>), CryptoError> {
        let mut noise = build(secret, seed, prologue, true)?;
        write(&mut noise, &kem.public, &mut out)?;
        Ok((Self { noise, kem }, out))
    }

    /// Reads message 2 and gives the responder's hello.
    pub(crate) fn read_second(
        mut self,
        message: &[u8],
    ) -> Result<(InitiatorChecking, Vec<u8>), CryptoError> {
        check_length(message, SECOND_MIN)?;
        let mut payload = read(&mut self.noise, message)?;
        let hello = payload.split_off(CT_LEN);
        let shared = self.kem.open(&payload)?;
        mix_kem(&mut self.noise, &shared, &self.kem.public, &payload)?;
        let remote_static = remote_static(&self.noise)?;
        Ok((
            InitiatorChecking {
                noise: self.noise,
                remote_static,
            },
            hello,
        ))
    }
}

impl InitiatorChecking {
    /// The responder's key, proven by message 2.
    pub(crate) fn remote_static(&self) -> [u8; 32] {
        self.remote_static
    }

    /// Appends message 3 to `out`. `before` is the secret of the epoch before,
    /// in a renewal.
    pub(crate) fn write_third(
        mut self,
        hello: &[u8],
        mut out: Vec<u8>,
        before: Option<&EpochSecret>,
    ) -> Result<(Vec<u8>, Established), CryptoError> {
        write(&mut self.noise, hello, &mut out)?;
        Ok((out, established(self.noise, before)?))
    }
}

impl Responder {
    /// Reads message 1 and appends message 2 to `out`. `encapsulate` is a
    /// parameter for the sake of the test vectors.
    pub(crate) fn answer(
        secret: &StaticSecret,
        seed: &[u8; 32],
        prologue: &[u8],
        message: &[u8],
        hello: &[u8],
        mut out: Vec<u8>,
        encapsulate: impl FnOnce(&[u8]) -> Result<Encapsulated, CryptoError>,
    ) -> Result<(Self, Vec<u8>), CryptoError> {
        if message.len() != FIRST_LEN {
            return Err(CryptoError);
        }
        let mut noise = build(secret, seed, prologue, false)?;
        let ek = read(&mut noise, message)?;
        let kem = encapsulate(&ek)?;

        let mut payload = Vec::with_capacity(CT_LEN + hello.len());
        payload.extend_from_slice(&kem.ciphertext);
        payload.extend_from_slice(hello);
        write(&mut noise, &payload, &mut out)?;
        mix_kem(&mut noise, &kem.shared, &ek, &kem.ciphertext)?;
        Ok((Self { noise }, out))
    }

    /// Reads message 3 and gives the initiator's hello. `before` is the secret
    /// of the epoch before, in a renewal.
    pub(crate) fn read_third(
        mut self,
        message: &[u8],
        before: Option<&EpochSecret>,
    ) -> Result<(Vec<u8>, Established), CryptoError> {
        check_length(message, THIRD_MIN)?;
        let hello = read(&mut self.noise, message)?;
        Ok((hello, established(self.noise, before)?))
    }
}

fn build(
    secret: &StaticSecret,
    seed: &[u8; 32],
    prologue: &[u8],
    initiator: bool,
) -> Result<HandshakeState, CryptoError> {
    let params = NOISE_NAME.parse().expect("the name is one that snow knows");
    let builder = Builder::with_resolver(params, Box::new(Resolver::new(seed)))
        .local_private_key(secret.expose())
        .and_then(|builder| builder.prologue(prologue))
        .map_err(|_| CryptoError)?;
    match initiator {
        true => builder.build_initiator(),
        false => builder.build_responder(),
    }
    .map_err(|_| CryptoError)
}

/// Appends a Noise message to `out`.
fn write(noise: &mut HandshakeState, payload: &[u8], out: &mut Vec<u8>) -> Result<(), CryptoError> {
    let start = out.len();
    // The keys and tags of any of the three messages fit in 128 bytes.
    out.resize(start + payload.len() + 128, 0);
    let written = noise
        .write_message(payload, &mut out[start..])
        .map_err(|_| CryptoError)?;
    out.truncate(start + written);
    Ok(())
}

/// Opens a Noise message and gives its payload.
fn read(noise: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut payload = vec![0; message.len()];
    let length = noise
        .read_message(message, &mut payload)
        .map_err(|_| CryptoError)?;
    payload.truncate(length);
    Ok(payload)
}

/// Whether a message 2 or 3 can be right by its length.
fn check_length(message: &[u8], min: usize) -> Result<(), CryptoError> {
    (min..=min + limits::MAX_HELLO)
        .contains(&message.len())
        .then_some(())
        .ok_or(CryptoError)
}

/// Mixes the KEM's secret in, as the psk that message 3 uses.
fn mix_kem(
    noise: &mut HandshakeState,
    shared: &[u8],
    ek: &[u8],
    ct: &[u8],
) -> Result<(), CryptoError> {
    let transcript = crypto::sha256(&[ek, ct]);
    let psk = crypto::hkdf::<32>(b"fairway/1 ml-kem-768 psk", shared, &[&transcript]);
    noise.set_psk(3, &*psk).map_err(|_| CryptoError)
}

fn remote_static(noise: &HandshakeState) -> Result<[u8; 32], CryptoError> {
    noise
        .get_remote_static()
        .and_then(|key| key.try_into().ok())
        .ok_or(CryptoError)
}

/// Takes the keys out of a handshake that is finished, and only then.
fn established(
    mut noise: HandshakeState,
    before: Option<&EpochSecret>,
) -> Result<Established, CryptoError> {
    if !noise.is_handshake_finished() {
        return Err(CryptoError);
    }
    let hash = noise
        .get_handshake_hash()
        .try_into()
        .map_err(|_| CryptoError)?;
    let before: &[u8] = before.map_or(&[], |before| &*before.0);
    let (to_responder, to_initiator) = noise.dangerously_get_raw_split();
    let (to_responder, to_initiator) = (Zeroizing::new(to_responder), Zeroizing::new(to_initiator));
    let all = Zeroizing::new([&*to_responder, &*to_initiator, before].concat());
    Ok(Established {
        hash,
        remote_static: remote_static(&noise)?,
        to_responder: RecordKey::derive(&to_responder, &hash, before),
        to_initiator: RecordKey::derive(&to_initiator, &hash, before),
        secret: EpochSecret(crypto::hkdf(&hash, &all, &[b"fairway/1 epoch secret"])),
    })
}
