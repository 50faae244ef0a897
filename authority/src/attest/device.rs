//! A device that is enrolled, by its own key. An expired credential, or none,
//! is no obstacle: the key is what was enrolled.

use fairway_control::authority::RenewDevice;
use fairway_control::front::Stream;
use fairway_crds::device::CredentialStatus;
use fairway_crds::{DeviceIdentity, DeviceState};
use fairway_identity::proof::{Purpose, Statement};
use fairway_identity::{Label, SpiffeId, Uid, UnixSeconds};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::check_key;
use crate::authority::Authority;
use crate::clock::to_kubernetes;
use crate::cluster::{ApiError, call};
use crate::distribute::facts::DeviceFacts;
use crate::events::Severity;
use crate::issue::{Made, Subject};
use crate::limits;
use crate::names::FIELD_MANAGER;
use crate::refusal::Refusal;
use crate::revoke::issued::Holder;
use crate::revoke::{Kind, due};

/// Issues a device's next credential.
///
/// # Errors
/// See [`Refusal`].
pub async fn renew(
    authority: &Authority,
    stream: &Stream,
    request: &RenewDevice,
) -> Result<Made, Refusal> {
    check_key(stream, &request.handshake_key)?;
    let device = Who {
        namespace: request.namespace.clone(),
        name: request.device.clone(),
    };
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
            Purpose::RenewDevice,
            &request.device_key,
            &request.signature,
        )
        .map_err(|_| {
            Refusal::WrongKey("the signature is not by the device's key over this connection")
        })?;
    authority.ring().await?;
    authority.index_ready().await?;
    let _turn = authority.turn().await?;
    let key = request.device_key.to_string();
    let check = |device: &DeviceIdentity| match enrolled_key(device) {
        None => Err(Refusal::NotEnrolled),
        Some(enrolled) if enrolled == key => Ok(()),
        Some(_) => Err(Refusal::WrongKey(
            "the device is enrolled with another key; if that was not you, revoke it",
        )),
    };
    certify(authority, &device, request.handshake_key, None, check).await
}

/// A device by its names.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) namespace: Label,
    pub(super) name: Label,
}

impl Who {
    pub(super) fn api(&self, authority: &Authority) -> Api<DeviceIdentity> {
        Api::namespaced(authority.client.clone(), self.namespace.as_str())
    }

    pub(super) async fn read(&self, authority: &Authority) -> Result<DeviceIdentity, Refusal> {
        let api = self.api(authority);
        let device = call("read a DeviceIdentity", api.get_opt(self.name.as_str())).await?;
        device.ok_or(Refusal::DeviceUnknown)
    }
}

/// The key that a device is enrolled with.
pub(super) fn enrolled_key(device: &DeviceIdentity) -> Option<&str> {
    device.status.as_ref()?.device_key.as_deref()
}

/// Whether a device may have a credential at all.
pub(super) fn check_state(device: &DeviceIdentity) -> Result<(), Refusal> {
    match device.spec.state {
        DeviceState::Active => Ok(()),
        DeviceState::Suspended => Err(Refusal::Revoked("the device is suspended")),
        DeviceState::Revoked => Err(Refusal::Revoked(
            "the device is revoked; to come back it needs a ticket",
        )),
    }
}

/// Issues a credential for the device and writes that into its status, in one
/// compare-and-swap with the object that was checked: what changes in between
/// (its state, its key, its attributes) is checked again.
///
/// With `enrol`, that key becomes the device's own.
pub(super) async fn certify(
    authority: &Authority,
    who: &Who,
    handshake_key: [u8; 32],
    enrol: Option<&str>,
    check: impl Fn(&DeviceIdentity) -> Result<(), Refusal>,
) -> Result<Made, Refusal> {
    for _ in 0..limits::CAS_TRIES {
        let device = who.read(authority).await?;
        check_state(&device)?;
        check(&device)?;
        let (subject, holder) = subject(authority, &device)?;
        authority.issued.add(&holder).await?;
        let replaces =
            enrol.is_some_and(|key| enrolled_key(&device).is_some_and(|known| known != key));
        let mut now = authority.time_to_issue(&subject.uid).await?;
        if replaces {
            // Times are whole seconds: what the old key had of this second
            // must be older than what the new one gets.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            now = now.plus(1).max(authority.clock.now());
        }
        let made = authority.sign(&subject, handshake_key, now).await?;
        match write_status(authority, who, &device, enrol, &made).await {
            Ok(()) => {}
            Err(error) if error.is_conflict() => continue,
            Err(error) if error.is_not_found() => return Err(Refusal::DeviceUnknown),
            Err(error) => return Err(error.into()),
        }
        if replaces {
            revoke_old_key(authority, &device, now).await?;
        }
        return Ok(made);
    }
    Err(Refusal::NotNow {
        what: "the device is being changed by others",
        retry_after: 2,
    })
}

