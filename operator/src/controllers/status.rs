//! From what a controller sees to what it writes: conditions that changed,
//! and events about the changes.

use fairway_crds::conditions::{Observed, find};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Controllers;
use crate::FIELD_MANAGER;
use crate::call::{CallError, bounded};

/// What is to be stored, and what has changed by it.
#[derive(Debug, PartialEq)]
pub struct Settled {
    /// All conditions of this controller, with their times.
    pub conditions: Vec<Condition>,
    /// Whether any of them differs from what is stored.
    pub changed: bool,
    /// Those whose status or reason is new.
    pub turned: Vec<Observed>,
}

/// Compares what is stored with what is seen.
pub fn settle(
    stored: &[Condition],
    observed: Vec<Observed>,
    generation: Option<i64>,
    now: Timestamp,
) -> Settled {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let conditions: Vec<Condition> = observed
        .iter()
        .map(|observed| observed.onto(stored, generation, now))
        .collect();
    let changed = conditions
        .iter()
        .any(|new| find(stored, &new.type_) != Some(new));
    let turned = observed
        .into_iter()
        .zip(&conditions)
        .filter(|(_, new)| {
            find(stored, &new.type_)
                .is_none_or(|old| (&old.status, &old.reason) != (&new.status, &new.reason))
        })
        .map(|(observed, _)| observed)
        .collect();
    Settled {
        conditions,
        changed,
        turned,
    }
}

/// An event that a change is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether somebody should look at it.
    pub warning: bool,
    /// In one CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub text: String,
}

impl Controllers {
    /// Writes the operator's part of a status, by server-side apply. What is
    /// null is left out, and goes if it was ours.
    pub(super) async fn apply_status<K>(
        &self,
        object: &K,
        mut status: Value,
    ) -> Result<(), CallError>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
        let api: Api<kube::core::PartialObjectMeta<K>> =
            Api::namespaced(self.client.clone(), &namespace);
        if let Some(status) = status.as_object_mut() {
            status.retain(|_, value| !value.is_null());
        }
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            // The UID makes sure that it is still the object that was looked at.
            "metadata": {"name": name, "namespace": namespace, "uid": object.uid()},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        bounded(api.patch_status(&name, &params, &Patch::Apply(patch)))
            .await
            .map(drop)
    }

    /// Publishes an event about an object. That an event could not be
    /// published changes nothing else, so it is only logged.
    pub(super) async fn publish(&self, notice: &Notice, regarding: &ObjectReference) {
        let event = Event {
            type_: match notice.warning {
                true => EventType::Warning,
                false => EventType::Normal,
            },
            reason: notice.reason.to_owned(),
            note: Some(notice.text.clone()),
            action: "Observe".to_owned(),
            secondary: None,
        };
        if let Err(error) = bounded(self.recorder.publish(&event, regarding)).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                event = "event",
                reason = notice.reason,
                error,
                "was not published"
            );
        }
    }
}

/// For objects that are there but cannot be read as what they should be.
pub(super) fn unreadable(kind: &'static str, error: &str) -> Observed {
    Observed {
        kind,
        status: Some(false),
        reason: "Unreadable",
        message: format!(
            "the object cannot be read ({error}); apply it again with the schema that is installed now"
        ),
    }
}

/// Conditions out of an object whose kind cannot be read.
pub(super) async fn stored_conditions<K>(controllers: &Controllers, object: &K) -> Vec<Condition>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let resource = kube::core::ApiResource::erase::<K>(&());
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<kube::core::DynamicObject> =
        Api::namespaced_with(controllers.client.clone(), &namespace, &resource);
    let found = bounded(api.get_opt(&object.name_any()))
        .await
        .ok()
        .flatten();
    let conditions = found.and_then(|mut found| {
        let conditions = found.data.get_mut("status")?.get_mut("conditions")?.take();
        serde_json::from_value(conditions).ok()
    });
    conditions.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(status: bool, reason: &'static str, message: &str) -> Observed {
        Observed {
            kind: "Ready",
            status: Some(status),
            reason,
            message: message.to_owned(),
        }
    }

    #[test]
    fn only_what_is_new_is_written_and_told() {
        let now = Timestamp::UNIX_EPOCH;
        let first = settle(&[], vec![observed(false, "A", "a")], Some(1), now);
        assert!(first.changed);
        assert_eq!(first.turned.len(), 1);

        let stored = first.conditions;
        let same = settle(&stored, vec![observed(false, "A", "a")], Some(1), now);
        assert!(!same.changed && same.turned.is_empty());
        let reworded = settle(&stored, vec![observed(false, "A", "b")], Some(1), now);
        assert!(reworded.changed && reworded.turned.is_empty());
        let generation = settle(&stored, vec![observed(false, "A", "a")], Some(2), now);
        assert!(generation.changed && generation.turned.is_empty());
        let turned = settle(&stored, vec![observed(false, "B", "a")], Some(1), now);
        assert!(turned.changed && turned.turned.len() == 1);
    }
}
