//! Keeps the webhook's certificate: in the Secret that the replicas share, in
//! this replica's server, and its CA in the webhook configuration.
//!
//! Every replica does all of it. Changes of the Secret are compare-and-swap,
//! so that one of two that try wins and the other takes what it finds.

use std::sync::Arc;

use axum_server::tls_rustls::RustlsConfig;
use fairway_daemon::ReadyTask;
use futures::stream::{BoxStream, select};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;

use super::keyring::{Keyring, KeyringError};
use crate::FIELD_MANAGER;
use crate::call::{CallError, bounded};
use crate::limits::CERTIFICATE_CHECK;
use crate::metrics::Metrics;

/// The Secret that the replicas share.
pub const SECRET: &str = "fairway-webhook-cert";

/// Keeps one replica's certificate.
#[derive(Clone)]
pub struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    configuration: String,
    names: Vec<String>,
    metrics: Metrics,
}

/// Why the certificate could not be kept. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The Secret could not be read or written.
    #[error("Secret {SECRET} could not be read or written")]
    Secret(#[source] CallError),
    /// The webhook configuration could not be read or written.
    #[error(
        "the webhook configuration could not be read or written; until it can, pods that need a sidecar may be refused"
    )]
    Configuration(#[source] CallError),
    /// There is no usable certificate.
    #[error("there is no usable certificate")]
    Keyring(#[from] KeyringError),
}

impl Keeper {
    /// A keeper for a Service of the install namespace.
    pub fn new(
        client: Client,
        namespace: &str,
        service: &str,
        configuration: &str,
        metrics: Metrics,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client),
            configuration: configuration.to_owned(),
            // The API server dials `SERVICE.NAMESPACE.svc`.
            names: vec![format!("{service}.{namespace}.svc")],
            metrics,
        }
    }

    /// The certificate to serve, made or stepped on if it is time.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub async fn keyring(&self, now: Timestamp) -> Result<Keyring, KeeperError> {
        // Each turn but the last lost a race, and the next one finds what won.
        // A successor can be made and put in use in one go, so four are enough.
        for _ in 0..4 {
            let found = bounded(self.secrets.get_opt(SECRET))
                .await
                .map_err(KeeperError::Secret)?;
            let Some(secret) = found else {
                self.create(Keyring::new(&self.names, now)?).await?;
                continue;
            };
            let ring = match usable(&secret) {
                Ok(ring) => ring,
                Err(error) => {
                    tracing::warn!(
                        event = "certificate",
                        error = &error as &dyn std::error::Error,
                        "making another"
                    );
                    self.replace(&secret, Keyring::new(&self.names, now)?)
                        .await?;
                    continue;
                }
            };
            match ring.step(&self.names, now)? {
                None => return Ok(ring),
                Some(next) => {
                    tracing::info!(event = "certificate", from = ?ring, to = ?next, "rotating");
                    self.replace(&secret, next).await?;
                }
            }
        }
        Err(KeeperError::Secret(CallError::Timeout))
    }

    /// Puts the CAs into every entry of the webhook configuration that lacks
    /// them. A configuration that is not there is left alone: it is the
    /// chart's to make. Says whether it is there.
    ///
    /// # Errors
    /// [`KeeperError::Configuration`].
    pub async fn publish(&self, ring: &Keyring) -> Result<bool, KeeperError> {
        let found = bounded(self.configurations.get_opt(&self.configuration)).await;
        let Some(configuration) = found.map_err(KeeperError::Configuration)? else {
            return Ok(false);
        };
        let bundle = k8s_openapi::ByteString(ring.ca_bundle().into_bytes());
        let webhooks = configuration.webhooks.unwrap_or_default();
        if webhooks
            .iter()
            .all(|w| w.client_config.ca_bundle.as_ref() == Some(&bundle))
        {
            return Ok(true);
        }
        let entries: Vec<_> = webhooks
            .iter()
            .map(|w| json!({"name": w.name, "clientConfig": {"caBundle": bundle}}))
            .collect();
        // Strategic merge by name: it cannot add an entry that the chart has
        // not made, since the API server refuses one without the other fields.
        let patch = Patch::Strategic(json!({"webhooks": entries}));
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        bounded(
            self.configurations
                .patch(&self.configuration, &params, &patch),
        )
        .await
        .map_err(KeeperError::Configuration)?;
        tracing::info!(
            event = "certificate",
            configuration = self.configuration,
            "the API server trusts it"
        );
        Ok(true)
    }

    /// Keeps at it for as long as the process lives.
    pub async fn run(self, tls: RustlsConfig, serving: ReadyTask) {
        let mut ticks = self.ticks();
        let mut served: Option<Keyring> = None;
        loop {
            match self.turn(&tls, &mut served).await {
                Ok(()) => serving.done(),
                Err(error) => {
                    tracing::error!(
                        event = "certificate",
                        error = &error as &dyn std::error::Error
                    );
                }
            }
            // Whichever is first; a storm of events costs one turn a second.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let _ = tokio::time::timeout(CERTIFICATE_CHECK, ticks.next()).await;
        }
    }

    async fn turn(
        &self,
        tls: &RustlsConfig,
        served: &mut Option<Keyring>,
    ) -> Result<(), KeeperError> {
        let ring = self.keyring(Timestamp::now()).await?;
        if served.as_ref() != Some(&ring) {
            tls.reload_from_config(Arc::new(ring.server_config()?));
            self.metrics
                .certificate_expires
                .set(ring.expires().as_second());
        }
        if !self.publish(&ring).await? {
            tracing::warn!(
                event = "certificate",
                configuration = self.configuration,
                "there is no such webhook configuration: no pod is injected"
            );
        }
        *served = Some(ring);
        Ok(())
    }

    async fn create(&self, ring: Keyring) -> Result<(), KeeperError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(ring.to_data()),
            ..Secret::default()
        };
        won_or_lost(bounded(self.secrets.create(&PostParams::default(), &secret)).await)
    }

    async fn replace(&self, found: &Secret, ring: Keyring) -> Result<(), KeeperError> {
        // The resourceVersion in `found` makes this a compare-and-swap.
        let secret = Secret {
            data: Some(ring.to_data()),
            ..found.clone()
        };
        won_or_lost(
            bounded(
                self.secrets
                    .replace(SECRET, &PostParams::default(), &secret),
            )
            .await,
        )
    }

    /// Something when the Secret or the configuration has changed.
    fn ticks(&self) -> BoxStream<'static, ()> {
        let only = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let secrets = changes(watcher(self.secrets.clone(), only(SECRET)));
        let configurations = changes(watcher(
            self.configurations.clone(),
            only(&self.configuration),
        ));
        select(secrets, configurations).boxed()
    }
}

