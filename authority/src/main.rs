//! `fairway-authority`: reads its options, wires the parts, runs until told to
//! leave.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use fairway_authority::authority::{Authority, Keys};
use fairway_authority::clock::WallClock;
use fairway_authority::distribute::{Hub, Index, feed};
use fairway_authority::events::{Events, chain};
use fairway_authority::keys::KeyStore;
use fairway_authority::metrics::Metrics;
use fairway_authority::names::Install;
use fairway_authority::revoke::acks::Acks;
use fairway_authority::revoke::issued::Issued;
use fairway_authority::revoke::keeper::Keeper;
use fairway_authority::seen::{self, LastSeen};
use fairway_authority::{cluster, events, limits, random, server};
use fairway_daemon::{
    AdminArgs, AdminServer, DebugState, Drain, LogArgs, Readiness, ReadyTask, Registry,
};
use fairway_identity::{AccountName, RelayAddress, Uid, UnixSeconds};
use tokio::sync::{Semaphore, watch};

/// How often the keys are looked at: a new trust set of another replica, an
/// issuer that needs a successor.
const KEYS_LOOK: Duration = Duration::from_secs(240);

/// The pause after the keys could not be read.
const KEYS_RETRY: Duration = Duration::from_secs(10);

/// How long connections may take to end when leaving.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Attests endpoints, issues their credentials, and streams policy, trust and
/// revocations.
#[derive(Debug, Parser)]
#[command(name = "fairway-authority", version)]
struct Args {
    /// Unix socket for the front; the directory is shared with its container.
    #[arg(
        long,
        env = "FAIRWAY_SOCKET",
        default_value = "/run/fairway/authority.sock"
    )]
    socket: PathBuf,
    /// Trust domain; it cannot be changed after the first start.
    #[arg(long, env = "FAIRWAY_TRUST_DOMAIN", default_value = "fairway.local")]
    trust_domain: String,
    /// Addresses of the relays for devices outside the cluster, HOST:PORT or
    /// with quic://, tls:// or wss:// before it,
    /// separated by commas. Empty: tickets get the nodes' addresses.
    #[arg(long, env = "FAIRWAY_RELAY_ADDRESSES", value_delimiter = ',', value_parser = relay_address)]
    relay_addresses: Vec<Option<RelayAddress>>,
    /// ServiceAccount of the authority.
    #[arg(
        long,
        env = "FAIRWAY_AUTHORITY_ACCOUNT",
        default_value = "fairway-authority"
    )]
    authority_account: String,
    /// ServiceAccount of the relays.
    #[arg(long, env = "FAIRWAY_RELAY_ACCOUNT", default_value = "fairway-relay")]
    relay_account: String,
    /// Headless Service that selects the relays.
    #[arg(
        long,
        env = "FAIRWAY_RELAY_SERVICE",
        default_value = "fairway-relay-links"
    )]
    relay_service: String,
    /// Namespace that this pod runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "fairway-system")]
    namespace: String,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// UID of this pod.
    #[arg(long, env = "POD_UID")]
    pod_uid: String,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[tokio::main]
async fn main() -> Result<(), anyhow::Error> {
    let args = Args::parse();
    let telemetry = args.log.init("fairway-authority")?;
    // kube and rustls agree on the provider only when one is installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ran = run(args).await;
    if let Err(error) = &ran {
        tracing::error!(event = "failed", error = format!("{error:#}"));
    }
    telemetry.shutdown();
    ran
}

