//! How a device is doing: what its DeviceIdentity says.

use std::io::Write;

use fairway_crds::conditions::{self, ENROLLED, READY};
use fairway_crds::{DeviceIdentity, DeviceIdentityStatus};
use fairway_identity::{Address, Label};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use kube::api::ListParams;

use super::{StatusError, joined, line, policies, policy_line};
use crate::Error;
use crate::cluster::Cluster;
use crate::console::Table;
use crate::when;

pub(super) async fn tell(
    cluster: &Cluster,
    name: &str,
    out: &mut dyn Write,
    now: Timestamp,
) -> Result<(), Error> {
    let api = cluster.namespaced::<DeviceIdentity>(&cluster.namespace);
    let found = cluster.find(&api, name).await?;
    let device = found.ok_or_else(|| StatusError::NoDevice {
        namespace: cluster.namespace.clone(),
        name: name.to_owned(),
    })?;
    let spec = &device.spec;
    let policies = policies(cluster, |target| {
        target.selects_device(name, &spec.attributes)
    })
    .await?;
    let none = DeviceIdentityStatus::default();
    let status = device.status.as_ref().unwrap_or(&none);
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    line(out, "Device", &format!("{}/{name}", cluster.namespace))?;
    line(out, "Identity", &text(&status.identity))?;
    line(out, "Address", &address(&cluster.namespace, name))?;
    line(out, "State", &format!("{:?}", spec.state))?;
    line(
        out,
        "Attributes",
        &joined(spec.attributes.iter().map(|(k, v)| format!("{k}={v}"))),
    )?;
    line(out, "Services", &services(spec.services.as_deref()))?;
    line(out, "Key", &text(&status.device_key))?;
    line(out, "Credential", &credential(status, now))?;
    line(
        out,
        "Last seen",
        &seen(status, |seen| when::relative(seen, now)),
    )?;
    line(out, "Policies", &policy_line(policies))?;
    write_conditions(&status.conditions, out, now)?;
    if !conditions::is_true(&status.conditions, ENROLLED) && status.device_key.is_none() {
        writeln!(
            out,
            "\nIt has not enrolled: kubectl fairway ticket {name} -n {}",
            cluster.namespace
        )?;
    }
    Ok(())
}

pub(super) async fn list(
    cluster: &Cluster,
    out: &mut dyn Write,
    now: Timestamp,
) -> Result<(), Error> {
    let api = cluster.namespaced::<DeviceIdentity>(&cluster.namespace);
    let found = cluster.list(&api, ListParams::default()).await?;
    if found.items.is_empty() {
        writeln!(out, "No devices in namespace {}.", cluster.namespace)?;
        return Ok(());
    }
    let mut table = Table::new(&[
        "DEVICE",
        "STATE",
        "READY",
        "ENROLLED",
        "LAST SEEN",
        "CREDENTIAL",
    ]);
    let none = DeviceIdentityStatus::default();
    for device in &found.items {
        let status = device.status.as_ref().unwrap_or(&none);
        let condition = |kind| {
            conditions::find(&status.conditions, kind)
                .map_or("-", |c| c.status.as_str())
                .to_owned()
        };
        table.row([
            device.name_any(),
            format!("{:?}", device.spec.state),
            condition(READY),
            condition(ENROLLED),
            seen(status, |seen| when::span(ago(seen, now)) + " ago"),
            credential(status, now),
        ]);
    }
    table.write("", out)?;
    if found.truncated {
        writeln!(out, "There are more.")?;
    }
    Ok(())
}

fn address(namespace: &str, name: &str) -> String {
    match (Label::new(namespace), Label::new(name)) {
        (Ok(namespace), Ok(name)) => Address::Device { namespace, name }.to_string(),
        (Err(_), _) | (_, Err(_)) => "-".to_owned(),
    }
}

fn credential(status: &DeviceIdentityStatus, now: Timestamp) -> String {
    let Some(credential) = &status.credential else {
        return "none yet".to_owned();
    };
    let ends = credential.expiry_time.0;
    let word = if ends <= now { "ended" } else { "ends" };
    format!(
        "serial {}, {word} {}",
        credential.serial,
        when::relative(ends, now)
    )
}

fn seen(status: &DeviceIdentityStatus, tell: impl Fn(Timestamp) -> String) -> String {
    match &status.last_seen_time {
        Some(Time(seen)) => tell(*seen),
        None => "never".to_owned(),
    }
}

