//! The control stream of a link to a relay: names, circuits, credit.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fairway_channel::{PathId, ReadOutcome, StreamId, peek_attach};
use fairway_control::link::{CircuitId, Instance, Run, ToEndpoint, ToRelay};
use fairway_control::{FrameReader, Reason, frame, reason};
use fairway_identity::Address;
use fairway_session::OpenRequest;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::circuit::Circuit;
use super::driver::{Driver, LinkEnd};
use super::shared::{Command, LinkState};
use crate::conn::{Conn, Gone, lost};
use crate::limits::{
    CIRCUITS_PER_LINK_MAX, HALF_OPEN_CIRCUITS_MAX, HANDSHAKE_TIMEOUT, LINK_CONTROL_OUTPUT_MAX,
    REGISTER_RETRY,
};
use crate::transport::LinkIo;

/// What is under way on the control stream.
pub(super) struct LinkControl {
    instance: Instance,
    stream: Option<StreamId>,
    input: FrameReader,
    output: BytesMut,
    /// The stream takes no more for now.
    is_full: bool,
    wanted: Arc<[Address]>,
    /// Asked for, or granted already.
    asked: BTreeSet<Address>,
    registered: BTreeSet<Address>,
    /// When to ask again for what was refused.
    retry_at: Option<Instant>,
}

impl LinkControl {
    pub(super) fn new(instance: Instance) -> Self {
        Self {
            instance,
            stream: None,
            input: FrameReader::new(),
            output: BytesMut::new(),
            is_full: false,
            wanted: Arc::default(),
            asked: BTreeSet::new(),
            registered: BTreeSet::new(),
            retry_at: None,
        }
    }

    pub(super) fn is_on(&self, stream: StreamId) -> bool {
        self.stream == Some(stream)
    }

    pub(super) fn has_output(&self) -> bool {
        self.stream.is_some() && !self.output.is_empty() && !self.is_full
    }

    pub(super) fn credit(&mut self, circuit: CircuitId, max_bytes: u64) {
        self.send(&ToRelay::Credit { circuit, max_bytes });
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Asks again for names that were refused, when it is time.
    pub(super) fn retry_refused(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.ask_for_names();
        }
    }

    fn send(&mut self, message: &ToRelay) {
        let bytes = frame(message).expect("our own link control messages are within the limits");
        self.output.extend_from_slice(&bytes);
    }

    fn want(&mut self, names: Arc<[Address]>) {
        self.wanted = names;
        if self.stream.is_some() {
            self.ask_for_names();
        }
    }

    /// Brings what is registered to what is wanted.
    fn ask_for_names(&mut self) {
        let wanted: BTreeSet<Address> = self.wanted.iter().cloned().collect();
        let new: Vec<_> = wanted.difference(&self.asked).cloned().collect();
        let gone: Vec<_> = self.asked.difference(&wanted).cloned().collect();
        self.asked = wanted;
        for name in &gone {
            self.registered.remove(name);
        }
        if !gone.is_empty() {
            self.send(&ToRelay::Deregister { names: gone });
        }
        if !new.is_empty() {
            let (names, instance) = (new, self.instance);
            self.send(&ToRelay::Register { names, instance });
        }
    }
}

impl<IO: LinkIo> Driver<IO> {
    pub(super) fn on_command(&mut self, command: Command) -> Result<(), LinkEnd> {
        match command {
            Command::Open {
                circuit,
                destination,
                instance,
                conn,
                reply,
            } => self.open_circuit(circuit, destination, instance, conn, reply),
            Command::Attach {
                circuit,
                conn,
                path,
            } => match self.circuits.get_mut(&circuit.0) {
                Some(known) => {
                    known.conn = Some((conn, path));
                    self.make_ready(circuit.0);
                }
                None => {
                    let why = lost("the circuit was closed before it was used");
                    self.node.path_gone(&conn, path, &Gone::from(&why));
                }
            },
            Command::Abandon(circuit) => {
                self.close_circuit(circuit.0, "cancelled", "the caller went away");
            }
            Command::Names(names) => {
                self.control.want(names);
                self.publish_names();
                self.write_control();
            }
            Command::Leave(circuit) => {
                self.close_circuit(
                    circuit.0,
                    "moved",
                    "the session has moved to another circuit",
                );
            }
            Command::Doubt => self.doubt(),
            Command::Drain => self.drain(),
        }
        Ok(())
    }

