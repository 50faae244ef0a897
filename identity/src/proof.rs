//! Proofs of possession for enrolment and renewal: signatures over what is
//! asked and over the handshake in which it is asked, so that none can be used
//! a second time or somewhere else.

use crate::key::{SignError, Signer, VerifyingKey};
use crate::name::{Label, TrustDomain};

/// Who signs, and for what. Each has a context string of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Enrolment, signed by the ticket's key.
    EnrollTicket,
    /// Enrolment, signed by the device's new key.
    EnrollDevice,
    /// Renewal, signed by the device's key.
    RenewDevice,
}

impl Purpose {
    fn context(self) -> &'static str {
        match self {
            Self::EnrollTicket => "fairway v1 enroll, ticket key",
            Self::EnrollDevice => "fairway v1 enroll, device key",
            Self::RenewDevice => "fairway v1 renew, device key",
        }
    }
}

/// What is signed. Both ends build it from what they know themselves: the
/// authority takes `handshake_hash` and `handshake_key` from the channel,
/// never from the request.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// The trust domain asked to certify.
    pub trust_domain: &'a TrustDomain,
    /// Namespace of the device.
    pub namespace: &'a Label,
    /// Name of the device.
    pub device: &'a Label,
    /// The device's long-lived key.
    pub device_key: &'a VerifyingKey,
    /// Hash of the handshake in which this is sent.
    pub handshake_hash: &'a [u8; 32],
    /// The X25519 key to certify; the same that this handshake proved.
    pub handshake_key: &'a [u8; 32],
}

/// The signature is not that key's over that statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not belong to this key, device and connection")]
pub struct ProofError;

impl ProofError {
    /// The machine-readable word for it.
    pub fn reason(&self) -> &'static str {
        "proof-wrong"
    }
}

impl Statement<'_> {
    /// Signs the statement for `purpose`.
    pub fn sign(&self, purpose: Purpose, key: &dyn Signer) -> Result<Vec<u8>, SignError> {
        key.sign(&self.message(purpose))
    }

    /// Checks `signature` by `key`.
    pub fn verify(
        &self,
        purpose: Purpose,
        key: &VerifyingKey,
        signature: &[u8],
    ) -> Result<(), ProofError> {
        if key.verify(&self.message(purpose), signature) {
            Ok(())
        } else {
            Err(ProofError)
        }
    }

    /// The bytes that are signed: each field after its length, two bytes big
    /// endian, so that no two statements have the same.
    fn message(&self, purpose: Purpose) -> Vec<u8> {
        let fields: [&[u8]; 7] = [
            purpose.context().as_bytes(),
            self.trust_domain.as_str().as_bytes(),
            self.namespace.as_str().as_bytes(),
            self.device.as_str().as_bytes(),
            &self.device_key.to_cose_key(),
            self.handshake_hash,
            self.handshake_key,
        ];
        let mut message = Vec::with_capacity(512);
        for field in fields {
            let len = u16::try_from(field.len()).expect("names and keys are short");
            message.extend_from_slice(&len.to_be_bytes());
            message.extend_from_slice(field);
        }
        message
    }
}

/// What the holder of a ticket shows to a relay while it has no credential:
/// the ticket's key vouches for its handshake key. It opens nothing; it says
/// on whose budget the holder draws.
///
/// It is bound to a handshake key alone. That is enough: the handshake proves
/// the key, so nobody else can show the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketHolder {
    key: VerifyingKey,
    signature: Vec<u8>,
}

/// Names a ticket by its key, shorter than the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(pub [u8; 16]);

impl TicketId {
    /// The name of the ticket with this public key.
    pub fn of(key: &VerifyingKey) -> Self {
        let hash = crate::trust::sha256(&key.to_cose_key());
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }
}

impl TicketHolder {
    /// Vouches for `handshake_key` by the ticket's `key`.
    pub fn sign(handshake_key: &[u8; 32], key: &dyn Signer) -> Result<Self, SignError> {
        Ok(Self {
            key: key.verifying_key(),
            signature: key.sign(&Self::message(handshake_key))?,
        })
    }

    /// As it was sent: a COSE_Key and a signature.
    pub fn from_parts(key: &[u8], signature: &[u8]) -> Result<Self, ProofError> {
        let key = VerifyingKey::from_cose_key(key).map_err(|_| ProofError)?;
        let signature = signature.to_vec();
        Ok(Self { key, signature })
    }

