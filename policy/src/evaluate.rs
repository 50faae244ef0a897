//! The evaluation: Deny wins, then any Allow opens, else the door stays shut.

use std::cmp::Ordering;

use crate::decision::{Audited, CallerMiss, Decision, DoorMiss, NearestMiss, PolicyName, Verdict};
use crate::http::{self, HttpRequest};
use crate::limits;
use crate::model::{Action, Caller, CallerRule, Door, Mode, Policy, PolicySet, Protocol, Target};

/// May `caller` open a stream to `target`?
///
/// Denied if a Deny matches that does not look into HTTP, or if no Allow could
/// match any request. [`Verdict::AllowHttp`] if any policy that looks into HTTP,
/// Allow or Deny, has a say for this caller and target. Otherwise allowed.
pub fn evaluate_open(policies: &PolicySet, caller: &Caller, target: &Target) -> Decision {
    evaluate(
        policies,
        &Question {
            caller,
            target,
            request: None,
        },
    )
}

/// May `caller` send `request` to `target`?
///
/// A policy that does not look into HTTP matches every request.
pub fn evaluate_http(
    policies: &PolicySet,
    caller: &Caller,
    target: &Target,
    request: &HttpRequest<'_>,
) -> Decision {
    evaluate(
        policies,
        &Question {
            caller,
            target,
            request: Some(request),
        },
    )
}

struct Question<'a> {
    caller: &'a Caller,
    target: &'a Target,
    request: Option<&'a HttpRequest<'a>>,
}

/// How a policy matches. None of both: it does not.
#[derive(Clone, Copy, Default)]
struct Match {
    /// What is asked, as a whole.
    whole: bool,
    /// Perhaps, depending on the requests that are still to come.
    per_request: bool,
}

fn evaluate(set: &PolicySet, question: &Question<'_>) -> Decision {
    let mut denied = None;
    let mut allowed = None;
    let mut looks_into_http = false;
    let mut audited = Vec::new();
    for policy in &set.policies {
        let matched = matches(policy, question);
        match (policy.mode, policy.action) {
            (Mode::Audit, action) => {
                if matched.whole {
                    audited.push(Audited {
                        policy: name(policy),
                        action,
                    });
                }
                continue;
            }
            (Mode::Enforce, Action::Deny) => {
                if matched.whole {
                    first(&mut denied, policy);
                }
            }
            (Mode::Enforce, Action::Allow) => {
                if matched.whole || matched.per_request {
                    first(&mut allowed, policy);
                }
            }
        }
        looks_into_http |= matched.per_request;
    }
    audited.sort_by(|a, b| a.policy.cmp(&b.policy));
    audited.truncate(limits::AUDITED);
    let (verdict, by, reason) = match (denied, allowed) {
        (Some(deny), _) => (Verdict::Deny, Some(name(deny)), None),
        (None, Some(allow)) if looks_into_http => (Verdict::AllowHttp, Some(name(allow)), None),
        (None, Some(allow)) => (Verdict::Allow, Some(name(allow)), None),
        (None, None) => (Verdict::Deny, None, Some(nearest_miss(set, question))),
    };
    Decision {
        verdict,
        by,
        reason,
        audited,
    }
}

/// Keeps the policy that comes first by name, so that the answer does not
/// depend on the order of the set.
fn first<'a>(chosen: &mut Option<&'a Policy>, policy: &'a Policy) {
    if chosen.is_none_or(|chosen| by_name(policy, chosen) == Ordering::Less) {
        *chosen = Some(policy);
    }
}

fn by_name(a: &Policy, b: &Policy) -> Ordering {
    (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name))
}

fn name(policy: &Policy) -> PolicyName {
    PolicyName {
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
    }
}

fn matches(policy: &Policy, question: &Question<'_>) -> Match {
    let mut matched = Match::default();
    let meant = |rule| means(rule, question.caller, policy.action);
    if !policy.from.iter().any(meant) {
        return matched;
    }
    for door in &policy.to {
        if !opens(door, question.target) {
            continue;
        }
        match (rules(door), question.request) {
            (None, _) => matched.whole = true,
            (Some(_), None) => matched.per_request = true,
            (Some(rules), Some(request)) => {
                matched.whole |= http::covers(rules, request, policy.action);
            }
        }
    }
    matched
}

