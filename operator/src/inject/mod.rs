//! The injector: from a pod to the patch that gives it a sidecar.
//!
//! Pure: webhook and command line call the same [`inject`]. It works on the
//! pod as JSON and answers with a patch that touches only what it means to
//! touch, so that fields that this build does not know survive, and it may be
//! called again on its own result, which it then leaves alone.

mod annotations;
mod container;
pub mod probes;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Value, json};

use fairway_crds::labels;

pub use annotations::AnnotationError;
use annotations::Wishes;
use probes::Probes;

/// What the sidecar of this installation is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectConfig {
    /// Image of the sidecar.
    pub image: String,
    /// `imagePullPolicy` of the sidecar; Kubernetes' default if not given.
    pub image_pull_policy: Option<String>,
    /// The trust domain.
    pub trust_domain: String,
    /// Hash of the root key, as `fairway_identity::RootHash` writes it.
    pub root_hash: String,
    /// `host:port` of the authority.
    pub authority: String,
    /// CPU request of the sidecar, as a Kubernetes quantity.
    pub cpu_request: String,
    /// Memory request of the sidecar, as a Kubernetes quantity.
    pub memory_request: String,
    /// Memory limit of the sidecar, as a Kubernetes quantity.
    pub memory_limit: String,
    /// Where the sidecar sends its spans; nowhere if not given.
    pub otlp_endpoint: Option<String>,
    /// Whether probes of the app are pointed at the sidecar.
    pub move_probes: bool,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It gets a sidecar by this patch.
    Inject(Patch),
    /// It starts without one.
    Skip(SkipReason),
    /// It must not start: what it asks for cannot be done.
    Refuse(Refusal),
}

/// Why a pod starts without a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// It has one already.
    #[error("the pod already has a sidecar")]
    AlreadyInjected,
    /// It has the label that says so.
    #[error("the pod has the label fairway.dev/inject: disabled")]
    OptedOut,
    /// It uses the network of its node, where a sidecar would answer for
    /// every such pod of the node, and loopback is shared.
    #[error("the pod uses hostNetwork, where a loopback port is not its own")]
    HostNetwork,
    /// It runs on Windows.
    #[error("the pod is for Windows; the sidecar is for Linux")]
    Windows,
    /// It stands for a static pod, which the API server cannot change.
    #[error("the pod mirrors a static pod of its node")]
    StaticPod,
}

impl SkipReason {
    /// The reason in one word, for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::AlreadyInjected => "already-injected",
            Self::OptedOut => "opted-out",
            Self::HostNetwork => "host-network",
            Self::Windows => "windows",
            Self::StaticPod => "static-pod",
        }
    }

    /// Whether somebody who wanted a sidecar should be told.
    pub fn surprises(self) -> bool {
        match self {
            Self::AlreadyInjected | Self::OptedOut => false,
            Self::HostNetwork | Self::Windows | Self::StaticPod => true,
        }
    }
}

/// Why a pod must not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no pod.
    #[error("the object cannot be read as a pod: {0}")]
    NotAPod(String),
    /// An annotation cannot be understood.
    #[error("annotation {annotation}: {error}")]
    Annotation {
        /// Its key.
        annotation: &'static str,
        /// What is wrong with it.
        error: AnnotationError,
    },
    /// One of its containers wants a port of the sidecar.
    #[error(
        "container {container} uses port {port}, which the sidecar needs; give the app another port"
    )]
    PortTaken {
        /// The container.
        container: String,
        /// The port.
        port: u16,
    },
}

impl Refusal {
    /// The reason in one word, for logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotAPod(_) => "not-a-pod",
            Self::Annotation { .. } => "bad-annotation",
            Self::PortTaken { .. } => "port-taken",
        }
    }
}

