//! The one loop that drives a link: commands, timers, reads, sessions, writes.
//!
//! A turn does a bounded amount of work. Packets of all sessions that have
//! output go into one batch and out in one write; while the socket is full,
//! sessions keep their packets and only their events are fetched.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fairway_channel::limits::MAX_BATCH;
use fairway_channel::{Batch, PathId};
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{CircuitId, FrameError, FrameKind, Run, header};
use fairway_daemon::Entry;
use fairway_session::{Now, Refusal};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Sleep};

use super::LinkReader;
use super::circuit::Circuit;
use super::control::LinkControl;
use super::shared::{LinkKind, LinkShared, LinkState};
use super::timers::Timers;
use crate::conn::{Conn, Gone, Notice, Polled, Progress, lost};
use crate::limits::{
    BATCHES_PER_SESSION, BATCHES_PER_TURN, LINGER, LINK_CLOSE_TIMEOUT, READ_SIZE_MAX,
    READS_PER_TURN,
};
use crate::node::Node;
use crate::transport::LinkIo;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkEnd {
    /// The other end closed the connection.
    #[error("the other end closed the connection")]
    Eof,
    /// The socket failed.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// What came is not a link.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The link's own session ended.
    #[error("{0}")]
    Session(Refusal),
    /// The other end sent nonsense on the control stream, or too little.
    #[error("bad link control message: {0}")]
    Control(String),
    /// Others needed its place before it was authenticated.
    #[error("too many links that have not been authenticated")]
    Evicted,
    /// This side closed it.
    #[error("closed by this side")]
    Closed,
}

/// Drives one link over `IO` until it ends.
pub(crate) struct Driver<IO> {
    pub(super) node: Arc<Node>,
    pub(super) shared: Arc<LinkShared>,
    io: IO,
    pub(super) reader: LinkReader,
    /// Frames on their way out, of all sessions.
    pub(super) batch: Batch,
    /// Bytes of the batch that have been written.
    n_written: usize,
    /// The socket takes no more for now.
    blocked: bool,
    pub(super) circuits: BTreeMap<u32, Circuit>,
    /// Empty between turns.
    dirty: Vec<u32>,
    soon: Vec<u32>,
    /// Circuits whose session is to be polled, each once.
    ready: VecDeque<u32>,
    /// Circuits that wait for the socket.
    held: Vec<u32>,
    pub(super) timers: Timers,
    pub(super) sleep: Pin<Box<Sleep>>,
    pub(super) polled: Polled,
    /// On links to relays.
    pub(super) control: LinkControl,
    pub(super) draining: bool,
    /// Circuits whose dialler has not shown who they are...
    pub(super) n_half_open: usize,
    /// ...and until when they have to: all of them the same time.
    pub(super) half_open: VecDeque<(Instant, u32)>,
    /// Counts this link, if it was accepted.
    entry: Option<Entry>,
    /// Whoever accepted it does not know who is at the other end.
    is_half_open: bool,
    /// When this turn began, or what it works on was read.
    pub(super) now: Now,
    pub(super) read_at: Instant,
    /// Since when its own session gets no answer.
    pub(super) unanswered: Option<Instant>,
    pub(super) holds_buffers: bool,
    n_batches: usize,
    /// Its last turn was given to others.
    has_yielded: bool,
    /// What sessions are told when the link has ended.
    refusal: Refusal,
}

