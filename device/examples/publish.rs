//! A device in one file: joins when it has not yet, then sends a line to a
//! Service of the cluster every time it reads one.
//!
//! `cargo run --example publish -- STATE_DIR collector.factory.svc.fairway.internal:7000 [TICKET]`

use std::sync::Arc;

use anyhow::Context as _;
use fairway_device::{Config, Destination, Device, StateDir, Ticket, join};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let state_dir = args
        .next()
        .context("usage: publish STATE_DIR DESTINATION [TICKET]")?;
    let to: Destination = args.next().context("no destination")?.parse()?;
    let state = Arc::new(StateDir::open(state_dir)?);
    if let Some(ticket) = args.next() {
        let ticket: Ticket = ticket.parse()?;
        join(&state, &ticket).await?;
    }
    let device = Device::start(
        &state,
        Config {
            proxy: None,
            ..Config::default()
        },
    )
    .await?;
    let mut stream = device.open(&to).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        stream.write_all(format!("{line}\n").as_bytes()).await?;
    }
    stream.shutdown().await?;
    device.close().await;
    Ok(())
}
