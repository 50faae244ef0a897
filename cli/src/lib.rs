//! `kubectl fairway`: what people do with a Fairway installation that `kubectl`
//! alone does not do well.
//!
//! `ticket` makes the secret line by which a device enrols, `status` tells how
//! one device or workload is doing, `check` looks whether the installation is
//! sound and which pods should have a sidecar and have none.
//!
//! Every command is a function of a [`cluster::Cluster`], a [`console::Console`]
//! and the time, so that the tests give it a cluster that answers from a table.
//!
//! Reading order: [`args`], [`cluster`], then [`ticket`], [`status`], [`check`].

pub mod args;
pub mod check;
pub mod cluster;
pub mod console;
pub mod install;
pub mod limits;
pub mod status;
pub mod ticket;
pub mod when;

#[cfg(test)]
mod testing;

use args::{Args, CheckArgs, Command};
use cluster::{Cluster, ClusterError};
use console::Console;
use jiff::Timestamp;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster could not be asked, or refused.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What is said about the installation is missing or malformed.
    #[error(transparent)]
    Install(#[from] install::InstallError),
    /// No ticket was made.
    #[error(transparent)]
    Ticket(#[from] ticket::TicketCommandError),
    /// There was nothing to tell about.
    #[error(transparent)]
    Status(#[from] status::StatusError),
    /// The terminal or pipe did not take the output.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Good,
    /// `check` found something that must be mended.
    Findings,
}

/// Carries out what the command line says.
pub async fn run(args: Args, console: &mut Console<'_>, now: Timestamp) -> Result<Outcome, Error> {
    let cluster = Cluster::connect(&args.global).await?;
    match args.command {
        Command::Ticket(args) => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(ticket::TicketCommandError::Random)?;
            ticket::run(&cluster, &args, seed, console, now).await?;
        }
        Command::Status(args) => status::run(&cluster, &args, console, now).await?,
        Command::Check(CheckArgs {}) => return check::run(&cluster, console).await,
    }
    Ok(Outcome::Good)
}
