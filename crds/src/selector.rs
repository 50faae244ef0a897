//! Selectors of pods and of devices, matched without a cluster.

use std::collections::BTreeMap;

use fairway_policy::{Action, AttributeSelector, Operator, Requirement};

use crate::channel_policy::{LabelExpression, PodSelector, SelectorOperator};

/// Injected pods that a policy protects.
#[derive(Clone, Debug, PartialEq)]
pub enum PodTarget {
    /// Every one of the namespace.
    Any,
    /// Those with certain labels.
    Selected(PodSelector),
}

/// Devices that a policy protects.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSelector {
    /// Their names; empty means any.
    pub names: Vec<String>,
    /// Their attributes.
    pub attributes: AttributeSelector,
    /// What the policy does: a Deny also protects a device of which an
    /// attribute is not known, an Allow opens only what it surely means.
    pub action: Action,
}

impl PodSelector {
    /// Whether a pod with these labels is selected, as everywhere in
    /// Kubernetes: `NotIn` holds where the label is missing.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .flatten()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .flatten()
                .all(|expression| expression.matches(labels))
    }
}

impl LabelExpression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = |value: &String| self.values.iter().flatten().any(|v| v == value);
        match self.operator {
            SelectorOperator::In => value.is_some_and(listed),
            SelectorOperator::NotIn => !value.is_some_and(listed),
            SelectorOperator::Exists => value.is_some(),
            SelectorOperator::DoesNotExist => value.is_none(),
        }
    }
}

impl DeviceSelector {
    /// Whether a device of the policy's namespace is selected.
    pub fn matches(&self, name: &str, attributes: &BTreeMap<String, String>) -> bool {
        // Where an attribute is missing, the answer that opens no door.
        let if_missing = match self.action {
            Action::Allow => false,
            Action::Deny => true,
        };
        (self.names.is_empty() || self.names.iter().any(|n| n == name))
            && self
                .attributes
                .match_attributes
                .iter()
                .all(|(key, value)| attributes.get(key).map_or(if_missing, |v| v == value))
            && self
                .attributes
                .expressions
                .iter()
                .all(|requirement| holds(requirement, attributes, if_missing))
    }
}

fn holds(
    requirement: &Requirement,
    attributes: &BTreeMap<String, String>,
    if_missing: bool,
) -> bool {
    let value = attributes.get(&requirement.key);
    match requirement.operator {
        Operator::In => value.map_or(if_missing, |v| requirement.values.contains(v)),
        Operator::NotIn => value.map_or(if_missing, |v| !requirement.values.contains(v)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}
