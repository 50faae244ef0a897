//! What happens when no file is left. The relay is in a process of its own,
//! with few of them.

use std::net::SocketAddr;
use std::time::Duration;

use fairway_control::reason;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::child::{start, this_binary, until_the_parent_ends_it};
use super::peer::{Peer, Relay, local};
use super::{COLLECTOR, PUMP};
use crate::testing::Domain;

/// What the relay's process may have open in all.
const FILES: u64 = 64;

#[tokio::test]
async fn when_files_run_out_new_links_are_refused_and_live_ones_go_on() {
    let patience = Duration::from_secs(20);
    let relay = this_binary("files::relay_with_few_files");
    let (_relay, address) = start(relay, "listening on ", patience).await;
    let address: SocketAddr = address.parse().unwrap();
    let domain = Domain::new();
    let mut collector = link(&domain, address, "ns/factory/sa/collector", &["collector"]).await;
    collector.register(COLLECTOR).await.unwrap();
    let mut device = link(&domain, address, "ns/factory/device/pump-7", &[]).await;
    device.open(2, COLLECTOR).await.unwrap();
    let incoming = collector.incoming().await;

    // More connections than it has files; they say nothing.
    let mut silent = Vec::new();
    for _ in 0..2 * FILES {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let waiting = silent.into_iter().map(|mut socket| async move {
        let mut words = Vec::new();
        // One that was let in is told nothing either.
        match timeout(Duration::from_secs(2), socket.read_to_end(&mut words)).await {
            Ok(_) => Err(String::from_utf8_lossy(&words).into_owned()),
            Err(_) => Ok(socket),
        }
    });
    let (silent, refused): (Vec<_>, Vec<_>) = futures::future::join_all(waiting)
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert!(refused.len() > FILES as usize / 2, "{}", refused.len());
    for words in refused {
        let words = words.unwrap_err();
        assert!(words.contains(reason::OVERLOADED), "{words:?}");
        assert!(words.contains("no file"), "{words:?}");
    }
    // Those who are there go on, and may do new things.
    device.send(2, b"still here").await;
    let received = collector.receive().await;
    assert_eq!(received, (incoming, b"still here".to_vec().into()));
    device.register(PUMP).await.unwrap();
    // With files there is room again.
    drop(silent);
    let comes_in = async {
        loop {
            let who = local(&domain, "ns/factory/device/pump-8", &[], 9);
            if let Ok(mut peer) = Peer::connect(address, who).await
                && peer.establish().await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(patience, comes_in).await.unwrap();
}

/// Not a test by itself: the relay, in a child process.
#[tokio::test]
#[ignore = "run by the test above"]
async fn relay_with_few_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let few = Rlimit {
        current: Some(FILES),
        maximum,
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let relay = Relay::start().await;
    println!("\nlistening on {}", relay.address);
    until_the_parent_ends_it().await;
}

async fn link(domain: &Domain, address: SocketAddr, who: &str, services: &[&str]) -> Peer {
    let mut peer = Peer::connect(address, local(domain, who, services, 7))
        .await
        .unwrap();
    peer.establish().await.unwrap();
    peer
}
