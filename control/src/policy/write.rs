//! To the wire.

use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, HttpRule, Mode, Operator, Policy, PolicySet,
    Protocol, Requirement,
};

use super::{
    WireAction, WireCaller, WireDoor, WireHttpRule, WireMode, WireOperator, WirePolicies,
    WirePolicy, WireProtocol, WireRequirement,
};

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