/// Decides what becomes of a pod that was chosen for injection by a label of
/// its own or of its namespace.
pub fn inject(pod: &Value, config: &InjectConfig) -> Outcome {
    let typed: Pod = match serde_json::from_value(pod.clone()) {
        Ok(typed) => typed,
        Err(error) => return Outcome::Refuse(Refusal::NotAPod(error.to_string())),
    };
    let Some(spec) = &typed.spec else {
        return Outcome::Refuse(Refusal::NotAPod("it has no spec".to_owned()));
    };
    if let Some(reason) = skip(&typed, spec) {
        return Outcome::Skip(reason);
    }
    let wishes = match wishes(&typed, spec) {
        Ok(wishes) => wishes,
        Err(refusal) => return Outcome::Refuse(refusal),
    };
    let mut patch = PatchBuilder::new(pod);
    annotate(&mut patch);
    let probes = match config.move_probes && wishes.move_probes {
        true => move_probes(&mut patch, spec),
        false => Probes::new(),
    };
    add_sidecar(
        &mut patch,
        spec,
        container::sidecar(&wishes, &probes, config),
    );
    if wishes.http_proxy_env {
        set_http_proxy(&mut patch, spec);
    }
    Outcome::Inject(patch.done())
}

/// Why the injector would refuse a pod: for telling the owner of a pod that is
/// there already.
pub fn refusal(pod: &Pod) -> Option<Refusal> {
    wishes(pod, pod.spec.as_ref()?).err()
}

/// Why a pod has no sidecar although it was asked for, if that is so: for
/// telling the owner of a pod that is there already.
pub fn skip(pod: &Pod, spec: &PodSpec) -> Option<SkipReason> {
    let label = |key: &str| Some(pod.metadata.labels.as_ref()?.get(key)?.as_str());
    let annotations = pod.metadata.annotations.as_ref();
    if label(labels::INJECT) == Some(labels::INJECT_DISABLED) {
        return Some(SkipReason::OptedOut);
    }
    if annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror")) {
        return Some(SkipReason::StaticPod);
    }
    if spec.host_network == Some(true) {
        return Some(SkipReason::HostNetwork);
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Some(SkipReason::Windows);
    }
    is_first_and_stays(spec).then_some(SkipReason::AlreadyInjected)
}

/// Whether the sidecar is where it belongs: first, and restarted for ever.
fn is_first_and_stays(spec: &PodSpec) -> bool {
    let first = spec.init_containers.iter().flatten().next();
    first.is_some_and(|c| {
        c.name == labels::SIDECAR_CONTAINER && c.restart_policy.as_deref() == Some("Always")
    })
}

fn wishes(pod: &Pod, spec: &PodSpec) -> Result<Wishes, Refusal> {
    let wishes = Wishes::of(pod)?;
    match taken_port(spec, &wishes) {
        Some(refusal) => Err(refusal),
        None => Ok(wishes),
    }
}

fn taken_port(spec: &PodSpec, wishes: &Wishes) -> Option<Refusal> {
    let reserved = |port: i32| {
        let port = u16::try_from(port).ok()?;
        let ours = container::RESERVED_PORTS.contains(&port)
            || wishes.inlets.iter().any(|inlet| inlet.port == port);
        ours.then_some(port)
    };
    app_containers(spec).find_map(|(_, _, container)| {
        let mut ports = container.ports.iter().flatten();
        let port = ports.find_map(|port| reserved(port.container_port))?;
        Some(Refusal::PortTaken {
            container: container.name.clone(),
            port,
        })
    })
}

/// Every container that is not ours: list, index in it, container.
fn app_containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, usize, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let main = spec.containers.iter().enumerate();
    init.map(|(index, container)| ("initContainers", index, container))
        .chain(main.map(|(index, container)| ("containers", index, container)))
        .filter(|(_, _, container)| container.name != labels::SIDECAR_CONTAINER)
}

fn annotate(patch: &mut PatchBuilder<'_>) {
    patch.set_member(
        &["metadata", "annotations"],
        labels::INJECTED,
        json!(env!("CARGO_PKG_VERSION")),
    );
}

/// Points the probes of the app at the sidecar; says what that has to do then.
fn move_probes(patch: &mut PatchBuilder<'_>, spec: &PodSpec) -> Probes {
    let mut all = stale_probes(spec);
    for (list, index, container) in app_containers(spec) {
        for moved in probes::of(container) {
            let [field, how] = moved.at;
            let probe = ["spec", list, &index.to_string(), field];
            patch.remove(&[&probe[..], &[how]].concat());
            patch.set_member(&probe, "httpGet", moved.to_kubelet());
            all.insert(moved.name, moved.asked);
        }
    }
    all
}

