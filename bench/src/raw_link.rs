//! An endpoint's end of a link without the rest of an endpoint: a session over a
//! socket, stepped by hand. For whoever has to make many of them, or to do with
//! one what no endpoint does.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{
    CircuitId, FrameError, FrameKind, ToEndpoint, ToRelay, header, take_run,
};
use fairway_control::{FrameReader, Reason, frame};
use fairway_identity::{Address, Clock, UnixSeconds};
use fairway_session::{
    Batch, Config, Event, Local, Now, OpenRequest, Output, PathId, ReadOutcome, Rules, Session,
    StreamId, Time,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// The end of a link that dialled a relay. It does nothing but in its calls.
pub struct RawLink<IO = TcpStream> {
    /// What is written here goes past the session.
    pub socket: IO,
    /// After a call of one's own, [`pump`](Self::pump).
    pub session: Session,
    /// The relay's messages that nobody has heard yet.
    pub heard: FrameReader,
    /// What came on circuits: kind, circuit, payload.
    pub frames: VecDeque<(FrameKind, u32, Bytes)>,
    /// Why the link is over, once the relay has said so.
    pub closed: Option<Box<Reason>>,
    clock: fn(Instant) -> Now,
    began: Instant,
    control: Option<StreamId>,
    buffer: BytesMut,
    due: Option<Time>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> RawLink<IO> {
    /// Begins the handshake. `clock` is asked with when that was.
    ///
    /// # Errors
    /// No randomness, or the socket does not take it.
    pub async fn dial(socket: IO, local: Local, clock: fn(Instant) -> Now) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let (config, rules, began) = (Config::new(), Rules::default(), Instant::now());
        let session = Session::dial(config, local, rules, Address::Relay, seed, clock(began))?;
        let mut link = Self {
            socket,
            session,
            heard: FrameReader::new(),
            frames: VecDeque::new(),
            closed: None,
            clock,
            began,
            control: None,
            buffer: BytesMut::new(),
            due: None,
        };
        link.pump().await?;
        Ok(link)
    }

    /// Runs the handshake and opens the control stream.
    ///
    /// # Errors
    /// The link has ended.
    pub async fn establish(&mut self) -> Result<()> {
        while !self.session.is_established() {
            self.step().await?;
        }
        let control = self.session.open(self.now(), &OpenRequest::control())?;
        self.control = Some(control);
        Ok(self.pump().await?)
    }

    /// Says something on the control stream.
    ///
    /// # Errors
    /// There is no control stream, or the link has ended.
    pub async fn say(&mut self, message: &ToRelay) -> Result<()> {
        self.say_raw(frame(message)?.into()).await
    }

    /// The same with bytes that need not be a message.
    ///
    /// # Errors
    /// As for [`say`](Self::say).
    pub async fn say_raw(&mut self, mut bytes: Bytes) -> Result<()> {
        let stream = self.control.context("the link is not established")?;
        while !bytes.is_empty() {
            let n = self.session.write(self.now(), stream, &mut bytes)?;
            self.pump().await?;
            if n == 0 {
                self.step().await?;
            }
        }
        Ok(())
    }

    /// The next message of the control stream, however long it takes.
    ///
    /// # Errors
    /// The link has ended, or this is no message.
    pub async fn hear(&mut self) -> Result<ToEndpoint> {
        loop {
            if let Some(message) = self.heard.next_message()? {
                return Ok(message);
            }
            self.step().await?;
        }
    }

    /// Sends one frame of a circuit, whatever the credit says.
    ///
    /// # Errors
    /// It is too large, or the socket does not take it.
    pub async fn send(&mut self, kind: FrameKind, circuit: u32, payload: &[u8]) -> Result<()> {
        let head = header(kind, CircuitId(circuit), payload.len())?;
        Ok(self
            .socket
            .write_all(&[&head[..], payload].concat())
            .await?)
    }

    /// Reads once, or does what has become due.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn step(&mut self) -> Result<()> {
        let wait = match self.due {
            Some(at) => at.saturating_sub(self.began.elapsed()),
            None => Duration::MAX,
        };
        if !self.read(wait).await? {
            self.session.handle_timeout(self.now());
            self.pump().await?;
        }
        Ok(())
    }

    /// Reads once and does what follows; `false` if nothing came for so long.
    ///
    /// # Errors
    /// The link has ended, or what came is no frame.
    pub async fn read(&mut self, patience: Duration) -> Result<bool> {
        if let Some(reason) = &self.closed {
            bail!("the relay closed the link: {reason}");
        }
        let Ok(read) = timeout(patience, self.socket.read_buf(&mut self.buffer)).await else {
            return Ok(false);
        };
        ensure!(read? > 0, "the relay closed the link");
        loop {
            let mut run = match take_run(&mut self.buffer, usize::MAX) {
                Ok(Some(run)) => run,
                Ok(None) => break,
                Err(FrameError::Refused(reason)) => {
                    bail!("the relay refused the link: {}", self.closed.insert(reason))
                }
                Err(error) => return Err(error.into()),
            };
            let (kind, circuit) = (run.kind(), run.circuit());
            while let Some(payload) = run.next_payload() {
                if circuit == CircuitId::LINK {
                    self.session
                        .handle_input(self.now(), PathId::FIRST, payload);
                } else {
                    self.frames.push_back((kind, circuit.0, payload.freeze()));
                }
            }
        }
        if self.buffer.is_empty() {
            // There are thousands of these.
            self.buffer = BytesMut::new();
        }
        // A relay that takes nothing any more may have said why: that is read next.
        let _ = self.pump().await;
        Ok(true)
    }

    /// Sends what the session has to send, and takes note of its events.
    ///
    /// # Errors
    /// The socket does not take it.
    pub async fn pump(&mut self) -> io::Result<()> {
        let mut batch = Batch::new(LINK_HEADER);
        loop {
            match self.session.poll_output(self.now(), &mut batch) {
                Output::Transmit { .. } => {}
                Output::Event(event) => self.on_event(event),
                Output::Timeout(at) => {
                    self.due = at;
                    break;
                }
            }
        }
        for packet in batch.packets_mut() {
            let length = packet.len() - LINK_HEADER;
            let header = header(FrameKind::Data, CircuitId::LINK, length);
            packet[..LINK_HEADER].copy_from_slice(&header.map_err(io::Error::other)?);
        }
        self.socket.write_all(batch.as_slice()).await?;
        self.socket.flush().await
    }

    /// What [`session`](Self::session) is to be told.
    pub fn now(&self) -> Now {
        (self.clock)(self.began)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Readable(stream) if self.control == Some(stream) => {
                let now = self.now();
                while let Ok(ReadOutcome::Chunk(bytes)) = self.session.read(now, stream) {
                    self.heard.push(&bytes);
                }
            }
            Event::Closed { refusal, .. } => {
                let reason = Reason::new(refusal.word(), refusal.text);
                self.closed = Some(Box::new(reason));
            }
            _ => {}
        }
    }
}

/// The clock of who talks to processes.
pub fn system_clock(began: Instant) -> Now {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    Now {
        mono: began.elapsed(),
        clock: Clock::Trusted(UnixSeconds(seconds)),
    }
}
