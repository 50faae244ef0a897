//! The Secrets and the ConfigMap of the keys.
//!
//! Order matters, because replicas race and may die at any point: first the
//! root (create-only: of two racing replicas one wins, the other reads what
//! the winner wrote), then the issuers (create-only, later by
//! compare-and-swap), then the ConfigMap `fairway-trust`, from which tickets
//! and injected pods take the root's hash. So whoever has seen a hash of the
//! root can be sure that the root was stored before; and if the root is gone
//! while such a trace is left, it was lost, and a second one is never made in
//! silence.

use std::collections::BTreeMap;

use fairway_crds::labels::{TRUST_CONFIG_MAP, TRUST_DOMAIN, TRUST_RELAYS, TRUST_ROOT_HASH};
use fairway_crds::{DeviceIdentity, EnrollmentTicket};
use fairway_identity::{Ed25519Key, RelayAddress, RootHash, Signer, UnixSeconds};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use zeroize::Zeroizing;

use super::KeyRing;
use super::bundle::{Bundle, BundleError, Wanted};
use crate::clock::WallClock;
use crate::cluster::{ApiError, call};
use crate::names::{FIELD_MANAGER, ISSUER_SECRET, Install, ROOT_SECRET};
use crate::{limits, random};

/// Key in the root's Secret.
const SEED: &str = "seed";

/// Why there are no keys to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The root is gone while something still relies on it.
    #[error(
        "Secret {ROOT_SECRET} is missing, but {evidence}: restore the Secret from a backup; or, to begin anew with another root (every device must enrol again, every injected pod restart), delete ConfigMap {TRUST_CONFIG_MAP}, Secret {ISSUER_SECRET}, and every DeviceIdentity that is enrolled"
    )]
    RootMissing {
        /// What relies on it.
        evidence: String,
    },
    /// The root's Secret cannot be read.
    #[error(
        "Secret {ROOT_SECRET} does not hold a seed of 32 bytes under the key {SEED}; restore it from a backup"
    )]
    RootMalformed,
    /// The root is not the one that was published.
    #[error(
        "Secret {ROOT_SECRET} (hash {found}) is not the root that was published (hash {published}, ConfigMap {TRUST_CONFIG_MAP}): restore the right Secret from a backup"
    )]
    RootMismatch {
        /// Hash of the Secret's root.
        found: RootHash,
        /// What the ConfigMap says.
        published: String,
    },
    /// The trust domain is another than the one that was signed.
    #[error(
        "the installation was made for trust domain {signed}, but is now configured for {configured}: set the Helm value trustDomain back"
    )]
    TrustDomain {
        /// What the trust set says.
        signed: String,
        /// What the configuration says.
        configured: String,
    },
    /// The issuers' Secret cannot be used.
    #[error("Secret {ISSUER_SECRET} cannot be used")]
    Bundle(#[from] BundleError),
    /// Other replicas kept changing it.
    #[error(
        "Secret {ISSUER_SECRET} changed {} times in a row while it was being changed",
        limits::CAS_TRIES
    )]
    Contended,
    /// The API server did not do its part.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Reads, makes and changes the keys.
#[derive(Clone, Debug)]
pub struct KeyStore {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    devices: Api<DeviceIdentity>,
    tickets: Api<EnrollmentTicket>,
    install: Install,
    relay_addresses: Vec<RelayAddress>,
    clock: WallClock,
}