/// Whether `rule` means `caller`. On every open and every request, so it makes
/// nothing that [`caller_misses`] makes for an explanation.
fn means(rule: &CallerRule, caller: &Caller, action: Action) -> bool {
    let one_of = |list: &[String], name: &String| list.is_empty() || list.contains(name);
    match (rule, caller) {
        (
            CallerRule::Devices {
                namespaces,
                names,
                attributes: selector,
            },
            Caller::Device {
                namespace,
                name,
                attributes,
            },
        ) => {
            one_of(namespaces, namespace)
                && one_of(names, name)
                && selector.matches(attributes, action)
        }
        (
            CallerRule::Workloads {
                namespaces,
                service_accounts,
            },
            Caller::Workload {
                namespace,
                service_account,
            },
        ) => {
            let named = service_accounts.contains(service_account);
            one_of(namespaces, namespace)
                && (named || (service_accounts.is_empty() && service_account != "default"))
        }
        (CallerRule::Workloads { .. }, Caller::Device { .. })
        | (CallerRule::Devices { .. }, Caller::Workload { .. }) => false,
    }
}

/// Everything about `caller` that `rule` does not mean; empty if it matches.
fn caller_misses(rule: &CallerRule, caller: &Caller, action: Action) -> Vec<CallerMiss> {
    match (rule, caller) {
        (
            CallerRule::Devices {
                namespaces,
                names,
                attributes: selector,
            },
            Caller::Device {
                namespace,
                name,
                attributes,
            },
        ) => {
            let mut misses = selector.misses(attributes, action);
            if !names.is_empty() && !names.contains(name) {
                misses.insert(0, CallerMiss::Name { have: name.clone() });
            }
            if !namespaces.is_empty() && !namespaces.contains(namespace) {
                misses.insert(
                    0,
                    CallerMiss::Namespace {
                        have: namespace.clone(),
                    },
                );
            }
            misses
        }
        (
            CallerRule::Workloads {
                namespaces,
                service_accounts,
            },
            Caller::Workload {
                namespace,
                service_account,
            },
        ) => {
            let mut misses = Vec::new();
            if !namespaces.is_empty() && !namespaces.contains(namespace) {
                misses.push(CallerMiss::Namespace {
                    have: namespace.clone(),
                });
            }
            if service_accounts.is_empty() && service_account == "default" {
                misses.push(CallerMiss::DefaultAccount);
            } else if !service_accounts.is_empty() && !service_accounts.contains(service_account) {
                misses.push(CallerMiss::Name {
                    have: service_account.clone(),
                });
            }
            misses
        }
        (CallerRule::Workloads { .. }, Caller::Device { .. }) => {
            vec![CallerMiss::Kind { caller: "devices" }]
        }
        (CallerRule::Devices { .. }, Caller::Workload { .. }) => {
            vec![CallerMiss::Kind {
                caller: "workloads",
            }]
        }
    }
}

/// Whether the door is the one asked for, whatever its protocol.
fn opens(door: &Door, target: &Target) -> bool {
    match (door, target) {
        (Door::Any, Target::Port(_) | Target::Service(_)) => true,
        (Door::Port { port, .. }, Target::Port(asked)) => port == asked,
        (Door::Service { service, .. }, Target::Service(asked)) => service == asked,
        (Door::Port { .. }, Target::Service(_)) | (Door::Service { .. }, Target::Port(_)) => false,
    }
}

/// The rules for HTTP of a door that looks into it.
fn rules(door: &Door) -> Option<&[http::HttpRule]> {
    match door {
        Door::Port { protocol, .. } | Door::Service { protocol, .. } => match protocol {
            Protocol::Tcp => None,
            Protocol::Http(rules) => Some(rules),
        },
        Door::Any => None,
    }
}

/// The enforced Allow that comes nearest to matching.
fn nearest_miss(set: &PolicySet, question: &Question<'_>) -> NearestMiss {
    let allows = set
        .policies
        .iter()
        .filter(|policy| policy.action == Action::Allow && policy.mode == Mode::Enforce);
    let nearest = allows
        .filter_map(|policy| Some((distance(policy, question)?, policy)))
        .min_by(|(a, one), (b, other)| a.total().cmp(&b.total()).then_with(|| by_name(one, other)));
    match nearest {
        None => NearestMiss::NoPolicy,
        Some((distance, policy)) => NearestMiss::Lacks {
            policy: name(policy),
            caller: distance.caller.map(|(_, miss)| miss),
            door: distance.door.map(|(_, miss)| miss),
        },
    }
}

