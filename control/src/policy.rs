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

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn word() -> impl Strategy<Value = String> {
        "[a-z]{1,8}"
    }

    fn words() -> impl Strategy<Value = Vec<String>> {
        vec(word(), 0..3)
    }

    fn http_rule() -> impl Strategy<Value = HttpRule> {
        let method = prop_oneof![Just("GET"), Just("POST"), Just("DELETE")];
        let path = prop_oneof![Just("/metrics"), Just("/v1/*"), Just("/")];
        (vec(method, 0..3), vec(path, 0..3)).prop_map(|(methods, paths)| HttpRule {
            methods: methods
                .into_iter()
                .map(|m| Method::new(m).expect("a method"))
                .collect(),
            paths: paths
                .into_iter()
                .map(|p| PathPattern::new(p).expect("a pattern"))
                .collect(),
        })
    }

    fn protocol() -> impl Strategy<Value = Protocol> {
        prop_oneof![
            Just(Protocol::Tcp),
            vec(http_rule(), 0..3).prop_map(Protocol::Http)
        ]
    }

    fn door() -> impl Strategy<Value = Door> {
        prop_oneof![
            Just(Door::Any),
            (1..=u16::MAX, protocol()).prop_map(|(port, protocol)| Door::Port { port, protocol }),
            (word(), protocol())
                .prop_map(|(service, protocol)| Door::Service { service, protocol }),
        ]
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let with_values = prop_oneof![Just(Operator::In), Just(Operator::NotIn)];
        let without = prop_oneof![Just(Operator::Exists), Just(Operator::DoesNotExist)];
        prop_oneof![
            (word(), with_values, vec(word(), 1..3)).prop_map(|(key, operator, values)| {
                Requirement {
                    key,
                    operator,
                    values,
                }
            }),
            (word(), without).prop_map(|(key, operator)| Requirement {
                key,
                operator,
                values: vec![]
            }),
        ]
    }

    fn caller() -> impl Strategy<Value = CallerRule> {
        let selector = (btree_map(word(), word(), 0..3), vec(requirement(), 0..3));
        prop_oneof![
            (words(), words(), selector).prop_map(|(namespaces, names, selector)| {
                let (match_attributes, expressions) = selector;
                let attributes = AttributeSelector {
                    match_attributes,
                    expressions,
                };
                CallerRule::Devices {
                    namespaces,
                    names,
                    attributes,
                }
            }),
            (words(), words()).prop_map(|(namespaces, service_accounts)| {
                CallerRule::Workloads {
                    namespaces,
                    service_accounts,
                }
            }),
        ]
    }

    fn policy() -> impl Strategy<Value = Policy> {
        let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
        let mode = prop_oneof![Just(Mode::Enforce), Just(Mode::Audit)];
        (
            word(),
            word(),
            action,
            mode,
            vec(caller(), 0..3),
            vec(door(), 0..3),
        )
            .prop_map(|(namespace, name, action, mode, from, to)| Policy {
                namespace,
                name,
                action,
                mode,
                from,
                to,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is enforced at the endpoint is what the authority meant.
        #[test]
        fn policies_round_trip(policies in vec(policy(), 0..4)) {
            let set = PolicySet { policies };
            let bytes = minicbor::to_vec(WirePolicies::from(&set)).expect("into a Vec");
            let wire: WirePolicies = minicbor::decode(&bytes).expect("readable");
            prop_assert_eq!(PolicySet::try_from(wire).expect("valid"), set);
            for end in 0..bytes.len() {
                prop_assert!(minicbor::decode::<WirePolicies>(&bytes[..end]).is_err());
            }
        }
    }

    fn valid() -> WirePolicy {
        WirePolicy {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            action: WireAction::Deny,
            mode: WireMode::Enforce,
            from: vec![],
            to: vec![],
        }
    }

    fn refused(policy: WirePolicy) -> bool {
        // Among good ones, to see that it is the whole set that is refused.
        PolicySet::try_from(WirePolicies(vec![valid(), policy, valid()])).is_err()
    }

    fn requires(operator: WireOperator, values: &[&str]) -> WirePolicy {
        let requirement = WireRequirement {
            key: "site".to_owned(),
            operator,
            values: values.iter().map(ToString::to_string).collect(),
        };
        let caller = WireCaller::Devices {
            namespaces: vec![],
            names: vec![],
            match_attributes: BTreeMap::new(),
            expressions: vec![requirement],
        };
        WirePolicy {
            from: vec![caller],
            ..valid()
        }
    }

    fn http(method: &str, path: &str) -> WirePolicy {
        let rule = WireHttpRule {
            methods: vec![method.to_owned()],
            paths: vec![path.to_owned()],
        };
        let door = WireDoor::Port {
            port: 80,
            protocol: WireProtocol::Http(vec![rule]),
        };
        WirePolicy {
            to: vec![door],
            ..valid()
        }
    }

    #[test]
    fn what_is_not_understood_refuses_the_whole_set() {
        assert!(!refused(valid()));
        assert!(!refused(requires(WireOperator::In, &["oslo"])));
        assert!(!refused(http("GET", "/v1/*")));

        assert!(refused(requires(WireOperator::In, &[])));
        assert!(refused(requires(WireOperator::NotIn, &[])));
        assert!(refused(requires(WireOperator::Exists, &["oslo"])));
        assert!(refused(requires(WireOperator::DoesNotExist, &["oslo"])));
        assert!(refused(requires(
            WireOperator::In,
            &["x".repeat(POLICY_TEXT_MAX + 1).as_str()]
        )));
        assert!(refused(http("", "/")));
        assert!(refused(http("GET", "no-slash")));
        assert!(refused(http("GET", "/a*b")));
        assert!(refused(WirePolicy {
            name: String::new(),
            ..valid()
        }));
        let any = vec![WireDoor::Any; limits::DOORS + 1];
        assert!(refused(WirePolicy { to: any, ..valid() }));
        let nobody = WireCaller::Workloads {
            namespaces: vec![],
            service_accounts: vec![],
        };
        assert!(refused(WirePolicy {
            from: vec![nobody; limits::CALLER_RULES + 1],
            ..valid()
        }));
        let port_0 = WireDoor::Port {
            port: 0,
            protocol: WireProtocol::Tcp,
        };
        assert!(refused(WirePolicy {
            to: vec![port_0],
            ..valid()
        }));
        let unnamed = WireDoor::Service {
            service: String::new(),
            protocol: WireProtocol::Tcp,
        };
        assert!(refused(WirePolicy {
            to: vec![unnamed],
            ..valid()
        }));
        let many = WirePolicies(vec![valid(); limits::POLICIES + 1]);
        assert!(PolicySet::try_from(many).is_err());
    }

    #[test]
    fn an_unknown_action_mode_or_operator_is_refused() {
        assert!(minicbor::decode::<WireAction>(&[2]).is_err());
        assert!(minicbor::decode::<WireMode>(&[2]).is_err());
        assert!(minicbor::decode::<WireOperator>(&[4]).is_err());
        assert!(minicbor::decode::<WireDoor>(&[0x82, 3, 0x80]).is_err());
    }
}
