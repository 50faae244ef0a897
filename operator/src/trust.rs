//! What the injector must know of the installation's trust, from the ConfigMap
//! that the authority publishes.

use fairway_crds::labels;
use fairway_identity::RootHash;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

/// The hash of the root key, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is known; as text.
    Known(String),
    /// It is not; why.
    Unknown(TrustError),
}

/// Why the hash of the root key is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The ConfigMap has not been read yet.
    #[error(
        "the operator has just started and has not read ConfigMap fairway-trust yet; try again"
    )]
    Starting,
    /// There is no ConfigMap.
    #[error(
        "there is no ConfigMap fairway-trust: the authority has not made its root key yet; look at Deployment fairway-authority"
    )]
    Missing,
    /// A key of the ConfigMap is missing or malformed.
    #[error("ConfigMap fairway-trust has no usable {0}; look at the logs of fairway-authority")]
    Malformed(&'static str),
    /// The authority works for another trust domain.
    #[error(
        "the authority's trust domain is {theirs}, the operator's is {ours}; install both with one value trustDomain"
    )]
    OtherDomain {
        /// The authority's.
        theirs: String,
        /// The operator's.
        ours: String,
    },
}

impl Trust {
    /// What a ConfigMap says, if there is one.
    pub fn read(config_map: Option<&ConfigMap>, trust_domain: &str) -> Self {
        match Self::try_read(config_map, trust_domain) {
            Ok(root_hash) => Self::Known(root_hash),
            Err(error) => Self::Unknown(error),
        }
    }

    fn try_read(config_map: Option<&ConfigMap>, ours: &str) -> Result<String, TrustError> {
        let data = config_map.ok_or(TrustError::Missing)?.data.as_ref();
        let value = |key| {
            data.and_then(|data| data.get(key))
                .ok_or(TrustError::Malformed(key))
        };
        let root_hash = value(labels::TRUST_ROOT_HASH)?;
        if root_hash.parse::<RootHash>().is_err() {
            return Err(TrustError::Malformed(labels::TRUST_ROOT_HASH));
        }
        let theirs = value(labels::TRUST_DOMAIN)?;
        if theirs != ours {
            let (theirs, ours) = (theirs.clone(), ours.to_owned());
            return Err(TrustError::OtherDomain { theirs, ours });
        }
        Ok(root_hash.clone())
    }
}

/// Follows the ConfigMap for as long as the process lives.
pub async fn follow(
    client: Client,
    namespace: &str,
    trust_domain: &str,
    trust: watch::Sender<Trust>,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let only = format!("metadata.name={}", labels::TRUST_CONFIG_MAP);
    let events = watcher(api, watcher::Config::default().fields(&only)).default_backoff();
    follow_events(events, trust_domain, trust).await;
}

async fn follow_events(
    events: impl Stream<Item = Result<watcher::Event<ConfigMap>, watcher::Error>>,
    trust_domain: &str,
    trust: watch::Sender<Trust>,
) {
    let mut events = std::pin::pin!(events);
    let mut listed = None;
    while let Some(event) = events.next().await {
        let found = match event {
            Ok(watcher::Event::Apply(found)) => Some(found),
            Ok(watcher::Event::Delete(_)) => None,
            Ok(watcher::Event::Init) => {
                listed = None;
                continue;
            }
            Ok(watcher::Event::InitApply(found)) => {
                listed = Some(found);
                continue;
            }
            Ok(watcher::Event::InitDone) => listed.take(),
            Err(error) => {
                tracing::warn!(
                    event = "watch",
                    object = labels::TRUST_CONFIG_MAP,
                    error = &error as &dyn std::error::Error
                );
                continue;
            }
        };
        let now = Trust::read(found.as_ref(), trust_domain);
        trust.send_if_modified(|trust| {
            let changed = *trust != now;
            if changed {
                tracing::info!(event = "trust", trust = ?now);
                *trust = now;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(data: &[(&str, &str)]) -> ConfigMap {
        let data = data
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        ConfigMap {
            data: Some(data),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn what_a_config_map_says() {
        let hash = "ab".repeat(32);
        let good = config_map(&[("rootHash", &hash), ("trustDomain", "fairway.local")]);
        let read = |map: Option<&ConfigMap>| Trust::read(map, "fairway.local");
        assert_eq!(read(Some(&good)), Trust::Known(hash.clone()));
        assert_eq!(read(None), Trust::Unknown(TrustError::Missing));
        let bad = config_map(&[("rootHash", "x"), ("trustDomain", "fairway.local")]);
        assert_eq!(
            read(Some(&bad)),
            Trust::Unknown(TrustError::Malformed("rootHash"))
        );
        let other = config_map(&[("rootHash", &hash), ("trustDomain", "other")]);
        assert!(matches!(
            read(Some(&other)),
            Trust::Unknown(TrustError::OtherDomain { .. })
        ));
    }

    #[tokio::test]
    async fn it_follows_what_happens() {
        let (sender, receiver) = watch::channel(Trust::Unknown(TrustError::Starting));
        let hash = "ab".repeat(32);
        let good = config_map(&[("rootHash", &hash), ("trustDomain", "d")]);
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        for (events, expected) in [
            (vec![Init, InitDone], Trust::Unknown(TrustError::Missing)),
            (vec![Apply(good.clone())], Trust::Known(hash.clone())),
            (
                vec![Init, InitApply(good.clone()), InitDone],
                Trust::Known(hash.clone()),
            ),
            (
                vec![Delete(good.clone())],
                Trust::Unknown(TrustError::Missing),
            ),
        ] {
            let events = futures::stream::iter(events.into_iter().map(Ok));
            follow_events(events, "d", sender.clone()).await;
            assert_eq!(*receiver.borrow(), expected);
        }
    }
}
