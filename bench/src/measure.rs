//! What is measured, the same way on every chain.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::CHUNK;
use crate::chain::Chain;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Bytes of a bulk transfer, over all streams.
    pub bulk_bytes: u64,
    /// Round trips of the ping-pong.
    pub pings: usize,
    /// New streams, one after another and by 32 tasks.
    pub opens: usize,
    /// Idle streams.
    pub idle: usize,
}

/// One figure: a name, its value and its unit. Higher or lower is better by its nature.
pub struct Figure {
    /// Kebab-case.
    pub name: String,
    /// In `unit`.
    pub value: f64,
    /// Such as `Gbit/s`.
    pub unit: &'static str,
}

/// Everything about one chain.
///
/// # Errors
/// The chain breaks, or does not carry what it was given.
pub async fn chain(chain: &Chain, scale: Scale) -> Result<Vec<Figure>> {
    wait_until_up(chain).await?;
    let mut figures = Vec::new();
    for process in &chain.processes {
        figures.push(figure(
            format!("rss-idle-{}", process.name()),
            process.rss_kib()? as f64 / 1024.0,
            "MiB",
        ));
    }
    bulk(chain, scale, &mut figures).await?;
    ping_pong(chain, scale, &mut figures).await?;
    opens(chain, scale, &mut figures).await?;
    idle(chain, scale, &mut figures).await?;
    Ok(figures)
}

async fn bulk(chain: &Chain, scale: Scale, figures: &mut Vec<Figure>) -> Result<()> {
    for (direction, streams) in [("up", 1), ("down", 1), ("up", 8), ("down", 8)] {
        let (cpu, started) = (cpu(chain)?, Instant::now());
        let each = scale.bulk_bytes / streams;
        let transfers = (0..streams).map(|_| transfer(chain, direction == "up", each));
        for result in join_all(transfers).await {
            result.context("bulk transfer")?;
        }
        let (elapsed, bytes) = (started.elapsed().as_secs_f64(), (each * streams) as f64);
        let spent = (self::cpu(chain)? - cpu).as_secs_f64();
        figures.push(figure(
            format!("{direction}-{streams}"),
            bytes * 8.0 / 1e9 / elapsed,
            "Gbit/s",
        ));
        figures.push(figure(
            format!("{direction}-{streams}-cpu"),
            spent / (bytes / 1e9),
            "s/GB",
        ));
    }
    Ok(())
}

fn transfer(
    chain: &Chain,
    up: bool,
    bytes: u64,
) -> impl Future<Output = Result<()>> + Send + 'static {
    let address = if up { chain.sink } else { chain.source };
    async move {
        let mut socket = TcpStream::connect(address).await?;
        let mut buffer = vec![0; CHUNK];
        if up {
            let mut left = bytes;
            while left > 0 {
                let now = left.min(CHUNK as u64);
                socket.write_all(&buffer[..now as usize]).await?;
                left -= now;
            }
            socket.shutdown().await?;
            let arrived = socket.read_u64().await?;
            ensure!(arrived == bytes, "{arrived} of {bytes} bytes arrived");
            return Ok(());
        }
        socket.write_u64(bytes).await?;
        let mut arrived = 0;
        loop {
            match socket.read(&mut buffer).await? {
                0 => break,
                n => arrived += n as u64,
            }
        }
        ensure!(arrived == bytes, "{arrived} of {bytes} bytes arrived");
        Ok(())
    }
}

async fn ping_pong(chain: &Chain, scale: Scale, figures: &mut Vec<Figure>) -> Result<()> {
    let mut socket = connect(chain.echo).await?;
    let cpu = cpu(chain)?;
    let mut times = Vec::with_capacity(scale.pings);
    for _ in 0..scale.pings {
        let started = Instant::now();
        round_trip(&mut socket).await?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let spent = (self::cpu(chain)? - cpu).as_secs_f64() * 1e6 / scale.pings as f64;
    figures.push(figure("ping-p50", times[times.len() / 2], "us"));
    figures.push(figure("ping-p99", times[times.len() * 99 / 100], "us"));
    figures.push(figure("ping-cpu", spent, "us"));
    Ok(())
}

async fn opens(chain: &Chain, scale: Scale, figures: &mut Vec<Figure>) -> Result<()> {
    for tasks in [1, 32] {
        let started = Instant::now();
        let echo = chain.echo;
        let each = scale.opens / tasks;
        let work = (0..tasks).map(|_| async move {
            for _ in 0..each {
                let mut socket = connect(echo).await?;
                round_trip(&mut socket).await?;
            }
            Ok(())
        });
        for result in join_all(work).await {
            result.context("new streams")?;
        }
        let rate = (each * tasks) as f64 / started.elapsed().as_secs_f64();
        figures.push(figure(format!("new-streams-{tasks}"), rate, "1/s"));
    }
    Ok(())
}

async fn idle(chain: &Chain, scale: Scale, figures: &mut Vec<Figure>) -> Result<()> {
    let before = rss_kib(chain)?;
    let mut sockets = Vec::with_capacity(scale.idle);
    for _ in 0..scale.idle {
        let mut socket = connect(chain.echo).await?;
        round_trip(&mut socket).await?;
        sockets.push(socket);
    }
    let after = rss_kib(chain)?;
    let each = after.saturating_sub(before) as f64 / scale.idle as f64;
    figures.push(figure("idle-stream", each, "KiB"));
    for process in &chain.processes {
        let name = format!("rss-{}-idle-streams-{}", scale.idle, process.name());
        figures.push(figure(name, process.rss_kib()? as f64 / 1024.0, "MiB"));
    }
    Ok(())
}

/// Until a byte goes round the whole chain; then credentials, links and routes are there.
async fn wait_until_up(chain: &Chain) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(30);
    let up = async {
        loop {
            if let Ok(mut socket) = TcpStream::connect(chain.echo).await
                && round_trip(&mut socket).await.is_ok()
            {
                return;
            }
            // A refused connection has no event to wait for.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let up = tokio::time::timeout(LIMIT, up).await;
    up.map_err(|_| anyhow::anyhow!("it did not come up within {} s", LIMIT.as_secs()))
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

async fn round_trip(socket: &mut TcpStream) -> Result<()> {
    let mut buffer = [7; 64];
    socket.write_all(&buffer).await?;
    socket.read_exact(&mut buffer).await?;
    Ok(())
}

/// Runs all at once on the harness's threads.
async fn join_all<F>(work: impl Iterator<Item = F>) -> Vec<Result<()>>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let tasks: Vec<_> = work.map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.unwrap_or_else(|error| Err(error.into())));
    }
    results
}

fn cpu(chain: &Chain) -> Result<Duration> {
    chain
        .processes
        .iter()
        .map(crate::process::Process::cpu)
        .sum()
}

fn rss_kib(chain: &Chain) -> Result<u64> {
    chain
        .processes
        .iter()
        .map(crate::process::Process::rss_kib)
        .sum()
}

fn figure(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure {
        name: name.into(),
        value,
        unit,
    }
}
