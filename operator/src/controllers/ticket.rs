//! EnrollmentTicket: condition `Usable`, and removal some time after it was
//! used or has expired.

use std::sync::Arc;

use fairway_crds::conditions::{Observed, USABLE};
use fairway_crds::{DeviceIdentity, DeviceState, EnrollmentTicket};
use fairway_identity::ticket::resource_name;
use fairway_identity::{Label, VerifyingKey};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::Controllers;
use super::index::TicketLinks;
use super::run::{Backoff, Guarded, config, drain, objects, until};
use super::status::{Notice, settle, stored_conditions, unreadable};
use crate::call::{CallError, bounded};

const KIND: &str = "EnrollmentTicket";

/// The device that a ticket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketDevice {
    /// There is none.
    Missing,
    /// It is there, or cannot be read, which is not the ticket's matter.
    There(DeviceState),
}

/// What is seen of a ticket at one time.
#[derive(Debug, PartialEq)]
pub struct Seen {
    /// Its condition.
    pub usable: Observed,
    /// When to look again even if nothing changes.
    pub again: Timestamp,
    /// Whether its time is over.
    pub remove: bool,
}

/// Looks at a ticket.
pub fn see(
    ticket: &EnrollmentTicket,
    device: TicketDevice,
    retention: SignedDuration,
    now: Timestamp,
) -> Seen {
    let expires = ticket.spec.expiry_time.0;
    let used = ticket
        .status
        .as_ref()
        .and_then(|status| status.used_time.as_ref())
        .map(|t| t.0);
    let over = used
        .unwrap_or(expires)
        .saturating_add(retention)
        .unwrap_or(Timestamp::MAX);
    let name = &ticket.spec.device;
    let (status, reason, message) = match (used, device) {
        (Some(_), _) => (
            false,
            "Used",
            "a device has enrolled with it; only the same device key may try again".to_owned(),
        ),
        (None, _) if expires <= now => (
            false,
            "Expired",
            format!("it was not used in time; make another by `kubectl fairway ticket {name}`"),
        ),
        (None, _) if !is_well_made(ticket) => (
            false,
            "Malformed",
            format!(
                "its name or public key is not that of a ticket; make tickets by `kubectl fairway ticket {name}`"
            ),
        ),
        (None, TicketDevice::Missing) => (
            false,
            "NoSuchDevice",
            format!("there is no DeviceIdentity {name} in this namespace; make it first"),
        ),
        (None, TicketDevice::There(DeviceState::Revoked | DeviceState::Suspended)) => (
            false,
            "DeviceNotActive",
            format!("set spec.state of DeviceIdentity {name} to Active first"),
        ),
        (None, TicketDevice::There(DeviceState::Active)) => {
            (true, "Waiting", "it can be used".to_owned())
        }
    };
    let again = if used.is_none() && expires > now {
        expires
    } else {
        over
    };
    Seen {
        usable: Observed {
            kind: USABLE,
            status: Some(status),
            reason,
            message,
        },
        again,
        remove: over <= now,
    }
}

/// The event that a change of the condition is worth.
fn notice(turned: &Observed) -> Option<Notice> {
    let warning = match turned.reason {
        "Used" => false,
        "Expired" | "NoSuchDevice" | "DeviceNotActive" | "Unreadable" => true,
        _ => return None,
    };
    Some(Notice {
        warning,
        reason: turned.reason,
        text: turned.message.clone(),
    })
}

