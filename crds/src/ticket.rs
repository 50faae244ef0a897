//! `EnrollmentTicket`: the right to enrol as one device, once.

// KubeSchema expands to copies of the structs inside functions, and clippy
// takes the parts of two printcolumns for one attribute.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{limits, schema};

/// The public half of a ticket. `kubectl fairway ticket` writes it and prints
/// the secret half.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fairway.dev",
    version = "v1alpha1",
    kind = "EnrollmentTicket",
    plural = "enrollmenttickets",
    namespaced,
    cel,
    status = "EnrollmentTicketStatus",
    derive = "PartialEq",
    shortname = "fwticket",
    category = "fairway",
    doc = "The right to enrol as one device, once and for a time. Made by `kubectl fairway ticket DEVICE`; nothing in it is secret.",
    validation = Rule::new("self.metadata.name.startsWith(self.spec.device + '-')")
        .message("the name is the device's name, '-', and the first ten characters of the key's hash: make tickets by `kubectl fairway ticket DEVICE`"),
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("a ticket cannot be changed: delete it and make another by `kubectl fairway ticket DEVICE`"),
    printcolumn(name = "Device", type_ = "string", json_path = ".spec.device"),
    printcolumn(name = "Usable", type_ = "string", json_path = ".status.conditions[?(@.type==\"Usable\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Usable\")].reason"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiryTime"),
    printcolumn(name = "Used", type_ = "date", json_path = ".status.usedTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentTicketSpec {
    /// Name of the DeviceIdentity in the same namespace.
    #[schemars(length(min = 1, max = limits::DNS_LABEL_BYTES_MAX))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("write the name of a DeviceIdentity in the same namespace, for example pump-7"))]
    pub device: String,
    /// The ticket's public key: base64url of a COSE_Key.
    #[schemars(length(min = 32, max = limits::PUBLIC_KEY_TEXT_BYTES_MAX))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_-]+$')")
        .message("write the public key as base64url without padding, as `kubectl fairway ticket DEVICE` does"))]
    pub public_key: String,
    /// After this time the ticket is refused.
    pub expiry_time: Time,
}

/// What became of a ticket. The authority writes `usedTime` and `deviceKey`,
/// in one write that only one of two racing replicas can win; the operator
/// writes the conditions.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollmentTicketStatus {
    /// When the ticket was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_time: Option<Time>,
    /// The key that it was used with: the same key may try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::PUBLIC_KEY_TEXT_BYTES_MAX))]
    pub device_key: Option<String>,
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Usable`: somebody who holds the secret half can enrol with it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
