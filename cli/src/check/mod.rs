//! `kubectl fairway check`: is the installation sound, and which pods should
//! have a sidecar and have none.
//!
//! What cannot be looked at for want of a permission is said, and the rest is
//! looked at all the same.

mod pods;
mod report;

use std::collections::BTreeSet;

use fairway_crds::conditions::{self, ACCEPTED};
use fairway_crds::{ChannelPolicy, DeviceIdentity};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::ListParams;

pub(crate) use pods::missing_reason;

use crate::cluster::{Cluster, ClusterError};
use crate::console::Console;
use crate::install::{self, InstallError, Trust};
use crate::{Error, Outcome};
use report::Report;

/// The oldest Kubernetes with native sidecars for good.
const OLDEST: (u32, u32) = (1, 33);

/// What the chart installs.
const DEPLOYMENTS: [&str; 3] = ["fairway-operator", "fairway-authority", "fairway-relay"];

/// The injector's entry at the API server.
const WEBHOOK: &str = "fairway-injector";

/// Looks at everything and tells what was found.
pub async fn run(cluster: &Cluster, console: &mut Console<'_>) -> Result<Outcome, Error> {
    let mut report = Report::default();
    version(cluster, &mut report).await?;
    resources(cluster, &mut report).await?;
    deployments(cluster, &mut report).await?;
    trust(cluster, &mut report).await?;
    let excluded = webhook(cluster, &mut report).await?;
    policies(cluster, &mut report).await?;
    pods::check(cluster, &excluded, &mut report).await?;
    report.write(console.out)?;
    Ok(report.outcome())
}

async fn version(cluster: &Cluster, report: &mut Report) -> Result<(), Error> {
    let (major, minor, text) = cluster.version().await?;
    if (major, minor) >= OLDEST {
        report.good(format!("Kubernetes {text} at {}", cluster.server()));
    } else {
        let found = format!("Kubernetes {text} is too old: sidecars need 1.33 or later");
        report.bad(found, "upgrade the cluster");
    }
    Ok(())
}

async fn resources(cluster: &Cluster, report: &mut Report) -> Result<(), Error> {
    let devices = cluster.namespaced::<DeviceIdentity>(&cluster.namespace);
    let what = "the resources of fairway.dev/v1alpha1";
    match cluster.list(&devices, ListParams::default()).await {
        Ok(_) => report.good(format!("{what} are there")),
        Err(ClusterError::NotInstalled) => report.bad(
            format!("{what} are missing"),
            "helm install fairway-crds charts/fairway-crds",
        ),
        Err(error) => report.unseen(what, error)?,
    }
    Ok(())
}

async fn deployments(cluster: &Cluster, report: &mut Report) -> Result<(), Error> {
    let namespace = &cluster.install_namespace;
    let api = cluster.namespaced::<Deployment>(namespace);
    let mut missing = Vec::new();
    for name in DEPLOYMENTS {
        match cluster.find(&api, name).await {
            Ok(Some(deployment)) => deployment_found(namespace, name, &deployment, report),
            Ok(None) => missing.push(name),
            Err(error) => report.unseen(&format!("Deployment {name}"), error)?,
        }
    }
    if !missing.is_empty() {
        report.bad(
            format!("namespace {namespace} has no Deployment {}", missing.join(", ")),
            format!(
                "helm install fairway charts/fairway -n {namespace} --create-namespace, or name the right namespace by --install-namespace"
            ),
        );
    }
    Ok(())
}

fn deployment_found(namespace: &str, name: &str, deployment: &Deployment, report: &mut Report) {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.as_ref();
    let available = status
        .and_then(|status| status.available_replicas)
        .unwrap_or(0);
    let told = format!("{name}: {available} of {wanted} pods available");
    let look = format!(
        "kubectl -n {namespace} get pods, then describe and logs of those that are not ready"
    );
    if available >= wanted && wanted > 0 {
        report.good(told);
    } else if available > 0 {
        report.doubtful(told, look);
    } else {
        report.bad(told, look);
    }
}