/// Runs the controller.
pub(super) async fn run(controllers: Controllers, links: Arc<TicketLinks>) {
    let tap = links.clone();
    let (store, stream) = objects::<EnrollmentTicket>(&controllers, move |event| match event {
        Event::Apply(ticket) | Event::InitApply(ticket) => {
            if let Ok(readable) = &ticket.0 {
                let namespace = ticket.namespace().unwrap_or_default();
                tap.ticket_applied(&namespace, &ticket.name_any(), &readable.spec.device);
            }
        }
        Event::Delete(ticket) => {
            tap.ticket_deleted(&ticket.namespace().unwrap_or_default(), &ticket.name_any());
        }
        Event::Init | Event::InitDone => {}
    });
    let touched = links.touched().map(|(namespace, name)| {
        ObjectRef::<Guarded<EnrollmentTicket>>::new(&name).within(&namespace)
    });
    // The controller wants a stream without borrows; this one borrows `links`.
    let (sender, receiver) = futures::channel::mpsc::channel(0);
    let forward = touched.map(Ok).forward(sender);
    let context = Arc::new((controllers.clone(), Backoff::default()));
    let results = Controller::for_stream(stream, store)
        .with_config(config())
        .reconcile_on(receiver)
        .run(
            async |ticket, context: Arc<(Controllers, Backoff)>| {
                let done = reconcile(&context.0, &ticket, Timestamp::now()).await?;
                context.1.succeeded(ticket.as_ref());
                Ok(done)
            },
            |ticket, _error: &CallError, context| context.1.failed(ticket.as_ref()),
            context,
        );
    let (_, ()) = tokio::join!(forward, drain(&controllers, KIND, results));
}

async fn reconcile(
    controllers: &Controllers,
    ticket: &Guarded<EnrollmentTicket>,
    now: Timestamp,
) -> Result<Action, CallError> {
    let (usable, again, stored) = match &ticket.0 {
        Ok(readable) => {
            let device = device_of(controllers, readable).await?;
            let seen = see(readable, device, controllers.ticket_retention, now);
            if seen.remove {
                return remove(controllers, readable).await;
            }
            let status = readable.status.as_ref();
            let stored = status.map(|s| s.conditions.clone()).unwrap_or_default();
            (seen.usable, Some(seen.again), stored)
        }
        Err(error) => (
            unreadable(USABLE, &error.error),
            None,
            stored_conditions(controllers, ticket).await,
        ),
    };
    let generation = ticket.meta().generation;
    let settled = settle(&stored, vec![usable], generation, now);
    if settled.changed {
        let status = json!({"observedGeneration": generation, "conditions": settled.conditions});
        controllers.apply_status(ticket, status).await?;
        for notice in settled.turned.iter().filter_map(notice) {
            controllers.publish(&notice, &ticket.object_ref(&())).await;
        }
    }
    Ok(until(now, again))
}

/// Tickets are few and change rarely: asking the API server for the device is
/// cheaper than tying the two controllers' caches together.
async fn device_of(
    controllers: &Controllers,
    ticket: &EnrollmentTicket,
) -> Result<TicketDevice, CallError> {
    let namespace = ticket.namespace().unwrap_or_default();
    let devices: Api<Guarded<DeviceIdentity>> =
        Api::namespaced(controllers.client.clone(), &namespace);
    let found = bounded(devices.get_opt(&ticket.spec.device)).await?;
    Ok(match found {
        None => TicketDevice::Missing,
        Some(device) => TicketDevice::There(device.0.map(|d| d.spec.state).unwrap_or_default()),
    })
}

