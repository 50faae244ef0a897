//! What an idle link of a device costs a relay: many real ones, over loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fairway_control::link::{Instance, ToEndpoint, ToRelay};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::authority::{TestAuthority, device};
use crate::chain::Hub;
use crate::measure::Figure;
use crate::raw_link::{RawLink, system_clock};

/// The first ones pay for what the allocator and the runtime need in any case.
const FIRST: usize = 500;
/// Handshakes at a time.
const AT_ONCE: usize = 16;
/// A relay bounds what comes from one address: they come from so many.
const SOURCES: usize = 50;
/// The relay needs its credential before it answers anybody.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this the relay has given back what a link took while it was made; long
/// before either side asks whether the other is still there.
const QUIET: Duration = Duration::from_secs(4);

/// Makes links to a relay of its own and says what one costs its process.
///
/// # Errors
/// A process cannot be started, or a link cannot be made.
pub async fn idle(bin: &Path, dir: &Path, n_links: usize) -> Result<Vec<Figure>> {
    let hub = Hub::start(bin, dir)?;
    let fleet = Arc::new(Fleet {
        address: hub.address,
        authority: hub.authority.clone(),
        turns: Semaphore::new(AT_ONCE),
    });
    // They stay until the end of this function.
    let mut links = JoinSet::new();
    let measured = async {
        fleet.grow(&mut links, 0..FIRST).await?;
        tokio::time::sleep(QUIET).await;
        let before = hub.relay.rss_kib()?;
        let began = Instant::now();
        fleet.grow(&mut links, FIRST..FIRST + n_links).await?;
        let each_second = n_links as f64 / began.elapsed().as_secs_f64();
        tokio::time::sleep(QUIET).await;
        let after = hub.relay.rss_kib()?;
        let each = after.saturating_sub(before) as f64 / n_links as f64;
        if let Some(ended) = links.try_join_next() {
            ended?.context("an idle link ended")?;
        }
        let figure = |name: &str, value, unit| Figure {
            name: name.to_owned(),
            value,
            unit,
        };
        Ok(vec![
            figure("idle-link", each, "KiB"),
            figure(
                &format!("rss-{n_links}-idle-links"),
                after as f64 / 1024.0,
                "MiB",
            ),
            figure("links-made", each_second, "1/s"),
        ])
    };
    let figures: Result<_> = measured.await;
    figures.with_context(|| format!("the relay says:\n{}", hub.relay.tail()))
}

/// Devices that have nothing in common but this process.
struct Fleet {
    address: SocketAddr,
    authority: TestAuthority,
    turns: Semaphore,
}

impl Fleet {
    /// Makes these links, and has each kept by a task.
    async fn grow(
        self: &Arc<Self>,
        links: &mut JoinSet<Result<()>>,
        numbers: std::ops::Range<usize>,
    ) -> Result<()> {
        let mut making = JoinSet::new();
        for number in numbers {
            let fleet = Arc::clone(self);
            making.spawn(async move { fleet.link(number).await });
        }
        while let Some(link) = making.join_next().await {
            let mut link = link??;
            // Answers what the relay's end asks, until the link ends.
            links.spawn(async move { bail!("the relay says {:?}", link.hear().await?) });
        }
        Ok(())
    }

    /// One link that has registered its name; tried again while the relay
    /// refuses, as a device does.
    async fn link(&self, number: usize) -> Result<RawLink> {
        let _turn = self.turns.acquire().await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_link(number).await {
                Ok(link) => return Ok(link),
                Err(error) if Instant::now() > deadline => return Err(error),
                // Too early, or too fast for its limits: there is no event to wait for.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn try_link(&self, number: usize) -> Result<RawLink> {
        let name = format!("d{number}");
        let instance = Instance([number as u8; 16]);
        let local = self.authority.local(&device("bench", &name), instance.0)?;
        let socket = TcpSocket::new_v4()?;
        let source = u8::try_from(2 + number % SOURCES)?;
        socket.bind(([127, 0, 0, source], 0).into())?;
        let socket = socket.connect(self.address).await?;
        socket.set_nodelay(true)?;
        let mut link = RawLink::dial(socket, local, system_clock).await?;
        link.establish().await?;
        let names = vec![format!("{name}.bench.device.fairway.internal").parse()?];
        link.say(&ToRelay::Register { names, instance }).await?;
        match link.hear().await? {
            ToEndpoint::Registered { .. } => {}
            ToEndpoint::RegisterRefused { reason, .. } => bail!("{reason}"),
            other => bail!("the relay says {other:?}"),
        }
        link.session.release_memory();
        Ok(link)
    }
}
