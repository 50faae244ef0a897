//! `policies, caller, target => expected`, in a small language of the tests'
//! own (see `parse`), so that a case is one line to read.
//!
//! A policy: `NAME ACTION [audit] from CALLER,... to DOOR,...`
//! A caller rule: `dev[:NAMESPACE[/NAME]][KEY=VALUE&KEY in A|B&KEY notin A&KEY&!KEY]`,
//! `sa[:NAMESPACE[/ACCOUNT]]`; `*` is any.
//! A door: `PORT`, `SERVICE`, `any`, with `http` and rules: `8080/http(GET|POST /a|/b/*)`.
#![allow(clippy::unwrap_used)] // The helpers are test code too.

use std::collections::BTreeMap;

use fairway_policy::{
    Action, AttributeSelector, Caller, CallerRule, Decision, Door, HttpRequest, HttpRule, Method,
    Mode, Operator, PathPattern, Policy, PolicySet, Protocol, Requirement, Target, Verdict,
    evaluate_http, evaluate_open,
};
use proptest::prelude::*;

/// `policies, caller, target => verdict and who decided`
#[test]
fn opening() {
    for (policies, caller, target, expected) in [
        // The default.
        (
            "",
            "dev:factory/pump-7",
            "8080",
            "deny: no ChannelPolicy allows anything here, and what is not allowed is denied",
        ),
        // One door, one caller.
        (
            "p allow from dev:factory to 8080",
            "dev:factory/pump-7",
            "8080",
            "allow ns/p",
        ),
        (
            "p allow from dev:factory/pump-7 to 8080",
            "dev:factory/pump-7",
            "8080",
            "allow ns/p",
        ),
        (
            "p allow from dev to any",
            "dev:factory/pump-7",
            "8080",
            "allow ns/p",
        ),
        (
            "p allow from dev to any",
            "dev:factory/pump-7",
            "config",
            "allow ns/p",
        ),
        (
            "p allow from dev to config",
            "dev:factory/pump-7",
            "config",
            "allow ns/p",
        ),
        (
            "p allow from sa:monitoring/prometheus to metrics",
            "sa:monitoring/prometheus",
            "metrics",
            "allow ns/p",
        ),
        // What is not that door or that caller.
        (
            "p allow from dev:factory to 8080",
            "dev:factory/pump-7",
            "8081",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not open port 8081",
        ),
        (
            "p allow from dev:factory to 8080",
            "dev:factory/pump-7",
            "http",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not open service http",
        ),
        (
            "p allow from dev:factory to 8080",
            "dev:office/pump-7",
            "8080",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not name the caller's namespace office",
        ),
        (
            "p allow from dev:factory/pump-7 to 8080",
            "dev:factory/pump-8",
            "8080",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not name the caller pump-8",
        ),
        (
            "p allow from dev to 8080",
            "sa:factory/x",
            "8080",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which has no rule for workloads",
        ),
        (
            "p allow from sa:factory to 8080",
            "dev:factory/x",
            "8080",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which has no rule for devices",
        ),
        (
            "p allow from dev:factory/pump-7 to 8080",
            "dev:office/pump-8",
            "9",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not name the caller's namespace office, and does not open port 9",
        ),
        // The ServiceAccount `default` must be named.
        (
            "p allow from sa:factory to 8080",
            "sa:factory/x",
            "8080",
            "allow ns/p",
        ),
        (
            "p allow from sa:factory to 8080",
            "sa:factory/default",
            "8080",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not name the ServiceAccount default, which must be named to be meant",
        ),
        (
            "p allow from sa:factory/default to 8080",
            "sa:factory/default",
            "8080",
            "allow ns/p",
        ),
        // Deny wins, in any order, and the first by name is named.
        (
            "a allow from dev to any; z deny from dev to 8080",
            "dev:f/p",
            "8080",
            "deny ns/z",
        ),
        (
            "z deny from dev to 8080; a allow from dev to any",
            "dev:f/p",
            "8080",
            "deny ns/z",
        ),
        (
            "z deny from dev to 8080; a allow from dev to any",
            "dev:f/p",
            "8081",
            "allow ns/a",
        ),
        (
            "b allow from dev to any; a allow from dev to any",
            "dev:f/p",
            "1",
            "allow ns/a",
        ),
        (
            "b deny from dev to any; a deny from dev to any",
            "dev:f/p",
            "1",
            "deny ns/a",
        ),
        (
            "a deny from dev to any",
            "sa:f/p",
            "1",
            "deny: no ChannelPolicy allows anything here, and what is not allowed is denied",
        ),
        // HTTP.
        (
            "p allow from dev to 80/http()",
            "dev:f/p",
            "80",
            "http ns/p",
        ),
        (
            "p allow from dev to 80/http(GET)",
            "dev:f/p",
            "80",
            "http ns/p",
        ),
        (
            "p allow from dev to 80/http(GET)",
            "dev:f/p",
            "81",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not open port 81",
        ),
        (
            "p allow from dev to 80/http(GET); q allow from dev to any",
            "dev:f/p",
            "80",
            "http ns/p",
        ),
        (
            "p allow from dev to 80/http(GET); q allow from dev to any",
            "dev:f/p",
            "81",
            "allow ns/q",
        ),
        (
            "p allow from dev to any; q deny from dev to 80/http(POST)",
            "dev:f/p",
            "80",
            "http ns/p",
        ),
        (
            "p allow from dev to any; q deny from sa to 80/http(POST)",
            "dev:f/p",
            "80",
            "allow ns/p",
        ),
        (
            "p allow from dev to 80/http(GET); q deny from dev to 80",
            "dev:f/p",
            "80",
            "deny ns/q",
        ),
        (
            "q deny from dev to 80/http(POST)",
            "dev:f/p",
            "80",
            "deny: no ChannelPolicy allows anything here, and what is not allowed is denied",
        ),
        // Audit.
        (
            "p allow audit from dev to any",
            "dev:f/p",
            "80",
            "deny: no ChannelPolicy allows anything here, and what is not allowed is denied; audit ns/p allow",
        ),
        (
            "p allow from dev to any; q deny audit from dev to 80",
            "dev:f/p",
            "80",
            "allow ns/p; audit ns/q deny",
        ),
        (
            "p allow from dev to any; q deny audit from dev to 80/http()",
            "dev:f/p",
            "80",
            "allow ns/p",
        ),
        (
            "p allow from dev to any; q deny audit from dev to 81",
            "dev:f/p",
            "80",
            "allow ns/p",
        ),
        // Nobody and nowhere.
        (
            "p allow from to any",
            "dev:f/p",
            "80",
            "deny: no ChannelPolicy allows anything here, and what is not allowed is denied",
        ),
        (
            "p allow from dev to",
            "dev:f/p",
            "80",
            "deny: no ChannelPolicy allows anything here, and what is not allowed is denied",
        ),
    ] {
        let decision = evaluate_open(&parse(policies), &caller_of(caller), &target_of(target));
        assert_eq!(
            told(&decision),
            expected,
            "{policies} | {caller} -> {target}"
        );
    }
}

