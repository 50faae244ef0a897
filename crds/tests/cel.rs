//! The CEL rules of the resources, evaluated as the API server does: what is
//! refused, and that the message says what to write instead.

// Helpers of tests, which clippy does not know as such.
#![allow(clippy::unwrap_used)]

use fairway_crds::{ChannelPolicy, DeviceIdentity, EnrollmentTicket};

/// A policy that is fine, with one line of it replaced.
fn policy(replace: &str, by: &str) -> ChannelPolicy {
    const FINE: &str = r#"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: telemetry, namespace: factory}
spec:
  action: Allow
  mode: Enforce
  target: {workloads: {podSelector: {matchLabels: {app: collector}}}}
  from:
  - devices: {namespaces: [factory], matchAttributes: {model: pump}, matchExpressions: [{key: site, operator: In, values: [oslo, bergen]}]}
  to:
  - {port: 8080, protocol: HTTP, http: [{methods: [POST], paths: ["/v1/readings/*"]}]}
"#;
    assert!(FINE.contains(replace), "{replace:?} is not in the policy");
    serde_yaml::from_str(&FINE.replace(replace, by)).unwrap()
}

#[track_caller]
fn refused(policy: &ChannelPolicy, message: &str) {
    let errors = policy.validate_cel().expect_err("must be refused");
    let found = errors.to_string();
    assert!(found.contains(message), "{message:?} is not in {found:?}");
}

#[test]
fn a_good_policy_passes() {
    for (replace, by) in [
        ("action: Allow", "action: Deny"),
        ("  action: Allow\n  mode: Enforce\n", ""),
        ("podSelector: {matchLabels: {app: collector}}", "any: true"),
        ("namespaces: [factory]", "namespaces: [\"*\"]"),
        ("methods: [POST], ", ""),
        (
            ", http: [{methods: [POST], paths: [\"/v1/readings/*\"]}]",
            "",
        ),
        (
            "port: 8080, protocol: HTTP, http: [{methods: [POST], paths: [\"/v1/readings/*\"]}]",
            "any: true",
        ),
        ("/v1/readings/*", "/"),
        ("/v1/readings/*", "/.well-known/x"),
    ] {
        let policy = policy(replace, by);
        policy
            .validate_cel()
            .unwrap_or_else(|e| panic!("{by:?}: {e}"));
        policy.compile().unwrap_or_else(|e| panic!("{by:?}: {e}"));
    }
}

/// Each is refused by CEL, with a hint, and again by the conversion.
#[test]
fn a_bad_policy_is_told_what_to_write() {
    let callers = "namespaces: [factory], matchAttributes: {model: pump}, matchExpressions: [{key: site, operator: In, values: [oslo, bergen]}]";
    let door = "port: 8080, protocol: HTTP, http: [{methods: [POST], paths: [\"/v1/readings/*\"]}]";
    for (replace, by, message) in [
        (
            "podSelector: {matchLabels: {app: collector}}",
            "",
            "`any: true`",
        ),
        (
            "{matchLabels: {app: collector}}",
            "{}",
            "an empty podSelector is refused",
        ),
        ("{app: collector}", "{}", "write at least one label"),
        (
            "workloads: {podSelector: {matchLabels: {app: collector}}}",
            "",
            "exactly one of `workloads` and `devices`",
        ),
        (
            "workloads: {podSelector: {matchLabels: {app: collector}}}",
            "workloads: {any: true}, devices: {any: true}",
            "exactly one of `workloads` and `devices`",
        ),
        (
            "workloads: {podSelector: {matchLabels: {app: collector}}}",
            "devices: {}",
            "every device of the namespace, `any: true`",
        ),
        (
            "workloads: {podSelector: {matchLabels: {app: collector}}}",
            "devices: {any: true}",
            "write `service: NAME`",
        ),
        (
            "podSelector: {matchLabels: {app: collector}}",
            "any: false",
            "`any` is `true` or left out",
        ),
        (
            "namespaces: [factory]",
            "namespaces: []",
            "namespaces: [\"*\"]",
        ),
        (
            "namespaces: [factory]",
            "namespaces: [\"*\", factory]",
            "write it alone",
        ),
        (
            "namespaces: [factory]",
            "namespaces: [factory], names: []",
            "leave `names` out",
        ),
        (
            "matchAttributes: {model: pump}",
            "matchAttributes: {}",
            "leave `matchAttributes` out",
        ),
        (
            "matchAttributes: {model: pump}",
            "matchAttributes: {Model: pump}",
            "write attributes as a DeviceIdentity has them",
        ),
        ("values: [oslo, bergen]", "values: []", "need `values`"),
        ("operator: In", "operator: Exists", "must not have them"),
        (
            callers,
            "namespaces: [factory]}\n    workloads: {namespaces: [a], serviceAccounts: [b]",
            "exactly one of `devices` and `workloads`",
        ),
        (
            &format!("devices: {{{callers}}}"),
            "workloads: {namespaces: [a], serviceAccounts: []}",
            "serviceAccounts: [\"*\"]",
        ),
        (
            &format!("devices: {{{callers}}}"),
            "workloads: {namespaces: [a], serviceAccounts: [\"*\", default]}",
            "every ServiceAccount but `default`",
        ),
        (
            &format!("from:\n  - devices: {{{callers}}}"),
            "from: []",
            "write who may call",
        ),
        (
            &format!("to:\n  - {{{door}}}"),
            "to: []",
            "write what may be opened",
        ),
        (door, "", "exactly one of `port`"),
        (door, "port: 1, any: true", "exactly one of `port`"),
        (door, "service: config", "`service` in `to` is for devices"),
        (
            door,
            "any: true, protocol: HTTP",
            "write `port` or `service`",
        ),
        ("protocol: HTTP", "protocol: TCP", "need `protocol: HTTP`"),
        (
            "[{methods: [POST], paths: [\"/v1/readings/*\"]}]",
            "[]",
            "leave `http` out",
        ),
        (
            "methods: [POST], paths: [\"/v1/readings/*\"]",
            "",
            "write `methods`, `paths` or both",
        ),
        ("methods: [POST]", "methods: []", "leave `methods` out"),
        ("[\"/v1/readings/*\"]", "[]", "leave `paths` out"),
        (
            "/v1/readings/*",
            "/v1/*/readings",
            "one `*` after the last slash",
        ),
        (
            "/v1/readings/*",
            "/v1/read*",
            "one `*` after the last slash",
        ),
        ("/v1/readings/*", "v1", "from its first slash"),
        ("/v1/readings/*", "/v1/../x", "no empty or dot segments"),
        ("/v1/readings/*", "/v1//x", "no empty or dot segments"),
        ("/v1/readings/*", "/v1/.", "no empty or dot segments"),
        ("/v1/readings/*", "/v1?x", "no query"),
        ("/v1/readings/*", "/v1%2fx", "no percent-encoding"),
    ] {
        let policy = policy(replace, by);
        refused(&policy, message);
        assert!(policy.compile().is_err(), "{by:?} compiles");
    }
}

