//! How a workload is doing: what its pods and their sidecars say.

use std::collections::BTreeMap;
use std::io::Write;

use fairway_crds::labels::SIDECAR_CONTAINER;
use fairway_identity::{AccountName, Address, Label, SpiffeId, TrustDomain};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::ListParams;

use super::sidecar::{self, SidecarError, SidecarState};
use super::{SetKind, StatusError, joined, line, policies, policy_line};
use crate::Error;
use crate::check::missing_reason;
use crate::cluster::{Cluster, ClusterError};
use crate::console::Table;
use crate::install::Trust;
use crate::{limits, when};

pub(super) async fn tell_pod(
    cluster: &Cluster,
    name: &str,
    out: &mut dyn Write,
    now: Timestamp,
) -> Result<(), Error> {
    let api = cluster.namespaced::<Pod>(&cluster.namespace);
    let found = cluster.find(&api, name).await?;
    let pod = found.ok_or_else(|| no_workload(cluster, "Pod", name))?;
    let known = Known::read(cluster).await?;
    tell(cluster, &known, &pod, out, now).await
}

pub(super) async fn tell_set(
    cluster: &Cluster,
    kind: SetKind,
    name: &str,
    out: &mut dyn Write,
    now: Timestamp,
) -> Result<(), Error> {
    let selector = selector_of(cluster, kind, name).await?;
    let selector = selector.ok_or_else(|| no_workload(cluster, kind.name(), name))?;
    let params = ListParams::default().labels(&selector_text(&selector));
    let api = cluster.namespaced::<Pod>(&cluster.namespace);
    let pods = cluster.list(&api, params).await?.items;
    if pods.is_empty() {
        writeln!(
            out,
            "{} {}/{name} has no pods.",
            kind.name(),
            cluster.namespace
        )?;
        return Ok(());
    }
    let known = Known::read(cluster).await?;
    for (n, pod) in pods.iter().take(limits::ASKED_SIDECARS).enumerate() {
        if n > 0 {
            writeln!(out)?;
        }
        tell(cluster, &known, pod, out, now).await?;
    }
    if pods.len() > limits::ASKED_SIDECARS {
        writeln!(
            out,
            "\nand {} pods more",
            pods.len() - limits::ASKED_SIDECARS
        )?;
    }
    Ok(())
}

/// The pods of the namespace that have a sidecar.
pub(super) async fn list(cluster: &Cluster, out: &mut dyn Write) -> Result<(), Error> {
    let api = cluster.namespaced::<Pod>(&cluster.namespace);
    let pods = cluster.list(&api, ListParams::default()).await?;
    let known = Known::read(cluster).await?;
    let mut table = Table::new(&["POD", "SIDECAR", "IDENTITY", "SERVICES"]);
    let mut any = false;
    for pod in pods
        .items
        .iter()
        .filter(|pod| sidecar_of(pod) != Sidecar::None)
    {
        any = true;
        table.row([
            pod.name_any(),
            sidecar_of(pod).to_string(),
            known.identity(pod),
            joined(known.services(pod)),
        ]);
    }
    if any {
        table.write("", out)?;
    } else {
        writeln!(
            out,
            "No pods with a sidecar in namespace {}.",
            cluster.namespace
        )?;
    }
    Ok(())
}

/// What must be known beside a pod to tell about it.
struct Known {
    domain: TrustDomain,
    services: Vec<Service>,
}

impl Known {
    async fn read(cluster: &Cluster) -> Result<Self, Error> {
        let api = cluster.namespaced::<Service>(&cluster.namespace);
        let services = cluster.list(&api, ListParams::default()).await?.items;
        Ok(Self {
            domain: Trust::read(cluster).await?.domain,
            services,
        })
    }

    fn identity(&self, pod: &Pod) -> String {
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref());
        let names = (
            Label::new(pod.metadata.namespace.as_deref().unwrap_or_default()),
            AccountName::new(account.unwrap_or("default")),
        );
        match names {
            (Ok(namespace), Ok(account)) => {
                SpiffeId::workload(self.domain.clone(), namespace, account).to_string()
            }
            (_, Err(error)) => format!("none: {error}"),
            (Err(error), _) => format!("none: {error}"),
        }
    }

    /// Names of the Services that the pod backs, by their selectors alone.
    fn services(&self, pod: &Pod) -> Vec<String> {
        let none = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        let backs = |service: &&Service| {
            let selector = service
                .spec
                .as_ref()
                .and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|selector| {
                !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
            })
        };
        self.services
            .iter()
            .filter(backs)
            .map(ResourceExt::name_any)
            .collect()
    }
}

