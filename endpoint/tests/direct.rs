//! Endpoints and the authority over direct links: credentials, time, the watch.

mod common;

use std::time::Duration;

use common::authority::Authority;
use common::{soon, workload};
use fairway_endpoint::{AuthorityError, CredentialSource, Endpoint, EndpointConfig, front_anchor};

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