    /// Circuit 0's session with the relay is there.
    pub(super) fn open_control(&mut self) -> Result<(), LinkEnd> {
        let conn = self.link_conn();
        let stream = conn
            .open_for_driver(&OpenRequest::control())
            .map_err(LinkEnd::Session)?;
        self.control.stream = Some(stream);
        self.control.ask_for_names();
        self.write_control();
        Ok(())
    }

    pub(super) fn read_control(&mut self, stream: StreamId) -> Result<(), LinkEnd> {
        if !self.control.is_on(stream) {
            return Ok(());
        }
        let conn = self.link_conn();
        loop {
            match conn.driver_read(stream).map_err(LinkEnd::Session)? {
                ReadOutcome::Chunk(chunk) => {
                    self.control.input.push(&chunk);
                    self.on_control_input()?;
                }
                ReadOutcome::Empty => break,
                ReadOutcome::Finished => {
                    return Err(LinkEnd::Control("the relay ended it".to_owned()));
                }
            }
        }
        // Reading gave credit back.
        self.make_ready(0);
        Ok(())
    }

    /// Writes as much as the control stream takes.
    pub(super) fn write_control(&mut self) {
        let Some(stream) = self.control.stream else {
            return;
        };
        if self.control.output.is_empty() {
            return;
        }
        let mut bytes: Bytes = self.control.output.split().freeze();
        // An error is a session that is over, which the driver hears of by itself.
        let _ = self.link_conn().driver_write(stream, &mut bytes);
        self.control.is_full = !bytes.is_empty();
        self.control.output = BytesMut::from(bytes);
        self.make_ready(0);
    }

    /// The control stream takes more again.
    pub(super) fn on_control_writable(&mut self) {
        self.control.is_full = false;
        self.write_control();
    }

    /// The relay does not read what it is told.
    pub(super) fn check_control(&self) -> Result<(), LinkEnd> {
        if self.control.output.len() > LINK_CONTROL_OUTPUT_MAX {
            return Err(LinkEnd::Control("the relay does not read it".to_owned()));
        }
        Ok(())
    }

    /// Takes a circuit away and tells the relay.
    pub(super) fn close_circuit(&mut self, id: u32, word: &str, text: &str) {
        if id == 0 {
            return;
        }
        if let Some(circuit) = self.take_circuit(id) {
            if let Some((conn, path)) = circuit.conn {
                self.node.path_gone(&conn, path, &Gone::from(&lost(text)));
            }
            let reason = Reason::new(word, text);
            self.control.send(&ToRelay::Close {
                circuit: CircuitId(id),
                reason,
            });
        }
    }

    fn on_control_input(&mut self) -> Result<(), LinkEnd> {
        let bad = |e: fairway_control::DecodeError| LinkEnd::Control(e.to_string());
        while let Some(message) = self
            .control
            .input
            .next_message::<ToEndpoint>()
            .map_err(bad)?
        {
            self.on_message(message)?;
        }
        Ok(())
    }

