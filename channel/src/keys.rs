//! The static key of one end.

use core::fmt;

use zeroize::Zeroizing;

use crate::crypto;

/// An X25519 private key. Zeroized when dropped, never printed.
#[derive(Clone)]
pub struct StaticSecret(Zeroizing<[u8; 32]>);

impl StaticSecret {
    /// From 32 random bytes (clamping is done where it is used, RFC 7748 section 5).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The public key, which the credential certifies.
    pub fn public(&self) -> [u8; 32] {
        crypto::x25519_public(&self.0)
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticSecret(..)")
    }
}