impl<IO: LinkIo> Driver<IO> {
    /// A driver whose circuit 0 carries `conn`.
    pub(crate) fn new(node: Arc<Node>, conn: Arc<Conn>, io: IO, entry: Option<Entry>) -> Self {
        let mut driver = Self {
            control: LinkControl::new(node.instance),
            now: node.clock.now(),
            node,
            shared: conn.first_link().expect("a session is made on a circuit"),
            io,
            reader: LinkReader::new(),
            batch: Batch::new(LINK_HEADER),
            n_written: 0,
            blocked: false,
            circuits: BTreeMap::new(),
            dirty: Vec::new(),
            soon: Vec::new(),
            ready: VecDeque::new(),
            held: Vec::new(),
            timers: Timers::default(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            polled: Polled::default(),
            draining: false,
            n_half_open: 0,
            half_open: VecDeque::new(),
            is_half_open: entry.is_some(),
            entry,
            read_at: Instant::now(),
            unanswered: None,
            holds_buffers: false,
            n_batches: 0,
            has_yielded: false,
            refusal: lost("the link was given up"),
        };
        driver.node.metrics.links.inc();
        let own = Circuit::new(Some((conn, PathId::FIRST)));
        driver.circuits.insert(0, own);
        driver.make_ready(0);
        driver
    }

    /// Runs the link to its end; all its sessions end with it.
    pub(crate) async fn run(mut self) -> LinkEnd {
        let mut end = std::future::poll_fn(|cx| self.poll_turn(cx)).await;
        if let LinkEnd::Io(_) = end {
            std::future::poll_fn(|cx| {
                self.hear_last_words(cx);
                Poll::Ready(())
            })
            .await;
        }
        if self.shared.kind == LinkKind::Relay
            && let Some(refusal) = self.link_conn().refused_by_peer()
        {
            self.node
                .credential_refused(self.shared.generation, &refusal);
            end = LinkEnd::Session(refusal);
        }
        self.refusal = match &end {
            LinkEnd::Session(refusal) => refusal.clone(),
            other => lost(&format!("link to {}: {other}", self.shared.remote)),
        };
        self.shared.close(end.to_string());
        // What is on its way still arrives; TCP sees to that by itself.
        let _ = tokio::time::timeout(LINK_CLOSE_TIMEOUT, self.io.shutdown()).await;
        end
    }

    /// Writing failed. Whoever closed the connection may have said why before,
    /// and that can still be read.
    fn hear_last_words(&mut self, cx: &mut Context<'_>) {
        for _ in 0..READS_PER_TURN {
            let read = self.reader.poll_read(cx, &mut self.io);
            let Poll::Ready(Ok(1..)) = read else {
                return;
            };
            while let Ok(Some(run)) = self.reader.next_run(READ_SIZE_MAX) {
                self.on_run(run);
            }
            // What it says beside its end is of no use any more.
            let _ = self.hear_out(0);
        }
    }

    /// One turn: ready with the end, pending otherwise.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        self.n_batches = 0;
        let began_at = self.read_clock();
        self.heed_eviction(cx)?;
        self.take_work(cx, began_at)?;
        if !self.ready.is_empty() && !std::mem::replace(&mut self.has_yielded, true) {
            // Others that run now may have something to send too: one write for all.
            cx.waker().wake_by_ref();
            return Ok(());
        }
        self.has_yielded = false;
        self.fire_timers(began_at);
        let mut n_reads = 0;
        loop {
            self.drive_ready(cx)?;
            self.flush(cx)?;
            if n_reads == READS_PER_TURN || self.n_batches >= BATCHES_PER_TURN {
                // The rest after other tasks had their turn.
                cx.waker().wake_by_ref();
                break;
            }
            match self.reader.poll_read(cx, &mut self.io) {
                Poll::Pending if self.ready.is_empty() => break,
                Poll::Pending => continue,
                Poll::Ready(Ok(0)) => return Err(LinkEnd::Eof),
                Poll::Ready(n) => self.on_read(cx, n?)?,
            }
            n_reads += 1;
        }
        self.end_if_drained()?;
        self.arm(cx);
        Ok(())
    }