/// `selector, attributes => (an Allow matches, a Deny matches)`
#[test]
fn attributes() {
    for (selector, attributes, allow, deny) in [
        ("", "", true, true),
        ("model=pump", "model=pump", true, true),
        ("model=pump", "model=valve", false, false),
        ("model=pump", "", false, true),
        ("model=pump&site=oslo", "model=pump", false, true),
        ("model=pump&site=oslo", "model=valve", false, false),
        ("site in oslo|bergen", "site=bergen", true, true),
        ("site in oslo|bergen", "site=bonn", false, false),
        ("site in oslo|bergen", "", false, true),
        ("site notin oslo", "site=bonn", true, true),
        ("site notin oslo", "site=oslo", false, false),
        ("site notin oslo", "", false, true),
        ("site", "site=oslo", true, true),
        ("site", "", false, false),
        ("!site", "site=oslo", false, false),
        ("!site", "", true, true),
    ] {
        let caller = caller_of(&format!("dev:f/p[{attributes}]"));
        for (action, want) in [("allow", allow), ("deny", deny)] {
            let text = format!("p {action} from dev:*/*[{selector}] to 1");
            let decision = evaluate_open(&parse(&text), &caller, &Target::Port(1));
            assert_eq!(decision.by.is_some(), want, "{text} | {attributes}");
        }
    }
}

