//! Selection by signed attributes.

use std::collections::BTreeMap;

/// What a device's attributes must be: everything in it must hold. Empty
/// matches every device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeSelector {
    /// Key and the value it must have.
    pub match_attributes: BTreeMap<String, String>,
    /// Further requirements.
    pub expressions: Vec<Requirement>,
}

/// One requirement on one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The attribute.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// Values for `In` and `NotIn`; empty for the others.
    pub values: Vec<String>,
}

/// How a [`Requirement`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of the list.
    In,
    /// The value is none of the list.
    NotIn,
    /// The attribute is there.
    Exists,
    /// The attribute is not there.
    DoesNotExist,
}
