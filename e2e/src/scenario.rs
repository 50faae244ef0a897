//! One scenario: a namespace of its own, deleted afterwards; what became of
//! everything in it is shown when it fails.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

use crate::cluster::{Cluster, Way};
use crate::device::Device;
use crate::lines::Lines;
use crate::objects::{self, App};
use crate::pod::Pod;
use crate::process::{Output, run};
use crate::wait::{SOON, eventually};

/// No scenario takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(240);

/// All scenarios share it, because they share a client.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("threads can be started"));

/// Those that restart parts of Fairway have the cluster to themselves.
static TURN: RwLock<()> = RwLock::const_new(());

/// Tells a scenario, beside others. `name` becomes part of its namespace's.
#[track_caller]
pub fn scenario(name: &str, story: impl AsyncFnOnce(&Scenario) -> Result<()>) {
    RUNTIME.block_on(async {
        let _turn = TURN.read().await;
        tell(name, story).await;
    });
}

/// Tells a scenario while no other runs, for it takes away what they stand on.
#[track_caller]
pub fn alone(name: &str, story: impl AsyncFnOnce(&Scenario) -> Result<()>) {
    RUNTIME.block_on(async {
        let _turn = TURN.write().await;
        tell(name, story).await;
    });
}

/// A scenario that is being told.
pub struct Scenario {
    cluster: &'static Cluster,
    namespace: String,
    /// What devices and programs wrote, for the reader of a failure.
    logs: Mutex<Vec<(String, Lines)>>,
}

