//! DeviceIdentity: conditions `Ready` and `Enrolled`, and events about them.

use std::sync::Arc;

use fairway_crds::conditions::{ENROLLED, Observed, READY};
use fairway_crds::{DeviceIdentity, DeviceState};
use fairway_identity::{SpiffeId, TrustDomain};
use jiff::Timestamp;
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::Controllers;
use super::index::TicketLinks;
use super::run::{Backoff, Guarded, config, drain, objects, until};
use super::status::{Notice, settle, stored_conditions, unreadable};
use crate::call::CallError;

const KIND: &str = "DeviceIdentity";

/// What is seen of a device at one time.
#[derive(Debug, PartialEq)]
pub struct Seen {
    /// Its SPIFFE ID, if it can have one.
    pub identity: Option<String>,
    /// Its conditions.
    pub conditions: Vec<Observed>,
    /// When to look again even if nothing changes.
    pub again: Option<Timestamp>,
}

/// Looks at a device.
pub fn see(device: &DeviceIdentity, trust_domain: &str, now: Timestamp) -> Seen {
    let status = device.status.clone().unwrap_or_default();
    let key = status.device_key.as_deref();
    let expires = status
        .credential
        .as_ref()
        .map(|credential| credential.expiry_time.0);
    let enrolled = enrolled(device, key);
    let (ready, identity) = match device.claims() {
        Err(error) => {
            let text = format!("it cannot have a credential: {error}");
            (observed(READY, false, "Invalid", text), None)
        }
        Ok(claims) => {
            let identity = TrustDomain::new(trust_domain)
                .ok()
                .map(|domain| SpiffeId::device(domain, claims.namespace, claims.name).to_string());
            (ready(device, key, expires, now), identity)
        }
    };
    let again = expires.filter(|expires| ready.status == Some(true) && *expires > now);
    Seen {
        identity,
        conditions: vec![ready, enrolled],
        again,
    }
}

fn enrolled(device: &DeviceIdentity, key: Option<&str>) -> Observed {
    match (device.spec.state, key) {
        (_, None) => observed(ENROLLED, false, "NoKey", make_a_ticket(device)),
        (DeviceState::Revoked, Some(_)) => observed(
            ENROLLED,
            false,
            "Revoked",
            "its key is revoked; it needs a new ticket to come back".to_owned(),
        ),
        (DeviceState::Active | DeviceState::Suspended, Some(_)) => observed(
            ENROLLED,
            true,
            "Enrolled",
            "a device has enrolled its key".to_owned(),
        ),
    }
}

fn ready(
    device: &DeviceIdentity,
    key: Option<&str>,
    expires: Option<Timestamp>,
    now: Timestamp,
) -> Observed {
    let not = |reason, text: String| observed(READY, false, reason, text);
    match (device.spec.state, key, expires) {
        (DeviceState::Revoked, _, _) => not(
            "Revoked",
            "its credentials are revoked; set spec.state to Active and make a ticket to let it come back".to_owned(),
        ),
        (DeviceState::Suspended, _, _) => not(
            "Suspended",
            "its credentials are revoked; set spec.state to Active to let it come back".to_owned(),
        ),
        (DeviceState::Active, None, _) => not("NotEnrolled", make_a_ticket(device)),
        (DeviceState::Active, Some(_), None) => {
            not("NoCredential", "it has enrolled and has no credential yet".to_owned())
        }
        (DeviceState::Active, Some(_), Some(expires)) if expires <= now => not(
            "CredentialExpired",
            format!("its last credential ended at {}; it gets another when it can reach a relay", seconds(expires)),
        ),
        (DeviceState::Active, Some(_), Some(_)) => {
            observed(READY, true, "CredentialValid", "it holds a valid credential".to_owned())
        }
    }
}

fn make_a_ticket(device: &DeviceIdentity) -> String {
    format!(
        "no device has enrolled; make a ticket by `kubectl fairway ticket {} -n {}`",
        device.name_any(),
        device.namespace().unwrap_or_default(),
    )
}