/// `policies, request => verdict and who decided`, from dev:f/p to port 80
#[test]
fn requests() {
    for (policies, request, expected) in [
        (
            "p allow from dev to 80/http(GET /metrics)",
            "GET /metrics",
            "allow ns/p",
        ),
        (
            "p allow from dev to 80/http()",
            "PUT /anything",
            "allow ns/p",
        ),
        (
            "p allow from dev to 80/http(GET)",
            "GET /anything",
            "allow ns/p",
        ),
        (
            "p allow from dev to 80/http(* /a|/b/*)",
            "DELETE /b/c",
            "allow ns/p",
        ),
        ("p allow from dev to 80", "DELETE /b/c", "allow ns/p"),
        (
            "p allow from dev to 80/http(GET /metrics)",
            "GET /debug",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not allow the path /debug",
        ),
        (
            "p allow from dev to 80/http(GET /metrics)",
            "PUT /metrics",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not allow the method PUT on this path",
        ),
        (
            "p allow from dev to 80/http(GET)",
            "get /",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not allow the method get on this path",
        ),
        (
            "p allow from dev to 81/http(GET)",
            "GET /",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not open port 80",
        ),
        (
            "p allow from dev to 80/http(GET /a); q allow from dev to 80/http(PUT /a)",
            "PUT /a",
            "allow ns/q",
        ),
        (
            "p allow from dev to any; q deny from dev to 80/http(POST)",
            "POST /",
            "deny ns/q",
        ),
        (
            "p allow from dev to any; q deny from dev to 80/http(POST)",
            "post /",
            "deny ns/q",
        ),
        (
            "p allow from dev to any; q deny from dev to 80/http(POST)",
            "GET /",
            "allow ns/p",
        ),
        (
            "p allow from dev to any; q deny from dev to 80/http(* /admin|/admin/*)",
            "GET /%61dmin/x",
            "deny ns/q",
        ),
        (
            "p allow from dev to any; q deny from dev to 80/http(* /x)",
            "GET /a/../admin",
            "deny ns/q",
        ),
        (
            "p allow from dev to 80/http(GET /*)",
            "GET /a/../admin",
            "deny: no ChannelPolicy allows it; the nearest is ns/p, which does not allow the path /a/../admin",
        ),
        (
            "p allow from dev to any; q deny from dev to 80",
            "GET /",
            "deny ns/q",
        ),
        (
            "p allow from dev to any; q deny audit from dev to 80/http(GET)",
            "GET /",
            "allow ns/p; audit ns/q deny",
        ),
        // The nearest of several: right caller and path before right caller.
        (
            "p allow from dev:other to 80/http(GET /a); q allow from dev:f to 80/http(POST /a)",
            "GET /a",
            "deny: no ChannelPolicy allows it; the nearest is ns/q, which does not allow the method GET on this path",
        ),
        (
            "p allow from dev:f to 81; q allow from dev:f to 80/http(GET /a)",
            "GET /b",
            "deny: no ChannelPolicy allows it; the nearest is ns/q, which does not allow the path /b",
        ),
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let request = HttpRequest { method, path };
        let caller = caller_of("dev:f/p");
        let decision = evaluate_http(&parse(policies), &caller, &Target::Port(80), &request);
        assert_eq!(told(&decision), expected, "{policies} | {request:?}");
    }
}

#[test]
fn the_reason_names_the_attribute() {
    for (attributes, expected) in [
        (
            "model=pump",
            "wants the attribute site to have one of [\"oslo\", \"bergen\"], and the caller has none",
        ),
        (
            "site=bonn&model=pump",
            "wants the attribute site to have one of [\"oslo\", \"bergen\"], and the caller has \"bonn\"",
        ),
        (
            "site=oslo&model=valve",
            "wants the attribute model to have \"pump\", and the caller has \"valve\"",
        ),
    ] {
        let policies = parse("p allow from dev:f/*[model=pump&site in oslo|bergen] to 1");
        let caller = caller_of(&format!("dev:f/p[{attributes}]"));
        let reason = evaluate_open(&policies, &caller, &Target::Port(1)).to_string();
        assert!(reason.ends_with(expected), "{reason}");
    }
}

#[test]
fn a_callers_long_path_is_shortened_in_the_reason() {
    let policies = parse("p allow from dev to 80/http(GET /metrics)");
    let path = format!("/{}", "ü".repeat(10_000));
    let request = HttpRequest {
        method: "GET",
        path: &path,
    };
    let decision = evaluate_http(
        &policies,
        &caller_of("dev:f/p"),
        &Target::Port(80),
        &request,
    );
    assert!(decision.to_string().len() < 400, "{decision}");
}

#[test]
fn the_list_of_audited_policies_is_bounded() {
    let policies: Vec<String> = (0..40)
        .map(|n| format!("p{n} deny audit from dev to any"))
        .collect();
    let policies = parse(&policies.join("; "));
    let decision = evaluate_open(&policies, &caller_of("dev:f/p"), &Target::Port(80));
    assert_eq!(decision.audited.len(), fairway_policy::limits::AUDITED);
}