async fn run(args: Args) -> Result<(), anyhow::Error> {
    let mut install = Install::new(&args.trust_domain, &args.namespace)
        .context("the trust domain or the namespace is malformed")?;
    install.authority_account =
        AccountName::new(&args.authority_account).context("--authority-account")?;
    install.relay_account = AccountName::new(&args.relay_account).context("--relay-account")?;
    install.relay_service = args.relay_service;
    let outside: Vec<RelayAddress> = args.relay_addresses.into_iter().flatten().collect();
    tracing::info!(event = "config", socket = %args.socket.display(), ?install, ?outside, "effective configuration");

    let drain = Drain::new();
    drain.begin_on_signal()?;
    let readiness = Readiness::new();
    let (keys_ready, index_ready, socket_ready) = (
        readiness.task("keys"),
        readiness.task("cluster"),
        readiness.task("socket"),
    );
    let clock = WallClock::system();
    let metrics = Metrics::default();
    let (events, notes) = Events::queue();
    let mut registry = Registry::default();
    metrics.register(&mut registry, events.dropped());
    let hub = Hub::new(Index::new(install.clone(), outside.clone()), clock.clone());
    let _admin = AdminServer::start(
        &args.admin,
        registry,
        readiness,
        drain.clone(),
        debug_state(&hub),
    )
    .await?;

    let client = cluster::connect()
        .await
        .context("there is no way to the API server")?;
    let (seen, seen_queue) = LastSeen::queue();
    let issued = Arc::new(Issued::new(&client, install.namespace.as_str()));
    let namespace = install.namespace.as_str();
    let (keeper, floors) = Keeper::new(
        &client,
        namespace,
        hub.clone(),
        issued.clone(),
        clock.clone(),
    );
    let acks = Acks::new(
        &client,
        &install,
        hub.clone(),
        clock.clone(),
        args.pod_name.clone(),
    );
    let store = KeyStore::new(&client, install.clone(), outside, clock.clone());
    let (keys_sender, keys) = watch::channel(Keys::Starting);

    let mut tasks = feed::start(&client, &install, &hub);
    tasks.spawn(keep_keys(
        store,
        keys_sender,
        floors,
        hub.clone(),
        metrics.clone(),
        keys_ready,
    ));
    tasks.spawn(keeper.run());
    tasks.spawn(acks.run());
    tasks.spawn(events::write(notes, client.clone(), args.pod_name.clone()));
    tasks.spawn(seen::write(
        seen_queue,
        client.clone(),
        hub.clone(),
        clock.clone(),
    ));
    tasks.spawn(watch_readiness(hub.clone(), metrics.clone(), index_ready));

    let authority = Arc::new(Authority {
        pod_uid: Uid::new(&args.pod_uid).context("--pod-uid is not a UID")?,
        pod_name: args.pod_name,
        install,
        client,
        clock,
        keys,
        hub,
        issued,
        events,
        seen,
        metrics,
        turns: Semaphore::new(limits::REQUESTS_IN_FLIGHT_MAX),
    });
    let listener = server::listen(&args.socket)?;
    socket_ready.done();
    tracing::info!(event = "started", socket = %args.socket.display());
    tokio::select! {
        () = server::serve(listener, authority, drain.clone()) => {}
        // None of them ends by itself: one has panicked.
        ended = tasks.join_next() => anyhow::bail!("a task of the authority ended: {ended:?}"),
    }
    let finished = drain.finish(DRAIN_LIMIT).await;
    tracing::info!(event = "stopped", ?finished);
    Ok(())
}

/// Reads the keys at the start, and looks after them from then on.
async fn keep_keys(
    store: KeyStore,
    keys: watch::Sender<Keys>,
    mut floors: watch::Receiver<UnixSeconds>,
    hub: Arc<Hub>,
    metrics: Metrics,
    ready: ReadyTask,
) {
    loop {
        let floor = *floors.borrow_and_update();
        let pause = match store.load(floor).await {
            Ok(ring) => {
                metrics.trust_set(ring.trust().version());
                let trust = ring.trust().clone();
                keys.send_replace(Keys::Ready(Arc::new(ring)));
                hub.update(|index, _| index.set_trust(trust));
                ready.done();
                KEYS_LOOK + Duration::from_secs(random::jitter(60))
            }
            Err(error) => {
                tracing::error!(
                    event = "no-keys",
                    error = chain(&error),
                    "the keys cannot be used; see the error for what to do"
                );
                // Keys that were good a moment ago still are; issuing ends
                // with the issuer's time.
                keys.send_if_modified(|keys| match keys {
                    Keys::Starting => {
                        *keys = Keys::Refused;
                        true
                    }
                    Keys::Refused | Keys::Ready(_) => false,
                });
                KEYS_RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = floors.changed() => {}
        }
    }
}

async fn watch_readiness(hub: Arc<Hub>, metrics: Metrics, ready: ReadyTask) {
    hub.ready().await;
    ready.done();
    loop {
        metrics.revocations(hub.read(|index| index.record().len()));
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
}

fn debug_state(hub: &Arc<Hub>) -> DebugState {
    let hub = hub.clone();
    Arc::new(move || {
        let (missing, pods, devices, revocations, trust_set) = hub.read(|index| {
            (
                format!("{:?}", index.missing()),
                index.pods().count(),
                index.devices().count(),
                index.record().len(),
                index.trust_version(),
            )
        });
        serde_json::json!({
            "notListedYet": missing,
            "pods": pods,
            "devices": devices,
            "revocations": revocations,
            "trustSetVersion": trust_set,
            "watches": hub.watches(),
        })
    })
}

/// An address, or nothing where the list is empty.
fn relay_address(text: &str) -> Result<Option<RelayAddress>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error: fairway_identity::AddressError| error.to_string())
}
