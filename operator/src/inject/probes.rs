//! Probes of the app, pointed at the sidecar.
//!
//! The kubelet probes the pod's address, and an app that lets nobody around
//! Fairway listens on loopback only. So the kubelet asks the sidecar's admin
//! port, and the sidecar asks the app over loopback and answers with the
//! status alone. It does exactly what the pod declared and nothing else: which
//! probe is meant is said by a name, and what it does by [`ENV`], so nobody who
//! reaches the admin port can send a request of his own to the app.
//!
//! HTTP and TCP probes are moved. What cannot be moved stays as it is: `exec`
//! (it runs inside anyway), `grpc`, HTTPS, probes of another host, and ports
//! by a name that the container does not declare.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::container::ADMIN_PORT;

/// Variable of the sidecar with all probes: a JSON object of [`Asked`] by name.
pub const ENV: &str = "FAIRWAY_PROBES";

/// Path of the sidecar's admin port, before the name.
pub const PATH: &str = "/probe/";

/// Probes by name, `CONTAINER/liveness`, `CONTAINER/readiness` or
/// `CONTAINER/startup`.
pub type Probes = BTreeMap<String, Asked>;

/// What the sidecar does for one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// `GET` of this path and query; only a connection if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Headers of the request, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Port on loopback.
    pub port: u16,
    /// How long it may take, in seconds.
    pub timeout_seconds: u32,
}

/// As the value of [`ENV`]. The kubelet replaces `$(NAME)` in values of the
/// environment but not in probes, so a dollar that begins one is doubled.
pub(super) fn to_env(probes: &Probes) -> String {
    json!(probes).to_string().replace("$(", "$$(")
}

/// From the value of [`ENV`] as it is in a pod.
pub(super) fn from_env(value: &str) -> Probes {
    serde_json::from_str(&value.replace("$$(", "$(")).unwrap_or_default()
}

/// A probe that moves: where it is in its container, and by what it is
/// replaced there.
#[derive(Debug, PartialEq)]
pub(super) struct Moved {
    /// Field of the container, and field of the probe.
    pub(super) at: [&'static str; 2],
    /// Name of the probe.
    pub(super) name: String,
    /// What the sidecar does.
    pub(super) asked: Asked,
}

impl Moved {
    /// What the kubelet asks instead.
    pub(super) fn to_kubelet(&self) -> Value {
        json!({"path": format!("{PATH}{}", self.name), "port": ADMIN_PORT, "scheme": "HTTP"})
    }
}

/// The probes of a container that can move.
pub(super) fn of(container: &Container) -> Vec<Moved> {
    let probes = [
        ("livenessProbe", "liveness", &container.liveness_probe),
        ("readinessProbe", "readiness", &container.readiness_probe),
        ("startupProbe", "startup", &container.startup_probe),
    ];
    probes
        .into_iter()
        .filter_map(|(field, kind, probe)| {
            let (how, asked) = asked(container, probe.as_ref()?)?;
            let name = format!("{}/{kind}", container.name);
            Some(Moved {
                at: [field, how],
                name,
                asked,
            })
        })
        .collect()
}

fn asked(container: &Container, probe: &Probe) -> Option<(&'static str, Asked)> {
    let timeout_seconds = probe
        .timeout_seconds
        .and_then(|s| s.try_into().ok())
        .unwrap_or(1);
    if let Some(http) = probe.http_get.as_ref().filter(|http| is_movable(http)) {
        let headers = http.http_headers.iter().flatten();
        let asked = Asked {
            path: Some(http.path.clone().unwrap_or_else(|| "/".to_owned())),
            headers: headers
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
            port: port(container, &http.port)?,
            timeout_seconds,
        };
        return Some(("httpGet", asked));
    }
    let tcp = probe.tcp_socket.as_ref().filter(|tcp| tcp.host.is_none())?;
    let asked = Asked {
        path: None,
        headers: Vec::new(),
        port: port(container, &tcp.port)?,
        timeout_seconds,
    };
    Some(("tcpSocket", asked))
}

/// Over plain HTTP, to the pod itself, and not moved already.
fn is_movable(http: &HTTPGetAction) -> bool {
    let plain = http.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP");
    let moved = http.port == IntOrString::Int(ADMIN_PORT.into())
        && http
            .path
            .as_deref()
            .is_some_and(|path| path.starts_with(PATH));
    plain && http.host.is_none() && !moved
}

fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports
                .find(|port| port.name.as_ref() == Some(name))?
                .container_port
        }
    };
    number.try_into().ok()
}
