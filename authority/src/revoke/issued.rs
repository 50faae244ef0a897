//! The record of whom credentials were issued to.
//!
//! It exists for one question: what was deleted while no authority was
//! running? So it holds a line for each object, not for each credential:
//! written when an object first gets one (or a longer-lived one), removed when
//! the object is gone and revoked. Renewals write nothing.
//!
//! It is cut into 16 ConfigMaps by the first digit of the UID. A line is
//! `UID: KIND NAMESPACE/NAME LIFETIME`; lines are added and removed by merge
//! patch, so replicas never overwrite each other's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use fairway_identity::{Uid, UnixSeconds};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use serde_json::json;

use super::record::{Cause, Entry, Kind};
use crate::cluster::{ApiError, call};
use crate::config_map;
use crate::limits;
use crate::names::ISSUED_PREFIX;

/// Whom credentials were issued to.
#[derive(Debug)]
pub struct Issued {
    config_maps: Api<ConfigMap>,
    /// What is certainly written, and for which lifetime.
    written: Mutex<BTreeMap<String, u64>>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// UID of the object.
    pub uid: Uid,
    /// What it is.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Seconds that its longest-lived credential may last.
    pub lifetime: u64,
}

impl Issued {
    /// The record in the install namespace.
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            config_maps: Api::namespaced(client.clone(), namespace),
            written: Mutex::default(),
        }
    }

    /// Makes sure that `holder` is on record; to be called before anything is
    /// issued to it.
    ///
    /// # Errors
    /// The API server did not take it: nothing may be issued.
    pub async fn add(&self, holder: &Holder) -> Result<(), ApiError> {
        let known = self.written().get(holder.uid.as_str()).copied();
        if known.is_some_and(|lifetime| lifetime >= holder.lifetime) {
            return Ok(());
        }
        let data = json!({ holder.uid.as_str(): holder.line() });
        config_map::merge(&self.config_maps, &shard(&holder.uid), data).await?;
        self.written()
            .insert(holder.uid.to_string(), holder.lifetime);
        Ok(())
    }

    /// Takes an object off the record, once it is gone and revoked.
    ///
    /// # Errors
    /// The API server did not do it; it is done again after the next start.
    pub async fn remove(&self, uid: &Uid) -> Result<(), ApiError> {
        let data = json!({ uid.as_str(): null });
        config_map::merge(&self.config_maps, &shard(uid), data).await?;
        self.written().remove(uid.as_str());
        Ok(())
    }

    /// The lifetime on record for an object, as far as this replica knows.
    pub fn lifetime(&self, uid: &Uid) -> Option<u64> {
        self.written().get(uid.as_str()).copied()
    }

    /// Reads all lines. Those that are none are skipped with a log line.
    ///
    /// # Errors
    /// The API server did not give them.
    pub async fn read_all(&self) -> Result<Vec<Holder>, ApiError> {
        let mut holders = Vec::new();
        for number in 0..limits::ISSUED_SHARDS {
            let name = format!("{ISSUED_PREFIX}{number:x}");
            let map = call(
                "read the record of issued credentials",
                self.config_maps.get_opt(&name),
            )
            .await?;
            for (uid, line) in map.and_then(|map| map.data).unwrap_or_default() {
                match Holder::parse(&uid, &line) {
                    Some(holder) => holders.push(holder),
                    None => tracing::error!(event = "issued-unreadable", object = name, key = uid),
                }
            }
        }
        let lines = holders
            .iter()
            .map(|holder| (holder.uid.to_string(), holder.lifetime));
        self.written().extend(lines);
        Ok(holders)
    }

    fn written(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    /// The entry for a holder whose object is gone: nothing tells when its
    /// last credential was issued, so it may last a whole lifetime from now.
    pub fn revocation(&self, now: UnixSeconds) -> Entry {
        Entry {
            uid: self.uid.clone(),
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            cause: Cause::Deleted,
            issued_before: now,
            effective: now,
            keep_until: now.plus(self.lifetime),
        }
    }

    fn line(&self) -> String {
        format!(
            "{} {}/{} {}",
            self.kind, self.namespace, self.name, self.lifetime
        )
    }

    fn parse(uid: &str, line: &str) -> Option<Self> {
        let mut parts = line.split(' ');
        let (kind, object, lifetime) = (parts.next()?, parts.next()?, parts.next()?);
        let (namespace, name) = object.split_once('/')?;
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            uid: Uid::new(uid).ok()?,
            kind: Kind::parse(kind)?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            lifetime: lifetime.parse().ok()?,
        })
    }
}

/// UIDs are random, so their first digit spreads them evenly. What is no
/// UUID goes to the first shard.
fn shard(uid: &Uid) -> String {
    let digit = uid
        .as_str()
        .chars()
        .next()
        .filter(char::is_ascii_hexdigit)
        .unwrap_or('0');
    format!("{ISSUED_PREFIX}{}", digit.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mock::{self, Answer};

    fn holder(uid: &str, lifetime: u64) -> Holder {
        Holder {
            uid: Uid::new(uid).unwrap(),
            kind: Kind::Device,
            namespace: "factory".into(),
            name: "pump-7".into(),
            lifetime,
        }
    }

    #[test]
    fn lines_round_trip() {
        let holder = holder("c1", 86_400);
        assert_eq!(holder.line(), "device factory/pump-7 86400");
        assert_eq!(Holder::parse("c1", &holder.line()), Some(holder));
        for bad in [
            "",
            "device",
            "device factory 1",
            "robot a/b 1",
            "device a/b x",
            "device a/b 1 2",
        ] {
            assert_eq!(Holder::parse("c1", bad), None, "{bad}");
        }
    }

    #[test]
    fn shards_go_by_the_first_digit() {
        for (uid, want) in [("0a", "0"), ("Fa", "f"), ("c1", "c"), ("zz", "0")] {
            assert_eq!(
                shard(&Uid::new(uid).unwrap()),
                format!("fairway-issued-{want}")
            );
        }
    }

    #[tokio::test]
    async fn a_renewal_writes_nothing_and_a_longer_lifetime_does() {
        let (client, server) = mock::api();
        let issued = Issued::new(&client, "fairway-system");
        let served = server.expect(|call| {
            assert_eq!(
                call.line(),
                "PATCH /api/v1/namespaces/fairway-system/configmaps/fairway-issued-c"
            );
            assert_eq!(call.body["data"]["c1"], "device factory/pump-7 600");
            Answer::ok(json!({"metadata": {}}))
        });
        let served = served.expect(|call| {
            assert_eq!(call.body["data"]["c1"], "device factory/pump-7 900");
            Answer::ok(json!({"metadata": {}}))
        });
        for lifetime in [600, 600, 300, 900] {
            issued.add(&holder("c1", lifetime)).await.unwrap();
        }
        served.done().await;
    }

    #[tokio::test]
    async fn nothing_is_known_to_be_written_that_was_refused() {
        let (client, server) = mock::api();
        let issued = Issued::new(&client, "fairway-system");
        let served = server.expect(|_| Answer::status(403));
        issued.add(&holder("c1", 600)).await.unwrap_err();
        assert_eq!(issued.lifetime(&Uid::new("c1").unwrap()), None);
        served.done().await;
    }
}
