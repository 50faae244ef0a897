//! `fairway-relay`: joins circuits by name and forwards bytes that it cannot
//! read.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fairway_daemon::{
    AdminArgs, AdminServer, DebugState, Drain, FILES_RESERVED, Finished, LogArgs, Readiness,
    ReadyTask, Registry, keep_heap_small, raise_open_files_limit,
};
use fairway_endpoint::{CredentialSource, Endpoint, EndpointConfig, RelayUse};
use fairway_identity::{HostPort, RootHash, TrustDomain};
use fairway_relay::core::MemoryLimits;
use fairway_relay::limits;
use fairway_relay::server::{Certificate, Identity, IdentitySource, Metrics, Server, ServerConfig};
use fairway_session::Rules;
use tokio::sync::watch;

/// Fairway's relay: joins circuits by name, forwards bytes that it cannot read.
#[derive(Debug, Parser)]
#[command(name = "fairway-relay", version)]
struct Args {
    /// Address on which links over TCP are accepted.
    #[arg(long, env = "FAIRWAY_LISTEN", default_value = "0.0.0.0:7440")]
    listen: SocketAddr,
    /// Address on which links over QUIC are accepted (UDP), such as
    /// 0.0.0.0:7440; none unless given.
    #[arg(long, env = "FAIRWAY_LISTEN_QUIC")]
    listen_quic: Option<SocketAddr>,
    /// Address on which links over TLS and WebSocket are accepted, such as
    /// 0.0.0.0:7443; none unless given.
    #[arg(long, env = "FAIRWAY_LISTEN_TLS")]
    listen_tls: Option<SocketAddr>,
    /// Certificate chain (PEM) for QUIC, TLS and WebSocket, read anew when it
    /// changes. Without it one is made at start.
    #[arg(long, env = "FAIRWAY_TLS_CERTIFICATE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "FAIRWAY_TLS_KEY", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// The trust domain of the installation.
    #[arg(long, env = "FAIRWAY_TRUST_DOMAIN")]
    trust_domain: TrustDomain,
    /// SHA-256 of the root key, 64 hexadecimal digits: the anchor of all trust.
    #[arg(long, env = "FAIRWAY_ROOT_HASH")]
    root_hash: RootHash,
    /// The authority, HOST:PORT.
    #[arg(long, env = "FAIRWAY_AUTHORITY")]
    authority: HostPort,
    /// The pod's projected ServiceAccount token.
    #[arg(
        long,
        env = "FAIRWAY_TOKEN_FILE",
        default_value = "/var/run/secrets/fairway/token"
    )]
    token_file: PathBuf,
    /// Bytes that may wait for links that are slower than their senders.
    #[arg(long, env = "FAIRWAY_QUEUED_BYTES_MAX", default_value_t = limits::QUEUED_BYTES_MAX)]
    queued_bytes_max: usize,
    /// Connections at once; further ones are refused. Less where the system
    /// allows fewer open files.
    #[arg(long, env = "FAIRWAY_CONNECTIONS_MAX", default_value_t = limits::CONNECTIONS_MAX)]
    connections_max: usize,
    /// New connections a second from one address; twice as many at once.
    #[arg(long, env = "FAIRWAY_ACCEPTS_PER_SOURCE", default_value_t = limits::ACCEPTS_PER_SOURCE.per_second)]
    accepts_per_source: u32,
    /// Threads that pass bytes on. One is the cheapest a byte; more replicas
    /// scale better than more threads.
    #[arg(long, env = "FAIRWAY_THREADS", default_value = "1")]
    threads: NonZeroUsize,
    /// Seconds over which a drain tells links to move to another relay.
    #[arg(long, env = "FAIRWAY_DRAIN_SECONDS", default_value_t = limits::DRAIN_SPAN.as_secs())]
    drain_seconds: u64,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut runtime = match args.threads.get() {
        // One thread passes bytes on without waking another for each of them.
        1 => tokio::runtime::Builder::new_current_thread(),
        n => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(n);
            runtime
        }
    };
    runtime.enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let telemetry = args.log.init("fairway-relay")?;
    let open_files = raise_open_files_limit();
    tokio::spawn(keep_heap_small());
    tracing::info!(
        event = "start",
        version = env!("CARGO_PKG_VERSION"),
        trust_domain = %args.trust_domain,
        authority = %args.authority,
        listen = %args.listen,
        open_files,
    );
    let answer = serve(args, open_files).await;
    telemetry.shutdown();
    answer
}

