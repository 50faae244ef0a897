//! The primitives: snow's resolver over aws-lc-rs, and key derivation.
//!
//! AES-GCM alone is ring's: on processors that have VAES and no AVX-512, which
//! most of today's servers and devices are, it takes half the time of
//! aws-lc-rs 1.19, and it is most of what a record costs (docs/benchmarks.md).
//!
//! # Randomness
//!
//! All randomness of a handshake comes from the seed given at construction,
//! with two exceptions that draw from the library's own DRBG: aws-lc-rs neither
//! generates ML-KEM keys nor encapsulates from a caller's seed; and what is
//! made later (the ephemeral keys of a renewal, the challenge of a new path)
//! must not depend on anything that an attacker may have learned since. The
//! bytes on the wire therefore differ between two runs with one seed, while
//! their lengths, and with them everything that a simulation can observe, are
//! the same.

use aws_lc_rs::{
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    digest, hkdf, hmac,
    kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768},
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use snow::{
    Error as SnowError,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203 table 3).
pub(crate) const EK_LEN: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203 table 3).
pub(crate) const CT_LEN: usize = 1088;
/// Bytes of an AES-GCM nonce.
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of an AES-GCM tag.
pub(crate) const TAG_LEN: usize = 16;

/// A step failed: damaged input, or a key that must not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CryptoError;

/// The X25519 public key of a private one.
pub(crate) fn x25519_public(secret: &[u8; 32]) -> [u8; 32] {
    X25519Dh::with(secret).public
}

/// The initiator's half of ML-KEM-768.
pub(crate) struct KemKey {
    secret: DecapsulationKey,
    /// The encapsulation key, which goes into message 1.
    pub(crate) public: Box<[u8]>,
}

impl KemKey {
    /// A fresh key, from the library's DRBG (see the module docs).
    pub(crate) fn generate() -> Result<Self, CryptoError> {
        let secret = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| CryptoError)?;
        let public = secret
            .encapsulation_key()
            .and_then(|key| key.key_bytes())
            .map_err(|_| CryptoError)?;
        Ok(Self {
            public: public.as_ref().into(),
            secret,
        })
    }

    /// A key of the test vectors.
    #[cfg(test)]
    pub(crate) fn from_parts(secret: &[u8], public: &[u8]) -> Result<Self, CryptoError> {
        Ok(Self {
            secret: DecapsulationKey::new(&ML_KEM_768, secret).map_err(|_| CryptoError)?,
            public: public.into(),
        })
    }

    /// The private half, to be written into test vectors.
    #[cfg(test)]
    pub(crate) fn secret_bytes(&self) -> Result<Vec<u8>, CryptoError> {
        let bytes = self.secret.key_bytes().map_err(|_| CryptoError)?;
        Ok(bytes.as_ref().to_vec())
    }

    /// The secret that the responder's ciphertext holds. A damaged ciphertext
    /// gives an unrelated secret (implicit rejection), and message 3 then fails.
    pub(crate) fn open(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let shared = self.secret.decapsulate(Ciphertext::from(ciphertext));
        Ok(Zeroizing::new(
            shared.map_err(|_| CryptoError)?.as_ref().to_vec(),
        ))
    }
}

/// What the responder made of the initiator's encapsulation key.
pub(crate) struct Encapsulated {
    pub(crate) ciphertext: Vec<u8>,
    pub(crate) shared: Zeroizing<Vec<u8>>,
}

/// Encapsulates to a key of message 1; fails where FIPS 203 section 7.2 wants
/// the key refused. From the library's DRBG (see the module docs).
pub(crate) fn encapsulate(public: &[u8]) -> Result<Encapsulated, CryptoError> {
    let key = EncapsulationKey::new(&ML_KEM_768, public).map_err(|_| CryptoError)?;
    let (ciphertext, shared) = key.encapsulate().map_err(|_| CryptoError)?;
    Ok(Encapsulated {
        ciphertext: ciphertext.as_ref().to_vec(),
        shared: Zeroizing::new(shared.as_ref().to_vec()),
    })
}

/// Random bytes of the library (see the module docs).
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, CryptoError> {
    let mut out = Zeroizing::new([0; N]);
    aws_lc_rs::rand::fill(&mut *out).map_err(|_| CryptoError)?;
    Ok(out)
}

