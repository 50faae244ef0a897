//! What an idle link of a device costs a relay: many real ones, over loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{
    CircuitId, FrameKind, Instance, ToEndpoint, ToRelay, header, take_run,
};
use fairway_control::{FrameReader, frame};
use fairway_identity::{Address, Clock, RootHash, UnixSeconds, VerifiedTrustSet};
use fairway_session::{
    Batch, Config, Event, Local, Now, OpenRequest, Output, PathId, ReadOutcome, Rules, Session,
    StaticSecret, StreamId, Time,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::authority::{TestAuthority, device};
use crate::chain::Hub;
use crate::measure::Figure;

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
        pin: hub.authority.root_hash(),
        turns: Semaphore::new(AT_ONCE),
        began: Instant::now(),
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
    pin: RootHash,
    turns: Semaphore,
    began: Instant,
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
            let link = link??;
            links.spawn(link.keep());
        }
        Ok(())
    }

    /// One link that has registered its name; tried again while the relay
    /// refuses, as a device does.
    async fn link(&self, number: usize) -> Result<Link> {
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

    async fn try_link(&self, number: usize) -> Result<Link> {
        let name = format!("d{number}");
        let mut seed = [[0; 32]; 2];
        seed.iter_mut().try_for_each(|seed| getrandom::fill(seed))?;
        let secret = StaticSecret::from_bytes(seed[0]);
        let issued = self
            .authority
            .credential(&device("bench", &name), secret.public())?;
        let instance = Instance([number as u8; 16]);
        let local = Local::anonymous(secret, self.pin, instance.0)
            .with_credential(issued.lean, issued.full)
            .with_trust(VerifiedTrustSet::verify(&issued.trust_set, &self.pin, 0)?);

        let socket = TcpSocket::new_v4()?;
        let source = u8::try_from(2 + number % SOURCES)?;
        socket.bind(([127, 0, 0, source], 0).into())?;
        let socket = socket.connect(self.address).await?;
        socket.set_nodelay(true)?;
        let (config, rules) = (Config::new(), Rules::default());
        let now = now(self.began);
        let session = Session::dial(config, local, rules, Address::Relay, seed[1], now)?;
        let mut link = Link {
            socket,
            session,
            began: self.began,
            control: None,
            reader: FrameReader::new(),
            buffer: BytesMut::new(),
            is_registered: false,
            timeout: None,
        };
        link.pump().await?;
        while !link.session.is_established() {
            link.step().await?;
        }
        let names = vec![format!("{name}.bench.device.fairway.internal").parse()?];
        link.register(names, instance).await?;
        while !link.is_registered {
            link.step().await?;
        }
        link.session.release_memory();
        Ok(link)
    }
}

/// The device's end of a link, without the rest of a device.
struct Link {
    socket: TcpStream,
    session: Session,
    began: Instant,
    control: Option<StreamId>,
    reader: FrameReader,
    buffer: BytesMut,
    is_registered: bool,
    timeout: Option<Time>,
}

impl Link {
    async fn register(&mut self, names: Vec<Address>, instance: Instance) -> Result<()> {
        let now = now(self.began);
        let stream = self.session.open(now, &OpenRequest::control())?;
        self.control = Some(stream);
        let mut message = Bytes::from(frame(&ToRelay::Register { names, instance })?);
        self.session.write(now, stream, &mut message)?;
        self.pump().await
    }

    /// Answers what the relay asks, until the link ends.
    async fn keep(mut self) -> Result<()> {
        loop {
            self.step().await?;
        }
    }

    /// Reads once, or does what has become due.
    async fn step(&mut self) -> Result<()> {
        let wait = match self.timeout {
            Some(at) => at.saturating_sub(self.began.elapsed()),
            None => Duration::MAX,
        };
        match tokio::time::timeout(wait, self.socket.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => bail!("the relay closed the link"),
            Ok(read) => drop(read?),
            Err(_) => self.session.handle_timeout(now(self.began)),
        }
        while let Some(mut run) = take_run(&mut self.buffer, usize::MAX)? {
            while let Some(packet) = run.next_payload() {
                self.session
                    .handle_input(now(self.began), PathId::FIRST, packet);
            }
        }
        if self.buffer.is_empty() {
            // There are thousands of these.
            self.buffer = BytesMut::new();
        }
        self.pump().await
    }

    async fn pump(&mut self) -> Result<()> {
        let mut batch = Batch::new(LINK_HEADER);
        loop {
            match self.session.poll_output(now(self.began), &mut batch) {
                Output::Transmit { .. } => {}
                Output::Event(event) => self.on_event(event)?,
                Output::Timeout(at) => {
                    self.timeout = at;
                    break;
                }
            }
        }
        for packet in batch.packets_mut() {
            let length = packet.len() - LINK_HEADER;
            let header = header(FrameKind::Data, CircuitId::LINK, length)?;
            packet[..LINK_HEADER].copy_from_slice(&header);
        }
        Ok(self.socket.write_all(batch.as_slice()).await?)
    }

    fn on_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Readable(stream) if self.control == Some(stream) => {
                let now = now(self.began);
                while let Ok(ReadOutcome::Chunk(bytes)) = self.session.read(now, stream) {
                    self.reader.push(&bytes);
                }
                while let Some(message) = self.reader.next_message()? {
                    match message {
                        ToEndpoint::Registered { .. } => self.is_registered = true,
                        ToEndpoint::RegisterRefused { reason, .. } => bail!("{reason}"),
                        other => bail!("the relay says {other:?}"),
                    }
                }
                Ok(())
            }
            Event::Closed { refusal, .. } => bail!("{refusal}"),
            _ => Ok(()),
        }
    }
}

fn now(began: Instant) -> Now {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    Now {
        mono: began.elapsed(),
        clock: Clock::Trusted(UnixSeconds(seconds)),
    }
}
