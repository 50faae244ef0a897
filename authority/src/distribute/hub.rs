//! Where changes meet watches: the index behind one lock, who watches, and
//! whom a change wakes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_identity::{Uid, UnixSeconds};
use tokio::sync::{Notify, watch};

use super::audience::{Audience, Concern};
use super::index::{Index, Touched};
use super::view::{Gone, View};
use crate::clock::WallClock;
use crate::limits;
use crate::revoke::Entry;

/// The index and its watches.
#[derive(Debug)]
pub struct Hub {
    clock: WallClock,
    inner: Mutex<Inner>,
    /// Told whenever something may have to be done about a change.
    pub errands: Notify,
    /// Told whenever acknowledgements may sum up to something else.
    pub acknowledged: Notify,
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    index: Index,
    watches: BTreeMap<WatchKey, Watch>,
    next: u64,
}

/// Namespace, UID and a number of its own: one object may watch twice, while
/// it changes from one session to the next.
type WatchKey = (String, String, u64);

#[derive(Debug)]
struct Watch {
    wake: Arc<Notify>,
    audience: Audience,
    concern: Option<Concern>,
    /// Newest revision of the revocations that the endpoint enforces.
    acknowledged: u64,
}

/// One endpoint's place in the hub; it is left by dropping this.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    key: WatchKey,
    audience: Audience,
    wake: Arc<Notify>,
}

/// How far a revocation has come, on this replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connected endpoints that enforce it.
    pub enforced: u64,
    /// Connected endpoints that it concerns.
    pub concerned: u64,
    /// Some of those that do not enforce it yet, by name, in order: at most
    /// [`limits::WAITING_NAMED_MAX`].
    pub waiting: Vec<String>,
}

impl Tally {
    /// Takes in what another replica, or one more endpoint, adds.
    pub(crate) fn add(&mut self, other: &Self) {
        self.enforced += other.enforced;
        self.concerned += other.concerned;
        self.waiting.extend_from_slice(&other.waiting);
        self.waiting.sort();
        self.waiting.truncate(limits::WAITING_NAMED_MAX);
    }
}

impl Hub {
    /// A hub around an index.
    pub fn new(index: Index, clock: WallClock) -> Arc<Self> {
        let ready = watch::Sender::new(index.is_ready());
        Arc::new(Self {
            clock,
            inner: Mutex::new(Inner {
                index,
                watches: BTreeMap::new(),
                next: 0,
            }),
            errands: Notify::new(),
            acknowledged: Notify::new(),
            ready,
        })
    }

