//! A running device: an endpoint with the device's identity and its portals.

use std::sync::Arc;

use fairway_daemon::Drain;
use fairway_endpoint::portal::{Delivery, Inlet, InletError, Others, Outlet, PortalMetrics, Proxy};
use fairway_endpoint::{
    ClockSource, CredentialSource, Endpoint, EndpointConfig, Metrics, OpenError, RelayUse,
    StartError, Status, Stream,
};
use fairway_identity::{Address, Destination};
use fairway_session::OpenRequest;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::{ClockConfig, Config, ConfigError, StateDir, StateError};

/// Incoming streams that wait for a task; beyond it the endpoint refuses.
const INCOMING: usize = 64;

/// Why a device could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It has not joined.
    #[error(
        "this device has not joined yet; run fairway-device join TICKET first (kubectl fairway ticket makes one)"
    )]
    NotJoined,
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The endpoint did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An inlet cannot be.
    #[error(transparent)]
    Inlet(#[from] InletError),
    /// The proxy's port is taken.
    #[error("the proxy cannot listen on {address}: is another process using it?")]
    Proxy {
        /// What was asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A device that runs. It ends with [`close`](Self::close).
#[derive(Debug)]
pub struct Device {
    endpoint: Endpoint,
    drain: Drain,
}

impl Device {
    /// Starts with what `state` and `config` say, and returns at once: links
    /// and credential come by themselves, and come back when they are lost.
    ///
    /// # Errors
    /// The device has not joined, or a local port is taken.
    pub async fn start(state: &Arc<StateDir>, config: Config) -> Result<Self, RunError> {
        Self::start_with(
            state,
            config,
            Metrics::default(),
            PortalMetrics::default(),
            Drain::new(),
        )
        .await
    }

    /// As [`start`](Self::start), with counters and a drain of the caller's.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        state: &Arc<StateDir>,
        config: Config,
        metrics: Metrics,
        portal_metrics: PortalMetrics,
        drain: Drain,
    ) -> Result<Self, RunError> {
        let (incoming, accepted) = mpsc::channel(INCOMING);
        let inlets = config.inlet_specs()?;
        let mut settings = settings(state, &config)?;
        settings.metrics = metrics;
        settings.incoming = Some(incoming);
        let endpoint = Endpoint::start(settings).await?;
        let outlet = Outlet::new(
            Delivery::Device {
                services: config.local_addresses(),
            },
            portal_metrics.clone(),
        );
        tokio::spawn(outlet.serve(accepted, drain.clone()));
        for spec in &inlets {
            let inlet = Inlet::bind(spec, endpoint.clone(), portal_metrics.clone()).await?;
            tokio::spawn(inlet.serve(drain.clone()));
        }
        if let Some(address) = config.proxy {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|source| RunError::Proxy { address, source })?;
            tokio::spawn(
                Proxy::new(endpoint.clone(), portal_metrics, Others::Refuse)
                    .serve(listener, drain.clone()),
            );
        }
        Ok(Self { endpoint, drain })
    }

    /// Calls a Service of the cluster.
    ///
    /// # Errors
    /// Says who refused, or what was waited for in vain.
    pub async fn open(&self, to: &Destination) -> Result<Stream, OpenError> {
        self.endpoint
            .open(&to.address, OpenRequest::port(to.port))
            .await
    }

    /// What there is right now.
    pub fn status(&self) -> Status {
        self.endpoint.status()
    }

    /// The endpoint beneath.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Ends all sessions and local connections.
    pub async fn close(self) {
        self.drain.stop();
        self.endpoint.close().await;
    }
}

fn settings(state: &Arc<StateDir>, config: &Config) -> Result<EndpointConfig, RunError> {
    let enrolment = state.enrolment()?.ok_or(RunError::NotJoined)?;
    let mut settings = EndpointConfig::new(enrolment.trust_domain, enrolment.root);
    settings.trust = state.trust_set(&enrolment.root);
    settings.saved = state.credential();
    settings.credential = CredentialSource::Device {
        namespace: enrolment.namespace.clone(),
        name: enrolment.name.clone(),
        key: Arc::new(state.key()?),
    };
    settings.relays = config.relay_addresses()?;
    settings.relays_fixed = !settings.relays.is_empty();
    if !settings.relays_fixed {
        settings.relays = enrolment.relays;
    }
    settings.links = config.link_options()?;
    settings.relay_use = RelayUse::One;
    settings.names = vec![Address::Device {
        namespace: enrolment.namespace,
        name: enrolment.name,
    }];
    settings.services = config
        .services
        .iter()
        .map(|service| (service.port, service.name.clone()))
        .collect();
    settings.clock = match config.clock {
        ClockConfig::Authority => ClockSource::Unknown {
            floor: state.time_floor(),
        },
        ClockConfig::System => ClockSource::System,
    };
    settings.store = Some(Arc::clone(state) as _);
    Ok(settings)
}
