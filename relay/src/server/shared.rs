//! What all links share: the core, and carrying out what it says.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use fairway_control::limits::LINK_HEADER;
use fairway_control::link::{CircuitId, FrameKind, Run};
use fairway_control::{Reason, reason};
use fairway_daemon::Gate;
use fairway_session::Batch;

use super::access;
use super::identity::IdentitySource;
use super::link::Link;
use super::metrics::{ClassLabel, Metrics};
use super::outbound::{Held, Outbound};
use crate::core::{Class, Core, Forward, LinkId, Output, Refusal, Settings, Who};
use crate::limits;

/// What all drivers share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    batches: Mutex<Vec<Batch>>,
    n_links: AtomicU64,
    read_bytes: AtomicUsize,
    pub(super) gate: Gate,
    pub(super) identity: IdentitySource,
    pub(super) metrics: Metrics,
}

pub(super) struct State {
    pub(super) core: Core,
    links: HashMap<LinkId, Arc<Link>>,
}

/// A run of frames on its way: to which link, on which circuit there.
pub(super) struct Routed {
    pub(super) link: Arc<Link>,
    pub(super) circuit: CircuitId,
    pub(super) kind: FrameKind,
    pub(super) n_frames: usize,
    pub(super) bytes: Bytes,
}

/// Links with frames in their queues that nobody has written yet: one write takes
/// all that a turn has for a link.
#[derive(Debug, Default)]
pub(super) struct Unsent(Vec<Arc<Link>>);

