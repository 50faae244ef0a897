//! The wire form of a revocation list.

use fairway_identity::limits::REVOCATIONS;
use fairway_identity::{Revocation, RevocationList, Uid, UnixSeconds};
use minicbor::{Decode, Encode};

use crate::wire::{Violation, at_most};

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(transparent)]
pub(super) struct WireRevocations(#[n(0)] Vec<WireRevocation>);

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct WireRevocation {
    #[cbor(n(0), with = "crate::wire::uid")]
    uid: Uid,
    #[cbor(n(1), with = "crate::wire::time")]
    issued_before: UnixSeconds,
    #[cbor(n(2), with = "crate::wire::time")]
    keep_until: UnixSeconds,
}

impl WireRevocations {
    pub(super) fn check(&self) -> Result<(), Violation> {
        at_most(&self.0, REVOCATIONS, "too many revocations")
    }
}

impl From<&RevocationList> for WireRevocations {
    fn from(list: &RevocationList) -> Self {
        let entry = |(uid, revocation): (&Uid, &Revocation)| WireRevocation {
            uid: uid.clone(),
            issued_before: revocation.issued_before,
            keep_until: revocation.keep_until,
        };
        Self(list.iter().map(entry).collect())
    }
}

impl TryFrom<WireRevocations> for RevocationList {
    type Error = Violation;

    fn try_from(wire: WireRevocations) -> Result<Self, Violation> {
        wire.check()?;
        let mut list = Self::default();
        for WireRevocation {
            uid,
            issued_before,
            keep_until,
        } in wire.0
        {
            list.insert(
                uid,
                Revocation {
                    issued_before,
                    keep_until,
                },
            )
            .map_err(|_| Violation("too many revocations"))?;
        }
        Ok(list)
    }
}
