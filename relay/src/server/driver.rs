//! The loop that drives one link: timers, reads, and what others asked for.
//!
//! Frames of a circuit are written to the other link's socket right here, by
//! whoever read them, all that one read has for a link at once; a link's own
//! driver writes only what its socket did not take.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use fairway_control::link::{CircuitId, FrameError, Run};
use fairway_control::{Reason, reason};
use fairway_daemon::{DrainGuard, Entry, has_released_memory};
use fairway_endpoint::link::LinkReader;
use fairway_session::{PeerInfo, Standing};
use tokio::time::{Instant, Sleep};

use super::access;
use super::control::Said;
use super::link::Link;
use super::shared::{Routed, Shared, Unsent, lost};
use super::socket::Source;
use crate::core::{Core, Time, Who};
use crate::limits;

/// Drives one link until it ends.
pub(super) struct Driver {
    shared: Arc<Shared>,
    link: Arc<Link>,
    socket: Source,
    reader: LinkReader,
    /// Runs that were read and not yet passed on.
    runs: Vec<Run>,
    routed: Vec<Routed>,
    /// Links that something was read for, and not yet written.
    unsent: Unsent,
    /// Who was not let in, for the log.
    refused: Option<String>,
    /// Whoever is at the other end has shown who they are.
    is_known: bool,
    /// Counts the connection.
    entry: Entry,
    /// Its credential is valid.
    is_trusted: bool,
    sleep: Pin<Box<Sleep>>,
    /// When that ends, as the link's session counts time; nothing: it is to be
    /// set anew.
    wakes_at: Option<Time>,
    began: Instant,
    read_at: Instant,
    holds_buffers: bool,
    /// What its read buffers are booked with.
    read_bytes: usize,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, link: Arc<Link>, socket: Source, entry: Entry) -> Self {
        let now = Instant::now();
        let mut reader = LinkReader::new();
        reader.set_read_size_max(0);
        Self {
            shared,
            link,
            socket,
            reader,
            runs: Vec::new(),
            routed: Vec::new(),
            unsent: Unsent::default(),
            refused: None,
            is_known: false,
            entry,
            is_trusted: false,
            sleep: Box::pin(tokio::time::sleep_until(now)),
            wakes_at: None,
            began: now,
            read_at: now,
            holds_buffers: false,
            read_bytes: 0,
        }
    }

    /// Runs the link to its end. Boxed, and so is the end: a task is as large
    /// as the largest thing it ever does, and most links do nothing.
    pub(super) async fn run(mut self: Box<Self>, guard: DrainGuard) {
        let why = std::future::poll_fn(|cx| self.poll_turn(cx)).await;
        Box::pin(self.finish(why)).await;
        drop(guard);
    }

    /// The link is over: everybody is told, and it is logged.
    async fn finish(mut self: Box<Self>, why: Reason) {
        self.shared.hold_for_reading(self.read_bytes, 0);
        // A peer that is still there is told why, if this side ends it.
        self.shared.close(&self.link, &why, &mut self.unsent);
        self.shared.write_out(&mut self.unsent);
        // The core knows who it was; a name for each link would be kept twice.
        let mut peer = self.refused.take();
        if let Some(id) = self.link.id() {
            let who = |core: &mut Core| core.who(id).map(ToString::to_string);
            peer = self.shared.with_core(who);
            self.shared.link_down(id, &why);
        }
        let gone = async {
            let _ = std::future::poll_fn(|cx| self.poll_write(cx)).await;
            std::future::poll_fn(|cx| self.link.socket.poll_close(cx)).await;
        };
        // A socket that takes nothing any more is simply closed.
        let _ = tokio::time::timeout(limits::CLOSE_LINGER, gone).await;
        access::link_ended(
            &self.shared.metrics,
            &self.link,
            peer.as_deref(),
            self.began.elapsed(),
            &why,
        );
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(why) => Poll::Ready(why),
        }
    }

    /// One turn: a bounded amount of work. The error is the end of the link.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Reason> {
        self.link.register(cx);
        if !self.is_known && self.entry.poll_evicted(cx).is_ready() {
            return Err(Reason::new(
                reason::OVERLOADED,
                "too many links in their handshake",
            ));
        }
        self.fire_timers(cx);
        self.heed()?;
        self.shared.write_out(&mut self.unsent);
        for n_reads in 0.. {
            if n_reads == limits::READS_PER_TURN {
                // The rest after other links had their turn.
                cx.waker().wake_by_ref();
                break;
            }
            match self.reader.poll_read(cx, &mut self.socket) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(lost("the other end closed the connection")),
                Poll::Ready(Ok(n)) => {
                    self.on_read(n)?;
                    self.shared.write_out(&mut self.unsent);
                }
                Poll::Ready(Err(error)) => return Err(lost(error.to_string())),
            }
        }
        self.account();
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Err(lost(error.to_string()));
        }
        self.arm(cx);
        Ok(())
    }

    // --- input ---------------------------------------------------------------------

    fn on_read(&mut self, n: usize) -> Result<(), Reason> {
        self.link.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
        self.shared.metrics.bytes_received.inc_by(n as u64);
        self.read_at = Instant::now();
        if !std::mem::replace(&mut self.holds_buffers, true) {
            self.wakes_at = None;
        }
        loop {
            let run = self.reader.next_run(limits::RUN_BYTES_MAX);
            match run {
                Ok(Some(run)) if run.circuit() == CircuitId::LINK => {
                    self.forward();
                    self.control_input(run)?;
                }
                Ok(Some(run)) => {
                    self.runs.push(run);
                    if self.runs.len() >= limits::RUNS_PER_LOCK {
                        self.forward();
                        self.shared.write_out(&mut self.unsent);
                    }
                }
                Ok(None) => {
                    self.forward();
                    return Ok(());
                }
                Err(error) => {
                    self.forward();
                    return Err(protocol(&error));
                }
            }
        }
    }

    /// Passes on the runs that were read.
    fn forward(&mut self) {
        // Before the link is authenticated there are no circuits.
        let Some(id) = self.link.id() else {
            let n_dropped = self.runs.drain(..).count();
            self.shared.metrics.runs_dropped.inc_by(n_dropped as u64);
            return;
        };
        if self.runs.is_empty() {
            return;
        }
        let runs = self.runs.drain(..);
        let outputs = self.shared.route(id, runs, &mut self.routed);
        self.shared.queue(&mut self.routed, &mut self.unsent);
        self.shared.carry_out(outputs, &mut self.unsent);
    }

    fn control_input(&mut self, run: Run) -> Result<(), Reason> {
        let now = self.shared.identity.now();
        {
            let mut control = self.link.control();
            control.input(now, run);
            let out = &self.link;
            self.shared
                .with_batch(|batch| control.pump(now, batch, &mut out.out()));
        }
        self.heed()
    }

    /// Acts on what came over the link's own session.
    fn heed(&mut self) -> Result<(), Reason> {
        loop {
            let said = {
                let mut control = self.link.control();
                match (control.next_said(), control.end()) {
                    (Some(said), _) => said,
                    (None, Some(why)) => return Err(why.clone()),
                    (None, None) => return Ok(()),
                }
            };
            match (said, self.link.id()) {
                (Said::Established(peer), _) => self.establish(&peer)?,
                (Said::Message(message), Some(id)) => {
                    let now = self.shared.identity.now().mono;
                    let tell = |core: &mut Core| core.handle_message(now, id, message);
                    self.shared.tell_core(tell, &mut self.unsent);
                }
                (Said::Room, _) => {
                    self.shared.deliver(&self.link, &mut self.unsent);
                }
                (Said::Message(_), None) => {
                    return Err(Reason::new(
                        reason::PROTOCOL,
                        "a message before the session",
                    ));
                }
            }
        }
    }

    fn establish(&mut self, peer: &PeerInfo) -> Result<(), Reason> {
        let who = match peer.standing() {
            Standing::Verified(verified) => Who::Verified(verified.clone()),
            Standing::Expired(was) => Who::Expired {
                id: was.id().clone(),
                uid: was.uid().clone(),
                issued_at: was.issued_at(),
            },
            Standing::TicketHolder(_) => Who::TicketHolder,
            Standing::Anonymous => Who::Anonymous,
        };
        self.is_known = true;
        self.is_trusted = matches!(who, Who::Verified(_));
        let name = who.to_string();
        let id = match self.shared.link_up(&self.link, who) {
            Ok(id) => id,
            Err(refusal) => {
                self.refused = Some(name);
                return Err(refusal.0);
            }
        };
        self.entry.authenticated();
        let circuits = if self.is_trusted {
            limits::QUIC_CIRCUITS_MAX
        } else {
            limits::QUIC_CIRCUITS_UNTRUSTED_MAX
        };
        self.link.socket.authenticated(circuits);
        // There may be a newer trust set than when the handshake began.
        self.shared.judge(&self.link);
        tracing::debug!(event = "link", link = id.number(), peer = name, remote = %self.link.remote, "link is up");
        Ok(())
    }

    /// Books the memory that reading takes, and saves when there is little.
    fn account(&mut self) {
        let held = self.reader.held_bytes();
        if held == self.read_bytes {
            return;
        }
        let is_short = self.shared.hold_for_reading(self.read_bytes, held);
        self.read_bytes = held;
        let is_trusted = self.is_trusted && !is_short;
        let max = if is_trusted { limits::READ_SIZE_MAX } else { 0 };
        self.reader.set_read_size_max(max);
        if is_short {
            self.reader.release();
        }
    }

    // --- output -----------------------------------------------------------------------

    /// Writes what waits; ready when nothing is left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.is_armed.store(false, Ordering::Release);
        loop {
            let mut outputs = VecDeque::new();
            let done = self.shared.try_flush(&self.link, &mut outputs);
            self.shared.act(outputs);
            match done {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.link.socket.poll_write_ready(cx).is_pending() {
                self.link.is_armed.store(true, Ordering::Release);
                return Poll::Pending;
            }
        }
    }

    // --- timers ---------------------------------------------------------------------------

    fn fire_timers(&mut self, cx: &mut Context<'_>) {
        if self.sleep.as_mut().poll(cx).is_pending() {
            return;
        }
        self.wakes_at = None;
        let now = self.shared.identity.now();
        let is_quiet = self.holds_buffers && self.read_at.elapsed() >= limits::QUIET_AFTER;
        {
            let mut control = self.link.control();
            control.handle_timeout(now);
            self.shared
                .with_batch(|batch| control.pump(now, batch, &mut self.link.out()));
            if is_quiet {
                control.release_memory();
            }
        }
        if is_quiet {
            self.reader.release();
            (self.runs, self.routed) = (Vec::new(), Vec::new());
            self.unsent = Unsent::default();
            self.link.out().release_memory();
            self.holds_buffers = false;
            self.account();
            has_released_memory();
        }
    }

    /// Sees to it that the link wakes for its first timer. A sleep that is too
    /// short is left as it is: timers move back with every packet, and waking in
    /// vain is cheaper.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let timeout = self.link.control().timeout();
        if let Some(wakes_at) = self.wakes_at
            && timeout.is_none_or(|at| wakes_at <= at)
        {
            return;
        }
        let now = self.shared.identity.now().mono;
        let timeout = timeout.map(|at| at.saturating_sub(now));
        let quiet = (self.holds_buffers)
            .then(|| limits::QUIET_AFTER.saturating_sub(self.read_at.elapsed()));
        let first = [timeout, quiet].into_iter().flatten().min();
        self.wakes_at = first.map(|wait| now + wait);
        self.link.set_wakes_at(self.wakes_at);
        let Some(wait) = first else {
            return;
        };
        self.sleep.as_mut().reset(Instant::now() + wait);
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

fn protocol(error: &FrameError) -> Reason {
    Reason::new(reason::PROTOCOL, error.to_string())
}
