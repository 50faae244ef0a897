//! What the reader of a failure needs to know.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, LogParams};
use serde_json::Value;

use crate::cluster::SYSTEM;
use crate::objects;
use crate::scenario::Scenario;

/// Lines of a log that are shown.
const LINES: usize = 60;

impl Scenario {
    /// Everything there is to know, to standard output: the test harness keeps
    /// it for failures.
    pub(crate) async fn show(&self) {
        let both = [
            self.namespace().to_owned(),
            format!("{}-b", self.namespace()),
        ];
        for namespace in &both {
            println!(
                "\n=== namespace {namespace}\n{}",
                self.overview(namespace).await
            );
            self.show_pod_logs(namespace).await;
        }
        for (title, lines) in self.kept() {
            println!("=== {title}\n{}\n", lines.last(LINES));
        }
        println!("=== pods of {SYSTEM}\n{}", self.pods(SYSTEM).await);
        self.show_pod_logs(SYSTEM).await;
    }

    async fn overview(&self, namespace: &str) -> String {
        let client = &self.cluster().client;
        let mut text = self.pods(namespace).await;
        for kind in ["DeviceIdentity", "EnrollmentTicket", "ChannelPolicy"] {
            let line = |object: &Value| {
                format!(
                    "{kind} {}: {}",
                    object["metadata"]["name"], object["status"]
                )
            };
            text += &objects::overview(client, namespace, "fairway.dev/v1alpha1", kind, line).await;
        }
        let event = |event: &Value| {
            format!(
                "event {} {}: {} {}",
                event["regarding"]["kind"],
                event["regarding"]["name"],
                event["reason"],
                event["note"]
            )
        };
        text + &objects::overview(client, namespace, "events.k8s.io/v1", "Event", event).await
    }

    async fn pods(&self, namespace: &str) -> String {
        let line = |pod: &Value| {
            let states = ["initContainerStatuses", "containerStatuses"]
                .map(|list| pod["status"][list].as_array().cloned().unwrap_or_default());
            let states = states
                .concat()
                .iter()
                .map(|one| {
                    format!(
                        "{}: {} restarts {}",
                        one["name"], one["state"], one["restartCount"]
                    )
                })
                .collect::<Vec<_>>();
            format!(
                "pod {} {}: {}",
                pod["metadata"]["name"],
                pod["status"]["phase"],
                states.join("; ")
            )
        };
        objects::overview(&self.cluster().client, namespace, "v1", "Pod", line).await
    }

    async fn show_pod_logs(&self, namespace: &str) {
        let api = Api::<Pod>::namespaced(self.client(), namespace);
        for pod in api.list(&ListParams::default()).await.into_iter().flatten() {
            let (Some(name), Some(spec)) = (pod.metadata.name, pod.spec) else {
                continue;
            };
            for container in spec
                .init_containers
                .into_iter()
                .flatten()
                .chain(spec.containers)
            {
                let lines = i64::try_from(LINES).ok();
                let params = LogParams {
                    container: Some(container.name.clone()),
                    tail_lines: lines,
                    ..LogParams::default()
                };
                let log = api
                    .logs(&name, &params)
                    .await
                    .unwrap_or_else(|error| format!("{error}"));
                println!("=== log of {name}, container {}\n{log}", container.name);
            }
        }
    }
}
