//! Who and what there is in a scene: rules, credentials, hellos.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_identity::CredentialClaims;
use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, Mode, Policy, PolicySet, Protocol,
};
use fairway_session::{Config, Doors, Rules};
use fairway_sim::authority::{Authority, START, label};

use crate::peer;

/// Small windows: a channel for 3,000 bytes, a stream for 2,000, 4 streams.
pub(super) fn config() -> Config {
    Config::new()
        .stream_window(2000)
        .and_then(|config| config.session_window(3000))
        .and_then(|config| config.max_streams(4))
        .unwrap()
}

/// Pumps may use port 1883 of the broker.
pub(super) fn rules() -> Rules {
    let mut doors = Doors::new();
    let (factory, broker) = (label("factory"), label("broker"));
    doors
        .add_service(factory.clone(), broker.clone(), 1883, 11883)
        .unwrap();
    doors.add_service(factory, broker, 80, 8080).unwrap();
    let pumps = CallerRule::Devices {
        namespaces: vec!["factory".to_owned()],
        names: vec![],
        attributes: AttributeSelector {
            match_attributes: BTreeMap::from([("model".to_owned(), "pump".to_owned())]),
            expressions: vec![],
        },
    };
    let policy = Policy {
        namespace: "factory".to_owned(),
        name: "pumps".to_owned(),
        action: Action::Allow,
        mode: Mode::Enforce,
        from: vec![pumps],
        to: vec![Door::Port {
            port: 11883,
            protocol: Protocol::Tcp,
        }],
    };
    Rules {
        policy: Arc::new(PolicySet {
            policies: vec![policy],
        }),
        doors: Arc::new(doors),
        ..Rules::default()
    }
}

/// What a credential says of whoever is the device `name`.
pub(crate) fn pump(authority: &mut Authority, name: &str, secret: u8) -> CredentialClaims {
    let id = authority.device("factory", name);
    let mut claims = authority.claims(id, peer::secret(secret).public(), START);
    claims.attributes = BTreeMap::from([("model".to_owned(), "pump".to_owned())]);
    claims
}

/// What a credential says of the workload behind the broker.
pub(crate) fn broker(authority: &mut Authority, account: &str, secret: u8) -> CredentialClaims {
    let id = authority.workload("factory", account);
    let mut claims = authority.claims(id, peer::secret(secret).public(), START);
    claims.services = vec![label("broker")];
    claims
}

/// A hello as CBOR.
pub(crate) fn hello(credential: Option<&[u8]>, trust: Option<&[u8]>, instance: u8) -> Vec<u8> {
    let fields = 1 + u8::from(credential.is_some()) + u8::from(trust.is_some());
    let mut out = vec![0xa0 | fields];
    for (key, bytes) in [(0, credential), (1, trust)] {
        let Some(bytes) = bytes else { continue };
        out.extend_from_slice(&[key, 0x59]);
        out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[2, 0x50]);
    out.extend_from_slice(&[instance; 16]);
    out
}

/// The clear header of message 1.
pub(crate) fn header(version: u8, suite: u8, purpose: u8, name: &[u8]) -> Vec<u8> {
    let mut header = vec![1, version, suite, purpose, name.len() as u8];
    header.extend_from_slice(name);
    header
}