    /// A link whose other end is unknown gives way when others need its place.
    fn heed_eviction(&self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        match &self.entry {
            Some(entry) if self.is_half_open && entry.poll_evicted(cx).is_ready() => {
                Err(LinkEnd::Evicted)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn take_work(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), LinkEnd> {
        let mut dirty = std::mem::take(&mut self.dirty);
        let commands = self.shared.take_work(cx, &mut dirty, &mut self.soon);
        for id in self.soon.drain(..) {
            if let Some(circuit) = self.circuits.get_mut(&id) {
                self.timers.hasten(id, &mut circuit.timer, now + LINGER);
            }
        }
        for circuit in dirty.drain(..) {
            self.make_ready(circuit);
        }
        // Keeps its memory.
        self.dirty = dirty;
        for command in commands {
            self.on_command(command)?;
        }
        Ok(())
    }

    // --- input ---

    fn on_read(&mut self, cx: &mut Context<'_>, n: usize) -> Result<(), LinkEnd> {
        self.node.metrics.bytes_received.inc_by(n as u64);
        self.read_at = self.read_clock();
        self.holds_buffers = true;
        while let Some(run) = self.reader.next_run(READ_SIZE_MAX)? {
            let circuit = run.circuit().0;
            self.on_run(run);
            if circuit == 0 && self.shared.kind == LinkKind::Relay {
                // A circuit is announced in here whose packets may follow at once.
                self.drive(cx, 0)?;
            }
        }
        Ok(())
    }

    fn on_run(&mut self, mut run: Run) {
        let id = run.circuit().0;
        let Some(circuit) = self.circuits.get_mut(&id) else {
            // Closed by us while it was on its way, or nonsense: either way not ours.
            return;
        };
        let is_datagram = run.kind() == FrameKind::Datagram;
        if id != 0 && !is_datagram {
            let n = run.payload_len();
            if circuit.receive.receive(n).is_err() {
                self.close_circuit(id, "credit-overrun", "more was sent than granted");
                return;
            }
            // What the session holds is bounded by its own windows, so what
            // came in counts as consumed.
            if let Some(max_bytes) = circuit.receive.consume(self.now.mono, n) {
                self.control.credit(CircuitId(id), max_bytes);
            }
        }
        match self.circuits.get(&id).map(|circuit| &circuit.conn) {
            Some(Some((conn, path))) => {
                conn.input(self.now, *path, std::iter::from_fn(|| run.next_payload()));
                self.make_ready(id);
            }
            // A datagram may overtake what its circuit begins with.
            Some(None) if is_datagram => {}
            Some(None) => self.meet(id, run),
            None => {}
        }
    }

    // --- output ---

    /// The circuit's session is polled in this turn or the next.
    pub(super) fn make_ready(&mut self, id: u32) {
        if let Some(circuit) = self.circuits.get_mut(&id)
            && !std::mem::replace(&mut circuit.is_ready, true)
        {
            self.ready.push_back(id);
        }
    }

    fn drive_ready(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        for _ in 0..self.ready.len() {
            if self.n_batches >= BATCHES_PER_TURN {
                break;
            }
            if let Some(id) = self.ready.pop_front() {
                self.drive(cx, id)?;
            }
        }
        if self.control.has_output() {
            self.write_control();
        }
        self.check_control()
    }

    /// Polls one session and acts on what it says.
    fn drive(&mut self, cx: &mut Context<'_>, id: u32) -> Result<(), LinkEnd> {
        let n_batches_max = self.n_batches + BATCHES_PER_SESSION;
        let Some(circuit) = self.circuits.get_mut(&id) else {
            return Ok(());
        };
        circuit.is_ready = false;
        let Some((conn, path)) = circuit.conn.clone() else {
            return Ok(());
        };
        loop {
            match self.poll_session(id, &conn, path) {
                Progress::Transmit => {
                    if self.batch.len() >= MAX_BATCH
                        && let Err(end) = self.flush(cx)
                    {
                        // The session outlives this link: whoever is to be
                        // woken for it would never hear of it again.
                        self.act(id)?;
                        return Err(end);
                    }
                    if self.n_batches >= n_batches_max {
                        // Others first.
                        self.make_ready(id);
                        break;
                    }
                }
                Progress::Drained(at) => {
                    let at = at.map(|mono| self.node.clock.instant(mono));
                    self.set_timer(id, at);
                    break;
                }
            }
        }
        if self.blocked
            && let Some(circuit) = self.circuits.get_mut(&id)
            && !std::mem::replace(&mut circuit.is_held, true)
        {
            self.held.push(id);
        }
        self.act(id)?;
        self.note_proof(id, &conn, path);
        self.reap(id, &conn)
    }

    /// A session that came back over this circuit may have shown itself.
    fn note_proof(&mut self, id: u32, conn: &Conn, path: PathId) {
        if path != PathId::FIRST
            && let Some(circuit) = self.circuits.get_mut(&id)
            && circuit.is_half_open
            && conn.is_proven(path)
        {
            circuit.is_half_open = false;
            self.n_half_open -= 1;
        }
    }

    /// Acts on what a session has to say, without sending anything.
    pub(super) fn hear_out(&mut self, id: u32) -> Result<(), LinkEnd> {
        let circuit = self.circuits.get(&id);
        if let Some((conn, path)) = circuit.and_then(|circuit| circuit.conn.clone()) {
            self.batch.set_room(0);
            let (batch, polled) = (&mut self.batch, &mut self.polled);
            while let Progress::Transmit = conn.poll(self.now, Some(path), batch, polled) {}
            self.act(id)?;
        }
        Ok(())
    }

    fn poll_session(&mut self, id: u32, conn: &Arc<Conn>, path: PathId) -> Progress {
        let Some(circuit) = self.circuits.get_mut(&id) else {
            return Progress::Drained(None);
        };
        let credit = usize::try_from(circuit.send.available()).unwrap_or(usize::MAX);
        self.batch.set_room(match id {
            _ if self.blocked => 0,
            0 => usize::MAX,
            _ => credit,
        });
        let n_before = self.batch.len();
        let progress = conn.poll(self.now, Some(path), &mut self.batch, &mut self.polled);
        for (is_datagram, frame) in self.batch.marked_packets_mut().skip(n_before) {
            let length = frame.len() - LINK_HEADER;
            let kind = match is_datagram {
                true => FrameKind::Datagram,
                false => FrameKind::Data,
            };
            let header = header(kind, CircuitId(id), length)
                .expect("a packet is never longer than a frame can carry");
            frame[..LINK_HEADER].copy_from_slice(&header);
            if id != 0 && !is_datagram {
                let within = circuit.send.take(length);
                debug_assert!(within, "set_room keeps packets within the credit");
            }
        }
        progress
    }

    /// Writes the batch as far as the socket takes it.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        if self.batch.is_empty() {
            self.blocked = false;
            return Ok(());
        }
        while self.n_written < self.batch.as_slice().len() {
            let rest = &self.batch.as_slice()[self.n_written..];
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Pending => {
                    self.blocked = true;
                    return Ok(());
                }
                Poll::Ready(Ok(0)) => return Err(LinkEnd::Io(io::ErrorKind::WriteZero.into())),
                Poll::Ready(n) => self.n_written += n?,
            }
        }
        let metrics = &self.node.metrics;
        metrics.bytes_sent.inc_by(self.n_written as u64);
        metrics
            .datagrams_dropped
            .inc_by(self.io.take_dropped_datagrams());
        self.batch.clear();
        self.n_written = 0;
        self.n_batches += 1;
        if std::mem::replace(&mut self.blocked, false) {
            for id in std::mem::take(&mut self.held) {
                if let Some(circuit) = self.circuits.get_mut(&id) {
                    circuit.is_held = false;
                }
                self.make_ready(id);
            }
        }
        Ok(())
    }

