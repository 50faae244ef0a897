//! The authority of a trust domain, as far as protocols see it: it issues
//! credentials, revokes them, and publishes trust sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_identity::{
    AccountName, CredentialClaims, Ed25519Key, Form, Issuer, IssuerId, Label, Revocation,
    RevocationList, RootHash, Serial, Signer, SpiffeId, Subject, TrustDomain, TrustSet, Uid,
    UnixSeconds, VerifiedTrustSet, issue,
};
use fairway_session::{Local, StaticSecret};

/// When simulated time begins.
pub const START: UnixSeconds = UnixSeconds(1_800_000_000);

/// How long credentials last here, in seconds.
pub const LIFETIME: u64 = 3600;

/// Everything that the authority of one trust domain knows.
#[derive(Debug)]
pub struct Authority {
    root: Ed25519Key,
    issuer: Ed25519Key,
    issuers_made: u8,
    set: TrustSet,
    trust: VerifiedTrustSet,
    revoked: RevocationList,
    serials: u64,
}

impl Authority {
    /// A trust domain with keys of its own, made from `seed`.
    ///
    /// # Panics
    /// `domain` is not the name of a trust domain.
    pub fn new(domain: &str, seed: u8) -> Self {
        let domain = TrustDomain::new(domain).expect("the name of a trust domain");
        let (root, issuer) = (key(seed, 0), key(seed, 1));
        let system = |account: &str| workload(&domain, "fairway-system", account);
        let set = TrustSet {
            version: 1,
            root: root.verifying_key(),
            issuers: vec![issuer_of(&issuer)],
            authority: system("fairway-authority"),
            relay: system("fairway-relay"),
            revocation_floor: UnixSeconds(0),
            trust_domain: domain,
        };
        Self {
            trust: verified(&set, &root),
            set,
            root,
            issuer,
            issuers_made: 1,
            revoked: RevocationList::default(),
            serials: 0,
        }
    }

    /// What endpoints pin.
    pub fn pin(&self) -> RootHash {
        RootHash::of(&self.root.verifying_key())
    }

    /// The newest trust set.
    pub fn trust(&self) -> &VerifiedTrustSet {
        &self.trust
    }

    /// Publishes the next trust set.
    pub fn publish(&mut self, change: impl FnOnce(&mut TrustSet)) -> &VerifiedTrustSet {
        change(&mut self.set);
        self.set.version += 1;
        self.trust = verified(&self.set, &self.root);
        &self.trust
    }

    /// Issues with a fresh key from now on; the two before it stay good.
    pub fn rotate_issuer(&mut self) {
        self.issuers_made += 1;
        self.issuer = key(self.issuers_made, 2);
        let newest = issuer_of(&self.issuer);
        self.publish(|set| {
            set.issuers.insert(0, newest);
            set.issuers.truncate(3);
        });
    }

    /// The key that credentials are signed with.
    pub fn issuer(&self) -> &Ed25519Key {
        &self.issuer
    }

    /// The identity of a device.
    pub fn device(&self, namespace: &str, name: &str) -> SpiffeId {
        SpiffeId::device(self.set.trust_domain.clone(), label(namespace), label(name))
    }

    /// The identity of a workload.
    pub fn workload(&self, namespace: &str, account: &str) -> SpiffeId {
        workload(&self.set.trust_domain, namespace, account)
    }

    /// What a credential issued at `now` says of whoever holds this handshake
    /// key. Change it before issuing to make a bad one.
    pub fn claims(&mut self, id: SpiffeId, key: [u8; 32], now: UnixSeconds) -> CredentialClaims {
        self.serials += 1;
        let mut serial = [0; 16];
        serial[..8].copy_from_slice(&self.serials.to_be_bytes());
        CredentialClaims {
            issuer: IssuerId::of(&self.issuer.verifying_key()),
            uid: uid(&id),
            id,
            handshake_key: key,
            not_before: now.minus(60),
            expires: now.plus(LIFETIME),
            issued_at: now,
            serial: Serial(serial),
            attributes: BTreeMap::new(),
            services: Vec::new(),
            pod: None,
        }
    }

    /// Both forms of a credential, the lean one first.
    ///
    /// # Panics
    /// The claims do not fit into a credential.
    pub fn issue(&self, claims: &CredentialClaims) -> [Vec<u8>; 2] {
        [Form::Lean, Form::Full].map(|form| issue(claims, form, &self.issuer).expect("it fits"))
    }

    /// Somebody with such a credential and the newest trust set.
    pub fn local(
        &self,
        secret: StaticSecret,
        claims: &CredentialClaims,
        instance: [u8; 16],
    ) -> Local {
        let [lean, full] = self.issue(claims);
        Local::anonymous(secret, self.pin(), instance)
            .with_credential(lean, full)
            .with_trust(self.trust.clone())
    }

    /// All that was issued to this object before `before` is dead.
    ///
    /// # Panics
    /// More are revoked than a list may hold.
    pub fn revoke(&mut self, id: &SpiffeId, before: UnixSeconds) {
        self.revoke_uid(uid(id), before);
    }

    /// The same by UID.
    ///
    /// # Panics
    /// More are revoked than a list may hold.
    pub fn revoke_uid(&mut self, uid: Uid, before: UnixSeconds) {
        let revocation = Revocation {
            issued_before: before,
            keep_until: before.plus(2 * LIFETIME),
        };
        self.revoked.insert(uid, revocation).expect("room");
    }

    /// The newest revocations.
    pub fn revocations(&self) -> Arc<RevocationList> {
        Arc::new(self.revoked.clone())
    }
}

/// The UID of the object behind an identity: made of its name.
pub fn uid(id: &SpiffeId) -> Uid {
    let name = match &id.subject {
        Subject::Device { namespace, name } => format!("{namespace}-device-{name}"),
        Subject::Workload {
            namespace,
            service_account,
        } => format!("{namespace}-sa-{service_account}"),
    };
    let end: Vec<char> = name.chars().rev().take(36).collect();
    let text: String = end.into_iter().rev().collect();
    Uid::new(&text).expect("letters, digits and dashes")
}

/// A label.
///
/// # Panics
/// It is none.
pub fn label(text: &str) -> Label {
    Label::new(text).expect("a label")
}

fn workload(domain: &TrustDomain, namespace: &str, account: &str) -> SpiffeId {
    let account = AccountName::new(account).expect("the name of an account");
    SpiffeId::workload(domain.clone(), label(namespace), account)
}

fn key(seed: u8, kind: u8) -> Ed25519Key {
    let mut bytes = [seed; 32];
    bytes[31] = kind;
    Ed25519Key::from_seed(bytes)
}

fn issuer_of(key: &Ed25519Key) -> Issuer {
    Issuer {
        key: key.verifying_key(),
        not_before: START.minus(1_000_000),
        expires: START.plus(10_000_000),
    }
}

fn verified(set: &TrustSet, root: &Ed25519Key) -> VerifiedTrustSet {
    let bytes = set.sign(root).expect("a trust set that can be signed");
    let pin = RootHash::of(&root.verifying_key());
    VerifiedTrustSet::verify(&bytes, &pin, 0).expect("its own work")
}
