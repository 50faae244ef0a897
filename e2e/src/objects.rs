//! What users write into the cluster: YAML, and the pods of the scenarios.

use anyhow::{Context as _, Result};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde::Deserialize as _;
use serde_json::{Value, json};

/// Port of an [`App`]'s Service that leads to its HTTP port.
pub const HTTP: u16 = 80;
/// Port of an [`App`]'s Service that leads to its TCP echo.
pub const TCP: u16 = 7;
/// Where an [`App`] serves HTTP: what policies name.
pub const HTTP_TARGET: u16 = 8080;
/// Where an [`App`] echoes TCP: what policies name.
pub const TCP_TARGET: u16 = 7000;

/// The documents of a YAML text.
///
/// # Errors
/// It is no YAML.
pub fn documents(yaml: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml::Deserializer::from_str(yaml).map(Value::deserialize);
    documents
        .collect::<Result<_, _>>()
        .with_context(|| format!("not YAML:\n{yaml}"))
}

/// Applies one object as `kubectl apply --server-side` does.
///
/// # Errors
/// What the API server says.
pub async fn apply(client: &Client, namespace: &str, object: Value) -> Result<DynamicObject> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = text(&object["kind"]).context("an object without kind")?;
    let version = text(&object["apiVersion"]).context("an object without apiVersion")?;
    let name = text(&object["metadata"]["name"]).context("an object without a name")?;
    let params = PatchParams::apply("fairway-e2e").force();
    Ok(api(client, namespace, &version, &kind)?
        .patch(&name, &params, &Patch::Apply(object))
        .await?)
}

/// The objects of one kind in a namespace.
///
/// # Errors
/// `version` is none.
pub fn api(
    client: &Client,
    namespace: &str,
    version: &str,
    kind: &str,
) -> Result<Api<DynamicObject>> {
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Ok(match kind {
        "Namespace" | "Node" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), namespace, &resource),
    })
}

/// One line for each object of a kind, for the reader of a failure.
pub async fn overview(
    client: &Client,
    namespace: &str,
    version: &str,
    kind: &str,
    line: impl Fn(&Value) -> String,
) -> String {
    let listed = async {
        anyhow::Ok(
            api(client, namespace, version, kind)?
                .list(&ListParams::default())
                .await?,
        )
    };
    match listed.await {
        Ok(list) => list
            .into_iter()
            .filter_map(|object| serde_json::to_value(object).ok())
            .map(|object| line(&object) + "\n")
            .collect(),
        Err(error) => format!("{kind}: {error:#}\n"),
    }
}

/// A pod of the `app` image and the Service of the same name.
#[derive(Clone, Debug)]
pub struct App {
    name: String,
    /// A serving one; `None` is `app idle`.
    listen: Option<&'static str>,
    /// Value of the label `fairway.dev/inject`.
    inject: Option<&'static str>,
    service_account: &'static str,
    annotations: Value,
}

impl App {
    /// Echoes on [`HTTP`] and [`TCP`], and can call.
    pub fn echo(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            listen: Some("127.0.0.1"),
            inject: Some("enabled"),
            service_account: "default",
            annotations: json!({}),
        }
    }

    /// Only calls, with the identity of the ServiceAccount `caller`.
    pub fn caller(name: &str) -> Self {
        Self {
            listen: None,
            service_account: "caller",
            ..Self::echo(name)
        }
    }

    /// Listens where the whole cluster can reach it.
    pub fn exposed(mut self) -> Self {
        self.listen = Some("0.0.0.0");
        self
    }

    /// Without the label.
    pub fn uninjected(mut self) -> Self {
        self.inject = None;
        self
    }

    /// With the label that says no, whatever the namespace says.
    pub fn opted_out(mut self) -> Self {
        self.inject = Some("disabled");
        self
    }

    /// With an annotation.
    pub fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations[key] = json!(value);
        self
    }

    /// Its name, and that of its Service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it serves, through a sidecar.
    pub(crate) fn is_reachable(&self) -> bool {
        self.inject == Some("enabled") && self.listen.is_some()
    }

    pub(crate) fn objects(&self) -> [Value; 3] {
        let mut labels = json!({"app": self.name});
        if let Some(inject) = self.inject {
            labels["fairway.dev/inject"] = json!(inject);
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name},
            "spec": {"selector": {"app": self.name}, "ports": [
                {"name": "http", "port": HTTP, "targetPort": HTTP_TARGET},
                {"name": "tcp", "port": TCP, "targetPort": TCP_TARGET},
            ]},
        });
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": self.service_account}});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "labels": labels, "annotations": self.annotations},
            "spec": {"serviceAccountName": self.service_account, "terminationGracePeriodSeconds": 5}
        });
        [account, service, with_container(pod, &self.args())]
    }

    fn args(&self) -> Vec<String> {
        match self.listen {
            Some(host) => [
                "serve",
                "-http",
                &format!("{host}:{HTTP_TARGET}"),
                "-tcp",
                &format!("{host}:{TCP_TARGET}"),
            ]
            .map(str::to_owned)
            .to_vec(),
            None => vec!["idle".to_owned()],
        }
    }
}

/// Adds the app's container to a pod or a pod template, as the `restricted`
/// Pod Security Standard wants it: the namespaces of the scenarios enforce it.
pub fn with_container(mut pod: Value, args: &[String]) -> Value {
    let spec = &mut pod["spec"];
    spec["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}});
    spec["containers"] = json!([{
        "name": "app", "image": "localhost/app:e2e", "imagePullPolicy": "IfNotPresent", "args": args,
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    }]);
    pod
}
