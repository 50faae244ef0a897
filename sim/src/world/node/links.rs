//! Links and circuits of a node.

use super::*;

impl World {
    /// Brings up what a node lacks, now and from time to time.
    pub(in crate::world) fn tend(&mut self, node: usize) {
        let pause = Time::from_millis(self.random.random_range(250..400));
        self.plan(pause, Errand::Tend(node));
        self.model.processes.insert(self.nodes[node].instance, node);
        self.link_up_where_missing(node);
        self.attach_where_missing(node);
        self.begin_calls(node);
    }

    pub(super) fn link_up_where_missing(&mut self, node: usize) {
        let linked: BTreeSet<usize> = self.nodes[node]
            .links
            .iter()
            .filter_map(|link| self.links.get(link))
            .map(|link| link.relay)
            .collect();
        if self.nodes[node].is_device && !linked.is_empty() {
            return;
        }
        let missing: Vec<usize> = (0..self.relays.len())
            .filter(|relay| !linked.contains(relay))
            .collect();
        let wanted = match self.nodes[node].is_device {
            true => vec![missing[self.random.random_range(0..missing.len())]],
            false => missing,
        };
        for relay in wanted {
            self.link(node, relay);
        }
    }

    pub(in crate::world) fn link(&mut self, node: usize, relay: usize) {
        let link = self.last_link + 1;
        if !self.relay_accepts(relay, link, node) {
            return;
        }
        self.last_link = link;
        let lossy = !self.calm && self.random.random_bool(0.3);
        let conditions = match lossy {
            true => Conditions {
                loss: 0.1,
                // Circuits count bytes, and a link repeats none.
                duplication: 0.0,
                damage: if self.model.meddled { 0.01 } else { 0.0 },
                ..Conditions::bad()
            },
            false => Conditions {
                jitter: Time::from_millis(self.random.random_range(0..20)),
                ..Conditions::perfect()
            },
        };
        let state = Link {
            node,
            relay,
            up_at_node: true,
            up_at_relay: true,
            lossy,
            conditions,
            stalled_until: Time::ZERO,
        };
        self.links.insert(link, state);
        let state = &mut self.nodes[node];
        state.links.push(link);
        let register = ToRelay::Register {
            names: vec![state.name.clone()],
            instance: Instance(state.instance),
        };
        self.put(link, true, What::Control, encode(&register));
    }

