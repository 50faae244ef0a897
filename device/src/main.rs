//! `fairway-device`: the agent of a device.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use fairway_daemon::{AdminArgs, AdminServer, DebugState, Drain, LogArgs, Readiness, Registry};
use fairway_device::{Config, Device, StateDir, Ticket, join_with};
use fairway_endpoint::Metrics;
use fairway_endpoint::portal::PortalMetrics;

mod status;

/// How long live connections may go on after SIGTERM.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Lets a device and the services of a cluster talk through end-to-end secure channels.
#[derive(Debug, Parser)]
#[command(name = "fairway-device", version)]
struct Args {
    /// Where the device keeps its key and its credential.
    #[arg(
        long,
        global = true,
        env = "FAIRWAY_STATE_DIR",
        default_value = "/var/lib/fairway"
    )]
    state_dir: PathBuf,
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrol this device with a ticket from `kubectl fairway ticket`.
    Join {
        /// The ticket; `-` reads it from standard input, so that it is in no process list.
        ticket: String,
        /// How to get to the relays (YAML; the same file as for `run`).
        #[arg(long, env = "FAIRWAY_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Keep the device connected.
    Run {
        /// What the device offers and its inlets (YAML).
        #[arg(long, env = "FAIRWAY_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show who this device is and how it is connected.
    Status {
        /// The debug address of the running `fairway-device run`.
        #[arg(long, env = "FAIRWAY_DEBUG_LISTEN", default_value = "127.0.0.1:7491")]
        debug: std::net::SocketAddr,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    fairway_daemon::raise_open_files_limit();
    // One thread: the work is moving bytes, and a device has better use for its others.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::spawn(fairway_daemon::keep_heap_small());
        match args.command {
            Command::Join { ticket, config } => {
                join_device(&args.state_dir, &args.log, &ticket, config.as_deref()).await
            }
            Command::Run { config, admin } => {
                run(&args.state_dir, &args.log, config.as_deref(), admin).await
            }
            Command::Status { debug, json } => status::show(&args.state_dir, debug, json).await,
        }
    })
}

async fn join_device(
    state_dir: &Path,
    log: &LogArgs,
    ticket: &str,
    config: Option<&Path>,
) -> anyhow::Result<()> {
    let config = config.map(Config::read).transpose()?.unwrap_or_default();
    let telemetry = log.init("fairway-device")?;
    let text = if ticket == "-" {
        std::io::read_to_string(std::io::stdin()).context("cannot read the ticket")?
    } else {
        ticket.to_owned()
    };
    let ticket: Ticket = text.trim().parse().context("the ticket cannot be used")?;
    let state = StateDir::open(state_dir)?;
    let result = join_with(&state, &ticket, &config).await;
    telemetry.shutdown();
    match result {
        Ok(enrolment) => {
            println!(
                "joined {} as {}/{}",
                enrolment.trust_domain, enrolment.namespace, enrolment.name
            );
            println!(
                "next: fairway-device run --state-dir {}",
                state_dir.display()
            );
            Ok(())
        }
        Err(error) => {
            let reason = error.reason();
            Err(anyhow::Error::new(error).context(format!("not joined ({reason})")))
        }
    }
}

async fn run(
    state_dir: &Path,
    log: &LogArgs,
    config: Option<&Path>,
    admin: AdminArgs,
) -> anyhow::Result<()> {
    let config = config.map(Config::read).transpose()?.unwrap_or_default();
    let state = Arc::new(StateDir::open(state_dir)?);
    if state.enrolment()?.is_none() {
        bail!(fairway_device::RunError::NotJoined);
    }
    let telemetry = log.init("fairway-device")?;
    tracing::info!(event = "start", version = env!("CARGO_PKG_VERSION"), state_dir = %state_dir.display(), ?config);
    let drain = Drain::new();
    drain.begin_on_signal()?;
    let readiness = Readiness::new();
    let registered = readiness.task("registered");
    let mut registry = Registry::default();
    let (metrics, portals) = (
        Metrics::register(&mut registry),
        PortalMetrics::register(&mut registry),
    );
    let device = Device::start_with(&state, config, metrics, portals, drain.clone()).await?;
    let endpoint = device.endpoint().clone();
    let shown = endpoint.clone();
    let state: DebugState =
        Arc::new(move || serde_json::to_value(shown.status()).unwrap_or_default());
    let _admin = AdminServer::start(&admin, registry, readiness, drain.clone(), state).await?;
    tokio::spawn(async move {
        endpoint.registered().await;
        registered.done();
        tracing::info!(event = "registered", "reachable through a relay");
    });
    drain.started().await;
    device.endpoint().set_registering(false);
    drain.finish(DRAIN_LIMIT).await;
    device.close().await;
    telemetry.shutdown();
    Ok(())
}
