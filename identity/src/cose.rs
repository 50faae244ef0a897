//! COSE_Sign1 (RFC 9052) in the one form that Fairway uses: EdDSA, a protected
//! header of `alg` and `typ` and nothing else, an empty unprotected one, the
//! payload inside, tagged.
//!
//! Each [`Kind`] has its own `typ` and its own external_aad, so that no object
//! can pass for one of another kind.

use ciborium::Value;
use coset::{
    CborSerializable, CoseSign1, CoseSign1Builder, Header, HeaderBuilder, ProtectedHeader,
    TaggedCborSerializable, iana,
};

use crate::cbor;
use crate::credential::Form;
use crate::key::{SignError, Signer, VerifyingKey};
use crate::limits;

/// What kind of object is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Credential(Form),
    TrustSet,
    SignedTime,
}

impl Kind {
    /// The `typ` header (RFC 9596), which also leads the external_aad.
    fn typ(self) -> &'static str {
        match self {
            Self::Credential(Form::Full) => "fairway-credential",
            Self::Credential(Form::Lean) => "fairway-lean",
            Self::TrustSet => "fairway-trust-set",
            Self::SignedTime => "fairway-time",
        }
    }

    fn aad(self) -> Vec<u8> {
        [b"fairway v1 ", self.typ().as_bytes()].concat()
    }

    fn max_len(self) -> usize {
        match self {
            Self::Credential(_) => limits::CREDENTIAL_BYTES,
            Self::TrustSet => limits::TRUST_SET_BYTES,
            Self::SignedTime => limits::SIGNED_TIME_BYTES,
        }
    }

    fn header(self) -> Header {
        HeaderBuilder::new()
            .algorithm(iana::Algorithm::EdDSA)
            .value(TYP, Value::Text(self.typ().to_owned()))
            .build()
    }
}

/// Why an object could not be signed.
#[derive(Debug)]
pub(crate) enum SealError {
    /// The key is not Ed25519.
    Algorithm,
    /// The result would be longer than its kind allows, by so many bytes.
    TooLarge { len: usize },
    /// The key did not sign.
    Sign(SignError),
}

/// An object in the right form whose signature has not been checked yet.
pub(crate) struct Unverified {
    kind: Kind,
    sign1: CoseSign1,
}

/// Not a COSE_Sign1 of the expected kind and form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FormError;

/// Signs `payload` as an object of `kind`.
pub(crate) fn seal(kind: Kind, payload: Vec<u8>, key: &dyn Signer) -> Result<Vec<u8>, SealError> {
    match key.verifying_key() {
        VerifyingKey::Ed25519(_) => {}
        VerifyingKey::P256(_) => return Err(SealError::Algorithm),
    }
    let sign1 = CoseSign1Builder::new()
        .protected(kind.header())
        .payload(payload)
        .try_create_signature(&kind.aad(), |message| key.sign(message))
        .map_err(SealError::Sign)?
        .build();
    let bytes = sign1
        .to_tagged_vec()
        .expect("a COSE_Sign1 of our own making encodes");
    if bytes.len() > kind.max_len() {
        return Err(SealError::TooLarge { len: bytes.len() });
    }
    Ok(bytes)
}

/// Reads an object of `kind`; every byte outside the payload and the signature
/// must be as [`seal`] writes it.
pub(crate) fn open(kind: Kind, bytes: &[u8]) -> Result<Unverified, FormError> {
    cbor::check(bytes, kind.max_len()).map_err(|_| FormError)?;
    let sign1 = CoseSign1::from_tagged_slice(bytes).map_err(|_| FormError)?;
    let header = kind
        .header()
        .to_vec()
        .expect("a header of our own making encodes");
    let ProtectedHeader { original_data, .. } = &sign1.protected;
    if original_data.as_deref() != Some(&header[..])
        || !sign1.unprotected.is_empty()
        || sign1.signature.len() != limits::SIGNATURE_LEN
    {
        return Err(FormError);
    }
    let payload = sign1.payload.as_deref().ok_or(FormError)?;
    cbor::check(payload, kind.max_len()).map_err(|_| FormError)?;
    Ok(Unverified { kind, sign1 })
}