/// SHA-256 over the parts, one behind the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// HKDF-SHA256 (RFC 5869), extract and expand in one.
pub(crate) fn hkdf<const N: usize>(
    salt: &[u8],
    secret: &[u8],
    info: &[&[u8]],
) -> Zeroizing<[u8; N]> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut out = Zeroizing::new([0; N]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(info, Len(N))
        .and_then(|okm| okm.fill(&mut *out))
        .expect("HKDF gives up to 8,160 bytes, and all of ours are shorter");
    out
}

/// Snow's way to the primitives. Knows one suite, so nothing else can be asked
/// for by mistake.
pub(crate) struct Resolver {
    seed: Zeroizing<[u8; 32]>,
}

impl Resolver {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self {
            seed: Zeroizing::new(*seed),
        }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom {
            seed: self.seed.clone(),
            counter: 0,
        }))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519Dh::off()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256)
            .then(|| Box::new(Sha256(digest::Context::new(&digest::SHA256))) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::AESGCM).then(|| Box::new(AesGcm(None)) as Box<dyn Cipher>)
    }
}

/// The handshake's dice: HKDF blocks of the seed.
struct SeededRandom {
    seed: Zeroizing<[u8; 32]>,
    counter: u64,
}

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), SnowError> {
        for piece in out.chunks_mut(32) {
            let counter = self.counter.to_be_bytes();
            let block = hkdf::<32>(b"fairway/1 handshake random", &*self.seed, &[&counter]);
            piece.copy_from_slice(&block[..piece.len()]);
            self.counter += 1;
        }
        Ok(())
    }
}

/// X25519 for snow. The private bytes live in the library's key only.
struct X25519Dh {
    key: Option<PrivateKey>,
    public: [u8; 32],
}

impl X25519Dh {
    fn off() -> Self {
        Self {
            key: None,
            public: [0; 32],
        }
    }

    fn with(secret: &[u8; 32]) -> Self {
        let key = PrivateKey::from_private_key(&X25519, secret)
            .expect("any 32 bytes are an X25519 private key");
        let mut public = [0; 32];
        public.copy_from_slice(
            key.compute_public_key()
                .expect("an X25519 private key has a public key")
                .as_ref(),
        );
        Self {
            key: Some(key),
            public,
        }
    }
}

impl Dh for X25519Dh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        // A key of another length switches this key off; `dh` then fails.
        *self = match secret.try_into() {
            Ok(secret) => Self::with(secret),
            Err(_) => Self::off(),
        };
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), SnowError> {
        let mut secret = Zeroizing::new([0; 32]);
        random.try_fill_bytes(&mut *secret)?;
        *self = Self::with(&secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        // Only snow's `generate_keypair` asks, and nobody calls that.
        &[]
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), SnowError> {
        // Snow hands over its whole 56-byte buffer.
        let (Some(key), Some(public)) = (&self.key, public.first_chunk::<32>()) else {
            return Err(SnowError::Dh);
        };
        let Some(out) = out.first_chunk_mut::<32>() else {
            return Err(SnowError::Dh);
        };
        agree(
            key,
            UnparsedPublicKey::new(&X25519, public),
            SnowError::Dh,
            |shared| {
                // RFC 7748 section 6.1: a point of small order gives zero. The
                // library refuses it too; this one is ours to rely on.
                if shared.len() != 32 || shared.iter().fold(0, |all, byte| all | byte) == 0 {
                    return Err(SnowError::Dh);
                }
                out.copy_from_slice(shared);
                Ok(())
            },
        )
    }
}

struct Sha256(digest::Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = digest::Context::new(&digest::SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let context = core::mem::replace(&mut self.0, digest::Context::new(&digest::SHA256));
        out[..32].copy_from_slice(context.finish().as_ref());
    }

    fn hmac(&mut self, key: &[u8], data: &[u8], out: &mut [u8]) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        out[..32].copy_from_slice(hmac::sign(&key, data).as_ref());
    }
}

/// AES-256-GCM for the handshake messages. Records do not pass through here.
struct AesGcm(Option<Aes256Gcm>);

