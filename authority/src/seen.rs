//! When devices were last seen: written when a device's watch begins and ends,
//! and now and then while it lasts; never more than once in 10 minutes for a
//! device, and only as fast as one write after the other. It is a courtesy to
//! the reader of a status, no heartbeat that anything depends on.

use std::sync::Arc;
use std::time::Duration;

use fairway_crds::DeviceIdentity;
use fairway_identity::UnixSeconds;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

use crate::clock::{WallClock, to_kubernetes};
use crate::cluster::call;
use crate::distribute::Hub;
use crate::distribute::index::Name;
use crate::events::chain;
use crate::limits;
use crate::names::FIELD_MANAGER;

/// A time that is younger than this is not written over (design: at most once
/// in 10 minutes).
const WRITE_SECONDS: u64 = 600;

/// How often the time is written while a watch lasts.
pub const WHILE_CONNECTED: Duration = Duration::from_secs(3600);

/// Takes devices that were seen; a task writes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LastSeen(mpsc::Sender<Name>);

impl LastSeen {
    /// A queue, and its other end for [`write()`].
    pub fn queue() -> (Self, mpsc::Receiver<Name>) {
        let (sender, receiver) = mpsc::channel(limits::STATUS_QUEUED_MAX);
        (Self(sender), receiver)
    }

    /// A device was seen now. When the queue is full this is forgotten: there
    /// will be another time.
    pub fn seen(&self, namespace: &str, name: &str) {
        let _ = self.0.try_send((namespace.to_owned(), name.to_owned()));
    }
}

/// Writes until all senders are gone.
pub async fn write(
    mut seen: mpsc::Receiver<Name>,
    client: Client,
    hub: Arc<Hub>,
    clock: WallClock,
) {
    while let Some(name) = seen.recv().await {
        let now = clock.now();
        let device = hub.read(|index| index.device(&name).cloned());
        // Enrolment and renewal write it together with the credential.
        let due =
            |last: Option<UnixSeconds>| last.is_none_or(|last| now.since(last) >= WRITE_SECONDS);
        let Some(device) = device.filter(|device| due(device.last_seen)) else {
            continue;
        };
        let devices = Api::<DeviceIdentity>::namespaced(client.clone(), &name.0);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({
            "metadata": {"uid": device.uid},
            "status": {"lastSeenTime": to_kubernetes(now)},
        }));
        if let Err(error) = call(
            "write when a device was last seen",
            devices.patch_status(&name.1, &params, &patch),
        )
        .await
        {
            tracing::debug!(
                event = "last-seen-lost",
                namespace = name.0,
                name = name.1,
                error = chain(&error)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mock::{self, Answer};
    use crate::testing::{self, START, device};

    #[tokio::test]
    async fn it_is_written_at_most_once_in_ten_minutes() {
        let (client, server) = mock::api();
        let clock = WallClock::from_fn(|| START);
        let hub = Hub::new(testing::index(), clock.clone());
        for (name, last) in [
            ("never", None),
            ("lately", Some(START.minus(599))),
            ("before", Some(START.minus(600))),
        ] {
            let mut facts = device("factory", name);
            facts.last_seen = last;
            hub.update(|index, _| index.apply_device(facts));
        }
        let served = ["never", "before"]
            .into_iter()
            .fold(server, |server, name| {
                server.expect(move |call| {
                    assert!(
                        call.path
                            .ends_with(&format!("deviceidentities/{name}/status")),
                        "{}",
                        call.path
                    );
                    Answer::ok(serde_json::json!({"metadata": {"name": name}, "spec": {}}))
                })
            });
        let (seen, queue) = LastSeen::queue();
        for name in ["never", "lately", "before", "unknown"] {
            seen.seen("factory", name);
        }
        drop(seen);
        write(queue, client, hub, clock).await;
        served.done().await;
    }
}
