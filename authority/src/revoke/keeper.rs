//! The task that turns what happens to objects into entries of the record, and
//! keeps the records tidy.
//!
//! Every replica runs it. All come to the same entries, give or take a second,
//! and adding one twice changes nothing, so none has to lead.

use std::sync::Arc;
use std::time::Duration;

use fairway_crds::{DeviceIdentity, DeviceState};
use fairway_identity::{Uid, UnixSeconds};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::due;
use super::issued::{Holder, Issued};
use super::record::{Entry, Kind, Record};
use crate::clock::WallClock;
use crate::cluster::{ApiError, call};
use crate::config_map;
use crate::distribute::facts::{DeviceFacts, PodFacts};
use crate::distribute::hub::Hub;
use crate::distribute::index::Errand;
use crate::events::chain;
use crate::limits;
use crate::names::{FIELD_MANAGER, REVOCATIONS};

/// How often the record is looked over without a reason.
const SWEEP: Duration = Duration::from_secs(60);

/// The pause after something failed.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the records.
pub struct Keeper {
    client: Client,
    record: Api<ConfigMap>,
    hub: Arc<Hub>,
    issued: Arc<Issued>,
    clock: WallClock,
    /// Raised when the record is full: credentials issued before it are void.
    floor: watch::Sender<UnixSeconds>,
}

/// What one errand comes to.
#[derive(Debug, Default)]
struct Outcome {
    entry: Option<Entry>,
    /// An object to be taken off the record of issued credentials.
    gone: Option<Uid>,
    /// A device whose key ends with it.
    disenrol: Option<DeviceFacts>,
}

impl Keeper {
    /// A keeper. The receiver tells the floor that the trust set should have.
    pub fn new(
        client: &Client,
        namespace: &str,
        hub: Arc<Hub>,
        issued: Arc<Issued>,
        clock: WallClock,
    ) -> (Self, watch::Receiver<UnixSeconds>) {
        let (floor, floors) = watch::channel(UnixSeconds::default());
        let record = Api::namespaced(client.clone(), namespace);
        (
            Self {
                client: client.clone(),
                record,
                hub,
                issued,
                clock,
                floor,
            },
            floors,
        )
    }

    /// Runs for ever.
    pub async fn run(self) {
        // Without the object its watch says nothing, and the index waits.
        while let Err(error) = config_map::make(&self.record, REVOCATIONS).await {
            tracing::warn!(
                event = "keeper",
                error = chain(&error),
                "cannot make the record of revocations"
            );
            tokio::time::sleep(RETRY).await;
        }
        self.hub.ready().await;
        while let Err(error) = self.compare().await {
            tracing::warn!(
                event = "keeper",
                error = chain(&error),
                "cannot compare with the record of issued credentials"
            );
            tokio::time::sleep(RETRY).await;
        }
        let mut sweep = true;
        loop {
            if let Err(error) = self.turn(sweep).await {
                tracing::warn!(
                    event = "keeper",
                    error = chain(&error),
                    "cannot write revocations; trying again"
                );
                tokio::time::sleep(RETRY).await;
                continue;
            }
            sweep = false;
            tokio::select! {
                () = self.hub.errands.notified() => {}
                () = tokio::time::sleep(self.pause()) => {
                    self.hub.update(|index, now| index.time_has_passed(now));
                    sweep = true;
                }
            }
        }
    }

    /// Finds what was deleted while no authority was running.
    async fn compare(&self) -> Result<(), ApiError> {
        let holders = self.issued.read_all().await?;
        let vanished: Vec<Holder> = self.hub.read(|index| {
            let devices: std::collections::BTreeSet<&str> =
                index.devices().map(|device| device.uid.as_str()).collect();
            let is_there = |holder: &Holder| match holder.kind {
                Kind::Device => devices.contains(holder.uid.as_str()),
                Kind::Workload => index.pod(holder.uid.as_str()).is_some(),
            };
            holders
                .into_iter()
                .filter(|holder| !is_there(holder))
                .collect()
        });
        for holder in vanished {
            // The lists may be older than the object.
            if self.exists(&holder).await? {
                continue;
            }
            tracing::info!(event = "revoked", uid = %holder.uid, namespace = holder.namespace, name = holder.name, cause = "deleted", "was deleted while no authority was running");
            let known = self
                .hub
                .read(|index| index.record().covers(&holder.uid, UnixSeconds::default()));
            if !known {
                self.write(&[holder.revocation(self.clock.now())], &[])
                    .await?;
            }
            self.issued.remove(&holder.uid).await?;
        }
        Ok(())
    }