async fn trust(cluster: &Cluster, report: &mut Report) -> Result<(), Error> {
    let trust = match Trust::read(cluster).await {
        Ok(trust) => trust,
        Err(Error::Cluster(error)) => return Ok(report.unseen("ConfigMap fairway-trust", error)?),
        Err(Error::Install(InstallError::NoTrust { namespace })) => {
            report.bad(
                "the authority has not made its root key yet: there is no ConfigMap fairway-trust",
                format!("kubectl -n {namespace} logs deployment/fairway-authority -c authority"),
            );
            return Ok(());
        }
        Err(error) => {
            report.bad(error.to_string(), "mend that");
            return Ok(());
        }
    };
    report.good(format!(
        "trust domain {}, root {}",
        trust.domain, trust.root
    ));
    let list = |addresses: &[fairway_identity::RelayAddress]| {
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !trust.relays.is_empty() {
        report.good(format!("tickets name the relays {}", list(&trust.relays)));
        return Ok(());
    }
    match install::relay_addresses(cluster).await {
        Ok(found) if found.is_empty() => report.doubtful(
            "nothing says where devices reach the relays",
            "set relay.externalAddresses in the chart's values, or give every ticket --relay HOST:PORT",
        ),
        Ok(found) => report.good(format!(
            "tickets name the relays {}, as Service fairway-relay has them",
            list(&found)
        )),
        Err(error) => report.unseen("where devices reach the relays", error)?,
    }
    Ok(())
}

/// Checks the injector; the result is the namespaces that it leaves alone.
async fn webhook(cluster: &Cluster, report: &mut Report) -> Result<BTreeSet<String>, Error> {
    let mut excluded: BTreeSet<String> = [
        "kube-system",
        "kube-public",
        "kube-node-lease",
        cluster.install_namespace.as_str(),
    ]
    .map(str::to_owned)
    .into();
    let api = cluster.clusterwide::<MutatingWebhookConfiguration>();
    let found = match cluster.find(&api, WEBHOOK).await {
        Ok(found) => found,
        Err(error) => {
            report.unseen("the injector's webhook", error)?;
            return Ok(excluded);
        }
    };
    let Some(configuration) = found else {
        report.bad(
            format!("there is no MutatingWebhookConfiguration {WEBHOOK}, so no pod gets a sidecar"),
            "helm upgrade the chart fairway",
        );
        return Ok(excluded);
    };
    let entries = configuration.webhooks.unwrap_or_default();
    let certified = entries.iter().all(|entry| {
        entry
            .client_config
            .ca_bundle
            .as_ref()
            .is_some_and(|bundle| !bundle.0.is_empty())
    });
    if certified && !entries.is_empty() {
        report.good("the injector's webhook has its certificate");
    } else {
        report.bad(
            "the injector's webhook has no certificate, so pods that want a sidecar are refused",
            format!(
                "kubectl -n {} logs deployment/fairway-operator",
                cluster.install_namespace
            ),
        );
    }
    let expressions = entries
        .iter()
        .filter_map(|entry| entry.namespace_selector.as_ref())
        .flat_map(|selector| selector.match_expressions.iter().flatten())
        .filter(|e| e.key == "kubernetes.io/metadata.name" && e.operator == "NotIn");
    excluded.extend(expressions.flat_map(|expression| expression.values.iter().flatten().cloned()));
    Ok(excluded)
}

async fn policies(cluster: &Cluster, report: &mut Report) -> Result<(), Error> {
    let api = if cluster.namespace_given {
        cluster.namespaced::<ChannelPolicy>(&cluster.namespace)
    } else {
        cluster.everywhere::<ChannelPolicy>()
    };
    let found = match cluster.list(&api, ListParams::default()).await {
        Ok(found) => found,
        // Said already.
        Err(ClusterError::NotInstalled) => return Ok(()),
        Err(error) => return Ok(report.unseen("policies", error)?),
    };
    let mut accepted = 0_usize;
    for policy in &found.items {
        let name = format!(
            "{}/{}",
            policy.namespace().unwrap_or_default(),
            policy.name_any()
        );
        let stored = policy
            .status
            .as_ref()
            .map_or(&[][..], |status| &status.conditions);
        match policy.compile() {
            Err(error) => report.doubtful(
                format!("ChannelPolicy {name} is not in force: {error}"),
                "mend or delete it",
            ),
            Ok(_) if !conditions::is_true(stored, ACCEPTED) => report.doubtful(
                format!("ChannelPolicy {name} has not been accepted by the operator yet"),
                "if that does not change in a minute, see the logs of fairway-operator",
            ),
            Ok(_) => accepted += 1,
        }
    }
    report.good(format!("{accepted} ChannelPolicies in force"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{self, FakeCluster};

    const NS: &str = "/api/v1/namespaces";
    const WEBHOOKS: &str =
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/fairway-injector";

    fn deployment(available: i32) -> Value {
        json!({
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {"availableReplicas": available},
        })
    }

    fn webhook(bundle: &str) -> Value {
        json!({"webhooks": [{
            "name": "pod.inject.fairway.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"caBundle": bundle},
            "namespaceSelector": {"matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "cilium"]},
            ]},
        }]})
    }

    fn pod(name: &str, labels: Value) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "factory", "labels": labels},
            "spec": {"containers": [{"name": "app"}]},
            "status": {"phase": "Running"},
        })
    }

    fn sound() -> FakeCluster {
        let mut fake = FakeCluster::new()
            .object("/version", json!({
                "major": "1", "minor": "34", "gitVersion": "v1.34.4", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
            }))
            .list("/apis/fairway.dev/v1alpha1/namespaces/factory/deviceidentities", json!([]))
            .list("/apis/fairway.dev/v1alpha1/namespaces/factory/channelpolicies", json!([]))
            .object(
                &format!("{NS}/fairway-system/configmaps/fairway-trust"),
                json!({"data": testing::trust_data("relay.example.com:443")}),
            )
            .object(WEBHOOKS, webhook("Y2E="))
            .object(&format!("{NS}/factory"), json!({"metadata": {"name": "factory", "labels": {}}}))
            .list(&format!("{NS}/factory/pods"), json!([pod("plain", json!({}))]));
        for name in DEPLOYMENTS {
            fake = fake.object(
                &format!("/apis/apps/v1/namespaces/fairway-system/deployments/{name}"),
                deployment(2),
            );
        }
        fake
    }

    async fn checked(fake: FakeCluster) -> (Outcome, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            terminal: false,
        };
        let outcome = run(&fake.cluster(), &mut console).await.unwrap();
        (outcome, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn a_sound_installation_passes() {
        let (outcome, text) = checked(sound()).await;
        assert_eq!(outcome, Outcome::Good, "{text}");
        assert!(
            !text.contains("[fail]") && !text.contains("[warn]"),
            "{text}"
        );
        assert!(
            text.contains("relay.example.com:443") && text.contains("v1.34.4"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn every_fault_is_found() {
        let devices = "/apis/fairway.dev/v1alpha1/namespaces/factory/deviceidentities";
        let relay = "/apis/apps/v1/namespaces/fairway-system/deployments/fairway-relay";
        let trust = format!("{NS}/fairway-system/configmaps/fairway-trust");
        for (fake, wanted) in [
            (
                sound().answer(devices, 404, json!("404 page not found")),
                "are missing",
            ),
            (sound().missing(relay), "has no Deployment fairway-relay"),
            (
                sound().object(relay, deployment(0)),
                "fairway-relay: 0 of 2",
            ),
            (sound().missing(&trust), "no ConfigMap fairway-trust"),
            (sound().missing(WEBHOOKS), "no MutatingWebhookConfiguration"),
            (sound().object(WEBHOOKS, webhook("")), "no certificate"),
        ] {
            let (outcome, text) = checked(fake).await;
            assert_eq!(outcome, Outcome::Findings, "{text}");
            let failed = text.lines().find(|line| line.starts_with("[fail]"));
            assert!(
                failed.is_some_and(|line| line.contains(wanted)),
                "{wanted} in\n{text}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_doubtful_is_no_failure() {
        let relay = "/apis/apps/v1/namespaces/fairway-system/deployments/fairway-relay";
        let policies = "/apis/fairway.dev/v1alpha1/namespaces/factory/channelpolicies";
        let policy = json!({
            "metadata": {"name": "p", "namespace": "factory"},
            "spec": {"action": "Allow", "target": {"workloads": {"any": true}}, "from": [], "to": []},
        });
        for (fake, wanted) in [
            (
                sound().object(relay, deployment(1)),
                "fairway-relay: 1 of 2",
            ),
            (
                sound().list(policies, json!([policy])),
                "factory/p is not in force",
            ),
            (
                sound().refuse(WEBHOOKS, 403, "User \"eve\" cannot get"),
                "eve",
            ),
        ] {
            let (outcome, text) = checked(fake).await;
            assert_eq!(outcome, Outcome::Good, "{text}");
            let warned = text.lines().find(|line| line.starts_with("[warn]"));
            assert!(
                warned.is_some_and(|line| line.contains(wanted)),
                "{wanted} in\n{text}"
            );
        }
    }

    #[tokio::test]
    async fn pods_without_a_sidecar_are_named() {
        let pods = json!([
            pod("asked", json!({"fairway.dev/inject": "enabled"})),
            pod("opted-out", json!({"fairway.dev/inject": "disabled"})),
        ]);
        let fake = sound().list(&format!("{NS}/factory/pods"), pods);
        let (outcome, text) = checked(fake).await;
        assert_eq!(outcome, Outcome::Findings, "{text}");
        assert!(
            text.contains("factory/asked") && !text.contains("opted-out"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_answer_is_an_error() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            terminal: false,
        };
        let fake = FakeCluster::new().refuse("/version", 401, "Unauthorized");
        let error = run(&fake.cluster(), &mut console).await.unwrap_err();
        assert!(error.to_string().contains("log in again"), "{error}");
    }
}
