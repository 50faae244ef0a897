//! The wire form of a policy set.
//!
//! The types of `policy` are not serialisable; these mirror them. Reading goes
//! through `TryFrom`, which checks everything that evaluation relies on: what
//! is not understood is an error for the whole set, never a policy with a part
//! missing. A set that cannot be read means that nothing is allowed.

use std::collections::BTreeMap;

use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, HttpRule, Method, Mode, Operator, PathPattern,
    Policy, PolicySet, Protocol, Requirement, limits,
};
use minicbor::{Decode, Encode};

use crate::limits::{ATTRIBUTES_MAX, POLICY_TEXT_MAX};
use crate::wire::{Violation, at_most};

/// Why a policy set on the wire is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A bound or a rule is broken.
    #[error("a policy is invalid: {0}")]
    Rule(#[from] Violation),
    /// A method or path pattern is not one.
    #[error("an HTTP rule is invalid: {0}")]
    Pattern(#[from] fairway_policy::PatternError),
}

/// A [`PolicySet`] as it is sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct WirePolicies(#[n(0)] Vec<WirePolicy>);

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct WirePolicy {
    #[n(0)]
    namespace: String,
    #[n(1)]
    name: String,
    #[n(2)]
    action: WireAction,
    #[n(3)]
    mode: WireMode,
    #[n(4)]
    from: Vec<WireCaller>,
    #[n(5)]
    to: Vec<WireDoor>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
enum WireAction {
    #[n(0)]
    Allow,
    #[n(1)]
    Deny,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
enum WireMode {
    #[n(0)]
    Enforce,
    #[n(1)]
    Audit,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
enum WireCaller {
    #[n(0)]
    Devices {
        #[n(0)]
        namespaces: Vec<String>,
        #[n(1)]
        names: Vec<String>,
        #[n(2)]
        match_attributes: BTreeMap<String, String>,
        #[n(3)]
        expressions: Vec<WireRequirement>,
    },
    #[n(1)]
    Workloads {
        #[n(0)]
        namespaces: Vec<String>,
        #[n(1)]
        service_accounts: Vec<String>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct WireRequirement {
    #[n(0)]
    key: String,
    #[n(1)]
    operator: WireOperator,
    #[n(2)]
    values: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
enum WireOperator {
    #[n(0)]
    In,
    #[n(1)]
    NotIn,
    #[n(2)]
    Exists,
    #[n(3)]
    DoesNotExist,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
enum WireDoor {
    #[n(0)]
    Any,
    #[n(1)]
    Port {
        #[n(0)]
        port: u16,
        #[n(1)]
        protocol: WireProtocol,
    },
    #[n(2)]
    Service {
        #[n(0)]
        service: String,
        #[n(1)]
        protocol: WireProtocol,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
enum WireProtocol {
    #[n(0)]
    Tcp,
    #[n(1)]
    Http(#[n(0)] Vec<WireHttpRule>),
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct WireHttpRule {
    #[n(0)]
    methods: Vec<String>,
    #[n(1)]
    paths: Vec<String>,
}

// === to the wire ===

impl From<&PolicySet> for WirePolicies {
    fn from(set: &PolicySet) -> Self {
        Self(set.policies.iter().map(WirePolicy::from).collect())
    }
}

impl From<&Policy> for WirePolicy {
    fn from(policy: &Policy) -> Self {
        // Destructured, so that a new field is noticed here.
        let Policy {
            namespace,
            name,
            action,
            mode,
            from,
            to,
        } = policy;
        Self {
            namespace: namespace.clone(),
            name: name.clone(),
            action: match action {
                Action::Allow => WireAction::Allow,
                Action::Deny => WireAction::Deny,
            },
            mode: match mode {
                Mode::Enforce => WireMode::Enforce,
                Mode::Audit => WireMode::Audit,
            },
            from: from.iter().map(WireCaller::from).collect(),
            to: to.iter().map(WireDoor::from).collect(),
        }
    }
}

impl From<&CallerRule> for WireCaller {
    fn from(rule: &CallerRule) -> Self {
        match rule {
            CallerRule::Devices {
                namespaces,
                names,
                attributes,
            } => {
                let AttributeSelector {
                    match_attributes,
                    expressions,
                } = attributes;
                Self::Devices {
                    namespaces: namespaces.clone(),
                    names: names.clone(),
                    match_attributes: match_attributes.clone(),
                    expressions: expressions.iter().map(WireRequirement::from).collect(),
                }
            }
            CallerRule::Workloads {
                namespaces,
                service_accounts,
            } => Self::Workloads {
                namespaces: namespaces.clone(),
                service_accounts: service_accounts.clone(),
            },
        }
    }
}

impl From<&Requirement> for WireRequirement {
    fn from(requirement: &Requirement) -> Self {
        let Requirement {
            key,
            operator,
            values,
        } = requirement;
        Self {
            key: key.clone(),
            operator: match operator {
                Operator::In => WireOperator::In,
                Operator::NotIn => WireOperator::NotIn,
                Operator::Exists => WireOperator::Exists,
                Operator::DoesNotExist => WireOperator::DoesNotExist,
            },
            values: values.clone(),
        }
    }
}

impl From<&Door> for WireDoor {
    fn from(door: &Door) -> Self {
        match door {
            Door::Any => Self::Any,
            Door::Port { port, protocol } => Self::Port {
                port: *port,
                protocol: protocol.into(),
            },
            Door::Service { service, protocol } => Self::Service {
                service: service.clone(),
                protocol: protocol.into(),
            },
        }
    }
}

impl From<&Protocol> for WireProtocol {
    fn from(protocol: &Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Http(rules) => Self::Http(rules.iter().map(WireHttpRule::from).collect()),
        }
    }
}

impl From<&HttpRule> for WireHttpRule {
    fn from(rule: &HttpRule) -> Self {
        let HttpRule { methods, paths } = rule;
        Self {
            methods: methods
                .iter()
                .map(|method| method.as_str().to_owned())
                .collect(),
            paths: paths.iter().map(|path| path.as_str().to_owned()).collect(),
        }
    }
}

// === from the wire ===

impl TryFrom<WirePolicies> for PolicySet {
    type Error = PolicyError;

    fn try_from(wire: WirePolicies) -> Result<Self, PolicyError> {
        at_most(&wire.0, limits::POLICIES, "too many policies")?;
        let policies = wire
            .0
            .into_iter()
            .map(Policy::try_from)
            .collect::<Result<_, _>>()?;
        Ok(Self { policies })
    }
}

impl TryFrom<WirePolicy> for Policy {
    type Error = PolicyError;

    fn try_from(wire: WirePolicy) -> Result<Self, PolicyError> {
        at_most(&wire.from, limits::CALLER_RULES, "too many caller rules")?;
        at_most(&wire.to, limits::DOORS, "too many doors in a policy")?;
        Ok(Self {
            namespace: text(wire.namespace)?,
            name: text(wire.name)?,
            action: match wire.action {
                WireAction::Allow => Action::Allow,
                WireAction::Deny => Action::Deny,
            },
            mode: match wire.mode {
                WireMode::Enforce => Mode::Enforce,
                WireMode::Audit => Mode::Audit,
            },
            from: wire
                .from
                .into_iter()
                .map(CallerRule::try_from)
                .collect::<Result<_, _>>()?,
            to: wire
                .to
                .into_iter()
                .map(Door::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<WireCaller> for CallerRule {
    type Error = PolicyError;

    fn try_from(wire: WireCaller) -> Result<Self, PolicyError> {
        match wire {
            WireCaller::Devices {
                namespaces,
                names,
                match_attributes,
                expressions,
            } => {
                if match_attributes.len() > ATTRIBUTES_MAX {
                    return Err(Violation("too many attributes in a selector").into());
                }
                for (key, value) in &match_attributes {
                    check_text(key)?;
                    check_value(value)?;
                }
                at_most(&expressions, limits::REQUIREMENTS, "too many requirements")?;
                let expressions = expressions
                    .into_iter()
                    .map(Requirement::try_from)
                    .collect::<Result<_, _>>()?;
                Ok(Self::Devices {
                    namespaces: texts(namespaces)?,
                    names: texts(names)?,
                    attributes: AttributeSelector {
                        match_attributes,
                        expressions,
                    },
                })
            }
            WireCaller::Workloads {
                namespaces,
                service_accounts,
            } => Ok(Self::Workloads {
                namespaces: texts(namespaces)?,
                service_accounts: texts(service_accounts)?,
            }),
        }
    }
}

impl TryFrom<WireRequirement> for Requirement {
    type Error = PolicyError;

    fn try_from(wire: WireRequirement) -> Result<Self, PolicyError> {
        let operator = match wire.operator {
            WireOperator::In => Operator::In,
            WireOperator::NotIn => Operator::NotIn,
            WireOperator::Exists => Operator::Exists,
            WireOperator::DoesNotExist => Operator::DoesNotExist,
        };
        let wants_values = match operator {
            Operator::In | Operator::NotIn => true,
            Operator::Exists | Operator::DoesNotExist => false,
        };
        if wants_values == wire.values.is_empty() {
            return Err(
                Violation("In and NotIn need values, the other operators have none").into(),
            );
        }
        at_most(
            &wire.values,
            limits::VALUES,
            "too many values in a requirement",
        )?;
        wire.values
            .iter()
            .try_for_each(|value| check_value(value))?;
        Ok(Self {
            key: text(wire.key)?,
            operator,
            values: wire.values,
        })
    }
}

impl TryFrom<WireDoor> for Door {
    type Error = PolicyError;

    fn try_from(wire: WireDoor) -> Result<Self, PolicyError> {
        match wire {
            WireDoor::Any => Ok(Self::Any),
            WireDoor::Port { port: 0, .. } => Err(Violation("port 0 in a policy").into()),
            WireDoor::Port { port, protocol } => Ok(Self::Port {
                port,
                protocol: protocol.try_into()?,
            }),
            WireDoor::Service { service, protocol } => Ok(Self::Service {
                service: text(service)?,
                protocol: protocol.try_into()?,
            }),
        }
    }
}

impl TryFrom<WireProtocol> for Protocol {
    type Error = PolicyError;

    fn try_from(wire: WireProtocol) -> Result<Self, PolicyError> {
        match wire {
            WireProtocol::Tcp => Ok(Self::Tcp),
            WireProtocol::Http(rules) => {
                at_most(&rules, limits::HTTP_RULES, "too many HTTP rules")?;
                Ok(Self::Http(
                    rules
                        .into_iter()
                        .map(HttpRule::try_from)
                        .collect::<Result<_, _>>()?,
                ))
            }
        }
    }
}

impl TryFrom<WireHttpRule> for HttpRule {
    type Error = PolicyError;

    fn try_from(wire: WireHttpRule) -> Result<Self, PolicyError> {
        at_most(&wire.methods, limits::METHODS, "too many methods")?;
        at_most(&wire.paths, limits::PATHS, "too many paths")?;
        let methods = wire
            .methods
            .iter()
            .map(|method| Method::new(method))
            .collect::<Result<_, _>>()?;
        let paths = wire
            .paths
            .iter()
            .map(|path| PathPattern::new(path))
            .collect::<Result<_, _>>()?;
        Ok(Self { methods, paths })
    }
}

fn texts(list: Vec<String>) -> Result<Vec<String>, Violation> {
    at_most(&list, limits::NAMES, "too many names in a policy")?;
    list.iter().try_for_each(|item| check_text(item))?;
    Ok(list)
}

fn text(item: String) -> Result<String, Violation> {
    check_text(&item).map(|()| item)
}

fn check_text(item: &str) -> Result<(), Violation> {
    if item.is_empty() {
        Err(Violation("an empty name in a policy"))
    } else {
        check_value(item)
    }
}

/// The value of an attribute may be empty; a name may not.
fn check_value(value: &str) -> Result<(), Violation> {
    if value.len() > POLICY_TEXT_MAX {
        return Err(Violation("a text in a policy is too long"));
    }
    Ok(())
}
