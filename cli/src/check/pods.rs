//! Pods that should have a sidecar and have none.

use std::collections::{BTreeMap, BTreeSet};

use fairway_crds::labels::{INJECT, INJECT_DISABLED, INJECT_ENABLED};
use fairway_operator::inject::{self, SkipReason};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::ListParams;

use super::report::Report;
use crate::cluster::{Cluster, ClusterError, Listed};
use crate::{Error, limits};

/// Looks at all pods, or at those of the namespace that the user named.
pub(super) async fn check(
    cluster: &Cluster,
    excluded: &BTreeSet<String>,
    report: &mut Report,
) -> Result<(), Error> {
    let (namespaces, pods) = match read(cluster).await {
        Ok(read) => read,
        Err(error) => return Ok(report.unseen("pods", error)?),
    };
    let enabled = |namespace: &Namespace| {
        namespace.labels().get(INJECT).map(String::as_str) == Some(INJECT_ENABLED)
    };
    let enabled: BTreeSet<String> = namespaces
        .iter()
        .filter(|ns| enabled(ns))
        .map(ResourceExt::name_any)
        .collect();
    let mut with = 0_usize;
    let mut without = Vec::new();
    for pod in pods.items.iter().filter(|pod| is_alive(pod)) {
        let namespace = pod.namespace().unwrap_or_default();
        if excluded.contains(&namespace) || !is_wanted(pod, enabled.contains(&namespace)) {
            continue;
        }
        match skip(pod) {
            Some(SkipReason::AlreadyInjected) => with += 1,
            Some(SkipReason::OptedOut) => {}
            Some(SkipReason::HostNetwork | SkipReason::Windows | SkipReason::StaticPod) | None => {
                without.push((namespace, pod));
            }
        }
    }
    tell(with, &without, report);
    if pods.truncated {
        let what = format!("only the first {} pods were looked at", limits::OBJECTS);
        report.doubtful(what, "check namespace by namespace, with -n");
    }
    Ok(())
}

/// Why a pod has no sidecar, as far as the pod itself tells.
pub(crate) fn missing_reason(pod: &Pod) -> String {
    if let Some(reason) = skip(pod) {
        return reason.to_string();
    }
    match refusal(pod) {
        Some(refusal) => format!("it would be refused: {refusal}"),
        None => "it was not labelled fairway.dev/inject: enabled when it started, and neither was its namespace".to_owned(),
    }
}

async fn read(cluster: &Cluster) -> Result<(Vec<Namespace>, Listed<Pod>), ClusterError> {
    let api = cluster.clusterwide::<Namespace>();
    if cluster.namespace_given {
        let namespace = cluster.find(&api, &cluster.namespace).await?;
        let pods = cluster.namespaced::<Pod>(&cluster.namespace);
        let pods = cluster.list(&pods, ListParams::default()).await?;
        return Ok((namespace.into_iter().collect(), pods));
    }
    let namespaces = cluster.list(&api, ListParams::default()).await?.items;
    Ok((
        namespaces,
        cluster
            .list(&cluster.everywhere::<Pod>(), ListParams::default())
            .await?,
    ))
}

