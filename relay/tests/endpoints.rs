//! The binary between real endpoints: authority's front, sidecar, device.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use common::{Installation, echo, echoes, within};
use fairway_identity::Address;
use fairway_session::OpenRequest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_enrols_and_talks_through_the_relay() {
    let installation = Installation::start().await;
    let (sidecar, incoming) = installation.collector().await;
    tokio::spawn(echo(incoming));
    within(sidecar.registered()).await;

    let device = installation.device("pump-7").await;
    // More than every window on the way.
    echoes(&device, 6_000_000).await;

    let other: Address = "pump-8.factory.device.fairway.internal".parse().unwrap();
    assert!(
        within(device.open(&other, OpenRequest::port(1)))
            .await
            .is_err()
    );
    for line in [
        r#"fairway_relay_circuits_refused_total{reason="forbidden"}"#,
        // The authority's, the collector's, the device's.
        "fairway_relay_names 3",
    ] {
        installation.relay.eventually("/metrics", line).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_relay_ends_in_good_order() {
    let mut installation = Installation::start().await;
    let (sidecar, _incoming) = installation.collector().await;
    within(sidecar.registered()).await;
    installation.relay.terminate();
    assert!(within(installation.relay.wait()).await);
}