const CALLERS: [&str; 5] = [
    "dev:f/p",
    "dev:g/p[site=oslo]",
    "dev:f/q[site=bonn]",
    "sa:f/x",
    "sa:f/default",
];
const REQUESTS: [(&str, &str); 4] = [
    ("GET", "/a"),
    ("POST", "/a"),
    ("GET", "/b/c"),
    ("GET", "/b/.."),
];

fn some_policy() -> impl Strategy<Value = String> {
    let action = prop_oneof![
        Just("allow"),
        Just("deny"),
        Just("allow audit"),
        Just("deny audit")
    ];
    let from = prop_oneof![
        Just("dev"),
        Just("dev:f"),
        Just("dev:f/p"),
        Just("dev:*/*[site=oslo]"),
        Just("dev:*/*[site notin oslo]"),
        Just("sa:f"),
        Just("sa:f/default"),
        Just("dev:g,sa:f/x"),
    ];
    let to = prop_oneof![
        Just("80"),
        Just("81"),
        Just("any"),
        Just("80/http(GET)"),
        Just("80/http(* /b/*)"),
        Just("80/http(POST /a)"),
        Just("80/http()"),
        Just("svc"),
        Just("81,80/http(GET /a)"),
    ];
    ("[a-e]", action, from, to).prop_map(|(n, a, f, t)| format!("{n} {a} from {f} to {t}"))
}

proptest! {
    #[test]
    fn what_always_holds(
        policies in proptest::collection::vec(some_policy(), 0..6),
        caller in proptest::sample::select(&CALLERS[..]),
        extra in some_policy(),
    ) {
        let caller = caller_of(caller);
        let target = Target::Port(80);
        let set = parse(&policies.join("; "));
        let open = evaluate_open(&set, &caller, &target);

        // The order of the policies does not matter.
        let mut reversed = set.clone();
        reversed.policies.reverse();
        let verdict = |d: &Decision| (d.verdict, d.by.clone());
        prop_assert_eq!(verdict(&evaluate_open(&reversed, &caller, &target)), verdict(&open));

        // Audit policies do not matter.
        let mut enforced = set.clone();
        enforced.policies.retain(|policy| policy.mode == Mode::Enforce);
        prop_assert_eq!(verdict(&evaluate_open(&enforced, &caller, &target)), verdict(&open));

        // One Deny more never opens, one Allow more never shuts.
        let more = parse(&extra).policies.remove(0);
        let action = more.action;
        let mut larger = set.clone();
        larger.policies.push(more);
        let with = evaluate_open(&larger, &caller, &target);
        match action {
            Action::Deny => prop_assert!(open.is_allowed() || !with.is_allowed()),
            Action::Allow => prop_assert!(!open.is_allowed() || with.is_allowed()),
        }

        // Opening and requests tell the same story.
        for (method, path) in REQUESTS {
            let request = evaluate_http(&set, &caller, &target, &HttpRequest { method, path });
            match open.verdict {
                Verdict::Deny => prop_assert!(!request.is_allowed()),
                Verdict::Allow => prop_assert!(request.is_allowed()),
                Verdict::AllowHttp => {}
            }
            prop_assert_ne!(request.verdict, Verdict::AllowHttp);
            prop_assert_eq!(request.reason.is_some(), !request.is_allowed() && request.by.is_none());
        }
    }
}

fn told(decision: &Decision) -> String {
    let by = decision.by.as_ref().map(ToString::to_string);
    let mut told = match (decision.verdict, by) {
        (Verdict::Allow, Some(by)) => format!("allow {by}"),
        (Verdict::AllowHttp, Some(by)) => format!("http {by}"),
        (Verdict::Deny, Some(by)) => format!("deny {by}"),
        (Verdict::Deny, None) => format!("deny: {}", decision.reason.as_ref().unwrap()),
        (verdict, None) => panic!("{verdict:?} by nobody"),
    };
    for audited in &decision.audited {
        let action = if audited.action == Action::Allow {
            "allow"
        } else {
            "deny"
        };
        told += &format!("; audit {} {action}", audited.policy);
    }
    told
}

fn parse(text: &str) -> PolicySet {
    let policies = text
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    PolicySet {
        policies: policies.map(policy_of).collect(),
    }
}