    async fn exists(&self, holder: &Holder) -> Result<bool, ApiError> {
        let uid = match holder.kind {
            Kind::Device => {
                let devices =
                    Api::<DeviceIdentity>::namespaced(self.client.clone(), &holder.namespace);
                call("read a DeviceIdentity", devices.get_opt(&holder.name))
                    .await?
                    .and_then(|device| device.uid())
            }
            Kind::Workload => {
                let pods = Api::<Pod>::namespaced(self.client.clone(), &holder.namespace);
                call("read a pod", pods.get_opt(&holder.name))
                    .await?
                    .and_then(|pod| pod.uid())
            }
        };
        Ok(uid.as_deref() == Some(holder.uid.as_str()))
    }

    /// Does all errands, and removes what is obsolete. Without errands, that is
    /// looked for in a `sweep` only.
    async fn turn(&self, sweep: bool) -> Result<(), ApiError> {
        let errands = self.hub.quietly(|index| index.take_errands());
        if errands.is_empty() && !sweep {
            return Ok(());
        }
        let done = self.do_errands(&errands).await;
        if done.is_err() {
            self.hub.quietly(|index| {
                errands
                    .into_iter()
                    .for_each(|errand| index.return_errand(errand))
            });
        }
        done
    }

    async fn do_errands(&self, errands: &[Errand]) -> Result<(), ApiError> {
        let mut outcomes = Vec::new();
        for errand in errands {
            outcomes.push(self.decide(errand).await?);
        }
        let entries: Vec<Entry> = outcomes
            .iter()
            .filter_map(|outcome| outcome.entry.clone())
            .collect();
        let now = self.clock.now();
        let (mut obsolete, size) = self
            .hub
            .read(|index| (index.record().obsolete(now), index.record().len()));
        let too_many = (size + entries.len())
            .saturating_sub(obsolete.len())
            .saturating_sub(limits::REVOCATIONS_MAX);
        if too_many > 0 {
            let spared = self.spare(too_many, &obsolete);
            if spared.len() < too_many {
                return self.overflow(now).await;
            }
            obsolete.extend(spared);
        }
        self.write(&entries, &obsolete).await?;
        for outcome in outcomes {
            if let Some(uid) = outcome
                .gone
                .filter(|uid| self.issued.lifetime(uid).is_some())
            {
                self.issued.remove(&uid).await?;
            }
            if let Some(device) = outcome.disenrol {
                self.disenrol(&device).await?;
            }
        }
        Ok(())
    }

    async fn decide(&self, errand: &Errand) -> Result<Outcome, ApiError> {
        let now = self.clock.now();
        Ok(match errand {
            Errand::DeviceChanged(device) => {
                let revoked = device.state == DeviceState::Revoked && device.enrolled;
                Outcome {
                    entry: self.ask(|record| due::of_device(device, record, now)),
                    disenrol: revoked.then(|| device.clone()),
                    gone: None,
                }
            }
            Errand::DeviceGone(device) => {
                let uid = Uid::new(&device.uid).ok();
                let entry = self.ask(|record| due::of_gone_device(device, record, now));
                Outcome {
                    entry: entry.or_else(|| self.of_unseen(device, now)),
                    gone: uid,
                    disenrol: None,
                }
            }
            Errand::PodGone(pod) => Outcome {
                entry: self.ask(|record| due::of_gone_pod(pod, record, now)),
                gone: Uid::new(&pod.uid).ok(),
                disenrol: None,
            },
            Errand::AccountGone(pod) if self.has_account(pod).await? => Outcome::default(),
            Errand::AccountGone(pod) => Outcome {
                entry: self.ask(|record| due::of_lost_account(pod, record, now)),
                ..Outcome::default()
            },
            Errand::ServicesLost(pod) => Outcome {
                entry: due::of_lost_services(pod, now),
                ..Outcome::default()
            },
        })
    }

    fn ask(&self, decide: impl FnOnce(&Record) -> Option<Entry>) -> Option<Entry> {
        self.hub.read(|index| decide(index.record()))
    }

