//! Two links over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fairway_control::link::{FrameKind, header};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::transport::{ALPN_LINK, TlsTrust, crypto_provider};

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn tls_server() -> rustls::ServerConfig {
    let made = rcgen::generate_simple_self_signed(vec!["relay".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    config
}

fn tls_client() -> rustls::ClientConfig {
    let versions = [&rustls::version::TLS13];
    TlsTrust::Any.client_config(ALPN_LINK, &versions).unwrap()
}

/// An endpoint's link and a relay's, with circuit 0's first frame read.
async fn pair() -> (QuicLink, QuicLink) {
    pair_by(server_config(tls_server()).unwrap()).await
}

async fn pair_by(config: quinn::ServerConfig) -> (QuicLink, QuicLink) {
    let server = quinn::Endpoint::server(config, LOCALHOST).unwrap();
    let address = server.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        QuicLink::accepted(connection).await.unwrap()
    });
    let mut near = connect(tls_client(), "relay", address).await.unwrap();
    write(&mut near, &frame(0, b"hello")).await;
    let mut far = accepting.await.unwrap();
    assert_eq!(next(&mut far).await, (0, b"hello".to_vec()));
    far.authenticated(100);
    (near, far)
}

fn frame(circuit: u32, payload: &[u8]) -> Vec<u8> {
    let header = header(FrameKind::Data, CircuitId(circuit), payload.len()).unwrap();
    [&header[..], payload].concat()
}

fn datagram(circuit: u32, payload: &[u8]) -> Vec<u8> {
    let header = header(FrameKind::Datagram, CircuitId(circuit), payload.len()).unwrap();
    [&header[..], payload].concat()
}

async fn next(link: &mut QuicLink) -> (u32, Vec<u8>) {
    let (header, payload) = next_frame(link).await;
    (header.circuit.0, payload)
}

async fn next_frame(link: &mut QuicLink) -> (Header, Vec<u8>) {
    let mut head = [0; 8];
    soon(link.read_exact(&mut head)).await.unwrap();
    let header = Header::peek(&head).unwrap().unwrap();
    let mut payload = vec![0; header.length];
    soon(link.read_exact(&mut payload)).await.unwrap();
    (header, payload)
}

/// The next frame is a DATAGRAM on circuit 2.
async fn next_datagram(link: &mut QuicLink) -> Vec<u8> {
    let (header, payload) = next_frame(link).await;
    assert_eq!((header.kind, header.circuit.0), (FrameKind::Datagram, 2));
    payload
}

/// Writes and flushes: what was not taken at once would go out while somebody
/// reads.
async fn write(link: &mut QuicLink, bytes: &[u8]) {
    link.write_all(bytes).await.unwrap();
    soon(link.flush()).await.unwrap();
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(8), future)
        .await
        .expect("in time")
}

/// Reads to the end of the link; the error that it ends with.
async fn end(link: &mut QuicLink) -> Option<io::ErrorKind> {
    let mut rest = Vec::new();
    let read = soon(link.read_to_end(&mut rest)).await;
    read.err().map(|error| error.kind())
}

#[tokio::test]
async fn frames_of_all_circuits_come_whole_and_in_their_order() {
    let payload = |circuit: u32, n: u32| vec![(circuit + n) as u8; (n as usize * 997) % 16_000];
    let (mut near, mut far) = pair().await;
    let (mut seen, mut bytes) = (BTreeMap::<u32, u32>::new(), Vec::new());
    for n in 0..40 {
        for circuit in [0, 2, 4, 6] {
            bytes.extend(frame(circuit, &payload(circuit, n)));
        }
    }
    let writing = tokio::spawn(async move {
        near.write_all(&bytes).await.unwrap();
        // Reads, so that the rest goes out.
        end(&mut near).await
    });
    for _ in 0..160 {
        let (circuit, got) = next(&mut far).await;
        let n = seen.entry(circuit).or_default();
        assert!(got == payload(circuit, *n), "circuit {circuit}, frame {n}");
        *n += 1;
    }
    far.shutdown().await.unwrap();
    assert_eq!(writing.await.unwrap(), None);
}

#[tokio::test]
async fn answers_come_on_the_stream_of_the_circuit_and_both_sides_may_open() {
    let (mut near, mut far) = pair().await;
    write(&mut near, &frame(2, b"question")).await;
    assert_eq!(next(&mut far).await, (2, b"question".to_vec()));
    write(&mut far, &frame(2, b"answer")).await;
    write(&mut far, &frame(1, b"call")).await;
    let mut got = [next(&mut near).await, next(&mut near).await];
    got.sort();
    assert_eq!(got, [(1, b"call".to_vec()), (2, b"answer".to_vec())]);
    write(&mut near, &frame(1, b"hello")).await;
    assert_eq!(next(&mut far).await, (1, b"hello".to_vec()));
    assert_eq!((near.circuits.len(), far.circuits.len()), (3, 3));
}

/// Lets a link go on that has nothing to say.
async fn idle(link: &mut QuicLink) {
    let _ = tokio::time::timeout(Duration::from_millis(3), link.read_u8()).await;
}