/// The event that a change of a condition is worth.
fn notice(turned: &Observed) -> Option<Notice> {
    let warning = match (turned.kind, turned.reason) {
        (ENROLLED, "Enrolled") | (READY, "CredentialValid" | "Suspended" | "Revoked") => false,
        (READY, "Invalid" | "CredentialExpired" | "Unreadable") => true,
        _ => return None,
    };
    Some(Notice {
        warning,
        reason: turned.reason,
        text: turned.message.clone(),
    })
}

/// Runs the controller. Devices that come, change or go touch their tickets.
pub(super) async fn run(controllers: Controllers, links: Arc<TicketLinks>) {
    let (store, stream) = objects::<DeviceIdentity>(&controllers, move |event| match event {
        Event::Apply(device) | Event::InitApply(device) | Event::Delete(device) => {
            links.device_touched(&device.namespace().unwrap_or_default(), &device.name_any());
        }
        Event::Init | Event::InitDone => {}
    });
    let context = Arc::new((controllers.clone(), Backoff::default()));
    let results = Controller::for_stream(stream, store)
        .with_config(config())
        .run(
            async |device, context: Arc<(Controllers, Backoff)>| {
                let done = reconcile(&context.0, &device, Timestamp::now()).await?;
                context.1.succeeded(device.as_ref());
                Ok(done)
            },
            |device, _error: &CallError, context| context.1.failed(device.as_ref()),
            context,
        );
    drain(&controllers, KIND, results).await;
}

async fn reconcile(
    controllers: &Controllers,
    device: &Guarded<DeviceIdentity>,
    now: Timestamp,
) -> Result<Action, CallError> {
    let (seen, status, stored) = match &device.0 {
        Ok(device) => {
            let status = device.status.clone().unwrap_or_default();
            let stored = status.conditions.clone();
            (see(device, &controllers.trust_domain, now), status, stored)
        }
        Err(error) => {
            let conditions = vec![unreadable(READY, &error.error)];
            let seen = Seen {
                identity: None,
                conditions,
                again: None,
            };
            (
                seen,
                Default::default(),
                stored_conditions(controllers, device).await,
            )
        }
    };
    let generation = device.meta().generation;
    let settled = settle(&stored, seen.conditions, generation, now);
    let readable = device.0.is_ok();
    let status_changed =
        readable && (status.identity != seen.identity || status.observed_generation != generation);
    if settled.changed || status_changed {
        let status = json!({
            "identity": seen.identity,
            "observedGeneration": generation,
            "conditions": settled.conditions,
        });
        controllers.apply_status(device, status).await?;
        for notice in settled.turned.iter().filter_map(notice) {
            controllers.publish(&notice, &device.object_ref(&())).await;
        }
    }
    Ok(until(now, seen.again))
}

fn observed(kind: &'static str, status: bool, reason: &'static str, message: String) -> Observed {
    Observed {
        kind,
        status: Some(status),
        reason,
        message,
    }
}

fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::Controllers;
    use crate::testing::FakeApi;
    use serde_json::Value;

    fn device(spec: Value, status: Value) -> Value {
        json!({
            "apiVersion": "fairway.dev/v1alpha1", "kind": "DeviceIdentity",
            "metadata": {"name": "pump-7", "namespace": "factory", "uid": "u1", "generation": 3},
            "spec": spec, "status": status,
        })
    }

    fn reasons(spec: Value, status: Value, now: i64) -> (String, String) {
        let device = serde_json::from_value(device(spec, status)).unwrap();
        let seen = see(
            &device,
            "fairway.local",
            Timestamp::from_second(now).unwrap(),
        );
        let text = |n: usize| {
            let condition = &seen.conditions[n];
            format!(
                "{}={} {}",
                condition.kind,
                condition.status.unwrap(),
                condition.reason
            )
        };
        (text(0), text(1))
    }

    #[test]
    fn conditions() {
        let enrolled = json!({
            "deviceKey": "k",
            "credential": {"serial": "s", "expiryTime": "1970-01-01T01:00:00Z"},
        });
        let key_only = json!({"deviceKey": "k"});
        for (spec, status, now, ready, key) in [
            (
                json!({}),
                json!({}),
                0,
                "Ready=false NotEnrolled",
                "Enrolled=false NoKey",
            ),
            (
                json!({}),
                key_only.clone(),
                0,
                "Ready=false NoCredential",
                "Enrolled=true Enrolled",
            ),
            (
                json!({}),
                enrolled.clone(),
                0,
                "Ready=true CredentialValid",
                "Enrolled=true Enrolled",
            ),
            (
                json!({}),
                enrolled.clone(),
                3600,
                "Ready=false CredentialExpired",
                "Enrolled=true Enrolled",
            ),
            (
                json!({"state": "Suspended"}),
                enrolled.clone(),
                0,
                "Ready=false Suspended",
                "Enrolled=true Enrolled",
            ),
            (
                json!({"state": "Revoked"}),
                enrolled.clone(),
                0,
                "Ready=false Revoked",
                "Enrolled=false Revoked",
            ),
            (
                json!({"attributes": {"A": "x"}}),
                enrolled,
                0,
                "Ready=false Invalid",
                "Enrolled=true Enrolled",
            ),
        ] {
            assert_eq!(
                reasons(spec.clone(), status, now),
                (ready.to_owned(), key.to_owned()),
                "{spec}"
            );
        }
    }

    #[test]
    fn it_is_looked_at_again_when_the_credential_ends() {
        let status = json!({"deviceKey": "k", "credential": {"serial": "s", "expiryTime": "1970-01-01T01:00:00Z"}});
        let device: DeviceIdentity = serde_json::from_value(device(json!({}), status)).unwrap();
        let again = |now| see(&device, "d", Timestamp::from_second(now).unwrap()).again;
        assert_eq!(again(0), Some(Timestamp::from_second(3600).unwrap()));
        assert_eq!(again(3600), None);
    }

    const PATH: &str = "/apis/fairway.dev/v1alpha1/namespaces/factory/deviceidentities/pump-7";

    async fn turn(api: &FakeApi, now: i64) -> Vec<String> {
        let controllers = Controllers::for_tests(api.client());
        let device = serde_json::from_value(api.get(PATH).unwrap()).unwrap();
        let now = Timestamp::from_second(now).unwrap();
        reconcile(&controllers, &device, now).await.unwrap();
        api.writes()
            .into_iter()
            .map(|(method, path)| format!("{method} {path}"))
            .collect()
    }

    #[tokio::test]
    async fn a_status_is_written_once_and_told_once() {
        let api = FakeApi::new();
        api.put(
            PATH,
            device(json!({"attributes": {"model": "pump"}}), Value::Null),
        );
        assert_eq!(turn(&api, 0).await, [format!("PATCH {PATH}/status")]);
        let status = api.get(PATH).unwrap()["status"].clone();
        assert_eq!(
            status["identity"],
            "spiffe://fairway.local/ns/factory/device/pump-7"
        );
        assert_eq!(status["observedGeneration"], 3);
        assert_eq!(status["conditions"][0]["reason"], "NotEnrolled");
        assert!(turn(&api, 1).await.is_empty());

        api.change(PATH, |device| {
            device["status"]["deviceKey"] = json!("k");
            device["status"]["credential"] =
                json!({"serial": "s", "expiryTime": "1970-01-01T01:00:00Z"});
        });
        let writes = turn(&api, 2).await;
        assert_eq!(writes[0], format!("PATCH {PATH}/status"));
        let events = "POST /apis/events.k8s.io/v1/namespaces/factory/events";
        assert_eq!(writes[1..], [events, events]);
        assert!(turn(&api, 3).await.is_empty());

        assert_eq!(turn(&api, 3601).await.len(), 2);
        let status = api.get(PATH).unwrap()["status"].clone();
        assert_eq!(status["deviceKey"], "k", "the authority's fields stay");
        assert_eq!(status["conditions"][0]["reason"], "CredentialExpired");
    }

    #[tokio::test]
    async fn one_that_cannot_be_read_is_told_so() {
        let api = FakeApi::new();
        api.put(PATH, device(json!({"attributes": 7}), Value::Null));
        assert_eq!(turn(&api, 0).await[0], format!("PATCH {PATH}/status"));
        let conditions = api.get(PATH).unwrap()["status"]["conditions"].clone();
        assert_eq!(conditions[0]["reason"], "Unreadable");
        assert!(turn(&api, 1).await.is_empty());
    }
}
