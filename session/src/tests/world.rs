//! A trust domain with everybody in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_channel::StaticSecret;
use fairway_identity::{
    Address, CredentialClaims, Ed25519Key, Form, Issuer, IssuerId, Label, Revocation,
    RevocationList, RootHash, Serial, Signer, SpiffeId, TrustDomain, TrustSet, Uid, UnixSeconds,
    VerifiedTrustSet, issue,
};
use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, HttpRule, Method, Mode, PathPattern, Policy,
    PolicySet, Protocol,
};

use crate::{Admit, Doors, Local, Rules};

/// When the tests begin.
pub(super) const START: UnixSeconds = UnixSeconds(1_800_000_000);

/// How long credentials last here.
pub(super) const LIFETIME: u64 = 3600;

pub(super) struct World {
    pub(super) root: Ed25519Key,
    pub(super) issuer: Ed25519Key,
    pub(super) domain: TrustDomain,
}

impl World {
    pub(super) fn new() -> Self {
        Self::of("fairway.local", 1)
    }

    /// Another installation, with keys of its own.
    pub(super) fn of(domain: &str, seed: u8) -> Self {
        Self {
            root: Ed25519Key::from_seed([seed; 32]),
            issuer: Ed25519Key::from_seed([seed + 100; 32]),
            domain: TrustDomain::new(domain).unwrap(),
        }
    }

    pub(super) fn pin(&self) -> RootHash {
        RootHash::of(&self.root.verifying_key())
    }

    pub(super) fn trust_set(&self, version: u64) -> TrustSet {
        TrustSet {
            version,
            trust_domain: self.domain.clone(),
            root: self.root.verifying_key(),
            issuers: vec![Issuer {
                key: self.issuer.verifying_key(),
                not_before: START.minus(1_000_000),
                expires: START.plus(1_000_000),
            }],
            authority: self.workload("fairway-system", "fairway-authority"),
            relay: self.workload("fairway-system", "fairway-relay"),
            revocation_floor: UnixSeconds(0),
        }
    }

    pub(super) fn trust(&self, version: u64) -> VerifiedTrustSet {
        self.signed(&self.trust_set(version))
    }

    pub(super) fn signed(&self, set: &TrustSet) -> VerifiedTrustSet {
        let bytes = set.sign(&self.root).unwrap();
        VerifiedTrustSet::verify(&bytes, &self.pin(), 0).unwrap()
    }

    pub(super) fn workload(&self, namespace: &str, account: &str) -> SpiffeId {
        let account = fairway_identity::AccountName::new(account).unwrap();
        SpiffeId::workload(self.domain.clone(), label(namespace), account)
    }

    pub(super) fn device(&self, name: &str) -> SpiffeId {
        SpiffeId::device(self.domain.clone(), label("factory"), label(name))
    }

    /// Claims for whoever holds `secret`; change them before issuing.
    pub(super) fn claims(&self, id: SpiffeId, secret: &StaticSecret) -> CredentialClaims {
        CredentialClaims {
            issuer: IssuerId::of(&self.issuer.verifying_key()),
            uid: Uid::new("uid-of-somebody").unwrap(),
            id,
            handshake_key: secret.public(),
            not_before: START.minus(60),
            expires: START.plus(LIFETIME),
            issued_at: START.minus(60),
            serial: Serial([7; 16]),
            attributes: BTreeMap::new(),
            services: vec![],
            pod: None,
        }
    }

    /// Somebody with the newest trust set and a credential with these claims.
    pub(super) fn local(&self, secret: StaticSecret, claims: &CredentialClaims) -> Local {
        let lean = issue(claims, Form::Lean, &self.issuer).unwrap();
        let full = issue(claims, Form::Full, &self.issuer).unwrap();
        Local::anonymous(secret, self.pin(), [1; 16])
            .with_credential(lean, full)
            .with_trust(self.trust(1))
    }

    /// The device `pump-7`, with attributes.
    pub(super) fn pump(&self) -> Local {
        self.pump_with(|_| {})
    }

