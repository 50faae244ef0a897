//! `kubectl fairway status`: how a device or a workload is doing.

mod device;
mod sidecar;
mod workload;

use std::io::Write;
use std::str::FromStr;

use fairway_crds::ChannelPolicy;
use fairway_crds::compile::PolicyTarget;
use fairway_identity::AccountName;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::Error;
use crate::args::StatusArgs;
use crate::cluster::Cluster;
use crate::console::Console;

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The text names nothing.
    #[error(
        "{0:?} names neither a device nor a workload: write NAME or device/NAME for a device, and pod/NAME, deployment/NAME, statefulset/NAME or daemonset/NAME for a workload"
    )]
    Form(String),
    /// There is no such device.
    #[error(
        "no such device: namespace {namespace} has no DeviceIdentity {name}; for a workload write pod/{name} or deployment/{name}, -n names another namespace"
    )]
    NoDevice {
        /// Namespace looked in.
        namespace: String,
        /// Name looked for.
        name: String,
    },
    /// There is no such workload.
    #[error(
        "no such workload: namespace {namespace} has no {kind} {name}; -n names another namespace"
    )]
    NoWorkload {
        /// Namespace looked in.
        namespace: String,
        /// Kind looked for.
        kind: &'static str,
        /// Name looked for.
        name: String,
    },
}

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Device(String),
    Pod(String),
    /// A controller of pods: its kind as its API says it.
    Set(SetKind, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SetKind {
    Deployment,
    StatefulSet,
    DaemonSet,
}

impl SetKind {
    fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }
}

impl FromStr for Subject {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        let (kind, name) = text.split_once('/').unwrap_or(("device", text));
        // The rule for names of pods is that of ServiceAccounts: labels and dots.
        let wrong = || StatusError::Form(text.to_owned());
        if AccountName::new(name).is_err()
            && name.len() <= fairway_identity::limits::ACCOUNT_NAME_LEN
        {
            return Err(wrong());
        }
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        if name.is_empty() || name.len() > 253 || !name.chars().all(good) {
            return Err(wrong());
        }
        let name = name.to_owned();
        match kind {
            "device" | "devices" | "fwdev" | "deviceidentity" | "deviceidentities" => {
                Ok(Self::Device(name))
            }
            "pod" | "pods" | "po" => Ok(Self::Pod(name)),
            "deployment" | "deployments" | "deploy" => Ok(Self::Set(SetKind::Deployment, name)),
            "statefulset" | "statefulsets" | "sts" => Ok(Self::Set(SetKind::StatefulSet, name)),
            "daemonset" | "daemonsets" | "ds" => Ok(Self::Set(SetKind::DaemonSet, name)),
            _ => Err(wrong()),
        }
    }
}

/// Tells about what the arguments name.
pub async fn run(
    cluster: &Cluster,
    args: &StatusArgs,
    console: &mut Console<'_>,
    now: Timestamp,
) -> Result<(), Error> {
    match args
        .what
        .as_deref()
        .map(str::parse::<Subject>)
        .transpose()?
    {
        Some(Subject::Device(name)) => device::tell(cluster, &name, console.out, now).await,
        Some(Subject::Pod(name)) => workload::tell_pod(cluster, &name, console.out, now).await,
        Some(Subject::Set(kind, name)) => {
            workload::tell_set(cluster, kind, &name, console.out, now).await
        }
        None => {
            device::list(cluster, console.out, now).await?;
            writeln!(console.out)?;
            workload::list(cluster, console.out).await
        }
    }
}

/// The policies of the namespace that speak of somebody, by name; with what
/// became of those that cannot be understood.
async fn policies(
    cluster: &Cluster,
    selects: impl Fn(&PolicyTarget) -> bool,
) -> Result<Vec<String>, Error> {
    let api = cluster.namespaced::<ChannelPolicy>(&cluster.namespace);
    let found = cluster.list(&api, ListParams::default()).await?;
    let told = |policy: &ChannelPolicy| {
        let name = policy.name_any();
        match policy.compile() {
            Ok(compiled) => selects(&compiled.target).then_some(name),
            Err(error) => Some(format!("{name} (not accepted: {error})")),
        }
    };
    Ok(found.items.iter().filter_map(told).collect())
}

/// One line of a description.
fn line(out: &mut dyn Write, title: &str, value: &str) -> std::io::Result<()> {
    writeln!(out, "{title:11} {value}")
}

/// A list in one line, or a dash.
fn joined(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(", ")
    }
}

/// What policies there are, and what none means.
fn policy_line(names: Vec<String>) -> String {
    if names.is_empty() {
        "none, so nobody may call it".to_owned()
    } else {
        joined(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_subjects_are_written_like() {
        let name = || "a".to_owned();
        for (text, want) in [
            ("a", Subject::Device(name())),
            ("device/a", Subject::Device(name())),
            ("pod/a", Subject::Pod(name())),
            ("deploy/a", Subject::Set(SetKind::Deployment, name())),
            ("sts/a", Subject::Set(SetKind::StatefulSet, name())),
            ("daemonset/a", Subject::Set(SetKind::DaemonSet, name())),
        ] {
            assert_eq!(text.parse::<Subject>().unwrap(), want, "{text}");
        }
        for bad in [
            "",
            "pod/",
            "service/a",
            "pod/a/b",
            "pod/..",
            "Pod/a",
            "pod/A",
            "a b",
            "?",
        ] {
            assert!(
                matches!(bad.parse::<Subject>(), Err(StatusError::Form(_))),
                "{bad}"
            );
        }
    }
}