fn device(spec: &str) -> DeviceIdentity {
    named_device("pump-7", spec)
}

fn named_device(name: &str, spec: &str) -> DeviceIdentity {
    serde_yaml::from_str(&format!(
        "{{apiVersion: fairway.dev/v1alpha1, kind: DeviceIdentity, \
         metadata: {{name: {name}, namespace: factory, uid: u}}, spec: {{{spec}}}}}"
    ))
    .unwrap()
}

#[test]
fn devices() {
    let largest: String = (0..16)
        .map(|n| format!("key-{n:02}: {}, ", "v".repeat(19)))
        .collect();
    for fine in [
        String::new(),
        "attributes: {model: pump, site: oslo}, services: [metrics], state: Revoked".to_owned(),
        format!("attributes: {{{largest}}}"),
    ] {
        let device = device(&fine);
        device.validate_cel().unwrap();
        device.claims().unwrap();
    }
    let large: String = (0..16)
        .map(|n| format!("key-{n:02}: {}, ", "v".repeat(20)))
        .collect();
    for (bad, message) in [
        (
            "attributes: {Model: pump}".to_owned(),
            "write keys of attributes",
        ),
        (
            format!("attributes: {{{}: x}}", "k".repeat(33)),
            "write keys of attributes",
        ),
        (
            "attributes: {model: \"\"}".to_owned(),
            "leave an attribute out",
        ),
        (
            "attributes: {model: \"a b\"}".to_owned(),
            "write values of attributes",
        ),
        (format!("attributes: {{{large}}}"), "400 bytes"),
        (
            "services: [\"metrics:9100\"]".to_owned(),
            "write names of services",
        ),
    ] {
        let device = device(&bad);
        let errors = device.validate_cel().expect_err(&bad).to_string();
        assert!(errors.contains(message), "{message:?} is not in {errors:?}");
        device.claims().expect_err(&bad);
    }
    for name in ["pump.7", &"p".repeat(64)] {
        let device = named_device(name, "");
        assert!(
            device
                .validate_cel()
                .unwrap_err()
                .to_string()
                .contains("one label")
        );
        device.claims().unwrap_err();
    }
}

#[test]
fn tickets() {
    let ticket = |name: &str, device: &str, key: &str| -> EnrollmentTicket {
        serde_yaml::from_str(&format!(
            "{{apiVersion: fairway.dev/v1alpha1, kind: EnrollmentTicket, metadata: {{name: {name}, namespace: factory}}, \
             spec: {{device: {device}, publicKey: {key}, expiryTime: \"2026-01-01T00:00:00Z\"}}}}"
        ))
        .unwrap()
    };
    let key = "a".repeat(56);
    let fine = ticket("pump-7-x2k9", "pump-7", &key);
    fine.validate_cel().unwrap();
    fine.validate_cel_update(&fine).unwrap();
    for (bad, message) in [
        (
            ticket("pump-8-x2k9", "pump-7", &key),
            "kubectl fairway ticket",
        ),
        (ticket("Pump-x", "Pump", &key), "name of a DeviceIdentity"),
        (
            ticket("pump-7-x2k9", "pump-7", &"a=".repeat(20)),
            "base64url",
        ),
    ] {
        let errors = bad.validate_cel().unwrap_err().to_string();
        assert!(errors.contains(message), "{message:?} is not in {errors:?}");
    }
    let other = ticket("pump-7-x2k9", "pump-7", &"b".repeat(56));
    let errors = other.validate_cel_update(&fine).unwrap_err().to_string();
    assert!(errors.contains("cannot be changed"), "{errors}");
}
