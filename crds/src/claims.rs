//! What a credential says of a device.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::device::{DeviceIdentity, DeviceState};
use crate::limits::{
    ATTRIBUTE_KEY_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_BYTES_MAX, ATTRIBUTES_MAX,
    CREDENTIAL_TTL_SECONDS_MAX, CREDENTIAL_TTL_SECONDS_MIN, DEVICE_SERVICE_BYTES_MAX,
    DEVICE_SERVICES_MAX,
};
use fairway_identity::{Label, NameError};

/// The parts of a credential that come from a [`DeviceIdentity`]. Issuer, key,
/// times and serial are added by the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaims {
    /// Namespace of the device.
    pub namespace: Label,
    /// Name of the device.
    pub name: Label,
    /// UID of the object: a device made anew under an old name is another one.
    pub uid: String,
    /// Attributes, as they are signed.
    pub attributes: BTreeMap<String, String>,
    /// Lifetime of the credential in seconds.
    pub ttl_seconds: u32,
    /// Whether a credential may be issued at all.
    pub state: DeviceState,
}

/// Why a [`DeviceIdentity`] cannot have a credential. The schema refuses
/// such objects; one can still be older than the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// The API server gave no UID or no namespace; it always does.
    #[error("the object has no {0}; it did not come from the API server")]
    Incomplete(&'static str),
    /// The namespace or name is not one DNS label.
    #[error(
        "the {what} cannot be part of an address; delete the device and make it under another name"
    )]
    Name {
        /// Namespace or name.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// An attribute's key is malformed.
    #[error(
        "attribute key {0:?} is malformed; write at most {ATTRIBUTE_KEY_BYTES_MAX} of a-z, 0-9, '-', '_' and '.'"
    )]
    AttributeKey(String),
    /// An attribute's value is malformed.
    #[error(
        "the value of attribute {0:?} is malformed; write at most {ATTRIBUTE_VALUE_BYTES_MAX} of A-Z, a-z, 0-9, '-', '_' and '.'"
    )]
    AttributeValue(String),
    /// Too many attributes, or too large ones.
    #[error(
        "{count} attributes with {bytes} bytes are too many for a credential; at most {ATTRIBUTES_MAX} with {ATTRIBUTES_BYTES_MAX} bytes fit"
    )]
    Attributes {
        /// How many there are.
        count: usize,
        /// Bytes of all keys and values.
        bytes: usize,
    },
    /// A service's name is malformed.
    #[error(
        "service name {0:?} is malformed; write at most {DEVICE_SERVICE_BYTES_MAX} of a-z, 0-9 and '-'"
    )]
    Service(String),
    /// Too many services.
    #[error("{0} services are too many; a device may offer {DEVICE_SERVICES_MAX}")]
    Services(usize),
    /// The lifetime is out of bounds.
    #[error(
        "ttlSeconds {0} is out of bounds; write {CREDENTIAL_TTL_SECONDS_MIN} to {CREDENTIAL_TTL_SECONDS_MAX}"
    )]
    Ttl(u32),
}

impl DeviceIdentity {
    /// What a credential says of this device.
    ///
    /// # Errors
    /// [`ClaimsError`] names the first field that cannot be signed.
    pub fn claims(&self) -> Result<DeviceClaims, ClaimsError> {
        let uid = self.uid().ok_or(ClaimsError::Incomplete("uid"))?;
        let namespace = self
            .namespace()
            .ok_or(ClaimsError::Incomplete("namespace"))?;
        check_attributes(&self.spec.attributes)?;
        check_services(self.spec.services.as_deref().unwrap_or_default())?;
        let ttl_seconds = self.spec.credential.ttl_seconds;
        if !(CREDENTIAL_TTL_SECONDS_MIN..=CREDENTIAL_TTL_SECONDS_MAX).contains(&ttl_seconds) {
            return Err(ClaimsError::Ttl(ttl_seconds));
        }
        Ok(DeviceClaims {
            namespace: label("namespace", &namespace)?,
            name: label("name", &self.name_any())?,
            uid,
            attributes: self.spec.attributes.clone(),
            ttl_seconds,
            state: self.spec.state,
        })
    }
}

fn label(what: &'static str, text: &str) -> Result<Label, ClaimsError> {
    Label::new(text).map_err(|source| ClaimsError::Name { what, source })
}

fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), ClaimsError> {
    for (key, value) in attributes {
        if !is_attribute_key(key) {
            return Err(ClaimsError::AttributeKey(key.clone()));
        }
        if !is_attribute_value(value) {
            return Err(ClaimsError::AttributeValue(key.clone()));
        }
    }
    let bytes = attributes
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if attributes.len() > ATTRIBUTES_MAX || bytes > ATTRIBUTES_BYTES_MAX {
        return Err(ClaimsError::Attributes {
            count: attributes.len(),
            bytes,
        });
    }
    Ok(())
}

fn check_services(services: &[String]) -> Result<(), ClaimsError> {
    if services.len() > DEVICE_SERVICES_MAX {
        return Err(ClaimsError::Services(services.len()));
    }
    match services.iter().find(|name| !is_device_service(name)) {
        Some(name) => Err(ClaimsError::Service(name.clone())),
        None => Ok(()),
    }
}

pub(crate) fn is_attribute_key(key: &str) -> bool {
    key.len() <= ATTRIBUTE_KEY_BYTES_MAX
        && key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c))
}

pub(crate) fn is_attribute_value(value: &str) -> bool {
    value.len() <= ATTRIBUTE_VALUE_BYTES_MAX
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value.ends_with(|c: char| c.is_ascii_alphanumeric())
        && value
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

pub(crate) fn is_device_service(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= DEVICE_SERVICE_BYTES_MAX
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-')
}