/// Whether the pod runs, or is about to.
fn is_alive(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether somebody asked for a sidecar: the pod, or else its namespace.
fn is_wanted(pod: &Pod, namespace_enabled: bool) -> bool {
    match pod.labels().get(INJECT).map(String::as_str) {
        Some(INJECT_ENABLED) => true,
        Some(INJECT_DISABLED) => false,
        Some(_) | None => namespace_enabled,
    }
}

fn skip(pod: &Pod) -> Option<SkipReason> {
    inject::skip(pod, pod.spec.as_ref()?)
}

/// What the injector would say against the pod.
fn refusal(pod: &Pod) -> Option<String> {
    inject::refusal(pod).map(|refusal| refusal.to_string())
}

fn tell(with: usize, without: &[(String, &Pod)], report: &mut Report) {
    if without.is_empty() {
        report.good(format!(
            "{with} pods have a sidecar, and none lacks one that should have it"
        ));
        return;
    }
    report.good(format!("{with} pods have a sidecar"));
    for (namespace, pod) in without.iter().take(limits::NAMED_PODS) {
        let name = pod.name_any();
        let (why, remedy) = if let Some(reason) = skip(pod) {
            (
                reason.to_string(),
                "change that, or label the pod fairway.dev/inject: disabled".to_owned(),
            )
        } else if let Some(refusal) = refusal(pod) {
            (
                format!("started without one, and would now be refused: {refusal}"),
                "mend that and start it anew".to_owned(),
            )
        } else {
            (
                "started before it was labelled, or around the injector".to_owned(),
                restart(namespace, pod),
            )
        };
        report.bad(
            format!("pod {namespace}/{name} should have a sidecar and has none: {why}"),
            remedy,
        );
    }
    if without.len() > limits::NAMED_PODS {
        let more = without.len() - limits::NAMED_PODS;
        report.bad(
            format!("{more} pods more should have a sidecar and have none"),
            "check namespace by namespace, with -n",
        );
    }
}

/// How the pod is started anew, by what owns it.
fn restart(namespace: &str, pod: &Pod) -> String {
    let owner = pod.owner_references().first();
    let owner = owner.map(|owner| (owner.kind.as_str(), owner.name.as_str()));
    let target = match owner {
        Some(("ReplicaSet", name)) => match (name.rsplit_once('-'), template_hash(pod)) {
            (Some((deployment, hash)), Some(label)) if hash == label => {
                format!("deployment/{deployment}")
            }
            _ => return format!("kubectl -n {namespace} delete pod {}", pod.name_any()),
        },
        Some(("StatefulSet", name)) => format!("statefulset/{name}"),
        Some(("DaemonSet", name)) => format!("daemonset/{name}"),
        Some(_) => return format!("kubectl -n {namespace} delete pod {}", pod.name_any()),
        None => return "delete it and make it again".to_owned(),
    };
    format!("kubectl -n {namespace} rollout restart {target}")
}

fn template_hash(pod: &Pod) -> Option<&str> {
    let labels: &BTreeMap<String, String> = pod.labels();
    labels.get("pod-template-hash").map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(object: Value) -> Pod {
        serde_json::from_value(object).unwrap()
    }

    /// `label of the pod, label of the namespace => wanted`
    #[test]
    fn who_wants_a_sidecar() {
        for (label, namespace, want) in [
            (None, false, false),
            (None, true, true),
            (Some("enabled"), false, true),
            (Some("disabled"), true, false),
            (Some("nonsense"), true, true),
            (Some("nonsense"), false, false),
        ] {
            let labels = label.map(|label| json!({ "fairway.dev/inject": label }));
            let pod = pod(json!({"metadata": {"labels": labels}}));
            assert_eq!(is_wanted(&pod, namespace), want, "{label:?} {namespace}");
        }
    }

    #[test]
    fn only_the_living_count() {
        for (object, want) in [
            (json!({"status": {"phase": "Running"}}), true),
            (json!({"status": {"phase": "Pending"}}), true),
            (json!({"status": {"phase": "Succeeded"}}), false),
            (
                json!({"metadata": {"deletionTimestamp": "2026-11-23T06:00:00Z"}}),
                false,
            ),
        ] {
            assert_eq!(is_alive(&pod(object)), want);
        }
    }

    #[test]
    fn how_to_start_it_anew() {
        let owned = |kind: &str, name: &str| {
            let owner = json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u"}]);
            restart(
                "ns",
                &pod(json!({"metadata": {
                    "name": "p", "ownerReferences": owner, "labels": {"pod-template-hash": "abc"},
                }})),
            )
        };
        for (kind, name, want) in [
            (
                "ReplicaSet",
                "web-1-abc",
                "kubectl -n ns rollout restart deployment/web-1",
            ),
            ("ReplicaSet", "mine", "kubectl -n ns delete pod p"),
            (
                "StatefulSet",
                "db",
                "kubectl -n ns rollout restart statefulset/db",
            ),
            (
                "DaemonSet",
                "agent",
                "kubectl -n ns rollout restart daemonset/agent",
            ),
            ("Job", "once", "kubectl -n ns delete pod p"),
        ] {
            assert_eq!(owned(kind, name), want);
        }
        assert_eq!(
            restart("ns", &Pod::default()),
            "delete it and make it again"
        );
    }

    #[test]
    fn why_there_is_none() {
        for (object, want) in [
            (
                json!({"spec": {"containers": [], "hostNetwork": true}}),
                "hostNetwork",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 7480}]}]}}),
                "would be refused",
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}]}}),
                "was not labelled",
            ),
        ] {
            let reason = missing_reason(&pod(object));
            assert!(reason.contains(want), "{want} in {reason}");
        }
    }
}
