//! A pod, by its projected ServiceAccount token.
//!
//! Namespace, ServiceAccount and pod come from the API server's review of the
//! token, never from the caller; the Services that the pod backs come from
//! their selectors.

use std::collections::BTreeMap;

use fairway_control::authority::AttestWorkload;
use fairway_control::front::Stream;
use fairway_crds::labels::TOKEN_AUDIENCE;
use fairway_identity::{AccountName, Label, SpiffeId, Uid};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Resource as _, ResourceExt as _};

use super::check_key;
use crate::authority::Authority;
use crate::cluster::call;
use crate::distribute::facts::PodFacts;
use crate::distribute::index::Backing;
use crate::events::Severity;
use crate::issue::{Made, Subject, WORKLOAD_RENEW_SECONDS, WORKLOAD_SECONDS};
use crate::refusal::Refusal;
use crate::revoke::Kind;
use crate::revoke::issued::Holder;

/// Prefix of a ServiceAccount's user name.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// Where a TokenReview tells the pod that a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Where it tells the pod's UID.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Who a token belongs to, by the API server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Namespace of pod and ServiceAccount.
    pub namespace: Label,
    /// The ServiceAccount.
    pub service_account: AccountName,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: Uid,
}

/// Issues a pod's credential.
///
/// # Errors
/// See [`Refusal`].
pub async fn attest(
    authority: &Authority,
    stream: &Stream,
    request: &AttestWorkload,
) -> Result<Made, Refusal> {
    check_key(stream, &request.handshake_key)?;
    authority.ring().await?;
    authority.index_ready().await?;
    let turn = authority.turn().await?;
    let bearer = review(authority, &request.token).await?;
    let pod = read_pod(authority, &bearer).await?;
    let backing = backing(authority, &pod);
    let holder = Holder {
        uid: bearer.uid.clone(),
        kind: Kind::Workload,
        namespace: bearer.namespace.to_string(),
        name: bearer.pod.clone(),
        lifetime: WORKLOAD_SECONDS,
    };
    authority.issued.add(&holder).await?;
    drop(turn);
    let subject = Subject {
        id: SpiffeId::workload(
            authority.install.trust_domain.clone(),
            bearer.namespace,
            bearer.service_account,
        ),
        uid: bearer.uid,
        attributes: BTreeMap::new(),
        services: backing.services,
        pod: if backing.headless {
            Label::new(&bearer.pod).ok()
        } else {
            None
        },
        lifetime: WORKLOAD_SECONDS,
        renew_after: WORKLOAD_RENEW_SECONDS,
    };
    let now = authority.time_to_issue(&subject.uid).await?;
    let made = authority.sign(&subject, request.handshake_key, now).await?;
    authority.hub.quietly(|index| {
        index.note_issued(
            subject.uid.as_str(),
            subject.services.clone(),
            now,
            made.expires,
        );
    });
    Ok(made)
}

async fn review(authority: &Authority, token: &str) -> Result<Bearer, Refusal> {
    let reviews = Api::<TokenReview>::all(authority.client.clone());
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
        },
        ..TokenReview::default()
    };
    let reviewed = call(
        "review a token",
        reviews.create(&PostParams::default(), &review),
    )
    .await?;
    bearer(reviewed.status.unwrap_or_default())
}

/// Reads a review: authenticated, for our audience, a ServiceAccount's, bound
/// to a pod.
fn bearer(status: TokenReviewStatus) -> Result<Bearer, Refusal> {
    if status.authenticated != Some(true) {
        return Err(Refusal::Token("it is not valid, or has expired"));
    }
    // An API server that does not know audiences leaves them out; the token
    // may then have been made for anybody.
    if !status
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == TOKEN_AUDIENCE)
    {
        return Err(Refusal::Token("it is not for the audience `fairway`"));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name
        .strip_prefix(SERVICE_ACCOUNT)
        .and_then(|account| account.split_once(':'));
    let (namespace, account) = account.ok_or(Refusal::Token("it is not a ServiceAccount's"))?;
    let extra = user.extra.unwrap_or_default();
    let bound = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) => Ok(value.clone()),
        Some(_) | None => Err(Refusal::Token("it is not bound to a pod")),
    };
    Ok(Bearer {
        namespace: Label::new(namespace)
            .map_err(|_| Refusal::Token("its namespace is malformed"))?,
        service_account: AccountName::new(account).map_err(|_| {
            Refusal::Token("the name of its ServiceAccount is too long or malformed")
        })?,
        pod: bound(POD_NAME)?,
        uid: Uid::new(&bound(POD_UID)?)
            .map_err(|_| Refusal::Token("its pod's UID is malformed"))?,
    })
}

