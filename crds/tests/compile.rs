//! What policies compile to, and how one that does not compile stays shut.

// Helpers of tests, which clippy does not know as such.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fairway_crds::compile::Problem;
use fairway_crds::{ChannelPolicy, CompiledPolicy};
use fairway_policy::{Action, CallerRule, Door, Mode, Operator, Protocol};

fn policy(spec: &str) -> ChannelPolicy {
    serde_yaml::from_str(&format!(
        "{{apiVersion: fairway.dev/v1alpha1, kind: ChannelPolicy, \
         metadata: {{name: telemetry, namespace: factory}}, spec: {{{spec}}}}}"
    ))
    .unwrap()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn the_policy_of_the_design() {
    let CompiledPolicy { policy, target } = policy(
        r#"action: Allow, mode: Enforce,
        target: {workloads: {podSelector: {matchLabels: {app: collector}}}},
        from: [{devices: {namespaces: [factory], matchAttributes: {model: pump},
                matchExpressions: [{key: site, operator: In, values: [oslo, bergen]}]}},
               {workloads: {namespaces: ["*"], serviceAccounts: [prometheus]}}],
        to: [{port: 8080, protocol: HTTP, http: [{methods: [POST], paths: ["/v1/readings/*"]}]}, {port: 1883}]"#,
    )
    .compile()
    .unwrap();

    assert_eq!(
        (policy.namespace.as_str(), policy.name.as_str()),
        ("factory", "telemetry")
    );
    assert_eq!((policy.action, policy.mode), (Action::Allow, Mode::Enforce));
    let CallerRule::Devices {
        namespaces,
        names,
        attributes,
    } = &policy.from[0]
    else {
        panic!("{:?}", policy.from[0]);
    };
    assert_eq!(namespaces, &["factory"]);
    assert!(names.is_empty());
    assert_eq!(attributes.match_attributes, map(&[("model", "pump")]));
    assert_eq!(attributes.expressions[0].operator, Operator::In);
    assert_eq!(
        policy.from[1],
        CallerRule::Workloads {
            namespaces: vec![],
            service_accounts: vec!["prometheus".to_owned()]
        }
    );
    let Door::Port {
        port: 8080,
        protocol: Protocol::Http(rules),
    } = &policy.to[0]
    else {
        panic!("{:?}", policy.to[0]);
    };
    assert_eq!(rules[0].methods[0].as_str(), "POST");
    assert_eq!(rules[0].paths[0].as_str(), "/v1/readings/*");
    assert_eq!(
        policy.to[1],
        Door::Port {
            port: 1883,
            protocol: Protocol::Tcp
        }
    );

    assert!(target.selects_pod(&map(&[("app", "collector"), ("x", "y")])));
    assert!(!target.selects_pod(&map(&[("app", "other")])));
    assert!(!target.selects_device("collector", &BTreeMap::new()));
}

#[test]
fn errors_name_the_field() {
    let error = policy(
        "target: {workloads: {any: true}}, from: [{devices: {namespaces: [factory]}}, \
         {devices: {namespaces: [Factory]}}], to: [{any: true}]",
    )
    .compile()
    .unwrap_err();
    assert_eq!(error.field, "spec.from[1].devices.namespaces[0]");
    assert!(matches!(error.problem, Problem::Name { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("spec.from[1].devices.namespaces[0]: \"Factory\"")
    );
}

#[test]
fn targets_by_attribute_open_nothing_that_is_not_known() {
    let spec = |action: &str| {
        policy(&format!(
            "action: {action}, target: {{devices: {{matchAttributes: {{model: pump}}, \
             matchExpressions: [{{key: site, operator: NotIn, values: [oslo]}}]}}}}, \
             from: [{{devices: {{namespaces: [factory]}}}}], to: [{{service: metrics}}]"
        ))
        .compile()
        .unwrap()
        .target
    };
    let (allow, deny) = (spec("Allow"), spec("Deny"));
    for (attributes, by_allow, by_deny) in [
        (map(&[("model", "pump"), ("site", "bergen")]), true, true),
        (map(&[("model", "pump"), ("site", "oslo")]), false, false),
        (map(&[("model", "valve"), ("site", "bergen")]), false, false),
        (map(&[("model", "pump")]), false, true),
        (map(&[]), false, true),
    ] {
        assert_eq!(
            allow.selects_device("p", &attributes),
            by_allow,
            "{attributes:?}"
        );
        assert_eq!(
            deny.selects_device("p", &attributes),
            by_deny,
            "{attributes:?}"
        );
    }
}

#[test]
fn a_policy_that_does_not_compile_opens_nothing() {
    let broken = "from: [], to: [{any: true}]";
    let at_pods = "target: {workloads: {podSelector: {matchLabels: {app: a}}}}";
    assert_eq!(
        policy(&format!("{at_pods}, {broken}")).compile_closed(),
        None
    );
    assert_eq!(
        policy(&format!("action: Deny, mode: Audit, {at_pods}, {broken}")).compile_closed(),
        None
    );

    let closed = policy(&format!("action: Deny, {at_pods}, {broken}"))
        .compile_closed()
        .unwrap();
    assert_eq!(
        (closed.policy.action, &closed.policy.to[..]),
        (Action::Deny, &[Door::Any][..])
    );
    assert!(closed.target.selects_pod(&map(&[("app", "a")])));
    assert!(!closed.target.selects_pod(&map(&[("app", "b")])));

    let closed = policy(&format!("action: Deny, target: {{}}, {broken}"))
        .compile_closed()
        .unwrap();
    assert!(closed.target.selects_pod(&BTreeMap::new()));
    assert!(closed.target.selects_device("any", &BTreeMap::new()));
}
