//! Selection by signed attributes.

use std::collections::BTreeMap;

use crate::decision::CallerMiss;
use crate::model::Action;

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

impl AttributeSelector {
    /// Whether a policy of `action` means a device with these attributes.
    ///
    /// Where a value is to be compared and there is none, an Allow does not
    /// match and a Deny does: what is not known never opens a door. `Exists`
    /// and `DoesNotExist` ask just that, and mean the same for both.
    pub(crate) fn matches(&self, attributes: &BTreeMap<String, String>, action: Action) -> bool {
        let unknown_matches = action == Action::Deny;
        let equal = |(key, want): (&String, &String)| {
            attributes
                .get(key)
                .map_or(unknown_matches, |have| have == want)
        };
        let met = |requirement: &Requirement| {
            requirement.matches(attributes.get(&requirement.key), unknown_matches)
        };
        self.match_attributes.iter().all(equal) && self.expressions.iter().all(met)
    }

    /// Everything that `attributes` lack for a policy of `action` to match;
    /// empty if it does.
    pub(crate) fn misses(
        &self,
        attributes: &BTreeMap<String, String>,
        action: Action,
    ) -> Vec<CallerMiss> {
        let unknown_matches = action == Action::Deny;
        let exact = self.match_attributes.iter().filter_map(|(key, want)| {
            let have = attributes.get(key);
            let matches = have.map_or(unknown_matches, |have| have == want);
            (!matches).then(|| miss(key, have, format!("{want:?}")))
        });
        let expressions = self.expressions.iter().filter_map(|requirement| {
            let have = attributes.get(&requirement.key);
            (!requirement.matches(have, unknown_matches))
                .then(|| miss(&requirement.key, have, requirement.wanted()))
        });
        exact.chain(expressions).collect()
    }
}

impl Requirement {
    fn matches(&self, have: Option<&String>, unknown_matches: bool) -> bool {
        match self.operator {
            Operator::In => have.map_or(unknown_matches, |have| self.values.contains(have)),
            Operator::NotIn => have.map_or(unknown_matches, |have| !self.values.contains(have)),
            Operator::Exists => have.is_some(),
            Operator::DoesNotExist => have.is_none(),
        }
    }

    fn wanted(&self) -> String {
        match self.operator {
            Operator::In => format!("one of {:?}", self.values),
            Operator::NotIn => format!("none of {:?}", self.values),
            Operator::Exists => "any value".to_owned(),
            Operator::DoesNotExist => "no value".to_owned(),
        }
    }
}

fn miss(key: &str, have: Option<&String>, want: String) -> CallerMiss {
    CallerMiss::Attribute {
        key: key.to_owned(),
        have: have.cloned(),
        want,
    }
}
