//! What all controllers do alike: watch, trim, bound, retry, count.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::reflector::{Lookup, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::Controllers;
use crate::limits::{REMEMBERED_MAX, RETRY_MAX, RETRY_MIN};

/// A resource of Fairway.
pub(super) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// An object that may be one that cannot be read: such a one must not stop
/// the watch.
pub(super) type Guarded<K> = DeserializeGuard<K>;

/// All objects of a kind, trimmed, and the stream of their changes. `tap` sees
/// every event of the watch before it is stored.
pub(super) fn objects<K: Kind>(
    controllers: &Controllers,
    mut tap: impl FnMut(&watcher::Event<Guarded<K>>) + Send + 'static,
) -> (
    Store<Guarded<K>>,
    impl Stream<Item = Result<Guarded<K>, watcher::Error>> + Send + 'static,
) {
    let api: Api<Guarded<K>> = Api::all(controllers.client.clone());
    let (reader, writer) = store();
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(trim)
        .inspect(move |event| {
            if let Ok(event) = event {
                tap(event);
            }
        })
        .reflect(writer)
        .applied_objects();
    (reader, stream)
}

/// Takes away what the controllers never read: it is most of an object.
fn trim<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().clear();
}

pub(super) fn config() -> Config {
    Config::default().concurrency(crate::limits::RECONCILES_AT_ONCE)
}

/// Waits longer after each failure in a row of the same object.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: Mutex<BTreeMap<String, u32>>,
}

impl Backoff {
    pub(super) fn failed(&self, object: &impl Resource) -> Action {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= REMEMBERED_MAX {
            failures.clear();
        }
        let count = failures.entry(key(object)).or_default();
        let wait = RETRY_MIN
            .saturating_mul(2_u32.saturating_pow(*count))
            .min(RETRY_MAX);
        *count = count.saturating_add(1);
        Action::requeue(wait)
    }

    pub(super) fn succeeded(&self, object: &impl Resource) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&key(object));
    }
}

fn key(object: &impl Resource) -> String {
    format!(
        "{}/{}",
        ResourceExt::namespace(object).unwrap_or_default(),
        object.name_any()
    )
}

/// Counts and logs what a controller's stream says.
pub(super) async fn drain<K, E, Q>(
    controllers: &Controllers,
    kind: &'static str,
    results: impl Stream<
        Item = Result<(kube::runtime::reflector::ObjectRef<K>, Action), controller::Error<E, Q>>,
    >,
) where
    K: Lookup<DynamicType = ()>,
    E: std::error::Error + 'static,
    Q: std::error::Error + 'static,
{
    let mut results = std::pin::pin!(results);
    while let Some(result) = results.next().await {
        match result {
            Ok(_) => controllers.metrics.reconciled(kind, "ok"),
            // It is gone, which the reflector has seen already.
            Err(controller::Error::ObjectNotFound(_)) => {}
            Err(error) => {
                controllers.metrics.reconciled(kind, "error");
                let error = &error as &dyn std::error::Error;
                tracing::warn!(event = "reconcile", kind, error, "will be tried again");
            }
        }
    }
}

/// Comes back at a time, or when something changes.
pub(super) fn until(now: jiff::Timestamp, at: Option<jiff::Timestamp>) -> Action {
    match at {
        None => Action::await_change(),
        Some(at) => {
            // A second later than asked, so that the moment has surely passed.
            let wait = at.duration_since(now).as_secs().max(0).saturating_add(1);
            Action::requeue(Duration::from_secs(wait.unsigned_abs()))
        }
    }
}
