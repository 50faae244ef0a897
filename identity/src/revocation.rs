//! The revocation list: which credentials are dead before they expire.
#![allow(clippy::todo)]

use std::collections::BTreeMap;

use crate::credential::Uid;
use crate::time::UnixSeconds;

/// What is revoked of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Credentials issued before this are dead.
    pub issued_before: UnixSeconds,
    /// Until the last credential concerned has expired; then the entry may go.
    pub keep_until: UnixSeconds,
}

/// The list is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the revocation list is full ({} entries): raise the trust set's revocation floor instead",
    crate::limits::REVOCATIONS
)]
pub struct RevocationError;

/// Revocations by the UID of the object behind the credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationList {
    entries: BTreeMap<Uid, Revocation>,
}

impl RevocationList {
    /// Adds an entry; with one already there, the later of both times holds.
    pub fn insert(&mut self, _uid: Uid, _revocation: Revocation) -> Result<(), RevocationError> {
        todo!()
    }
    /// Takes over all of `other`'s entries.
    pub fn merge(&mut self, _other: &Self) -> Result<(), RevocationError> {
        todo!()
    }
    /// Drops what was kept until before `now`.
    pub fn expire(&mut self, _now: UnixSeconds) {
        todo!()
    }
    /// Whether a credential of `uid` issued at `issued_at` is dead.
    pub fn revokes(&self, _uid: &Uid, _issued_at: UnixSeconds) -> bool {
        todo!()
    }
    /// All entries in order of UID.
    pub fn iter(&self) -> impl Iterator<Item = (&Uid, &Revocation)> {
        self.entries.iter()
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