    /// Changes the index and wakes whom that touches.
    pub fn update(&self, change: impl FnOnce(&mut Index, UnixSeconds) -> Touched) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let touched = change(&mut inner.index, now);
        inner.wake(&touched);
        self.ready.send_if_modified(|ready| {
            let now_ready = inner.index.is_ready();
            std::mem::replace(ready, now_ready) != now_ready
        });
        drop(inner);
        self.errands.notify_one();
        self.acknowledged.notify_one();
    }

    /// Reads the index.
    pub fn read<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.lock().index)
    }

    /// Changes the index in a way that touches no endpoint.
    pub fn quietly<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.lock().index)
    }

    /// Resolves once the index knows everything that it needs.
    pub async fn ready(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives as long as this hub.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Takes a place for an endpoint.
    pub fn subscribe(self: &Arc<Self>, audience: Audience) -> Subscription {
        let wake = Arc::new(Notify::new());
        let mut inner = self.lock();
        inner.next += 1;
        let key = (
            audience.namespace().to_owned(),
            audience.uid().to_owned(),
            inner.next,
        );
        let watch = Watch {
            wake: wake.clone(),
            audience: audience.clone(),
            concern: None,
            acknowledged: 0,
        };
        inner.watches.insert(key.clone(), watch);
        drop(inner);
        Subscription {
            hub: self.clone(),
            key,
            audience,
            wake,
        }
    }

    /// How far a revocation has come on this replica.
    pub fn tally(&self, entry: &Entry) -> Tally {
        let inner = self.lock();
        let mut tally = Tally::default();
        let Some(since) = inner.index.effective_since(entry) else {
            return tally;
        };
        for ((_, uid, _), watch) in &inner.watches {
            let concerned = watch
                .concern
                .as_ref()
                .is_some_and(|concern| concern.covers(entry));
            // The revoked one's own watch is about to end.
            if !concerned || *uid == entry.uid.as_str() {
                continue;
            }
            let enforces = watch.acknowledged >= since;
            let name = (!enforces).then(|| inner.index.name_of(&watch.audience));
            tally.add(&Tally {
                enforced: u64::from(enforces),
                concerned: 1,
                waiting: name.into_iter().collect(),
            });
        }
        tally
    }

    /// How many watch, by kind of endpoint.
    pub fn watches(&self) -> BTreeMap<&'static str, u64> {
        let mut counts =
            BTreeMap::from([("device", 0), ("workload", 0), ("relay", 0), ("front", 0)]);
        for watch in self.lock().watches.values() {
            *counts.entry(watch.audience.kind()).or_insert(0) += 1;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock is a bug; the facts it left are still facts.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wake(&self, touched: &Touched) {
        match touched {
            Touched::Nobody => {}
            Touched::One(namespace, uid) => {
                let from = (namespace.clone(), uid.clone(), 0);
                let to = (namespace.clone(), uid.clone(), u64::MAX);
                self.watches
                    .range(from..=to)
                    .for_each(|(_, watch)| watch.wake.notify_one());
            }
            Touched::Namespaces(namespaces) => {
                for namespace in namespaces {
                    let from = (namespace.clone(), String::new(), 0);
                    let in_it = self
                        .watches
                        .range(from..)
                        .take_while(|((of, _, _), _)| of == namespace);
                    in_it.for_each(|(_, watch)| watch.wake.notify_one());
                }
            }
            Touched::All => self
                .watches
                .values()
                .for_each(|watch| watch.wake.notify_one()),
        }
    }
}

impl Subscription {
    /// Who it is.
    pub fn audience(&self) -> &Audience {
        &self.audience
    }

    /// What it has to know now.
    ///
    /// # Errors
    /// See [`Index::view`].
    pub fn view(&self) -> Result<View, Gone> {
        let mut inner = self.hub.lock();
        let view = inner.index.view(&self.audience, self.hub.clock.now())?;
        if let Some(watch) = inner.watches.get_mut(&self.key) {
            watch.concern = Some(view.concern.clone());
        }
        Ok(view)
    }

    /// The endpoint enforces everything up to this revision.
    pub fn acknowledge(&self, revision: u64) {
        if let Some(watch) = self.hub.lock().watches.get_mut(&self.key) {
            watch.acknowledged = watch.acknowledged.max(revision);
        }
        self.hub.acknowledged.notify_one();
    }

    /// Whether a credential is revoked now.
    pub fn revokes(&self, uid: &Uid, issued_at: UnixSeconds) -> bool {
        self.hub
            .lock()
            .index
            .record()
            .revokes(uid, issued_at, self.hub.clock.now())
    }

    /// Resolves when something that concerns it may have changed.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.lock().watches.remove(&self.key);
        self.hub.acknowledged.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revoke::{Cause, Kind, Record};
    use crate::testing::{self, START, device, pod};
    use futures::FutureExt as _;

    fn hub() -> Arc<Hub> {
        Hub::new(testing::index(), WallClock::from_fn(|| START))
    }

    fn workload(namespace: &str, name: &str) -> Audience {
        let uid = Uid::new(&pod(namespace, name, "").uid).unwrap();
        Audience::Workload {
            namespace: namespace.into(),
            service_account: "default".into(),
            uid,
        }
    }

    fn woken(subscription: &Subscription) -> bool {
        subscription.changed().now_or_never().is_some()
    }

    fn entry() -> Entry {
        Entry {
            uid: Uid::new("device-factory-pump-7").unwrap(),
            kind: Kind::Device,
            namespace: "factory".into(),
            name: "pump-7".into(),
            cause: Cause::Revoked,
            issued_before: START,
            effective: START,
            keep_until: START.plus(100),
        }
    }

    fn revoke(hub: &Hub) {
        let mut record = Record::default();
        record.insert(entry());
        hub.update(|index, now| index.set_record(record, now));
    }

    #[test]
    fn a_change_wakes_those_it_touches() {
        let hub = hub();
        let (a, b, c) = (
            workload("factory", "a"),
            workload("factory", "b"),
            workload("lab", "c"),
        );
        let [a, b, c] = [a, b, c].map(|audience| hub.subscribe(audience));
        hub.update(|index, now| index.apply_pod(pod("factory", "a", ""), now));
        assert_eq!([woken(&a), woken(&b), woken(&c)], [true, false, false]);
        let policy = testing::policy("factory", "p", "app=x", &["factory"]);
        hub.update(|index, _| index.apply_policy(("factory".into(), "p".into()), Some(policy)));
        assert_eq!([woken(&a), woken(&b), woken(&c)], [true, true, false]);
        hub.update(|_, _| Touched::All);
        assert_eq!([woken(&a), woken(&b), woken(&c)], [true, true, true]);
        hub.update(|_, _| Touched::Nobody);
        assert_eq!([woken(&a), woken(&b), woken(&c)], [false, false, false]);
    }

    #[test]
    fn a_revocation_counts_as_enforced_when_it_is_acknowledged() {
        let hub = hub();
        hub.update(|index, now| index.apply_pod(pod("factory", "a", "app=a"), now));
        let policy = testing::policy("factory", "p", "app=a", &["factory"]);
        hub.update(|index, _| index.apply_policy(("factory".into(), "p".into()), Some(policy)));
        let concerned = hub.subscribe(workload("factory", "a"));
        let front = hub.subscribe(Audience::Front {
            namespace: "fairway-system".into(),
        });
        for subscription in [&concerned, &front] {
            let view = subscription.view().unwrap();
            subscription.acknowledge(view.revision);
        }
        assert_eq!(hub.tally(&entry()), Tally::default(), "not revoked yet");

        revoke(&hub);
        assert_eq!(
            hub.tally(&entry()),
            Tally {
                enforced: 0,
                concerned: 2,
                waiting: vec![
                    "pod factory/a".to_owned(),
                    "the authority's front".to_owned()
                ],
            }
        );
        concerned.acknowledge(concerned.view().unwrap().revision);
        assert_eq!(
            hub.tally(&entry()),
            Tally {
                enforced: 1,
                concerned: 2,
                waiting: vec!["the authority's front".to_owned()],
            }
        );
        drop(front);
        assert_eq!(
            hub.tally(&entry()),
            Tally {
                enforced: 1,
                concerned: 1,
                waiting: Vec::new(),
            }
        );
    }

    #[test]
    fn of_many_that_wait_a_few_are_named() {
        let mut total = Tally::default();
        for n in (0..9).rev() {
            total.add(&Tally {
                enforced: 0,
                concerned: 1,
                waiting: vec![format!("pod factory/p{n}")],
            });
        }
        assert_eq!(total.concerned, 9);
        assert_eq!(total.waiting.len(), limits::WAITING_NAMED_MAX);
        assert_eq!(total.waiting[0], "pod factory/p0");
    }

    #[test]
    fn whoever_it_does_not_concern_is_not_counted() {
        let hub = hub();
        hub.update(|index, now| index.apply_pod(pod("lab", "a", ""), now));
        let other = hub.subscribe(workload("lab", "a"));
        other.acknowledge(other.view().unwrap().revision);
        revoke(&hub);
        other.view().unwrap();
        assert_eq!(hub.tally(&entry()), Tally::default());
    }

    #[tokio::test]
    async fn ready_resolves_when_the_last_list_is_there() {
        let clock = WallClock::from_fn(|| START);
        let hub = Hub::new(Index::new(testing::install(), Vec::new()), clock);
        assert!(hub.ready().now_or_never().is_none());
        let ready = tokio::spawn({
            let hub = hub.clone();
            async move { hub.ready().await }
        });
        hub.update(|index, _| {
            *index = testing::index();
            Touched::All
        });
        ready.await.unwrap();
        assert_eq!(hub.watches()["device"], 0);
        let device = device("factory", "pump-7");
        let uid = Uid::new(&device.uid).unwrap();
        let place = hub.subscribe(Audience::Device {
            namespace: device.namespace,
            name: device.name,
            uid,
        });
        assert_eq!(hub.watches()["device"], 1);
        drop(place);
        assert_eq!(hub.watches()["device"], 0);
    }
}
