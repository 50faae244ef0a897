//! CEL rules that more than one field has.

use kube::core::Rule;

use crate::schema::{ATTRIBUTE_KEY_PATTERN, ATTRIBUTE_VALUE_PATTERN};

/// A list or map that is there has something in it: "any" has to be written.
pub(crate) fn not_empty(message: &str) -> Rule {
    Rule::new("self.size() > 0").message(message)
}

/// `*` stands for everything, so nothing can stand beside it.
pub(crate) fn star_alone(message: &str) -> Rule {
    Rule::new("!self.exists(n, n == '*') || self.size() == 1").message(message)
}

/// A field that is `true` or not there at all.
pub(crate) fn only_true() -> Rule {
    Rule::new("self").message("`any` is `true` or left out")
}

/// Attributes that a DeviceIdentity can have.
pub(crate) fn attributes() -> Rule {
    Rule::new(format!("self.all(k, k.matches('{ATTRIBUTE_KEY_PATTERN}') && self[k].matches('{ATTRIBUTE_VALUE_PATTERN}'))"))
        .message("write attributes as a DeviceIdentity has them: keys of a-z, 0-9, '-', '_' and '.', values of A-Z too")
}

/// An expression has values if its operator compares with some.
pub(crate) fn values_by_operator() -> Rule {
    Rule::new("self.operator in ['In', 'NotIn'] ? (has(self.values) && self.values.size() > 0) : !has(self.values)")
        .message("operators In and NotIn need `values`; Exists and DoesNotExist must not have them")
}

/// The name of a service of a device.
pub(crate) const SERVICE_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