    pub(super) fn pump_with(&self, change: impl FnOnce(&mut CredentialClaims)) -> Local {
        let secret = secret(7);
        let mut claims = self.claims(self.device("pump-7"), &secret);
        claims.uid = Uid::new("uid-of-pump-7").unwrap();
        claims.attributes = BTreeMap::from([("model".to_owned(), "pump".to_owned())]);
        change(&mut claims);
        self.local(secret, &claims)
    }

    /// The workload behind the Service `broker`.
    pub(super) fn broker(&self) -> Local {
        self.broker_with(|_| {})
    }

    pub(super) fn broker_with(&self, change: impl FnOnce(&mut CredentialClaims)) -> Local {
        let secret = secret(8);
        let mut claims = self.claims(self.workload("factory", "mosquitto"), &secret);
        claims.uid = Uid::new("uid-of-broker").unwrap();
        claims.services = vec![label("broker")];
        change(&mut claims);
        self.local(secret, &claims)
    }

    pub(super) fn authority(&self) -> Local {
        let secret = secret(9);
        self.local(
            secret.clone(),
            &self.claims(self.trust_set(1).authority, &secret),
        )
    }

    pub(super) fn relay(&self) -> Local {
        let secret = secret(10);
        self.local(
            secret.clone(),
            &self.claims(self.trust_set(1).relay, &secret),
        )
    }

    /// A device that has not enrolled yet: it knows the root's hash only.
    pub(super) fn newcomer(&self) -> Local {
        Local::anonymous(secret(11), self.pin(), [2; 16])
    }
}

pub(super) fn secret(seed: u8) -> StaticSecret {
    StaticSecret::from_bytes([seed; 32])
}

pub(super) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(super) fn address(text: &str) -> Address {
    format!("{text}.fairway.internal").parse().unwrap()
}

// === rules ===

/// What the broker plays by: port 1883 leads to 11883, for devices that are
/// pumps.
pub(super) fn broker_rules(policies: Vec<Policy>) -> Rules {
    let mut doors = Doors::new();
    doors
        .add_service(label("factory"), label("broker"), 1883, 11883)
        .unwrap();
    doors
        .add_service(label("factory"), label("broker"), 80, 8080)
        .unwrap();
    Rules {
        policy: Arc::new(PolicySet { policies }),
        doors: Arc::new(doors),
        ..Rules::default()
    }
}

pub(super) fn open_rules() -> Rules {
    Rules {
        admit: Admit::AlsoAnonymous,
        ..Rules::default()
    }
}

pub(super) fn revoking(uid: &str) -> Arc<RevocationList> {
    let mut list = RevocationList::default();
    let entry = Revocation {
        issued_before: START.plus(1),
        keep_until: START.plus(LIFETIME),
    };
    list.insert(Uid::new(uid).unwrap(), entry).unwrap();
    Arc::new(list)
}

fn pumps() -> CallerRule {
    CallerRule::Devices {
        namespaces: vec!["factory".to_owned()],
        names: vec![],
        attributes: AttributeSelector {
            match_attributes: BTreeMap::from([("model".to_owned(), "pump".to_owned())]),
            expressions: vec![],
        },
    }
}

fn policy(action: Action, port: u16, protocol: Protocol) -> Policy {
    Policy {
        namespace: "factory".to_owned(),
        name: format!("{action:?}-{port}").to_lowercase(),
        action,
        mode: Mode::Enforce,
        from: vec![pumps()],
        to: vec![Door::Port { port, protocol }],
    }
}

/// Pumps may reach the pod's port.
pub(super) fn allow(port: u16) -> Policy {
    policy(Action::Allow, port, Protocol::Tcp)
}

/// Pumps may not.
pub(super) fn deny(port: u16) -> Policy {
    policy(Action::Deny, port, Protocol::Tcp)
}

/// Pumps may send requests with this method, below this path.
pub(super) fn http_allow(port: u16, method: &str, path: &str) -> Policy {
    let rule = HttpRule {
        methods: vec![Method::new(method).unwrap()],
        paths: vec![PathPattern::new(path).unwrap()],
    };
    policy(Action::Allow, port, Protocol::Http(vec![rule]))
}