impl KeyStore {
    /// A store in the install namespace. `relay_addresses` are published for
    /// tickets, as `host:port`.
    pub fn new(
        client: &Client,
        install: Install,
        relay_addresses: Vec<RelayAddress>,
        clock: WallClock,
    ) -> Self {
        let namespace = install.namespace.as_str();
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            devices: Api::all(client.clone()),
            tickets: Api::all(client.clone()),
            install,
            relay_addresses,
            clock,
        }
    }

    /// The keys, made or renewed if that is due, and published.
    ///
    /// # Errors
    /// [`KeyError`] says what somebody has to do. Nothing may be issued then.
    pub async fn load(&self, floor: UnixSeconds) -> Result<KeyRing, KeyError> {
        let root = self.root().await?;
        let hash = RootHash::of(&root.verifying_key());
        self.check_published(hash).await?;
        let ring = self.issuers(&root, hash, floor).await?;
        self.publish(hash).await?;
        Ok(ring)
    }

    async fn root(&self) -> Result<Ed25519Key, KeyError> {
        if let Some(root) = self.read_root().await? {
            return Ok(root);
        }
        if let Some(evidence) = self.evidence_of_a_root().await? {
            // Another replica may have made the root, and the evidence, after
            // we looked. The root is always written first.
            return self
                .read_root()
                .await?
                .ok_or(KeyError::RootMissing { evidence });
        }
        let seed = random::seed();
        let data = BTreeMap::from([(SEED.to_owned(), ByteString(seed.to_vec()))]);
        match self.create_secret(ROOT_SECRET, data, true).await {
            Ok(()) => {
                tracing::info!(
                    event = "root-made",
                    secret = ROOT_SECRET,
                    "made the root key; back this Secret up"
                );
                Ok(Ed25519Key::from_seed(*seed))
            }
            Err(error) if error.is_conflict() => self.read_root().await?.ok_or(KeyError::Contended),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_root(&self) -> Result<Option<Ed25519Key>, KeyError> {
        let Some(secret) =
            call("read the root's Secret", self.secrets.get_opt(ROOT_SECRET)).await?
        else {
            return Ok(None);
        };
        let seed = secret
            .data
            .unwrap_or_default()
            .remove(SEED)
            .map(|seed| Zeroizing::new(seed.0));
        let seed = seed.ok_or(KeyError::RootMalformed)?;
        let seed = <[u8; 32]>::try_from(seed.as_slice()).map_err(|_| KeyError::RootMalformed)?;
        Ok(Some(Ed25519Key::from_seed(seed)))
    }

    /// What shows that there was a root.
    async fn evidence_of_a_root(&self) -> Result<Option<String>, KeyError> {
        let published = call(
            "read the trust ConfigMap",
            self.config_maps.get_opt(TRUST_CONFIG_MAP),
        )
        .await?;
        if published.is_some() {
            return Ok(Some(format!("ConfigMap {TRUST_CONFIG_MAP} tells its hash")));
        }
        let issuers = call(
            "read the issuers' Secret",
            self.secrets.get_opt(ISSUER_SECRET),
        )
        .await?;
        if issuers.is_some() {
            return Ok(Some(format!("Secret {ISSUER_SECRET} was signed by it")));
        }
        let enrolled = |device: &DeviceIdentity| {
            device
                .status
                .as_ref()
                .is_some_and(|status| status.device_key.is_some())
        };
        if let Some(name) = find(&self.devices, "list DeviceIdentities", enrolled).await? {
            return Ok(Some(format!("DeviceIdentity {name} was enrolled under it")));
        }
        let used = |ticket: &EnrollmentTicket| {
            ticket
                .status
                .as_ref()
                .is_some_and(|status| status.device_key.is_some())
        };
        let ticket = find(&self.tickets, "list EnrollmentTickets", used).await?;
        Ok(ticket.map(|name| format!("EnrollmentTicket {name} was used under it")))
    }

    async fn issuers(
        &self,
        root: &Ed25519Key,
        hash: RootHash,
        floor: UnixSeconds,
    ) -> Result<KeyRing, KeyError> {
        let wanted = Wanted {
            install: &self.install,
            floor,
        };
        for _ in 0..limits::CAS_TRIES {
            let now = self.clock.now();
            let stored = call(
                "read the issuers' Secret",
                self.secrets.get_opt(ISSUER_SECRET),
            )
            .await?;
            let Some(stored) = stored else {
                let bundle = Bundle::first(root, &wanted, random::seed(), now)?;
                match self
                    .create_secret(ISSUER_SECRET, bundle.to_data(), false)
                    .await
                {
                    Ok(()) => return Ok(KeyRing::open(&bundle, hash)?),
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            let data = stored.data.clone().unwrap_or_default();
            let bundle = Bundle::from_data(&data)?;
            let ring = KeyRing::open(&bundle, hash)?;
            let current = ring.trust().trust_set();
            if current.trust_domain != self.install.trust_domain {
                return Err(KeyError::TrustDomain {
                    signed: current.trust_domain.to_string(),
                    configured: self.install.trust_domain.to_string(),
                });
            }
            if !bundle.is_due(current, &wanted, now) {
                return Ok(ring);
            }
            let next = bundle.next(root, current, &wanted, random::seed(), now)?;
            let opened = KeyRing::open(&next, hash)?;
            let replaced = Secret {
                data: Some(next.to_data()),
                ..stored
            };
            let params = PostParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PostParams::default()
            };
            // The resourceVersion in `stored` makes this a compare-and-swap.
            let replace = self.secrets.replace(ISSUER_SECRET, &params, &replaced);
            match call("change the issuers' Secret", replace).await {
                Ok(_) => {
                    tracing::info!(
                        event = "trust-set",
                        version = opened.trust().version(),
                        "signed a new trust set"
                    );
                    return Ok(opened);
                }
                Err(error) if error.is_conflict() => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Contended)
    }

    async fn create_secret(
        &self,
        name: &str,
        data: BTreeMap<String, ByteString>,
        immutable: bool,
    ) -> Result<(), ApiError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(own_labels()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            immutable: immutable.then_some(true),
            ..Secret::default()
        };
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        call("create a Secret", self.secrets.create(&params, &secret))
            .await
            .map(drop)
    }

    /// A root other than the published one would strand every device.
    async fn check_published(&self, hash: RootHash) -> Result<(), KeyError> {
        let published = call(
            "read the trust ConfigMap",
            self.config_maps.get_opt(TRUST_CONFIG_MAP),
        )
        .await?;
        let published = published
            .and_then(|map| map.data)
            .and_then(|mut data| data.remove(TRUST_ROOT_HASH));
        match published {
            Some(published) if published != hash.to_string() => Err(KeyError::RootMismatch {
                found: hash,
                published,
            }),
            Some(_) | None => Ok(()),
        }
    }

    async fn publish(&self, hash: RootHash) -> Result<(), KeyError> {
        let relays: Vec<String> = self
            .relay_addresses
            .iter()
            .map(RelayAddress::to_string)
            .collect();
        let apply = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": TRUST_CONFIG_MAP, "labels": own_labels()},
            "data": {
                TRUST_ROOT_HASH: hash.to_string(),
                TRUST_DOMAIN: self.install.trust_domain.to_string(),
                TRUST_RELAYS: relays.join(","),
            },
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(apply);
        let patch = self.config_maps.patch(TRUST_CONFIG_MAP, &params, &patch);
        call("publish the trust ConfigMap", patch).await?;
        Ok(())
    }
}

/// Labels of all objects that the authority makes for itself.
pub fn own_labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/part-of".to_owned(), "fairway".to_owned()),
        (
            "app.kubernetes.io/managed-by".to_owned(),
            FIELD_MANAGER.to_owned(),
        ),
    ])
}

