//! A trust domain with throwaway keys, for tests.

use std::collections::BTreeMap;

use fairway_identity::{
    Clock, CredentialClaims, Ed25519Key, Form, Issuer, IssuerId, Label, RootHash, Serial, Signer,
    SpiffeId, TrustSet, Uid, UnixSeconds, VerifiedPeer, VerifiedTrustSet,
};

/// The time that all credentials here are issued at.
pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// The trust domain `t.local` with relay and authority in `fairway-system`.
pub(crate) struct Domain {
    root: Ed25519Key,
    issuer: Ed25519Key,
    pub(crate) pin: RootHash,
    pub(crate) trust: VerifiedTrustSet,
}

impl Domain {
    pub(crate) fn new() -> Self {
        Self::with_keys(1)
    }

    /// The same names under other keys.
    pub(crate) fn foreign() -> Self {
        Self::with_keys(5)
    }

    fn with_keys(seed: u8) -> Self {
        let root = Ed25519Key::from_seed([seed; 32]);
        let issuer = Ed25519Key::from_seed([seed + 1; 32]);
        let pin = RootHash::of(&root.verifying_key());
        let trust = trust_set(&root, &issuer, 1, UnixSeconds(0));
        Self {
            root,
            issuer,
            pin,
            trust,
        }
    }

    /// The next trust set: what was issued before `floor` is void.
    pub(crate) fn raise_floor(&mut self, floor: UnixSeconds) {
        let version = self.trust.version() + 1;
        self.trust = trust_set(&self.root, &self.issuer, version, floor);
    }

    /// Both forms of a credential for `ns/NS/device/NAME` or `ns/NS/sa/NAME`.
    pub(crate) fn issue(&self, who: &str, services: &[&str], key: [u8; 32]) -> [Vec<u8>; 2] {
        self.issue_at(NOW, who, services, key)
    }

    /// The same, issued at another time; it lasts an hour.
    pub(crate) fn issue_at(
        &self,
        issued_at: UnixSeconds,
        who: &str,
        services: &[&str],
        key: [u8; 32],
    ) -> [Vec<u8>; 2] {
        let claims = CredentialClaims {
            issuer: IssuerId::of(&self.issuer.verifying_key()),
            id: id(who),
            handshake_key: key,
            not_before: issued_at,
            expires: issued_at.plus(3_600),
            issued_at,
            serial: Serial([9; 16]),
            uid: uid(who),
            attributes: BTreeMap::new(),
            services: services
                .iter()
                .map(|name| Label::new(name).unwrap())
                .collect(),
            pod: None,
        };
        [Form::Lean, Form::Full]
            .map(|form| fairway_identity::issue(&claims, form, &self.issuer).unwrap())
    }

    /// A peer as a session would have verified it.
    pub(crate) fn peer(&self, who: &str, services: &[&str]) -> VerifiedPeer {
        let key = [7; 32];
        let [_, full] = self.issue(who, services, key);
        let clock = Clock::Trusted(NOW);
        self.trust
            .verify_credential(&full, Form::Full, &key, clock)
            .unwrap()
    }
}

fn trust_set(
    root: &Ed25519Key,
    issuer: &Ed25519Key,
    version: u64,
    revocation_floor: UnixSeconds,
) -> VerifiedTrustSet {
    let set = TrustSet {
        version,
        trust_domain: "t.local".parse().unwrap(),
        root: root.verifying_key(),
        issuers: vec![Issuer {
            key: issuer.verifying_key(),
            not_before: NOW.minus(86_400),
            expires: NOW.plus(90 * 86_400),
        }],
        authority: id("ns/fairway-system/sa/fairway-authority"),
        relay: id("ns/fairway-system/sa/fairway-relay"),
        revocation_floor,
    };
    let pin = RootHash::of(&set.root);
    VerifiedTrustSet::verify(&set.sign(root).unwrap(), &pin, 0).unwrap()
}

/// The ID of `ns/NS/device/NAME` or `ns/NS/sa/NAME`.
pub(crate) fn id(who: &str) -> SpiffeId {
    format!("spiffe://t.local/{who}").parse().unwrap()
}

/// A UID made of the name.
pub(crate) fn uid(who: &str) -> Uid {
    Uid::new(
        &who.replace('/', "-")
            .chars()
            .rev()
            .take(36)
            .collect::<String>(),
    )
    .unwrap()
}
