//! The binary's listeners, with real endpoints: QUIC, TCP, TLS, WebSocket,
//! through a proxy, over a bad network, and with wrong certificates.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod network;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use common::{COLLECTOR, Installation, echo, echoes, echoes_on, free_address, within};
use fairway_endpoint::transport::{ProxyUse, TlsTrust};
use fairway_endpoint::{Endpoint, LinkOptions, RecvStream, SendStream, Stream};
use fairway_identity::{Address, HostPort, RelayAddress, Transport};
use fairway_session::OpenRequest;
use fairway_session::limits::DATAGRAM_MAX;
use network::{Datagrams, Forwarder, HttpProxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// What the device's links run on.
fn transports(device: &Endpoint) -> Vec<Transport> {
    let links = device.status().links;
    let of = |remote: &String| remote.parse::<RelayAddress>().unwrap().transport();
    links.iter().map(|link| of(&link.remote)).collect()
}

/// While a credential is new there may be two.
fn is_linked_by(device: &Endpoint, transport: Transport) -> bool {
    let all = transports(device);
    !all.is_empty() && all.iter().all(|one| *one == transport)
}

async fn installation() -> Installation {
    let installation = Installation::start().await;
    let (sidecar, incoming) = installation.collector().await;
    tokio::spawn(echo(incoming));
    within(sidecar.registered()).await;
    installation
}

fn at(transport: Transport, at: &str) -> RelayAddress {
    RelayAddress::new(transport, at.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_enrols_and_talks_over_every_transport() {
    let installation = installation().await;
    for (transport, name) in Transport::ALL.into_iter().zip(["a", "b", "c", "d"]) {
        let relays = vec![installation.relay.by(transport)];
        let device = installation
            .device_by(name, relays, LinkOptions::default())
            .await;
        assert!(is_linked_by(&device, transport));
        // More than every window on the way.
        echoes(&device, 6_000_000).await;
        let n_more = (0..6).map(|_| echoes(&device, 10_000));
        futures::future::join_all(n_more).await;
        device.close().await;
    }
    // The links that have ended are gone: the front's and the collector's are left.
    let left = r#"fairway_relay_links{class="device"} 0"#;
    installation.relay.eventually("/metrics", left).await;
}

/// Of the largest size, beside data. Some may get lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_come_back_over_every_transport() {
    let installation = Installation::start().await;
    let (sidecar, mut incoming) = installation.collector().await;
    within(sidecar.registered()).await;
    tokio::spawn(async move {
        while let Some(call) = incoming.recv().await {
            call.accept().unwrap();
            tokio::spawn(send_datagrams_back(call.stream));
        }
    });
    let collector: Address = COLLECTOR.parse().unwrap();
    for (transport, name) in Transport::ALL.into_iter().zip(["a", "b", "c", "d"]) {
        let relays = vec![installation.relay.by(transport)];
        let device = installation
            .device_by(name, relays, LinkOptions::default())
            .await;
        let stream = within(device.open(&collector, OpenRequest::port(1883)));
        let (mut recv, mut send) = stream.await.unwrap().split();
        let more = Bytes::from(vec![7; 100_000]);
        within(send.write_chunk(more)).await.unwrap();
        for number in 0..20 {
            let data = Bytes::from(vec![number; DATAGRAM_MAX]);
            within(comes_back(&mut recv, &send, &data)).await;
        }
        assert!(is_linked_by(&device, transport));
        device.close().await;
    }
}

async fn send_datagrams_back(stream: Stream) {
    let (mut recv, send) = stream.split();
    while let Ok(Some(data)) = recv.recv_datagram().await {
        // Where there is no room, it gets lost.
        let _ = send.send_datagram(data);
    }
}

/// Sends it until it comes back.
async fn comes_back(recv: &mut RecvStream, send: &SendStream, data: &Bytes) {
    loop {
        send.send_datagram(data.clone()).unwrap();
        let answer = timeout(Duration::from_millis(200), recv.recv_datagram());
        match answer.await {
            Ok(next) if next.as_ref().unwrap().as_ref() == Some(data) => return,
            // One that came late, or none.
            Ok(_) | Err(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_best_transport_that_works_is_taken_and_left_for_a_better_one() {
    let installation = installation().await;
    let relay = &installation.relay;
    // Nothing answers UDP there, and nothing listens for TCP yet.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let quic = silent.local_addr().unwrap().to_string();
    let tcp = free_address().await;
    let relays = vec![
        relay.by(Transport::WebSocket),
        at(Transport::Quic, &quic),
        RelayAddress::from(tcp.clone()),
    ];
    let links = LinkOptions {
        upgrade_after: Duration::from_millis(300),
        ..LinkOptions::default()
    };
    let device = installation.device_by("pump-7", relays, links).await;
    assert!(is_linked_by(&device, Transport::WebSocket));
    echoes(&device, 100_000).await;
    let address: Address = COLLECTOR.parse().unwrap();
    let mut stream = within(device.open(&address, OpenRequest::port(1883)))
        .await
        .unwrap();
    stream.write_all(b"before").await.unwrap();
    let mut bytes = [0; 6];
    within(stream.read_exact(&mut bytes)).await.unwrap();

    let _forwarder = Forwarder::start(&tcp, relay.address.at()).await;
    within(async {
        while !transports(&device).contains(&Transport::Tcp) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // What was open goes on.
    stream.write_all(b"after!").await.unwrap();
    within(stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"after!");
    drop(stream);
    echoes(&device, 100_000).await;
}

// --- a proxy -----------------------------------------------------------------------------

fn through(proxy: &HttpProxy, user: &str) -> LinkOptions {
    let url = format!("http://{user}@{}", proxy.address);
    LinkOptions {
        proxy: ProxyUse::from_url(&url).unwrap(),
        ..LinkOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_with_authentication_leads_to_the_relay() {
    let installation = installation().await;
    let proxy = HttpProxy::start("pump:p@ss").await;
    for (transport, name) in [
        (Transport::WebSocket, "a"),
        (Transport::Tls, "b"),
        (Transport::Tcp, "c"),
    ] {
        // A name that the proxy alone knows.
        let port = installation.relay.by(transport).at().port();
        let host = HostPort::new("relay.invalid", port).unwrap();
        let relays = vec![RelayAddress::new(transport, host)];
        let links = through(&proxy, "pump:p%40ss");
        let device = installation.device_by(name, relays, links).await;
        assert!(is_linked_by(&device, transport));
        echoes(&device, 1_000_000).await;
        device.close().await;
    }
    assert!(proxy.n_tunnels() >= 3);
}

/// Each row: the way, and what the device says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_way_is_said() {
    let installation = Installation::start().await;
    let relay = &installation.relay;
    let proxy = HttpProxy::start("pump:p@ss").await;
    let nobody = free_address().await;
    let no_proxy = LinkOptions {
        proxy: ProxyUse::from_url(&format!("http://{nobody}")).unwrap(),
        ..LinkOptions::default()
    };
    let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
    let strict = LinkOptions {
        tls_trust: TlsTrust::from_pem(other.cert.pem().as_bytes()).unwrap(),
        ..LinkOptions::default()
    };
    let open = LinkOptions::default;
    let wss = relay.by(Transport::WebSocket);
    let tcp_as = |transport| RelayAddress::new(transport, relay.address.at().clone());
    for (address, links, expected) in [
        (
            wss.clone(),
            through(&proxy, "pump:wrong"),
            "user and a password",
        ),
        (wss.clone(), no_proxy, "cannot connect to it"),
        (wss.clone(), strict.clone(), "TLS failed"),
        (relay.by(Transport::Quic), strict, "QUIC failed"),
        (tcp_as(Transport::Tls), open(), "TLS failed"),
        (tcp_as(Transport::WebSocket), open(), "TLS failed"),
    ] {
        let mut config = installation.config();
        config.relays = vec![address.clone()];
        config.links = links;
        let device = Endpoint::start(config).await.unwrap();
        let error = within(async {
            loop {
                if let Some(error) = device.status().link_error {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert!(error.contains(expected), "{address}: {error}");
        device.close().await;
    }
}

// --- certificates ------------------------------------------------------------------------

fn put_certificate(dir: &Path) -> TlsTrust {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(dir.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("tls.crt"), made.cert.pem()).unwrap();
    TlsTrust::from_pem(made.cert.pem().as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_from_files_is_served_and_read_anew() {
    let mut first = None;
    let installation = Installation::start_with(|command: &mut Command, dir| {
        first = Some(put_certificate(dir));
        command
            .env("FAIRWAY_TLS_CERTIFICATE", dir.join("tls.crt"))
            .env("FAIRWAY_TLS_KEY", dir.join("tls.key"));
    })
    .await;
    let (sidecar, incoming) = installation.collector().await;
    tokio::spawn(echo(incoming));
    within(sidecar.registered()).await;
    let links = |tls_trust| LinkOptions {
        tls_trust,
        ..LinkOptions::default()
    };
    let first = links(first.unwrap());
    for (transport, name) in [(Transport::Quic, "a"), (Transport::Tls, "b")] {
        let relays = vec![installation.relay.by(transport)];
        let device = installation.device_by(name, relays, first.clone()).await;
        echoes(&device, 10_000).await;
    }
    let second = links(put_certificate(installation.dir.path()));
    let relays = vec![installation.relay.by(Transport::WebSocket)];
    // Its links fail until the relay has looked at the files.
    let device = installation.device_by("c", relays, second).await;
    echoes(&device, 10_000).await;
}

// --- bad networks ------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_lives_with_loss_delay_and_a_change_of_address() {
    let installation = installation().await;
    let quic = &installation.relay.quic;
    let network = Datagrams::start(quic, 20, Duration::from_millis(100)).await;
    let relays = vec![at(Transport::Quic, &network.address)];
    let device = tokio::time::timeout(
        Duration::from_secs(60),
        installation.device_by("pump-7", relays, LinkOptions::default()),
    )
    .await
    .unwrap();
    // The link with the credential is a second one: until it is there, and
    // with a handshake that loses a lot, a call may take longer than it waits.
    let address: Address = COLLECTOR.parse().unwrap();
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Ok(stream) = device.open(&address, OpenRequest::port(1883)).await {
                return stream;
            }
        }
    });
    let stream = patience.await.unwrap();
    let accepted = links_accepted(&installation).await;
    let echoes = tokio::time::timeout(Duration::from_secs(60), echoes_on(stream, 100_000));
    let transfer = tokio::spawn(echoes);
    tokio::time::sleep(Duration::from_millis(500)).await;
    network.change_address().await;
    transfer.await.unwrap().unwrap();
    assert_eq!(transports(&device), [Transport::Quic], "the same link");
    assert_eq!(links_accepted(&installation).await, accepted);
}

/// The relay's line of how many connections it has ever accepted.
async fn links_accepted(installation: &Installation) -> String {
    let metrics = installation.relay.fetch("/metrics").await;
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("fairway_relay_links_accepted_total"));
    line.unwrap().to_owned()
}

// --- nonsense ----------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_disturbs_nobody() {
    let installation = installation().await;
    let relay = &installation.relay;
    let relays = vec![relay.by(Transport::Quic), relay.by(Transport::Tcp)];
    let device = installation
        .device_by("pump-7", relays, LinkOptions::default())
        .await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..200_u32 {
        let bytes: Vec<u8> = (0..n * 6).map(|i| ((i * (n + 7)) >> 2) as u8).collect();
        let _ = udp.send_to(&bytes, relay.quic.to_string()).await;
        // Looks like the first packet of a QUIC connection.
        let long = [&[0xc3, 0, 0, 0, 1, 8][..], &[n as u8; 1_200]].concat();
        let _ = udp.send_to(&long, relay.quic.to_string()).await;
    }
    for address in [relay.address.at(), &relay.tls] {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            &[0x16, 3, 1, 0xff, 0xff],
            &[0xee; 4_000],
        ] {
            let mut socket = TcpStream::connect(address.to_string()).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            socket.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = within(socket.read_to_end(&mut answer)).await;
        }
    }
    echoes(&device, 1_000_000).await;
    relay
        .eventually("/metrics", "fairway_relay_half_open_links 0")
        .await;
}
