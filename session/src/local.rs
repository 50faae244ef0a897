//! What a session is given: who this side is, by which rules it plays, and
//! what time it is.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use fairway_channel::{StaticSecret, Time};
use fairway_identity::proof::{TicketHolder, TicketId};
use fairway_identity::{Clock, RevocationList, RootHash, VerifiedTrustSet};
use fairway_policy::PolicySet;

use crate::doors::Doors;

/// The time of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, since an origin that the caller chooses; for timers.
    pub mono: Time,
    /// What is known about the wall clock; for credentials.
    pub clock: Clock,
}

/// Who this side is. Cheap to clone: sessions of one side share it.
#[derive(Clone)]
pub struct Local {
    pub(crate) own: Arc<Own>,
    pub(crate) trust: Option<VerifiedTrustSet>,
}

/// What is the same for all sessions of one side.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) secret: StaticSecret,
    pub(crate) credential: Option<Arc<Credential>>,
    pub(crate) pin: RootHash,
    pub(crate) instance: [u8; 16],
    pub(crate) ticket: Option<Arc<TicketHolder>>,
}

/// Both forms of one credential, as issued.
pub(crate) struct Credential {
    pub(crate) lean: Vec<u8>,
    pub(crate) full: Vec<u8>,
}

impl Local {
    /// One without a credential: it can dial the authority or a relay and open
    /// Control streams, nothing else. `pin` is the hash of the root that
    /// everything hangs on; `instance` is random and names this process.
    pub fn anonymous(secret: StaticSecret, pin: RootHash, instance: [u8; 16]) -> Self {
        let own = Own {
            secret,
            credential: None,
            pin,
            instance,
            ticket: None,
        };
        Self {
            own: Arc::new(own),
            trust: None,
        }
    }

    /// With the credential (both forms) that was issued for this secret's
    /// public key.
    #[must_use]
    pub fn with_credential(mut self, lean: Vec<u8>, full: Vec<u8>) -> Self {
        let credential = Some(Arc::new(Credential { lean, full }));
        Arc::make_mut(&mut self.own).credential = credential;
        self
    }

    /// With the proof that this side holds a ticket: relays have a budget of
    /// its own for who does. It is shown only while there is no credential.
    #[must_use]
    pub fn with_ticket(mut self, holder: TicketHolder) -> Self {
        Arc::make_mut(&mut self.own).ticket = Some(Arc::new(holder));
        self
    }

    /// With the newest trust set known; its version is the floor for what
    /// peers show.
    #[must_use]
    pub fn with_trust(mut self, trust: VerifiedTrustSet) -> Self {
        self.trust = Some(trust);
        self
    }

    /// The same, but for the instance, which a session keeps.
    pub(crate) fn set_instance(&mut self, instance: [u8; 16]) {
        if self.own.instance != instance {
            Arc::make_mut(&mut self.own).instance = instance;
        }
    }

    /// Whether there is a credential to show.
    pub fn is_anonymous(&self) -> bool {
        self.own.credential.is_none()
    }

    /// The newest trust set known.
    pub fn trust(&self) -> Option<&VerifiedTrustSet> {
        self.trust.as_ref()
    }
}

/// Keys and credentials stay out of logs.
impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("anonymous", &self.is_anonymous())
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

/// The rules that this side plays by. Cheap to clone. The default denies
/// everything.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Who may call what here.
    pub policy: Arc<PolicySet>,
    /// Credentials that are dead before their time.
    pub revoked: Arc<RevocationList>,
    /// What is offered here.
    pub doors: Arc<Doors>,
    /// Tickets that nobody has used yet: who holds one, and has no credential,
    /// is told from the other peers without one.
    pub tickets: Arc<BTreeSet<TicketId>>,
    /// Whether peers without a credential are let in at all.
    pub admit: Admit,
}

/// Who may have a session with this side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admit {
    /// Peers with a valid credential.
    #[default]
    Credentialed,
    /// Also peers without one, and peers whose genuine credential has expired,
    /// for Control streams only. For the authority's front and for relays.
    AlsoAnonymous,
}
