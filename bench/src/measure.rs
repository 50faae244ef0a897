//! What is measured, the same way on every chain.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::CHUNK;
use crate::chain::Chain;
use crate::process::Process;

/// How much of everything; 0 to leave it out.
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
    /// Streams that come and go before everything is measured again.
    pub ageing: usize,
}

/// After this time without traffic a process is idle again.
const QUIET: Duration = Duration::from_secs(4);

/// One figure: a name, its value and its unit. Higher or lower is better by its nature.
#[derive(Clone)]
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
    rss(chain, "rss-idle", &mut figures)?;
    idle(chain, scale, &mut figures).await?;
    load(chain, scale, &mut figures).await?;
    if scale.ageing > 0 {
        let mut aged = Vec::new();
        open_in_turn(chain, 32, scale.ageing).await?;
        load(chain, scale, &mut aged).await?;
        // Long enough for buffers to be given back.
        tokio::time::sleep(QUIET).await;
        rss(chain, "rss-idle", &mut aged)?;
        let before = figures.clone();
        for now in aged {
            let fresh = before.iter().find(|figure| figure.name == now.name);
            let ratio = fresh.map(|fresh| now.value / fresh.value);
            let name = format!("aged-{}", now.name);
            figures.extend(ratio.map(|ratio| figure(format!("ageing/{}", now.name), ratio, "x")));
            figures.push(Figure { name, ..now });
        }
    }
    Ok(figures)
}

/// What costs time: small messages, new streams, bulk, and small messages
/// again right after it.
async fn load(chain: &Chain, scale: Scale, figures: &mut Vec<Figure>) -> Result<()> {
    ping_pong(chain, scale, "ping", figures).await?;
    opens(chain, scale, figures).await?;
    bulk(chain, scale, figures).await?;
    ping_pong(chain, scale, "ping-after-bulk", figures).await
}

fn rss(chain: &Chain, name: &str, figures: &mut Vec<Figure>) -> Result<()> {
    for process in &chain.processes {
        let mib = process.rss_kib()? as f64 / 1024.0;
        figures.push(figure(format!("{name}-{}", process.name()), mib, "MiB"));
    }
    Ok(())
}

async fn bulk(chain: &Chain, scale: Scale, figures: &mut Vec<Figure>) -> Result<()> {
    if scale.bulk_bytes == 0 {
        return Ok(());
    }
    for (direction, streams) in [("up", 1), ("down", 1), ("up", 8), ("down", 8)] {
        let (cpu, waits) = (total(chain, Process::cpu)?, total(chain, Process::waits)?);
        let started = Instant::now();
        let each = scale.bulk_bytes / streams;
        let transfers = (0..streams).map(|_| transfer(chain, direction == "up", each));
        for result in join_all(transfers).await {
            result.context("bulk transfer")?;
        }
        let (elapsed, bytes) = (started.elapsed().as_secs_f64(), (each * streams) as f64);
        let spent = (total(chain, Process::cpu)? - cpu).as_secs_f64();
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
        let waited = (total(chain, Process::waits)? - waits) as f64;
        figures.push(figure(
            format!("{direction}-{streams}-waits"),
            waited / (bytes / 1e9),
            "1/GB",
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

async fn ping_pong(
    chain: &Chain,
    scale: Scale,
    name: &str,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    if scale.pings == 0 {
        return Ok(());
    }
    let mut socket = connect(chain.echo).await?;
    let cpu = total(chain, Process::cpu)?;
    let mut times = Vec::with_capacity(scale.pings);
    for _ in 0..scale.pings {
        let started = Instant::now();
        round_trip(&mut socket).await?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let spent = (total(chain, Process::cpu)? - cpu).as_secs_f64() * 1e6 / scale.pings as f64;
    let percentile = |n: usize| times[(times.len() * n / 100).min(times.len() - 1)];
    figures.push(figure(format!("{name}-p50"), percentile(50), "us"));
    figures.push(figure(format!("{name}-p99"), percentile(99), "us"));
    figures.push(figure(format!("{name}-cpu"), spent, "us"));
    Ok(())
}

async fn opens(chain: &Chain, scale: Scale, figures: &mut Vec<Figure>) -> Result<()> {
    if scale.opens == 0 {
        return Ok(());
    }
    for tasks in [1, 32] {
        let (cpu, started) = (total(chain, Process::cpu)?, Instant::now());
        let n_opened = open_in_turn(chain, tasks, scale.opens).await? as f64;
        let rate = n_opened / started.elapsed().as_secs_f64();
        let spent = (total(chain, Process::cpu)? - cpu).as_secs_f64() * 1e6 / n_opened;
        figures.push(figure(format!("new-streams-{tasks}"), rate, "1/s"));
        figures.push(figure(format!("new-streams-{tasks}-cpu"), spent, "us"));
    }
    Ok(())
}

/// Streams that come and go, `tasks` of them at once, about `n` in all. How
/// many there were.
async fn open_in_turn(chain: &Chain, tasks: usize, n: usize) -> Result<usize> {
    let (echo, each) = (chain.echo, n / tasks);
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
    Ok(each * tasks)
}

async fn idle(chain: &Chain, scale: Scale, figures: &mut Vec<Figure>) -> Result<()> {
    if scale.idle == 0 {
        return Ok(());
    }
    let before = total(chain, Process::rss_kib)?;
    let mut sockets = Vec::with_capacity(scale.idle);
    for _ in 0..scale.idle {
        let mut socket = connect(chain.echo).await?;
        round_trip(&mut socket).await?;
        sockets.push(socket);
    }
    let after = total(chain, Process::rss_kib)?;
    let each = after.saturating_sub(before) as f64 / scale.idle as f64;
    figures.push(figure("idle-stream", each, "KiB"));
    rss(chain, &format!("rss-{}-idle-streams", scale.idle), figures)
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

/// Of all processes of the chain together.
fn total<T: std::iter::Sum>(chain: &Chain, of: fn(&Process) -> Result<T>) -> Result<T> {
    chain.processes.iter().map(of).sum()
}

fn figure(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure {
        name: name.into(),
        value,
        unit,
    }
}
