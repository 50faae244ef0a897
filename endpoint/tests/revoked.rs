//! Our own credential is refused: what runs under it ends at once, with that
//! reason, and does not wait for another link.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::soon;
use common::world::{COLLECTOR_ID, PUMP_ID, World, call};
use fairway_endpoint::{OpenError, Stream, StreamError};
use fairway_identity::{Revocation, UnixSeconds};
use fairway_session::{Code, Refusal, code};

/// Whether the stream ends with this code, with its session.
async fn ends_with(stream: &mut Stream, expected: Code) {
    let error = soon(stream.recv.read_chunk()).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::SessionClosed(r) if r.code == expected),
        "{error}"
    );
}

/// The relay closes the link, and the collector's own goodbye is lost with it.
#[tokio::test]
async fn a_relay_that_ends_the_link_as_revoked_ends_all_sessions() {
    let mut world = World::start().await;
    let (mut stream, _served) = world.joined().await;
    world.authority.revoke("pump-7");
    let revoked = Refusal::new(code::REVOKED, "suspended or revoked");
    world.relay.refuse(&PUMP_ID.parse().unwrap(), &revoked);
    ends_with(&mut stream, code::REVOKED).await;
    assert!(world.pump.status().credential.is_none());
}

#[tokio::test]
async fn a_relay_that_ends_the_link_as_expired_costs_the_sessions_and_not_the_device() {
    let mut world = World::start().await;
    let (mut stream, _served) = world.joined().await;
    let expired = Refusal::new(code::CREDENTIAL_EXPIRED, "its time is over");
    world.relay.refuse(&PUMP_ID.parse().unwrap(), &expired);
    ends_with(&mut stream, code::CREDENTIAL_EXPIRED).await;
    // It asks for another one, and goes on.
    world.joined().await;
}

/// A relay may end links for reasons of its own.
#[tokio::test]
async fn a_relay_that_ends_the_link_for_another_reason_costs_a_pause_only() {
    let mut world = World::start().await;
    let (mut stream, served) = world.joined().await;
    let overloaded = Refusal::new(code::OVERLOADED, "too many links");
    world.relay.refuse(&PUMP_ID.parse().unwrap(), &overloaded);
    served.stream.split().1.finish();
    assert!(soon(stream.recv.read_chunk()).await.unwrap().is_none());
    assert!(world.pump.status().credential.is_some());
}

#[tokio::test]
async fn an_authority_that_refuses_a_renewal_as_revoked_ends_all_sessions() {
    let mut world = World::start().await;
    let (mut stream, _served) = world.joined().await;
    world.authority.revoke("pump-7");
    world.authority.publish(PUMP_ID, |state| {
        state.renew_issued_before = Some(UnixSeconds(u64::MAX / 2));
    });
    ends_with(&mut stream, code::REVOKED).await;
    // Nor does the next call wait in vain.
    let error = soon(call(&world.pump)).await.unwrap_err();
    assert!(
        matches!(&error, OpenError::NoCredential { last_error } if last_error.contains("revoked")),
        "{error}"
    );
}

/// Only the collector has heard of it; the pump hears it from the collector.
#[tokio::test]
async fn a_peer_that_ends_the_session_as_revoked_is_heard() {
    let mut world = World::start().await;
    let (mut stream, mut served) = world.joined().await;
    let uid = common::authority::uid_of(&PUMP_ID.parse().unwrap());
    world.authority.publish(COLLECTOR_ID, |state| {
        let revocation = Revocation {
            issued_before: UnixSeconds(u64::MAX / 2),
            keep_until: UnixSeconds(u64::MAX / 2),
        };
        state.revocations.insert(uid, revocation).unwrap();
    });
    ends_with(&mut served.stream, code::REVOKED).await;
    ends_with(&mut stream, code::REVOKED).await;
}
