//! The authority's front: ends channels, holds no signing key, passes each
//! control stream on over the Unix socket of its pod.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use fairway_daemon::{AdminArgs, AdminServer, DebugState, Drain, LogArgs, Readiness, Registry};
use fairway_endpoint::{
    CredentialSource, Endpoint, EndpointConfig, Listen, Metrics, RelayUse, front_anchor,
};
use fairway_identity::Address;

/// How long enrolments under way may take after SIGTERM.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct FrontArgs {
    /// Where direct links are accepted.
    #[arg(long, env = "FAIRWAY_LISTEN", default_value = "0.0.0.0:7441")]
    listen: SocketAddr,
    /// The authority's Unix socket.
    #[arg(
        long,
        env = "FAIRWAY_SOCKET",
        default_value = "/run/fairway/authority.sock"
    )]
    socket: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) async fn run(args: FrontArgs) -> anyhow::Result<()> {
    let telemetry = args.log.init("fairway-front")?;
    let drain = Drain::new();
    drain.begin_on_signal()?;
    // The socket is the authority's own: what it says of the root is the root.
    let (trust_domain, pin) = tokio::select! {
        anchor = front_anchor(&args.socket) => anchor?,
        () = drain.started() => return Ok(()),
    };
    tracing::info!(event = "start", version = env!("CARGO_PKG_VERSION"), %trust_domain, root_hash = %pin, listen = %args.listen);
    let mut registry = Registry::default();
    let mut config = EndpointConfig::new(trust_domain, pin);
    config.metrics = Metrics::register(&mut registry);
    config.credential = CredentialSource::Front {
        socket: args.socket.clone(),
    };
    config.listen = Some(Listen {
        address: args.listen,
        socket: args.socket.clone(),
    });
    config.names = vec![Address::Authority];
    config.relay_use = RelayUse::All;
    let readiness = Readiness::new();
    let credential = readiness.task("credential");
    let endpoint = Endpoint::start(config).await?;
    let shown = endpoint.clone();
    let state: DebugState =
        Arc::new(move || serde_json::to_value(shown.status()).unwrap_or_default());
    let _admin = AdminServer::start(&args.admin, registry, readiness, drain.clone(), state).await?;
    let waiting = endpoint.clone();
    tokio::spawn(async move {
        waiting.credentialed().await;
        credential.done();
        tracing::info!(event = "credentialed", "the authority can be called");
    });
    drain.started().await;
    endpoint.set_registering(false);
    drain.finish(DRAIN_LIMIT).await;
    endpoint.close().await;
    telemetry.shutdown();
    Ok(())
}