fn ago(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_second() - then.as_second()).unwrap_or(0)
}

fn write_conditions(
    conditions: &[Condition],
    out: &mut dyn Write,
    now: Timestamp,
) -> std::io::Result<()> {
    if conditions.is_empty() {
        return line(
            out,
            "Conditions",
            "none yet; is the operator running? See `kubectl fairway check`",
        );
    }
    line(out, "Conditions", "")?;
    let mut table = Table::default();
    for condition in conditions {
        let since = when::span(ago(condition.last_transition_time.0, now));
        table.row([
            condition.type_.clone(),
            condition.status.clone(),
            condition.reason.clone(),
            format!("for {since}"),
            condition.message.clone(),
        ]);
    }
    table.write("  ", out)
}

/// What the device may offer, of what its own config names.
fn services(allowed: Option<&[String]>) -> String {
    match allowed {
        None => "all that the device's config names".to_owned(),
        Some([]) => "none".to_owned(),
        Some(names) => joined(names.iter().cloned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{self, FakeCluster, NOW};

    const DEVICES: &str = "/apis/fairway.dev/v1alpha1/namespaces/factory/deviceidentities";
    const POLICIES: &str = "/apis/fairway.dev/v1alpha1/namespaces/factory/channelpolicies";

    async fn told(fake: FakeCluster, name: &str) -> Result<String, Error> {
        let mut out = Vec::new();
        tell(&fake.cluster(), name, &mut out, NOW).await?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn policy(name: &str, device: &str) -> serde_json::Value {
        json!({
            "metadata": {"name": name, "namespace": "factory"},
            "spec": {
                "action": "Allow",
                "target": {"devices": {"names": [device]}},
                "from": [{"workloads": {"namespaces": ["*"], "serviceAccounts": ["prometheus"]}}],
                "to": [{"service": "metrics"}],
            },
        })
    }

    #[tokio::test]
    async fn a_device_is_told_about() {
        let fake = FakeCluster::new()
            .object(&format!("{DEVICES}/pump-7"), testing::device("Active"))
            .list(
                POLICIES,
                json!([policy("mine", "pump-7"), policy("other", "pump-8")]),
            );
        let text = told(fake, "pump-7").await.unwrap();
        for wanted in [
            "Device      factory/pump-7\n",
            "Identity    spiffe://fairway.local/ns/factory/device/pump-7\n",
            "Address     pump-7.factory.device.fairway.internal\n",
            "State       Active\n",
            "Attributes  model=pump, site=oslo\n",
            "Services    metrics\n",
            "Credential  serial 0a0b, ends 2026-11-24T06:00:00Z (in 1d)\n",
            "Last seen   2026-11-23T05:55:00Z (5m ago)\n",
            "Policies    mine\n",
            "  Ready  True  Enrolled  for 1h\n",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_new_device_is_told_what_comes_next() {
        let mut device = testing::device("Active");
        device["status"] = json!({});
        let fake = FakeCluster::new()
            .object(&format!("{DEVICES}/pump-7"), device)
            .list(POLICIES, json!([]));
        let text = told(fake, "pump-7").await.unwrap();
        for wanted in [
            "none yet",
            "Last seen   never",
            "nobody may call it",
            "kubectl fairway ticket pump-7",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_said() {
        let fake = FakeCluster::new().missing(&format!("{DEVICES}/pump-7"));
        let error = told(fake, "pump-7").await.unwrap_err().to_string();
        assert!(
            error.contains("no such device") && error.contains("pod/pump-7"),
            "{error}"
        );
        let error = told(FakeCluster::new(), "pump-7")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("fairway-crds"), "{error}");
    }

    #[tokio::test]
    async fn devices_are_listed() {
        let fake = FakeCluster::new().list(DEVICES, json!([testing::device("Suspended")]));
        let mut out = Vec::new();
        list(&fake.cluster(), &mut out, NOW).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        let last = text.lines().last().unwrap();
        for wanted in ["pump-7", "Suspended", "True", "5m ago", "0a0b"] {
            assert!(last.contains(wanted), "{text}");
        }
    }

    #[test]
    fn services_left_out_are_not_none() {
        assert!(services(None).starts_with("all "));
        assert_eq!(services(Some(&[])), "none");
        assert_eq!(services(Some(&["a".to_owned(), "b".to_owned()])), "a, b");
    }
}
