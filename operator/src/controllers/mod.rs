//! The controllers. They run on the leader only.
//!
//! Each kind has a pure half, which says from an object and the time what its
//! conditions are, and a shell, which writes them where they have changed.
//! [`settle`](status::settle) is between the two.

pub mod device;
pub mod index;
pub mod pods;
pub mod policy;
mod run;
pub mod status;
pub mod ticket;

use std::sync::Arc;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};

use crate::metrics::Metrics;

/// What the controllers need.
#[derive(Clone)]
pub struct Controllers {
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
    trust_domain: String,
    ticket_retention: jiff::SignedDuration,
    system_namespaces: Vec<String>,
}

/// What the owner of a cluster may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain, for the identities in statuses.
    pub trust_domain: String,
    /// How long a ticket stays after it was used or has expired.
    pub ticket_retention: jiff::SignedDuration,
    /// Namespaces whose pods are never injected.
    pub system_namespaces: Vec<String>,
    /// This replica, as events name it.
    pub instance: String,
}

impl Controllers {
    /// Controllers that talk to one cluster.
    pub fn new(client: Client, metrics: Metrics, settings: Settings) -> Self {
        let reporter = Reporter {
            controller: crate::FIELD_MANAGER.to_owned(),
            instance: Some(settings.instance),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            metrics,
            trust_domain: settings.trust_domain,
            ticket_retention: settings.ticket_retention,
            system_namespaces: settings.system_namespaces,
        }
    }

    #[cfg(test)]
    fn for_tests(client: Client) -> Self {
        let settings = Settings {
            trust_domain: "fairway.local".to_owned(),
            ticket_retention: jiff::SignedDuration::from_hours(1),
            system_namespaces: vec!["kube-system".to_owned()],
            instance: "test".to_owned(),
        };
        Self::new(client, Metrics::default(), settings)
    }

    /// Runs all of them until the future is dropped.
    pub async fn run(&self) {
        let links = Arc::new(index::TicketLinks::default());
        tokio::join!(
            device::run(self.clone(), links.clone()),
            policy::run(self.clone()),
            ticket::run(self.clone(), links),
            pods::run(self.clone()),
        );
    }
}