    // --- what sessions say ---

    fn act(&mut self, id: u32) -> Result<(), LinkEnd> {
        let mut polled = std::mem::take(&mut self.polled);
        polled.settle(&self.node);
        for notice in polled.notices.drain(..) {
            match notice {
                notice if id == 0 => self.on_link_notice(notice)?,
                Notice::Established(_) => self.on_established(id),
                Notice::Silent => self.on_silent(id),
                Notice::Readable(_)
                | Notice::Writable
                | Notice::StreamOver(..)
                | Notice::Alive
                | Notice::Closed => {}
            }
        }
        // Keeps the vectors' memory.
        self.polled = polled;
        Ok(())
    }

    fn on_established(&mut self, id: u32) {
        self.node.metrics.sessions_opened.inc();
        if !self.shared.is_up() {
            // The link was told to go meanwhile.
            self.move_own_sessions();
        }
        if let Some(circuit) = self.circuits.get_mut(&id)
            && std::mem::take(&mut circuit.is_half_open)
        {
            self.n_half_open -= 1;
            // It may come back over another circuit.
            if let Some((conn, _)) = &circuit.conn {
                self.node.expect_back(conn);
            }
        }
    }

    fn on_link_notice(&mut self, notice: Notice) -> Result<(), LinkEnd> {
        match notice {
            Notice::Established(peer) => {
                if let (Some(_), Some(entry)) = (peer.verified(), &mut self.entry) {
                    entry.authenticated();
                    self.is_half_open = false;
                }
                self.shared.set_state(LinkState::Up {
                    registered: Arc::default(),
                });
                if self.shared.kind == LinkKind::Relay {
                    self.open_control()?;
                } else {
                    self.node.metrics.sessions_opened.inc();
                }
            }
            Notice::Readable(stream) => self.read_control(stream)?,
            Notice::Writable => self.on_control_writable(),
            Notice::StreamOver(stream, refusal) => {
                if self.control.is_on(stream) {
                    return Err(LinkEnd::Session(refusal));
                }
            }
            // The keeper makes another link, and then drains this one.
            Notice::Silent => {
                self.unanswered = Some(Instant::now());
                self.judge_silence();
            }
            Notice::Alive => self.on_link_alive(),
            Notice::Closed => {}
        }
        Ok(())
    }

    /// Takes a session that is over off its circuit, once its last words are out.
    fn reap(&mut self, id: u32, conn: &Arc<Conn>) -> Result<(), LinkEnd> {
        let Some(refusal) = conn.closed_now() else {
            return Ok(());
        };
        if self.blocked {
            return Ok(());
        }
        if id == 0 {
            return Err(LinkEnd::Session(refusal));
        }
        self.close_circuit(id, refusal.word(), &refusal.text);
        Ok(())
    }

    fn end_if_drained(&self) -> Result<(), LinkEnd> {
        if self.draining && self.circuits.len() == 1 && self.batch.is_empty() {
            return Err(LinkEnd::Closed);
        }
        Ok(())
    }

    /// Takes a circuit out, with all that points to it.
    pub(super) fn take_circuit(&mut self, id: u32) -> Option<Circuit> {
        let mut circuit = self.circuits.remove(&id)?;
        self.timers.forget(id, &mut circuit.timer);
        self.n_half_open -= usize::from(circuit.is_half_open);
        self.io.circuit_over(id);
        Some(circuit)
    }
}

/// Also when the task was dropped or died: nobody may wait for a link that is gone.
impl<IO> Drop for Driver<IO> {
    fn drop(&mut self) {
        self.node.metrics.links.dec();
        self.shared.close(self.refusal.to_string());
        for circuit in std::mem::take(&mut self.circuits).into_values() {
            if let Some((conn, path)) = circuit.conn {
                self.node.path_gone(&conn, path, &Gone::from(&self.refusal));
            }
        }
    }
}
