//! The watch: what the authority says, put in force, then acknowledged.

use std::sync::Arc;

use fairway_control::FrameReader;
use fairway_control::authority::Response;
use fairway_control::update::{Applied, State, Subscriber, Update};
use fairway_identity::{Address, VerifiedTrustSet};
use fairway_session::{Doors, OpenRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::exchange::{receive, send};
use super::{connect_locally, unexpected};
use crate::AuthorityError;
use crate::backoff::Backoff;
use crate::config::{CredentialSource, Keep};
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};
use crate::node::Node;

/// Watches until the endpoint closes. What was told stays in force while the
/// authority is away.
pub(crate) async fn keep_watching(node: Arc<Node>) {
    let mut subscriber = Subscriber::new();
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    loop {
        let mut identity = node.identity.subscribe();
        let credentialed = identity
            .wait_for(|identity| identity.is_credentialed())
            .await;
        let Ok(generation) = credentialed.map(|identity| identity.generation) else {
            return;
        };
        let watching = watch(&node, &mut subscriber, &mut backoff);
        let renewed = identity.wait_for(|identity| identity.generation != generation);
        tokio::select! {
            // A new credential: a new session, before the old one expires.
            _ = renewed => continue,
            error = watching => {
                node.note(|notes| notes.watching = false);
                tracing::info!(event = "watch", reason = %error.reason(), "watch ended: {error}");
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// One watch, to its end.
async fn watch(
    node: &Arc<Node>,
    subscriber: &mut Subscriber,
    backoff: &mut Backoff,
) -> AuthorityError {
    let result = match &node.source {
        CredentialSource::Front { socket } => match connect_locally(socket).await {
            Ok(mut stream) => follow(node, &mut stream, subscriber, backoff).await,
            Err(error) => Err(error),
        },
        CredentialSource::Anonymous
        | CredentialSource::Device { .. }
        | CredentialSource::Workload { .. } => {
            match node
                .open(&Address::Authority, OpenRequest::control(), None)
                .await
            {
                Ok(mut stream) => follow(node, &mut stream, subscriber, backoff).await,
                Err(error) => Err(error.into()),
            }
        }
    };
    match result {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn follow(
    node: &Arc<Node>,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    subscriber: &mut Subscriber,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, AuthorityError> {
    send(stream, &subscriber.request()).await?;
    let mut reader = FrameReader::new();
    loop {
        let update = match receive(stream, &mut reader).await? {
            Response::Update(update) => update,
            other => return Err(unexpected(&other)),
        };
        backoff.reset();
        let applied = apply(node, subscriber, &update)?;
        send(stream, &applied.ack).await?;
    }
}

/// Puts an update in force.
fn apply(
    node: &Arc<Node>,
    subscriber: &mut Subscriber,
    update: &Update,
) -> Result<Applied, AuthorityError> {
    let applied = subscriber
        .apply(update)
        .map_err(|e| AuthorityError::BadAnswer(e.to_string()))?;
    let (state, changed) = (subscriber.state(), applied.changed);
    if changed.trust_set {
        learn_trust(node, state);
    }
    if changed.services {
        tell_services(node, state);
    }
    if changed.policies || changed.revocations || changed.doors || changed.services {
        let doors = doors(node, state);
        node.update_rules(|rules| {
            rules.policy = Arc::new(state.policies.clone());
            rules.revoked = Arc::new(state.revocations.clone());
            rules.doors = Arc::new(doors);
        });
    }
    if changed.tickets {
        let tickets = Arc::new(state.tickets.clone());
        node.update_rules(|rules| rules.tickets = tickets);
    }
    if changed.names || changed.ready {
        node.set_names(&state.names, state.ready);
    }
    if changed.relays && !state.relays.is_empty() && !node.relays_fixed {
        node.relays.send_replace(state.relays.clone());
        node.keep(Keep::Relays(state.relays.clone()));
    }
    if changed.renew_issued_before {
        node.stale_before.send_replace(state.renew_issued_before);
    }
    node.told.send_replace(true);
    node.metrics.updates.inc();
    node.note(|notes| {
        notes.watching = true;
        notes.update_version = Some(update.version().to_string());
    });
    if let Some(problem) = &applied.ack.problem {
        tracing::error!(event = "update", version = %update.version(), reason = problem.word(), "part of an update cannot be read: {problem}");
    } else {
        tracing::info!(event = "update", version = %update.version(), ?changed, policies = state.policies.policies.len(), "update in force");
    }
    Ok(applied)
}

fn learn_trust(node: &Arc<Node>, state: &State) {
    if state.trust_set.is_empty() {
        return;
    }
    let floor = node.trust().map_or(0, |trust| trust.version());
    match VerifiedTrustSet::verify(&state.trust_set, &node.pin, floor) {
        Ok(trust) => node.learn_trust(trust),
        Err(error) => {
            tracing::error!(event = "trust-set", %error, "the authority sent a trust set that does not verify");
        }
    }
}

/// Says which services of the device's config are not offered.
fn tell_services(node: &Node, state: &State) {
    let refused = node.services_not_allowed(state.services.as_deref());
    if !refused.is_empty() {
        tracing::warn!(event = "services", services = %refused.join(", "), "not offered: spec.services of the DeviceIdentity does not name them");
    }
    node.note(|notes| notes.services_not_allowed = refused);
}

/// What is offered: a workload's Services by the authority, a device's
/// services by its own config, as far as the DeviceIdentity allows.
fn doors(node: &Node, state: &State) -> Doors {
    let mut doors = node.device_doors(state.services.as_deref());
    let Some(namespace) = node.namespace() else {
        return doors;
    };
    for door in &state.doors {
        let added = doors.add_service(
            namespace.clone(),
            door.service.clone(),
            door.port,
            door.target_port,
        );
        if added.is_err() {
            tracing::warn!(event = "doors", "more doors than an endpoint can have");
            break;
        }
    }
    doors
}
