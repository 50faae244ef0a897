//! `fairway-sidecar`: the cluster's end of a channel.
//!
//! `run` is what the injector puts beside an app. `front` is the same endpoint
//! in the authority's pod, where it ends channels for the authority and passes
//! bounded control messages on over a Unix socket.

mod front;
mod probe;
mod run;

use clap::{Parser, Subcommand};

/// The cluster's end of a Fairway channel.
#[derive(Debug, Parser)]
#[command(name = "fairway-sidecar", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Beside an app, in its pod.
    Run(run::RunArgs),
    /// In front of the authority, in its pod.
    Front(front::FrontArgs),
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    fairway_daemon::raise_open_files_limit();
    // One thread: a sidecar's work is moving bytes, and an idle one should cost nothing.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::spawn(fairway_daemon::keep_heap_small());
        match args.command {
            Command::Run(args) => run::run(args).await,
            Command::Front(args) => front::run(args).await,
        }
    })
}
