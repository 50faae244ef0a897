//! Process plumbing that every Fairway binary shares.
//!
//! A binary's `main` reads its options (flatten [`AdminArgs`] and [`LogArgs`]
//! into the clap struct), calls [`LogArgs::init`], makes one [`Drain`] and one
//! [`Readiness`], starts the [`AdminServer`], and then runs its own work until
//! the drain has been started and its guards are gone. One that holds many
//! connections calls [`raise_open_files_limit`] first, and spawns
//! [`keep_heap_small`].
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use fairway_daemon::*;
//! # async fn example(admin: AdminArgs, log: LogArgs) -> Result<(), Box<dyn std::error::Error>> {
//! let telemetry = log.init("fairway-relay")?;
//! let drain = Drain::new();
//! drain.begin_on_signal()?;
//! let readiness = Readiness::new();
//! let credential = readiness.task("credential");
//! let registry = Registry::default(); // register metrics before it is shared
//! let state: DebugState = Arc::new(|| serde_json::json!({ "links": 0 }));
//! let _admin = AdminServer::start(&admin, registry, readiness, drain.clone(), state).await?;
//! credential.done();
//! drain.started().await;
//! drain.finish(std::time::Duration::from_secs(10)).await;
//! telemetry.shutdown();
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`drain`](Drain), [`readiness`](Readiness),
//! [`admin`](AdminServer), [`log`](LogArgs), and for those that listen
//! [`gate`](Gate), [`rate`](Rate), [`accept`](Acceptor).
//!
//! Never in here: anything that knows what the process is for.

mod accept;
mod admin;
mod drain;
mod files;
mod gate;
mod heap;
mod http;
mod log;
mod rate;
mod readiness;
mod tcp;

pub use self::accept::{Acceptor, FILES_RESERVED, is_out_of_files, say_and_close};
pub use self::admin::{AdminArgs, AdminError, AdminServer, DebugState};
pub use self::drain::{Drain, DrainGuard, Finished};
pub use self::files::raise_open_files_limit;
pub use self::gate::{Entry, Gate, GateLimits, NotAdmitted};
pub use self::heap::{has_released_memory, keep_heap_small};
pub use self::log::{LogArgs, LogError, LogFormat, Telemetry};
pub use self::rate::{Rate, TokenBucket};
pub use self::readiness::{Readiness, ReadyTask};
pub use self::tcp::{tune_listener, tune_tcp};
/// For [`AdminServer::start_with`].
pub use axum;
pub use prometheus_client::registry::Registry;
