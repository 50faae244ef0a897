//! A device and a workload, with a relay between them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::authority::{Authority, uid_of};
use common::relay::Relay;
use common::world::{COLLECTOR, COLLECTOR_ID, PUMP, PUMP_ID, World, call, echo};
use common::{address, soon};
use fairway_endpoint::{OpenError, StreamError};
use fairway_identity::{Ed25519Key, Revocation, UnixSeconds};
use fairway_session::{OpenRequest, Refusal, code};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn both_ways_with_bytes_in_order_and_one_session_for_all_calls() {
    let world = World::start().await;
    let n_before = world.relay.n_circuits();
    let pump = world.pump.clone();
    echo(world.calls);
    let calls = (0..8_u32).map(|i| {
        let pump = pump.clone();
        tokio::spawn(async move {
            let stream = pump
                .open(&address(COLLECTOR), OpenRequest::port(80))
                .await
                .unwrap();
            assert_eq!(stream.peer().id().unwrap().to_string(), COLLECTOR_ID);
            let data: Vec<u8> = (0..3_000_000_u32)
                .map(|n| (n.wrapping_mul(i + 3) >> 5) as u8)
                .collect();
            let (mut recv, mut send) = stream.split();
            let sent = Bytes::from(data);
            let sending = {
                let sent = sent.clone();
                async move {
                    send.write_chunk(sent).await.unwrap();
                    send.finish();
                }
            };
            let receiving = async {
                let mut back = Vec::new();
                recv.read_to_end(&mut back).await.unwrap();
                back
            };
            let ((), back) = tokio::join!(sending, receiving);
            assert!(back == sent);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        soon(call).await.unwrap();
    }
    assert_eq!(world.relay.n_circuits() - n_before, 1);

    // And from the workload to the device, by its own circuit.
    echo(world.scrapes);
    let pump = address(PUMP);
    let scrape = world.collector.open(&pump, OpenRequest::port(9100));
    let mut stream = soon(scrape).await.unwrap();
    stream.write_all(b"GET /metrics").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    soon(stream.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, "GET /metrics");
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_with_the_reason() {
    let mut world = World::start().await;
    // No policy speaks of it, so not even whether it is offered is told.
    let unknown = soon(world.pump.open(&address(COLLECTOR), OpenRequest::port(81))).await;
    let OpenError::Refused(refusal) = unknown.unwrap_err() else {
        panic!("refused by the peer");
    };
    assert_eq!(refusal.code, code::POLICY_DENIED);
    // Nobody of that name.
    let nobody = address("nobody.factory.svc.fairway.internal");
    let error = soon(world.pump.open(&nobody, OpenRequest::port(80)))
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::NotHere { .. }), "{error}");
    // The app says no.
    let (refused, ()) = tokio::join!(call(&world.pump), async {
        let call = world.calls.recv().await.unwrap();
        assert_eq!(call.grant.peer().id().unwrap().to_string(), PUMP_ID);
        call.refuse(&Refusal::new(code::CONNECT_REFUSED, "nothing on 8080"));
    });
    assert_eq!(refused.unwrap_err().reason(), "connect-refused");
    // Dropping it unanswered is a no, too.
    let (refused, ()) = tokio::join!(call(&world.pump), async {
        drop(world.calls.recv().await);
    });
    assert_eq!(refused.unwrap_err().reason(), "cancelled");
}

#[tokio::test]
async fn a_policy_that_goes_ends_the_streams_it_allowed() {
    let mut world = World::start().await;
    let (mut stream, mut served) = world.joined().await;
    world
        .authority
        .publish(COLLECTOR_ID, |state| state.policies = Default::default());

    let error = soon(stream.recv.read_chunk()).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::Reset(r) if r.code == code::POLICY_DENIED),
        "{error}"
    );
    let error = soon(served.stream.recv.read_chunk()).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::Ended(r) if r.code == code::POLICY_DENIED),
        "{error}"
    );
    let error = soon(call(&world.pump)).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
}

#[tokio::test]
async fn revoking_the_device_ends_its_live_session() {
    let mut world = World::start().await;
    let (mut stream, _served) = world.joined().await;
    let uid = uid_of(&PUMP_ID.parse().unwrap());
    world.authority.publish(COLLECTOR_ID, |state| {
        let revocation = Revocation {
            issued_before: UnixSeconds(u64::MAX / 2),
            keep_until: UnixSeconds(u64::MAX / 2),
        };
        state.revocations.insert(uid, revocation).unwrap();
    });
    let error = soon(stream.recv.read_chunk()).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::SessionClosed(r) if r.code == code::REVOKED),
        "{error}"
    );
    let error = soon(call(&world.pump)).await.unwrap_err();
    assert_eq!(error.reason(), "revoked", "{error}");
}

#[tokio::test]
async fn a_call_waits_for_credential_link_and_session() {
    let authority = Authority::start();
    let relay = Relay::start(&authority).await;
    let relays = vec![relay.address.clone()];
    let (pump, _) = common::device(&authority, &relays, "pump-7", &[]).await;
    let waiting = tokio::spawn({
        let pump = pump.clone();
        async move { pump.open(&address(COLLECTOR), OpenRequest::port(80)).await }
    });
    // Only now there is an authority to get a credential from; and nobody yet
    // who answers to the name.
    let front = common::front(&authority, &relays).await;
    soon(pump.credentialed()).await;
    let error = soon(waiting).await.unwrap().unwrap_err();
    assert!(matches!(error, OpenError::NotHere { .. }), "{error}");
    drop(front);
}