    /// A device that is gone before its status told of the credential that
    /// this replica has just issued.
    fn of_unseen(&self, device: &DeviceFacts, now: UnixSeconds) -> Option<Entry> {
        let uid = Uid::new(&device.uid).ok()?;
        let covered = self
            .hub
            .read(|index| index.record().covers(&uid, UnixSeconds::default()));
        let lifetime = self
            .issued
            .lifetime(&uid)
            .filter(|_| device.credential.is_none() && !covered)?;
        let (namespace, name) = (device.namespace.clone(), device.name.clone());
        Some(
            Holder {
                uid,
                kind: Kind::Device,
                namespace,
                name,
                lifetime,
            }
            .revocation(now),
        )
    }

    async fn has_account(&self, pod: &PodFacts) -> Result<bool, ApiError> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &pod.namespace);
        let account = call(
            "read a ServiceAccount",
            accounts.get_metadata_opt(&pod.service_account),
        )
        .await?;
        Ok(account.is_some())
    }

    /// Adds entries and removes keys in one step.
    async fn write(&self, entries: &[Entry], obsolete: &[String]) -> Result<(), ApiError> {
        if entries.is_empty() && obsolete.is_empty() {
            return Ok(());
        }
        let mut data = Map::new();
        data.extend(obsolete.iter().map(|key| (key.clone(), Value::Null)));
        data.extend(
            entries
                .iter()
                .map(|entry| (entry.key(), Value::String(entry.value()))),
        );
        config_map::merge(&self.record, REVOCATIONS, Value::Object(data)).await?;
        for entry in entries {
            tracing::info!(event = "revoked", uid = %entry.uid, namespace = entry.namespace, name = entry.name, cause = %entry.cause, effective = entry.effective.0, keep_until = entry.keep_until.0);
        }
        Ok(())
    }

    /// Makes room for `n` entries and some more, as far as entries can go that
    /// guard against stolen keys of ended pods only.
    fn spare(&self, n: usize, obsolete: &[String]) -> Vec<String> {
        let wanted = n + limits::REVOCATIONS_SPARED;
        let mut keys = self
            .hub
            .read(|index| index.record().dispensable(wanted + obsolete.len()));
        keys.retain(|key| !obsolete.contains(key));
        keys.truncate(wanted);
        if !keys.is_empty() {
            tracing::warn!(
                event = "revocations-spared",
                n = keys.len(),
                limit = limits::REVOCATIONS_MAX,
                "too many revocations: those of pods that have come to their end go early"
            );
        }
        keys
    }

    /// There are more revocations than can be told one by one: everything that
    /// was issued so far is void, and then they need not be told.
    async fn overflow(&self, now: UnixSeconds) -> Result<(), ApiError> {
        let floor = self.hub.read(|index| index.floor());
        let all: Vec<String> = self.hub.read(|index| {
            let told_by_floor =
                |entry: &&Entry| entry.issued_before <= floor && entry.is_effective(now);
            index
                .record()
                .iter()
                .filter(told_by_floor)
                .map(Entry::key)
                .collect()
        });
        if *self.floor.borrow() <= floor {
            tracing::error!(
                event = "revocations-full",
                limit = limits::REVOCATIONS_MAX,
                "too many revocations: every credential issued until now becomes void and has to be renewed"
            );
            self.floor.send_replace(now.plus(1));
        }
        self.write(&[], &all).await?;
        Err(ApiError::Full)
    }

    /// A revoked device never comes back with the key that it has.
    async fn disenrol(&self, device: &DeviceFacts) -> Result<(), ApiError> {
        let devices = Api::<DeviceIdentity>::namespaced(self.client.clone(), &device.namespace);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        // The UID makes sure that it is still the same object.
        let patch = json!({"metadata": {"uid": device.uid}, "status": {"deviceKey": null}});
        let patch = Patch::Merge(patch);
        let patch = devices.patch_status(&device.name, &params, &patch);
        match call("take a revoked device's key away", patch).await {
            Ok(_) => Ok(()),
            // Made anew, or gone: another errand.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn pause(&self) -> Duration {
        let now = self.clock.now();
        let next = self.hub.read(|index| index.record().next_change(now));
        next.map_or(SWEEP, |next| {
            Duration::from_secs(next.since(now)).min(SWEEP)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mock::{self, Answer, Server};
    use crate::testing::{self, START, credential, device};

    const RECORD: &str = "PATCH /api/v1/namespaces/fairway-system/configmaps/fairway-revocations";
    const UID: &str = "c0000000-0000-4000-8000-000000000001";

    fn keeper(client: &Client) -> (Keeper, watch::Receiver<UnixSeconds>) {
        let clock = WallClock::from_fn(|| START);
        let hub = Hub::new(testing::index(), clock.clone());
        let issued = Arc::new(Issued::new(client, "fairway-system"));
        Keeper::new(client, "fairway-system", hub, issued, clock)
    }

    fn pump(state: DeviceState) -> DeviceFacts {
        DeviceFacts {
            uid: UID.to_owned(),
            state,
            credential: Some(credential(START.0 - 50, START.0 + 1000)),
            ..device("factory", "pump-7")
        }
    }

    /// The record gets one entry of this cause.
    fn expect_entry(server: Server, cause: &'static str) -> Server {
        server.expect(move |call| {
            assert_eq!(call.line(), RECORD);
            let data = call.body["data"].as_object().unwrap();
            assert_eq!(data.len(), 1, "{data:?}");
            let (key, value) = data.iter().next().unwrap();
            assert!(key.contains(&format!(".{cause}.")), "{key}");
            assert!(Entry::parse(key, value.as_str().unwrap()).is_some());
            Answer::ok(json!({"metadata": {}}))
        })
    }

    #[tokio::test]
    async fn a_revoked_device_is_put_on_record_and_loses_its_key() {
        let (client, server) = mock::api();
        let (keeper, _floors) = keeper(&client);
        keeper
            .hub
            .update(|index, _| index.apply_device(pump(DeviceState::Revoked)));
        let server = expect_entry(server, "revoked").expect(|call| {
            assert!(call.path.ends_with("/deviceidentities/pump-7/status"));
            assert_eq!(
                call.body,
                json!({"metadata": {"uid": UID}, "status": {"deviceKey": null}})
            );
            Answer::ok(json!({"metadata": {"name": "pump-7"}, "spec": {}}))
        });
        keeper.turn(true).await.unwrap();
        server.done().await;
        assert!(keeper.hub.quietly(|index| index.take_errands()).is_empty());
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_done_again() {
        let (client, server) = mock::api();
        let (keeper, _floors) = keeper(&client);
        keeper
            .hub
            .update(|index, _| index.apply_device(pump(DeviceState::Suspended)));
        let server = server.expect(|_| Answer::status(500));
        keeper.turn(true).await.unwrap_err();
        let server = expect_entry(server, "suspended");
        keeper.turn(true).await.unwrap();
        server.done().await;
    }

    #[tokio::test]
    async fn deletions_during_an_outage_are_found_by_comparing() {
        let (client, mut server) = mock::api();
        let (keeper, _floors) = keeper(&client);
        keeper
            .hub
            .update(|index, _| index.apply_device(pump(DeviceState::Active)));
        for number in 0..limits::ISSUED_SHARDS {
            server = server.expect(move |call| {
                assert!(call.path.ends_with(&format!("fairway-issued-{number:x}")));
                let data = match number {
                    // Still there; gone; made anew; only our list is older.
                    12 => json!({UID: "device factory/pump-7 600"}),
                    13 => json!({"d1": "device factory/gone 600"}),
                    14 => json!({"e1": "device factory/anew 600"}),
                    15 => json!({"f1": "workload factory/young 600"}),
                    _ => return Answer::status(404),
                };
                Answer::ok(json!({"metadata": {}, "data": data}))
            });
        }
        let forgotten = |server: Server, uid: &'static str| {
            server.expect(move |call| {
                assert_eq!(call.body["data"], json!({ uid: null }));
                Answer::ok(json!({"metadata": {}}))
            })
        };
        let server = server.expect(|_| Answer::status(404));
        let server = forgotten(expect_entry(server, "deleted"), "d1");
        let server = server.expect(|_| {
            Answer::ok(json!({"metadata": {"name": "anew", "uid": "another"}, "spec": {}}))
        });
        let server = forgotten(expect_entry(server, "deleted"), "e1");
        let server = server.expect(|call| {
            assert_eq!(call.line(), "GET /api/v1/namespaces/factory/pods/young");
            Answer::ok(json!({"metadata": {"name": "young", "uid": "f1"}}))
        });
        keeper.compare().await.unwrap();
        server.done().await;
    }

    #[tokio::test]
    async fn an_account_is_asked_for_before_its_pods_are_revoked() {
        for (answer, revoked) in [
            (Answer::ok(json!({"metadata": {}})), false),
            (Answer::status(404), true),
        ] {
            let (client, server) = mock::api();
            let (keeper, _floors) = keeper(&client);
            keeper
                .hub
                .update(|index, now| index.apply_pod(testing::pod("factory", "p", ""), now));
            keeper
                .hub
                .update(|index, _| index.delete_account(&("factory".into(), "default".into())));
            let server = server.expect(|call| {
                assert_eq!(
                    call.line(),
                    "GET /api/v1/namespaces/factory/serviceaccounts/default"
                );
                answer
            });
            let server = if revoked {
                expect_entry(server, "account-deleted")
            } else {
                server
            };
            keeper.turn(true).await.unwrap();
            server.done().await;
        }
    }

    #[tokio::test]
    async fn obsolete_entries_go() {
        let (client, server) = mock::api();
        let (keeper, _floors) = keeper(&client);
        let mut record = Record::default();
        let holder = Holder {
            uid: Uid::new(UID).unwrap(),
            kind: Kind::Device,
            namespace: "factory".into(),
            name: "pump-7".into(),
            lifetime: 10,
        };
        let ended = holder.revocation(START.minus(10));
        record.insert(ended.clone());
        keeper
            .hub
            .update(|index, now| index.set_record(record, now));
        let server = server.expect(move |call| {
            assert_eq!(call.body["data"], json!({ ended.key(): null }));
            Answer::ok(json!({"metadata": {}}))
        });
        keeper.turn(true).await.unwrap();
        server.done().await;
    }

    #[tokio::test]
    async fn pods_that_have_ended_make_room_and_never_raise_the_floor() {
        let (client, server) = mock::api();
        let (keeper, floors) = keeper(&client);
        let mut record = Record::default();
        for number in 0..limits::REVOCATIONS_MAX {
            let mut pod = testing::pod("factory", &format!("job-{number}"), "");
            pod.uid = format!("{number:036}");
            pod.sidecar_ended = true;
            record.insert(due::of_gone_pod(&pod, &Record::default(), START).unwrap());
        }
        keeper
            .hub
            .update(|index, now| index.set_record(record, now));
        keeper
            .hub
            .update(|index, _| index.apply_device(pump(DeviceState::Suspended)));
        let server = server.expect(|call| {
            let data = call.body["data"].as_object().unwrap();
            let removed = data.values().filter(|value| value.is_null()).count();
            assert_eq!(
                (removed, data.len()),
                (
                    1 + limits::REVOCATIONS_SPARED,
                    2 + limits::REVOCATIONS_SPARED
                )
            );
            Answer::ok(json!({"metadata": {}}))
        });
        keeper.turn(true).await.unwrap();
        server.done().await;
        assert_eq!(*floors.borrow(), UnixSeconds::default());
    }

    #[tokio::test]
    async fn a_full_record_raises_the_floor_and_is_emptied_by_it() {
        let (client, server) = mock::api();
        let (keeper, floors) = keeper(&client);
        let mut record = Record::default();
        for number in 0..limits::REVOCATIONS_MAX {
            let uid = Uid::new(&format!("{number:036}")).unwrap();
            let (namespace, name) = ("factory".to_owned(), "x".to_owned());
            record.insert(
                Holder {
                    uid,
                    kind: Kind::Device,
                    namespace,
                    name,
                    lifetime: 600,
                }
                .revocation(START.minus(5)),
            );
        }
        keeper
            .hub
            .update(|index, now| index.set_record(record, now));
        keeper
            .hub
            .update(|index, _| index.apply_device(pump(DeviceState::Revoked)));
        assert!(matches!(keeper.turn(true).await, Err(ApiError::Full)));
        assert_eq!(*floors.borrow(), START.plus(1));

        // The trust set with the floor has come.
        keeper.hub.update(|index, _| {
            index.set_trust(testing::ring_with_floor(START.plus(1)).trust().clone())
        });
        let server = server.expect(|call| {
            assert_eq!(
                call.body["data"].as_object().unwrap().len(),
                limits::REVOCATIONS_MAX
            );
            Answer::ok(json!({"metadata": {}}))
        });
        assert!(matches!(keeper.turn(true).await, Err(ApiError::Full)));
        server.done().await;
    }
}