    fn on_message(&mut self, message: ToEndpoint) -> Result<(), LinkEnd> {
        match message {
            ToEndpoint::Registered { name } => {
                if self.control.asked.contains(&name) {
                    self.control.registered.insert(name);
                    self.publish_names();
                }
            }
            ToEndpoint::RegisterRefused { name, reason } => {
                tracing::warn!(event = "register-refused", relay = %self.shared.remote, %name, reason = reason.word(), "{reason}");
                self.control.asked.remove(&name);
                self.control.registered.remove(&name);
                self.control.retry_at = Some(Instant::now() + REGISTER_RETRY);
                self.publish_names();
            }
            ToEndpoint::Incoming {
                circuit,
                destination,
            } => self.on_incoming(circuit, destination),
            ToEndpoint::Opened { circuit } => self.on_opened(circuit),
            ToEndpoint::Refused { circuit, reason } | ToEndpoint::Closed { circuit, reason } => {
                // The peer's last words may have come in the same read.
                self.hear_out(circuit.0)?;
                self.on_circuit_over(circuit, reason);
            }
            ToEndpoint::Credit { circuit, max_bytes } => {
                if let Some(known) = self.circuits.get_mut(&circuit.0) {
                    known.send.raise(max_bytes);
                    self.make_ready(circuit.0);
                }
            }
            ToEndpoint::Move { circuit } => self.on_move(circuit),
            ToEndpoint::Drain => {
                // The keeper of this link makes another and then drains this one.
                self.shared.set_state(LinkState::Draining);
                self.move_own_sessions();
            }
        }
        Ok(())
    }

    fn open_circuit(
        &mut self,
        circuit: CircuitId,
        destination: Address,
        instance: Option<Instance>,
        conn: Option<Arc<Conn>>,
        reply: oneshot::Sender<Result<(), Reason>>,
    ) {
        if self.draining
            || self.control.stream.is_none()
            || self.circuits.len() >= CIRCUITS_PER_LINK_MAX
        {
            let word = if self.draining {
                reason::DRAINING
            } else {
                reason::OVERLOADED
            };
            let _ = reply.send(Err(Reason::new(word, "this link takes no more circuits")));
            return;
        }
        self.control.send(&ToRelay::Open {
            circuit,
            destination,
            instance,
        });
        let mut entry = Circuit::new(conn.map(|conn| (conn, PathId::FIRST)));
        entry.reply = Some(reply);
        self.circuits.insert(circuit.0, entry);
        self.write_control();
        self.make_ready(circuit.0);
    }

    /// A circuit comes in. Nothing is made for it before its first packet.
    fn on_incoming(&mut self, circuit: CircuitId, destination: Address) {
        let id = circuit.0;
        if self.circuits.contains_key(&id) {
            return;
        }
        if self.circuits.len() >= CIRCUITS_PER_LINK_MAX || self.draining {
            let reason = Reason::new(reason::OVERLOADED, "no more circuits here");
            self.control.send(&ToRelay::Close { circuit, reason });
            return;
        }
        self.make_place();
        let mut entry = Circuit::new(None);
        entry.dialled = Some(destination);
        entry.is_half_open = true;
        self.n_half_open += 1;
        if self.half_open.len() >= 4 * HALF_OPEN_CIRCUITS_MAX {
            // Most have shown themselves, or gone, long before their time.
            let circuits = &self.circuits;
            self.half_open
                .retain(|(_, id)| circuits.get(id).is_some_and(|circuit| circuit.is_half_open));
        }
        self.half_open
            .push_back((Instant::now() + HANDSHAKE_TIMEOUT, id));
        self.circuits.insert(id, entry);
    }

    /// The first packets of a circuit that came in: of a new session, or of one
    /// that comes back.
    pub(super) fn meet(&mut self, id: u32, mut run: Run) {
        let Some(circuit) = self.circuits.get_mut(&id) else {
            return;
        };
        // A circuit of ours that nothing was sent on: there is no answer yet.
        let (Some(dialled), Some(first)) = (circuit.dialled.clone(), run.next_payload()) else {
            return;
        };
        let link = self.shared.clone();
        let met = match peek_attach(&first) {
            Some(connection) => self.node.returning(&connection, link, id),
            None => {
                let answered = self.node.answer(link, id, &dialled);
                answered.map(|conn| (conn, PathId::FIRST))
            }
        };
        match met {
            Ok((conn, path)) => {
                let rest = std::iter::from_fn(|| run.next_payload());
                conn.input(self.now, path, std::iter::once(first).chain(rest));
                circuit.conn = Some((conn, path));
                self.make_ready(id);
            }
            Err(reason) => self.close_circuit(id, reason.word(), reason.text()),
        }
    }

