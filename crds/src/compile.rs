//! From a [`ChannelPolicy`] to what endpoints evaluate.
//!
//! The schema refuses what is refused here, with friendlier words. It is
//! checked again because an object may be older than the schema, and because
//! in `fairway_policy` an empty list means "any", which nobody must get by
//! accident.

use std::collections::BTreeMap;

use fairway_identity::{Label, NameError};
use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, HttpRule, Method, Mode, Operator, PathPattern,
    PatternError, Policy, Requirement,
};
use kube::ResourceExt;

use crate::channel_policy::{
    AttributeExpression, CallerSpec, ChannelPolicy, DeviceCallers, DeviceTarget, DoorSpec,
    HttpRuleSpec, PolicyAction, PolicyMode, Protocol, SelectorOperator, TargetSpec,
    WorkloadCallers, WorkloadTarget,
};
use crate::claims::{is_attribute_key, is_attribute_value, is_device_service};
use crate::limits::{
    EXPRESSIONS_MAX, HTTP_RULES_MAX, LIST_MAX, METHODS_MAX, PATHS_MAX, RULES_MAX,
    SERVICE_ACCOUNT_BYTES_MAX, VALUES_MAX,
};
use crate::selector::{DeviceSelector, PodTarget};

/// A policy, and whom it protects.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledPolicy {
    /// What the protected endpoints evaluate.
    pub policy: Policy,
    /// Endpoints of the policy's namespace that it protects.
    pub target: PolicyTarget,
}

/// Whom a policy protects, within its own namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyTarget {
    /// Injected pods.
    Workloads(PodTarget),
    /// Devices.
    Devices(DeviceSelector),
    /// Every pod and device. Only a policy that cannot be read, and therefore
    /// denies, has this target.
    Namespace,
}

/// Why a policy cannot be compiled, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    /// The field, as in `spec.from[0].devices.names`.
    pub field: String,
    /// What is wrong with it, and what to write instead.
    pub problem: Problem,
}

/// What is wrong with a field of a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is missing in an object that the API server cannot have accepted.
    #[error("is missing")]
    Missing,
    /// A choice was not made, or made twice.
    #[error("write exactly one of {0}")]
    ExactlyOne(&'static str),
    /// Nothing is said.
    #[error("must not be empty; {0}")]
    Empty(&'static str),
    /// A list is too long.
    #[error("{count} entries are too many; at most {max} are possible")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// `*` stands beside other names.
    #[error("write `*` alone, or names without it")]
    WildcardBesideNames,
    /// A name is malformed.
    #[error("{name:?} is not a name: {error}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// A ServiceAccount's name is malformed.
    #[error(
        "{0:?} is not the name of a ServiceAccount with at most {SERVICE_ACCOUNT_BYTES_MAX} characters"
    )]
    ServiceAccount(String),
    /// The key of an attribute is malformed.
    #[error("{0:?} is not the key of an attribute; write a-z, 0-9, '-', '_' and '.'")]
    AttributeKey(String),
    /// The value of an attribute is malformed.
    #[error("{0:?} is not the value of an attribute; write A-Z, a-z, 0-9, '-', '_' and '.'")]
    AttributeValue(String),
    /// An expression has values where it must not, or none where it must.
    #[error("In and NotIn need values; Exists and DoesNotExist must not have them")]
    Values,
    /// A port was given for devices.
    #[error("a device has no pod ports; write `service` when the target is devices")]
    PortOfDevice,
    /// A service was given for workloads.
    #[error("`service` is for devices; write `port` when the target is workloads")]
    ServiceOfWorkload,
    /// Port 0.
    #[error("0 is not a port; write 1 to 65535")]
    PortZero,
    /// The name of a device's service is malformed.
    #[error("{0:?} is not the name of a service; write at most 15 of a-z, 0-9 and '-'")]
    Service(String),
    /// Rules for HTTP on a door that is not HTTP.
    #[error("rules for HTTP need `protocol: HTTP` and a `port` or `service` beside them")]
    NotHttp,
    /// A method or path is malformed.
    #[error("{text:?}: {error}")]
    Pattern {
        /// The text.
        text: String,
        /// What is wrong with it.
        error: PatternError,
    },
}

