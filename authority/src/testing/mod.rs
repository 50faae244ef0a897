//! Makers of small objects for tests.

pub(crate) mod fixture;
pub(crate) mod mock;

use std::collections::{BTreeMap, BTreeSet};

use fairway_crds::{ChannelPolicy, DeviceState};
use fairway_identity::{Ed25519Key, RootHash, Signer, UnixSeconds};
use serde_json::json;
use zeroize::Zeroizing;

use crate::distribute::facts::{
    DeviceFacts, KnownCredential, PodFacts, PolicyFacts, ServiceFacts, ServicePort, TargetPort,
};
use crate::distribute::index::Index;
use crate::keys::bundle::Wanted;
use crate::keys::{Bundle, KeyRing};
use crate::names::Install;
use crate::revoke::Record;

/// When tests begin.
pub(crate) const START: UnixSeconds = UnixSeconds(1_795_000_000);

pub(crate) fn install() -> Install {
    Install::new("fairway.local", "fairway-system").unwrap()
}

/// A ring with one issuer from [`START`] on.
pub(crate) fn ring() -> KeyRing {
    ring_at(UnixSeconds(0), START)
}

/// A newer ring, by which everything issued before `floor` is void.
pub(crate) fn ring_with_floor(floor: UnixSeconds) -> KeyRing {
    ring_at(floor, START.plus(1))
}

fn ring_at(floor: UnixSeconds, now: UnixSeconds) -> KeyRing {
    let (root, install) = (Ed25519Key::from_seed([7; 32]), install());
    let wanted = Wanted {
        install: &install,
        floor,
    };
    let bundle = Bundle::first(&root, &wanted, Zeroizing::new([1; 32]), now).unwrap();
    KeyRing::open(&bundle, RootHash::of(&root.verifying_key())).unwrap()
}

/// An index that is ready, and empty.
pub(crate) fn index() -> Index {
    let mut index = Index::new(install(), vec!["relay.example.com:7440".parse().unwrap()]);
    let now = UnixSeconds(0);
    index.set_trust(ring().trust().clone());
    index.reset_pods(Vec::new(), now);
    index.reset_services(Vec::new(), now);
    index.reset_accounts(BTreeSet::new());
    index.reset_devices(Vec::new());
    index.reset_policies(Vec::new());
    index.reset_relays(BTreeMap::new());
    index.set_record(Record::default(), now);
    index
}

/// A ready pod; `labels` as `key=value`, separated by commas.
pub(crate) fn pod(namespace: &str, name: &str, labels: &str) -> PodFacts {
    PodFacts {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("pod-{namespace}-{name}"),
        service_account: "default".to_owned(),
        labels: pairs(labels),
        ready: true,
        ending: false,
        sidecar_ended: false,
        ports: BTreeMap::new(),
    }
}

/// A Service with port 80 to 8080.
pub(crate) fn service(namespace: &str, name: &str, selector: &str) -> ServiceFacts {
    ServiceFacts {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        selector: pairs(selector),
        headless: false,
        ports: vec![ServicePort {
            port: 80,
            target: TargetPort::Number(8080),
        }],
    }
}

/// An active, enrolled device without a credential.
pub(crate) fn device(namespace: &str, name: &str) -> DeviceFacts {
    DeviceFacts {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("device-{namespace}-{name}"),
        attributes: pairs("model=pump"),
        state: DeviceState::Active,
        generation: 1,
        services: None,
        enrolled: true,
        credential: None,
        last_seen: None,
        revoked: None,
    }
}

/// A credential of generation 1.
pub(crate) fn credential(issued_at: u64, expires: u64) -> KnownCredential {
    KnownCredential {
        issued_at: UnixSeconds(issued_at),
        expires: UnixSeconds(expires),
        generation: 1,
    }
}

/// Devices of `namespaces` (empty: all) may call port 8080 of the pods.
pub(crate) fn policy(
    namespace: &str,
    name: &str,
    selector: &str,
    namespaces: &[&str],
) -> PolicyFacts {
    policy_of(
        namespace,
        name,
        json!({
            "target": {"workloads": {"podSelector": {"matchLabels": pairs(selector)}}},
            "from": [{"devices": {"namespaces": or_any(namespaces)}}],
            "to": [{"port": 8080}],
        }),
    )
}

/// Workloads of `namespaces` (empty: all) may call anything on the device.
pub(crate) fn device_policy(
    namespace: &str,
    name: &str,
    device: &str,
    namespaces: &[&str],
) -> PolicyFacts {
    policy_of(
        namespace,
        name,
        json!({
            "target": {"devices": {"names": [device]}},
            "from": [{"workloads": {"namespaces": or_any(namespaces), "serviceAccounts": ["prometheus"]}}],
            "to": [{"any": true}],
        }),
    )
}

/// An object from its JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn policy_of(namespace: &str, name: &str, spec: serde_json::Value) -> PolicyFacts {
    let policy: ChannelPolicy = from_json(json!({
        "apiVersion": "fairway.dev/v1alpha1",
        "kind": "ChannelPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }));
    PolicyFacts {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        compiled: policy.compile().unwrap(),
    }
}

fn or_any<'a>(namespaces: &[&'a str]) -> Vec<&'a str> {
    if namespaces.is_empty() {
        vec!["*"]
    } else {
        namespaces.to_vec()
    }
}

fn pairs(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
