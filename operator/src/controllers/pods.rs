//! Pods that should have a sidecar and have none: made before the label was
//! set, or while the webhook was not installed, or on the node's network.
//!
//! They are looked for from time to time, and not watched: a watch of every
//! pod would cost more than all the rest of the operator.

use std::collections::BTreeSet;
use std::time::Duration;

use fairway_crds::labels::{INJECT, INJECT_DISABLED, INJECT_ENABLED};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};

use super::Controllers;
use super::status::Notice;
use crate::call::{CallError, bounded};
use crate::inject::{SkipReason, skip};
use crate::limits::{PAGE, REMEMBERED_MAX};

/// Time between two looks.
const PACE: Duration = Duration::from_secs(60);

/// Why a pod that asked for a sidecar has none. `None`: it has one, or did
/// not ask, or is over.
pub fn missing(pod: &Pod, namespace_asks: bool) -> Option<Missing> {
    let spec = pod.spec.as_ref()?;
    let label = pod.labels().get(INJECT).map(String::as_str);
    let asks = match label {
        Some(INJECT_ENABLED) => true,
        Some(INJECT_DISABLED) => false,
        Some(_) | None => namespace_asks,
    };
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let over =
        matches!(phase, Some("Succeeded" | "Failed")) || pod.meta().deletion_timestamp.is_some();
    if !asks || over {
        return None;
    }
    match skip(pod, spec) {
        Some(SkipReason::AlreadyInjected | SkipReason::OptedOut) => None,
        Some(reason) => Some(Missing::Skipped(reason)),
        None => Some(Missing::NotInjected),
    }
}

/// Why a pod that asked for a sidecar has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It cannot have one.
    Skipped(SkipReason),
    /// The webhook was not asked when it was made.
    NotInjected,
}

impl Missing {
    fn notice(self) -> Notice {
        match self {
            Self::Skipped(reason) => Notice {
                warning: true,
                reason: "SidecarSkipped",
                text: format!("no sidecar was injected: {reason}"),
            },
            Self::NotInjected => Notice {
                warning: true,
                reason: "SidecarMissing",
                text: "the pod should have a sidecar and has none, because it is older than the label \
                       fairway.dev/inject or than the webhook; delete it, or restart what made it"
                    .to_owned(),
            },
        }
    }
}

/// Looks for such pods for as long as it is polled.
pub(super) async fn run(controllers: Controllers) {
    let mut told = BTreeSet::new();
    loop {
        match look(&controllers, &mut told).await {
            Ok(count) => {
                controllers.metrics.pods_without_sidecar.set(count);
                controllers.metrics.reconciled("Pod", "ok");
            }
            Err(error) => {
                controllers.metrics.reconciled("Pod", "error");
                let error = &error as &dyn std::error::Error;
                tracing::warn!(event = "pods", error, "could not be listed");
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// One look at all pods that ask; `told` are those that have their event.
async fn look(controllers: &Controllers, told: &mut BTreeSet<String>) -> Result<i64, CallError> {
    let enabled = format!("{INJECT}={INJECT_ENABLED}");
    let mut found = Vec::new();

    let namespaces: Api<Namespace> = Api::all(controllers.client.clone());
    for namespace in bounded(namespaces.list(&ListParams::default().labels(&enabled))).await? {
        let pods: Api<Pod> = Api::namespaced(controllers.client.clone(), &namespace.name_any());
        let others = format!("{INJECT} notin ({INJECT_ENABLED}, {INJECT_DISABLED})");
        collect(&pods, &others, true, &mut found).await?;
    }
    let pods: Api<Pod> = Api::all(controllers.client.clone());
    collect(&pods, &enabled, false, &mut found).await?;

    found.retain(|(pod, _)| {
        pod.namespace()
            .is_none_or(|namespace| !controllers.system_namespaces.contains(&namespace))
    });
    let uids: BTreeSet<String> = found.iter().filter_map(|(pod, _)| pod.uid()).collect();
    told.retain(|uid| uids.contains(uid));
    for (pod, missing) in &found {
        let is_news = pod
            .uid()
            .is_some_and(|uid| told.len() < REMEMBERED_MAX && told.insert(uid));
        if is_news {
            controllers
                .publish(&missing.notice(), &pod.object_ref(&()))
                .await;
        }
    }
    Ok(found.len().try_into().unwrap_or(i64::MAX))
}

/// Reads pods page by page, and keeps what is missing a sidecar.
async fn collect(
    pods: &Api<Pod>,
    selector: &str,
    namespace_asks: bool,
    found: &mut Vec<(Pod, Missing)>,
) -> Result<(), CallError> {
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    loop {
        let page = bounded(pods.list(&params)).await?;
        let next = page
            .metadata
            .continue_
            .clone()
            .filter(|token| !token.is_empty());
        for pod in page {
            if let Some(missing) = missing(&pod, namespace_asks) {
                let metadata = kube::api::ObjectMeta {
                    name: pod.metadata.name,
                    namespace: pod.metadata.namespace,
                    uid: pod.metadata.uid,
                    ..Default::default()
                };
                found.push((
                    Pod {
                        metadata,
                        ..Pod::default()
                    },
                    missing,
                ));
            }
        }
        match next {
            Some(token) if found.len() < REMEMBERED_MAX => params = params.continue_token(&token),
            Some(_) | None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::{Value, json};

    fn pod(metadata: Value, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn who_is_missing_a_sidecar() {
        let app = json!({"containers": []});
        let sidecar = json!({"containers": [], "initContainers": [{"name": "fairway-sidecar", "restartPolicy": "Always"}]});
        let host = json!({"containers": [], "hostNetwork": true});
        let asks = json!({"labels": {"fairway.dev/inject": "enabled"}});
        let asks_not = json!({"labels": {"fairway.dev/inject": "disabled"}});
        let skipped = Some(Missing::Skipped(SkipReason::HostNetwork));
        for (metadata, spec, namespace_asks, expected) in [
            (json!({}), &app, false, None),
            (json!({}), &app, true, Some(Missing::NotInjected)),
            (asks.clone(), &app, false, Some(Missing::NotInjected)),
            (asks_not, &app, true, None),
            (asks.clone(), &sidecar, true, None),
            (asks, &host, false, skipped),
            (
                json!({"deletionTimestamp": "1970-01-01T00:00:00Z"}),
                &app,
                true,
                None,
            ),
        ] {
            let pod = pod(metadata.clone(), spec.clone());
            assert_eq!(missing(&pod, namespace_asks), expected, "{metadata}");
        }
        let mut over = pod(json!({}), app);
        over.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
        assert_eq!(missing(&over, true), None);
    }

    #[tokio::test]
    async fn each_is_told_once() {
        let api = FakeApi::new();
        api.put(
            "/api/v1/namespaces/factory",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "factory"}}),
        );
        for (namespace, name) in [("factory", "a"), ("kube-system", "b")] {
            let metadata = json!({"name": name, "namespace": namespace, "uid": name, "labels": {"fairway.dev/inject": "enabled"}});
            api.put(
                &format!("/api/v1/namespaces/{namespace}/pods/{name}"),
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}),
            );
        }
        let controllers = Controllers::for_tests(api.client());
        let mut told = BTreeSet::new();
        assert!(look(&controllers, &mut told).await.unwrap() >= 1);
        assert_eq!(api.writes().len(), 1);
        look(&controllers, &mut told).await.unwrap();
        assert_eq!(api.writes().len(), 0);
    }
}
