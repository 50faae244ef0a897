//! A device's first credential, by a ticket.
//!
//! The ticket is consumed by compare-and-swap, and bound to the device's key,
//! before anything is issued: of two devices with the same ticket one wins,
//! and a device whose answer was lost asks again with the same key and gets
//! the same enrolment.

use fairway_control::authority::Enroll;
use fairway_control::front::Stream;
use fairway_crds::{DeviceIdentity, EnrollmentTicket};
use fairway_identity::proof::{Purpose, Statement};
use fairway_identity::ticket::resource_name;
use fairway_identity::{Uid, UnixSeconds};
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource as _, ResourceExt as _};

use super::check_key;
use super::device::{Who, certify, check_state, enrolled_key};
use crate::authority::Authority;
use crate::clock::{from_kubernetes, to_kubernetes};
use crate::cluster::call;
use crate::events::Severity;
use crate::issue::Made;
use crate::limits;
use crate::names::FIELD_MANAGER;
use crate::refusal::Refusal;
use crate::revoke::{Cause, Entry};

/// How long after a ticket was used the same key can finish an enrolment that
/// broke off before the device had the key in its status.
const RETRY_SECONDS: u64 = 600;

/// Enrols a device and issues its first credential.
///
/// # Errors
/// See [`Refusal`].
pub async fn enroll(
    authority: &Authority,
    stream: &Stream,
    request: &Enroll,
) -> Result<Made, Refusal> {
    check_key(stream, &request.handshake_key)?;
    let device = Who {
        namespace: request.namespace.clone(),
        name: request.device.clone(),
    };
    check_proofs(authority, stream, request, &device)?;
    authority.ring().await?;
    authority.index_ready().await?;
    let _turn = authority.turn().await?;
    let key = request.device_key.to_string();
    // Before the ticket is used up: a device that may not enrol keeps it.
    let object = device.read(authority).await?;
    check_state(&object)?;
    let tickets = Api::namespaced(authority.client.clone(), device.namespace.as_str());
    let used_at = match consume(authority, &tickets, request, &key).await {
        Err(refused @ (Refusal::TicketUsed | Refusal::TicketExpired)) => {
            let message = format!(
                "an enrolment with ticket {} was refused: {refused}",
                request.ticket
            );
            authority.events.note(
                object.object_ref(&()),
                Severity::Warning,
                "EnrolmentRefused",
                message,
            );
            return Err(refused);
        }
        other => other?,
    };
    let retry = match used_at {
        Used::Now => None,
        Used::Before(at) => Some(at),
    };
    if let Some(at) = retry
        && enrolled_key(&object) != Some(&key)
    {
        check_retry(authority, &tickets, request, &object, at).await?;
    }
    let fresh = |device: &DeviceIdentity| match retry {
        Some(at) => check_not_revoked(authority, device, at),
        None => Ok(()),
    };
    certify(authority, &device, request.handshake_key, Some(&key), fresh).await
}

/// When a ticket was used.
enum Used {
    /// By this request.
    Now,
    /// Before, by the same key.
    Before(UnixSeconds),
}

/// The ticket names its resource by its key, and both keys sign this very
/// connection.
fn check_proofs(
    authority: &Authority,
    stream: &Stream,
    request: &Enroll,
    device: &Who,
) -> Result<(), Refusal> {
    if resource_name(&device.name, &request.ticket_key) != request.ticket {
        return Err(Refusal::TicketUnknown);
    }
    let statement = Statement {
        trust_domain: &authority.install.trust_domain,
        namespace: &device.namespace,
        device: &device.name,
        device_key: &request.device_key,
        handshake_hash: &stream.handshake_hash,
        handshake_key: &request.handshake_key,
    };
    statement
        .verify(
            Purpose::EnrollTicket,
            &request.ticket_key,
            &request.ticket_signature,
        )
        .map_err(|_| {
            Refusal::WrongKey("the signature is not by the ticket's key over this connection")
        })?;
    statement
        .verify(
            Purpose::EnrollDevice,
            &request.device_key,
            &request.device_signature,
        )
        .map_err(|_| {
            Refusal::WrongKey("the signature is not by the device's key over this connection")
        })
}

