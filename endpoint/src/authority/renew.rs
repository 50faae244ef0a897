//! The credential that renews itself.

use std::sync::Arc;
use std::time::Duration;

use fairway_control::reason;
use fairway_identity::{Clock, UnixSeconds};
use fairway_session::{Refusal, code};

use super::{AuthorityClient, Issued};
use crate::AuthorityError;
use crate::backoff::{Backoff, jittered};
use crate::config::{CredentialSource, Keep, SavedCredential};
use crate::limits::{RENEW_BACKOFF_MAX, RENEW_BACKOFF_MIN, RENEW_INTERVAL_MIN};
use crate::node::Node;

/// Obtains a credential and renews it in time, until the endpoint closes.
pub(crate) async fn keep_credential(node: Arc<Node>) {
    let client = AuthorityClient { node: node.clone() };
    let mut backoff = Backoff::new(RENEW_BACKOFF_MIN, RENEW_BACKOFF_MAX);
    loop {
        wait_until_due(&node).await;
        let generation = node.identity.borrow().generation;
        match obtain(&client).await {
            Ok(Obtained::Credential(issued)) => {
                backoff.reset();
                take_into_use(&node, *issued);
                tokio::time::sleep(RENEW_INTERVAL_MIN).await;
            }
            Ok(Obtained::Time) => backoff.reset(),
            Ok(Obtained::Nothing) => return,
            Err(error) => {
                let wait = failed(&node, &error).max(backoff.next_wait());
                if let AuthorityError::Refused { reason, text, .. } = &error
                    && reason == reason::REVOKED
                {
                    let revoked = Refusal::new(code::REVOKED, text.clone());
                    node.credential_refused(generation, &revoked);
                    node.is_revoked.send_replace(true);
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// What was missing.
enum Obtained {
    Credential(Box<Issued>),
    /// With the time, the credential at hand may turn out to be good.
    Time,
    /// This endpoint has no means.
    Nothing,
}

/// By whatever means this endpoint has.
async fn obtain(client: &AuthorityClient) -> Result<Obtained, AuthorityError> {
    let node = &client.node;
    if !node.clock.is_set() && node.identity.borrow().is_credentialed() {
        client.time().await?;
        node.drop_if_expired();
        return Ok(Obtained::Time);
    }
    let issued = match &node.source {
        CredentialSource::Anonymous => return Ok(Obtained::Nothing),
        CredentialSource::Device {
            namespace,
            name,
            key,
        } => client.renew(namespace, name, &**key).await?,
        CredentialSource::Workload { token } => client.attest(token).await?,
        CredentialSource::Front { socket } => client.front_credential(socket).await?,
    };
    Ok(Obtained::Credential(Box::new(issued)))
}

fn take_into_use(node: &Arc<Node>, issued: Issued) {
    tracing::info!(
        event = "credential",
        expires = issued.credential.expires.0,
        renew_at = issued.credential.renew_at.0,
        "new credential"
    );
    node.metrics.renewals.inc();
    node.is_revoked.send_replace(false);
    node.note(|notes| notes.credential_error = None);
    node.learn_trust(issued.trust);
    node.set_credential(issued.credential.clone());
    node.keep(Keep::Credential(issued.credential));
    if let Clock::Trusted(now) = node.clock.clock() {
        node.keep(Keep::TimeFloor(now));
    }
}

/// Notes the failure; the answer is how long to wait at least.
fn failed(node: &Node, error: &AuthorityError) -> Duration {
    node.metrics.renewal_failures.inc();
    node.drop_if_expired();
    node.note(|notes| notes.credential_error = Some(format!("{error} ({})", error.reason())));
    tracing::warn!(event = "credential", reason = %error.reason(), error = %chain(error), "no new credential");
    match error {
        AuthorityError::Refused { retry_after, .. } => match retry_after {
            Some(wait) => jittered(*wait),
            // Somebody has to act first; look again now and then.
            None => jittered(RENEW_BACKOFF_MAX),
        },
        AuthorityError::Unreachable(_)
        | AuthorityError::Broken(_)
        | AuthorityError::BadAnswer(_)
        | AuthorityError::Unverified(_)
        | AuthorityError::Local { .. }
        | AuthorityError::Sign(_) => Duration::ZERO,
    }
}

/// Resolves when a credential is needed: there is none, its time has come, or
/// the authority says that it is stale.
async fn wait_until_due(node: &Arc<Node>) {
    let mut identity = node.identity.subscribe();
    let mut stale_before = node.stale_before.subscribe();
    loop {
        let credential = identity.borrow_and_update().credential.clone();
        let Some(credential) = credential else {
            return;
        };
        let stale = stale_before
            .borrow_and_update()
            .is_some_and(|t| node.is_older_than(t));
        let wait = if stale {
            Duration::ZERO
        } else {
            time_left(node, &credential)
        };
        if wait.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = identity.changed() => {}
            Ok(()) = stale_before.changed() => {}
        }
    }
}

/// Until renewal, with jitter; zero when it is due, or when the clock is not
/// known and so may say anything.
fn time_left(node: &Node, credential: &SavedCredential) -> Duration {
    let now = match node.clock.clock() {
        Clock::Trusted(now) => now,
        Clock::Floor(_) => return Duration::ZERO,
    };
    let left = |until: UnixSeconds| Duration::from_secs(until.since(now));
    // A tenth of what is left, so that endpoints that started together do not
    // renew together.
    let whole = left(credential.renew_at);
    let jitter = (whole / 10).saturating_sub(jittered(whole / 10));
    whole.saturating_sub(jitter).min(Duration::from_secs(3600))
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