/// What a Secret holds, if it can be served.
fn usable(secret: &Secret) -> Result<Keyring, KeyringError> {
    let ring = Keyring::from_data(secret.data.as_ref().unwrap_or(&Default::default()))?;
    ring.server_config()?;
    Ok(ring)
}

/// Losing a race is as good as winning it: what is there now is somebody's.
fn won_or_lost<T>(result: Result<T, CallError>) -> Result<(), KeeperError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(KeeperError::Secret(error)),
    }
}

fn changes<K: Send + 'static>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
) -> BoxStream<'static, ()> {
    // Errors show in the turns themselves, which make the same requests.
    let changed = |event: Result<watcher::Event<K>, watcher::Error>| async move {
        matches!(
            event,
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone)
        )
        .then_some(())
    };
    events.default_backoff().filter_map(changed).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::Value;

    const SECRET_PATH: &str = "/api/v1/namespaces/system/secrets/fairway-webhook-cert";
    const CONFIGURATION_PATH: &str =
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/injector";

    fn keeper(api: &FakeApi) -> Keeper {
        Keeper::new(api.client(), "system", "op", "injector", Metrics::default())
    }

    fn at(days: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24 * days)
    }

    #[tokio::test]
    async fn replicas_share_one_certificate() {
        let api = FakeApi::new();
        let (a, b) = (keeper(&api), keeper(&api));
        let (a, b) = tokio::join!(a.keyring(at(0)), b.keyring(at(0)));
        assert_eq!(a.unwrap(), b.unwrap());

        let before = keeper(&api).keyring(at(59)).await.unwrap();
        let (a, b) = (keeper(&api), keeper(&api));
        let (a, b) = tokio::join!(a.keyring(at(60)), b.keyring(at(60)));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a, b);
        assert_ne!(a, before);
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_is_replaced() {
        let api = FakeApi::new();
        keeper(&api).keyring(at(0)).await.unwrap();
        for broken in [Value::Null, json!("AAAA")] {
            api.change(SECRET_PATH, |secret| secret["data"]["tls.key"] = broken);
            let ring = keeper(&api).keyring(at(0)).await.unwrap();
            ring.server_config().unwrap();
        }
    }

    #[tokio::test]
    async fn the_bundle_is_put_into_every_entry_and_only_when_it_is_not_there() {
        let api = FakeApi::new();
        let keeper = keeper(&api);
        let ring = keeper.keyring(at(0)).await.unwrap();
        assert!(
            !keeper.publish(&ring).await.unwrap(),
            "there is no configuration"
        );

        let entry = |name: &str| json!({"name": name, "clientConfig": {"service": {"name": "op", "namespace": "system"}}, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
        api.put(
            CONFIGURATION_PATH,
            json!({"metadata": {"name": "injector"}, "webhooks": [entry("a"), entry("b")]}),
        );
        api.writes();
        assert!(keeper.publish(&ring).await.unwrap());
        let stored = api.get(CONFIGURATION_PATH).unwrap();
        for entry in stored["webhooks"].as_array().unwrap() {
            assert!(entry["clientConfig"]["caBundle"].is_string());
            assert_eq!(entry["clientConfig"]["service"]["name"], "op");
        }
        assert_eq!(api.writes().len(), 1);
        assert!(keeper.publish(&ring).await.unwrap());
        assert_eq!(api.writes().len(), 0);
    }
}
