//! Public keys that verify, and the seam through which private keys sign.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{self, KeyPair, ParsedPublicKey, VerificationAlgorithm};
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::limits;
use crate::trust::sha256;

/// Why a key could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a COSE_Key in deterministic CBOR of a kind that Fairway uses.
    #[error("not a public key that Fairway knows: expected a COSE_Key with Ed25519 or P-256")]
    Form,
    /// The right form, but no point of the curve.
    #[error("the public key is not a point of its curve")]
    Point,
    /// Not base64url text without padding.
    #[error("the text of a public key must be base64url without padding")]
    Text,
    /// A hash or an id that is not so many hexadecimal digits.
    #[error("expected {digits} hexadecimal digits in lower case")]
    Hex {
        /// How many.
        digits: usize,
    },
}

/// A signer could not sign; for a hardware key this may pass.
#[derive(Debug, thiserror::Error)]
#[error("the key could not sign")]
pub struct SignError {
    /// What the device or library said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A private key, wherever it lives.
pub trait Signer {
    /// The public half.
    fn verifying_key(&self) -> VerifyingKey;

    /// Signs `message`: 64 bytes, Ed25519 or ECDSA P-256 with SHA-256 as `r ‖ s`.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A public key that verifies signatures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerifyingKey {
    /// Ed25519 (RFC 8032).
    Ed25519([u8; 32]),
    /// NIST P-256, uncompressed point: `04 ‖ x ‖ y`.
    P256([u8; 65]),
}

impl VerifyingKey {
    /// The SHA-256 of its COSE_Key.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.to_cose_key())
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        if signature.len() != limits::SIGNATURE_LEN {
            return false;
        }
        self.parsed()
            .is_ok_and(|key| key.verify_sig(message, signature).is_ok())
    }

    /// The key as a COSE_Key (RFC 9052 section 7) in deterministic CBOR.
    pub fn to_cose_key(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(x) => [&ED25519_HEAD[..], x].concat(),
            Self::P256(point) => {
                [&P256_HEAD[..], &point[1..33], &P256_BETWEEN, &point[33..]].concat()
            }
        }
    }

    /// Reads a COSE_Key; anything but exactly the form that
    /// [`VerifyingKey::to_cose_key`] writes is refused.
    pub fn from_cose_key(bytes: &[u8]) -> Result<Self, KeyError> {
        let key = if let Some(x) = bytes.strip_prefix(&ED25519_HEAD) {
            Self::Ed25519(x.try_into().map_err(|_| KeyError::Form)?)
        } else if let Some(rest) = bytes.strip_prefix(&P256_HEAD) {
            let (x, rest) = rest.split_first_chunk::<32>().ok_or(KeyError::Form)?;
            let y = rest.strip_prefix(&P256_BETWEEN).ok_or(KeyError::Form)?;
            let y: &[u8; 32] = y.try_into().map_err(|_| KeyError::Form)?;
            let mut point = [UNCOMPRESSED; 65];
            point[1..33].copy_from_slice(x);
            point[33..].copy_from_slice(y);
            Self::P256(point)
        } else {
            return Err(KeyError::Form);
        };
        key.parsed()?;
        Ok(key)
    }

    fn parsed(&self) -> Result<ParsedPublicKey, KeyError> {
        let (algorithm, bytes): (&'static dyn VerificationAlgorithm, &[u8]) = match self {
            Self::Ed25519(x) => (&signature::ED25519, x),
            Self::P256(point) => (&signature::ECDSA_P256_SHA256_FIXED, point),
        };
        signature::UnparsedPublicKey::new(algorithm, bytes)
            .parse()
            .map_err(|_| KeyError::Point)
    }
}

impl fmt::Display for VerifyingKey {
    /// The COSE_Key in base64url without padding, as resources carry it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.to_cose_key()))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifyingKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() > limits::KEY_TEXT_LEN {
            return Err(KeyError::Text);
        }
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| KeyError::Text)?;
        Self::from_cose_key(&bytes)
    }
}

/// An Ed25519 private key in memory, made from a seed and wiped when dropped.
pub struct Ed25519Key {
    seed: Zeroizing<[u8; 32]>,
    pair: signature::Ed25519KeyPair,
}

impl Ed25519Key {
    /// The key that belongs to `seed` (RFC 8032 section 5.1.5). The caller
    /// brings the randomness.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let pair = signature::Ed25519KeyPair::from_seed_unchecked(&*seed)
            .expect("every 32 bytes are a seed");
        Self { seed, pair }
    }

    /// The seed, for whoever stores the key.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }
}

