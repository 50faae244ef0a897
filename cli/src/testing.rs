//! A cluster that answers from a table.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::args::Global;
use crate::cluster::Cluster;

/// 2026-11-23T06:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::constant(1_795_413_600, 0);

/// What paths answer; anything else is a kind that is not there.
#[derive(Clone, Default)]
pub(crate) struct FakeCluster {
    answers: BTreeMap<String, (u16, Value)>,
    accepted: Vec<String>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    asked: Vec<String>,
    created: Vec<Value>,
}

impl FakeCluster {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// There is an object.
    pub(crate) fn object(mut self, path: &str, object: Value) -> Self {
        self.answers.insert(path.to_owned(), (200, object));
        self
    }

    /// There is a kind, with these objects.
    pub(crate) fn list(self, path: &str, items: Value) -> Self {
        self.object(path, json!({"metadata": {}, "items": items}))
    }

    /// There is a kind, but no such object.
    pub(crate) fn missing(self, path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap();
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
            "reason": "NotFound", "message": format!("{name} not found"), "details": {"name": name},
        });
        self.answer(path, 404, status)
    }

    /// It is refused.
    pub(crate) fn refuse(self, path: &str, code: u16, message: &str) -> Self {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": "", "message": message,
        });
        self.answer(path, code, status)
    }

    /// New objects are taken.
    pub(crate) fn accept(mut self, path: &str) -> Self {
        self.accepted.push(path.to_owned());
        self
    }

    pub(crate) fn answer(mut self, path: &str, code: u16, body: Value) -> Self {
        self.answers.insert(path.to_owned(), (code, body));
        self
    }

    /// Everything that was asked for, as `METHOD PATH`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.log.lock().unwrap().asked.clone()
    }

    /// What was made.
    pub(crate) fn created(&self) -> Vec<Value> {
        self.log.lock().unwrap().created.clone()
    }

    /// A cluster that answers so; the user works in `factory`.
    pub(crate) fn cluster(&self) -> Cluster {
        let global = Global {
            namespace: Some("factory".into()),
            install_namespace: "fairway-system".into(),
            ..Global::default()
        };
        self.cluster_for(&global)
    }

    pub(crate) fn cluster_for(&self, global: &Global) -> Cluster {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.respond(request).await) }
        });
        let client = Client::new(service, "default");
        Cluster::new(
            client,
            "https://cluster.example.com".into(),
            "default",
            global,
        )
    }

    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        self.log
            .lock()
            .unwrap()
            .asked
            .push(format!("{} {path}", parts.method));
        let refused = self.answers.get(&path).filter(|(code, _)| *code >= 400);
        let (code, body) = if parts.method == Method::POST && refused.is_none() {
            assert!(self.accepted.contains(&path), "unexpected: POST {path}");
            let body = body.collect_bytes().await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            self.log.lock().unwrap().created.push(body.clone());
            (201, body.to_string())
        } else {
            match self.answers.get(&path) {
                Some((code, body)) => (*code, body.to_string()),
                // As the API server says it.
                None => (404, "404 page not found".to_owned()),
            }
        };
        Response::builder()
            .status(code)
            .body(Body::from(body.into_bytes()))
            .unwrap()
    }
}

pub(crate) fn trust_data(relays: &str) -> Value {
    json!({"rootHash": "ab".repeat(32), "trustDomain": "fairway.local", "relays": relays})
}

pub(crate) fn device(state: &str) -> Value {
    json!({
        "apiVersion": "fairway.dev/v1alpha1",
        "kind": "DeviceIdentity",
        "metadata": {"name": "pump-7", "namespace": "factory", "uid": "uid-of-pump-7"},
        "spec": {"state": state, "attributes": {"model": "pump", "site": "oslo"}, "services": ["metrics"]},
        "status": {
            "identity": "spiffe://fairway.local/ns/factory/device/pump-7",
            "deviceKey": "pAECIAE",
            "credential": {"serial": "0a0b", "expiryTime": "2026-11-24T06:00:00Z", "issuedTime": "2026-11-23T05:00:00Z"},
            "lastSeenTime": "2026-11-23T05:55:00Z",
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Enrolled", "message": "",
                "lastTransitionTime": "2026-11-23T05:00:00Z",
            }],
        },
    })
}

/// Three nodes: with an address from outside, with none, and not ready.
pub(crate) fn nodes() -> Value {
    let node = |name: &str, ready: &str, addresses: Value| {
        json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}], "addresses": addresses},
        })
    };
    let inside = |address: &str| json!({"type": "InternalIP", "address": address});
    json!([
        node(
            "a",
            "True",
            json!([inside("198.18.0.2"), {"type": "ExternalIP", "address": "203.0.113.7"}])
        ),
        node("b", "True", json!([inside("198.18.0.3")])),
        node("c", "False", json!([inside("198.18.0.4")])),
    ])
}
