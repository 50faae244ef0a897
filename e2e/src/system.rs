//! Fairway's own Deployments, for the scenarios that take them away.

use std::panic::{AssertUnwindSafe, resume_unwind};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;

use crate::cluster::{Cluster, SYSTEM};
use crate::wait::{LATER, eventually, within};

impl Cluster {
    /// Kills all pods of one of Fairway's Deployments at once, and waits until
    /// others have taken their place.
    ///
    /// # Errors
    /// They have not, for too long.
    pub async fn replace_pods(&self, deployment: &str) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), SYSTEM);
        let selector = ListParams::default().labels(&self.selector(deployment).await?);
        let old: Vec<_> = pods
            .list(&selector)
            .await?
            .into_iter()
            .filter_map(|pod| Some((pod.metadata.name?, pod.metadata.uid?)))
            .collect();
        ensure!(!old.is_empty(), "no pods of {deployment}");
        for (name, _) in &old {
            pods.delete(name, &DeleteParams::default().grace_period(0))
                .await?;
        }
        for (name, uid) in &old {
            await_condition(pods.clone(), name, conditions::is_deleted(uid)).await?;
        }
        self.rolled_out(deployment).await
    }

    /// Does something while one of Fairway's Deployments has no pods, and
    /// brings them back in any case: others need them.
    ///
    /// # Errors
    /// Those of `work`, or the pods do not go or come back.
    pub async fn without<T>(
        &self,
        deployment: &str,
        work: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        let done = match self.scale(deployment, 0).await {
            Ok(()) => AssertUnwindSafe(work()).catch_unwind().await,
            Err(error) => Ok(Err(error)),
        };
        self.scale(deployment, 1).await?;
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Sets how many pods one of Fairway's Deployments has, and waits until it
    /// is so.
    ///
    /// # Errors
    /// It is not, for too long.
    async fn scale(&self, deployment: &str, replicas: usize) -> Result<()> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), SYSTEM);
        deployments
            .patch_scale(
                deployment,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": {"replicas": replicas}})),
            )
            .await?;
        self.rolled_out(deployment).await?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), SYSTEM);
        let selector = ListParams::default().labels(&self.selector(deployment).await?);
        eventually(
            &format!("{replicas} pods of {deployment}"),
            LATER,
            async || {
                let there = pods.list(&selector).await?.items.len();
                ensure!(there == replicas, "there are {there}");
                Ok(())
            },
        )
        .await
    }

    /// Restarts one of Fairway's Deployments as `kubectl rollout restart` does,
    /// and waits until all its pods are new ones.
    ///
    /// # Errors
    /// They are not, for too long.
    pub async fn restart(&self, deployment: &str) -> Result<()> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), SYSTEM);
        deployments.restart(deployment).await?;
        self.rolled_out(deployment).await
    }

    async fn rolled_out(&self, deployment: &str) -> Result<()> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), SYSTEM);
        let done = |deployment: Option<&Deployment>| {
            let Some((spec, status)) =
                deployment.and_then(|d| d.spec.as_ref().zip(d.status.as_ref()))
            else {
                return false;
            };
            status.observed_generation == deployment.and_then(|d| d.metadata.generation)
                && status.updated_replicas.unwrap_or(0) == spec.replicas.unwrap_or(1)
                && status.available_replicas.unwrap_or(0) == spec.replicas.unwrap_or(1)
                && status.unavailable_replicas.unwrap_or(0) == 0
        };
        within(&format!("{deployment} to be available"), LATER, async {
            Ok(await_condition(deployments, deployment, done).await?)
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn selector(&self, deployment: &str) -> Result<String> {
        let found = Api::<Deployment>::namespaced(self.client.clone(), SYSTEM)
            .get(deployment)
            .await?;
        let labels = found
            .spec
            .and_then(|spec| spec.selector.match_labels)
            .context("a selector")?;
        Ok(labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(","))
    }
}