#[tokio::test]
async fn a_circuit_that_is_over_leaves_nothing_behind() {
    let (mut near, mut far) = pair().await;
    // More than there may be at once.
    for circuit in (2..500).step_by(2) {
        write(&mut near, &frame(circuit, b"last words")).await;
        near.circuit_over(circuit);
        assert_eq!(next(&mut far).await, (circuit, b"last words".to_vec()));
        // What comes late goes nowhere.
        write(&mut far, &frame(circuit, b"late")).await;
        idle(&mut near).await;
    }
    soon(async {
        while far.circuits.len() > 1 || near.circuits.len() > 1 {
            idle(&mut far).await;
            idle(&mut near).await;
        }
    })
    .await;
    assert_eq!((far.unsent_bytes, near.unsent_bytes), (0, 0));
    assert_eq!((far.readers.len(), near.readers.len()), (1, 1));
    write(&mut near, &frame(0, b"end")).await;
    assert_eq!(next(&mut far).await, (0, b"end".to_vec()));
    write(&mut far, &frame(0, b"end")).await;
    assert_eq!(next(&mut near).await, (0, b"end".to_vec()));
}

#[tokio::test]
async fn data_does_not_overtake_what_announces_its_circuit() {
    let (near, mut far) = pair().await;
    // A stream whose prefix asks for more of circuit 0 than has come.
    let (mut send, _recv) = near.connection.open_bi().await.unwrap();
    let before = near.link_written + 13;
    send.write_all(&before.to_be_bytes()).await.unwrap();
    send.write_all(&frame(2, b"data")).await.unwrap();
    let mut early = [0; 1];
    let reading = tokio::time::timeout(Duration::from_millis(200), far.read(&mut early));
    assert!(reading.await.is_err(), "it waits");
    let mut near = near;
    write(&mut near, &frame(0, b"open!")).await;
    assert_eq!(next(&mut far).await, (0, b"open!".to_vec()));
    assert_eq!(next(&mut far).await, (2, b"data".to_vec()));
}

#[tokio::test]
async fn a_frame_that_is_held_up_stalls_no_other_circuit() {
    let (mut near, mut far) = pair().await;
    // The rest of it is missing, as when a packet was lost.
    let held_up = frame(2, &[1; 16_000]);
    let (mut send, _recv) = near.connection.open_bi().await.unwrap();
    send.write_all(&near.link_written.to_be_bytes())
        .await
        .unwrap();
    send.write_all(&held_up[..9_000]).await.unwrap();
    for n in 0..200_u32 {
        let bytes = vec![n as u8; 10_000];
        write(&mut near, &frame(4, &bytes)).await;
        assert_eq!(next(&mut far).await, (4, bytes));
    }
    assert_eq!(far.held.load(std::sync::atomic::Ordering::Relaxed), 9_000);
    send.write_all(&held_up[9_000..]).await.unwrap();
    assert_eq!(next(&mut far).await, (2, vec![1; 16_000]));
}

#[tokio::test]
async fn the_last_words_arrive_before_the_end() {
    let (mut near, mut far) = pair().await;
    write(&mut near, &frame(0, &[7; 9_000])).await;
    soon(near.shutdown()).await.unwrap();
    drop(near);
    assert_eq!(next(&mut far).await, (0, vec![7; 9_000]));
    assert_eq!(end(&mut far).await, None);
}

#[tokio::test]
async fn a_link_whose_reader_rests_takes_no_more_than_its_bound() {
    let (mut near, far) = pair().await;
    let big = frame(2, &[1; 16_000]);
    let mut n = 0;
    let filling = async {
        loop {
            near.write_all(&big).await.unwrap();
            n += big.len();
        }
    };
    let filled = tokio::time::timeout(Duration::from_secs(1), filling).await;
    assert!(filled.is_err());
    let most = crate::limits::QUIC_STREAM_WINDOW as usize
        + crate::limits::QUIC_SEND_WINDOW as usize
        + QUIC_UNSENT_MAX;
    assert!(n > 1 << 20 && n < most + (1 << 20), "{n}");
    assert!(near.unsent_bytes <= QUIC_UNSENT_MAX + big.len());
    drop(far);
}

/// Each row: what is written on a new stream of an endpoint.
#[tokio::test]
async fn who_breaks_the_rules_of_streams_loses_the_link() {
    let prefixed = |frames: Vec<u8>| [&0_u64.to_be_bytes()[..], &frames].concat();
    for (what, bytes) in [
        ("circuit 0 again", prefixed(frame(0, b"x"))),
        ("an id of the relay's", prefixed(frame(1, b"x"))),
        (
            "another circuit's frame",
            prefixed([frame(2, b"x"), frame(4, b"x")].concat()),
        ),
        (
            "an unknown frame",
            prefixed([frame(2, b"x"), vec![9; 8]].concat()),
        ),
        ("garbage", vec![0xee; 64]),
    ] {
        let (near, mut far) = pair().await;
        let (mut send, _recv) = near.connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        assert_eq!(
            end(&mut far).await,
            Some(io::ErrorKind::InvalidData),
            "{what}"
        );
    }
    // A second stream for a circuit.
    let (near, mut far) = pair().await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (mut send, recv) = near.connection.open_bi().await.unwrap();
        send.write_all(&prefixed(frame(2, b"x"))).await.unwrap();
        streams.push((send, recv));
    }
    assert_eq!(end(&mut far).await, Some(io::ErrorKind::InvalidData));
}

