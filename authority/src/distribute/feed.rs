//! Watches of the API server, each a task that tells the index what changed.
//!
//! A list that was interrupted is repeated by the watcher, and what vanished
//! meanwhile is found by comparing with what was known. An object that cannot
//! be read never stops a watch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use fairway_crds::{ChannelPolicy, CompiledPolicy, DeviceIdentity, EnrollmentTicket};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::facts::{
    DeviceFacts, PodFacts, PolicyFacts, ServiceFacts, TicketFacts, relay_addresses,
};
use super::hub::Hub;
use super::index::Touched;
use crate::events::chain;
use crate::names::{Install, REVOCATIONS};
use crate::revoke::Record;

/// What a watch says, after the objects were made into facts.
enum Step<T> {
    Apply(Seen<T>),
    Delete(Seen<T>),
    Reset(Vec<Seen<T>>),
}

/// An object that was seen.
struct Seen<T> {
    namespace: String,
    name: String,
    uid: String,
    fact: T,
}

/// Starts all watches. They end when the set is dropped.
pub fn start(client: &Client, install: &Install, hub: &Arc<Hub>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let own = install.namespace.as_str();
    tasks.spawn(follow_pods(client.clone(), install.clone(), hub.clone()));
    tasks.spawn(follow_services(client.clone(), hub.clone()));
    tasks.spawn(follow_accounts(client.clone(), hub.clone()));
    tasks.spawn(follow_devices(client.clone(), hub.clone()));
    tasks.spawn(follow_policies(client.clone(), hub.clone()));
    tasks.spawn(follow_tickets(client.clone(), hub.clone()));
    let slices = Api::namespaced(client.clone(), own);
    tasks.spawn(follow_relays(slices, install.clone(), hub.clone()));
    tasks.spawn(follow_record(
        Api::namespaced(client.clone(), own),
        hub.clone(),
    ));
    tasks
}

async fn follow_pods(client: Client, install: Install, hub: Arc<Hub>) {
    let facts = |pod: &Pod| PodFacts::of(pod, &install);
    follow(Api::<Pod>::all(client), all(), facts, |step| {
        hub.update(|index, now| match step {
            Step::Apply(Seen {
                fact: Some(pod), ..
            }) => index.apply_pod(pod, now),
            Step::Apply(Seen { fact: None, .. }) => Touched::Nobody,
            Step::Delete(seen) => {
                // Its last state may say more than what came before.
                let last = match seen.fact {
                    Some(pod) if index.pod(&seen.uid).is_some() => index.apply_pod(pod, now),
                    Some(_) | None => Touched::Nobody,
                };
                last.and(index.delete_pod(&seen.uid))
            }
            Step::Reset(pods) => {
                index.reset_pods(pods.into_iter().filter_map(|seen| seen.fact).collect(), now)
            }
        });
    })
    .await;
}

async fn follow_services(client: Client, hub: Arc<Hub>) {
    follow(
        Api::<Service>::all(client),
        all(),
        ServiceFacts::of,
        |step| {
            hub.update(|index, now| match step {
                Step::Apply(seen) => {
                    index.apply_service((seen.namespace, seen.name), seen.fact, now)
                }
                Step::Delete(seen) => index.apply_service((seen.namespace, seen.name), None, now),
                Step::Reset(services) => {
                    let facts = services.into_iter().filter_map(|seen| seen.fact).collect();
                    index.reset_services(facts, now)
                }
            });
        },
    )
    .await;
}

async fn follow_accounts(client: Client, hub: Arc<Hub>) {
    let accounts = Api::<PartialObjectMeta<ServiceAccount>>::all(client);
    follow(
        accounts,
        all(),
        |_| (),
        |step| {
            hub.update(|index, _| match step {
                Step::Apply(seen) => index.apply_account((seen.namespace, seen.name)),
                Step::Delete(seen) => index.delete_account(&(seen.namespace, seen.name)),
                Step::Reset(accounts) => {
                    let names: BTreeSet<_> = accounts
                        .into_iter()
                        .map(|seen| (seen.namespace, seen.name))
                        .collect();
                    index.reset_accounts(names)
                }
            });
        },
    )
    .await;
}