fn subject(authority: &Authority, device: &DeviceIdentity) -> Result<(Subject, Holder), Refusal> {
    let claims = device
        .claims()
        .map_err(|error| Refusal::Unissuable(error.to_string()))?;
    let uid = Uid::new(&claims.uid).map_err(|error| Refusal::Unissuable(error.to_string()))?;
    let lifetime = u64::from(claims.ttl_seconds);
    let holder = Holder {
        uid: uid.clone(),
        kind: Kind::Device,
        namespace: claims.namespace.to_string(),
        name: claims.name.to_string(),
        lifetime,
    };
    let subject = Subject {
        id: SpiffeId::device(
            authority.install.trust_domain.clone(),
            claims.namespace,
            claims.name,
        ),
        uid,
        attributes: claims.attributes,
        services: Vec::new(),
        pod: None,
        lifetime,
        renew_after: lifetime / 2,
    };
    Ok((subject, holder))
}

async fn write_status(
    authority: &Authority,
    who: &Who,
    device: &DeviceIdentity,
    enrol: Option<&str>,
    made: &Made,
) -> Result<(), ApiError> {
    let credential = CredentialStatus {
        serial: made.serial.to_string(),
        expiry_time: to_kubernetes(made.expires),
        issued_time: Some(to_kubernetes(made.issued_at)),
        observed_generation: device.metadata.generation,
    };
    let mut status = json!({
        "credential": credential,
        "lastSeenTime": to_kubernetes(made.issued_at),
    });
    if let Some(key) = enrol {
        status["deviceKey"] = json!(key);
    }
    let patch = json!({
        "metadata": {"resourceVersion": device.resource_version(), "uid": device.uid()},
        "status": status,
    });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let (api, patch) = (who.api(authority), Patch::Merge(patch));
    call(
        "write a device's status",
        api.patch_status(who.name.as_str(), &params, &patch),
    )
    .await
    .map(drop)
}

