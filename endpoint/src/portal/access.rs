//! One log line a connection: who, whom, which policy, how much, how long, why.

use std::borrow::Cow;
use std::time::Instant;

use super::metrics::{Direction, Outcome, PortalMetrics};

/// A connection in progress; [`end`](Self::end) writes its line.
#[derive(Debug)]
pub(crate) struct Connection {
    metrics: PortalMetrics,
    direction: Direction,
    peer: Option<String>,
    destination: String,
    port: u16,
    policy: Option<String>,
    started: Instant,
}

/// How a connection, or one HTTP request, ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Machine-readable, kebab-case.
    pub(crate) reason: Cow<'static, str>,
    /// For people; empty when the reason says all.
    pub(crate) detail: String,
    pub(crate) from_peer: u64,
    pub(crate) to_peer: u64,
}

impl Connection {
    pub(crate) fn start(
        metrics: &PortalMetrics,
        direction: Direction,
        destination: String,
        port: u16,
    ) -> Self {
        let (metrics, started) = (metrics.clone(), Instant::now());
        Self {
            metrics,
            direction,
            peer: None,
            destination,
            port,
            policy: None,
            started,
        }
    }

    pub(crate) fn peer(&mut self, peer: impl ToString) {
        self.peer = Some(peer.to_string());
    }

    pub(crate) fn policy(&mut self, policy: Option<impl ToString>) {
        self.policy = policy.map(|policy| policy.to_string());
    }

    pub(crate) fn end(self, end: &End) {
        self.metrics.count(self.direction, end.outcome);
        self.metrics.bytes(end.from_peer, end.to_peer);
        tracing::info!(
            event = "connection",
            direction = self.direction.as_str(),
            peer = self.peer.as_deref().unwrap_or("-"),
            destination = %self.destination,
            port = self.port,
            policy = self.policy.as_deref().unwrap_or("-"),
            decision = end.outcome.as_str(),
            bytes_in = end.from_peer,
            bytes_out = end.to_peer,
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            reason = %end.reason,
            detail = %end.detail,
        );
    }
}

impl End {
    /// Nothing flowed.
    pub(crate) fn without_bytes(
        outcome: Outcome,
        reason: impl Into<Cow<'static, str>>,
        detail: impl ToString,
    ) -> Self {
        Self {
            outcome,
            reason: reason.into(),
            detail: detail.to_string(),
            from_peer: 0,
            to_peer: 0,
        }
    }
}
