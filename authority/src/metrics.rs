//! What the authority counts. Never a label per endpoint.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    watches: Family<KindLabels, Gauge>,
    connections_refused: Counter,
    trust_set: Gauge,
    revocations: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    request: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

impl Metrics {
    /// Registers all of them; `events_dropped` is counted elsewhere.
    pub fn register(&self, registry: &mut Registry, events_dropped: Counter) {
        registry.register(
            "fairway_authority_requests",
            "Requests by kind and result: ok, or the reason of the refusal",
            self.requests.clone(),
        );
        registry.register(
            "fairway_authority_watches",
            "Endpoints that are being told what concerns them, by kind",
            self.watches.clone(),
        );
        registry.register(
            "fairway_authority_connections_refused",
            "Connections of the front that were refused because there were too many",
            self.connections_refused.clone(),
        );
        registry.register(
            "fairway_authority_trust_set_version",
            "Version of the trust set that is handed out",
            self.trust_set.clone(),
        );
        registry.register(
            "fairway_authority_revocations",
            "Entries of the record of revocations",
            self.revocations.clone(),
        );
        registry.register(
            "fairway_authority_events_dropped",
            "Kubernetes events that were not written because too many were waiting",
            events_dropped,
        );
    }

    /// A request was answered.
    pub fn request(&self, request: &'static str, result: &'static str) {
        self.requests
            .get_or_create(&RequestLabels { request, result })
            .inc();
    }

    /// A watch began; it is counted until the value is dropped.
    pub fn watch(&self, kind: &'static str) -> WatchGuard {
        let gauge = self.watches.get_or_create_owned(&KindLabels { kind });
        gauge.inc();
        WatchGuard(gauge)
    }

    /// A connection was refused.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// The trust set has this version.
    pub fn trust_set(&self, version: u64) {
        self.trust_set
            .set(i64::try_from(version).unwrap_or(i64::MAX));
    }

    /// The record has so many entries.
    pub fn revocations(&self, entries: usize) {
        self.revocations
            .set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}

/// Counts a watch while it lives.
#[derive(Debug)]
pub struct WatchGuard(Gauge);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