#[tokio::test]
async fn who_is_not_authenticated_has_one_stream() {
    let server = quinn::Endpoint::server(server_config(tls_server()).unwrap(), LOCALHOST).unwrap();
    let address = server.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        QuicLink::accepted(connection).await.unwrap()
    });
    let mut near = connect(tls_client(), "relay", address).await.unwrap();
    write(&mut near, &frame(0, b"hello")).await;
    let mut far = accepting.await.unwrap();
    let second = near.connection.open_bi();
    let waits = tokio::time::timeout(Duration::from_millis(200), second).await;
    assert!(waits.is_err());
    far.authenticated(1);
    assert!(soon(near.connection.open_bi()).await.is_ok());
    assert_eq!(next(&mut far).await, (0, b"hello".to_vec()));
}

// --- datagrams -------------------------------------------------------------------

fn n_datagrams(link: &QuicLink) -> (u64, u64) {
    let stats = link.connection.stats();
    (stats.frame_tx.datagram, stats.frame_rx.datagram)
}

#[tokio::test]
async fn datagrams_need_no_stream_and_overtake_what_is_held_up() {
    let (mut near, mut far) = pair().await;
    write(&mut near, &datagram(2, b"early")).await;
    assert_eq!(next_datagram(&mut far).await, b"early");
    assert_eq!(far.circuits.len(), 1);
    // The stream of their circuit is stuck, and so full that it takes no more.
    let held_up = frame(2, &[1; 16_000]);
    let filling = async {
        loop {
            near.write_all(&held_up).await.unwrap();
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), filling)
            .await
            .is_err()
    );
    assert!(near.is_full());
    soon(near.write_all(&datagram(2, b"late"))).await.unwrap();
    soon(async {
        while n_datagrams(&far).1 < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    // By turns: at most what was read of the stream at once comes before it.
    let mut n_before = 0;
    while next_frame(&mut far).await.0.kind == FrameKind::Data {
        n_before += 1;
    }
    assert!(n_before <= 2, "{n_before}");
    assert_eq!((n_datagrams(&near).0, n_datagrams(&far).1), (2, 2));
}

#[tokio::test]
async fn a_datagram_that_the_path_does_not_take_goes_on_its_circuits_stream() {
    let mut config = server_config(tls_server()).unwrap();
    let mut transport = quinn::TransportConfig::default();
    transport.datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(transport));
    let (mut near, mut far) = pair_by(config).await;
    write(&mut near, &[frame(2, b"one"), datagram(2, b"two")].concat()).await;
    assert_eq!(next(&mut far).await, (2, b"one".to_vec()));
    assert_eq!(next_datagram(&mut far).await, b"two");
    assert_eq!(n_datagrams(&near).0, 0);
}

#[tokio::test]
async fn datagrams_that_the_path_is_too_slow_for_are_dropped_and_counted() {
    let (mut near, mut far) = pair().await;
    let many = datagram(2, &[5; 1_000]).repeat(300);
    // At once: nothing can leave meanwhile.
    soon(near.write_all(&many)).await.unwrap();
    let n_dropped = near.take_dropped_datagrams();
    let n_kept = (crate::limits::QUIC_DATAGRAMS_MAX / 1_000) as u64;
    assert!(n_dropped < 300 && n_dropped >= 300 - n_kept, "{n_dropped}");
    assert_eq!(near.take_dropped_datagrams(), 0);
    // Streams do not notice.
    write(&mut near, &frame(2, b"data")).await;
    while next_frame(&mut far).await.0.kind == FrameKind::Datagram {}
}

#[tokio::test]
async fn datagrams_of_a_circuit_that_is_over_go_nowhere() {
    let (mut near, mut far) = pair().await;
    near.circuit_over(2);
    far.circuit_over(4);
    write(&mut near, &[datagram(2, b"x"), datagram(4, b"y")].concat()).await;
    write(&mut near, &frame(0, b"end")).await;
    assert_eq!(next(&mut far).await, (0, b"end".to_vec()));
    write(&mut near, &datagram(6, b"z")).await;
    assert_eq!(next(&mut far).await, (6, b"z".to_vec()));
}

/// Each row: what is in a QUIC datagram.
#[tokio::test]
async fn who_sends_other_datagrams_loses_the_link() {
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("half a header", vec![2, 0, 0, 1]),
        ("DATA", frame(2, b"x")),
        ("two frames", datagram(2, b"x").repeat(2)),
        ("half a frame", datagram(2, b"xyz")[..10].to_vec()),
        ("a reserved type", vec![9; 8]),
        ("garbage", vec![0xee; 64]),
    ] {
        let (near, mut far) = pair().await;
        near.connection.send_datagram(bytes.into()).unwrap();
        let end = end(&mut far).await;
        assert_eq!(end, Some(io::ErrorKind::InvalidData), "{what}");
    }
}
