//! How many connected endpoints enforce a revocation.
//!
//! Each replica knows only the endpoints that are connected to it. It writes
//! its numbers under its own key of one small ConfigMap; the replica whose
//! name comes first sums them up into the condition `Revoked` of the
//! DeviceIdentity.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairway_crds::conditions::Observed;
use fairway_crds::{DeviceIdentity, DeviceState};
use fairway_identity::UnixSeconds;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::due;
use super::record::{Cause, Entry, Kind};
use crate::clock::{WallClock, to_kubernetes};
use crate::cluster::{ApiError, call};
use crate::config_map;
use crate::distribute::facts::DeviceFacts;
use crate::distribute::hub::{Hub, Tally};
use crate::distribute::index::Index;
use crate::events::chain;
use crate::limits;
use crate::names::{ACKNOWLEDGEMENTS, FIELD_MANAGER, Install, REVOKED};

/// How long acknowledgements are gathered before they are written.
const GATHER: Duration = Duration::from_millis(300);

/// The pause after something failed.
const RETRY: Duration = Duration::from_secs(5);

/// Tallies by UID of the revoked device.
type Tallies = BTreeMap<String, Tally>;

/// Sums up acknowledgements.
pub struct Acks {
    client: Client,
    config_maps: Api<ConfigMap>,
    hub: Arc<Hub>,
    install: Install,
    clock: WallClock,
    me: String,
}

impl Acks {
    /// For the replica in the pod `me`.
    pub fn new(
        client: &Client,
        install: &Install,
        hub: Arc<Hub>,
        clock: WallClock,
        me: String,
    ) -> Self {
        Self {
            client: client.clone(),
            config_maps: Api::namespaced(client.clone(), install.namespace.as_str()),
            hub,
            install: install.clone(),
            clock,
            me,
        }
    }

    /// Runs for ever.
    pub async fn run(self) {
        self.hub.ready().await;
        let others = everybodys(self.config_maps.clone());
        futures::pin_mut!(others);
        let mut all: BTreeMap<String, Tallies> = BTreeMap::new();
        let mut written = None;
        loop {
            tokio::select! {
                () = self.hub.acknowledged.notified() => {}
                Some(read) = others.next() => all = read,
            }
            tokio::time::sleep(GATHER).await;
            if let Err(error) = self.turn(&mut all, &mut written).await {
                tracing::warn!(
                    event = "acknowledgements",
                    error = chain(&error),
                    "cannot write what was acknowledged; trying again"
                );
                tokio::time::sleep(RETRY).await;
                self.hub.acknowledged.notify_one();
            }
        }
    }

    async fn turn(
        &self,
        all: &mut BTreeMap<String, Tallies>,
        written: &mut Option<Tallies>,
    ) -> Result<(), ApiError> {
        let now = self.clock.now();
        let entries = self.hub.read(|index| reported(index, now));
        let mine: Tallies = entries
            .iter()
            .map(|entry| (entry.uid.to_string(), self.hub.tally(entry)))
            .collect();
        if written.as_ref() != Some(&mine) && !(written.is_none() && mine.is_empty()) {
            config_map::merge(
                &self.config_maps,
                ACKNOWLEDGEMENTS,
                json!({ &self.me: write(&mine) }),
            )
            .await?;
            *written = Some(mine.clone());
        }
        all.insert(self.me.clone(), mine);
        let mut live = self.hub.read(|index| replicas(index, &self.install));
        live.insert(self.me.clone());
        // One replica writes, so that they do not take turns.
        if live.first() != Some(&self.me) {
            return Ok(());
        }
        self.forget(all, &live).await?;
        let totals = sum(all);
        let conditions = self
            .hub
            .read(|index| conditions(index, &entries, &totals, now));
        for (device, condition) in conditions {
            self.write_condition(&device, condition).await?;
        }
        Ok(())
    }