impl ChannelPolicy {
    /// The policy as endpoints evaluate it.
    ///
    /// # Errors
    /// [`PolicyError`] names the first field that cannot be understood.
    pub fn compile(&self) -> Result<CompiledPolicy, PolicyError> {
        let namespace = self
            .namespace()
            .ok_or_else(|| Problem::Missing.at("metadata.namespace"))?;
        let target = target(&self.spec.target, self.spec.action)?;
        let from = entries(
            &self.spec.from,
            RULES_MAX,
            "spec.from",
            WRITE_CALLERS,
            caller,
        )?;
        let to = entries(
            &self.spec.to,
            RULES_MAX,
            "spec.to",
            WRITE_DOORS,
            |spec, at| door(spec, &target, at),
        )?;
        let policy = Policy {
            namespace,
            name: self.name_any(),
            action: action(self.spec.action),
            mode: match self.spec.mode {
                PolicyMode::Enforce => Mode::Enforce,
                PolicyMode::Audit => Mode::Audit,
            },
            from,
            to,
        };
        Ok(CompiledPolicy { policy, target })
    }

    /// What the endpoints must hold for this policy, whether it can be
    /// compiled or not. One that cannot never opens a door: an Allow is left
    /// out, and a Deny that counts denies everything to whomever it would
    /// protect, or to the whole namespace where not even that can be read.
    pub fn compile_closed(&self) -> Option<CompiledPolicy> {
        if let Ok(compiled) = self.compile() {
            return Some(compiled);
        }
        match (self.spec.action, self.spec.mode) {
            (PolicyAction::Allow, _) | (_, PolicyMode::Audit) => None,
            (PolicyAction::Deny, PolicyMode::Enforce) => {
                let namespace = self.namespace()?;
                let mut closed = CompiledPolicy::unreadable(&namespace, &self.name_any());
                if let Ok(target) = target(&self.spec.target, self.spec.action) {
                    closed.target = target;
                }
                Some(closed)
            }
        }
    }
}

impl CompiledPolicy {
    /// Stands for an object of which nothing but the name could be read: it
    /// may have been a Deny, so everything in its namespace is denied.
    pub fn unreadable(namespace: &str, name: &str) -> Self {
        let workloads = |service_accounts| CallerRule::Workloads {
            namespaces: Vec::new(),
            service_accounts,
        };
        Self {
            policy: Policy {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                action: Action::Deny,
                mode: Mode::Enforce,
                from: vec![
                    CallerRule::Devices {
                        namespaces: Vec::new(),
                        names: Vec::new(),
                        attributes: AttributeSelector::default(),
                    },
                    workloads(Vec::new()),
                    workloads(vec!["default".to_owned()]),
                ],
                to: vec![Door::Any],
            },
            target: PolicyTarget::Namespace,
        }
    }
}

impl PolicyTarget {
    /// Whether a pod of the policy's namespace with these labels is protected.
    pub fn selects_pod(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Workloads(PodTarget::Any) | Self::Namespace => true,
            Self::Workloads(PodTarget::Selected(selector)) => selector.matches(labels),
            Self::Devices(_) => false,
        }
    }

    /// Whether a device of the policy's namespace is protected.
    pub fn selects_device(&self, name: &str, attributes: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Workloads(_) => false,
            Self::Devices(selector) => selector.matches(name, attributes),
            Self::Namespace => true,
        }
    }
}

impl Problem {
    fn at(self, field: impl Into<String>) -> PolicyError {
        PolicyError {
            field: field.into(),
            problem: self,
        }
    }
}

fn action(action: PolicyAction) -> Action {
    match action {
        PolicyAction::Allow => Action::Allow,
        PolicyAction::Deny => Action::Deny,
    }
}