impl Scenario {
    /// The cluster.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// Speaks to the API server.
    pub fn client(&self) -> Client {
        self.cluster.client.clone()
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `text` with the namespace for each `$NS`.
    pub fn text(&self, text: &str) -> String {
        text.replace("$NS", &self.namespace)
    }

    /// Applies all objects of a YAML text, in which `$NS` is the namespace.
    ///
    /// # Errors
    /// The API server refuses one.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        for object in objects::documents(&self.text(yaml))? {
            let namespace = object["metadata"]["namespace"]
                .as_str()
                .unwrap_or(&self.namespace)
                .to_owned();
            objects::apply(&self.cluster.client, &namespace, object)
                .await
                .with_context(|| format!("applying:\n{yaml}"))?;
        }
        Ok(())
    }

    /// What the API server says to an object that it must not take.
    ///
    /// # Errors
    /// It takes it.
    pub async fn refused(&self, yaml: &str) -> Result<String> {
        match self.apply(yaml).await {
            Ok(()) => Err(anyhow!("the API server took:\n{yaml}")),
            Err(error) => match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) => Ok(status.message.clone()),
                _ => Err(error),
            },
        }
    }

    /// Changes one of Fairway's objects by a merge patch.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn patch(&self, kind: &str, name: &str, patch: Value) -> Result<()> {
        let api = objects::api(
            &self.cluster.client,
            &self.namespace,
            "fairway.dev/v1alpha1",
            kind,
        )?;
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Deletes one of Fairway's objects.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn delete(&self, kind: &str, name: &str) -> Result<()> {
        let api = objects::api(
            &self.cluster.client,
            &self.namespace,
            "fairway.dev/v1alpha1",
            kind,
        )?;
        api.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits for one of Fairway's objects to be as wanted, and returns it.
    ///
    /// # Errors
    /// It is not, for too long; with what it is.
    pub async fn object(
        &self,
        kind: &str,
        name: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let api = objects::api(
            &self.cluster.client,
            &self.namespace,
            "fairway.dev/v1alpha1",
            kind,
        )?;
        let json = |object: Option<&kube::api::DynamicObject>| {
            object.and_then(|object| serde_json::to_value(object).ok())
        };
        let seen = Mutex::new(None);
        let condition = |object: Option<&kube::api::DynamicObject>| {
            let value = json(object);
            let found = value.as_ref().is_some_and(&wanted);
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = value;
            found
        };
        let waited =
            tokio::time::timeout(crate::wait::SOON, await_condition(api, name, condition)).await;
        let last = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        match waited {
            Ok(Ok(_)) => last.context("it went away"),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(anyhow!("{kind} {name} is not as wanted: {last:#?}")),
        }
    }

    /// Waits until a condition of one of Fairway's objects has this status, and
    /// returns its reason and message.
    ///
    /// # Errors
    /// It has not, for too long.
    pub async fn condition(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
        status: &str,
    ) -> Result<String> {
        let find = |object: &Value| {
            let all = object["status"]["conditions"].as_array();
            all.and_then(|all| {
                all.iter()
                    .find(|one| one["type"] == condition && one["status"] == status)
            })
            .cloned()
        };
        let object = self
            .object(kind, name, |object| find(object).is_some())
            .await?;
        let found = find(&object).unwrap_or_default();
        Ok(format!(
            "{} {}",
            found["reason"].as_str().unwrap_or_default(),
            found["message"].as_str().unwrap_or_default()
        ))
    }

    /// Creates an app, and waits until it is ready; a serving one that has a
    /// sidecar, until it can be reached, too.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn app(&self, app: App) -> Result<Pod> {
        self.app_in(&self.namespace, &app).await
    }

    /// The same in another namespace.
    ///
    /// # Errors
    /// As [`app`](Self::app).
    pub async fn app_in(&self, namespace: &str, app: &App) -> Result<Pod> {
        for object in app.objects() {
            objects::apply(&self.cluster.client, namespace, object)
                .await
                .with_context(|| format!("the app {}", app.name()))?;
        }
        let pod = self.pod_in(namespace, app.name());
        pod.ready().await?;
        if app.is_reachable() {
            pod.reachable().await?;
        }
        Ok(pod)
    }

    /// A pod of the scenario, which may not be there yet.
    pub fn pod(&self, name: &str) -> Pod {
        self.pod_in(&self.namespace, name)
    }

    /// The same in another namespace.
    pub fn pod_in(&self, namespace: &str, name: &str) -> Pod {
        Pod::new(Api::namespaced(self.client(), namespace), name)
    }

    /// A second namespace, which goes when the first one does.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn another_namespace(&self) -> Result<String> {
        let name = format!("{}-b", self.namespace);
        make_namespace(&self.cluster.client, &name).await?;
        Ok(name)
    }

    /// A device of this name in a place of its own, not joined yet.
    ///
    /// # Errors
    /// The place cannot be made.
    pub async fn device(&self, name: &str) -> Result<Device<'_>> {
        self.device_by(&Way::ALL, name).await
    }

    /// The same, where only these ways lead to the relays.
    ///
    /// # Errors
    /// The place cannot be made.
    pub async fn device_by(&self, ways: &[Way], name: &str) -> Result<Device<'_>> {
        Device::new(self, name, ways).await
    }

    /// A device that has joined and runs: for scenarios about something else.
    /// It has the attribute `site: oslo`, and offers the service `app` as its
    /// port 8080 and `echo` as its port 7000, where [`Device::serve`] listens.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn running_device(&self, name: &str, inlets: &[(u16, &str)]) -> Result<Device<'_>> {
        self.running_device_by(&Way::ALL, name, inlets).await
    }

    /// The same, where only these ways lead to the relays.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn running_device_by(
        &self,
        ways: &[Way],
        name: &str,
        inlets: &[(u16, &str)],
    ) -> Result<Device<'_>> {
        let device = self.device_by(ways, name).await?;
        self.running(device, name, inlets).await
    }

    /// Makes the identity of a device, lets it join, and runs it.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn running<'s>(
        &self,
        mut device: Device<'s>,
        name: &str,
        inlets: &[(u16, &str)],
    ) -> Result<Device<'s>> {
        self.identity(name).await?;
        device.join(&self.ticket(name).await?).await?.succeeded()?;
        device.run(inlets).await?;
        Ok(device)
    }

    /// The DeviceIdentity of such a device.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn identity(&self, name: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: fairway.dev/v1alpha1\nkind: DeviceIdentity\nmetadata: {{name: {name}}}\n\
             spec: {{attributes: {{site: oslo}}, services: [app, echo]}}\n"
        ))
        .await
    }

    /// A ticket for a device, as `kubectl fairway ticket` prints it.
    ///
    /// # Errors
    /// It prints none.
    pub async fn ticket(&self, device: &str) -> Result<String> {
        let printed = self.cli(&["ticket", device]).await?.succeeded()?;
        let line = printed
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("fairway1-"));
        line.map(str::to_owned)
            .with_context(|| format!("no ticket in: {printed}"))
    }

    /// Runs `kubectl fairway` in the scenario's namespace.
    ///
    /// # Errors
    /// It cannot be run. That it fails is in the output.
    pub async fn cli(&self, args: &[&str]) -> Result<Output> {
        run(Command::new(self.cluster.program("kubectl-fairway"))
            .args(args)
            .args(["--namespace", &self.namespace]))
        .await
    }

    /// The name of the one object of a kind of Fairway's.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub async fn only(&self, kind: &str) -> Result<String> {
        let api = objects::api(
            &self.cluster.client,
            &self.namespace,
            "fairway.dev/v1alpha1",
            kind,
        )?;
        let names: Vec<_> = api
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter_map(|object| object.metadata.name)
            .collect();
        let [name] = names.as_slice() else {
            bail!("not one {kind}, but {names:?}")
        };
        Ok(name.clone())
    }

    /// Waits for an event about an object of this kind that says `word`.
    ///
    /// # Errors
    /// None comes.
    pub async fn event(&self, kind: &str, word: &str) -> Result<()> {
        let api = objects::api(
            &self.cluster.client,
            &self.namespace,
            "events.k8s.io/v1",
            "Event",
        )?;
        eventually(
            &format!("an event about a {kind} that says {word}"),
            SOON,
            async || {
                let events = serde_json::to_value(api.list(&ListParams::default()).await?.items)?;
                let about = |event: &Value| {
                    event["regarding"]["kind"] == kind && event.to_string().contains(word)
                };
                ensure!(
                    events.as_array().is_some_and(|all| all.iter().any(about)),
                    "there are: {events}"
                );
                Ok(())
            },
        )
        .await
    }

    /// Shows these lines, too, when the scenario fails.
    pub fn keep(&self, title: String, lines: &Lines) {
        self.logs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((title, lines.clone()));
    }

    pub(crate) fn kept(&self) -> Vec<(String, Lines)> {
        std::mem::take(&mut *self.logs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn begin(name: &str) -> Result<Self> {
        let cluster = Cluster::get().await?;
        let namespace = format!("e2e-{name}-{}", random_letters());
        make_namespace(&cluster.client, &namespace).await?;
        Ok(Self {
            cluster,
            namespace,
            logs: Mutex::default(),
        })
    }

    /// Begins the end of its namespaces; the API server does the rest.
    async fn end(self) {
        let namespaces = Api::<Namespace>::all(self.client());
        for name in [self.namespace.clone(), format!("{}-b", self.namespace)] {
            let _ = namespaces.delete(&name, &DeleteParams::background()).await;
        }
    }
}

async fn tell(name: &str, story: impl AsyncFnOnce(&Scenario) -> Result<()>) {
    let scenario = Scenario::begin(name)
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    let told = AssertUnwindSafe(tokio::time::timeout(LIMIT, story(&scenario)))
        .catch_unwind()
        .await;
    let problem = match &told {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(error))) => Some(format!("{error:?}")),
        Ok(Err(_)) => Some(format!("not done after {} s", LIMIT.as_secs())),
        Err(_) => Some("an assertion failed, see above".to_owned()),
    };
    if problem.is_some() {
        scenario.show().await;
    }
    scenario.end().await;
    if let Err(panic) = told {
        resume_unwind(panic);
    }
    if let Some(problem) = problem {
        panic!("{name}: {problem}");
    }
}

/// Pods in it must pass the strictest of the Pod Security Standards.
async fn make_namespace(client: &Client, name: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"fairway.dev/e2e": "true", "pod-security.kubernetes.io/enforce": "restricted"}},
    });
    objects::apply(client, name, object)
        .await
        .context("making a namespace")?;
    Ok(())
}

/// Six letters, so that a namespace that is still going does not matter.
fn random_letters() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let mut number = RandomState::new().hash_one(std::process::id());
    std::iter::repeat_with(|| {
        let letter = b'a' + u8::try_from(number % 26).unwrap_or_default();
        number /= 26;
        char::from(letter)
    })
    .take(6)
    .collect()
}
