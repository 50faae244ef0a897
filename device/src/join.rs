//! Enrolment: a ticket becomes an identity of the device's own.

use std::sync::Arc;
use std::time::Duration;

use fairway_endpoint::{
    AuthorityClient, AuthorityError, ClockSource, Endpoint, EndpointConfig, Keep, OpenError,
    StartError, Store as _,
};
use fairway_identity::{Ed25519Key, Ticket, UnixSeconds};
use tokio::time::Instant;

use crate::{Config, ConfigError, Enrolment, StateDir, StateError};

/// How long to wait for an authority that is not at the relay yet.
const PATIENCE: Duration = Duration::from_secs(15);

/// The relay answers "not here" at once; asking again costs it a circuit.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Why a device could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The state directory already belongs to another identity.
    #[error(
        "this state directory belongs to {namespace}/{name} already; use another --state-dir, or remove it to join anew"
    )]
    AnotherDevice {
        /// Namespace of that identity.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was obtained could not be written.
    #[error(
        "enrolled, but the result could not be kept; make room and join again with the same ticket"
    )]
    Keep(#[source] std::io::Error),
    /// The endpoint did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The authority could not be reached or refused.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl JoinError {
    /// The machine-readable reason.
    pub fn reason(&self) -> String {
        match self {
            Self::AnotherDevice { .. } => "another-device".to_owned(),
            Self::State(_) | Self::Keep(_) => "state-directory".to_owned(),
            Self::Config(_) => "config".to_owned(),
            Self::Start(_) => "start".to_owned(),
            Self::Authority(error) => error.reason().into_owned(),
        }
    }
}

/// Enrols this device: makes its key in `state`, proves the ticket to the
/// authority over one of the ticket's relays, and keeps what was issued.
///
/// Safe to repeat: with the same state directory it is the same enrolment.
///
/// # Errors
/// The directory has another identity, no relay was reached, or the authority
/// refused the ticket.
pub async fn join(state: &StateDir, ticket: &Ticket) -> Result<Enrolment, JoinError> {
    join_with(state, ticket, &Config::default()).await
}

/// The same, by the way to the relays that the config describes, if it does.
///
/// # Errors
/// As for [`join`], and where the config's way is not usable.
pub async fn join_with(
    state: &StateDir,
    ticket: &Ticket,
    settings: &Config,
) -> Result<Enrolment, JoinError> {
    let enrolment = Enrolment {
        trust_domain: ticket.trust_domain().clone(),
        namespace: ticket.namespace().clone(),
        name: ticket.device().clone(),
        root: *ticket.root(),
        relays: ticket.relays().to_vec(),
    };
    if let Some(present) = state.enrolment()? {
        let same = (
            &present.trust_domain,
            &present.namespace,
            &present.name,
            &present.root,
        ) == (
            &enrolment.trust_domain,
            &enrolment.namespace,
            &enrolment.name,
            &enrolment.root,
        );
        if !same {
            return Err(JoinError::AnotherDevice {
                namespace: present.namespace.to_string(),
                name: present.name.to_string(),
            });
        }
    }
    let key = state.key()?;
    let mut config = EndpointConfig::new(enrolment.trust_domain.clone(), enrolment.root);
    config.relays = settings.relay_addresses()?;
    if config.relays.is_empty() {
        config.relays.clone_from(&enrolment.relays);
    }
    config.links = settings.link_options()?;
    config.ticket = Some(Arc::new(Ed25519Key::from_seed(*ticket.key().seed())));
    config.clock = ClockSource::Unknown {
        floor: state.time_floor(),
    };
    let endpoint = Endpoint::start(config).await?;
    let result = enroll(state, &endpoint, ticket, &key).await;
    endpoint.close().await;
    result?;
    // Last: a directory that says who it is has everything else.
    state.set_enrolment(&enrolment)?;
    Ok(enrolment)
}

/// The time, as soon as the authority can be called: right after an
/// installation or an upgrade the relay is there before the authority has
/// registered at it.
async fn first_answer(authority: &AuthorityClient) -> Result<UnixSeconds, AuthorityError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match authority.time().await {
            Err(AuthorityError::Unreachable(OpenError::NotHere { .. }))
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            answer => return answer,
        }
    }
}

async fn enroll(
    state: &StateDir,
    endpoint: &Endpoint,
    ticket: &Ticket,
    key: &fairway_identity::Ed25519Key,
) -> Result<(), JoinError> {
    let authority = endpoint.authority();
    let now = first_answer(&authority).await?;
    let issued = authority.enroll(ticket, key).await?;
    for what in [
        Keep::TimeFloor(now),
        Keep::TrustSet(issued.trust),
        Keep::Credential(issued.credential),
    ] {
        state.keep(&what).map_err(JoinError::Keep)?;
    }
    Ok(())
}
