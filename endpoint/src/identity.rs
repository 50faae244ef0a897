//! Who an endpoint is at a moment. A value: each change makes a new one.

use std::sync::Arc;

use fairway_identity::proof::TicketHolder;
use fairway_identity::{
    Clock, Ed25519Key, Form, RootHash, SpiffeId, UnixSeconds, VerifiedTrustSet,
};
use fairway_session::{Local, StaticSecret};

use crate::SavedCredential;
use crate::random::random_bytes;

/// Who this endpoint is at the moment.
pub(crate) struct Identity {
    /// Rises with each credential.
    pub(crate) generation: u64,
    /// The credential, while there is one that has not expired.
    pub(crate) credential: Option<SavedCredential>,
    /// Who the credential says that we are, or the config where it knows.
    pub(crate) id: Option<SpiffeId>,
    /// When the credential was issued.
    pub(crate) issued_at: Option<UnixSeconds>,
    /// The newest trust set known.
    pub(crate) trust: Option<VerifiedTrustSet>,
    /// What sessions show.
    pub(crate) local: Local,
    pin: RootHash,
    instance: [u8; 16],
    /// A newcomer's: relays have a budget of its own for who holds one.
    ticket: Option<Arc<Ed25519Key>>,
}

impl Identity {
    /// Without a credential.
    pub(crate) fn anonymous(
        pin: RootHash,
        instance: [u8; 16],
        id: Option<SpiffeId>,
        trust: Option<VerifiedTrustSet>,
        ticket: Option<Arc<Ed25519Key>>,
    ) -> Self {
        let secret = StaticSecret::from_bytes(random_bytes());
        Self {
            generation: 0,
            credential: None,
            id,
            issued_at: None,
            local: local(pin, instance, secret, trust.as_ref(), ticket.as_deref()),
            trust,
            pin,
            instance,
            ticket,
        }
    }

    pub(crate) fn is_credentialed(&self) -> bool {
        self.credential.is_some()
    }

    /// What an anonymous session with this key shows.
    pub(crate) fn anonymous_local(&self, secret: StaticSecret) -> Local {
        let ticket = self.ticket.as_deref();
        local(self.pin, self.instance, secret, self.trust.as_ref(), ticket)
    }

    /// The same with a new credential.
    pub(crate) fn with_credential(&self, saved: SavedCredential) -> Self {
        let secret = StaticSecret::from_bytes(*saved.secret);
        // What it says about us is of interest whatever the time is, which
        // may not be known yet.
        let at = Clock::Trusted(saved.renew_at);
        let ourselves = self.trust.as_ref().and_then(|trust| {
            let verified = trust.verify_credential(&saved.full, Form::Full, &secret.public(), at);
            verified.ok()
        });
        let id = ourselves.as_ref().map(|we| we.id().clone());
        Self {
            generation: self.generation + 1,
            id: id.or_else(|| self.id.clone()),
            issued_at: ourselves.as_ref().map(|we| we.issued_at()),
            local: self
                .anonymous_local(secret)
                .with_credential(saved.lean.clone(), saved.full.clone()),
            credential: Some(saved),
            ..self.copy()
        }
    }

    /// The same with a newer trust set.
    pub(crate) fn with_trust(&self, trust: VerifiedTrustSet) -> Self {
        Self {
            local: self.local.clone().with_trust(trust.clone()),
            trust: Some(trust),
            ..self.copy()
        }
    }

    /// The credential's time is over. It is still shown: relays have a budget
    /// of its own for who was genuine once.
    pub(crate) fn expired(&self) -> Self {
        Self {
            generation: self.generation + 1,
            credential: None,
            issued_at: None,
            ..self.copy()
        }
    }

    /// The credential is not taken by others: it is not shown again.
    pub(crate) fn refused(&self) -> Self {
        let secret = StaticSecret::from_bytes(random_bytes());
        Self {
            local: self.anonymous_local(secret),
            ..self.expired()
        }
    }

    fn copy(&self) -> Self {
        Self {
            generation: self.generation,
            credential: self.credential.clone(),
            id: self.id.clone(),
            issued_at: self.issued_at,
            trust: self.trust.clone(),
            local: self.local.clone(),
            pin: self.pin,
            instance: self.instance,
            ticket: self.ticket.clone(),
        }
    }
}

fn local(
    pin: RootHash,
    instance: [u8; 16],
    secret: StaticSecret,
    trust: Option<&VerifiedTrustSet>,
    ticket: Option<&Ed25519Key>,
) -> Local {
    let handshake_key = secret.public();
    let mut local = Local::anonymous(secret, pin, instance);
    // Without the proof a newcomer is served as well, only on another budget.
    if let Some(holder) = ticket.and_then(|key| TicketHolder::sign(&handshake_key, key).ok()) {
        local = local.with_ticket(holder);
    }
    match trust {
        Some(trust) => local.with_trust(trust.clone()),
        None => local,
    }
}
