//! `fairway-operator`: wiring only.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum_server::tls_rustls::RustlsConfig;
use clap::Parser as _;
use fairway_daemon::{AdminServer, DebugState, Drain, Readiness, Registry};
use fairway_operator::config::Args;
use fairway_operator::controllers::Controllers;
use fairway_operator::leader::Election;
use fairway_operator::metrics::Metrics;
use fairway_operator::trust::{self, Trust, TrustError};
use fairway_operator::webhook::keeper::{Keeper, KeeperError};
use fairway_operator::webhook::keyring::Keyring;
use fairway_operator::webhook::review::Injector;
use fairway_operator::webhook::server::WebhookServer;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

/// Name of the Lease.
const LEASE: &str = "fairway-operator";
/// How long reviews and writes under way may take after SIGTERM.
const DRAIN_TIME: Duration = Duration::from_secs(15);
/// Wait between attempts to get the first certificate.
const RETRY: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let telemetry = args.log.init("fairway-operator")?;
    tracing::info!(event = "start", version = env!("CARGO_PKG_VERSION"), config = ?args);
    let result = run(args).await;
    telemetry.shutdown();
    result
}

async fn run(args: Args) -> anyhow::Result<()> {
    let template = args.inject_template()?;
    let drain = Drain::new();
    drain.begin_on_signal()?;
    let readiness = Readiness::new();
    let serving = readiness.task("webhook-certificate");
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (trust_sender, trust) = watch::channel(Trust::Unknown(TrustError::Starting));
    let shown = trust.clone();
    let state: DebugState =
        Arc::new(move || serde_json::json!({ "trust": format!("{:?}", *shown.borrow()) }));
    let _admin = AdminServer::start(&args.admin, registry, readiness, drain.clone(), state).await?;

    let client = client().await?;
    let (follower, namespace, domain) = (
        client.clone(),
        args.namespace.clone(),
        args.trust_domain.clone(),
    );
    tokio::spawn(async move { trust::follow(follower, &namespace, &domain, trust_sender).await });

    let server = WebhookServer::bind(args.webhook_listen)
        .with_context(|| format!("the webhook cannot listen on {}", args.webhook_listen))?;
    let keeper = Keeper::new(
        client.clone(),
        &args.namespace,
        &args.webhook_service,
        &args.webhook_configuration,
        metrics.clone(),
    );
    let ring = tokio::select! {
        ring = first_certificate(&keeper) => ring,
        () = drain.started() => return Ok(()),
    };
    let tls = RustlsConfig::from_config(Arc::new(ring.server_config()?));
    let injector = Injector::new(template, trust, metrics.clone());
    let webhook = tokio::spawn(server.serve(tls.clone(), injector, drain.clone()));
    tokio::spawn(keeper.run(tls, serving));

    let controllers = Controllers::new(client.clone(), metrics.clone(), args.controller_settings());
    let election = Election::new(client, &args.namespace, LEASE, &args.pod_name, metrics);
    let leading = drain.guard();
    let lead = drain.clone();
    tokio::spawn(async move {
        election.run(lead, || controllers.run()).await;
        drop(leading);
    });

    tokio::select! {
        () = drain.started() => {}
        ended = webhook => ended.context("the webhook's task")?.context("the webhook's listener")?,
    }
    let finished = drain.finish(DRAIN_TIME).await;
    tracing::info!(event = "end", ?finished);
    Ok(())
}

async fn client() -> anyhow::Result<Client> {
    // No read timeout: watches have one of their own, and every other request
    // goes through `call::bounded`.
    let config = kube::Config::infer()
        .await
        .context("no cluster: neither a ServiceAccount nor a kubeconfig was found")?;
    Ok(Client::try_from(config)?)
}

async fn first_certificate(keeper: &Keeper) -> Keyring {
    loop {
        match keeper.keyring(Timestamp::now()).await {
            Ok(ring) => return ring,
            Err(error) => complain(&error),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn complain(error: &KeeperError) {
    let error = error as &dyn std::error::Error;
    tracing::error!(
        event = "certificate",
        error,
        "there is none yet; trying again"
    );
}