fn target(spec: &TargetSpec, action: PolicyAction) -> Result<PolicyTarget, PolicyError> {
    match (&spec.workloads, &spec.devices) {
        (Some(workloads), None) => pod_target(workloads).map(PolicyTarget::Workloads),
        (None, Some(devices)) => device_target(devices, action).map(PolicyTarget::Devices),
        (None, None) | (Some(_), Some(_)) => {
            Err(Problem::ExactlyOne("`workloads` and `devices`").at("spec.target"))
        }
    }
}

fn pod_target(spec: &WorkloadTarget) -> Result<PodTarget, PolicyError> {
    const AT: &str = "spec.target.workloads";
    match (&spec.pod_selector, spec.any) {
        (None, Some(true)) => Ok(PodTarget::Any),
        (Some(selector), None) => {
            let at = format!("{AT}.podSelector");
            if selector.match_labels.is_none() && selector.match_expressions.is_none() {
                return Err(Problem::Empty("write `any: true` to mean every pod").at(at));
            }
            if selector
                .match_labels
                .as_ref()
                .is_some_and(BTreeMap::is_empty)
            {
                return Err(Problem::Empty(LEAVE_OUT).at(format!("{at}.matchLabels")));
            }
            let expressions = selector.match_expressions.as_deref();
            optional(
                expressions,
                EXPRESSIONS_MAX,
                &format!("{at}.matchExpressions"),
                |e, at| values(e.operator, e.values.as_deref(), at).map(drop),
            )?;
            Ok(PodTarget::Selected(selector.clone()))
        }
        _ => Err(Problem::ExactlyOne("`podSelector` and `any: true`").at(AT)),
    }
}

fn device_target(spec: &DeviceTarget, action: PolicyAction) -> Result<DeviceSelector, PolicyError> {
    const AT: &str = "spec.target.devices";
    let says_which =
        spec.names.is_some() || spec.match_attributes.is_some() || spec.match_expressions.is_some();
    if says_which == spec.any.is_some() || spec.any == Some(false) {
        return Err(Problem::ExactlyOne("a selection of devices and `any: true`").at(AT));
    }
    Ok(DeviceSelector {
        names: labels(spec.names.as_deref(), &format!("{AT}.names"))?,
        attributes: attributes(
            spec.match_attributes.as_ref(),
            spec.match_expressions.as_deref(),
            AT,
        )?,
        action: self::action(action),
    })
}

fn caller(spec: &CallerSpec, at: &str) -> Result<CallerRule, PolicyError> {
    match (&spec.devices, &spec.workloads) {
        (Some(devices), None) => device_callers(devices, &format!("{at}.devices")),
        (None, Some(workloads)) => workload_callers(workloads, &format!("{at}.workloads")),
        (None, None) | (Some(_), Some(_)) => {
            Err(Problem::ExactlyOne("`devices` and `workloads`").at(at))
        }
    }
}

fn device_callers(spec: &DeviceCallers, at: &str) -> Result<CallerRule, PolicyError> {
    Ok(CallerRule::Devices {
        namespaces: namespaces(&spec.namespaces, &format!("{at}.namespaces"))?,
        names: labels(spec.names.as_deref(), &format!("{at}.names"))?,
        attributes: attributes(
            spec.match_attributes.as_ref(),
            spec.match_expressions.as_deref(),
            at,
        )?,
    })
}

fn workload_callers(spec: &WorkloadCallers, at: &str) -> Result<CallerRule, PolicyError> {
    Ok(CallerRule::Workloads {
        namespaces: namespaces(&spec.namespaces, &format!("{at}.namespaces"))?,
        service_accounts: wildcard_or(
            &spec.service_accounts,
            &format!("{at}.serviceAccounts"),
            "write `[\"*\"]` to mean every one but `default`",
            |name, at| {
                fairway_identity::AccountName::new(name)
                    .map(|_| ())
                    .map_err(|_| Problem::ServiceAccount(name.to_owned()).at(at))
            },
        )?,
    })
}