async fn serve(args: Args, open_files: Option<u64>) -> anyhow::Result<()> {
    let drain = Drain::new();
    drain.begin_on_signal()?;
    let readiness = Readiness::new();
    let (credential, links) = (readiness.task("credential"), readiness.task("links"));
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let endpoint = Endpoint::start(endpoint_config(&args, &mut registry)).await?;
    let (identity, changes) = watch::channel(Identity::new(endpoint.local(), &Rules::default()));
    let clock = endpoint.clone();
    let source = IdentitySource::new(changes, move || clock.now());
    let server = Server::bind(server_config(&args, open_files), source, metrics).await?;

    let (inspector, shown) = (server.inspector(), endpoint.clone());
    let settling = inspector.clone();
    let state: DebugState = Arc::new(move || {
        serde_json::json!({
            "relay": inspector.state(),
            "endpoint": serde_json::to_value(shown.status()).unwrap_or_default(),
        })
    });
    let _admin = AdminServer::start(&args.admin, registry, readiness, drain.clone(), state).await?;

    tokio::spawn(follow(endpoint.clone(), identity, credential));
    // Without a credential there is nothing to answer a link with.
    tokio::select! {
        () = endpoint.credentialed() => {}
        () = drain.started() => return Ok(()),
    }
    tokio::spawn(async move {
        settling.settled().await;
        links.done();
    });
    let limit = Duration::from_secs(args.drain_seconds) + limits::DRAIN_GRACE;
    let finished = async {
        drain.started().await;
        drain.finish(limit).await
    };
    let ((), finished) = tokio::join!(server.run(drain.clone()), finished);
    match finished {
        Finished::Clean => tracing::info!(event = "drain", "all links have moved"),
        Finished::Cut(links) => tracing::warn!(event = "drain", links, "links were cut"),
    }
    endpoint.close().await;
    Ok(())
}

fn endpoint_config(args: &Args, registry: &mut Registry) -> EndpointConfig {
    let mut config = EndpointConfig::new(args.trust_domain.clone(), args.root_hash);
    config.credential = CredentialSource::Workload {
        token: args.token_file.clone(),
    };
    config.authority = Some(args.authority.clone());
    // A relay has no links to relays; its endpoint talks with the authority.
    config.relay_use = RelayUse::None;
    config.metrics = fairway_endpoint::Metrics::register(registry);
    config
}

fn server_config(args: &Args, open_files: Option<u64>) -> ServerConfig {
    // Some files are for others than links: running out of them would take
    // the way to the authority and the admin port away, too.
    let files = open_files.map_or(u64::MAX, |files| files.saturating_sub(FILES_RESERVED));
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let connections = args.connections_max.min(files);
    let mut config = ServerConfig::new(args.listen).with_connections(connections);
    config.settings.memory = MemoryLimits {
        total: args.queued_bytes_max,
        ..MemoryLimits::default()
    };
    config.gate.accepts_per_source.per_second = args.accepts_per_source;
    config.gate.accepts_per_source.burst = args.accepts_per_source.saturating_mul(2);
    config.drain_span = Duration::from_secs(args.drain_seconds);
    config.listen_quic = args.listen_quic;
    config.listen_tls = args.listen_tls;
    if let (Some(chain), Some(key)) = (args.tls_certificate.clone(), args.tls_key.clone()) {
        config.certificate = Certificate::Files { chain, key };
    }
    config
}

/// Passes on each new credential, trust set and revocation list. Only with a
/// credential is the relay ready.
async fn follow(endpoint: Endpoint, identity: watch::Sender<Identity>, credential: ReadyTask) {
    let mut rules = endpoint.watch_rules();
    loop {
        let mut changed = pin!(endpoint.local_changed());
        // It listens from its first poll on; what is read after that is not missed.
        if futures::poll!(changed.as_mut()).is_ready() {
            continue;
        }
        let local = endpoint.local();
        if local.is_anonymous() {
            credential.pending();
        } else {
            credential.done();
        }
        identity.send_replace(Identity::new(local, &rules.borrow_and_update()));
        tokio::select! {
            _ = changed => {}
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}
