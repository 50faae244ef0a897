//! Devices whose clock is right, an hour off, or not to be trusted.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::SystemTime;

use common::authority::Authority;
use common::lines::Lines;
use common::relay::Relay;
use common::{device_by, soon};
use fairway_endpoint::{ClockSource, Endpoint};
use fairway_identity::{RelayAddress, UnixSeconds};

const HOUR: u64 = 3_600;

fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixSeconds(since.unwrap().as_secs())
}

/// An authority whose credentials live as long as those of workloads do.
async fn cluster() -> (Authority, Endpoint, Relay, Vec<RelayAddress>) {
    let authority = Authority::start();
    authority.set_lifetime(4 * HOUR);
    let relay = Relay::start(&authority).await;
    let relays = vec![relay.address.clone()];
    let front = common::front(&authority, &relays).await;
    soon(front.registered()).await;
    (authority, front, relay, relays)
}

#[tokio::test]
async fn a_device_by_its_systems_clock_never_asks_for_the_time() {
    let (authority, front, _relay, relays) = cluster().await;
    let (pump, _) = device_by(ClockSource::System, &authority, &relays, "pump-7", &[]).await;
    soon(pump.credentialed()).await;
    soon(pump.registered()).await;
    assert_eq!(authority.n_times(), 0);
    front.close().await;
}

#[tokio::test]
async fn a_device_without_a_clock_asks_first() {
    let (authority, _front, _relay, relays) = cluster().await;
    let (pump, _) = common::device(&authority, &relays, "pump-7", &[]).await;
    soon(pump.credentialed()).await;
    soon(pump.registered()).await;
    assert_eq!(authority.n_times(), 1);
}

/// What was issued for four hours has some left.
#[tokio::test]
async fn a_clock_an_hour_fast_is_borne() {
    let (authority, _front, _relay, relays) = cluster().await;
    let fast = ClockSource::Other(|| now().plus(HOUR));
    let (pump, _) = device_by(fast, &authority, &relays, "pump-7", &[]).await;
    soon(pump.credentialed()).await;
    soon(pump.registered()).await;
}

/// What was just issued is not valid yet; the device says so and believes nobody.
#[tokio::test]
async fn a_clock_an_hour_slow_is_told_by_the_reason() {
    let mut lines = Lines::capture();
    let (authority, _front, _relay, relays) = cluster().await;
    let slow = ClockSource::Other(|| now().minus(HOUR));
    let (pump, _) = device_by(slow, &authority, &relays, "pump-7", &[]).await;
    let line = lines.find(|line| line["event"] == "link-failed").await;
    let error = line["error"].as_str().unwrap();
    assert!(
        error.contains("not valid yet") && error.contains("clock"),
        "{error}"
    );
    let status = pump.status();
    assert!(status.credential.is_none());
    assert!(status.link_error.unwrap().contains("clock"));
    let n_issued = authority.n_issued();

    // With the authority's time instead, the same device is up at once.
    pump.close().await;
    let (pump, _) = common::device(&authority, &relays, "pump-7", &[]).await;
    soon(pump.registered()).await;
    assert_eq!(authority.n_issued(), n_issued + 1, "none before it");
}