async fn follow_devices(client: Client, hub: Arc<Hub>) {
    let facts = |device: &DeserializeGuard<DeviceIdentity>| match &device.0 {
        Ok(device) => DeviceFacts::of(device),
        Err(invalid) => {
            unreadable(
                "DeviceIdentity",
                &device.namespace().unwrap_or_default(),
                &device.name_any(),
                &invalid.error,
            );
            None
        }
    };
    follow(
        Api::<DeserializeGuard<DeviceIdentity>>::all(client),
        all(),
        facts,
        |step| {
            hub.update(|index, _| match step {
                Step::Apply(Seen {
                    fact: Some(device), ..
                }) => index.apply_device(device),
                // What cannot be read any more is not gone: it stays as it was.
                Step::Apply(Seen { fact: None, .. }) => Touched::Nobody,
                Step::Delete(seen) => index.delete_device(&(seen.namespace, seen.name)),
                Step::Reset(devices) => {
                    let known = |seen: Seen<Option<DeviceFacts>>| {
                        let name = (seen.namespace, seen.name);
                        seen.fact.or_else(|| index.device(&name).cloned())
                    };
                    let devices = devices.into_iter().filter_map(known).collect();
                    index.reset_devices(devices)
                }
            });
        },
    )
    .await;
}

async fn follow_tickets(client: Client, hub: Arc<Hub>) {
    let facts = |ticket: &DeserializeGuard<EnrollmentTicket>| {
        ticket.0.as_ref().ok().and_then(TicketFacts::of)
    };
    let tickets = Api::<DeserializeGuard<EnrollmentTicket>>::all(client);
    follow(tickets, all(), facts, |step| {
        hub.update(|index, _| match step {
            Step::Apply(seen) => index.apply_ticket((seen.namespace, seen.name), seen.fact),
            Step::Delete(seen) => index.apply_ticket((seen.namespace, seen.name), None),
            Step::Reset(tickets) => {
                let known = |seen: Seen<Option<TicketFacts>>| {
                    Some(((seen.namespace, seen.name), seen.fact?))
                };
                index.reset_tickets(tickets.into_iter().filter_map(known).collect())
            }
        });
    })
    .await;
}

async fn follow_policies(client: Client, hub: Arc<Hub>) {
    follow(
        Api::<DeserializeGuard<ChannelPolicy>>::all(client),
        all(),
        policy_facts,
        |step| {
            hub.update(|index, _| match step {
                Step::Apply(seen) => index.apply_policy((seen.namespace, seen.name), seen.fact),
                Step::Delete(seen) => index.apply_policy((seen.namespace, seen.name), None),
                Step::Reset(policies) => index
                    .reset_policies(policies.into_iter().filter_map(|seen| seen.fact).collect()),
            });
        },
    )
    .await;
}

async fn follow_relays(slices: Api<EndpointSlice>, install: Install, hub: Arc<Hub>) {
    let only = format!("kubernetes.io/service-name={}", install.relay_service);
    let facts = |slice: &EndpointSlice| relay_addresses(slice, &install);
    follow(slices, all().labels(&only), facts, |step| {
        hub.update(|index, _| match step {
            Step::Apply(seen) => index.apply_relays(seen.name, seen.fact),
            Step::Delete(seen) => index.apply_relays(seen.name, None),
            Step::Reset(slices) => {
                let relays: BTreeMap<_, _> = slices
                    .into_iter()
                    .filter_map(|seen| Some((seen.name, seen.fact?)))
                    .collect();
                index.reset_relays(relays)
            }
        });
    })
    .await;
}