/// The name of the first object that `wanted` is true of, page by page.
async fn find<K>(
    api: &Api<K>,
    action: &'static str,
    wanted: impl Fn(&K) -> bool,
) -> Result<Option<String>, KeyError>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(limits::LIST_PAGE);
    loop {
        let page = call(action, api.list(&params)).await?;
        if let Some(found) = page.items.iter().find(|item| wanted(item)) {
            let namespace = found.namespace().unwrap_or_default();
            return Ok(Some(format!("{namespace}/{}", found.name_any())));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mock::{self, Answer, Call, Server};
    use crate::testing::{START, install};
    use std::sync::{Arc, Mutex};

    const SECRETS: &str = "/api/v1/namespaces/fairway-system/secrets";
    const MAP: &str = "/api/v1/namespaces/fairway-system/configmaps/fairway-trust";

    fn store(client: &Client) -> KeyStore {
        let relays = vec!["relay.example.com:7440".parse().unwrap()];
        KeyStore::new(client, install(), relays, WallClock::from_fn(|| START))
    }

    fn expect(server: Server, line: String, answer: Answer) -> Server {
        server.expect(move |call: &Call| {
            assert_eq!(call.line(), line);
            answer
        })
    }

    /// The root's Secret is asked for, and this is the answer.
    fn root_read(server: Server, answer: Answer) -> Server {
        expect(server, format!("GET {SECRETS}/fairway-root"), answer)
    }

    fn nothing(server: Server, path: &str) -> Server {
        expect(server, format!("GET {path}"), Answer::status(404))
    }

    fn empty_list(server: Server, kind: &str) -> Server {
        let items = Answer::ok(json!({"metadata": {}, "items": []}));
        expect(
            server,
            format!("GET /apis/fairway.dev/v1alpha1/{kind}"),
            items,
        )
    }

    fn no_evidence(server: Server) -> Server {
        let server = nothing(server, MAP);
        let server = nothing(server, &format!("{SECRETS}/fairway-issuer"));
        let server = empty_list(server, "deviceidentities");
        empty_list(server, "enrollmenttickets")
    }

    fn root_secret(seed: u8) -> Answer {
        Answer::ok(
            json!({"metadata": {"name": "fairway-root"}, "data": {"seed": ByteString(vec![seed; 32])}}),
        )
    }

    fn published(server: Server, seen: &Arc<Mutex<Value>>) -> Server {
        let seen = seen.clone();
        server.expect(move |call| {
            assert_eq!(call.line(), format!("PATCH {MAP}"));
            *seen.lock().unwrap() = call.body["data"].clone();
            Answer::ok(json!({"metadata": {}}))
        })
    }

    use serde_json::Value;

    #[tokio::test]
    async fn the_first_start_makes_root_then_issuer_then_tells() {
        let (client, server) = mock::api();
        let told = Arc::default();
        let server = no_evidence(root_read(server, Answer::status(404)));
        let server = server.expect(|call| {
            assert_eq!(call.line(), format!("POST {SECRETS}"));
            assert_eq!(call.body["metadata"]["name"], "fairway-root");
            assert_eq!(call.body["immutable"], true);
            Answer::ok(call.body.clone())
        });
        let server = nothing(nothing(server, MAP), &format!("{SECRETS}/fairway-issuer"));
        let server = server.expect(|call| {
            assert_eq!(call.line(), format!("POST {SECRETS}"));
            assert_eq!(call.body["metadata"]["name"], "fairway-issuer");
            Answer::ok(call.body.clone())
        });
        let server = published(server, &told);
        let ring = store(&client).load(UnixSeconds(0)).await.unwrap();
        server.done().await;
        let told: Value = told.lock().unwrap().clone();
        assert_eq!(told["rootHash"], ring.root().to_string());
        assert_eq!(told["trustDomain"], "fairway.local");
        assert_eq!(told["relays"], "relay.example.com:7440");
    }

    #[tokio::test]
    async fn the_replica_that_loses_the_race_takes_what_the_winner_made() {
        let root = Ed25519Key::from_seed([7; 32]);
        let wanted = install();
        let winner = Bundle::first(
            &root,
            &Wanted {
                install: &wanted,
                floor: UnixSeconds(0),
            },
            random::seed(),
            START,
        )
        .unwrap();
        let stored = json!({"metadata": {"name": "fairway-issuer", "resourceVersion": "1"}, "data": winner.to_data()});

        let (client, server) = mock::api();
        let server = no_evidence(root_read(server, Answer::status(404)));
        let server = expect(server, format!("POST {SECRETS}"), Answer::status(409));
        let server = root_read(server, root_secret(7));
        let server = nothing(nothing(server, MAP), &format!("{SECRETS}/fairway-issuer"));
        let server = expect(server, format!("POST {SECRETS}"), Answer::status(409));
        let server = expect(
            server,
            format!("GET {SECRETS}/fairway-issuer"),
            Answer::ok(stored),
        );
        let server = published(server, &Arc::default());
        let ring = store(&client).load(UnixSeconds(0)).await.unwrap();
        server.done().await;
        assert_eq!(ring.root(), RootHash::of(&root.verifying_key()));
        assert_eq!(ring.trust().bytes(), winner.trust_set);
    }

    #[tokio::test]
    async fn a_lost_root_is_never_made_anew() {
        let enrolled = |kind: &str| {
            json!({"metadata": {}, "items": [{
                "apiVersion": "fairway.dev/v1alpha1", "kind": kind,
                "metadata": {"name": "pump-7", "namespace": "factory"},
                "spec": {"device": "pump-7", "publicKey": "k", "expiryTime": "2026-11-23T06:00:00Z"},
                "status": {"deviceKey": "k"}}]})
        };
        let issuer = format!("{SECRETS}/fairway-issuer");
        let cases: [(&dyn Fn(Server) -> Server, &str); 4] = [
            (
                &|server| {
                    expect(
                        server,
                        format!("GET {MAP}"),
                        Answer::ok(json!({"metadata": {}})),
                    )
                },
                "fairway-trust",
            ),
            (
                &|server| {
                    let server = nothing(server, MAP);
                    expect(
                        server,
                        format!("GET {issuer}"),
                        Answer::ok(json!({"metadata": {}})),
                    )
                },
                "fairway-issuer",
            ),
            (
                &|server| {
                    let server = nothing(nothing(server, MAP), &issuer);
                    let devices = Answer::ok(enrolled("DeviceIdentity"));
                    expect(
                        server,
                        "GET /apis/fairway.dev/v1alpha1/deviceidentities".to_owned(),
                        devices,
                    )
                },
                "DeviceIdentity factory/pump-7",
            ),
            (
                &|server| {
                    let server =
                        empty_list(nothing(nothing(server, MAP), &issuer), "deviceidentities");
                    let tickets = Answer::ok(enrolled("EnrollmentTicket"));
                    expect(
                        server,
                        "GET /apis/fairway.dev/v1alpha1/enrollmenttickets".to_owned(),
                        tickets,
                    )
                },
                "EnrollmentTicket factory/pump-7",
            ),
        ];
        for (evidence, named) in cases {
            let (client, server) = mock::api();
            let server = evidence(root_read(server, Answer::status(404)));
            // Looked for once more: another replica may have made both.
            let server = root_read(server, Answer::status(404));
            let error = store(&client).load(UnixSeconds(0)).await.unwrap_err();
            server.done().await;
            assert!(matches!(error, KeyError::RootMissing { .. }), "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[tokio::test]
    async fn another_root_than_the_published_one_is_refused() {
        let (client, server) = mock::api();
        let server = root_read(server, root_secret(7));
        let told = Answer::ok(json!({"metadata": {}, "data": {"rootHash": "00"}}));
        let server = expect(server, format!("GET {MAP}"), told);
        let error = store(&client).load(UnixSeconds(0)).await.unwrap_err();
        server.done().await;
        assert!(matches!(error, KeyError::RootMismatch { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_issuer_is_renewed_by_compare_and_swap() {
        let root = Ed25519Key::from_seed([7; 32]);
        let wanted = install();
        let old = START.minus(60 * 86_400);
        let bundle = Bundle::first(
            &root,
            &Wanted {
                install: &wanted,
                floor: UnixSeconds(0),
            },
            random::seed(),
            old,
        )
        .unwrap();
        let stored = move |version: &str| {
            Answer::ok(json!({
                "metadata": {"name": "fairway-issuer", "resourceVersion": version}, "data": bundle.to_data()}))
        };
        let (client, server) = mock::api();
        let server = root_read(server, root_secret(7));
        let server = nothing(server, MAP);
        let read = || format!("GET {SECRETS}/fairway-issuer");
        let server = expect(server, read(), stored("1"));
        let server = expect(
            server,
            format!("PUT {SECRETS}/fairway-issuer"),
            Answer::status(409),
        );
        let server = expect(server, read(), stored("2"));
        let server = server.expect(|call| {
            assert_eq!(call.body["metadata"]["resourceVersion"], "2");
            Answer::ok(call.body.clone())
        });
        let server = published(server, &Arc::default());
        let ring = store(&client).load(UnixSeconds(0)).await.unwrap();
        server.done().await;
        assert_eq!(ring.trust().trust_set().issuers.len(), 2);
        assert_eq!(ring.issuer(START).unwrap().expires, START.plus(90 * 86_400));
    }

    #[tokio::test]
    async fn another_trust_domain_is_refused() {
        let root = Ed25519Key::from_seed([7; 32]);
        let wanted = Install::new("other.local", "fairway-system").unwrap();
        let bundle = Bundle::first(
            &root,
            &Wanted {
                install: &wanted,
                floor: UnixSeconds(0),
            },
            random::seed(),
            START,
        )
        .unwrap();
        let (client, server) = mock::api();
        let server = nothing(root_read(server, root_secret(7)), MAP);
        let stored =
            Answer::ok(json!({"metadata": {"name": "fairway-issuer"}, "data": bundle.to_data()}));
        let server = expect(server, format!("GET {SECRETS}/fairway-issuer"), stored);
        let error = store(&client).load(UnixSeconds(0)).await.unwrap_err();
        server.done().await;
        assert!(matches!(error, KeyError::TrustDomain { .. }), "{error}");
    }
}