fn policy_of(text: &str) -> Policy {
    let (head, rest) = text.split_once(" from").unwrap();
    let (from, to) = rest.split_once(" to").unwrap();
    let mut words = head.split(' ');
    let name = words.next().unwrap().to_owned();
    let action = match words.next().unwrap() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        other => panic!("{other}"),
    };
    let mode = if words.next() == Some("audit") {
        Mode::Audit
    } else {
        Mode::Enforce
    };
    let list = |text: &str| -> Vec<String> {
        text.split(',')
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let from = list(from).iter().map(|text| rule_of(text)).collect();
    let to = list(to).iter().map(|text| door_of(text)).collect();
    Policy {
        namespace: "ns".into(),
        name,
        action,
        mode,
        from,
        to,
    }
}

/// Takes `dev:NAMESPACE/NAME[REST]` apart.
fn split(text: &str) -> (&str, Vec<String>, Vec<String>, &str) {
    let (head, rest) = match text.split_once('[') {
        Some((head, rest)) => (head, rest.strip_suffix(']').unwrap()),
        None => (text, ""),
    };
    let (kind, path) = head.split_once(':').unwrap_or((head, "*"));
    let (namespace, name) = path.split_once('/').unwrap_or((path, "*"));
    let any = |text: &str| {
        if text == "*" {
            vec![]
        } else {
            vec![text.to_owned()]
        }
    };
    (kind, any(namespace), any(name), rest)
}

fn rule_of(text: &str) -> CallerRule {
    let (kind, namespaces, names, rest) = split(text);
    if kind == "sa" {
        return CallerRule::Workloads {
            namespaces,
            service_accounts: names,
        };
    }
    let mut attributes = AttributeSelector::default();
    let values = |text: &str| text.split('|').map(str::to_owned).collect();
    for text in rest.split('&').filter(|text| !text.is_empty()) {
        let (key, operator, values) = if let Some((key, value)) = text.split_once('=') {
            attributes
                .match_attributes
                .insert(key.to_owned(), value.to_owned());
            continue;
        } else if let Some((key, list)) = text.split_once(" in ") {
            (key, Operator::In, values(list))
        } else if let Some((key, list)) = text.split_once(" notin ") {
            (key, Operator::NotIn, values(list))
        } else if let Some(key) = text.strip_prefix('!') {
            (key, Operator::DoesNotExist, vec![])
        } else {
            (text, Operator::Exists, vec![])
        };
        attributes.expressions.push(Requirement {
            key: key.to_owned(),
            operator,
            values,
        });
    }
    CallerRule::Devices {
        namespaces,
        names,
        attributes,
    }
}

fn caller_of(text: &str) -> Caller {
    let (kind, namespace, name, rest) = split(text);
    let (namespace, name) = (namespace[0].clone(), name[0].clone());
    if kind == "sa" {
        return Caller::Workload {
            namespace,
            service_account: name,
        };
    }
    let pair = |text: &str| {
        text.split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
    };
    let attributes: BTreeMap<_, _> = rest.split('&').filter_map(pair).collect();
    Caller::Device {
        namespace,
        name,
        attributes,
    }
}

fn door_of(text: &str) -> Door {
    let (target, protocol) = match text.split_once("/http(") {
        Some((target, rules)) => (target, http_of(rules.strip_suffix(')').unwrap())),
        None => (text, Protocol::Tcp),
    };
    match (target, target.parse()) {
        ("any", _) => Door::Any,
        (_, Ok(port)) => Door::Port { port, protocol },
        (service, Err(_)) => Door::Service {
            service: service.to_owned(),
            protocol,
        },
    }
}

fn http_of(text: &str) -> Protocol {
    if text.is_empty() {
        return Protocol::Http(vec![]);
    }
    let (methods, paths) = text.split_once(' ').unwrap_or((text, ""));
    let parts = |text: &str| -> Vec<String> {
        text.split('|')
            .filter(|t| !t.is_empty() && *t != "*")
            .map(str::to_owned)
            .collect()
    };
    let methods = parts(methods)
        .iter()
        .map(|text| Method::new(text).unwrap())
        .collect();
    let paths = parts(paths)
        .iter()
        .map(|text| PathPattern::new(text).unwrap())
        .collect();
    Protocol::Http(vec![HttpRule { methods, paths }])
}

fn target_of(text: &str) -> Target {
    match text.parse() {
        Ok(port) => Target::Port(port),
        Err(_) => Target::Service(text.to_owned()),
    }
}
