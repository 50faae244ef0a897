//! A small API server in memory, for tests: objects by their path, with
//! resourceVersions that are compared, and switches for what can go wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// Shared by all its clones and clients.
#[derive(Clone, Default)]
pub(crate) struct FakeApi {
    shared: Arc<Mutex<Shared>>,
    hangs: Arc<Mutex<bool>>,
}

#[derive(Default)]
struct Shared {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: Vec<(Method, String)>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The same objects by another way, which is not cut when this one is.
    pub(crate) fn fork(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            hangs: Arc::default(),
        }
    }

    /// From now on no request is answered.
    pub(crate) fn hang(&self) {
        *self.hangs.lock().unwrap() = true;
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                if *api.hangs.lock().unwrap() {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(api.answer(request).await)
            }
        });
        Client::new(service, "default")
    }

    /// The object at a path.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.shared.lock().unwrap().objects.get(path).cloned()
    }

    /// Puts an object at a path, as if by somebody else.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.shared.lock().unwrap().store(path, object);
    }

    /// Changes the object at a path, as if by somebody else.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut shared = self.shared.lock().unwrap();
        let mut object = shared.objects[path].clone();
        change(&mut object);
        shared.store(path, object);
    }

    /// Takes the writes that were made since the last call.
    pub(crate) fn writes(&self) -> Vec<(Method, String)> {
        std::mem::take(&mut self.shared.lock().unwrap().writes)
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut shared = self.shared.lock().unwrap();
        let (status, object) = shared.handle(&parts.method, parts.uri.path(), body);
        let bytes = serde_json::to_vec(&object).unwrap();
        Response::builder()
            .status(status)
            .body(Body::from(bytes))
            .unwrap()
    }
}

impl Shared {
    fn handle(&mut self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        if method != Method::GET {
            self.writes.push((method.clone(), path.to_owned()));
        }
        let path = path.strip_suffix("/status").unwrap_or(path);
        let found = self.objects.get(path).cloned();
        match (method.as_str(), found) {
            ("GET", Some(object)) => (StatusCode::OK, object),
            ("GET", None) if self.is_collection(path) => (StatusCode::OK, self.list(path)),
            ("POST", _) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let path = format!("{path}/{name}");
                match self.objects.contains_key(&path) {
                    true => failure(StatusCode::CONFLICT, "AlreadyExists"),
                    false => (StatusCode::CREATED, self.store(&path, body)),
                }
            }
            ("PUT", Some(object)) => {
                let expected = &body["metadata"]["resourceVersion"];
                match expected.is_null() || *expected == object["metadata"]["resourceVersion"] {
                    true => (StatusCode::OK, self.store(path, body)),
                    false => failure(StatusCode::CONFLICT, "Conflict"),
                }
            }
            ("PATCH", Some(mut object)) => {
                merge(&mut object, &body);
                (StatusCode::OK, self.store(path, object))
            }
            ("DELETE", Some(object)) => {
                let expected = &body["preconditions"]["uid"];
                if !expected.is_null() && *expected != object["metadata"]["uid"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                self.objects.remove(path);
                (StatusCode::OK, object)
            }
            _ => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// Plural words end in `s`, and no object of the tests has such a name.
    fn is_collection(&self, path: &str) -> bool {
        path.ends_with('s')
    }

    fn list(&self, path: &str) -> Value {
        let kind = path.rsplit('/').next().unwrap_or_default();
        let within = |key: &&String| match path.contains("/namespaces/") {
            true => key.starts_with(&format!("{path}/")),
            false => key.rsplit('/').nth(1) == Some(kind),
        };
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, _)| within(key))
            .map(|(_, object)| object)
            .collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
    }
}

fn failure(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "message": reason, "reason": reason, "code": code.as_u16(),
    });
    (code, status)
}

/// Merges maps; lists of named things by name; replaces the rest.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if from.iter().all(|v| v["name"].is_string()) => {
            for value in from {
                match into.iter_mut().find(|old| old["name"] == value["name"]) {
                    Some(old) => merge(old, value),
                    None => into.push(value.clone()),
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}