async fn tell(
    cluster: &Cluster,
    known: &Known,
    pod: &Pod,
    out: &mut dyn Write,
    now: Timestamp,
) -> Result<(), Error> {
    let (namespace, name) = (&cluster.namespace, pod.name_any());
    let services = known.services(pod);
    let none = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
    let policies = policies(cluster, |target| target.selects_pod(labels)).await?;
    line(out, "Pod", &format!("{namespace}/{name}"))?;
    line(out, "Identity", &known.identity(pod))?;
    line(out, "Services", &joined(services.clone()))?;
    line(
        out,
        "Addresses",
        &joined(services.iter().filter_map(|name| address(namespace, name))),
    )?;
    line(out, "Policies", &policy_line(policies))?;
    match sidecar_of(pod) {
        Sidecar::None => {
            line(out, "Sidecar", &format!("none: {}", missing_reason(pod)))?;
        }
        sidecar => {
            line(out, "Sidecar", &sidecar.to_string())?;
            let api = cluster.namespaced::<Pod>(namespace);
            write_state(sidecar::ask(&api, &name).await, out, now)?;
        }
    }
    Ok(())
}

fn write_state(
    state: Result<SidecarState, SidecarError>,
    out: &mut dyn Write,
    now: Timestamp,
) -> std::io::Result<()> {
    let state = match state {
        Ok(state) => state,
        Err(error) => return line(out, "Credential", &format!("not known: {error}")),
    };
    line(out, "Credential", &credential(&state, now))?;
    if let Some(identity) = &state.identity {
        line(out, "Certified", identity)?;
    }
    let links = state
        .links
        .iter()
        .map(|link| format!("{} {}", link.remote, link.state));
    let links: Vec<String> = links.collect();
    let links = match (links.is_empty(), &state.link_error) {
        (true, Some(error)) => format!("none: {error}"),
        (true, None) => "none".to_owned(),
        (false, _) => links.join(", "),
    };
    line(out, "Links", &links)?;
    let authority = if state.watching {
        "connected"
    } else {
        "not connected"
    };
    line(out, "Authority", authority)?;
    line(out, "Sessions", &state.sessions.len().to_string())
}

fn credential(state: &SidecarState, now: Timestamp) -> String {
    let time = |second| Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    let told = state.credential.as_ref().map(|credential| {
        let (ends, renewed) = (time(credential.expires), time(credential.renew_at));
        format!(
            "ends {}, renewed {}",
            when::relative(ends, now),
            when::relative(renewed, now)
        )
    });
    let told = told.unwrap_or_else(|| "none yet".to_owned());
    match &state.credential_error {
        Some(error) => format!("{told}; the last attempt failed: {error}"),
        None => told,
    }
}

fn address(namespace: &str, service: &str) -> Option<String> {
    let (namespace, service) = (Label::new(namespace).ok()?, Label::new(service).ok()?);
    Some(Address::Service { namespace, service }.to_string())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sidecar {
    None,
    Starting,
    Running,
}

impl std::fmt::Display for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Starting => "not running yet",
            Self::Running => "running",
        })
    }
}

fn sidecar_of(pod: &Pod) -> Sidecar {
    let containers = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_ref());
    if !containers
        .into_iter()
        .flatten()
        .any(|c| c.name == SIDECAR_CONTAINER)
    {
        return Sidecar::None;
    }
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_ref());
    let status = statuses
        .into_iter()
        .flatten()
        .find(|status| status.name == SIDECAR_CONTAINER);
    let state = status.and_then(|status| status.state.as_ref());
    if state.is_some_and(|state| state.running.is_some()) {
        Sidecar::Running
    } else {
        Sidecar::Starting
    }
}

async fn selector_of(
    cluster: &Cluster,
    kind: SetKind,
    name: &str,
) -> Result<Option<LabelSelector>, ClusterError> {
    let namespace = &cluster.namespace;
    Ok(match kind {
        SetKind::Deployment => {
            let found = cluster
                .find(&cluster.namespaced::<Deployment>(namespace), name)
                .await?;
            found.and_then(|set| set.spec).map(|spec| spec.selector)
        }
        SetKind::StatefulSet => {
            let found = cluster
                .find(&cluster.namespaced::<StatefulSet>(namespace), name)
                .await?;
            found.and_then(|set| set.spec).map(|spec| spec.selector)
        }
        SetKind::DaemonSet => {
            let found = cluster
                .find(&cluster.namespaced::<DaemonSet>(namespace), name)
                .await?;
            found.and_then(|set| set.spec).map(|spec| spec.selector)
        }
    })
}

/// A selector as the API takes it in a query.
fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten();
    let mut parts: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = &expression.key;
        let values = expression.values.clone().unwrap_or_default().join(",");
        parts.push(match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",")
}