/// Credentials that the device's former key has had end now.
async fn revoke_old_key(
    authority: &Authority,
    device: &DeviceIdentity,
    issued_at: UnixSeconds,
) -> Result<(), Refusal> {
    let facts = DeviceFacts::of(device);
    let entry =
        facts.and_then(|facts| due::of_reenrolment(&facts, issued_at, authority.clock.now()));
    let Some(entry) = entry else { return Ok(()) };
    let data = json!({ entry.key(): entry.value() });
    let record = Api::namespaced(
        authority.client.clone(),
        authority.install.namespace.as_str(),
    );
    crate::config_map::merge(&record, crate::names::REVOCATIONS, data).await?;
    let message =
        "enrolled with another key; the credentials of the former one are revoked".to_owned();
    authority.events.note(
        device.object_ref(&()),
        Severity::Warning,
        "KeyReplaced",
        message,
    );
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::START;
    use crate::testing::fixture::{Fixture, KEY, pump, statement, stream};
    use crate::testing::mock::{Answer, Call};
    use fairway_identity::{Clock, Ed25519Key, Form, Signer as _};
    use serde_json::Value;

    pub(crate) const UID: &str = "c0000000-0000-4000-8000-000000000001";

    fn device_key() -> Ed25519Key {
        Ed25519Key::from_seed([3; 32])
    }

    fn request(authority: &Authority, key: &Ed25519Key) -> RenewDevice {
        let (namespace, device) = pump();
        let public = key.verifying_key();
        let signature = statement(authority, (&namespace, &device), &public)
            .sign(Purpose::RenewDevice, key)
            .unwrap();
        RenewDevice {
            namespace,
            device,
            device_key: public,
            handshake_key: KEY,
            signature,
        }
    }

    /// A DeviceIdentity as the API server has it.
    pub(crate) fn object(version: &str, status: Value) -> Value {
        json!({
            "apiVersion": "fairway.dev/v1alpha1", "kind": "DeviceIdentity",
            "metadata": {"name": "pump-7", "namespace": "factory", "uid": UID,
                         "resourceVersion": version, "generation": 3},
            "spec": {"attributes": {"model": "pump"}},
            "status": status})
    }

    pub(crate) fn read(call: &Call, object: Value) -> Answer {
        assert_eq!(
            call.line(),
            "GET /apis/fairway.dev/v1alpha1/namespaces/factory/deviceidentities/pump-7"
        );
        Answer::ok(object)
    }

    pub(crate) fn recorded(call: &Call) -> Answer {
        assert_eq!(
            call.line(),
            "PATCH /api/v1/namespaces/fairway-system/configmaps/fairway-issued-c"
        );
        Answer::ok(json!({"metadata": {}}))
    }

    pub(crate) fn status_written(call: &Call, version: &str) -> Answer {
        let path = "/apis/fairway.dev/v1alpha1/namespaces/factory/deviceidentities/pump-7/status";
        assert_eq!(call.line(), format!("PATCH {path}"));
        assert_eq!(
            call.body["metadata"]["resourceVersion"], version,
            "a compare-and-swap"
        );
        assert_eq!(call.body["status"]["credential"]["observedGeneration"], 3);
        Answer::ok(object("9", json!({})))
    }

    fn enrolled() -> Value {
        json!({"deviceKey": device_key().verifying_key().to_string()})
    }

    #[tokio::test]
    async fn an_enrolled_device_renews_by_its_key() {
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(|call| read(call, object("5", enrolled())))
            .expect(recorded)
            .expect(|call| {
                assert_eq!(call.body["status"].get("deviceKey"), None);
                status_written(call, "5")
            });
        let request = request(&fixture.authority, &device_key());
        let made = renew(&fixture.authority, &stream(), &request)
            .await
            .unwrap();
        served.done().await;
        let trust = fixture.authority.ring().await.unwrap().trust().clone();
        let peer = trust
            .verify_credential(&made.issued.full, Form::Full, &KEY, Clock::Trusted(START))
            .unwrap();
        assert_eq!(
            peer.id().to_string(),
            "spiffe://fairway.local/ns/factory/device/pump-7"
        );
        assert_eq!(peer.attributes()["model"], "pump");
        assert_eq!(peer.expires(), START.plus(86_400));
    }

    #[tokio::test]
    async fn a_conflict_is_read_and_checked_again() {
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(|call| read(call, object("5", enrolled())))
            .expect(recorded)
            .expect(|_| Answer::status(409))
            .expect(|call| {
                let mut revoked = object("6", enrolled());
                revoked["spec"]["state"] = json!("Revoked");
                read(call, revoked)
            });
        let request = request(&fixture.authority, &device_key());
        let refused = renew(&fixture.authority, &stream(), &request)
            .await
            .unwrap_err();
        assert_eq!(refused.word(), "revoked");
        served.done().await;
    }

    #[tokio::test]
    async fn others_do_not_renew() {
        let cases: [(Value, &str); 3] = [
            (json!({}), "not-enrolled"),
            (
                json!({"deviceKey": Ed25519Key::from_seed([4; 32]).verifying_key().to_string()}),
                "wrong-key",
            ),
            (json!({"deviceKey": "nonsense"}), "wrong-key"),
        ];
        for (status, word) in cases {
            let (fixture, server) = Fixture::new();
            let served = server.expect(|call| read(call, object("5", status)));
            let request = request(&fixture.authority, &device_key());
            let refused = renew(&fixture.authority, &stream(), &request)
                .await
                .unwrap_err();
            assert_eq!(refused.word(), word);
            served.done().await;
        }
        let (fixture, server) = Fixture::new();
        let served = server.expect(|_| Answer::status(404));
        let request = request(&fixture.authority, &device_key());
        let refused = renew(&fixture.authority, &stream(), &request)
            .await
            .unwrap_err();
        assert_eq!(refused.word(), "device-unknown");
        served.done().await;
    }

    #[tokio::test]
    async fn a_signature_for_another_connection_or_device_asks_the_cluster_nothing() {
        let (fixture, server) = Fixture::new();
        let good = request(&fixture.authority, &device_key());
        let replayed = Stream {
            handshake_hash: [2; 32],
            ..stream()
        };
        let elsewhere = RenewDevice {
            device: Label::new("pump-8").unwrap(),
            ..good.clone()
        };
        let another_key = RenewDevice {
            handshake_key: [8; 32],
            ..good.clone()
        };
        for (stream, request, word) in [
            (&replayed, &good, "wrong-key"),
            (&stream(), &elsewhere, "wrong-key"),
            (&stream(), &another_key, "forbidden"),
        ] {
            assert_eq!(
                renew(&fixture.authority, stream, request)
                    .await
                    .unwrap_err()
                    .word(),
                word
            );
        }
        server.done().await;
    }
}
