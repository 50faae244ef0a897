//! Endpoints and the authority over direct links: credentials, time, the watch.

mod common;

use std::time::Duration;

use common::authority::Authority;
use common::{soon, workload};
use fairway_endpoint::{CredentialSource, Endpoint, EndpointConfig};

#[tokio::test]
async fn a_workload_gets_its_credential_and_its_rules() {
    let authority = Authority::start();
    let front = common::front(&authority, &[]).await;
    let (sidecar, _incoming) = workload(&authority, &front, "collector", &["collector"]).await;
    soon(sidecar.credentialed()).await;
    let id = "spiffe://fairway.local/ns/factory/sa/collector";
    assert_eq!(sidecar.id().unwrap().to_string(), id);
    assert_eq!(sidecar.status().policies, 0);

    authority.publish(id, |state| {
        state.policies = common::allow_devices(common::port(8080));
    });
    soon(async {
        while sidecar.status().policies != 1 || authority.n_acks(id) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(sidecar.status().watching);
    sidecar.close().await;
    front.close().await;
}

#[tokio::test]
async fn the_front_finds_its_anchor_at_the_socket() {
    let authority = Authority::start();
    let (trust_domain, pin) = soon(fairway_endpoint::front_anchor(authority.socket()))
        .await
        .unwrap();
    assert_eq!(
        (trust_domain, pin),
        (authority.trust_domain(), authority.pin())
    );
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_a_reason_in_the_status() {
    let authority = Authority::start();
    let front = common::front(&authority, &[]).await;
    let (sidecar, _) = common::workload_with_token(&authority, &front, "nonsense").await;
    soon(async {
        while sidecar.status().credential_error.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let error = sidecar.status().credential_error.unwrap();
    assert!(error.contains("token-refused"), "{error}");
}

#[tokio::test]
async fn an_authority_of_another_root_is_not_believed() {
    let authority = Authority::start();
    let front = common::front(&authority, &[]).await;
    let mut config = EndpointConfig::new(
        authority.trust_domain(),
        fairway_identity::RootHash([8; 32]),
    );
    config.credential = CredentialSource::Anonymous;
    config.authority = Some(common::host_port(front.listen_address().unwrap()));
    let stranger = Endpoint::start(config).await.unwrap();
    let error = soon(stranger.authority().time()).await.unwrap_err();
    assert_eq!(error.reason(), "trust-refused", "{error:?}");
}