impl Unsent {
    fn add(&mut self, link: &Arc<Link>) {
        // One that is in it twice is written once: its queue is empty then.
        if self.0.last().is_none_or(|last| !Arc::ptr_eq(last, link)) {
            self.0.push(link.clone());
        }
    }
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        gate: Gate,
        identity: IdentitySource,
        metrics: Metrics,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                core: Core::new(settings),
                links: HashMap::new(),
            }),
            batches: Mutex::default(),
            n_links: AtomicU64::new(0),
            read_bytes: AtomicUsize::new(0),
            gate,
            identity,
            metrics,
        }
    }

    // --- the core --------------------------------------------------------------

    /// Tells the core something and carries out what it says.
    pub(super) fn with_core<T>(&self, tell: impl FnOnce(&mut Core) -> T) -> T {
        let mut unsent = Unsent::default();
        let answer = self.tell_core(tell, &mut unsent);
        self.write_out(&mut unsent);
        answer
    }

    /// The same, but for [`write_out`](Self::write_out).
    pub(super) fn tell_core<T>(&self, tell: impl FnOnce(&mut Core) -> T, unsent: &mut Unsent) -> T {
        let (answer, outputs) = {
            let mut state = self.state();
            (tell(&mut state.core), state.outputs())
        };
        self.carry_out(outputs, unsent);
        answer
    }

    /// A link is authenticated.
    pub(super) fn link_up(&self, link: &Arc<Link>, who: Who) -> Result<LinkId, Refusal> {
        let now = self.identity.now().mono;
        let (answer, outputs) = {
            let mut state = self.state();
            let answer = state.core.link_up(now, who);
            if let Ok(id) = answer {
                link.set_id(id);
                state.links.insert(id, link.clone());
            }
            (answer, state.outputs())
        };
        self.act(outputs);
        answer
    }

    /// A link is gone.
    pub(super) fn link_down(&self, id: LinkId, why: &Reason) {
        let now = self.identity.now().mono;
        let outputs = {
            let mut state = self.state();
            state.core.link_down(now, id, why);
            state.links.remove(&id);
            state.outputs()
        };
        self.act(outputs);
    }

    /// Finds out where runs of frames go. Carry out the outputs after the
    /// frames that were routed before them.
    pub(super) fn route(
        &self,
        from: LinkId,
        runs: impl Iterator<Item = Run>,
        routed: &mut Vec<Routed>,
    ) -> VecDeque<Output> {
        let now = self.identity.now().mono;
        let mut state = self.state();
        for run in runs {
            let (circuit, payload) = (run.circuit(), run.payload_len());
            let (kind, core) = (run.kind(), &mut state.core);
            let forward = match kind {
                FrameKind::Data => core.forward(now, from, circuit, payload),
                FrameKind::Datagram => core.forward_datagrams(now, from, circuit, payload),
                // Reading it has ended the link.
                FrameKind::Refused => Forward::Drop,
            };
            match forward {
                Forward::To(id, circuit) => {
                    if let Some(link) = state.links.get(&id) {
                        routed.push(Routed {
                            link: link.clone(),
                            circuit,
                            kind,
                            n_frames: run.frames(),
                            bytes: run.rewrite(circuit).freeze(),
                        });
                    }
                }
                Forward::Drop => {
                    self.metrics.runs_dropped.inc();
                }
            }
        }
        state.outputs()
    }

    /// All links that are up.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let state = self.state();
        let mut links: Vec<_> = state.links.values().cloned().collect();
        links.sort_by_key(|link| link.seq);
        links
    }

    /// Carries out what the core said.
    pub(super) fn act(&self, todo: VecDeque<Output>) {
        let mut unsent = Unsent::default();
        self.carry_out(todo, &mut unsent);
        self.write_out(&mut unsent);
    }

    /// The same, but for [`write_out`](Self::write_out).
    pub(super) fn carry_out(&self, todo: VecDeque<Output>, unsent: &mut Unsent) {
        for output in todo {
            match output {
                Output::Deliver(id) => {
                    if let Some(link) = self.link(id) {
                        self.deliver(&link, unsent);
                    }
                }
                Output::Discard { link, circuit } => {
                    if let Some(link) = self.link(link) {
                        self.discard(&link, circuit);
                    }
                }
                Output::CloseLink { link, reason } => {
                    if let Some(link) = self.link(link) {
                        self.close(&link, &reason, unsent);
                    }
                }
                Output::CircuitEnded(record) => access::circuit_ended(&self.metrics, &record),
                Output::CircuitRefused {
                    link,
                    destination,
                    reason,
                } => access::circuit_refused(&self.metrics, link, &destination, &reason),
                Output::NameRefused { link, name, reason } => {
                    access::name_refused(&self.metrics, link, &name, &reason);
                }
            }
        }
    }

    /// A number for a new link, in order.
    pub(super) fn number(&self) -> u64 {
        self.n_links.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What there is right now, for people and tools.
    pub(super) fn describe(&self) -> serde_json::Value {
        let state = self.state();
        let classes: serde_json::Map<_, _> = Class::ALL
            .into_iter()
            .map(|class| {
                let (links, circuits) = state.core.usage_of(class);
                let usage = serde_json::json!({ "links": links, "circuits": circuits });
                (class.name().to_owned(), usage)
            })
            .collect();
        let stats = state.core.stats();
        serde_json::json!({
            "classes": classes,
            "connections": self.gate.n_connections(),
            "half_open_links": self.gate.n_half_open(),
            "names": stats.names,
            "queued_bytes": stats.queued_bytes,
            "read_bytes": self.read_bytes.load(Ordering::Relaxed),
            "circuits_opened": stats.circuits_opened,
            "runs_dropped": stats.runs_dropped,
            "links": state.core.describe_links(limits::DEBUG_LINKS_MAX),
        })
    }

    /// Brings the gauges up to date.
    pub(super) fn measure(&self) {
        let state = self.state();
        for class in Class::ALL {
            let (links, circuits) = state.core.usage_of(class);
            let label = ClassLabel::new(class);
            self.metrics.links.get_or_create(&label).set(gauge(links));
            self.metrics
                .circuits
                .get_or_create(&label)
                .set(gauge(circuits));
        }
        let stats = state.core.stats();
        self.metrics.names.set(gauge(stats.names));
        self.metrics.queued_bytes.set(gauge(stats.queued_bytes));
        drop(state);
        self.metrics.half_open.set(gauge(self.gate.n_half_open()));
    }

    // --- links -----------------------------------------------------------------

    /// Seals the messages that wait in the core for this link.
    pub(super) fn deliver(&self, link: &Arc<Link>, unsent: &mut Unsent) {
        let Some(id) = link.id() else {
            return;
        };
        let now = self.identity.now();
        let is_driver_wanted = {
            let mut control = link.control();
            if control.waiting() < limits::CONTROL_BYTES_MAX {
                // Under the link's lock, so that messages keep their order.
                let messages = self.state().core.take_messages(id);
                for message in &messages {
                    control.send(message);
                }
            }
            self.with_batch(|batch| control.pump(now, batch, &mut link.out()));
            control.has_news() || link.would_miss(control.timeout())
        };
        if is_driver_wanted {
            link.wake();
        }
        unsent.add(link);
    }

    /// Ends a link and tells the other end why; its driver does the rest.
    pub(super) fn close(&self, link: &Arc<Link>, why: &Reason, unsent: &mut Unsent) {
        let now = self.identity.now();
        {
            let mut control = link.control();
            control.close(now, why);
            self.with_batch(|batch| control.pump(now, batch, &mut link.out()));
        }
        link.wake();
        unsent.add(link);
    }

    /// Judges the other end of a link by the newest trust set.
    pub(super) fn judge(&self, link: &Arc<Link>) {
        let identity = self.identity.current();
        let Some(trust) = identity.local.trust() else {
            return;
        };
        let now = self.identity.now();
        {
            let mut control = link.control();
            control.set_trust(now, trust);
            self.with_batch(|batch| control.pump(now, batch, &mut link.out()));
        }
        link.wake();
    }

    /// Puts frames into the queues of their links.
    pub(super) fn queue(&self, routed: &mut Vec<Routed>, unsent: &mut Unsent) {
        let mut outputs = VecDeque::new();
        let mut routed = routed.drain(..).peekable();
        while let Some(first) = routed.next() {
            let link = first.link.clone();
            let mut out = link.out();
            self.push(&mut out, first, &mut outputs);
            // Frames for one link mostly come together.
            while let Some(next) = routed.next_if(|next| Arc::ptr_eq(&next.link, &link)) {
                self.push(&mut out, next, &mut outputs);
            }
            drop(out);
            unsent.add(&link);
        }
        self.carry_out(outputs, unsent);
    }

    /// Writes what the sockets of these links take.
    pub(super) fn write_out(&self, unsent: &mut Unsent) {
        while let Some(link) = unsent.0.pop() {
            let outputs = self.flush(&link);
            self.carry_out(outputs, unsent);
        }
    }

    /// Puts frames into the queue of their link; DATAGRAMs only while few wait.
    fn push(&self, out: &mut Outbound, routed: Routed, outputs: &mut VecDeque<Output>) {
        let Routed {
            link,
            circuit,
            kind,
            n_frames,
            bytes,
        } = routed;
        if kind != FrameKind::Datagram {
            out.push(circuit, bytes);
            return;
        }
        let mut change = None;
        if !out.push_datagrams(circuit, bytes, |held| change = Some(held)) {
            self.metrics.datagrams_dropped.inc_by(n_frames as u64);
        }
        self.book(&link, change.as_slice(), outputs);
    }

    /// Writes what the link's socket takes. If it does not take all, or is
    /// broken, its driver goes on from there.
    fn flush(&self, link: &Arc<Link>) -> VecDeque<Output> {
        let mut outputs = VecDeque::new();
        let is_driver_wanted = match self.try_flush(link, &mut outputs) {
            Ok(true) => false,
            Ok(false) => !link.is_armed.load(Ordering::Acquire),
            Err(_) => true,
        };
        if is_driver_wanted {
            link.wake();
        }
        outputs
    }

    /// Writes what the link's socket takes; `true` when nothing is left.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub(super) fn try_flush(
        &self,
        link: &Link,
        outputs: &mut VecDeque<Output>,
    ) -> io::Result<bool> {
        let mut out = link.out();
        if out.is_empty() {
            return Ok(true);
        }
        let mut changes = Vec::new();
        let mut n_bytes = 0;
        let done = out.flush(
            |slices| link.socket.try_write_vectored(slices),
            |change| changes.push(change),
            &mut n_bytes,
        );
        link.bytes_out.fetch_add(n_bytes, Ordering::Relaxed);
        self.metrics.bytes_sent.inc_by(n_bytes);
        let n_dropped = link.socket.take_dropped_datagrams();
        self.metrics.datagrams_dropped.inc_by(n_dropped);
        // Still under the queue's lock, so that the books see it in order.
        self.book(link, &changes, outputs);
        done
    }

    fn discard(&self, link: &Link, circuit: CircuitId) {
        let mut out = link.out();
        let mut changes = Vec::new();
        out.discard(circuit, |change| changes.push(change));
        let mut outputs = VecDeque::new();
        self.book(link, &changes, &mut outputs);
        debug_assert!(outputs.is_empty(), "less in the books needs no action");
    }

    fn book(&self, link: &Link, changes: &[Held], outputs: &mut VecDeque<Output>) {
        let (Some(id), false) = (link.id(), changes.is_empty()) else {
            return;
        };
        let now = self.identity.now().mono;
        let mut state = self.state();
        for &(circuit, bytes, is_more) in changes {
            if is_more {
                state.core.queued(now, id, circuit, bytes);
            } else {
                state.core.drained(id, circuit, bytes);
            }
        }
        outputs.extend(state.outputs());
    }

    /// A link's read buffers take `now` bytes instead of `before`; the answer is
    /// whether all of them together take too much.
    pub(super) fn hold_for_reading(&self, before: usize, now: usize) -> bool {
        self.read_bytes.fetch_add(now, Ordering::Relaxed);
        let with_both = self.read_bytes.fetch_sub(before, Ordering::Relaxed);
        with_both - before > limits::READ_BYTES_MAX
    }

    // --- helpers ---------------------------------------------------------------------

    /// Lends a buffer for packets: idle links have none of their own.
    pub(super) fn with_batch(&self, use_it: impl FnOnce(&mut Batch)) {
        let spare = lock(&self.batches).pop();
        let mut batch = spare.unwrap_or_else(|| Batch::new(LINK_HEADER));
        use_it(&mut batch);
        batch.clear();
        let mut batches = lock(&self.batches);
        if batches.len() < limits::SPARE_BATCHES_MAX {
            batches.push(batch);
        }
    }

    fn link(&self, id: LinkId) -> Option<Arc<Link>> {
        self.state().links.get(&id).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn outputs(&mut self) -> VecDeque<Output> {
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("links", &self.links.len())
            .field("stats", &self.core.stats())
            .finish_non_exhaustive()
    }
}

/// The reason for a link whose connection is gone.
pub(super) fn lost(text: impl Into<String>) -> Reason {
    Reason::new(reason::LINK_LOST, text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while the lock is held")
}

fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