async fn follow_record(config_maps: Api<ConfigMap>, hub: Arc<Hub>) {
    let only = format!("metadata.name={REVOCATIONS}");
    follow(config_maps, all().fields(&only), read_record, |step| {
        hub.update(|index, now| match step {
            Step::Apply(seen) => index.set_record(seen.fact, now),
            Step::Delete(_) => {
                // Forgetting revocations because an object was deleted would
                // let the revoked in again; the keeper writes it anew.
                tracing::error!(
                    event = "record-deleted",
                    object = REVOCATIONS,
                    "somebody deleted the record of revocations; it is kept in memory"
                );
                Touched::Nobody
            }
            Step::Reset(mut records) => {
                let record = records.pop().map(|seen| seen.fact);
                match record {
                    Some(record) => index.set_record(record, now),
                    None if index.record().is_empty() => index.set_record(Record::default(), now),
                    None => Touched::Nobody,
                }
            }
        });
    })
    .await;
}

fn policy_facts(policy: &DeserializeGuard<ChannelPolicy>) -> Option<PolicyFacts> {
    let (namespace, name) = (policy.namespace()?, policy.name_any());
    let compiled = match &policy.0 {
        Ok(policy) => policy.compile_closed(),
        Err(invalid) => {
            unreadable("ChannelPolicy", &namespace, &name, &invalid.error);
            Some(CompiledPolicy::unreadable(&namespace, &name))
        }
    };
    compiled.map(|compiled| PolicyFacts {
        namespace,
        name,
        compiled,
    })
}

fn read_record(map: &ConfigMap) -> Record {
    let empty = BTreeMap::new();
    let (record, unreadable) = Record::read(map.data.as_ref().unwrap_or(&empty));
    for key in unreadable {
        tracing::error!(
            event = "record-unreadable",
            key,
            "an entry of the record of revocations cannot be read: was it edited by hand?"
        );
    }
    record
}

fn unreadable(kind: &str, namespace: &str, name: &str, error: &str) {
    tracing::error!(
        event = "unreadable",
        kind,
        namespace,
        name,
        error,
        "an object cannot be read"
    );
}

fn all() -> watcher::Config {
    watcher::Config::default()
}

/// Follows one kind of objects, for ever.
async fn follow<K, T>(
    api: Api<K>,
    config: watcher::Config,
    fact: impl Fn(&K) -> T,
    mut tell: impl FnMut(Step<T>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let url = api.resource_url().to_owned();
    let events = watcher(api, config).default_backoff();
    pin_mut!(events);
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) => tell(Step::Apply(seen(&object, &fact))),
            Ok(Event::Delete(object)) => tell(Step::Delete(seen(&object, &fact))),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.push(seen(&object, &fact)),
            Ok(Event::InitDone) => tell(Step::Reset(std::mem::take(&mut listed))),
            Err(error) => {
                tracing::warn!(
                    event = "watch-failed",
                    url,
                    error = chain(&error),
                    "a watch failed; it is tried again"
                );
            }
        }
    }
}

fn seen<K: Resource, T>(object: &K, fact: impl Fn(&K) -> T) -> Seen<T> {
    let meta = object.meta();
    Seen {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        fact: fact(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::from_json;
    use fairway_policy::Action;
    use serde_json::json;

    #[test]
    fn a_policy_that_cannot_be_read_denies() {
        let object = |spec: serde_json::Value| -> DeserializeGuard<ChannelPolicy> {
            from_json(json!({
                "apiVersion": "fairway.dev/v1alpha1", "kind": "ChannelPolicy",
                "metadata": {"name": "p", "namespace": "factory"}, "spec": spec}))
        };
        let facts = policy_facts(&object(json!({"target": 7}))).unwrap();
        assert_eq!(facts.compiled.policy.action, Action::Deny);
        assert!(facts.compiled.target.selects_pod(&BTreeMap::new()));
        // An Allow that cannot be compiled opens nothing and shuts nothing.
        let allow =
            json!({"target": {"workloads": {"any": true}}, "from": [], "to": [{"port": 0}]});
        assert_eq!(policy_facts(&object(allow)), None);
    }

    #[test]
    fn a_record_edited_by_hand_keeps_its_good_entries() {
        let map: ConfigMap = from_json(json!({"data": {
            "nonsense": "x",
            "u.revoked.5": "device factory/pump-7 5 9"}}));
        assert_eq!(read_record(&map).len(), 1);
    }
}