    /// Closes circuits whose dialler has not shown in time who they are.
    pub(super) fn give_up_half_open(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.half_open.front()
            && at <= now
        {
            self.half_open.pop_front();
            if self.circuit_is_half_open(id) {
                let text = "whoever opened the circuit has not shown who they are";
                self.close_circuit(id, "handshake-timeout", text);
            }
        }
    }

    /// The oldest gives way: whoever means to show who they are does so soon,
    /// and a crowd that says nothing cannot keep others out.
    fn make_place(&mut self) {
        while self.n_half_open >= HALF_OPEN_CIRCUITS_MAX
            && let Some((_, id)) = self.half_open.pop_front()
        {
            if self.circuit_is_half_open(id) {
                let text = "others needed its place before its dialler showed who they are";
                self.close_circuit(id, reason::OVERLOADED, text);
            }
        }
    }

    /// Whether its dialler has still not shown who they are.
    fn circuit_is_half_open(&mut self, id: u32) -> bool {
        let Some(circuit) = self.circuits.get_mut(&id) else {
            return false;
        };
        // A session that came back has shown itself to its session.
        let known = circuit.conn.as_ref();
        let is_proven = known.is_some_and(|(conn, path)| conn.is_proven(*path));
        if is_proven && std::mem::take(&mut circuit.is_half_open) {
            self.n_half_open -= 1;
        }
        circuit.is_half_open
    }

    /// No new circuits, and those that there are move; closes with the last one.
    fn drain(&mut self) {
        self.draining = true;
        self.control.want(Arc::default());
        self.shared.set_state(LinkState::Draining);
        let incoming = self.circuits.keys().copied().map(CircuitId);
        let incoming: Vec<_> = incoming.filter(|circuit| circuit.is_relays()).collect();
        for circuit in incoming {
            self.control.send(&ToRelay::Move { circuit });
        }
        self.move_own_sessions();
        self.write_control();
    }

    /// This link is about to go: sessions that this side dialled look for
    /// another circuit.
    pub(super) fn move_own_sessions(&mut self) {
        for circuit in self.circuits.values() {
            if let Some((conn, _)) = &circuit.conn
                && conn.outgoing
                && conn.wants_path()
            {
                self.node.look_after(conn);
            }
        }
    }

    /// The callee of this circuit is about to leave it.
    fn on_move(&mut self, circuit: CircuitId) {
        let known = self.circuits.get(&circuit.0);
        if let Some((conn, path)) = known.and_then(|circuit| circuit.conn.clone())
            && conn.outgoing
        {
            conn.ask_to_move(path);
            self.node.look_after(&conn);
        }
    }

    fn on_opened(&mut self, circuit: CircuitId) {
        let Some(known) = self.circuits.get_mut(&circuit.0) else {
            return;
        };
        let Some(reply) = known.reply.take() else {
            return;
        };
        if reply.send(Ok(())).is_err() {
            self.close_circuit(circuit.0, "cancelled", "the caller went away");
        }
    }

    fn on_circuit_over(&mut self, circuit: CircuitId, reason: Reason) {
        let Some(over) = self.take_circuit(circuit.0) else {
            return;
        };
        if let Some((conn, path)) = over.conn {
            self.node.path_gone(&conn, path, &Gone::from(&reason));
        }
        if let Some(reply) = over.reply {
            let _ = reply.send(Err(reason));
        }
    }

    pub(super) fn publish_names(&self) {
        if self.control.stream.is_some() && !self.draining {
            let registered = self.control.registered.iter().cloned().collect();
            self.shared.set_state(LinkState::Up { registered });
        }
    }

    pub(super) fn link_conn(&self) -> Arc<Conn> {
        let link = self
            .circuits
            .get(&0)
            .and_then(|circuit| circuit.conn.clone());
        link.expect("circuit 0 is there as long as the link").0
    }
}
