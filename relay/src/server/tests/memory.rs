//! What an idle link costs. The relay is in a process of its own, apart from
//! other tests, and so are the other ends: its memory is the links'.

use std::time::Duration;

use tokio::process::Child;
use tokio::time::timeout;

use super::child::{start, this_binary, until_the_parent_ends_it};
use super::peer::{Peer, Relay, local};
use crate::testing::Domain;

const RELAY: &str = "FAIRWAY_TEST_RELAY";
const LINKS: &str = "FAIRWAY_TEST_LINKS";

/// The design's bound.
const LINK_BYTES_MAX: usize = 8 * 1024;

#[tokio::test]
async fn an_idle_device_link_costs_at_most_8_kib() {
    let measured = this_binary("memory::measure_in_a_child").output();
    let measured = measured.await.unwrap();
    let text = String::from_utf8_lossy(&measured.stdout);
    assert!(measured.status.success(), "{text}");
}

/// Not a test by itself: the relay, in a child process.
#[tokio::test]
#[ignore = "run by the test above"]
async fn measure_in_a_child() {
    let relay = Relay::start().await;
    // The first ones pay for the allocator's and the runtime's own needs.
    let (n_first, n_more) = (200, 600);
    let _first = links(&relay, n_first).await;
    relay.settle_links(n_first).await;
    tokio::time::sleep(crate::limits::QUIET_AFTER * 2).await;
    let before = resident_bytes();
    let _more = links(&relay, n_more).await;
    relay.settle_links(n_first + n_more).await;
    let cost = || resident_bytes().saturating_sub(before) / n_more;
    let becomes_quiet = async {
        while cost() > LINK_BYTES_MAX {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let quiet = timeout(crate::limits::QUIET_AFTER * 6, becomes_quiet).await;
    println!("an idle link costs {} bytes", cost());
    assert!(quiet.is_ok(), "an idle link costs {} bytes", cost());
}

/// Not a test by itself: the other ends of links, in a child process.
#[tokio::test]
#[ignore = "run by the test above"]
async fn links_in_a_child() {
    let address = std::env::var(RELAY).unwrap().parse().unwrap();
    let n_links: usize = std::env::var(LINKS).unwrap().parse().unwrap();
    let domain = Domain::new();
    let mut peers = Vec::new();
    for i in 0..n_links {
        let who = format!("ns/factory/device/d{i}");
        let mut peer = Peer::connect(address, local(&domain, &who, &[], 200))
            .await
            .unwrap();
        peer.establish().await.unwrap();
        let name = format!("d{i}.factory.device.fairway.internal");
        peer.register(&name).await.unwrap();
        peers.push(peer);
    }
    println!("\nlinks are up");
    until_the_parent_ends_it().await;
}

async fn links(relay: &Relay, n_links: usize) -> Child {
    let mut links = this_binary("memory::links_in_a_child");
    links
        .env(RELAY, relay.address.to_string())
        .env(LINKS, n_links.to_string());
    start(links, "links are up", Duration::from_secs(300))
        .await
        .0
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
