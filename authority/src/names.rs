//! Names of our objects in the cluster, and the install's own identities.

use fairway_identity::{AccountName, Label, NameError, SpiffeId, TrustDomain};

/// Secret with the root's seed.
pub const ROOT_SECRET: &str = "fairway-root";
/// Secret with the issuers' seeds and the signed trust set.
pub const ISSUER_SECRET: &str = "fairway-issuer";
/// ConfigMap with the revocations.
pub const REVOCATIONS: &str = "fairway-revocations";
/// ConfigMap with what each replica's endpoints have acknowledged.
pub const ACKNOWLEDGEMENTS: &str = "fairway-acknowledgements";
/// ConfigMaps with whom credentials were issued to; a digit follows.
pub const ISSUED_PREFIX: &str = "fairway-issued-";
/// Condition of a DeviceIdentity, written by the authority: whether all who
/// are connected enforce that it is suspended or revoked.
pub const REVOKED: &str = "Revoked";
/// Field manager of everything the authority writes.
pub const FIELD_MANAGER: &str = "fairway-authority";

/// Where Fairway is installed, and who is who there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The install namespace.
    pub namespace: Label,
    /// ServiceAccount of the authority.
    pub authority_account: AccountName,
    /// ServiceAccount of the relays.
    pub relay_account: AccountName,
    /// Headless Service that selects the relays.
    pub relay_service: String,
}

impl Install {
    /// The usual names in `namespace`.
    ///
    /// # Errors
    /// The trust domain or namespace is malformed.
    pub fn new(trust_domain: &str, namespace: &str) -> Result<Self, NameError> {
        Ok(Self {
            trust_domain: TrustDomain::new(trust_domain)?,
            namespace: Label::new(namespace)?,
            authority_account: AccountName::new("fairway-authority")?,
            relay_account: AccountName::new("fairway-relay")?,
            relay_service: "fairway-relay-links".to_owned(),
        })
    }

    /// The authority's identity.
    pub fn authority(&self) -> SpiffeId {
        SpiffeId::workload(
            self.trust_domain.clone(),
            self.namespace.clone(),
            self.authority_account.clone(),
        )
    }

    /// The relays' identity.
    pub fn relay(&self) -> SpiffeId {
        SpiffeId::workload(
            self.trust_domain.clone(),
            self.namespace.clone(),
            self.relay_account.clone(),
        )
    }
}