    /// Removes the keys of replicas that are gone.
    async fn forget(
        &self,
        all: &mut BTreeMap<String, Tallies>,
        live: &BTreeSet<String>,
    ) -> Result<(), ApiError> {
        let gone: Map<String, Value> = all
            .keys()
            .filter(|name| !live.contains(*name))
            .map(|name| (name.clone(), Value::Null))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        all.retain(|name, _| live.contains(name));
        config_map::merge(&self.config_maps, ACKNOWLEDGEMENTS, Value::Object(gone)).await
    }

    /// `None` takes the condition away.
    async fn write_condition(
        &self,
        device: &DeviceFacts,
        condition: Option<Observed>,
    ) -> Result<(), ApiError> {
        let now = i64::try_from(self.clock.now().0)
            .ok()
            .and_then(|now| Timestamp::from_second(now).ok());
        let stored: Vec<_> = device.revoked.iter().cloned().collect();
        let conditions: Vec<_> = condition
            .iter()
            .map(|seen| seen.onto(&stored, Some(device.generation), now.unwrap_or_default()))
            .collect();
        let apply = json!({
            "apiVersion": "fairway.dev/v1alpha1",
            "kind": "DeviceIdentity",
            "metadata": {"name": device.name, "uid": device.uid},
            "status": {"conditions": conditions},
        });
        let devices = Api::<DeviceIdentity>::namespaced(self.client.clone(), &device.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(apply);
        match call(
            "write how far a revocation has come",
            devices.patch_status(&device.name, &params, &patch),
        )
        .await
        {
            Ok(_) => Ok(()),
            // Gone, or made anew: nothing to tell any more.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The revocations that are reported: those of devices that still exist, the
/// newest first.
fn reported(index: &Index, now: UnixSeconds) -> Vec<Entry> {
    let stands = |entry: &&Entry| {
        let device = index.device(&(entry.namespace.clone(), entry.name.clone()));
        let by_state = match entry.cause {
            Cause::Suspended | Cause::Revoked => true,
            Cause::Deleted
            | Cause::Ended
            | Cause::Reenrolled
            | Cause::Changed
            | Cause::AccountDeleted => false,
        };
        entry.kind == Kind::Device
            && by_state
            && entry.is_effective(now)
            && device.is_some_and(|device| {
                device.uid == entry.uid.as_str() && device.state != DeviceState::Active
            })
    };
    let mut newest: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in index.record().iter().filter(stands) {
        let known = newest.get(entry.uid.as_str());
        if known.is_none_or(|known| known.issued_before < entry.issued_before) {
            newest.insert(entry.uid.to_string(), entry.clone());
        }
    }
    let mut entries: Vec<Entry> = newest.into_values().collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.issued_before));
    entries.truncate(limits::ACKNOWLEDGEMENTS_MAX);
    entries
}

/// Names of the pods in which an authority runs.
fn replicas(index: &Index, install: &Install) -> BTreeSet<String> {
    let ours = index.pods().filter(|pod| {
        pod.namespace == install.namespace.as_str()
            && pod.service_account == install.authority_account.as_str()
            && !pod.ending
    });
    ours.map(|pod| pod.name.clone()).collect()
}

fn sum(all: &BTreeMap<String, Tallies>) -> Tallies {
    let mut totals = Tallies::new();
    for (uid, tally) in all.values().flatten() {
        totals.entry(uid.clone()).or_default().add(tally);
    }
    totals
}

/// Devices whose condition is not what it should be, and what it should be.
fn conditions(
    index: &Index,
    entries: &[Entry],
    totals: &Tallies,
    now: UnixSeconds,
) -> Vec<(DeviceFacts, Option<Observed>)> {
    let mut wrong = Vec::new();
    for device in index.devices() {
        let entry = entries
            .iter()
            .find(|entry| entry.uid.as_str() == device.uid);
        let wanted = match (device.state, entry) {
            (DeviceState::Active, _) => None,
            (DeviceState::Suspended | DeviceState::Revoked, Some(entry)) => Some(progress(
                entry,
                totals.get(&device.uid).unwrap_or(&Tally::default()),
            )),
            (DeviceState::Suspended | DeviceState::Revoked, None) => {
                // An entry is about to be written, or there are too many.
                let lives = device
                    .credential
                    .is_some_and(|credential| now < credential.expires);
                if lives || due::of_device(device, index.record(), now).is_some() {
                    continue;
                }
                Some(observed(
                    true,
                    "Expired",
                    "no credential of the device is valid any more".to_owned(),
                ))
            }
        };
        if !is_written(device, wanted.as_ref()) {
            wrong.push((device.clone(), wanted));
        }
    }
    wrong
}

fn progress(entry: &Entry, tally: &Tally) -> Observed {
    let Tally {
        enforced,
        concerned,
        waiting,
    } = tally;
    if enforced >= concerned {
        return observed(
            true,
            "Enforced",
            format!("enforced by all {concerned} connected endpoints that it concerns"),
        );
    }
    let mut rest = waiting.join(", ");
    let unnamed = (concerned - enforced).saturating_sub(waiting.len() as u64);
    match (waiting.is_empty(), unnamed) {
        (_, 0) => {}
        (true, more) => rest = more.to_string(),
        (false, more) => rest.push_str(&format!(" and {more} more")),
    }
    let message = format!(
        "enforced by {enforced} of {concerned} connected endpoints that it concerns, not yet by {rest}; certain at {}, when the last credential ends",
        to_kubernetes(entry.keep_until).0
    );
    observed(false, "Distributing", message)
}

fn observed(status: bool, reason: &'static str, message: String) -> Observed {
    Observed {
        kind: REVOKED,
        status: Some(status),
        reason,
        message,
    }
}

fn is_written(device: &DeviceFacts, wanted: Option<&Observed>) -> bool {
    match (&device.revoked, wanted) {
        (None, None) => true,
        (Some(stored), Some(wanted)) => {
            stored.reason == wanted.reason
                && stored.message == wanted.message
                && stored.observed_generation == Some(device.generation)
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Everybody's tallies, whenever they change.
fn everybodys(config_maps: Api<ConfigMap>) -> impl Stream<Item = BTreeMap<String, Tallies>> {
    let only = watcher::Config::default().fields(&format!("metadata.name={ACKNOWLEDGEMENTS}"));
    watcher(config_maps, only)
        .default_backoff()
        .filter_map(|event| async {
            match event {
                Ok(Event::Apply(map) | Event::InitApply(map)) => {
                    Some(read(map.data.unwrap_or_default()))
                }
                Ok(Event::Delete(_) | Event::Init | Event::InitDone) => None,
                Err(error) => {
                    tracing::warn!(
                        event = "watch-failed",
                        url = ACKNOWLEDGEMENTS,
                        error = chain(&error),
                        "a watch failed; it is tried again"
                    );
                    None
                }
            }
        })
}

/// A tally as it is stored: how many enforce it, how many it concerns, and
/// names of some that do not enforce it yet.
#[derive(Serialize, Deserialize)]
struct Stored(
    u64,
    u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")] Vec<String>,
);

fn write(tallies: &Tallies) -> String {
    let stored: BTreeMap<&String, Stored> = tallies
        .iter()
        .map(|(uid, tally)| {
            let waiting = tally.waiting.clone();
            (uid, Stored(tally.enforced, tally.concerned, waiting))
        })
        .collect();
    serde_json::to_string(&stored).expect("texts and numbers are JSON")
}

/// What cannot be read counts as nothing: it is a report, and its writer will
/// write it again.
fn read(data: BTreeMap<String, String>) -> BTreeMap<String, Tallies> {
    let parse = |text: &str| {
        let stored: BTreeMap<String, Stored> = serde_json::from_str(text).unwrap_or_default();
        let tally = |Stored(enforced, concerned, waiting)| Tally {
            enforced,
            concerned,
            waiting,
        };
        stored
            .into_iter()
            .map(|(uid, stored)| (uid, tally(stored)))
            .collect()
    };
    data.iter()
        .map(|(name, text)| (name.clone(), parse(text)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revoke::Record;
    use crate::testing::mock::{self, Answer};
    use crate::testing::{self, START, credential, device};
    use fairway_identity::Uid;

    fn revoked(index: &mut Index) -> DeviceFacts {
        let mut facts = device("factory", "pump-7");
        facts.state = DeviceState::Revoked;
        facts.generation = 2;
        facts.credential = Some(credential(START.0 - 100, START.0 + 1000));
        index.apply_device(facts.clone());
        let mut record = Record::default();
        record.insert(due::of_device(&facts, &record, START).unwrap());
        index.set_record(record, START);
        facts
    }

    fn tally(enforced: u64, concerned: u64) -> Tally {
        Tally {
            enforced,
            concerned,
            waiting: Vec::new(),
        }
    }

    #[test]
    fn tallies_round_trip_and_sum_up() {
        let one = Tallies::from([("a".into(), tally(1, 2)), ("b".into(), tally(0, 0))]);
        let waits = |name: &str, tally: Tally| Tally {
            waiting: vec![name.to_owned()],
            ..tally
        };
        let two = Tallies::from([("a".into(), waits("pod factory/web-0", tally(3, 4)))]);
        let data = BTreeMap::from([
            ("pod-0".to_owned(), write(&one)),
            ("pod-1".to_owned(), write(&two)),
            ("pod-2".to_owned(), "nonsense".to_owned()),
        ]);
        let totals = sum(&read(data));
        assert_eq!(
            totals,
            Tallies::from([
                ("a".into(), waits("pod factory/web-0", tally(4, 6))),
                ("b".into(), tally(0, 0))
            ])
        );
        // What an authority wrote that names nobody.
        let older = BTreeMap::from([("pod-0".to_owned(), r#"{"a":[1,2]}"#.to_owned())]);
        assert_eq!(
            sum(&read(older)),
            Tallies::from([("a".into(), tally(1, 2))])
        );
    }

    #[test]
    fn the_condition_says_how_far_it_is() {
        let mut index = testing::index();
        let facts = revoked(&mut index);
        let entries = reported(&index, START);
        assert_eq!(entries.len(), 1);
        let say = |index: &Index, tally| {
            let totals = Tallies::from([(facts.uid.clone(), tally)]);
            let mut wrong = conditions(index, &entries, &totals, START);
            wrong.pop().and_then(|(_, condition)| condition)
        };
        let going = |concerned, waiting: &[&str]| {
            let tally = Tally {
                waiting: waiting.iter().map(|&name| name.to_owned()).collect(),
                ..tally(2, concerned)
            };
            let going = say(&index, tally).unwrap();
            assert_eq!((going.status, going.reason), (Some(false), "Distributing"));
            going.message
        };
        let end = to_kubernetes(START.plus(1000)).0;
        let certain = format!("certain at {end}, when the last credential ends");
        let of =
            |n| format!("enforced by 2 of {n} connected endpoints that it concerns, not yet by");
        assert_eq!(
            going(3, &["device factory/pump-8"]),
            format!("{} device factory/pump-8; {certain}", of(3))
        );
        assert_eq!(
            going(9, &["pod a/b", "pod a/c"]),
            format!("{} pod a/b, pod a/c and 5 more; {certain}", of(9))
        );
        assert_eq!(going(9, &[]), format!("{} 7; {certain}", of(9)));
        let longest = "x".repeat(limits::WAITING_NAME_MAX);
        let message = going(999_999, &[longest.as_str(); limits::WAITING_NAMED_MAX]);
        assert!(
            message.len() <= fairway_crds::limits::CONDITION_MESSAGE_BYTES_MAX,
            "{message}"
        );
        let done = say(&index, tally(3, 3)).unwrap();
        assert_eq!((done.status, done.reason), (Some(true), "Enforced"));

        // Once it is written it is not written again.
        let written = done.onto(&[], Some(2), Timestamp::UNIX_EPOCH);
        index.apply_device(DeviceFacts {
            revoked: Some(written),
            ..facts.clone()
        });
        assert_eq!(say(&index, tally(3, 3)), None);
    }

    #[test]
    fn an_active_device_loses_the_condition() {
        let mut index = testing::index();
        let mut facts = device("factory", "pump-7");
        index.apply_device(facts.clone());
        assert!(conditions(&index, &[], &Tallies::new(), START).is_empty());
        facts.revoked =
            Some(observed(true, "Enforced", String::new()).onto(&[], None, Timestamp::UNIX_EPOCH));
        index.apply_device(facts.clone());
        assert_eq!(
            conditions(&index, &[], &Tallies::new(), START),
            [(facts, None)]
        );
    }

    #[test]
    fn when_its_last_credential_has_expired_a_revocation_is_certain() {
        let mut index = testing::index();
        revoked(&mut index);
        let late = START.plus(2000);
        assert!(reported(&index, late).is_empty());
        let wrong = conditions(&index, &[], &Tallies::new(), late);
        assert_eq!(wrong[0].1.as_ref().unwrap().reason, "Expired");
    }

    #[test]
    fn a_revocation_that_is_not_on_record_yet_is_not_reported() {
        let mut index = testing::index();
        revoked(&mut index);
        index.set_record(Record::default(), START);
        assert!(conditions(&index, &[], &Tallies::new(), START).is_empty());
    }

    #[tokio::test]
    async fn one_replica_writes_and_forgets_those_that_are_gone() {
        let (client, server) = mock::api();
        let mut index = testing::index();
        let facts = revoked(&mut index);
        let hub = Hub::new(index, WallClock::from_fn(|| START));
        let acks = |me: &str| {
            Acks::new(
                &client,
                &testing::install(),
                hub.clone(),
                WallClock::from_fn(|| START),
                me.to_owned(),
            )
        };
        let uid = facts.uid.clone();
        let served = server
            .expect(move |call| {
                assert_eq!(
                    call.line(),
                    "PATCH /api/v1/namespaces/fairway-system/configmaps/fairway-acknowledgements"
                );
                assert_eq!(call.body["data"]["pod-0"], format!("{{\"{uid}\":[0,0]}}"));
                Answer::ok(json!({"metadata": {}}))
            })
            .expect(|call| {
                assert_eq!(call.body["data"], json!({"gone": null}));
                Answer::ok(json!({"metadata": {}}))
            })
            .expect(|call| {
                assert!(call.path.ends_with("/deviceidentities/pump-7/status"));
                assert_eq!(call.body["status"]["conditions"][0]["type"], "Revoked");
                Answer::ok(json!({"metadata": {"name": "pump-7"}, "spec": {}}))
            });
        let mut all = BTreeMap::from([("gone".to_owned(), Tallies::new())]);
        acks("pod-0").turn(&mut all, &mut None).await.unwrap();
        served.done().await;
        assert!(!all.contains_key("gone"));

        // The replica that does not come first writes its numbers only.
        let (client, server) = mock::api();
        let mut first = testing::pod("fairway-system", "pod-0", "");
        first.service_account = "fairway-authority".to_owned();
        hub.update(|index, now| index.apply_pod(first, now));
        let served = server.expect(|_| Answer::ok(json!({"metadata": {}})));
        let second = Acks::new(
            &client,
            &testing::install(),
            hub.clone(),
            WallClock::from_fn(|| START),
            "pod-1".to_owned(),
        );
        second.turn(&mut BTreeMap::new(), &mut None).await.unwrap();
        served.done().await;
        assert!(Uid::new(&facts.uid).is_ok());
    }
}
