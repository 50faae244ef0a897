//! Who watches, and which revocations concern it.

use std::collections::BTreeSet;

use fairway_identity::{Subject, Uid};

use crate::names::Install;
use crate::revoke::{Entry, Kind};

/// Who watches, by its verified credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A device.
    Device {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// UID of its DeviceIdentity.
        uid: Uid,
    },
    /// A pod with a sidecar.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its ServiceAccount.
        service_account: String,
        /// Its UID.
        uid: Uid,
    },
    /// A relay.
    Relay {
        /// The install namespace.
        namespace: String,
        /// UID of its pod.
        uid: Uid,
    },
    /// The authority's own front.
    Front {
        /// The install namespace.
        namespace: String,
    },
}

/// Which revocations concern an endpoint: those of objects that it may meet.
/// By namespace, which is coarser than policy, but never too narrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    pub(super) kind: Option<Kind>,
    pub(super) namespaces: Namespaces,
    /// Relays and the authority concern everybody.
    pub(super) install: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Namespaces {
    All,
    Some(BTreeSet<String>),
}

impl Audience {
    /// The audience of a verified peer: the relays and the authority are
    /// recognised by exactly their identity.
    pub fn of(subject: &Subject, uid: Uid, install: &Install) -> Self {
        match subject {
            Subject::Device { namespace, name } => Self::Device {
                namespace: namespace.to_string(),
                name: name.to_string(),
                uid,
            },
            Subject::Workload {
                namespace,
                service_account,
            } if *namespace == install.namespace && *service_account == install.relay_account => {
                Self::Relay {
                    namespace: namespace.to_string(),
                    uid,
                }
            }
            Subject::Workload {
                namespace,
                service_account,
            } => Self::Workload {
                namespace: namespace.to_string(),
                service_account: service_account.to_string(),
                uid,
            },
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Device { namespace, .. }
            | Self::Workload { namespace, .. }
            | Self::Relay { namespace, .. }
            | Self::Front { namespace } => namespace,
        }
    }

    /// UID of the object behind it; empty for the front.
    pub fn uid(&self) -> &str {
        match self {
            Self::Device { uid, .. } | Self::Workload { uid, .. } | Self::Relay { uid, .. } => {
                uid.as_str()
            }
            Self::Front { .. } => "",
        }
    }

    /// What kind it is, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Device { .. } => "device",
            Self::Workload { .. } => "workload",
            Self::Relay { .. } => "relay",
            Self::Front { .. } => "front",
        }
    }
}

impl Concern {
    pub(super) fn everything(install: &Install) -> Self {
        Self {
            kind: None,
            namespaces: Namespaces::All,
            install: install.namespace.to_string(),
        }
    }

    /// Whether a revocation concerns the endpoint.
    pub fn covers(&self, entry: &Entry) -> bool {
        if entry.kind == Kind::Workload && entry.namespace == self.install {
            return true;
        }
        self.kind.is_none_or(|kind| kind == entry.kind)
            && match &self.namespaces {
                Namespaces::All => true,
                Namespaces::Some(namespaces) => namespaces.contains(&entry.namespace),
            }
    }
}
