//! The cluster that `e2e/run` found or made, with Fairway installed in it.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::ListParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::process::run;
use crate::wait::{LATER, within};

/// Where Fairway is installed.
pub const SYSTEM: &str = "fairway-system";

/// A way to the relays: a port of each node (see `e2e/values.yaml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// QUIC, over UDP.
    Quic,
    /// TCP as it is.
    Tcp,
    /// TLS, and WebSocket over it.
    Tls,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Quic, Self::Tcp, Self::Tls];

    /// The NodePort.
    pub fn port(self) -> u16 {
        match self {
            Self::Quic => 30741,
            Self::Tcp => 30740,
            Self::Tls => 30743,
        }
    }

    /// On the node with this address, as `e2e/device-netns` has it.
    pub fn target(self, node: &str) -> String {
        let protocol = match self {
            Self::Quic => "/udp",
            Self::Tcp | Self::Tls => "",
        };
        format!("{node}:{}{protocol}", self.port())
    }
}

/// The cluster of this run.
pub struct Cluster {
    /// Speaks to the API server.
    pub client: Client,
    /// Addresses of the nodes.
    pub nodes: Vec<String>,
    images: PathBuf,
    apps: PathBuf,
}

impl Cluster {
    /// The cluster, after Fairway was installed or upgraded in it: once a run.
    ///
    /// # Errors
    /// `e2e/run` did not prepare this run, or helm failed.
    pub async fn get() -> Result<&'static Self> {
        static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
        CLUSTER.get_or_try_init(Self::prepare).await
    }

    async fn prepare() -> Result<Self> {
        let images = prepared("FAIRWAY_E2E_IMAGES")?.into();
        let apps = prepared("FAIRWAY_E2E_APPS")?.into();
        install(&prepared("FAIRWAY_E2E_TAG")?).await?;
        let client = Client::try_default()
            .await
            .context("no cluster that kubectl would find")?;
        trust_is_published(&client).await?;
        Ok(Self {
            nodes: nodes(&client).await?,
            client,
            images,
            apps,
        })
    }

    /// One of Fairway's programs for the host: `fairway-device`, `kubectl-fairway`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.images.join("bin").join(name)
    }

    /// One of the apps for a device's side: `app`, `node_exporter`.
    pub fn app(&self, name: &str) -> PathBuf {
        self.apps.join("bin").join(name)
    }
}

/// The folder `e2e`.
pub fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn prepared(variable: &str) -> Result<String> {
    env::var(variable).with_context(|| {
        format!("{variable} is not set: run the scenarios by `make e2e` (e2e/run)")
    })
}

/// Both charts, as a user installs them.
async fn install(tag: &str) -> Result<()> {
    let charts = here()
        .parent()
        .context("e2e is a folder of the workspace")?
        .join("charts");
    let helm = |release: &str| {
        let mut command = Command::new("helm");
        command
            .args(["upgrade", "--install", release])
            .arg(charts.join(release));
        command.args([
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--wait",
            "--timeout",
            "3m",
        ]);
        command
    };
    run(&mut helm("fairway-crds"))
        .await?
        .succeeded()
        .context("the chart fairway-crds")?;
    let mut fairway = helm("fairway");
    fairway
        .arg("--values")
        .arg(here().join("values.yaml"))
        .args(["--set-string", &format!("image.tag={tag}")]);
    run(&mut fairway)
        .await?
        .succeeded()
        .context("the chart fairway")?;
    Ok(())
}

/// Until the authority has published the root, the injector refuses pods.
async fn trust_is_published(client: &Client) -> Result<()> {
    let published = |map: Option<&ConfigMap>| {
        let data = map.and_then(|map| map.data.as_ref());
        data.is_some_and(|data| data.get("rootHash").is_some_and(|hash| !hash.is_empty()))
    };
    let maps = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM);
    within("the authority to publish its root", LATER, async {
        Ok(await_condition(maps, "fairway-trust", published).await?)
    })
    .await?;
    Ok(())
}

async fn nodes(client: &Client) -> Result<Vec<String>> {
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let addresses = nodes
        .iter()
        .filter_map(|node| node.status.as_ref()?.addresses.as_ref())
        .flatten();
    let internal: Vec<String> = addresses
        .filter(|address| address.type_ == "InternalIP")
        .map(|address| address.address.clone())
        .collect();
    ensure!(!internal.is_empty(), "no node has an address");
    Ok(internal)
}