#[tokio::test]
async fn a_new_credential_takes_over_without_a_gap() {
    let mut world = World::start().await;
    let (mut stream, mut served) = world.joined().await;
    let (n_links, n_issued) = (world.relay.n_links(), world.authority.n_issued());
    // The authority says that the pump's credential is stale.
    world.authority.publish(PUMP_ID, |state| {
        state.renew_issued_before = Some(UnixSeconds(u64::MAX / 2));
    });
    soon(async {
        while world.relay.n_links() == n_links || world.authority.n_issued() == n_issued {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // The stream from before goes on over the old link and session...
    stream.write_all(b"still here").await.unwrap();
    let mut bytes = [0; 10];
    soon(served.stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"still here");
    // ...and a new call goes through.
    world.joined().await;
}

#[tokio::test]
async fn a_relay_that_dies_is_reconnected_to_when_it_is_back() {
    let world = World::start().await;
    echo(world.calls);
    let mut stream = soon(call(&world.pump)).await.unwrap();
    let listen = world.relay.address.to_string();
    world.relay.kill();
    soon(async {
        while !world.pump.status().links.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // What is written meanwhile waits.
    stream.write_all(b"still here").await.unwrap();
    let _relay = Relay::start_on(&world.authority, &listen).await;
    let mut bytes = [0; 10];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"still here");
    soon(call(&world.pump)).await.unwrap();
}

#[tokio::test]
async fn a_relay_that_drains_is_left_and_its_streams_go_on() {
    let world = World::start().await;
    echo(world.calls);
    let stream = soon(call(&world.pump)).await;
    let mut stream = stream.unwrap();
    let n_links = world.relay.n_links();
    world.relay.drain();
    soon(async {
        while world.relay.n_links() < n_links + 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    stream.write_all(b"still here").await.unwrap();
    let mut bytes = [0; 10];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    drop(world.front);
}

#[tokio::test]
async fn a_device_joins_by_ticket_over_the_relay_and_a_copy_of_the_ticket_is_refused() {
    let authority = Authority::start();
    let relay = Relay::start(&authority).await;
    let relays = vec![relay.address.clone()];
    let front = common::front(&authority, &relays).await;
    soon(front.registered()).await;
    let ticket = authority.ticket("pump-9", &relays);

    let joining = common::newcomer(&ticket).await;
    let key = Ed25519Key::from_seed([21; 32]);
    let issued = soon(joining.authority().enroll(&ticket, &key))
        .await
        .unwrap();
    // A lost answer: asking again with the same key is the same enrolment.
    soon(joining.authority().enroll(&ticket, &key))
        .await
        .unwrap();
    let thief = Ed25519Key::from_seed([22; 32]);
    let error = soon(joining.authority().enroll(&ticket, &thief))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "ticket-used", "{error}");
    joining.close().await;

    // What was issued is good for a run, without asking for another one.
    let n_issued = authority.n_issued();
    let device = common::enrolled_device(&ticket, key, issued).await;
    soon(device.credentialed()).await;
    soon(device.registered()).await;
    assert_eq!(
        device.id().unwrap().to_string(),
        "spiffe://fairway.local/ns/factory/device/pump-9"
    );
    assert_eq!(authority.n_issued(), n_issued);
}

#[tokio::test]
async fn an_expired_credential_is_renewed_and_bricks_nothing() {
    let world = World::start().await;
    echo(world.calls);
    soon(call(&world.pump)).await.unwrap();
    world.authority.set_lifetime(2);
    world.authority.publish(PUMP_ID, |state| {
        state.renew_issued_before = Some(UnixSeconds(u64::MAX / 2));
    });
    let n_issued = world.authority.n_issued();
    soon(async {
        while world.authority.n_issued() == n_issued {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // The authority is away for longer than that credential lives.
    world.authority.set_away(true);
    soon(async {
        while world.pump.status().credential.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    world.authority.set_lifetime(3_600);
    world.authority.set_away(false);
    soon(async {
        while call(&world.pump).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_device_offers_only_what_its_identity_names() {
    let world = World::start().await;
    echo(world.scrapes);
    let pump = address(PUMP);
    let scrape = || world.collector.open(&pump, OpenRequest::port(9100));
    soon(scrape()).await.unwrap();
    soon(world.authority.acknowledged(PUMP_ID, 1)).await;
    for (services, offered) in [
        (Some(vec!["other".to_owned()]), false),
        (Some(vec!["other".to_owned(), "metrics".to_owned()]), true),
        (Some(vec![]), false),
        (None, true),
    ] {
        let n_acks = world.authority.n_acks(PUMP_ID);
        world
            .authority
            .publish(PUMP_ID, |state| state.services = services.clone());
        // It acknowledges once the change is in force.
        soon(world.authority.acknowledged(PUMP_ID, n_acks + 1)).await;
        let opened = soon(scrape()).await;
        assert_eq!(opened.is_ok(), offered, "{services:?}: {opened:?}");
        let refused = world.pump.status().services_not_allowed;
        assert_eq!(refused.is_empty(), offered, "{services:?}: {refused:?}");
    }
}
