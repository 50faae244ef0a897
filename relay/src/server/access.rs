//! The access log: one line for each link and each circuit.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fairway_control::Reason;
use fairway_identity::Address;

use super::link::Link;
use super::metrics::{Metrics, ReasonLabel};
use crate::core::{CircuitRecord, LinkId};

/// A link is over; `peer` is `None` when it was never authenticated.
pub(super) fn link_ended(
    metrics: &Metrics,
    link: &Link,
    peer: Option<&str>,
    duration: Duration,
    why: &Reason,
) {
    let bytes_in = link.bytes_in.load(Ordering::Relaxed);
    let bytes_out = link.bytes_out.load(Ordering::Relaxed);
    let label = ReasonLabel::new(why.word());
    let Some(peer) = peer else {
        metrics.links_failed.get_or_create(&label).inc();
        // Anybody can make these: not in the log by default.
        tracing::debug!(
            event = "link-failed",
            remote = %link.remote,
            transport = %link.transport,
            bytes_in,
            bytes_out,
            duration_ms = millis(duration),
            reason = why.word(),
            text = why.text(),
        );
        return;
    };
    metrics.links_ended.get_or_create(&label).inc();
    tracing::info!(
        event = "connection",
        kind = "link",
        link = link.seq,
        peer,
        remote = %link.remote,
        transport = %link.transport,
        bytes_in,
        bytes_out,
        duration_ms = millis(duration),
        reason = why.word(),
        text = why.text(),
    );
}

/// A connection was closed at once.
pub(super) fn connection_refused(metrics: &Metrics, remote: SocketAddr, why: &Reason) {
    let label = ReasonLabel::new(why.word());
    metrics.connections_refused.get_or_create(&label).inc();
    tracing::debug!(
        event = "connection-refused",
        %remote,
        reason = why.word(),
        text = why.text(),
    );
}

/// A circuit is over.
pub(super) fn circuit_ended(metrics: &Metrics, record: &CircuitRecord) {
    let label = ReasonLabel::new(record.reason.word());
    metrics.circuits_ended.get_or_create(&label).inc();
    tracing::info!(
        event = "connection",
        kind = "circuit",
        peer = record.peer,
        destination = %record.destination,
        decision = "allow",
        from_link = record.opener.number(),
        to_link = record.callee.number(),
        bytes_in = record.bytes_in,
        bytes_out = record.bytes_out,
        duration_ms = millis(record.duration),
        reason = record.reason.word(),
        text = record.reason.text(),
    );
}

/// A circuit was refused.
pub(super) fn circuit_refused(
    metrics: &Metrics,
    link: LinkId,
    destination: &Address,
    why: &Reason,
) {
    let label = ReasonLabel::new(why.word());
    metrics.circuits_refused.get_or_create(&label).inc();
    tracing::debug!(
        event = "circuit-refused",
        from_link = link.number(),
        destination = %destination,
        decision = "deny",
        reason = why.word(),
        text = why.text(),
    );
}

/// A registration was refused.
pub(super) fn name_refused(metrics: &Metrics, link: LinkId, name: &Address, why: &Reason) {
    let label = ReasonLabel::new(why.word());
    metrics.names_refused.get_or_create(&label).inc();
    tracing::warn!(
        event = "name-refused",
        from_link = link.number(),
        name = %name,
        reason = why.word(),
        text = why.text(),
    );
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
