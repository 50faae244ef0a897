//! Who this relay is, as told by its endpoint.

use std::sync::Arc;

use fairway_session::{Admit, Local, Now, Rules};
use tokio::sync::watch;

/// Who this relay is at the moment, and whom it refuses.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(super) local: Local,
    pub(super) rules: Rules,
}

/// Follows the identity as it changes.
#[derive(Clone)]
pub struct IdentitySource {
    pub(super) identity: watch::Receiver<Identity>,
    pub(super) clock: Arc<dyn Fn() -> Now + Send + Sync>,
}

impl Identity {
    /// An identity with the revocations and the tickets of `rules`. A relay offers nothing by
    /// policy; what it offers (control streams) also those without a
    /// credential may have.
    pub fn new(local: Local, rules: &Rules) -> Self {
        let rules = Rules {
            revoked: rules.revoked.clone(),
            tickets: rules.tickets.clone(),
            admit: Admit::AlsoAnonymous,
            ..Rules::default()
        };
        Self { local, rules }
    }
}

impl IdentitySource {
    /// `identity` changes as credentials are renewed; `clock` tells the time as
    /// sessions want it.
    pub fn new(
        identity: watch::Receiver<Identity>,
        clock: impl Fn() -> Now + Send + Sync + 'static,
    ) -> Self {
        Self {
            identity,
            clock: Arc::new(clock),
        }
    }

    pub(super) fn current(&self) -> Identity {
        self.identity.borrow().clone()
    }

    pub(super) fn now(&self) -> Now {
        (self.clock)()
    }
}

impl std::fmt::Debug for IdentitySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IdentitySource")
            .field(&self.identity)
            .finish()
    }
}
