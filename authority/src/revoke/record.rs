//! The record of revocations: one ConfigMap, one key an entry.
//!
//! A key is `UID.CAUSE.ISSUED_BEFORE`, its value
//! `KIND NAMESPACE/NAME EFFECTIVE KEEP_UNTIL`, all times in seconds since
//! 1970. Entries are added and removed by merge patch, so replicas never
//! overwrite each other's.

use std::collections::BTreeMap;
use std::fmt;

use fairway_identity::{Revocation, RevocationList, Uid, UnixSeconds};

/// What kind of object a revoked credential belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A DeviceIdentity.
    Device,
    /// A pod.
    Workload,
}

/// Why something was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The object is gone.
    Deleted,
    /// The pod is gone, and its sidecar had ended before: the key was in its
    /// memory only. Such an entry guards against a key that was stolen in time,
    /// and is the first to go when there are too many.
    Ended,
    /// The device is Suspended.
    Suspended,
    /// The device is Revoked.
    Revoked,
    /// The device enrolled again with another key.
    Reenrolled,
    /// The credential says something of the object that is not so any more.
    Changed,
    /// The pod's ServiceAccount is gone.
    AccountDeleted,
}

/// Credentials of one object issued before a time are dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// UID of the DeviceIdentity or pod.
    pub uid: Uid,
    /// Which of the two.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub cause: Cause,
    /// Credentials issued before this are dead ...
    pub issued_before: UnixSeconds,
    /// ... from this time on. Later than now where the endpoint is first given
    /// time to have a new one.
    pub effective: UnixSeconds,
    /// When the last of them has expired by itself.
    pub keep_until: UnixSeconds,
}

/// All entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    entries: BTreeMap<String, Entry>,
}

impl Entry {
    /// Its key in the ConfigMap.
    pub fn key(&self) -> String {
        format!("{}.{}.{}", self.uid, self.cause, self.issued_before)
    }

    /// Its value in the ConfigMap.
    pub fn value(&self) -> String {
        let Self {
            namespace,
            name,
            effective,
            keep_until,
            ..
        } = self;
        format!("{} {namespace}/{name} {effective} {keep_until}", self.kind)
    }

    /// Reads a key and its value; `None`: they are no entry.
    pub fn parse(key: &str, value: &str) -> Option<Self> {
        let mut key = key.split('.');
        let mut value = value.split(' ');
        let (uid, cause, issued_before) = (key.next()?, key.next()?, key.next()?);
        let (kind, object, effective, keep_until) =
            (value.next()?, value.next()?, value.next()?, value.next()?);
        if key.next().is_some() || value.next().is_some() {
            return None;
        }
        let (namespace, name) = object.split_once('/')?;
        Some(Self {
            uid: Uid::new(uid).ok()?,
            kind: Kind::parse(kind)?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            cause: Cause::ALL.into_iter().find(|known| known.word() == cause)?,
            issued_before: seconds(issued_before)?,
            effective: seconds(effective)?,
            keep_until: seconds(keep_until)?,
        })
    }

    /// Whether it applies at `now`.
    pub fn is_effective(&self, now: UnixSeconds) -> bool {
        self.effective <= now && now < self.keep_until
    }
}

impl Record {
    /// Reads the ConfigMap's data. The second value are keys that are no
    /// entries: somebody edited them by hand, and a revocation may be lost.
    pub fn read(data: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let mut entries = BTreeMap::new();
        let mut unreadable = Vec::new();
        for (key, value) in data {
            match Entry::parse(key, value) {
                Some(entry) => drop(entries.insert(key.clone(), entry)),
                None => unreadable.push(key.clone()),
            }
        }
        (Self { entries }, unreadable)
    }

    /// All entries, in order of UID.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes an entry, as if it had been read.
    pub fn insert(&mut self, entry: Entry) {
        self.entries.insert(entry.key(), entry);
    }

    /// The list that an endpoint gets which `concerns` it.
    pub fn list(&self, now: UnixSeconds, concerns: impl Fn(&Entry) -> bool) -> RevocationList {
        let mut list = RevocationList::default();
        for entry in self
            .iter()
            .filter(|entry| entry.is_effective(now) && concerns(entry))
        {
            let revocation = Revocation {
                issued_before: entry.issued_before,
                keep_until: entry.keep_until,
            };
            // The record is bounded far below the list, see limits.rs.
            if list.insert(entry.uid.clone(), revocation).is_err() {
                break;
            }
        }
        list
    }

    /// Credentials of `uid` issued before this are dead now or soon; what is
    /// issued must be younger.
    pub fn dead_before(&self, uid: &Uid) -> UnixSeconds {
        self.of(uid)
            .map(|entry| entry.issued_before)
            .max()
            .unwrap_or_default()
    }

