//! The sidecar's container, and the volume with its token.

use fairway_crds::labels;
use serde_json::{Value, json};

use super::InjectConfig;
use super::annotations::Wishes;
use super::probes::{self, Probes};

/// Ports that the sidecar listens on: HTTP proxy, admin, debug.
pub(super) const RESERVED_PORTS: [u16; 3] = [7480, ADMIN_PORT, 7491];
/// The port of `/livez`, `/readyz` and `/metrics`.
pub(super) const ADMIN_PORT: u16 = 7490;
/// Where the proxy listens, for programs that take it from the environment.
pub(super) const PROXY_URL: &str = "http://127.0.0.1:7480";
/// The volume with the projected token.
pub(super) const TOKEN_VOLUME: &str = "fairway-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/fairway";
/// The kubelet renews the token when a fifth of this is left.
const TOKEN_SECONDS: u32 = 3600;
/// Any user but root; what the image is made for.
const USER: u32 = 65532;

/// A native sidecar that passes the `restricted` Pod Security Standard.
pub(super) fn sidecar(wishes: &Wishes, probes: &Probes, config: &InjectConfig) -> Value {
    let mut container = json!({
        "name": labels::SIDECAR_CONTAINER,
        "image": config.image,
        "args": ["run"],
        // Native: starts before the app and ends after it, also in Jobs.
        "restartPolicy": "Always",
        "env": env(wishes, probes, config),
        "ports": [{"name": "fairway-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        // Listeners are up. There is no readiness probe on purpose: without the
        // authority, an app can still serve the cluster.
        "startupProbe": {
            "httpGet": {"path": "/livez", "port": ADMIN_PORT},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "resources": {
            "requests": {"cpu": config.cpu_request, "memory": config.memory_request},
            "limits": {"memory": config.memory_limit},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": true}],
    });
    if let Some(policy) = &config.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}

/// The token that the authority reviews. It is good for Fairway alone.
pub(super) fn token_volume() -> Value {
    json!({
        "name": TOKEN_VOLUME,
        "projected": {
            "sources": [{
                "serviceAccountToken": {
                    "audience": labels::TOKEN_AUDIENCE,
                    "expirationSeconds": TOKEN_SECONDS,
                    "path": "token",
                },
            }],
        },
    })
}

fn env(wishes: &Wishes, probes: &Probes, config: &InjectConfig) -> Vec<Value> {
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let mut env = vec![
        value("FAIRWAY_TRUST_DOMAIN", &config.trust_domain),
        value("FAIRWAY_ROOT_HASH", &config.root_hash),
        value("FAIRWAY_AUTHORITY", &config.authority),
        value("FAIRWAY_TOKEN_FILE", &format!("{TOKEN_FOLDER}/token")),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
    ];
    if !wishes.inlets.is_empty() {
        env.push(value("FAIRWAY_INLETS", &wishes.inlets_text()));
    }
    if wishes.http_proxy_env {
        env.push(value("FAIRWAY_PROXY_OTHERS", "true"));
    }
    if !wishes.exposed_ports.is_empty() {
        env.push(value(
            "FAIRWAY_ALLOW_EXPOSED_PORTS",
            &wishes.exposed_ports_text(),
        ));
    }
    if !probes.is_empty() {
        env.push(value(probes::ENV, &probes::to_env(probes)));
    }
    if let Some(endpoint) = &config.otlp_endpoint {
        env.push(value("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
    }
    env
}