async fn remove(controllers: &Controllers, ticket: &EnrollmentTicket) -> Result<Action, CallError> {
    let namespace = ticket.namespace().unwrap_or_default();
    let tickets: Api<EnrollmentTicket> = Api::namespaced(controllers.client.clone(), &namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: ticket.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match bounded(tickets.delete(&ticket.name_any(), &params)).await {
        Ok(_) => {
            tracing::info!(
                event = "ticket",
                namespace,
                name = ticket.name_any(),
                "removed"
            );
            Ok(Action::await_change())
        }
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(Action::await_change()),
        Err(error) => Err(error),
    }
}

/// Whether the authority would find the ticket by its key: the key is one, and
/// the resource is named after device and key.
fn is_well_made(ticket: &EnrollmentTicket) -> bool {
    let key = ticket.spec.public_key.parse::<VerifyingKey>();
    let device = Label::new(&ticket.spec.device);
    match (key, device) {
        (Ok(key), Ok(device)) => resource_name(&device, &key) == ticket.name_any(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use fairway_identity::{Ed25519Key, Signer as _};

    use super::*;
    use crate::testing::FakeApi;

    static KEY: LazyLock<VerifyingKey> =
        LazyLock::new(|| Ed25519Key::from_seed([7; 32]).verifying_key());
    static NAME: LazyLock<String> =
        LazyLock::new(|| resource_name(&Label::new("pump-7").unwrap(), &KEY));
    static PATH: LazyLock<String> = LazyLock::new(|| {
        format!(
            "/apis/fairway.dev/v1alpha1/namespaces/factory/enrollmenttickets/{}",
            *NAME
        )
    });
    const DEVICE: &str = "/apis/fairway.dev/v1alpha1/namespaces/factory/deviceidentities/pump-7";

    fn world(state: Option<&str>) -> FakeApi {
        let api = FakeApi::new();
        let metadata = |name: &str| json!({"name": name, "namespace": "factory", "uid": "u1", "generation": 1});
        api.put(&PATH, json!({
            "apiVersion": "fairway.dev/v1alpha1", "kind": "EnrollmentTicket",
            "metadata": metadata(&NAME),
            "spec": {"device": "pump-7", "publicKey": KEY.to_string(), "expiryTime": "1970-01-01T01:00:00Z"},
        }));
        if let Some(state) = state {
            api.put(
                DEVICE,
                json!({
                    "apiVersion": "fairway.dev/v1alpha1", "kind": "DeviceIdentity",
                    "metadata": metadata("pump-7"), "spec": {"state": state},
                }),
            );
        }
        api
    }

    async fn turn(api: &FakeApi, now: i64) -> Option<String> {
        let controllers = Controllers::for_tests(api.client());
        let ticket = serde_json::from_value(api.get(&PATH).unwrap()).unwrap();
        let now = Timestamp::from_second(now).unwrap();
        reconcile(&controllers, &ticket, now).await.unwrap();
        let condition = api.get(&PATH)?["status"]["conditions"][0]["reason"].clone();
        Some(condition.as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn an_unused_ticket() {
        assert_eq!(turn(&world(None), 0).await.unwrap(), "NoSuchDevice");
        assert_eq!(
            turn(&world(Some("Revoked")), 0).await.unwrap(),
            "DeviceNotActive"
        );
        let api = world(Some("Active"));
        assert_eq!(turn(&api, 0).await.unwrap(), "Waiting");
        assert_eq!(turn(&api, 3600).await.unwrap(), "Expired");
        assert_eq!(turn(&api, 7199).await.unwrap(), "Expired");
        assert_eq!(
            turn(&api, 7200).await,
            None,
            "removed an hour after it expired"
        );
    }

    #[tokio::test]
    async fn a_ticket_that_no_device_could_use() {
        let api = world(Some("Active"));
        api.change(&PATH, |ticket| ticket["spec"]["publicKey"] = json!("k"));
        assert_eq!(turn(&api, 0).await.unwrap(), "Malformed");
        let other = Ed25519Key::from_seed([8; 32]).verifying_key().to_string();
        api.change(&PATH, |ticket| ticket["spec"]["publicKey"] = json!(other));
        assert_eq!(turn(&api, 0).await.unwrap(), "Malformed");
    }

    #[tokio::test]
    async fn a_used_ticket() {
        let api = world(Some("Active"));
        api.change(&PATH, |ticket| {
            ticket["status"] = json!({"usedTime": "1970-01-01T00:00:10Z"})
        });
        assert_eq!(turn(&api, 20).await.unwrap(), "Used");
        assert_eq!(turn(&api, 3609).await.unwrap(), "Used");
        assert_eq!(
            turn(&api, 3610).await,
            None,
            "removed an hour after it was used"
        );
    }

    #[tokio::test]
    async fn one_that_was_made_anew_meanwhile_is_not_removed() {
        let api = world(Some("Active"));
        let controllers = Controllers::for_tests(api.client());
        let ticket = serde_json::from_value(api.get(&PATH).unwrap()).unwrap();
        api.change(&PATH, |ticket| ticket["metadata"]["uid"] = json!("u2"));
        reconcile(&controllers, &ticket, Timestamp::from_second(7200).unwrap())
            .await
            .unwrap();
        assert!(api.get(&PATH).is_some());
    }
}
