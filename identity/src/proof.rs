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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Ed25519Key;

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
