//! Devices whose clock is right, an hour off, or not to be trusted.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::{Duration, SystemTime};

use common::authority::Authority;
use common::lines::Lines;
use common::relay::Relay;
use common::world::{PUMP, World, call, echo};
use common::{address, device_by, label, soon};
use fairway_endpoint::{ClockSource, Endpoint, Incoming};
use fairway_identity::{RelayAddress, UnixSeconds};
use fairway_session::OpenRequest;
use tokio::sync::mpsc;
use tokio::time::timeout;

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

/// The pump at its next run: registered, told its rules, and without the time,
/// since nobody is told it for now.
async fn pump_without_time(world: &mut World) -> (Endpoint, mpsc::Receiver<Incoming>) {
    let key = world.authority.enrolled("pump-7");
    let client = world.pump.authority();
    let (namespace, name) = (label("factory"), label("pump-7"));
    let renewal = client.renew(&namespace, &name, &*key);
    let issued = soon(renewal).await.unwrap();
    world.pump.clone().close().await;
    world.authority.hold_time(true);
    let (relays, doors) = ([world.relay.address.clone()], &[(9100, "metrics")]);
    let again = common::device_again(&world.authority, &relays, "pump-7", issued, doors).await;
    soon(again.0.credentialed()).await;
    soon(again.0.registered()).await;
    again
}

/// Far longer than a call takes that waits for nothing.
const A_WHILE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_call_waits_until_the_device_knows_the_time() {
    let mut world = World::start().await;
    let (pump, _scrapes) = pump_without_time(&mut world).await;
    echo(world.calls);
    let mut calling = Box::pin(call(&pump));
    let early = timeout(A_WHILE, &mut calling).await;
    assert!(early.is_err(), "it waits: {early:?}");
    world.authority.hold_time(false);
    soon(calling).await.unwrap();
}

#[tokio::test]
async fn who_calls_a_device_waits_until_it_knows_the_time() {
    let mut world = World::start().await;
    let (_pump, scrapes) = pump_without_time(&mut world).await;
    echo(scrapes);
    let to = address(PUMP);
    let mut calling = Box::pin(world.collector.open(&to, OpenRequest::port(9100)));
    let early = timeout(A_WHILE, &mut calling).await;
    assert!(early.is_err(), "it waits: {early:?}");
    world.authority.hold_time(false);
    soon(calling).await.unwrap();
}