fn no_workload(cluster: &Cluster, kind: &'static str, name: &str) -> StatusError {
    StatusError::NoWorkload {
        namespace: cluster.namespace.clone(),
        kind,
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{self, FakeCluster, NOW};

    const PODS: &str = "/api/v1/namespaces/factory/pods";

    fn pod(sidecar: bool) -> Value {
        let containers = if sidecar {
            json!([{"name": "fairway-sidecar"}])
        } else {
            json!([])
        };
        json!({
            "metadata": {"name": "collector-0", "namespace": "factory", "labels": {"app": "collector"}},
            "spec": {"serviceAccountName": "collector", "containers": [], "initContainers": containers},
            "status": {"initContainerStatuses": [{
                "name": "fairway-sidecar", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                "state": {"running": {}},
            }]},
        })
    }

    fn fake() -> FakeCluster {
        let service = |name: &str, selector: Value| json!({"metadata": {"name": name}, "spec": {"selector": selector}});
        let services = json!([
            service("collector", json!({"app": "collector"})),
            service("other", json!({"app": "other"})),
            service("everything", json!({})),
        ]);
        FakeCluster::new()
            .object(
                "/api/v1/namespaces/fairway-system/configmaps/fairway-trust",
                json!({"data": testing::trust_data("")}),
            )
            .list("/api/v1/namespaces/factory/services", services)
            .list(
                "/apis/fairway.dev/v1alpha1/namespaces/factory/channelpolicies",
                json!([]),
            )
    }

    async fn told_pod(fake: FakeCluster) -> Result<String, Error> {
        let mut out = Vec::new();
        tell_pod(&fake.cluster(), "collector-0", &mut out, NOW).await?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn a_pod_is_told_about() {
        let text = told_pod(fake().object(&format!("{PODS}/collector-0"), pod(true)))
            .await
            .unwrap();
        for wanted in [
            "Pod         factory/collector-0\n",
            "Identity    spiffe://fairway.local/ns/factory/sa/collector\n",
            "Services    collector\n",
            "Addresses   collector.factory.svc.fairway.internal\n",
            "Policies    none, so nobody may call it\n",
            "Sidecar     running\n",
            "Credential  not known: ",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
        let text = told_pod(fake().object(&format!("{PODS}/collector-0"), pod(false)))
            .await
            .unwrap();
        assert!(text.contains("Sidecar     none: "), "{text}");
    }

    #[tokio::test]
    async fn the_pods_of_a_deployment_are_told_about() {
        let deployment =
            json!({"spec": {"selector": {"matchLabels": {"app": "collector"}}, "template": {}}});
        let fake = fake()
            .object(
                "/apis/apps/v1/namespaces/factory/deployments/collector",
                deployment,
            )
            .list(PODS, json!([pod(true), pod(true)]));
        let mut out = Vec::new();
        let set = SetKind::Deployment;
        tell_set(&fake.cluster(), set, "collector", &mut out, NOW)
            .await
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("Pod  ").count(), 2, "{text}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_said() {
        let error = told_pod(fake().missing(&format!("{PODS}/collector-0")))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("has no Pod collector-0"),
            "{error}"
        );
        let gone = fake().missing("/apis/apps/v1/namespaces/factory/deployments/x");
        let mut out = Vec::new();
        let told = tell_set(&gone.cluster(), SetKind::Deployment, "x", &mut out, NOW).await;
        assert!(
            told.unwrap_err()
                .to_string()
                .contains("has no Deployment x")
        );
    }

    #[tokio::test]
    async fn sidecars_are_listed() {
        let fake = fake().list(PODS, json!([pod(true), pod(false)]));
        let mut out = Vec::new();
        list(&fake.cluster(), &mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("collector-0  running  spiffe://"), "{text}");
    }

    #[test]
    fn states_are_told() {
        let state = SidecarState {
            credential: Some(sidecar::Credential {
                renew_at: NOW.as_second() + 60,
                expires: NOW.as_second() + 3600,
            }),
            credential_error: Some("authority away".into()),
            link_error: Some("connection refused".into()),
            ..SidecarState::default()
        };
        let mut out = Vec::new();
        write_state(Ok(state), &mut out, NOW).unwrap();
        let text = String::from_utf8(out).unwrap();
        for wanted in [
            "(in 1h)",
            "(in 1m)",
            "authority away",
            "none: connection refused",
            "not connected",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }

    #[test]
    fn selectors_are_written_as_queries() {
        let selector = serde_json::from_value(json!({
            "matchLabels": {"a": "b"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["d", "e"]},
                {"key": "f", "operator": "DoesNotExist"},
            ],
        }));
        assert_eq!(selector_text(&selector.unwrap()), "a=b,c in (d,e),!f");
    }
}
