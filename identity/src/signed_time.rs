//! Signed time: what a device without a clock asks the authority for first.

use ciborium::Value;

use crate::cbor::{self, CborError, Fields};
use crate::cose::{self, Kind, SealError};
use crate::key::{SignError, Signer};
use crate::limits;
use crate::time::UnixSeconds;
use crate::trust::{IssuerId, VerifiedTrustSet};

/// What the device sends with its question, fresh for each.
pub type Nonce = [u8; 16];

/// A time that an issuer signed over somebody's nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedTime {
    /// Which key signed it.
    pub issuer: IssuerId,
    /// The nonce that was sent.
    pub nonce: Nonce,
    /// The time at the authority when it signed.
    pub now: UnixSeconds,
}

/// Why a signed time was not made or not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedTimeError {
    /// The issuer's key is not Ed25519.
    #[error("time must be signed by an Ed25519 issuer key")]
    WrongKey,
    /// The key did not sign.
    #[error("the issuer's key did not sign")]
    Sign(#[source] SignError),
    /// Not a signed time.
    #[error("the signed time is malformed")]
    Malformed,
    /// The answer to another question, perhaps an old one.
    #[error("the signed time does not answer this question")]
    Nonce,
    /// The trust set does not list its issuer.
    #[error("the signed time's issuer {0} is not in the trust set")]
    UnknownIssuer(IssuerId),
    /// The issuer's signature is not under it.
    #[error("the signed time's signature is wrong")]
    Signature,
    /// Its issuer may not speak at the time that it states.
    #[error("the signed time lies outside its issuer's time")]
    IssuerWindow,
}

impl SignedTimeError {
    /// The machine-readable word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::WrongKey => "time-wrong-key",
            Self::Sign(_) => "signing-failed",
            Self::Malformed => "time-malformed",
            Self::Nonce => "time-nonce-mismatch",
            Self::UnknownIssuer(_) => "time-issuer-unknown",
            Self::Signature => "time-signature-wrong",
            Self::IssuerWindow => "time-issuer-expired",
        }
    }
}

impl SignedTime {
    /// Signs `now` over `nonce` with an issuer's key.
    pub fn sign(
        issuer: &dyn Signer,
        nonce: &Nonce,
        now: UnixSeconds,
    ) -> Result<Vec<u8>, SignedTimeError> {
        let id = IssuerId::of(&issuer.verifying_key());
        let payload = cbor::encode(cbor::map([
            (1, Value::Text(id.to_string())),
            (2, Value::Bytes(nonce.to_vec())),
            (3, cbor::uint(now.0)),
        ]));
        cose::seal(Kind::SignedTime, payload, issuer).map_err(|error| match error {
            SealError::Algorithm | SealError::TooLarge { .. } => SignedTimeError::WrongKey,
            SealError::Sign(source) => SignedTimeError::Sign(source),
        })
    }

    /// Checks an answer to `nonce`; the result is the time when it was signed.
    ///
    /// The caller compares it with what it knows: a time before its own floor
    /// is not to be believed, and an answer that took long is as old as the
    /// question.
    pub fn verify(
        bytes: &[u8],
        nonce: &Nonce,
        trust: &VerifiedTrustSet,
    ) -> Result<UnixSeconds, SignedTimeError> {
        let envelope =
            cose::open(Kind::SignedTime, bytes).map_err(|_| SignedTimeError::Malformed)?;
        let time = Self::from_cbor(envelope.payload()).map_err(|_| SignedTimeError::Malformed)?;
        if time.nonce != *nonce {
            return Err(SignedTimeError::Nonce);
        }
        let issuer = trust
            .trust_set()
            .issuer(time.issuer)
            .ok_or(SignedTimeError::UnknownIssuer(time.issuer))?;
        if !envelope.is_signed_by(&issuer.key) {
            return Err(SignedTimeError::Signature);
        }
        if time.now < issuer.not_before || time.now >= issuer.expires {
            return Err(SignedTimeError::IssuerWindow);
        }
        Ok(time.now)
    }

    fn from_cbor(payload: &[u8]) -> Result<Self, CborError> {
        let mut fields = Fields::new(cbor::decode(payload, limits::SIGNED_TIME_BYTES)?)?;
        Ok(Self {
            issuer: fields.text(1)?.parse().map_err(|_| CborError)?,
            nonce: fields.bytes(2)?.try_into().map_err(|_| CborError)?,
            now: UnixSeconds(fields.uint(3)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const NONCE: Nonce = [5; 16];

    #[test]
    fn time_is_believed_from_a_listed_issuer_over_our_nonce() {
        let trust = testing::trust();
        let bytes = SignedTime::sign(&testing::issuer(), &NONCE, testing::NOW).unwrap();
        assert_eq!(
            SignedTime::verify(&bytes, &NONCE, &trust).unwrap(),
            testing::NOW
        );
        let answer = |bytes: &[u8], nonce: &Nonce| {
            SignedTime::verify(bytes, nonce, &trust)
                .unwrap_err()
                .reason()
        };
        assert_eq!(answer(&bytes, &[6; 16]), "time-nonce-mismatch");
        let stranger = SignedTime::sign(&testing::stranger(), &NONCE, testing::NOW).unwrap();
        assert_eq!(answer(&stranger, &NONCE), "time-issuer-unknown");
        for now in [UnixSeconds(0), UnixSeconds(u64::MAX)] {
            let bytes = SignedTime::sign(&testing::issuer(), &NONCE, now).unwrap();
            assert_eq!(answer(&bytes, &NONCE), "time-issuer-expired");
        }
        let credential = testing::issue(&testing::device());
        assert_eq!(answer(&credential, &NONCE), "time-malformed");
    }

    #[test]
    fn damage_is_noticed() {
        let trust = testing::trust();
        let bytes = SignedTime::sign(&testing::issuer(), &NONCE, testing::NOW).unwrap();
        testing::every_damage(&bytes, |damaged| {
            SignedTime::verify(damaged, &NONCE, &trust).is_err()
        });
    }
}
