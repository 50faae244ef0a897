//! Metrics of the relay. Never a label per device.

use fairway_daemon::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::core::Class;

/// Handles to the relay's metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) links: Family<ClassLabel, Gauge>,
    pub(super) circuits: Family<ClassLabel, Gauge>,
    pub(super) names: Gauge,
    pub(super) half_open: Gauge,
    pub(super) queued_bytes: Gauge,
    pub(super) links_accepted: Counter,
    pub(super) quic_retries: Counter,
    pub(super) connections_refused: Family<ReasonLabel, Counter>,
    pub(super) links_failed: Family<ReasonLabel, Counter>,
    pub(super) links_ended: Family<ReasonLabel, Counter>,
    pub(super) circuits_ended: Family<ReasonLabel, Counter>,
    pub(super) circuits_refused: Family<ReasonLabel, Counter>,
    pub(super) names_refused: Family<ReasonLabel, Counter>,
    pub(super) bytes_received: Counter,
    pub(super) bytes_sent: Counter,
    pub(super) runs_dropped: Counter,
    pub(super) datagrams_dropped: Counter,
}

/// A kind of peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ClassLabel {
    class: &'static str,
}

/// One of a known set of reasons.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    reason: &'static str,
}

impl ClassLabel {
    pub(super) fn new(class: Class) -> Self {
        let class = class.name();
        Self { class }
    }
}

impl ReasonLabel {
    /// A word that is not known counts as `other`: peers choose words, and
    /// must not be able to make time series.
    pub(super) fn new(word: &str) -> Self {
        let known = KNOWN_REASONS.iter().find(|known| **known == word);
        Self {
            reason: known.copied().unwrap_or("other"),
        }
    }
}

const KNOWN_REASONS: &[&str] = &[
    "authority-only",
    "cancelled",
    "credential-expired",
    "credential-refused",
    "credit-overrun",
    "done",
    "draining",
    "forbidden",
    "handshake-failed",
    "handshake-timeout",
    "idle-timeout",
    "link-lost",
    "malformed",
    "moved",
    "name-mismatch",
    "name-not-yours",
    "not-here",
    "other-instance",
    "overloaded",
    "peer-unreachable",
    "policy-denied",
    "protocol-violation",
    "revoked",
    "shutdown",
    "trust-refused",
    "unknown-session",
];

impl Metrics {
    /// Makes the metrics and registers them under the prefix `fairway_relay_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = &metrics;
        let registry = registry.sub_registry_with_prefix("fairway_relay");
        registry.register("links", "Links that are up", m.links.clone());
        registry.register(
            "circuits",
            "Open circuits, by who opened them",
            m.circuits.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed at once, before a handshake",
            m.connections_refused.clone(),
        );
        registry.register(
            "links_failed",
            "Links that ended before they were authenticated",
            m.links_failed.clone(),
        );
        registry.register("links_ended", "Links that ended", m.links_ended.clone());
        registry.register(
            "circuits_ended",
            "Circuits that ended",
            m.circuits_ended.clone(),
        );
        registry.register(
            "circuits_refused",
            "Circuits that were refused",
            m.circuits_refused.clone(),
        );
        registry.register(
            "names_refused",
            "Registrations that were refused",
            m.names_refused.clone(),
        );
        for (name, help, gauge) in [
            ("names", "Names that lead somewhere", &m.names),
            ("half_open_links", "Links in their handshake", &m.half_open),
            (
                "queued_bytes",
                "Bytes that wait for slow links",
                &m.queued_bytes,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            ("links_accepted", "Connections accepted", &m.links_accepted),
            (
                "quic_retries",
                "QUIC connections that had to show their address first",
                &m.quic_retries,
            ),
            ("received_bytes", "Bytes read from links", &m.bytes_received),
            ("sent_bytes", "Bytes written to links", &m.bytes_sent),
            (
                "dropped_runs",
                "Runs of frames dropped: their circuit was gone or overran",
                &m.runs_dropped,
            ),
            (
                "datagrams_dropped",
                "Datagrams thrown away because their link was slower",
                &m.datagrams_dropped,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_cannot_make_time_series() {
        assert_eq!(ReasonLabel::new("not-here").reason, "not-here");
        assert_eq!(ReasonLabel::new("made-up").reason, "other");
    }

    #[test]
    fn all_metrics_are_registered_under_one_prefix() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics
            .links
            .get_or_create(&ClassLabel::new(Class::Device))
            .set(3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains(r#"fairway_relay_links{class="device"} 3"#),
            "{text}"
        );
        assert!(
            text.lines()
                .all(|line| line.contains("fairway_relay_") || line == "# EOF")
        );
    }
}