    /// Credentials of `uid` issued before this have to be renewed now, because
    /// they say something that is not so any more.
    pub fn renew_before(&self, uid: &Uid) -> Option<UnixSeconds> {
        let changed = self.of(uid).filter(|entry| entry.cause == Cause::Changed);
        changed.map(|entry| entry.issued_before).max()
    }

    /// Whether a credential of `uid` issued at `issued_at` is dead now.
    pub fn revokes(&self, uid: &Uid, issued_at: UnixSeconds, now: UnixSeconds) -> bool {
        self.of(uid)
            .any(|entry| entry.is_effective(now) && issued_at < entry.issued_before)
    }

    /// Whether a credential of `uid` issued at `issued_at` is dead now, or
    /// will be.
    pub fn covers(&self, uid: &Uid, issued_at: UnixSeconds) -> bool {
        issued_at < self.dead_before(uid)
    }

    /// The next time after `now` at which an entry becomes effective or ends.
    pub fn next_change(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        self.iter()
            .flat_map(|entry| [entry.effective, entry.keep_until])
            .filter(|at| *at > now)
            .min()
    }

    /// Keys of entries that may go: everything they speak of has expired, or
    /// another entry says as much and more.
    pub fn obsolete(&self, now: UnixSeconds) -> Vec<String> {
        let goes = |(key, entry): &(&String, &Entry)| {
            entry.keep_until <= now
                || self
                    .of(&entry.uid)
                    .any(|other| other.replaces(entry, key, now))
        };
        self.entries
            .iter()
            .filter(goes)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Keys of `n` entries that are the least loss, if there are that many:
    /// those of pods whose sidecar had ended, the first to expire first.
    pub fn dispensable(&self, n: usize) -> Vec<String> {
        let mut ended: Vec<(&String, &Entry)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.cause == Cause::Ended)
            .collect();
        ended.sort_by_key(|(_, entry)| entry.keep_until);
        let keys = ended.into_iter().take(n);
        keys.map(|(key, _)| key.clone()).collect()
    }

    fn of(&self, uid: &Uid) -> impl Iterator<Item = &Entry> {
        // All keys of a UID begin with it and a dot; `/` follows on the dot.
        let (from, to) = (format!("{uid}."), format!("{uid}/"));
        self.entries.range(from..to).map(|(_, entry)| entry)
    }
}

impl Entry {
    /// Whether `self` makes `old` superfluous. Where either is pending nothing
    /// is: until it is effective, the old one is what holds.
    fn replaces(&self, old: &Self, old_key: &str, now: UnixSeconds) -> bool {
        let both_effective = self.effective <= now && old.effective <= now;
        // Of two that say the same, one has to stay: the later by its key.
        let says_more = self.issued_before > old.issued_before
            || (self.issued_before == old.issued_before && self.key().as_str() > old_key);
        both_effective && says_more && self.keep_until >= old.keep_until
    }
}

impl Kind {
    const ALL: [Self; 2] = [Self::Device, Self::Workload];

