//! The relays, for the scenarios that look at them or kill them.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod as Resource;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, SYSTEM};
use crate::pod::{Pod, is_ready};
use crate::wait::{LATER, SOON, eventually};

/// Their Deployment, and the name of their program.
pub const RELAY: &str = "fairway-relay";

/// A relay that is ready.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Its pod.
    pub pod: Pod,
    /// Where sidecars reach it.
    pub ip: String,
    uid: String,
}

impl Cluster {
    /// The relays that are ready.
    ///
    /// # Errors
    /// The API server does not say.
    pub async fn relays(&self) -> Result<Vec<Relay>> {
        let pods = Api::<Resource>::namespaced(self.client.clone(), SYSTEM);
        let selector = ListParams::default().labels(&self.selector(RELAY).await?);
        let there = pods.list(&selector).await?.into_iter();
        let stays = there.filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
        Ok(stays
            .filter_map(|pod| {
                Some(Relay {
                    ip: pod.status.as_ref()?.pod_ip.clone()?,
                    uid: pod.metadata.uid.clone()?,
                    pod: Pod::new(pods.clone(), pod.metadata.name.as_deref()?),
                })
            })
            .collect())
    }

    /// The relay that a device is linked to, by the device's address
    /// (`NAME.NS.device.fairway.internal`).
    ///
    /// # Errors
    /// None is, for too long.
    pub async fn relay_of(&self, device: &str) -> Result<Relay> {
        eventually(&format!("a relay to have {device}"), SOON, async || {
            for relay in self.relays().await? {
                let state = relay.pod.debug_state().await?;
                let links = state["relay"]["links"].as_array().context("no links")?;
                let is_it = |link: &&serde_json::Value| {
                    let names = link["names"].as_array().into_iter().flatten();
                    link["leaving"] == false && names.into_iter().any(|name| name == device)
                };
                if links.iter().any(|link| is_it(&link)) {
                    return Ok(relay);
                }
            }
            anyhow::bail!("no relay has it")
        })
        .await
    }

    /// Waits until there are `n` relays, and the sidecar of `pod` has said at
    /// each of them which names it answers to.
    ///
    /// # Errors
    /// It is not so, for too long.
    pub async fn on_all_relays(&self, pod: &Pod, n: usize) -> Result<()> {
        eventually(
            &format!("a sidecar to be linked to {n} relays"),
            LATER,
            async || {
                let relays = self.relays().await?;
                ensure!(relays.len() == n, "{} relays are ready", relays.len());
                let state = pod.debug_state().await?;
                let links = state["links"].as_array().context("no links")?;
                let is_linked = |relay: &Relay| {
                    links.iter().any(|link| {
                        link["remote"]
                            .as_str()
                            .is_some_and(|at| at.contains(&relay.ip))
                            && link["registered"]
                                .as_array()
                                .is_some_and(|names| !names.is_empty())
                    })
                };
                ensure!(relays.iter().all(is_linked), "{relays:?}, {state}");
                Ok(())
            },
        )
        .await
    }

    /// Kills a relay without a warning, and deletes its pod, so that another
    /// takes its place.
    ///
    /// # Errors
    /// The API server or the kernel refuses it.
    pub async fn kill(&self, relay: &Relay) -> Result<()> {
        // The kubelet would send SIGTERM first, whatever the grace period.
        if let Some(pid) = relay.pid() {
            kill_process(pid, Signal::KILL)?;
        }
        relay
            .pod
            .delete(&DeleteParams::default().grace_period(0))
            .await
    }
}

impl Relay {
    /// Waits until it is gone.
    ///
    /// # Errors
    /// It is not, for too long.
    pub async fn gone(&self) -> Result<()> {
        self.pod.gone(&self.uid).await
    }

    /// Bytes of memory that its process has, where this machine sees it.
    pub fn resident_bytes(&self) -> Option<u64> {
        let pid = self.pid()?.as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Its process, if its node is a container on this machine.
    fn pid(&self) -> Option<Pid> {
        let all = std::fs::read_dir("/proc").ok()?.flatten();
        let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let read = |pid: i32, what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}"));
        // As the kubelet's cgroup drivers write it.
        let uids = [self.uid.clone(), self.uid.replace('-', "_")];
        let found = pids.find(|&pid| {
            read(pid, "comm").is_ok_and(|name| name.trim_end() == RELAY)
                && read(pid, "cgroup").is_ok_and(|text| uids.iter().any(|uid| text.contains(uid)))
        });
        Pid::from_raw(found?)
    }
}