fn door(spec: &DoorSpec, target: &PolicyTarget, at: &str) -> Result<Door, PolicyError> {
    const ONE: &str = "`port`, `service` and `any: true`";
    match (spec.port, &spec.service, spec.any) {
        (Some(0), None, None) => Err(Problem::PortZero.at(format!("{at}.port"))),
        (Some(port), None, None) => match target {
            PolicyTarget::Devices(_) => Err(Problem::PortOfDevice.at(format!("{at}.port"))),
            PolicyTarget::Workloads(_) | PolicyTarget::Namespace => Ok(Door::Port {
                port,
                protocol: protocol(spec, at)?,
            }),
        },
        (None, Some(service), None) => match target {
            PolicyTarget::Workloads(_) => {
                Err(Problem::ServiceOfWorkload.at(format!("{at}.service")))
            }
            PolicyTarget::Devices(_) | PolicyTarget::Namespace => {
                if !is_device_service(service) {
                    return Err(Problem::Service(service.clone()).at(format!("{at}.service")));
                }
                Ok(Door::Service {
                    service: service.clone(),
                    protocol: protocol(spec, at)?,
                })
            }
        },
        (None, None, Some(true)) => {
            if spec.http.is_some() || spec.protocol == Protocol::Http {
                return Err(Problem::NotHttp.at(at));
            }
            Ok(Door::Any)
        }
        _ => Err(Problem::ExactlyOne(ONE).at(at)),
    }
}

fn protocol(spec: &DoorSpec, at: &str) -> Result<fairway_policy::Protocol, PolicyError> {
    match (spec.protocol, &spec.http) {
        (Protocol::Tcp, None) => Ok(fairway_policy::Protocol::Tcp),
        (Protocol::Tcp, Some(_)) => Err(Problem::NotHttp.at(format!("{at}.http"))),
        (Protocol::Http, rules) => {
            let at = format!("{at}.http");
            optional(rules.as_deref(), HTTP_RULES_MAX, &at, http_rule)
                .map(fairway_policy::Protocol::Http)
        }
    }
}

fn http_rule(spec: &HttpRuleSpec, at: &str) -> Result<HttpRule, PolicyError> {
    if spec.methods.is_none() && spec.paths.is_none() {
        return Err(Problem::Empty("write `methods`, `paths` or both").at(at));
    }
    let methods = format!("{at}.methods");
    let paths = format!("{at}.paths");
    Ok(HttpRule {
        methods: optional(
            spec.methods.as_deref(),
            METHODS_MAX,
            &methods,
            |text, at| pattern(text, Method::new(text), at),
        )?,
        paths: optional(spec.paths.as_deref(), PATHS_MAX, &paths, |text, at| {
            pattern(text, PathPattern::new(text), at)
        })?,
    })
}

fn pattern<T>(text: &str, made: Result<T, PatternError>, at: &str) -> Result<T, PolicyError> {
    made.map_err(|error| {
        let text = text.to_owned();
        Problem::Pattern { text, error }.at(at)
    })
}

fn attributes(
    match_attributes: Option<&BTreeMap<String, String>>,
    match_expressions: Option<&[AttributeExpression]>,
    at: &str,
) -> Result<AttributeSelector, PolicyError> {
    let at_map = format!("{at}.matchAttributes");
    if match_attributes.is_some_and(BTreeMap::is_empty) {
        return Err(Problem::Empty(LEAVE_OUT).at(at_map));
    }
    for (key, value) in match_attributes.into_iter().flatten() {
        attribute_key(key, &at_map)?;
        attribute_value(value, &at_map)?;
    }
    let at = format!("{at}.matchExpressions");
    Ok(AttributeSelector {
        match_attributes: match_attributes.cloned().unwrap_or_default(),
        expressions: optional(match_expressions, EXPRESSIONS_MAX, &at, |expression, at| {
            attribute_key(&expression.key, at)?;
            let values = values(expression.operator, expression.values.as_deref(), at)?;
            values
                .iter()
                .try_for_each(|value| attribute_value(value, at))?;
            Ok(Requirement {
                key: expression.key.clone(),
                operator: operator(expression.operator),
                values,
            })
        })?,
    })
}

fn operator(operator: SelectorOperator) -> Operator {
    match operator {
        SelectorOperator::In => Operator::In,
        SelectorOperator::NotIn => Operator::NotIn,
        SelectorOperator::Exists => Operator::Exists,
        SelectorOperator::DoesNotExist => Operator::DoesNotExist,
    }
}

