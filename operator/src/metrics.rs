//! What the operator counts. No label ever names an object.

use fairway_daemon::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Handles to all metrics; a clone is the same metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    admissions: Family<Admission, Counter>,
    reconciles: Family<Reconcile, Counter>,
    /// 1 while this replica leads.
    pub leader: Gauge,
    /// When the certificate that is served ends, in seconds since the epoch.
    pub certificate_expires: Gauge,
    /// Pods that should have a sidecar and have none, at the last look.
    pub pods_without_sidecar: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Admission {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: &'static str,
    result: &'static str,
}

impl Metrics {
    /// Makes the metrics known to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "fairway_operator_admissions",
            "Pods that were sent to the injector",
            metrics.admissions.clone(),
        );
        registry.register(
            "fairway_operator_reconciles",
            "Reconciles by kind and result",
            metrics.reconciles.clone(),
        );
        registry.register(
            "fairway_operator_leader",
            "1 while this replica leads",
            metrics.leader.clone(),
        );
        registry.register(
            "fairway_operator_webhook_certificate_expires_seconds",
            "End of the webhook's certificate, in seconds since 1970",
            metrics.certificate_expires.clone(),
        );
        registry.register(
            "fairway_operator_pods_without_sidecar",
            "Pods that should have a sidecar and have none",
            metrics.pods_without_sidecar.clone(),
        );
        metrics
    }

    /// One more pod was sent to the injector.
    pub fn admitted(&self, outcome: &'static str, reason: &'static str) {
        self.admissions
            .get_or_create(&Admission { outcome, reason })
            .inc();
    }

    /// One more reconcile ended.
    pub fn reconciled(&self, kind: &'static str, result: &'static str) {
        self.reconciles
            .get_or_create(&Reconcile { kind, result })
            .inc();
    }
}
