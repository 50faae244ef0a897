//! A Job with a sidecar calls a device and completes: the sidecar does not keep
//! its pod alive.

use fairway_e2e::{Context as _, SOON, json, objects, scenario};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::runtime::wait::{await_condition, conditions};

const POLICY: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: report}
---
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: report-may-look}
spec:
  target: {devices: {names: [pump-7]}}
  from: [{workloads: {namespaces: [$NS], serviceAccounts: [report]}}]
  to: [{service: app, protocol: HTTP}]
";

#[test]
fn a_job_with_a_sidecar_completes() {
    scenario("job", async |s| {
        s.apply(POLICY).await?;
        let mut device = s.running_device("pump-7", &[]).await?;
        device.serve().await?;
        let url = s.text("http://pump-7.$NS.device.fairway.internal:8080/report");
        let args = ["get", "-proxy", "http://127.0.0.1:7480", &url].map(str::to_owned);
        let template = json!({
            "metadata": {"labels": {"fairway.dev/inject": "enabled"}},
            "spec": {"serviceAccountName": "report", "restartPolicy": "Never"},
        });
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "report"},
            "spec": {"backoffLimit": 0, "template": objects::with_container(template, &args)},
        });
        objects::apply(&s.client(), s.namespace(), job).await?;

        let jobs = Api::<Job>::namespaced(s.client(), s.namespace());
        tokio::time::timeout(
            SOON * 3,
            await_condition(jobs, "report", conditions::is_job_completed()),
        )
        .await
        .context("the Job did not complete")??;
        Ok(())
    });
}
