//! The sidecar beside an app.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use fairway_daemon::{AdminArgs, AdminServer, DebugState, Drain, LogArgs, Readiness, Registry};
use fairway_endpoint::portal::{
    Delivery, Inlet, InletSpec, ListenTable, Others, Outlet, PortalMetrics, Proxy,
};
use fairway_endpoint::{CredentialSource, Endpoint, EndpointConfig, Metrics, RelayUse};
use fairway_identity::{RootHash, TrustDomain};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::probe;

/// How long live connections may go on after SIGTERM. The app has ended by
/// then: native sidecars get their signal last.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// Incoming streams that wait for a task; beyond it the endpoint refuses.
const INCOMING: usize = 256;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The trust domain of the installation.
    #[arg(long, env = "FAIRWAY_TRUST_DOMAIN")]
    trust_domain: String,
    /// SHA-256 of the root key, 64 hexadecimal digits: the anchor of all trust.
    #[arg(long, env = "FAIRWAY_ROOT_HASH")]
    root_hash: String,
    /// The authority, HOST:PORT.
    #[arg(long, env = "FAIRWAY_AUTHORITY")]
    authority: String,
    /// The pod's projected ServiceAccount token.
    #[arg(
        long,
        env = "FAIRWAY_TOKEN_FILE",
        default_value = "/var/run/secrets/fairway/token"
    )]
    token_file: PathBuf,
    /// Loopback address of the HTTP proxy for *.fairway.internal.
    #[arg(long, env = "FAIRWAY_PROXY_LISTEN", default_value = "127.0.0.1:7480")]
    proxy_listen: SocketAddr,
    /// Connect the app to other hosts, too: for pods whose http_proxy is set.
    #[arg(long, env = "FAIRWAY_PROXY_OTHERS", default_value_t = false)]
    proxy_others: bool,
    /// Loopback ports that lead to one destination: PORT=HOST:PORT, separated by commas.
    #[arg(long, env = "FAIRWAY_INLETS", value_delimiter = ',')]
    inlets: Vec<String>,
    /// Ports that may listen beyond loopback, separated by commas.
    #[arg(long, env = "FAIRWAY_ALLOW_EXPOSED_PORTS", value_delimiter = ',')]
    allow_exposed_ports: Vec<String>,
    /// Probes of the pod's apps, as the injector writes them (JSON).
    #[arg(long, env = "FAIRWAY_PROBES", default_value = "")]
    probes: String,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let telemetry = args.log.init("fairway-sidecar")?;
    let inlets = inlets(&args.inlets)?;
    let exposed = exposed_ports(&args.allow_exposed_ports)?;
    let probes = probe::parse(&args.probes)?;
    let others = if args.proxy_others {
        Others::Direct
    } else {
        Others::Refuse
    };
    if !args.proxy_listen.ip().is_loopback() {
        bail!(
            "--proxy-listen {} is not loopback: whoever reaches it speaks with this pod's identity",
            args.proxy_listen
        );
    }
    tracing::info!(event = "start", version = env!("CARGO_PKG_VERSION"), trust_domain = %args.trust_domain, authority = %args.authority, ?inlets, ?exposed);

    let drain = Drain::new();
    drain.begin_on_signal()?;
    let readiness = Readiness::new();
    let credential = readiness.task("credential");
    let mut registry = Registry::default();
    let (metrics, portals) = (
        Metrics::register(&mut registry),
        PortalMetrics::register(&mut registry),
    );
    let (incoming, accepted) = mpsc::channel(INCOMING);
    let mut config = settings(&args)?;
    config.metrics = metrics;
    config.incoming = Some(incoming);
    let endpoint = Endpoint::start(config).await?;

    let delivery = Delivery::Pod {
        listening: ListenTable::of_this_namespace(),
        exposed,
    };
    tokio::spawn(Outlet::new(delivery, portals.clone()).serve(accepted, drain.clone()));
    for spec in &inlets {
        let inlet = Inlet::bind(spec, endpoint.clone(), portals.clone()).await?;
        tokio::spawn(inlet.serve(drain.clone()));
    }
    let listener = TcpListener::bind(args.proxy_listen)
        .await
        .with_context(|| format!("the proxy cannot listen on {}", args.proxy_listen))?;
    tokio::spawn(Proxy::new(endpoint.clone(), portals, others).serve(listener, drain.clone()));

    // Last: the startup probe asks here, and by now every listener is up.
    let shown = endpoint.clone();
    let state: DebugState =
        Arc::new(move || serde_json::to_value(shown.status()).unwrap_or_default());
    let _admin = AdminServer::start_with(
        &args.admin,
        registry,
        readiness,
        drain.clone(),
        state,
        probe::router(probes),
    )
    .await?;
    let waiting = endpoint.clone();
    tokio::spawn(async move {
        waiting.credentialed().await;
        credential.done();
        tracing::info!(event = "credentialed", "this pod can call and be called");
    });
    drain.started().await;
    endpoint.set_registering(false);
    drain.finish(DRAIN_LIMIT).await;
    endpoint.close().await;
    telemetry.shutdown();
    Ok(())
}

fn settings(args: &RunArgs) -> anyhow::Result<EndpointConfig> {
    let trust_domain = TrustDomain::new(&args.trust_domain).context("--trust-domain")?;
    let pin: RootHash = args.root_hash.parse().context("--root-hash")?;
    let mut config = EndpointConfig::new(trust_domain, pin);
    config.credential = CredentialSource::Workload {
        token: args.token_file.clone(),
    };
    config.authority = Some(args.authority.parse().context("--authority")?);
    config.relay_use = RelayUse::All;
    Ok(config)
}

fn inlets(texts: &[String]) -> anyhow::Result<Vec<InletSpec>> {
    let present = texts.iter().filter(|text| !text.trim().is_empty());
    present
        .map(|text| text.parse().with_context(|| format!("inlet {text}")))
        .collect()
}

fn exposed_ports(texts: &[String]) -> anyhow::Result<BTreeSet<u16>> {
    let present = texts
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty());
    present
        .map(|text| {
            text.parse()
                .with_context(|| format!("exposed port {text}: write a number from 1 to 65535"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_be_empty_and_say_what_is_wrong() {
        assert!(inlets(&["".to_owned()]).unwrap().is_empty());
        assert_eq!(
            exposed_ports(&["80".to_owned(), " 443".to_owned()]).unwrap(),
            BTreeSet::from([80, 443])
        );
        assert!(
            exposed_ports(&["http".to_owned()])
                .unwrap_err()
                .to_string()
                .contains("http")
        );
        assert!(inlets(&["80".to_owned()]).is_err());
    }
}
