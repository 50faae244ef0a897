//! What is written wrong is refused by the API server, and the message says
//! what to write instead; what only shows later becomes a condition, and does
//! not keep the controllers from other objects.

use fairway_e2e::{Result, Scenario, scenario};

/// A policy with one thing wrong, and what the answer must say.
const WRONG_POLICIES: &[(&str, &str)] = &[
    (
        "target: {workloads: {podSelector: {}}}\n  from: [{devices: {namespaces: [a]}}]\n  to: [{port: 1}]",
        "any: true",
    ),
    (
        "target: {workloads: {any: true}}\n  from: []\n  to: [{port: 1}]",
        "write who may call",
    ),
    (
        "target: {workloads: {any: true}}\n  from: [{devices: {namespaces: [a]}}]\n  to: []",
        "write what may be opened",
    ),
    (
        "target: {workloads: {any: true}, devices: {any: true}}\n  from: [{devices: {namespaces: [a]}}]\n  to: [{port: 1}]",
        "exactly one of",
    ),
    (
        "target: {workloads: {any: true}}\n  from: [{devices: {namespaces: [a]}}]\n  to: [{service: metrics}]",
        "port: NUMBER",
    ),
    (
        "target: {devices: {any: true}}\n  from: [{workloads: {namespaces: [a], serviceAccounts: [b]}}]\n  to: [{port: 9100}]",
        "service: NAME",
    ),
    (
        "target: {workloads: {any: true}}\n  from: [{devices: {namespaces: [a]}}]\n  to: [{port: 70000}]",
        "65535",
    ),
];

async fn policy(s: &Scenario, spec: &str) -> Result<String> {
    s.refused(&format!("apiVersion: fairway.dev/v1alpha1\nkind: ChannelPolicy\nmetadata: {{name: wrong}}\nspec:\n  {spec}\n")).await
}

async fn device(s: &Scenario, name: &str, spec: &str) -> Result<String> {
    s.refused(&format!("apiVersion: fairway.dev/v1alpha1\nkind: DeviceIdentity\nmetadata: {{name: {name}}}\nspec: {spec}\n")).await
}

#[test]
fn the_api_server_says_what_to_write() {
    scenario("malformed", async |s| {
        for (spec, says) in WRONG_POLICIES {
            let message = policy(s, spec).await?;
            assert!(message.contains(says), "{spec}: {message}");
        }
        for (name, spec, says) in [
            ("pump.7", "{}", "without dots"),
            (
                "pump-7",
                "{attributes: {Model: pump}}",
                "write keys of attributes",
            ),
            (
                "pump-7",
                "{attributes: {model: ''}}",
                "leave an attribute out",
            ),
            (
                "pump-7",
                "{services: [\"metrics:9100\"]}",
                "write names of services",
            ),
            ("pump-7", "{state: Retired}", "Revoked"),
            ("pump-7", "{credential: {ttlSeconds: 1}}", "ttlSeconds"),
        ] {
            let message = device(s, name, spec).await?;
            assert!(message.contains(says), "{spec}: {message}");
        }
        Ok(())
    });
}

#[test]
fn a_ticket_made_by_hand_is_refused() {
    scenario("hand-made", async |s| {
        s.identity("pump-7").await?;
        let key = "A".repeat(60);
        let ticket = |name: &str| {
            format!(
                "apiVersion: fairway.dev/v1alpha1\nkind: EnrollmentTicket\nmetadata: {{name: {name}}}\n\
                 spec: {{device: pump-7, publicKey: {key}, expiryTime: '2030-01-01T00:00:00Z'}}\n"
            )
        };
        let message = s.refused(&ticket("another-name")).await?;
        assert!(message.contains("kubectl fairway ticket"), "{message}");
        // With nothing that the schema could find fault with, it is the
        // operator that does, and looks after others all the same.
        s.apply(&ticket("pump-7-aaaaaaaaaa")).await?;
        let why = s
            .condition("EnrollmentTicket", "pump-7-aaaaaaaaaa", "Usable", "False")
            .await?;
        assert!(
            why.starts_with("Malformed") && why.contains("kubectl fairway ticket pump-7"),
            "{why}"
        );
        s.identity("pump-8").await?;
        s.condition("DeviceIdentity", "pump-8", "Enrolled", "False")
            .await?;
        Ok(())
    });
}