    /// A node finds that a link is gone.
    pub(in crate::world) fn node_loses(&mut self, link: LinkNo) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        if !std::mem::replace(&mut state.up_at_node, false) {
            return;
        }
        let number = state.node;
        let node = &mut self.nodes[number];
        node.links.retain(|&other| other != link);
        node.next_circuit.remove(&link);
        let all = node
            .circuits
            .range((link, CircuitId(0))..=(link, CircuitId(u32::MAX)));
        let circuits: Vec<CircuitId> = all.map(|(&(_, circuit), _)| circuit).collect();
        for circuit in circuits {
            self.lose_circuit(number, link, circuit, reason::LINK_LOST);
        }
        self.forget_link(link);
    }

    pub(in crate::world) fn forget_link(&mut self, link: LinkNo) {
        let is_over = |link: &Link| !link.up_at_node && !link.up_at_relay;
        if self.links.get(&link).is_some_and(is_over) {
            self.links.remove(&link);
        }
    }

    pub(super) fn open_circuit(
        &mut self,
        node: usize,
        link: LinkNo,
        destination: Address,
        instance: Option<[u8; 16]>,
        leads: Leads,
    ) {
        let state = &mut self.nodes[node];
        let next = state.next_circuit.entry(link);
        let next = next.or_insert(CircuitId::FIRST_OF_ENDPOINT);
        let circuit = *next;
        *next = circuit.next().expect("few circuits");
        state.circuits.insert((link, circuit), Circuit::new(leads));
        let open = ToRelay::Open {
            circuit,
            destination,
            instance: instance.map(Instance),
        };
        self.put(link, true, What::Control, encode(&open));
    }

    pub(in crate::world) fn close_circuit(
        &mut self,
        node: usize,
        link: LinkNo,
        circuit: CircuitId,
        word: &str,
    ) {
        if self.nodes[node].circuits.contains_key(&(link, circuit)) {
            let reason = Reason::new(word, "");
            let close = ToRelay::Close { circuit, reason };
            self.put(link, true, What::Control, encode(&close));
            self.lose_circuit(node, link, circuit, "done");
        }
    }

    /// A circuit is over at this end.
    pub(super) fn lose_circuit(
        &mut self,
        number: usize,
        link: LinkNo,
        circuit: CircuitId,
        word: &str,
    ) {
        let now = self.now;
        let relay = self.links.get(&link).map(|link| link.relay);
        let node = &mut self.nodes[number];
        let Some(lost) = node.circuits.remove(&(link, circuit)) else {
            return;
        };
        let at = node.at(now);
        match lost.leads {
            Leads::Dial(_) => node.redial_at = now + RETRY,
            Leads::Here => {}
            Leads::Attach(key) => {
                let Some(held) = node.sessions.get_mut(&key) else {
                    return;
                };
                held.opening = false;
                held.retry_at = now + RETRY;
                if word == reason::OTHER_INSTANCE {
                    held.gone.extend(relay);
                }
                // A pod may have lost one of its links; a device has but one.
                let is_gone = held.gone.len() >= if node.is_device { 2 } else { 1 };
                if is_gone && held.session.active_path().is_none() {
                    let text = "the peer's process is gone";
                    held.session.close(at, Refusal::new(code::LINK_LOST, text));
                    self.dirty.insert((number, key));
                }
            }
            Leads::Session(key, path) => {
                let Some(held) = node.sessions.get_mut(&key) else {
                    return;
                };
                held.paths.remove(&path);
                held.retry_at = held.retry_at.max(now + RETRY / 8);
                if word == reason::UNKNOWN_SESSION {
                    let text = "the peer does not know the session";
                    held.session.close(at, Refusal::new(code::LINK_LOST, text));
                } else {
                    held.session.path_lost(at, path);
                }
                self.dirty.insert((number, key));
            }
        }
    }

    pub(in crate::world) fn on_message(
        &mut self,
        number: usize,
        link: LinkNo,
        message: ToEndpoint,
    ) {
        match message {
            ToEndpoint::Incoming { circuit, .. } => {
                let here = Circuit::new(Leads::Here);
                self.nodes[number].circuits.insert((link, circuit), here);
            }
            ToEndpoint::Opened { circuit } => self.on_opened(number, link, circuit),
            ToEndpoint::Refused { circuit, reason } | ToEndpoint::Closed { circuit, reason } => {
                self.lose_circuit(number, link, circuit, reason.word());
            }
            ToEndpoint::Credit { circuit, max_bytes } => {
                let node = &mut self.nodes[number];
                if let Some(state) = node.circuits.get_mut(&(link, circuit)) {
                    state.send.raise(max_bytes);
                    if let Leads::Session(key, _) = state.leads {
                        self.dirty.insert((number, key));
                    }
                }
            }
            ToEndpoint::Move { circuit } => {
                let circuit = self.nodes[number].circuits.get(&(link, circuit));
                if let Some(Leads::Session(key, _)) = circuit.map(|circuit| circuit.leads.clone())
                    && let Some(held) = self.nodes[number].sessions.get_mut(&key)
                {
                    held.wants_move = true;
                }
            }
            ToEndpoint::Registered { .. }
            | ToEndpoint::RegisterRefused { .. }
            | ToEndpoint::Drain => {}
        }
    }

    /// A circuit that was asked for is there.
    pub(super) fn on_opened(&mut self, number: usize, link: LinkNo, circuit: CircuitId) {
        let (now, seed) = (self.now, self.random.random());
        let node = &mut self.nodes[number];
        let at = node.at(now);
        let Some(state) = node.circuits.get_mut(&(link, circuit)) else {
            return;
        };
        let (key, path) = match state.leads.clone() {
            Leads::Dial(name) => {
                let (local, rules) = (node.local.clone(), node.rules.clone());
                let session = Session::dial(config(), local, rules, name.clone(), seed, at);
                let session = session.expect("the name fits");
                node.last_session += 1;
                let held = Held::new(session, Some(name), now);
                node.sessions.insert(node.last_session, held);
                (node.last_session, PathId::FIRST)
            }
            Leads::Attach(key) => {
                let Some(held) = node.sessions.get_mut(&key) else {
                    return self.close_circuit(number, link, circuit, "done");
                };
                held.opening = false;
                held.gone.clear();
                let path = held.fresh_path();
                if held.session.attach(at, path).is_err() {
                    return self.close_circuit(number, link, circuit, "done");
                }
                (key, path)
            }
            Leads::Here | Leads::Session(..) => return,
        };
        state.leads = Leads::Session(key, path);
        if let Some(held) = node.sessions.get_mut(&key) {
            held.paths.insert(path, (link, circuit));
        }
        self.dirty.insert((number, key));
    }

    pub(in crate::world) fn on_data(
        &mut self,
        number: usize,
        link: LinkNo,
        circuit: CircuitId,
        packet: Vec<u8>,
    ) {
        let node = &mut self.nodes[number];
        let now = self.now;
        let Some(state) = node.circuits.get_mut(&(link, circuit)) else {
            return;
        };
        // A meddling relay repeats packets, and a bad link does.
        let _ = state.receive.receive(packet.len());
        if let Some(max_bytes) = state.receive.consume(now, packet.len()) {
            let credit = ToRelay::Credit { circuit, max_bytes };
            self.put(link, true, What::Control, encode(&credit));
        }
        if let Some((key, path)) = self.session_for(number, link, circuit, &packet) {
            let node = &mut self.nodes[number];
            let at = node.at(self.now);
            if let Some(held) = node.sessions.get_mut(&key) {
                let packet = BytesMut::from(&packet[..]);
                held.session.handle_input(at, path, packet);
                self.dirty.insert((number, key));
            }
        }
    }

    /// Whose packet it is. The first of a circuit decides.
    pub(super) fn session_for(
        &mut self,
        number: usize,
        link: LinkNo,
        circuit: CircuitId,
        packet: &[u8],
    ) -> Option<(SessionKey, PathId)> {
        let (now, seed) = (self.now, self.random.random());
        let node = &mut self.nodes[number];
        let at = node.at(now);
        let state = node.circuits.get_mut(&(link, circuit))?;
        match state.leads.clone() {
            Leads::Session(key, path) => return Some((key, path)),
            Leads::Dial(_) | Leads::Attach(_) => return None,
            Leads::Here => {}
        }
        let (key, path) = match peek_attach(packet) {
            Some(id) => {
                let Some(&key) = node.by_id.get(&id) else {
                    self.close_circuit(number, link, circuit, reason::UNKNOWN_SESSION);
                    return None;
                };
                (key, node.sessions.get_mut(&key)?.fresh_path())
            }
            // Over a bad link another packet may come before the first.
            None if packet.first() != Some(&1) => return None,
            None => {
                let (local, rules) = (node.local.clone(), node.rules.clone());
                let names = [node.name.clone()].into();
                let session = Session::answer(config(), local, rules, names, seed, at);
                let session = session.expect("it has a credential");
                node.last_session += 1;
                let held = Held::new(session, None, now);
                node.sessions.insert(node.last_session, held);
                (node.last_session, PathId::FIRST)
            }
        };
        state.leads = Leads::Session(key, path);
        if let Some(held) = node.sessions.get_mut(&key) {
            held.paths.insert(path, (link, circuit));
        }
        Some((key, path))
    }
}

impl Circuit {
    fn new(leads: Leads) -> Self {
        Self {
            send: SendCredit::new(),
            receive: ReceiveCredit::new(),
            leads,
        }
    }
}
