//! The authority's own front: whoever can reach the Unix socket, which is
//! shared with nobody else.

use std::collections::BTreeMap;

use crate::authority::Authority;
use crate::issue::{Made, Subject, WORKLOAD_RENEW_SECONDS, WORKLOAD_SECONDS};
use crate::refusal::Refusal;
use crate::revoke::Kind;
use crate::revoke::issued::Holder;

/// Issues the front's credential, with the authority's identity.
///
/// # Errors
/// See [`Refusal`].
pub async fn attest(authority: &Authority, handshake_key: [u8; 32]) -> Result<Made, Refusal> {
    // Nothing is written while there is nothing to sign with.
    authority.ring().await?;
    let uid = authority.pod_uid.clone();
    let holder = Holder {
        uid: uid.clone(),
        kind: Kind::Workload,
        namespace: authority.install.namespace.to_string(),
        name: authority.pod_name.clone(),
        lifetime: WORKLOAD_SECONDS,
    };
    authority.issued.add(&holder).await?;
    let subject = Subject {
        id: authority.install.authority(),
        uid,
        attributes: BTreeMap::new(),
        services: Vec::new(),
        pod: None,
        lifetime: WORKLOAD_SECONDS,
        renew_after: WORKLOAD_RENEW_SECONDS,
    };
    let now = authority.time_to_issue(&subject.uid).await?;
    authority.sign(&subject, handshake_key, now).await
}
