//! What unit tests share: nodes with credentials, joined in memory, so that
//! time can be paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use fairway_identity::credential::{CredentialClaims, Serial, Uid};
use fairway_identity::name::AccountName;
use fairway_identity::trust::{Issuer, IssuerId, TrustSet};
use fairway_identity::{
    Ed25519Key, Form, Label, RootHash, Signer, SpiffeId, TrustDomain, UnixSeconds,
    VerifiedTrustSet, issue,
};
use fairway_policy::{Action, AttributeSelector, CallerRule, Door, Mode, Policy, PolicySet};
use fairway_session::{Doors, StaticSecret};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::node::Node;
use crate::{EndpointConfig, Incoming, SavedCredential};

/// The name that [`collector`] answers to, and the port that it offers.
pub(crate) const COLLECTOR: &str = "collector.factory.svc.fairway.internal";
pub(crate) const PORT: u16 = 80;

/// A workload that every caller may call, and the calls that come.
pub(crate) fn collector() -> (Arc<Node>, mpsc::Receiver<Incoming>) {
    let (sender, calls) = mpsc::channel(4);
    let mut config = config(account("factory", "collector"), &["collector"]);
    config.names = vec![COLLECTOR.parse().unwrap()];
    config.incoming = Some(sender);
    let node = Node::new(config, None);
    node.update_rules(|rules| {
        let mut doors = Doors::new();
        let (namespace, service) = (label("factory"), label("collector"));
        doors.add_service(namespace, service, PORT, 8080).unwrap();
        rules.doors = Arc::new(doors);
        rules.policy = Arc::new(anybody());
    });
    (node, calls)
}

/// The authority's front, without anything behind it.
pub(crate) fn front() -> Arc<Node> {
    let mut config = config(account("fairway-system", "fairway-authority"), &[]);
    config.names = vec![fairway_identity::Address::Authority];
    let front = crate::front::Front::new("/nonexistent".into());
    Node::new(config, Some(front))
}

/// A device with a credential.
pub(crate) fn pump() -> Arc<Node> {
    let id = SpiffeId::device(domain(), label("factory"), label("pump-7"));
    Node::new(config(id, &[]), None)
}

/// Somebody without one.
pub(crate) fn newcomer() -> Arc<Node> {
    let pin = RootHash::of(&root().verifying_key());
    Node::new(EndpointConfig::new(domain(), pin), None)
}

fn config(id: SpiffeId, services: &[&str]) -> EndpointConfig {
    let trust = trust();
    let mut config = EndpointConfig::new(domain(), RootHash::of(&root().verifying_key()));
    let secret = Zeroizing::new([services.len() as u8 + 40; 32]);
    let claims = CredentialClaims {
        issuer: IssuerId::of(&issuer().verifying_key()),
        id,
        handshake_key: StaticSecret::from_bytes(*secret).public(),
        not_before: now().minus(60),
        expires: now().plus(3_600),
        issued_at: now(),
        serial: Serial([1; 16]),
        uid: Uid::new("uid-1").unwrap(),
        attributes: BTreeMap::new(),
        services: services.iter().map(|s| label(s)).collect(),
        pod: None,
    };
    config.saved = Some(SavedCredential {
        secret,
        lean: issue(&claims, Form::Lean, &issuer()).unwrap(),
        full: issue(&claims, Form::Full, &issuer()).unwrap(),
        renew_at: now().plus(1_800),
        expires: claims.expires,
    });
    config.trust = Some(trust);
    config
}

fn trust() -> VerifiedTrustSet {
    let set = TrustSet {
        version: 1,
        trust_domain: domain(),
        root: root().verifying_key(),
        issuers: vec![Issuer {
            key: issuer().verifying_key(),
            not_before: now().minus(1_000),
            expires: now().plus(1_000_000),
        }],
        authority: account("fairway-system", "fairway-authority"),
        relay: account("fairway-system", "fairway-relay"),
        revocation_floor: UnixSeconds(0),
    };
    let pin = RootHash::of(&root().verifying_key());
    VerifiedTrustSet::verify(&set.sign(&root()).unwrap(), &pin, 0).unwrap()
}

fn anybody() -> PolicySet {
    PolicySet {
        policies: vec![Policy {
            namespace: "factory".to_owned(),
            name: "open".to_owned(),
            action: Action::Allow,
            mode: Mode::Enforce,
            from: vec![CallerRule::Devices {
                namespaces: Vec::new(),
                names: Vec::new(),
                attributes: AttributeSelector::default(),
            }],
            to: vec![Door::Any],
        }],
    }
}

fn root() -> Ed25519Key {
    Ed25519Key::from_seed([1; 32])
}

fn issuer() -> Ed25519Key {
    Ed25519Key::from_seed([2; 32])
}

fn domain() -> TrustDomain {
    TrustDomain::new("fairway.local").unwrap()
}

fn account(namespace: &str, name: &str) -> SpiffeId {
    SpiffeId::workload(domain(), label(namespace), AccountName::new(name).unwrap())
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixSeconds(since.unwrap().as_secs())
}