impl Unverified {
    /// The payload, of which nothing is to be believed yet. It is
    /// deterministic CBOR within the bounds.
    pub(crate) fn payload(&self) -> &[u8] {
        self.sign1.payload.as_deref().unwrap_or_default()
    }

    /// Whether `key` signed it.
    pub(crate) fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        match key {
            VerifyingKey::Ed25519(_) => key.verify(
                &self.sign1.tbs_data(&self.kind.aad()),
                &self.sign1.signature,
            ),
            VerifyingKey::P256(_) => false,
        }
    }
}

/// Label of the `typ` header parameter (RFC 9596).
const TYP: i64 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Ed25519Key;

    const KINDS: [Kind; 4] = [
        Kind::Credential(Form::Full),
        Kind::Credential(Form::Lean),
        Kind::TrustSet,
        Kind::SignedTime,
    ];

    fn key() -> Ed25519Key {
        Ed25519Key::from_seed([7; 32])
    }

    /// A COSE_Sign1 that is validly signed, with whatever headers.
    fn forge(kind: Kind, protected: Header, unprotected: Header) -> Vec<u8> {
        CoseSign1Builder::new()
            .protected(protected)
            .unprotected(unprotected)
            .payload(vec![0xa0])
            .create_signature(&kind.aad(), |message| key().sign(message).unwrap())
            .build()
            .to_tagged_vec()
            .unwrap()
    }

    #[test]
    fn one_kind_never_passes_for_another() {
        for made in KINDS {
            let bytes = seal(made, vec![0xa0], &key()).unwrap();
            for read in KINDS {
                let opened = open(read, &bytes);
                assert_eq!(opened.is_ok(), made == read, "{made:?} as {read:?}");
                if let Ok(opened) = opened {
                    assert!(opened.is_signed_by(&key().verifying_key()));
                }
                // With the right `typ` but signed as another kind.
                let forged = forge(made, read.header(), Header::default());
                let opened = open(read, &forged).unwrap();
                assert_eq!(opened.is_signed_by(&key().verifying_key()), made == read);
            }
        }
    }

    #[test]
    fn headers_must_be_exactly_ours() {
        let kind = Kind::TrustSet;
        let plain = Header::default;
        assert!(open(kind, &forge(kind, kind.header(), plain())).is_ok());
        let es256 = HeaderBuilder::new()
            .algorithm(iana::Algorithm::ES256)
            .value(TYP, Value::Text(kind.typ().into()));
        let critical = Header {
            crit: vec![coset::RegisteredLabelWithPrivate::Text("x".into())],
            ..kind.header()
        };
        let extra = Header {
            key_id: vec![1],
            ..kind.header()
        };
        let no_alg = HeaderBuilder::new().value(TYP, Value::Text(kind.typ().into()));
        for protected in [
            plain(),
            es256.build(),
            critical,
            extra.clone(),
            no_alg.build(),
        ] {
            let bytes = forge(kind, protected.clone(), plain());
            assert_eq!(open(kind, &bytes).err(), Some(FormError), "{protected:?}");
        }
        let bytes = forge(
            kind,
            kind.header(),
            Header {
                key_id: vec![1],
                ..plain()
            },
        );
        assert_eq!(
            open(kind, &bytes).err(),
            Some(FormError),
            "unprotected header"
        );
    }

    #[test]
    fn untagged_and_detached_are_refused() {
        let kind = Kind::SignedTime;
        let bytes = seal(kind, vec![0xa0], &key()).unwrap();
        assert!(open(kind, &bytes[1..]).is_err());
        let mut detached = CoseSign1::from_tagged_slice(&bytes).unwrap();
        detached.payload = None;
        assert!(open(kind, &detached.to_tagged_vec().unwrap()).is_err());
    }

    #[test]
    fn too_large_is_refused_at_both_ends() {
        let kind = Kind::SignedTime;
        let payload = cbor::encode(Value::Bytes(vec![0; limits::SIGNED_TIME_BYTES]));
        assert!(matches!(
            seal(kind, payload, &key()),
            Err(SealError::TooLarge { .. })
        ));
        let mut bytes = seal(kind, vec![0xa0], &key()).unwrap();
        bytes.resize(limits::SIGNED_TIME_BYTES + 1, 0);
        assert!(open(kind, &bytes).is_err());
    }
}