    /// The COSE_Key and the signature, to be sent.
    pub fn to_parts(&self) -> (Vec<u8>, &[u8]) {
        (self.key.to_cose_key(), &self.signature)
    }

    /// Checks it against the key that the handshake proved.
    pub fn verify(&self, handshake_key: &[u8; 32]) -> Result<TicketId, ProofError> {
        if self
            .key
            .verify(&Self::message(handshake_key), &self.signature)
        {
            Ok(TicketId::of(&self.key))
        } else {
            Err(ProofError)
        }
    }

    fn message(handshake_key: &[u8; 32]) -> Vec<u8> {
        let context = b"fairway v1 relay, ticket key";
        let len = u16::try_from(context.len()).expect("a short text");
        [&len.to_be_bytes()[..], context, &[0, 32], handshake_key].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Ed25519Key;

    #[test]
    fn a_tickets_key_vouches_for_one_handshake_key() {
        let key = Ed25519Key::from_seed([1; 32]);
        let holder = TicketHolder::sign(&[7; 32], &key).unwrap();
        let (cose_key, signature) = holder.to_parts();
        let read = TicketHolder::from_parts(&cose_key, signature).unwrap();
        assert_eq!(read, holder);
        assert_eq!(
            read.verify(&[7; 32]),
            Ok(TicketId::of(&key.verifying_key()))
        );
        assert_eq!(read.verify(&[8; 32]), Err(ProofError));
        // As SPEC.md section 7 has it.
        let said = [
            &[0, 28][..],
            b"fairway v1 relay, ticket key",
            &[0, 32],
            &[7; 32],
        ]
        .concat();
        assert!(key.verifying_key().verify(&said, signature));
        let other = Ed25519Key::from_seed([2; 32]).verifying_key().to_cose_key();
        let swapped = TicketHolder::from_parts(&other, signature).unwrap();
        assert_eq!(swapped.verify(&[7; 32]), Err(ProofError));
        assert!(TicketHolder::from_parts(&cose_key[1..], signature).is_err());
        for len in 0..signature.len() {
            let cut = TicketHolder::from_parts(&cose_key, &signature[..len]).unwrap();
            assert_eq!(cut.verify(&[7; 32]), Err(ProofError));
        }
    }

    const PURPOSES: [Purpose; 3] = [
        Purpose::EnrollTicket,
        Purpose::EnrollDevice,
        Purpose::RenewDevice,
    ];

    #[test]
    fn a_proof_holds_for_one_purpose_and_one_statement() {
        let key = Ed25519Key::from_seed([1; 32]);
        let other = Ed25519Key::from_seed([2; 32]);
        let domain = TrustDomain::new("fairway.local").unwrap();
        let (ab, c) = (Label::new("ab").unwrap(), Label::new("c").unwrap());
        let (a, bc) = (Label::new("a").unwrap(), Label::new("bc").unwrap());
        let statement = Statement {
            trust_domain: &domain,
            namespace: &ab,
            device: &c,
            device_key: &key.verifying_key(),
            handshake_hash: &[3; 32],
            handshake_key: &[4; 32],
        };
        let changed = [
            Statement {
                trust_domain: &TrustDomain::new("else.local").unwrap(),
                ..statement
            },
            Statement {
                namespace: &a,
                device: &bc,
                ..statement
            },
            Statement {
                device_key: &other.verifying_key(),
                ..statement
            },
            Statement {
                handshake_hash: &[4; 32],
                handshake_key: &[3; 32],
                ..statement
            },
        ];
        for purpose in PURPOSES {
            let signature = statement.sign(purpose, &key).unwrap();
            for asked in PURPOSES {
                let verified = statement.verify(asked, &key.verifying_key(), &signature);
                assert_eq!(
                    verified.is_ok(),
                    asked == purpose,
                    "{purpose:?} as {asked:?}"
                );
            }
            assert!(
                statement
                    .verify(purpose, &other.verifying_key(), &signature)
                    .is_err()
            );
            for statement in &changed {
                assert_eq!(
                    statement.verify(purpose, &key.verifying_key(), &signature),
                    Err(ProofError),
                    "{statement:?}"
                );
            }
            for len in 0..signature.len() {
                let cut = &signature[..len];
                assert!(
                    statement
                        .verify(purpose, &key.verifying_key(), cut)
                        .is_err()
                );
            }
        }
    }
}