impl Signer for Ed25519Key {
    fn verifying_key(&self) -> VerifyingKey {
        let mut x = [0; 32];
        x.copy_from_slice(self.pair.public_key().as_ref());
        VerifyingKey::Ed25519(x)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.pair.try_sign(message).map_err(|source| SignError {
            source: Some(Box::new(source)),
        })?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ed25519Key")
            .field("public", &self.verifying_key())
            .finish_non_exhaustive()
    }
}

/// `{1 (kty): 1 (OKP), -1 (crv): 6 (Ed25519), -2 (x): bytes(32)`
const ED25519_HEAD: [u8; 8] = [0xa3, 0x01, 0x01, 0x20, 0x06, 0x21, 0x58, 0x20];

/// `{1 (kty): 2 (EC2), -1 (crv): 1 (P-256), -2 (x): bytes(32)`
const P256_HEAD: [u8; 8] = [0xa4, 0x01, 0x02, 0x20, 0x01, 0x21, 0x58, 0x20];

/// `-3 (y): bytes(32)`
const P256_BETWEEN: [u8; 3] = [0x22, 0x58, 0x20];

/// First byte of an uncompressed point (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 0x04;

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use proptest::prelude::*;

    use super::*;

    fn ed25519() -> Ed25519Key {
        Ed25519Key::from_seed([5; 32])
    }

    /// A P-256 key as a TPM would hold it: only through the trait.
    struct P256Key(signature::EcdsaKeyPair);

    impl P256Key {
        fn generate() -> Self {
            let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
            Self(signature::EcdsaKeyPair::generate(algorithm).unwrap())
        }
    }

    impl Signer for P256Key {
        fn verifying_key(&self) -> VerifyingKey {
            VerifyingKey::P256(self.0.public_key().as_ref().try_into().unwrap())
        }

        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
            Ok(self
                .0
                .sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec())
        }
    }

    #[test]
    fn both_kinds_sign_and_verify() {
        let signers: [&dyn Signer; 2] = [&ed25519(), &P256Key::generate()];
        for signer in signers {
            let key = signer.verifying_key();
            let signature = signer.sign(b"message").unwrap();
            assert!(key.verify(b"message", &signature));
            assert!(!key.verify(b"massage", &signature));
            assert!(!key.verify(b"message", &signature[..63]));
            assert!(!key.verify(b"message", &[&signature[..], &[0]].concat()));
            assert!(!key.verify(b"message", &[]));
            let other = Ed25519Key::from_seed([6; 32]).verifying_key();
            assert!(!other.verify(b"message", &signature));
        }
    }

    #[test]
    fn ed25519_matches_rfc_8032() {
        // Section 7.1, test 2.
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let seed = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let public = hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = hex(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        let key = Ed25519Key::from_seed(seed.try_into().unwrap());
        assert_eq!(
            key.verifying_key(),
            VerifyingKey::Ed25519(public.try_into().unwrap())
        );
        assert_eq!(key.sign(&[0x72]).unwrap(), signature);
    }

    #[test]
    fn keys_round_trip_in_bytes_and_text() {
        for key in [
            ed25519().verifying_key(),
            P256Key::generate().verifying_key(),
        ] {
            assert_eq!(VerifyingKey::from_cose_key(&key.to_cose_key()), Ok(key));
            assert_eq!(key.to_string().parse(), Ok(key));
            assert!(key.to_string().len() <= limits::KEY_TEXT_LEN);
            assert!(
                crate::cbor::check(&key.to_cose_key(), 100).is_ok(),
                "deterministic CBOR"
            );
        }
    }

    #[test]
    fn what_is_not_a_key() {
        let good = ed25519().verifying_key().to_cose_key();
        for len in 0..good.len() {
            assert_eq!(
                VerifyingKey::from_cose_key(&good[..len]),
                Err(KeyError::Form)
            );
        }
        let long = [&good[..], &[0]].concat();
        assert_eq!(VerifyingKey::from_cose_key(&long), Err(KeyError::Form));
        let off_curve = VerifyingKey::P256([4; 65]).to_cose_key();
        assert_eq!(
            VerifyingKey::from_cose_key(&off_curve),
            Err(KeyError::Point)
        );
        for text in ["ö", "====", &"A".repeat(101)] {
            assert_eq!(text.parse::<VerifyingKey>(), Err(KeyError::Text), "{text}");
        }
    }

    #[test]
    fn the_seed_is_not_in_debug() {
        let debug = format!("{:?}", ed25519());
        assert!(debug.contains(&ed25519().verifying_key().to_string()));
        assert!(!debug.contains("5, 5, 5"), "{debug}");
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(key) = VerifyingKey::from_cose_key(&bytes) {
                prop_assert_eq!(key.to_cose_key(), bytes);
            }
        }
    }
}
