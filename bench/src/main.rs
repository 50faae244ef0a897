//! `make bench`: the real device, relay and sidecar as processes over loopback,
//! beside haproxy in the same run. One line a figure: `bench NAME VALUE UNIT`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use fairway_bench::apps::Apps;
use fairway_bench::chain::{self, Chain};
use fairway_bench::measure::{self, Scale};
use fairway_bench::{handshakes, links};

#[derive(Debug, Parser)]
struct Args {
    /// Folder with the release binaries.
    #[arg(long, default_value = "target/release")]
    bin: PathBuf,
    /// GB of each bulk transfer.
    #[arg(long, default_value_t = 4.0)]
    gigabytes: f64,
    /// Round trips of the ping-pong.
    #[arg(long, default_value_t = 20_000)]
    pings: usize,
    /// New streams.
    #[arg(long, default_value_t = 3_200)]
    opens: usize,
    /// Idle streams.
    #[arg(long, default_value_t = 1_000)]
    idle: usize,
    /// Streams that come and go before all is measured once more; 0 to leave it out.
    #[arg(long, default_value_t = 15_000)]
    ageing: usize,
    /// Idle links of devices to one relay, after the chains; 0 to leave it out.
    #[arg(long, default_value_t = 10_000)]
    links: usize,
    /// Handshakes of the channel without I/O; 0 to leave them out.
    #[arg(long, default_value_t = 3_000)]
    handshakes: usize,
    /// Measure this only: fairway, haproxy-plain, haproxy-tls, handshakes or links.
    #[arg(long)]
    only: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let bulk_bytes = (args.gigabytes * 1e9) as u64;
    let scale = Scale {
        bulk_bytes,
        pings: args.pings,
        opens: args.opens,
        idle: args.idle,
        ageing: args.ageing,
    };
    // Also for the processes that are started here.
    fairway_daemon::raise_open_files_limit();
    let apps = Apps::start().await?;
    let dir = tempfile::tempdir()?;
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    let mut table: BTreeMap<String, Vec<(&str, f64)>> = BTreeMap::new();
    let makers: [(&str, &dyn Fn() -> Result<Chain>); 3] = [
        ("fairway", &|| chain::fairway(&args.bin, dir.path(), &apps)),
        ("haproxy-plain", &|| chain::haproxy_plain(dir.path(), &apps)),
        ("haproxy-tls", &|| chain::haproxy_tls(dir.path(), &apps)),
    ];
    for (name, make) in makers.into_iter().filter(|(name, _)| wanted(name)) {
        let chain = make()?;
        let figures = measure::chain(&chain, scale).await;
        for figure in figures.with_context(|| format!("{name}:\n{}", chain.logs()))? {
            println!(
                "bench {name}/{} {:.3} {}",
                figure.name, figure.value, figure.unit
            );
            table
                .entry(figure.name)
                .or_default()
                .push((name, figure.value));
        }
    }
    for (name, values) in &table {
        let Some((_, ours)) = values.iter().find(|(chain, _)| *chain == "fairway") else {
            continue;
        };
        for (peer, theirs) in values.iter().filter(|(chain, _)| *chain != "fairway") {
            println!("bench ratio/{name}/{peer} {:.3} x", ours / theirs);
        }
    }
    let mut more = Vec::new();
    if args.handshakes > 0 && wanted("handshakes") {
        more.push(handshakes::rate(args.handshakes)?);
    }
    if args.links > 0 && wanted("links") {
        let dir = tempfile::tempdir()?;
        more.extend(links::idle(&args.bin, dir.path(), args.links).await?);
    }
    for figure in &more {
        println!(
            "bench fairway/{} {:.3} {}",
            figure.name, figure.value, figure.unit
        );
    }
    ensure!(
        !table.is_empty() || !more.is_empty(),
        "nothing is called {:?}",
        args.only
    );
    Ok(())
}
