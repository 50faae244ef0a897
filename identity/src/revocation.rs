//! The revocation list: which credentials are dead before they expire.
//!
//! An entry names an object by its UID and says "issued before T is dead". It
//! is kept until the last credential that it concerns has expired.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::credential::Uid;
use crate::limits;
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
    limits::REVOCATIONS
)]
pub struct RevocationError;

/// Revocations by the UID of the object behind the credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationList {
    entries: BTreeMap<Uid, Revocation>,
}

impl RevocationList {
    /// Adds an entry; where there is one already, the later of both times
    /// holds, so that nothing comes back to life by a late message.
    pub fn insert(&mut self, uid: Uid, revocation: Revocation) -> Result<(), RevocationError> {
        let full = self.entries.len() >= limits::REVOCATIONS;
        match self.entries.entry(uid) {
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.issued_before = known.issued_before.max(revocation.issued_before);
                known.keep_until = known.keep_until.max(revocation.keep_until);
            }
            Entry::Vacant(_) if full => return Err(RevocationError),
            Entry::Vacant(entry) => {
                entry.insert(revocation);
            }
        }
        Ok(())
    }

    /// Takes over all of `other`'s entries. On error those that fitted are in.
    pub fn merge(&mut self, other: &Self) -> Result<(), RevocationError> {
        for (uid, revocation) in &other.entries {
            self.insert(uid.clone(), *revocation)?;
        }
        Ok(())
    }

    /// Drops what need not be kept at `now` any more.
    pub fn expire(&mut self, now: UnixSeconds) {
        self.entries
            .retain(|_, revocation| revocation.keep_until > now);
    }

    /// Whether a credential of `uid` issued at `issued_at` is dead.
    pub fn revokes(&self, uid: &Uid, issued_at: UnixSeconds) -> bool {
        self.entries
            .get(uid)
            .is_some_and(|revocation| issued_at < revocation.issued_before)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> Uid {
        Uid::new(text).unwrap()
    }

    fn revocation(issued_before: u64, keep_until: u64) -> Revocation {
        Revocation {
            issued_before: UnixSeconds(issued_before),
            keep_until: UnixSeconds(keep_until),
        }
    }

    #[test]
    fn what_was_issued_before_is_dead_and_what_comes_after_lives() {
        let mut list = RevocationList::default();
        list.insert(uid("a"), revocation(100, 200)).unwrap();
        for (who, issued_at, dead) in [
            ("a", 0, true),
            ("a", 99, true),
            ("a", 100, false),
            ("b", 0, false),
        ] {
            assert_eq!(
                list.revokes(&uid(who), UnixSeconds(issued_at)),
                dead,
                "{who} {issued_at}"
            );
        }
    }

    #[test]
    fn merging_never_brings_back_to_life() {
        let mut list = RevocationList::default();
        list.insert(uid("a"), revocation(100, 200)).unwrap();
        let mut late = RevocationList::default();
        late.insert(uid("a"), revocation(50, 300)).unwrap();
        late.insert(uid("b"), revocation(10, 20)).unwrap();
        list.merge(&late).unwrap();
        assert!(list.revokes(&uid("a"), UnixSeconds(99)));
        list.expire(UnixSeconds(200));
        assert!(list.revokes(&uid("a"), UnixSeconds(99)), "kept until 300");
        assert_eq!(list.len(), 1);
        list.expire(UnixSeconds(300));
        assert!(list.is_empty());
    }

    #[test]
    fn the_list_is_bounded() {
        let mut list = RevocationList::default();
        for n in 0..limits::REVOCATIONS {
            list.insert(uid(&n.to_string()), revocation(1, 1)).unwrap();
        }
        assert_eq!(
            list.insert(uid("more"), revocation(1, 1)),
            Err(RevocationError)
        );
        assert_eq!(
            list.insert(uid("0"), revocation(9, 9)),
            Ok(()),
            "known ones still change"
        );
    }
}
