//! The binary between real endpoints: authority's front, sidecar, device.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use common::{COLLECTOR, Installation, echo, echoes, within};
use fairway_endpoint::StreamError;
use fairway_identity::{Address, Transport};
use fairway_session::{OpenRequest, code};
use tokio::time::Instant;

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

/// In mid-transfer, when the relay closes the link with much unread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_devices_connections_end_at_once() {
    let installation = Installation::start().await;
    let (sidecar, incoming) = installation.collector().await;
    tokio::spawn(echo(incoming));
    within(sidecar.registered()).await;
    for (transport, name) in [(Transport::Tcp, "pump-7"), (Transport::Quic, "pump-8")] {
        let relays = vec![installation.relay.by(transport)];
        let device = installation
            .device_by(name, relays, Default::default())
            .await;
        let collector: Address = COLLECTOR.parse().unwrap();
        let opening = device.open(&collector, OpenRequest::port(1883));
        let (mut recv, mut send) = within(opening).await.unwrap().split();
        let sending = tokio::spawn(async move {
            let piece = bytes::Bytes::from(vec![7; 100_000]);
            loop {
                if let Err(error) = send.write_chunk(piece.clone()).await {
                    return error;
                }
            }
        });
        let mut revoked_at = None;
        let mut n_bytes = 0;
        let error = within(async {
            loop {
                match recv.read_chunk().await {
                    Ok(chunk) => n_bytes += chunk.unwrap().len(),
                    Err(error) => return error,
                }
                if n_bytes > 3_000_000 && revoked_at.is_none() {
                    installation.revoke_at_relay(name);
                    revoked_at = Some(Instant::now());
                }
            }
        })
        .await;
        let took = revoked_at.unwrap().elapsed();
        for error in [error, within(sending).await.unwrap()] {
            assert!(
                matches!(&error, StreamError::SessionClosed(r) if r.code == code::REVOKED),
                "{error}"
            );
        }
        assert!(took.as_secs() < 5, "{took:?}");
    }
}