async fn consume(
    authority: &Authority,
    tickets: &Api<EnrollmentTicket>,
    request: &Enroll,
    key: &str,
) -> Result<Used, Refusal> {
    for _ in 0..limits::CAS_TRIES {
        let ticket = call("read a ticket", tickets.get_opt(&request.ticket)).await?;
        let mut ticket = ticket.ok_or(Refusal::TicketUnknown)?;
        let ours = ticket.spec.device == request.device.as_str()
            && ticket.spec.public_key == request.ticket_key.to_string();
        if !ours {
            return Err(Refusal::TicketUnknown);
        }
        let status = ticket.status.clone().unwrap_or_default();
        match (&status.device_key, &status.used_time) {
            (Some(known), used) if known == key => {
                return Ok(Used::Before(
                    used.as_ref().map(from_kubernetes).unwrap_or_default(),
                ));
            }
            (Some(_), _) | (None, Some(_)) => {
                let message =
                    "somebody tried to use the ticket again with another key and was refused"
                        .to_owned();
                authority.events.note(
                    ticket.object_ref(&()),
                    Severity::Warning,
                    "TicketReuseRefused",
                    message,
                );
                return Err(Refusal::TicketUsed);
            }
            (None, None) => {}
        }
        let now = authority.clock.now();
        if from_kubernetes(&ticket.spec.expiry_time) <= now {
            return Err(Refusal::TicketExpired);
        }
        let used = fairway_crds::EnrollmentTicketStatus {
            used_time: Some(to_kubernetes(now)),
            device_key: Some(key.to_owned()),
            ..status
        };
        ticket.status = Some(used);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        // The resourceVersion that was read makes this a compare-and-swap.
        match call(
            "use a ticket",
            tickets.replace_status(&request.ticket, &params, &ticket),
        )
        .await
        {
            Ok(_) => return Ok(Used::Now),
            Err(error) if error.is_conflict() => continue,
            Err(error) if error.is_not_found() => return Err(Refusal::TicketUnknown),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::NotNow {
        what: "the ticket is being changed by others",
        retry_after: 2,
    })
}

/// A ticket that was used by this key some time ago, while the device has
/// another key now, or none: an enrolment that broke off is finished; one that
/// something has followed on is not repeated.
async fn check_retry(
    authority: &Authority,
    tickets: &Api<EnrollmentTicket>,
    request: &Enroll,
    device: &DeviceIdentity,
    used_at: UnixSeconds,
) -> Result<(), Refusal> {
    check_not_revoked(authority, device, used_at)?;
    if authority.clock.now().since(used_at) > RETRY_SECONDS {
        return Err(Refusal::TicketUsed);
    }
    let all = call("list tickets", tickets.list(&ListParams::default())).await?;
    let later = all.items.iter().any(|other| {
        let used = other
            .status
            .as_ref()
            .and_then(|status| status.used_time.as_ref())
            .map(from_kubernetes);
        other.spec.device == request.device.as_str()
            && other.name_any() != request.ticket
            && used.is_some_and(|used| used >= used_at)
    });
    if later {
        Err(Refusal::TicketUsed)
    } else {
        Ok(())
    }
}

/// Coming back after `state: Revoked` needs a ticket made after it.
fn check_not_revoked(
    authority: &Authority,
    device: &DeviceIdentity,
    used_at: UnixSeconds,
) -> Result<(), Refusal> {
    let uid = device
        .uid()
        .and_then(|uid| Uid::new(&uid).ok())
        .ok_or(Refusal::DeviceUnknown)?;
    let revoked = authority.hub.read(|index| {
        let after = |entry: &Entry| entry.cause == Cause::Revoked && used_at < entry.issued_before;
        index
            .record()
            .iter()
            .any(|entry| entry.uid == uid && after(entry))
    });
    if revoked {
        Err(Refusal::TicketUsed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::device::tests::{UID, object, read, recorded, status_written};
    use crate::revoke::{Kind, Record};
    use crate::testing::START;
    use crate::testing::fixture::{Fixture, KEY, pump, statement, stream};
    use crate::testing::mock::{Answer, Call};
    use fairway_identity::{Ed25519Key, Label, Signer as _};
    use serde_json::{Value, json};

    fn ticket_key() -> Ed25519Key {
        Ed25519Key::from_seed([5; 32])
    }

    fn device_key(seed: u8) -> Ed25519Key {
        Ed25519Key::from_seed([seed; 32])
    }

    fn text(key: &Ed25519Key) -> String {
        key.verifying_key().to_string()
    }

    fn request(authority: &Authority, device_key: &Ed25519Key) -> Enroll {
        let (namespace, device) = pump();
        let public = device_key.verifying_key();
        let statement = statement(authority, (&namespace, &device), &public);
        Enroll {
            ticket: resource_name(&device, &ticket_key().verifying_key()),
            namespace: namespace.clone(),
            device: device.clone(),
            ticket_key: ticket_key().verifying_key(),
            device_key: public,
            handshake_key: KEY,
            ticket_signature: statement
                .sign(Purpose::EnrollTicket, &ticket_key())
                .unwrap(),
            device_signature: statement.sign(Purpose::EnrollDevice, device_key).unwrap(),
        }
    }

    /// The ticket as the API server has it.
    fn ticket(version: &str, status: Value) -> Value {
        let device = Label::new("pump-7").unwrap();
        json!({
            "apiVersion": "fairway.dev/v1alpha1", "kind": "EnrollmentTicket",
            "metadata": {"name": resource_name(&device, &ticket_key().verifying_key()), "namespace": "factory",
                         "uid": "t", "resourceVersion": version},
            "spec": {"device": "pump-7", "publicKey": text(&ticket_key()),
                     "expiryTime": to_kubernetes(START.plus(3600))},
            "status": status})
    }

    fn used(by: &Ed25519Key, at: UnixSeconds) -> Value {
        json!({"deviceKey": text(by), "usedTime": to_kubernetes(at)})
    }

    fn ticket_read(call: &Call, object: Value) -> Answer {
        let path = "/apis/fairway.dev/v1alpha1/namespaces/factory/enrollmenttickets";
        let name = object["metadata"]["name"].as_str().unwrap();
        assert_eq!(call.line(), format!("GET {path}/{name}"));
        Answer::ok(object)
    }

    #[tokio::test]
    async fn a_ticket_is_used_before_anything_is_issued() {
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(|call| read(call, object("5", json!({}))))
            .expect(|call| ticket_read(call, ticket("1", json!({}))))
            .expect(|call| {
                assert_eq!(call.method, "PUT");
                assert!(call.path.ends_with("/status"), "{}", call.path);
                assert_eq!(
                    call.body["metadata"]["resourceVersion"], "1",
                    "a compare-and-swap"
                );
                assert_eq!(call.body["status"]["deviceKey"], text(&device_key(3)));
                Answer::ok(call.body.clone())
            })
            .expect(|call| read(call, object("5", json!({}))))
            .expect(recorded)
            .expect(|call| {
                assert_eq!(call.body["status"]["deviceKey"], text(&device_key(3)));
                status_written(call, "5")
            });
        let request = request(&fixture.authority, &device_key(3));
        enroll(&fixture.authority, &stream(), &request)
            .await
            .unwrap();
        served.done().await;
        assert!(fixture.events().is_empty(), "the operator tells that");
    }

    #[tokio::test]
    async fn of_two_devices_with_one_ticket_one_wins() {
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(|call| read(call, object("5", json!({}))))
            .expect(|call| ticket_read(call, ticket("1", json!({}))))
            .expect(|_| Answer::status(409))
            .expect(|call| ticket_read(call, ticket("2", used(&device_key(4), START))));
        let request = request(&fixture.authority, &device_key(3));
        let refused = enroll(&fixture.authority, &stream(), &request)
            .await
            .unwrap_err();
        assert_eq!(
            (refused.word(), refused.retry_after()),
            ("ticket-used", None)
        );
        served.done().await;
        assert_eq!(fixture.events(), ["TicketReuseRefused", "EnrolmentRefused"]);
    }

    #[tokio::test]
    async fn the_same_key_again_is_the_same_enrolment() {
        // The answer was lost: the device has its key in the status.
        let (fixture, server) = Fixture::new();
        let enrolled = json!({"deviceKey": text(&device_key(3))});
        let (first, second) = (object("5", enrolled.clone()), object("5", enrolled));
        let served = server
            .expect(|call| read(call, first))
            .expect(|call| ticket_read(call, ticket("2", used(&device_key(3), START.minus(5000)))))
            .expect(|call| read(call, second))
            .expect(recorded)
            .expect(|call| status_written(call, "5"));
        let request = request(&fixture.authority, &device_key(3));
        enroll(&fixture.authority, &stream(), &request)
            .await
            .unwrap();
        served.done().await;
    }

    #[tokio::test]
    async fn an_enrolment_that_broke_off_is_finished() {
        // The replica died between the ticket and the device's status.
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(|call| read(call, object("5", json!({}))))
            .expect(|call| ticket_read(call, ticket("2", used(&device_key(3), START.minus(30)))))
            .expect(|call| {
                assert_eq!(call.line(), "GET /apis/fairway.dev/v1alpha1/namespaces/factory/enrollmenttickets");
                Answer::ok(json!({"metadata": {}, "items": [ticket("2", used(&device_key(3), START.minus(30)))]}))
            })
            .expect(|call| read(call, object("5", json!({}))))
            .expect(recorded)
            .expect(|call| status_written(call, "5"));
        let request = request(&fixture.authority, &device_key(3));
        enroll(&fixture.authority, &stream(), &request)
            .await
            .unwrap();
        served.done().await;
    }

    #[tokio::test]
    async fn an_old_ticket_does_not_bring_its_key_back() {
        let other = || json!({"deviceKey": text(&device_key(4))});
        // Long ago.
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(move |call| read(call, object("5", other())))
            .expect(|call| ticket_read(call, ticket("2", used(&device_key(3), START.minus(601)))));
        let old = request(&fixture.authority, &device_key(3));
        assert_eq!(
            enroll(&fixture.authority, &stream(), &old)
                .await
                .unwrap_err()
                .word(),
            "ticket-used"
        );
        served.done().await;

        // A moment ago, but another ticket was used since.
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(move |call| read(call, object("5", other())))
            .expect(|call| ticket_read(call, ticket("2", used(&device_key(3), START.minus(60)))))
            .expect(|_| {
                let mut later = ticket("3", used(&device_key(4), START.minus(30)));
                later["metadata"]["name"] = json!("pump-7-later");
                Answer::ok(json!({"metadata": {}, "items": [later]}))
            });
        assert_eq!(
            enroll(&fixture.authority, &stream(), &old)
                .await
                .unwrap_err()
                .word(),
            "ticket-used"
        );
        served.done().await;
    }

    #[tokio::test]
    async fn after_a_revocation_the_old_ticket_is_no_way_back() {
        let (fixture, server) = Fixture::new();
        let mut record = Record::default();
        record.insert(Entry {
            uid: Uid::new(UID).unwrap(),
            kind: Kind::Device,
            namespace: "factory".into(),
            name: "pump-7".into(),
            cause: Cause::Revoked,
            issued_before: START.minus(10),
            effective: START.minus(10),
            keep_until: START.plus(1000),
        });
        fixture
            .hub
            .update(|index, now| index.set_record(record, now));
        let served = server
            .expect(|call| read(call, object("5", json!({}))))
            .expect(|call| ticket_read(call, ticket("2", used(&device_key(3), START.minus(60)))));
        let request = request(&fixture.authority, &device_key(3));
        assert_eq!(
            enroll(&fixture.authority, &stream(), &request)
                .await
                .unwrap_err()
                .word(),
            "ticket-used"
        );
        served.done().await;
    }

    #[tokio::test]
    async fn another_key_by_a_new_ticket_revokes_what_the_old_key_had() {
        tokio::time::pause();
        let (fixture, server) = Fixture::new();
        let before = || {
            json!({"deviceKey": text(&device_key(4)), "credential": {
                "serial": "00", "expiryTime": to_kubernetes(START.plus(500)), "observedGeneration": 3}})
        };
        let served = server
            .expect(move |call| read(call, object("5", before())))
            .expect(|call| ticket_read(call, ticket("1", json!({}))))
            .expect(|call| Answer::ok(call.body.clone()))
            .expect(move |call| read(call, object("5", before())))
            .expect(recorded)
            .expect(|call| status_written(call, "5"))
            .expect(|call| {
                assert_eq!(
                    call.line(),
                    "PATCH /api/v1/namespaces/fairway-system/configmaps/fairway-revocations"
                );
                let key = format!("{UID}.reenrolled.{}", START.0 + 1);
                let value = format!("device factory/pump-7 {} {}", START.0, START.0 + 500);
                assert_eq!(call.body["data"], json!({ key: value }));
                Answer::ok(json!({"metadata": {}}))
            });
        let request = request(&fixture.authority, &device_key(3));
        let made = enroll(&fixture.authority, &stream(), &request)
            .await
            .unwrap();
        assert_eq!(
            made.issued_at,
            START.plus(1),
            "younger than everything that was revoked"
        );
        served.done().await;
    }

    #[tokio::test]
    async fn what_is_refused_before_the_ticket_is_touched() {
        let (fixture, server) = Fixture::new();
        let good = request(&fixture.authority, &device_key(3));
        let cases = [
            (
                Enroll {
                    ticket: "pump-7-aaaaaaaaaa".into(),
                    ..good.clone()
                },
                "ticket-unknown",
            ),
            (
                Enroll {
                    namespace: Label::new("lab").unwrap(),
                    ..good.clone()
                },
                "wrong-key",
            ),
            (
                Enroll {
                    ticket_signature: good.device_signature.clone(),
                    ..good.clone()
                },
                "wrong-key",
            ),
            (
                Enroll {
                    device_signature: good.ticket_signature.clone(),
                    ..good.clone()
                },
                "wrong-key",
            ),
            (
                Enroll {
                    device_key: device_key(4).verifying_key(),
                    ..good.clone()
                },
                "wrong-key",
            ),
            (
                Enroll {
                    handshake_key: [8; 32],
                    ..good.clone()
                },
                "forbidden",
            ),
        ];
        for (request, word) in cases {
            assert_eq!(
                enroll(&fixture.authority, &stream(), &request)
                    .await
                    .unwrap_err()
                    .word(),
                word
            );
        }
        server.done().await;

        let (fixture, server) = Fixture::new();
        let served = server.expect(|call| {
            let mut suspended = object("5", json!({}));
            suspended["spec"]["state"] = json!("Suspended");
            read(call, suspended)
        });
        assert_eq!(
            enroll(&fixture.authority, &stream(), &good)
                .await
                .unwrap_err()
                .word(),
            "revoked"
        );
        served.done().await;
    }

    #[tokio::test]
    async fn tickets_that_are_not_good() {
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 3] = [
            (
                |ticket| ticket["spec"]["expiryTime"] = json!(to_kubernetes(START)),
                "ticket-expired",
            ),
            (
                |ticket| ticket["spec"]["device"] = json!("pump-8"),
                "ticket-unknown",
            ),
            (
                |ticket| ticket["spec"]["publicKey"] = json!(text(&device_key(4))),
                "ticket-unknown",
            ),
        ];
        for (change, word) in changes {
            let (fixture, server) = Fixture::new();
            let mut object_of_ticket = ticket("1", json!({}));
            change(&mut object_of_ticket);
            let served = server
                .expect(|call| read(call, object("5", json!({}))))
                .expect(|call| ticket_read(call, object_of_ticket));
            let request = request(&fixture.authority, &device_key(3));
            assert_eq!(
                enroll(&fixture.authority, &stream(), &request)
                    .await
                    .unwrap_err()
                    .word(),
                word
            );
            served.done().await;
        }
    }
}