impl AesGcm {
    /// Noise section 12.4: 32 zero bits, then the counter, big-endian.
    fn nonce(counter: u64) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        nonce
    }
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Some(Aes256Gcm::new(key));
    }

    fn encrypt(&self, nonce: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let key = self.0.as_ref().expect("snow sets the key first");
        let sealed = plaintext.len() + TAG_LEN;
        key.seal(Self::nonce(nonce), ad, [plaintext, &[]], &mut out[..sealed]);
        sealed
    }

    fn decrypt(
        &self,
        nonce: u64,
        ad: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, SnowError> {
        let key = self.0.as_ref().ok_or(SnowError::Decrypt)?;
        let mut sealed = ciphertext.to_vec();
        let text = key
            .open(Self::nonce(nonce), ad, &mut sealed)
            .map_err(|CryptoError| SnowError::Decrypt)?;
        let out = out.get_mut(..text.len()).ok_or(SnowError::Decrypt)?;
        out.copy_from_slice(text);
        Ok(text.len())
    }
}

/// A key for records or handshake messages.
pub(crate) struct Aes256Gcm(LessSafeKey);

impl Aes256Gcm {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(
            UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are the length of an AES-256 key"),
        ))
    }

    /// Seals the two parts of a plaintext, one behind the other, into `out`,
    /// which has room for them and the tag.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        text: [&[u8]; 2],
        out: &mut [u8],
    ) {
        let (sealed, tag) = out.split_at_mut(out.len() - TAG_LEN);
        let (first, second) = sealed.split_at_mut(text[0].len());
        first.copy_from_slice(text[0]);
        second.copy_from_slice(text[1]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let made = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), sealed)
            .expect("a record or a message is far shorter than AES-GCM allows");
        tag.copy_from_slice(made.as_ref());
    }

    /// Opens in place what ends with a tag; the plaintext.
    pub(crate) fn open<'a>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], CryptoError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .open_in_place(nonce, Aad::from(aad), sealed)
            .map_err(|_| CryptoError)
    }
}

/// ring does not wipe its keys: another one takes the place of this.
impl Drop for Aes256Gcm {
    fn drop(&mut self) {
        if let Ok(key) = UnboundKey::new(&AES_256_GCM, &[0; 32]) {
            self.0 = LessSafeKey::new(key);
        }
        // Else the compiler may see that nobody looks at it again.
        core::hint::black_box(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> [u8; 32] {
        data_encoding::HEXLOWER
            .decode(text.as_bytes())
            .unwrap()
            .try_into()
            .unwrap()
    }

    #[test]
    fn x25519_agrees_with_rfc_7748_section_6_1() {
        let bob = X25519Dh::with(&hex(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        ));
        let alice = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(
            bob.public,
            hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        );
        let mut shared = [0; 56];
        bob.dh(&alice, &mut shared).unwrap();
        assert_eq!(
            shared[..32],
            hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
        );
    }

    #[test]
    fn points_of_small_order_are_refused() {
        let key = X25519Dh::with(&[7; 32]);
        let one = {
            let mut one = [0; 32];
            one[0] = 1;
            one
        };
        let order_8 = hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
        for point in [[0; 32], one, order_8] {
            assert!(key.dh(&point, &mut [0; 56]).is_err(), "{point:?}");
        }
    }

    #[test]
    fn keys_of_another_length_are_refused() {
        let mut key = X25519Dh::with(&[7; 32]);
        assert!(key.dh(&[9; 31], &mut [0; 56]).is_err());
        assert!(key.dh(&[9; 32], &mut [0; 31]).is_err());
        key.set(&[1; 33]);
        assert!(key.dh(&x25519_public(&[8; 32]), &mut [0; 56]).is_err());
        assert!(EncapsulationKey::new(&ML_KEM_768, &[0; EK_LEN - 1]).is_err());
        assert!(
            encapsulate(&[0xff; EK_LEN]).is_err(),
            "FIPS 203 modulus check"
        );
    }

    #[test]
    fn sha256_and_hmac_agree_with_the_library_and_snow_default() {
        let mut hash = Sha256(digest::Context::new(&digest::SHA256));
        hash.input(b"abc");
        let mut out = [0; 64];
        hash.result(&mut out);
        assert_eq!(
            &out[..32],
            hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
    }

    #[test]
    fn the_dice_follow_the_seed() {
        let roll = |seed: [u8; 32]| {
            let mut random = Resolver::new(&seed).resolve_rng().unwrap();
            let mut out = [0; 80];
            random.try_fill_bytes(&mut out).unwrap();
            out
        };
        assert_eq!(roll([1; 32]), roll([1; 32]));
        assert_ne!(roll([1; 32]), roll([2; 32]));
        assert_ne!(roll([1; 32])[..32], roll([1; 32])[32..64]);
    }
}
