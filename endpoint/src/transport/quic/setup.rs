//! QUIC connections for links: limits, timers, and dialling.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, IdleTimeout, TransportConfig, VarInt};

use super::QuicLink;
use crate::limits::{
    CIRCUITS_PER_LINK_MAX, QUIC_DATAGRAMS_MAX, QUIC_HALF_OPEN_WINDOW, QUIC_IDLE,
    QUIC_INCOMING_BUFFER, QUIC_INCOMING_BUFFER_ALL, QUIC_INCOMING_MAX, QUIC_KEEPALIVE,
    QUIC_RECEIVE_WINDOW, QUIC_SEND_WINDOW, QUIC_STREAM_WINDOW,
};
use crate::transport::connect::ConnectError;

/// How a relay takes QUIC connections: until the other end has shown who it
/// is, it may have one stream and a small window.
///
/// # Errors
///
/// The TLS configuration is not one for QUIC.
pub fn server_config(
    tls: rustls::ServerConfig,
) -> Result<quinn::ServerConfig, quinn::crypto::rustls::NoInitialCipherSuite> {
    let crypto = QuicServerConfig::try_from(tls)?;
    let mut transport = transport_config();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(QUIC_HALF_OPEN_WINDOW));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport))
        // A device whose address changes keeps its link.
        .migration(true)
        .max_incoming(QUIC_INCOMING_MAX)
        .incoming_buffer_size(QUIC_INCOMING_BUFFER)
        .incoming_buffer_size_total(QUIC_INCOMING_BUFFER_ALL);
    Ok(config)
}

fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(QUIC_STREAM_WINDOW))
        .send_window(QUIC_SEND_WINDOW)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(millis(QUIC_IDLE)))))
        // Loss on a radio is not congestion: at 20 % of loss CUBIC hardly moves.
        .congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()))
        .datagram_receive_buffer_size(Some(QUIC_DATAGRAMS_MAX))
        .datagram_send_buffer_size(QUIC_DATAGRAMS_MAX);
    config
}

const fn millis(duration: Duration) -> u32 {
    duration.as_secs() as u32 * 1_000
}

/// Dials a relay.
pub(in crate::transport) async fn connect(
    tls: rustls::ClientConfig,
    host: &str,
    address: SocketAddr,
) -> Result<QuicLink, ConnectError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(ConnectError::quic)?;
    let mut transport = transport_config();
    let n_circuits = u32::try_from(CIRCUITS_PER_LINK_MAX).unwrap_or(u32::MAX);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(n_circuits))
        .receive_window(VarInt::from_u32(QUIC_RECEIVE_WINDOW))
        // Address translation forgets UDP soon.
        .keep_alive_interval(Some(QUIC_KEEPALIVE));
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A socket for each link: it goes with the link, and a new link finds a new
    // way through whatever translates addresses.
    let endpoint = Endpoint::client(local)?;
    let connecting = endpoint
        .connect_with(config, address, host)
        .map_err(ConnectError::quic)?;
    let connection = connecting.await.map_err(ConnectError::quic)?;
    QuicLink::dialled(connection)
        .await
        .map_err(ConnectError::quic)
}
