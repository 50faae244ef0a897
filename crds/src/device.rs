//! `DeviceIdentity`: one device outside the cluster.

// KubeSchema expands to copies of the structs inside functions, and clippy
// takes the parts of two printcolumns for one attribute.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{limits, rules, schema};

/// What the owner of a fleet says about one device.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fairway.dev",
    version = "v1alpha1",
    kind = "DeviceIdentity",
    plural = "deviceidentities",
    namespaced,
    cel,
    status = "DeviceIdentityStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "fwdev",
    category = "fairway",
    doc = "A device outside the cluster that may have a credential of Fairway. The name is the device's name in its identity and address.",
    validation = Rule::new("self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')")
        .message("the name is one label of an address: write at most 63 of a-z, 0-9 and '-', without dots, for example pump-7"),
    printcolumn(name = "State", type_ = "string", json_path = ".spec.state"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Enrolled", type_ = "string", json_path = ".status.conditions[?(@.type==\"Enrolled\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Last seen", type_ = "date", json_path = ".status.lastSeenTime"),
    printcolumn(name = "Identity", type_ = "string", json_path = ".status.identity", priority = 1),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.credential.expiryTime", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceIdentitySpec {
    /// Facts about the device, signed into its credential; policies select by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::attributes")]
    #[x_kube(
        validation = Rule::new(format!("self.all(k, k.size() <= {} && k.matches('{}'))", limits::ATTRIBUTE_KEY_BYTES_MAX, schema::ATTRIBUTE_KEY_PATTERN))
            .message("write keys of attributes with at most 32 of a-z, 0-9, '-', '_' and '.', beginning with a letter and ending with a letter or digit"),
        validation = Rule::new(format!("self.all(k, self[k].matches('{}'))", schema::ATTRIBUTE_VALUE_PATTERN))
            .message("write values of attributes with at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit; leave an attribute out instead of an empty value"),
        validation = Rule::new(format!("self.map(k, k.size() + self[k].size()).sum() <= {}", limits::ATTRIBUTES_BYTES_MAX))
            .message("keys and values of all attributes together may have 400 bytes, because they are signed into a credential of at most 1 KiB: write shorter or fewer ones")
    )]
    pub attributes: BTreeMap<String, String>,

    /// Names of the services that the device may offer: of those in the
    /// device's own configuration, which maps them to local addresses, only
    /// these. Left out: all of them. An empty list: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::device_services")]
    #[x_kube(validation = Rule::new(format!("self.all(s, s.matches('{}'))", rules::SERVICE_PATTERN))
        .message("write names of services with at most 15 of a-z, 0-9 and '-', for example metrics; ports and addresses belong into the device's own configuration"))]
    pub services: Option<Vec<String>>,

    /// The credential that the device gets.
    #[serde(default)]
    pub credential: CredentialSpec,

    /// Whether the device may have a credential.
    #[serde(default)]
    pub state: DeviceState,
}

/// The credential that a device gets.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSpec {
    /// Lifetime in seconds; it is renewed at half of it.
    #[serde(default = "default_ttl_seconds")]
    #[schemars(range(min = limits::CREDENTIAL_TTL_SECONDS_MIN, max = limits::CREDENTIAL_TTL_SECONDS_MAX), extend("format" = "int64"))]
    pub ttl_seconds: u32,
}

impl Default for CredentialSpec {
    fn default() -> Self {
        Self {
            ttl_seconds: default_ttl_seconds(),
        }
    }
}

/// Whether a device may have a credential.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum DeviceState {
    /// It may.
    #[default]
    Active,
    /// Not now: its credentials are revoked, its key stays enrolled.
    Suspended,
    /// Never again with the key that it has: its credentials are revoked, and
    /// coming back needs a new ticket.
    Revoked,
}

/// What became of a device. The operator writes `identity`,
/// `observedGeneration` and `conditions`; the authority the rest.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceIdentityStatus {
    /// The SPIFFE ID in the device's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub identity: Option<String>,
    /// The signing key that the device enrolled: base64url of a COSE_Key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::PUBLIC_KEY_TEXT_BYTES_MAX))]
    pub device_key: Option<String>,
    /// The newest credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialStatus>,
    /// When a channel of the device was last known to be up; written at most
    /// once in 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_time: Option<Time>,
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the device can be talked to by policy. `Enrolled`: it has a
    /// key and had a credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The newest credential of a device.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// Its serial number, in hexadecimal.
    #[schemars(length(max = 64))]
    pub serial: String,
    /// When it ends.
    pub expiry_time: Time,
    /// When it was issued; revocations go by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_time: Option<Time>,
    /// The generation of the spec that it was signed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

fn default_ttl_seconds() -> u32 {
    limits::CREDENTIAL_TTL_SECONDS_DEFAULT
}