    /// The kind that a word means.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Workload => "workload",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Cause {
    const ALL: [Self; 7] = [
        Self::Deleted,
        Self::Ended,
        Self::Suspended,
        Self::Revoked,
        Self::Reenrolled,
        Self::Changed,
        Self::AccountDeleted,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Ended => "ended",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Reenrolled => "reenrolled",
            Self::Changed => "changed",
            Self::AccountDeleted => "account-deleted",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Digits only, as [`UnixSeconds`] prints them.
fn seconds(text: &str) -> Option<UnixSeconds> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().map(UnixSeconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUMP: &str = "2c9f4f8e-0000-4000-8000-000000000001";
    const OTHER: &str = "2c9f4f8e-0000-4000-8000-000000000002";

    fn entry(
        uid: &str,
        cause: Cause,
        issued_before: u64,
        effective: u64,
        keep_until: u64,
    ) -> Entry {
        Entry {
            uid: Uid::new(uid).unwrap(),
            kind: Kind::Device,
            namespace: "factory".to_owned(),
            name: "pump-7".to_owned(),
            cause,
            issued_before: UnixSeconds(issued_before),
            effective: UnixSeconds(effective),
            keep_until: UnixSeconds(keep_until),
        }
    }

    fn record(entries: impl IntoIterator<Item = Entry>) -> Record {
        let mut record = Record::default();
        entries.into_iter().for_each(|entry| record.insert(entry));
        record
    }

    fn pump() -> Uid {
        Uid::new(PUMP).unwrap()
    }

    #[test]
    fn entries_round_trip() {
        for cause in Cause::ALL {
            let entry = entry(PUMP, cause, 100, 160, 900);
            assert_eq!(Entry::parse(&entry.key(), &entry.value()), Some(entry));
        }
    }

    #[test]
    fn what_is_no_entry_is_named() {
        let good = entry(PUMP, Cause::Revoked, 100, 100, 900);
        let mut data = BTreeMap::from([(good.key(), good.value())]);
        let bad = [
            ("x", "device factory/pump-7 1 2"),
            ("u.revoked.-1", "device factory/pump-7 1 2"),
            ("u.revoked.+1", "device factory/pump-7 1 2"),
            ("u.gone.1", "device factory/pump-7 1 2"),
            ("u.revoked.1.2", "device factory/pump-7 1 2"),
            ("u.revoked.1", "device factory 1 2"),
            ("u.revoked.2", "robot factory/pump-7 1 2"),
            ("u.revoked.3", "device factory/pump-7 1"),
            ("u.revoked.4", "device factory/pump-7 1 2 3"),
        ];
        data.extend(bad.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let (record, unreadable) = Record::read(&data);
        assert_eq!(record.len(), 1);
        assert_eq!(unreadable.len(), bad.len());
    }

    #[test]
    fn a_pending_entry_kills_only_when_it_is_effective() {
        let record = record([entry(PUMP, Cause::Changed, 100, 160, 900)]);
        let (old, young) = (UnixSeconds(99), UnixSeconds(100));
        for (now, dead) in [
            (100, false),
            (159, false),
            (160, true),
            (899, true),
            (900, false),
        ] {
            assert_eq!(
                record.revokes(&pump(), old, UnixSeconds(now)),
                dead,
                "{now}"
            );
            assert!(!record.revokes(&pump(), young, UnixSeconds(now)));
            let list = record.list(UnixSeconds(now), |_| true);
            assert_eq!(list.revokes(&pump(), old), dead, "{now}");
        }
        assert!(record.covers(&pump(), old));
        assert_eq!(record.renew_before(&pump()), Some(UnixSeconds(100)));
        assert_eq!(record.next_change(UnixSeconds(100)), Some(UnixSeconds(160)));
        assert_eq!(record.next_change(UnixSeconds(160)), Some(UnixSeconds(900)));
        assert_eq!(record.next_change(UnixSeconds(900)), None);
    }

    #[test]
    fn others_are_not_touched() {
        let record = record([entry(PUMP, Cause::Revoked, 100, 100, 900)]);
        let other = Uid::new(OTHER).unwrap();
        assert!(!record.revokes(&other, UnixSeconds(1), UnixSeconds(200)));
        assert_eq!(record.dead_before(&other), UnixSeconds(0));
        assert!(
            record
                .list(UnixSeconds(200), |entry| entry.uid == other)
                .is_empty()
        );
    }

    #[test]
    fn only_what_says_nothing_more_is_obsolete() {
        let older = entry(PUMP, Cause::Suspended, 100, 100, 500);
        let newer = entry(PUMP, Cause::Revoked, 200, 200, 900);
        let both = record([older.clone(), newer.clone()]);
        assert_eq!(
            both.obsolete(UnixSeconds(199)),
            Vec::<String>::new(),
            "the newer is pending"
        );
        assert_eq!(both.obsolete(UnixSeconds(200)), vec![older.key()]);
        assert_eq!(
            both.obsolete(UnixSeconds(900)),
            vec![newer.key(), older.key()]
        );

        let longer = entry(PUMP, Cause::Suspended, 100, 100, 950);
        assert!(
            record([longer, newer.clone()])
                .obsolete(UnixSeconds(300))
                .is_empty()
        );
        let elsewhere = entry(OTHER, Cause::Suspended, 100, 100, 500);
        assert!(
            record([elsewhere, newer])
                .obsolete(UnixSeconds(300))
                .is_empty()
        );
    }

    #[test]
    fn only_what_nobody_holds_a_key_for_is_dispensable() {
        let uid = |n: u64| format!("2c9f4f8e-0000-4000-8000-00000000000{n}");
        let ended = |n, keep_until| entry(&uid(n), Cause::Ended, 100, 100, keep_until);
        let record = record([
            ended(1, 900),
            entry(&uid(2), Cause::Deleted, 100, 100, 500),
            ended(3, 700),
        ]);
        assert_eq!(record.dispensable(1), [ended(3, 700).key()]);
        assert_eq!(
            record.dispensable(9),
            [ended(3, 700).key(), ended(1, 900).key()]
        );
    }

    #[test]
    fn of_two_equal_entries_one_stays() {
        let one = entry(PUMP, Cause::Revoked, 200, 200, 900);
        let two = entry(PUMP, Cause::Suspended, 200, 200, 900);
        assert_eq!(record([one, two]).obsolete(UnixSeconds(300)).len(), 1);
    }
}
