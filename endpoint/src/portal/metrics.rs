//! Counters of the portals. Labels have fixed values: never one per device,
//! never a word that a peer chose.

use fairway_daemon::Registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Which side called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Direction {
    /// A peer called a local app.
    Inbound,
    /// A local app called a peer.
    Outbound,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// Policy allowed it.
    Allowed,
    /// Policy said no.
    Denied,
    /// It was allowed, or not decided, and could not be done.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    direction: Direction,
    decision: Outcome,
}

/// Handles to the portals' metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PortalMetrics {
    connections: Family<Labels, Counter>,
    requests: Family<Labels, Counter>,
    from_peers: Counter,
    to_peers: Counter,
}

impl PortalMetrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "fairway_connections",
            "Connections of local apps, by direction and decision",
            metrics.connections.clone(),
        );
        registry.register(
            "fairway_http_requests",
            "HTTP requests decided one by one",
            metrics.requests.clone(),
        );
        registry.register(
            "fairway_received_bytes",
            "Plaintext bytes from peers to local apps",
            metrics.from_peers.clone(),
        );
        registry.register(
            "fairway_sent_bytes",
            "Plaintext bytes from local apps to peers",
            metrics.to_peers.clone(),
        );
        metrics
    }

    pub(crate) fn count(&self, direction: Direction, decision: Outcome) {
        self.connections
            .get_or_create(&Labels {
                direction,
                decision,
            })
            .inc();
    }

    pub(crate) fn count_request(&self, decision: Outcome) {
        self.requests
            .get_or_create(&Labels {
                direction: Direction::Inbound,
                decision,
            })
            .inc();
    }

    pub(crate) fn bytes(&self, from_peer: u64, to_peer: u64) {
        self.from_peers.inc_by(from_peer);
        self.to_peers.inc_by(to_peer);
    }
}

impl Direction {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}
