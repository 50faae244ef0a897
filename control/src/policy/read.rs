//! From the wire, with every check that evaluation relies on.

use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, HttpRule, Method, Mode, Operator, PathPattern,
    Policy, PolicySet, Protocol, Requirement, limits,
};

use super::{
    PolicyError, WireAction, WireCaller, WireDoor, WireHttpRule, WireMode, WireOperator,
    WirePolicies, WirePolicy, WireProtocol, WireRequirement,
};
use crate::limits::{ATTRIBUTES_MAX, POLICY_TEXT_MAX};
use crate::wire::{Violation, at_most};

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
