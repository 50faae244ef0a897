//! What every credential keeps within, whoever wrote it.

use std::collections::BTreeMap;

use super::CredentialClaims;
use crate::limits;
use crate::name::{Label, Subject};
use crate::time::UnixSeconds;

/// The bounds that hold for every credential; the same at both ends.
pub(super) fn check_claims(claims: &CredentialClaims) -> Result<(), &'static str> {
    check_times(claims)?;
    match &claims.id.subject {
        Subject::Device { .. } if !claims.services.is_empty() || claims.pod.is_some() => {
            Err("a device's credential has no Services and no pod")
        }
        Subject::Workload { .. } if !claims.attributes.is_empty() => {
            Err("a workload's credential has no attributes")
        }
        Subject::Device { .. } => check_attributes(&claims.attributes),
        Subject::Workload { .. } => check_services(&claims.services),
    }
}

fn check_times(claims: &CredentialClaims) -> Result<(), &'static str> {
    let latest = UnixSeconds(i64::MAX.unsigned_abs());
    if claims.expires > latest || claims.issued_at > latest {
        return Err("a time is beyond what a CWT can say");
    }
    if claims.not_before >= claims.expires {
        return Err("it ends before it begins");
    }
    Ok(())
}

/// How long a credential may live at most, counted from `nbf` and from `iat`.
pub(crate) fn check_lifetime(claims: &CredentialClaims) -> Result<(), &'static str> {
    let longest = limits::CREDENTIAL_SECONDS;
    if claims.expires.since(claims.not_before) > longest
        || claims.expires.since(claims.issued_at) > longest
    {
        return Err("it lives longer than any credential may");
    }
    Ok(())
}

/// Bounds on a device's attributes; the CRD's schema has the same.
fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), &'static str> {
    let printable = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b));
    let mut bytes = 0;
    for (key, value) in attributes {
        if key.is_empty() || key.len() > limits::ATTRIBUTE_KEY_LEN || !printable(key) {
            return Err("an attribute's key is empty, too long or not printable ASCII");
        }
        if value.len() > limits::ATTRIBUTE_VALUE_LEN || !printable(value) {
            return Err("an attribute's value is too long or not printable ASCII");
        }
        bytes += key.len() + value.len();
    }
    if attributes.len() > limits::ATTRIBUTES || bytes > limits::ATTRIBUTES_BYTES {
        return Err("too many attributes, or too long together");
    }
    Ok(())
}

fn check_services(services: &[Label]) -> Result<(), &'static str> {
    let bytes: usize = services.iter().map(|name| name.as_str().len()).sum();
    if services.len() > limits::SERVICES || bytes > limits::SERVICES_BYTES {
        return Err("too many Services, or their names are too long together");
    }
    Ok(())
}
