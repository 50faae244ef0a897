//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use fairway_identity::RelayAddress;

use crate::{limits, when};

/// Tickets, status and checks of a Fairway installation.
#[derive(Debug, Parser)]
#[command(name = "kubectl-fairway", bin_name = "kubectl fairway", version, about)]
pub struct Args {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command: the same as kubectl's, as far as they go.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Namespace; that of the kubectl context unless given.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Kubeconfig to use.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace that Fairway is installed in.
    #[arg(
        long,
        global = true,
        env = "FAIRWAY_INSTALL_NAMESPACE",
        default_value = "fairway-system"
    )]
    pub install_namespace: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a ticket by which a device enrols, once.
    Ticket(TicketArgs),
    /// Tell how a device or a workload is doing.
    Status(StatusArgs),
    /// Look whether the installation is sound, and which pods lack a sidecar.
    Check(CheckArgs),
}

/// Options of `ticket`.
#[derive(Clone, Debug, clap::Args)]
pub struct TicketArgs {
    /// Name of the DeviceIdentity.
    pub device: String,
    /// How long the ticket can be used: 30s, 15m, 2h, 7d; at most 30d.
    #[arg(long, default_value = "1h", value_parser = ttl)]
    pub ttl: u64,
    /// Where the device reaches a relay: HOST:PORT (TCP), or with quic://,
    /// tls:// or wss:// before it; may be given up to 16 times. What the
    /// installation says unless given.
    #[arg(long)]
    pub relay: Vec<RelayAddress>,
    /// Print no QR code, though on a terminal.
    #[arg(long, conflicts_with = "qr")]
    pub no_qr: bool,
    /// Print a QR code, though not on a terminal.
    #[arg(long)]
    pub qr: bool,
}

/// Options of `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// A device by its name, or KIND/NAME with device, pod, deployment,
    /// statefulset or daemonset; all devices and sidecars of the namespace
    /// unless given.
    pub what: Option<String>,
}

/// Options of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {}

fn ttl(text: &str) -> Result<u64, String> {
    let seconds = when::parse_seconds(text).map_err(|error| error.to_string())?;
    if seconds == 0 || seconds > limits::TICKET_SECONDS {
        return Err("a ticket can be used for 1s to 30d".to_owned());
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(["kubectl-fairway"].into_iter().chain(line.split(' ')))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_is_understood() {
        let args = parse("ticket pump-7 -n factory --relay 203.0.113.9:30740 --ttl 2d").unwrap();
        assert_eq!(args.global.namespace.as_deref(), Some("factory"));
        assert_eq!(args.global.install_namespace, "fairway-system");
        let Command::Ticket(ticket) = args.command else {
            panic!("not a ticket")
        };
        assert_eq!((ticket.ttl, ticket.relay.len()), (172_800, 1));
        assert!(parse("status").is_ok());
        assert!(parse("check -n factory").is_ok());
    }

    #[test]
    fn what_is_not() {
        for bad in [
            "ticket",
            "ticket pump-7 --ttl 31d",
            "ticket pump-7 --ttl 0s",
            "ticket pump-7 --ttl soon",
            "ticket pump-7 --relay relay.example.com",
            "ticket pump-7 --qr --no-qr",
            "status a b",
            "explode",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