/// How far a policy is from matching, with the first thing that it lacks of
/// each half.
struct Distance {
    caller: Option<(usize, CallerMiss)>,
    door: Option<(usize, DoorMiss)>,
}

impl Distance {
    fn total(&self) -> usize {
        let caller = self.caller.as_ref().map_or(0, |(distance, _)| *distance);
        let door = self.door.as_ref().map_or(0, |(distance, _)| *distance);
        caller + door
    }
}

/// `None` for a policy without rules or without doors: it is near to nothing.
fn distance(policy: &Policy, question: &Question<'_>) -> Option<Distance> {
    let callers = policy.from.iter().map(|rule| {
        let misses = caller_misses(rule, question.caller, policy.action);
        let distance = misses.iter().map(caller_distance).sum();
        misses.into_iter().next().map(|miss| (distance, miss))
    });
    let doors = policy
        .to
        .iter()
        .map(|door| door_miss(door, question, policy.action));
    Some(Distance {
        caller: callers.min_by_key(|miss| miss.as_ref().map_or(0, |(distance, _)| *distance))?,
        door: doors.min_by_key(|miss| miss.as_ref().map_or(0, |(distance, _)| *distance))?,
    })
}

/// The more a rule has in common with the caller, the nearer it is: another
/// kind of caller is far away, one attribute that differs is a step.
fn caller_distance(miss: &CallerMiss) -> usize {
    match miss {
        CallerMiss::Kind { .. } => 1000,
        CallerMiss::Namespace { .. } => 100,
        CallerMiss::Name { .. } | CallerMiss::DefaultAccount => 50,
        CallerMiss::Attribute { .. } => 2,
    }
}

fn door_miss(door: &Door, question: &Question<'_>, action: Action) -> Option<(usize, DoorMiss)> {
    if !opens(door, question.target) {
        let asked = question.target.clone();
        return Some((20, DoorMiss::Target { asked }));
    }
    let (rules, request) = (rules(door)?, question.request?);
    if http::covers(rules, request, action) {
        return None;
    }
    let miss = http::miss(rules, request, action);
    let distance = match miss {
        DoorMiss::Target { .. } => 20,
        DoorMiss::Path { .. } => 3,
        DoorMiss::Method { .. } => 1,
    };
    Some((distance, miss))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::selector::{AttributeSelector, Operator, Requirement};

    fn some<T: Clone + std::fmt::Debug + 'static>(of: &[T]) -> impl Strategy<Value = T> + use<T> {
        proptest::sample::select(of.to_vec())
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(some(&["a", "b", "default"]).prop_map(str::to_owned), 0..3)
    }

    fn attributes() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
        proptest::collection::btree_map("[kl]", "[vw]", 0..3)
    }

    fn rule() -> impl Strategy<Value = CallerRule> {
        use Operator::{DoesNotExist, Exists, In, NotIn};
        let requirement = ("[kl]", some(&[In, NotIn, Exists, DoesNotExist]), "[vw]").prop_map(
            |(key, operator, value)| Requirement {
                key,
                operator,
                values: vec![value],
            },
        );
        let expressions = proptest::collection::vec(requirement, 0..3);
        let selector = (attributes(), expressions).prop_map(|(match_attributes, expressions)| {
            AttributeSelector {
                match_attributes,
                expressions,
            }
        });
        prop_oneof![
            (names(), names(), selector).prop_map(|(namespaces, names, attributes)| {
                CallerRule::Devices {
                    namespaces,
                    names,
                    attributes,
                }
            }),
            (names(), names()).prop_map(|(namespaces, service_accounts)| {
                CallerRule::Workloads {
                    namespaces,
                    service_accounts,
                }
            }),
        ]
    }

    fn caller() -> impl Strategy<Value = Caller> {
        let name = || some(&["a", "b", "default"]).prop_map(str::to_owned);
        prop_oneof![
            (name(), name(), attributes()).prop_map(|(namespace, name, attributes)| {
                Caller::Device {
                    namespace,
                    name,
                    attributes,
                }
            }),
            (name(), name()).prop_map(|(namespace, service_account)| {
                Caller::Workload {
                    namespace,
                    service_account,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn the_answer_and_its_explanation_agree(rule in rule(), caller in caller()) {
            for action in [Action::Allow, Action::Deny] {
                let lacks = caller_misses(&rule, &caller, action);
                prop_assert_eq!(means(&rule, &caller, action), lacks.is_empty(), "{:?}", lacks);
            }
        }
    }
}
