//! The apps of a node: they read and write what the model says.

use super::*;
use crate::world::Model;

/// Which call a stream is for.
pub(super) fn call_of(open: &OpenRequest) -> Option<usize> {
    open.traceparent
        .as_ref()?
        .strip_prefix("call-")?
        .parse()
        .ok()
}

impl World {
    /// Opens streams for the calls of a node whose time has come.
    pub(in crate::world) fn begin_calls(&mut self, number: usize) {
        let now = self.now;
        for call in 0..self.model.calls.len() {
            let state = &self.model.calls[call];
            if state.from != number || state.state != State::Waiting || state.begins > now {
                continue;
            }
            let name = match state.to {
                Callee::Service => "broker.factory.svc.fairway.internal".to_owned(),
                Callee::Device(device) => format!("pump-{device}.factory.device.fairway.internal"),
            };
            self.begin_call(number, call, &name.parse().expect("an address"));
        }
    }

    pub(super) fn begin_call(&mut self, number: usize, call: usize, name: &Address) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let at = node.at(now);
        let mut sessions = node.sessions.iter_mut();
        if let Some((&key, held)) = sessions.find(|(_, held)| held.dials.as_ref() == Some(name)) {
            let trace = Some(format!("call-{call}"));
            let request = OpenRequest::port(PORT).with_traceparent(trace);
            match held.session.open(at, &request) {
                Ok(stream) => {
                    held.calls.insert(stream, (call, 0));
                    self.model.calls[call].state = State::Open(key, stream);
                    self.dirty.insert((number, key));
                }
                Err(OpenError::NotEstablished | OpenError::Channel(_)) => {}
                Err(error) => panic!("{error}"),
            }
            return;
        }
        let mut circuits = node.circuits.values();
        let is_dialled =
            |circuit: &Circuit| matches!(&circuit.leads, Leads::Dial(to) if to == name);
        if circuits.any(is_dialled) || now < node.redial_at || node.links.is_empty() {
            return;
        }
        let link = node.links[self.random.random_range(0..node.links.len())];
        self.open_circuit(number, link, name.clone(), None, Leads::Dial(name.clone()));
    }

    /// An app that slept reads and writes again.
    pub(in crate::world) fn run_apps(&mut self, number: usize) {
        let keys: Vec<SessionKey> = self.nodes[number].sessions.keys().copied().collect();
        self.dirty.extend(keys.into_iter().map(|key| (number, key)));
    }

    /// Reads and writes on the streams of a session. Whether anything moved.
    pub(super) fn use_streams(&mut self, number: usize, key: SessionKey) -> bool {
        let node = &mut self.nodes[number];
        if node.apps_sleep_until > self.now {
            return false;
        }
        let at = node.at(self.now);
        let Some(held) = node.sessions.get_mut(&key) else {
            return false;
        };
        let waiting = held
            .session
            .stats()
            .stream_bytes_in
            .saturating_sub(held.read);
        assert!(waiting <= MEMORY, "{waiting} bytes wait to be read");
        let mut moved = false;
        for (stream, (call, side)) in held.calls.clone() {
            moved |= write(&mut self.model, held, at, stream, call, side);
            moved |= read(&mut self.model, held, at, stream, (call, 1 - side), number);
        }
        moved
    }
}

fn write(
    model: &mut Model,
    held: &mut Held,
    at: Now,
    stream: StreamId,
    call: usize,
    side: usize,
) -> bool {
    let flow = &mut model.calls[call].flows[side];
    let mut moved = false;
    while flow.written < flow.to_write {
        let end = flow.to_write.min(flow.written + 5_000);
        let piece = bytes_at(call, side, flow.written, (end - flow.written) as usize);
        match held.session.write(at, stream, &mut Bytes::from(piece)) {
            Ok(0) => return moved,
            Ok(taken) => flow.written += taken as u64,
            Err(_) => return moved,
        }
        moved = true;
    }
    if !flow.finished && held.session.finish(at, stream).is_ok() {
        flow.finished = true;
        moved = true;
    }
    moved
}

/// Reads what the other side wrote.
fn read(
    model: &mut Model,
    held: &mut Held,
    at: Now,
    stream: StreamId,
    (call, side): (usize, usize),
    reader: usize,
) -> bool {
    let mut moved = false;
    while !model.calls[call].flows[side].ended {
        match held.session.read(at, stream) {
            Ok(ReadOutcome::Chunk(chunk)) => {
                model.on_read(call, side, reader, &chunk);
                held.read += chunk.len() as u64;
                moved = true;
            }
            Ok(ReadOutcome::Finished) => {
                model.on_end(call, side);
                return true;
            }
            Ok(ReadOutcome::Empty) | Err(StreamError::Unknown | StreamError::NotAccepted) => break,
            // The event says why.
            Err(StreamError::Reset(_) | StreamError::Stopped(_) | StreamError::Ended) => break,
        }
    }
    moved
}