/// The values of an expression: some for In and NotIn, none for the others.
fn values(
    operator: SelectorOperator,
    values: Option<&[String]>,
    at: &str,
) -> Result<Vec<String>, PolicyError> {
    match (operator, values) {
        (SelectorOperator::In | SelectorOperator::NotIn, Some(values)) if !values.is_empty() => {
            at_most(values, VALUES_MAX, at)?;
            Ok(values.to_vec())
        }
        (SelectorOperator::Exists | SelectorOperator::DoesNotExist, None) => Ok(Vec::new()),
        _ => Err(Problem::Values.at(at)),
    }
}

fn attribute_key(key: &str, at: &str) -> Result<(), PolicyError> {
    match is_attribute_key(key) {
        true => Ok(()),
        false => Err(Problem::AttributeKey(key.to_owned()).at(at)),
    }
}

fn attribute_value(value: &str, at: &str) -> Result<(), PolicyError> {
    match is_attribute_value(value) {
        true => Ok(()),
        false => Err(Problem::AttributeValue(value.to_owned()).at(at)),
    }
}

/// Namespaces; `["*"]` becomes the empty list, which means any.
fn namespaces(names: &[String], at: &str) -> Result<Vec<String>, PolicyError> {
    const INSTEAD: &str = "write `[\"*\"]` to mean every namespace";
    wildcard_or(names, at, INSTEAD, |name, at| label(name, at).map(drop))
}

fn wildcard_or(
    names: &[String],
    at: &str,
    instead: &'static str,
    check: impl Fn(&str, &str) -> Result<(), PolicyError>,
) -> Result<Vec<String>, PolicyError> {
    match names {
        [] => Err(Problem::Empty(instead).at(at)),
        [star] if star == "*" => Ok(Vec::new()),
        _ if names.iter().any(|name| name == "*") => Err(Problem::WildcardBesideNames.at(at)),
        _ => {
            at_most(names, LIST_MAX, at)?;
            for (index, name) in names.iter().enumerate() {
                check(name, &format!("{at}[{index}]"))?;
            }
            Ok(names.to_vec())
        }
    }
}

/// Names that may be left out, which means any, but not be empty.
fn labels(names: Option<&[String]>, at: &str) -> Result<Vec<String>, PolicyError> {
    optional(names, LIST_MAX, at, |name, at| label(name, at))
}

fn label(name: &str, at: &str) -> Result<String, PolicyError> {
    match Label::new(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(error) => {
            let name = name.to_owned();
            Err(Problem::Name { name, error }.at(at))
        }
    }
}

/// A list that may be left out, but not be empty.
fn optional<S, T>(
    specs: Option<&[S]>,
    max: usize,
    at: &str,
    each: impl Fn(&S, &str) -> Result<T, PolicyError>,
) -> Result<Vec<T>, PolicyError> {
    match specs {
        None => Ok(Vec::new()),
        Some(specs) => entries(specs, max, at, LEAVE_OUT, each),
    }
}

/// A list that may not be empty.
fn entries<S, T>(
    specs: &[S],
    max: usize,
    at: &str,
    instead: &'static str,
    each: impl Fn(&S, &str) -> Result<T, PolicyError>,
) -> Result<Vec<T>, PolicyError> {
    if specs.is_empty() {
        return Err(Problem::Empty(instead).at(at));
    }
    at_most(specs, max, at)?;
    specs
        .iter()
        .enumerate()
        .map(|(index, spec)| each(spec, &format!("{at}[{index}]")))
        .collect()
}

fn at_most<T>(list: &[T], max: usize, at: &str) -> Result<(), PolicyError> {
    match list.len() {
        count if count > max => Err(Problem::TooMany { count, max }.at(at)),
        _ => Ok(()),
    }
}

const LEAVE_OUT: &str = "leave it out if it does not matter";
const WRITE_CALLERS: &str = "write who may call";
const WRITE_DOORS: &str = "write what may be opened, or `- any: true`";
