//! Counters of the runtime. Never a label per device.

use fairway_daemon::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// Handles to the endpoint's metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) links: Gauge,
    pub(crate) link_failures: Counter,
    pub(crate) sessions: Gauge,
    pub(crate) sessions_opened: Counter,
    pub(crate) sessions_failed: Counter,
    pub(crate) sessions_moved: Counter,
    pub(crate) streams: Gauge,
    pub(crate) streams_refused: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) datagrams_dropped: Counter,
    pub(crate) stream_datagrams_dropped: Counter,
    pub(crate) renewals: Counter,
    pub(crate) renewal_failures: Counter,
    pub(crate) credential_expiry: Gauge,
    pub(crate) updates: Counter,
    pub(crate) half_open_refused: Counter,
}

impl Metrics {
    /// Makes the metrics and registers them under the prefix `fairway_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = &metrics;
        for (name, help, gauge) in [
            ("fairway_links", "Links that are up", &m.links),
            ("fairway_sessions", "Sessions with peers", &m.sessions),
            ("fairway_streams", "Open streams", &m.streams),
            (
                "fairway_credential_expiry_seconds",
                "Unix time at which the credential expires",
                &m.credential_expiry,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            (
                "fairway_link_failures",
                "Links that failed or could not be made",
                &m.link_failures,
            ),
            (
                "fairway_sessions_opened",
                "Sessions established",
                &m.sessions_opened,
            ),
            (
                "fairway_sessions_failed",
                "Sessions that ended before they were established",
                &m.sessions_failed,
            ),
            (
                "fairway_sessions_moved",
                "Times that a session went on over another circuit",
                &m.sessions_moved,
            ),
            (
                "fairway_streams_refused",
                "Incoming streams refused",
                &m.streams_refused,
            ),
            (
                "fairway_link_received_bytes",
                "Bytes read from links",
                &m.bytes_received,
            ),
            (
                "fairway_link_sent_bytes",
                "Bytes written to links",
                &m.bytes_sent,
            ),
            (
                "fairway_link_datagrams_dropped",
                "Datagrams thrown away because their link was slower",
                &m.datagrams_dropped,
            ),
            (
                "fairway_stream_datagrams_dropped",
                "Datagrams thrown away because the user of their stream did not take them",
                &m.stream_datagrams_dropped,
            ),
            ("fairway_renewals", "Credentials obtained", &m.renewals),
            (
                "fairway_renewal_failures",
                "Attempts to obtain a credential that failed",
                &m.renewal_failures,
            ),
            (
                "fairway_updates",
                "Updates applied from the authority",
                &m.updates,
            ),
            (
                "fairway_half_open_refused",
                "Accepted connections closed because too many were unauthenticated",
                &m.half_open_refused,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        metrics
    }
}
