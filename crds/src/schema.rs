//! Schemas that a derive cannot write: bounded conditions, names, durations.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::limits::{
    ATTRIBUTE_KEY_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX,
    CONDITION_MESSAGE_BYTES_MAX, CONDITIONS_MAX, DEVICE_SERVICE_BYTES_MAX, DEVICE_SERVICES_MAX,
    DNS_LABEL_BYTES_MAX, LABEL_KEY_BYTES_MAX, LIST_MAX, MATCH_LABELS_MAX, METHOD_BYTES_MAX,
    METHODS_MAX, PATH_BYTES_MAX, PATHS_MAX, SERVICE_ACCOUNT_BYTES_MAX, VALUES_MAX,
};

/// One DNS label, as Kubernetes wants it.
pub(crate) const DNS_LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// Dot-separated DNS labels.
const DNS_SUBDOMAIN_PATTERN: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Keys of attributes: no upper case, so that two keys never differ by case alone.
pub(crate) const ATTRIBUTE_KEY_PATTERN: &str = "^[a-z]([-_.a-z0-9]*[a-z0-9])?$";
/// Values of attributes are safe in an HTTP header as they are.
pub(crate) const ATTRIBUTE_VALUE_PATTERN: &str = "^[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$";

/// Keys of labels: an optional prefix, and a name.
pub(crate) const LABEL_KEY_PATTERN: &str =
    "^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$";

/// The list of conditions: a map by `type`, so that several writers may each
/// apply their own, and bounded, which the schema of k8s-openapi is not.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": CONDITIONS_MAX,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "minLength": 1},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "maxLength": 64, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                "message": {"type": "string", "maxLength": CONDITION_MESSAGE_BYTES_MAX},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
            },
        },
    })
}

/// Attributes of a device.
pub(crate) fn attributes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": ATTRIBUTES_MAX,
        "additionalProperties": {
            "type": "string",
            "maxLength": ATTRIBUTE_VALUE_BYTES_MAX,
        },
    })
}

/// `matchAttributes` of a selector. That it is not empty is said by a CEL rule,
/// whose message is better than that of `minProperties`.
pub(crate) fn match_attributes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": ATTRIBUTES_MAX,
        "additionalProperties": {
            "type": "string",
            "maxLength": ATTRIBUTE_VALUE_BYTES_MAX,
        },
    })
}

/// `matchLabels` of a pod selector.
pub(crate) fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MATCH_LABELS_MAX,
        "additionalProperties": {"type": "string", "maxLength": DNS_LABEL_BYTES_MAX},
    })
}

/// The key of a label.
pub(crate) fn label_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": LABEL_KEY_BYTES_MAX,
        "pattern": LABEL_KEY_PATTERN,
    })
}

/// The key of an attribute.
pub(crate) fn attribute_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": ATTRIBUTE_KEY_BYTES_MAX,
        "pattern": ATTRIBUTE_KEY_PATTERN,
    })
}

/// Values to compare an attribute or a label with.
pub(crate) fn values(_: &mut SchemaGenerator) -> Schema {
    list("string", ATTRIBUTE_VALUE_BYTES_MAX, None, VALUES_MAX)
}

/// A list of names, each one DNS label.
pub(crate) fn names(_: &mut SchemaGenerator) -> Schema {
    list(
        "string",
        DNS_LABEL_BYTES_MAX,
        Some(DNS_LABEL_PATTERN),
        LIST_MAX,
    )
}

/// A list of namespaces, or `*` for every namespace.
pub(crate) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    list(
        "string",
        DNS_LABEL_BYTES_MAX,
        Some(r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"),
        LIST_MAX,
    )
}

/// A list of ServiceAccounts, or `*`.
pub(crate) fn service_accounts(_: &mut SchemaGenerator) -> Schema {
    list(
        "string",
        SERVICE_ACCOUNT_BYTES_MAX,
        Some(&format!(
            r"^(\*|{})$",
            &DNS_SUBDOMAIN_PATTERN[1..DNS_SUBDOMAIN_PATTERN.len() - 1]
        )),
        LIST_MAX,
    )
}

/// Names of services that a device offers.
pub(crate) fn device_services(_: &mut SchemaGenerator) -> Schema {
    list(
        "string",
        DEVICE_SERVICE_BYTES_MAX,
        None,
        DEVICE_SERVICES_MAX,
    )
}

/// HTTP methods.
pub(crate) fn methods(_: &mut SchemaGenerator) -> Schema {
    list(
        "string",
        METHOD_BYTES_MAX,
        Some("^[A-Z][A-Z-]*$"),
        METHODS_MAX,
    )
}

/// Path patterns.
pub(crate) fn paths(_: &mut SchemaGenerator) -> Schema {
    list("string", PATH_BYTES_MAX, None, PATHS_MAX)
}

fn list(kind: &str, bytes_max: usize, pattern: Option<&str>, items_max: usize) -> Schema {
    let mut item = serde_json::json!({"type": kind, "maxLength": bytes_max, "minLength": 1});
    if let Some(pattern) = pattern {
        item["pattern"] = pattern.into();
    }
    json_schema!({
        "type": "array",
        "maxItems": items_max,
        "x-kubernetes-list-type": "set",
        "items": item,
    })
}