/// The pod, read from the API server and not from a cache: it has to be alive
/// now.
async fn read_pod(authority: &Authority, bearer: &Bearer) -> Result<Pod, Refusal> {
    let pods = Api::<Pod>::namespaced(authority.client.clone(), bearer.namespace.as_str());
    let pod = call("read a pod", pods.get_opt(&bearer.pod)).await?;
    let pod = pod.filter(|pod| pod.uid().as_deref() == Some(bearer.uid.as_str()));
    let pod = pod.ok_or(Refusal::Pod("does not exist"))?;
    let facts =
        PodFacts::of(&pod, &authority.install).ok_or(Refusal::Pod("has no Fairway sidecar"))?;
    if facts.ending {
        return Err(Refusal::Pod("is ending"));
    }
    if facts.service_account != bearer.service_account.as_str() {
        return Err(Refusal::Pod("runs as another ServiceAccount"));
    }
    Ok(pod)
}

fn backing(authority: &Authority, pod: &Pod) -> Backing {
    let namespace = pod.namespace().unwrap_or_default();
    let backing = authority
        .hub
        .read(|index| index.backing(&namespace, pod.labels()));
    if !backing.left_out.is_empty() {
        let message = format!(
            "the pod backs more Services than its Fairway credential can list; devices cannot reach it as: {}",
            backing.left_out.join(", ")
        );
        authority.events.note(
            pod.object_ref(&()),
            Severity::Warning,
            "ServicesLeftOut",
            message,
        );
    }
    backing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixture::{Fixture, KEY, stream};
    use crate::testing::mock::{Answer, Call};
    use crate::testing::{self, START, from_json};
    use fairway_identity::{Address, Clock, Form};
    use serde_json::{Value, json};

    const UID: &str = "2c9f4f8e-0000-4000-8000-000000000001";

    fn request() -> AttestWorkload {
        AttestWorkload {
            token: "secret".to_owned(),
            handshake_key: KEY,
        }
    }

    fn status() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["fairway"],
            "user": {
                "username": "system:serviceaccount:factory:collector",
                "extra": {POD_NAME: ["collector-0"], POD_UID: [UID]}}})
    }

    fn pod() -> Value {
        json!({
            "metadata": {"name": "collector-0", "namespace": "factory", "uid": UID, "labels": {"app": "a"}},
            "spec": {"serviceAccountName": "collector", "containers": [],
                     "initContainers": [{"name": "fairway-sidecar"}]},
            "status": {"phase": "Running"}})
    }

    fn reviewed(call: &Call, status: Value) -> Answer {
        assert_eq!(
            call.line(),
            "POST /apis/authentication.k8s.io/v1/tokenreviews"
        );
        assert_eq!(
            call.body["spec"],
            json!({"token": "secret", "audiences": ["fairway"]})
        );
        Answer::ok(json!({"spec": {}, "status": status}))
    }

    fn written(call: &Call) -> Answer {
        assert_eq!(
            call.line(),
            "PATCH /api/v1/namespaces/fairway-system/configmaps/fairway-issued-2"
        );
        assert_eq!(call.body["data"][UID], "workload factory/collector-0 14400");
        Answer::ok(json!({"metadata": {}}))
    }

    #[tokio::test]
    async fn a_pod_gets_a_credential_with_the_services_that_it_backs() {
        let (fixture, server) = Fixture::new();
        for (namespace, name, selector) in [
            ("factory", "collector", "app=a"),
            ("other", "collector", "app=a"),
        ] {
            let facts = testing::service(namespace, name, selector);
            fixture.hub.update(|index, now| {
                index.apply_service((namespace.into(), name.into()), Some(facts), now)
            });
        }
        let served = server
            .expect(|call| reviewed(call, status()))
            .expect(|call| {
                assert_eq!(
                    call.line(),
                    "GET /api/v1/namespaces/factory/pods/collector-0"
                );
                Answer::ok(pod())
            })
            .expect(written);
        let made = attest(&fixture.authority, &stream(), &request())
            .await
            .unwrap();
        served.done().await;

        let trust = fixture.authority.ring().await.unwrap().trust().clone();
        let peer = trust
            .verify_credential(&made.issued.full, Form::Full, &KEY, Clock::Trusted(START))
            .unwrap();
        assert_eq!(
            peer.id().to_string(),
            "spiffe://fairway.local/ns/factory/sa/collector"
        );
        assert_eq!(peer.uid().as_str(), UID);
        let answers = |address: &str| peer.answers_to(&address.parse::<Address>().unwrap(), &trust);
        assert!(answers("collector.factory.svc.fairway.internal"));
        assert!(!answers("collector.other.svc.fairway.internal"));
    }

    #[tokio::test]
    async fn only_the_proven_key_is_certified() {
        let (fixture, server) = Fixture::new();
        let other = AttestWorkload {
            handshake_key: [8; 32],
            ..request()
        };
        let refused = attest(&fixture.authority, &stream(), &other)
            .await
            .unwrap_err();
        assert_eq!(refused.word(), "forbidden");
        server.done().await;
    }

    #[tokio::test]
    async fn a_pod_that_is_not_what_the_token_says_gets_nothing() {
        let with = |change: fn(&mut Value)| {
            let mut pod = pod();
            change(&mut pod);
            pod
        };
        let cases = [
            with(|pod| pod["metadata"]["uid"] = json!("another")),
            with(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-11-23T06:00:00Z")),
            with(|pod| pod["status"]["phase"] = json!("Failed")),
            with(|pod| pod["spec"]["serviceAccountName"] = json!("default")),
            with(|pod| pod["spec"]["initContainers"] = json!([])),
        ];
        for pod in cases {
            let (fixture, server) = Fixture::new();
            let served = server
                .expect(|call| reviewed(call, status()))
                .expect(|_| Answer::ok(pod));
            let refused = attest(&fixture.authority, &stream(), &request())
                .await
                .unwrap_err();
            assert_eq!(refused.word(), "pod-not-running", "{refused}");
            served.done().await;
        }
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(|call| reviewed(call, status()))
            .expect(|_| Answer::status(404));
        let refused = attest(&fixture.authority, &stream(), &request())
            .await
            .unwrap_err();
        assert_eq!(refused.word(), "pod-not-running");
        served.done().await;
    }

    #[test]
    fn tokens_that_are_not_for_us_are_refused() {
        let with = |change: fn(&mut Value)| {
            let mut status = status();
            change(&mut status);
            bearer(from_json(status))
        };
        assert!(with(|_| {}).is_ok());
        let bad: [fn(&mut Value); 9] = [
            |status| status["authenticated"] = json!(false),
            |status| drop(status.as_object_mut().unwrap().remove("authenticated")),
            |status| status["audiences"] = json!(["https://kubernetes.default.svc"]),
            |status| drop(status.as_object_mut().unwrap().remove("audiences")),
            |status| status["user"]["username"] = json!("jane"),
            |status| status["user"]["username"] = json!("system:serviceaccount:factory"),
            |status| status["user"]["username"] = json!("system:serviceaccount:Fac/tory:x"),
            |status| status["user"]["extra"] = json!({POD_NAME: ["x"]}),
            |status| status["user"]["extra"][POD_UID] = json!(["a", "b"]),
        ];
        for change in bad {
            assert_eq!(with(change).unwrap_err().word(), "token-refused");
        }
    }

    #[tokio::test]
    async fn without_keys_nothing_is_asked_of_the_cluster() {
        let (fixture, server) = Fixture::without_keys();
        let refused = attest(&fixture.authority, &stream(), &request())
            .await
            .unwrap_err();
        assert_eq!(
            (refused.word(), refused.retry_after()),
            ("unavailable", Some(30))
        );
        server.done().await;
    }

    #[tokio::test]
    async fn nothing_is_issued_that_is_not_on_record() {
        let (fixture, server) = Fixture::new();
        let served = server
            .expect(|call| reviewed(call, status()))
            .expect(|_| Answer::ok(pod()))
            .expect(|_| Answer::status(500));
        let refused = attest(&fixture.authority, &stream(), &request())
            .await
            .unwrap_err();
        assert_eq!(refused.word(), "unavailable");
        served.done().await;
    }
}