/// What a sidecar that is about to be made anew had to do for probes: those
/// in the pod point at it already.
fn stale_probes(spec: &PodSpec) -> Probes {
    let sidecars = spec.init_containers.iter().flatten();
    let env = sidecars
        .filter(|container| container.name == labels::SIDECAR_CONTAINER)
        .flat_map(|container| container.env.iter().flatten());
    let mut texts = env
        .filter(|env| env.name == probes::ENV)
        .filter_map(|env| env.value.as_ref());
    texts
        .next()
        .map(|text| probes::from_env(text))
        .unwrap_or_default()
}

fn add_sidecar(patch: &mut PatchBuilder<'_>, spec: &PodSpec, sidecar: Value) {
    // One that another webhook has moved from the first place is made anew.
    let stale = spec.init_containers.iter().flatten();
    let stale: Vec<usize> = stale
        .enumerate()
        .filter(|(_, container)| container.name == labels::SIDECAR_CONTAINER)
        .map(|(index, _)| index)
        .collect();
    for index in stale.into_iter().rev() {
        patch.remove(&["spec", "initContainers", &index.to_string()]);
    }
    patch.prepend(&["spec", "initContainers"], sidecar);
    let volumes = spec.volumes.iter().flatten();
    if !volumes
        .into_iter()
        .any(|volume| volume.name == container::TOKEN_VOLUME)
    {
        patch.append(&["spec", "volumes"], container::token_volume());
    }
}

/// Sets the proxy's address for programs that look for it in the environment;
/// a container that has a proxy already keeps it.
fn set_http_proxy(patch: &mut PatchBuilder<'_>, spec: &PodSpec) {
    const NAMES: [&str; 2] = ["http_proxy", "HTTP_PROXY"];
    for (index, app) in spec.containers.iter().enumerate() {
        let mut env = app.env.iter().flatten();
        if env.any(|env| NAMES.contains(&env.name.as_str())) {
            continue;
        }
        for name in NAMES {
            let index = index.to_string();
            let env = json!({"name": name, "value": container::PROXY_URL});
            patch.append(&["spec", "containers", &index, "env"], env);
        }
    }
}

/// Collects operations, and makes the lists and maps that they need once.
struct PatchBuilder<'a> {
    pod: &'a Value,
    made: Vec<PointerBuf>,
    operations: Vec<PatchOperation>,
}

impl<'a> PatchBuilder<'a> {
    fn new(pod: &'a Value) -> Self {
        Self {
            pod,
            made: Vec::new(),
            operations: Vec::new(),
        }
    }

    fn set_member(&mut self, map: &[&str], key: &str, value: Value) {
        self.ensure(map, json!({}));
        let mut path = pointer(map);
        path.push_back(key);
        self.add(path, value);
    }

    fn append(&mut self, list: &[&str], value: Value) {
        self.insert(list, "-", value);
    }

    fn prepend(&mut self, list: &[&str], value: Value) {
        self.insert(list, "0", value);
    }

    fn remove(&mut self, path: &[&str]) {
        let path = pointer(path);
        self.operations
            .push(PatchOperation::Remove(RemoveOperation { path }));
    }

    fn insert(&mut self, list: &[&str], at: &str, value: Value) {
        self.ensure(list, json!([]));
        let mut path = pointer(list);
        path.push_back(at);
        self.add(path, value);
    }

    /// Makes a list or map that is missing or null.
    fn ensure(&mut self, path: &[&str], empty: Value) {
        let path = pointer(path);
        let there = path.resolve(self.pod).is_ok_and(|value| !value.is_null());
        if !there && !self.made.contains(&path) {
            self.made.push(path.clone());
            self.add(path, empty);
        }
    }

    fn add(&mut self, path: PointerBuf, value: Value) {
        self.operations
            .push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn done(self) -> Patch {
        Patch(self.operations)
    }
}

fn pointer(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.iter().copied())
}
