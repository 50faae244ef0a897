//! What links ask for: names, circuits, credit.

use fairway_control::link::{CircuitId, ToEndpoint, ToRelay};
use fairway_control::{Reason, reason};
use fairway_identity::Address;

use super::circuit::{Half, Opened};
use super::output::{LinkId, Output};
use super::{Core, Time, Who};
use crate::limits;

impl Core {
    /// A link sent a control message.
    pub fn handle_message(&mut self, now: Time, id: LinkId, message: ToRelay) {
        match message {
            ToRelay::Register { names } => {
                for name in names {
                    self.register(id, name);
                }
            }
            ToRelay::Deregister { names } => {
                for name in names {
                    self.deregister(id, &name);
                }
            }
            ToRelay::Open {
                circuit,
                destination,
            } => self.open(now, id, circuit, destination),
            ToRelay::Close { circuit, reason } => self.end_circuit(now, id, circuit, &reason),
            ToRelay::Credit { circuit, max_bytes } => self.credit(now, id, circuit, max_bytes),
        }
    }

    fn register(&mut self, id: LinkId, name: Address) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let refused = if link.leaving {
            Some((reason::DRAINING, "this relay is leaving; use another"))
        } else if !link.who.may_register(&name, self.trust.as_ref()) {
            Some((
                reason::NAME_NOT_YOURS,
                "the credential does not carry this name",
            ))
        } else if !link.names.contains(&name) && link.names.len() >= limits::NAMES_PER_LINK_MAX {
            Some((reason::OVERLOADED, "too many names on one link"))
        } else if self.names.add(&name, id).is_err() {
            Some((
                reason::OVERLOADED,
                "too many links have registered this name",
            ))
        } else {
            if !link.names.contains(&name) {
                link.names.reserve_exact(1);
                link.names.push(name.clone());
            }
            None
        };
        let Some((word, text)) = refused else {
            self.send(id, ToEndpoint::Registered { name });
            return;
        };
        let reason = Reason::new(word, text);
        link.n_names_refused = link.n_names_refused.saturating_add(1);
        // Without a credential it is no surprise.
        let is_notable = matches!(link.who, Who::Verified(_));
        if is_notable && link.n_names_refused <= limits::NAME_REFUSALS_LOGGED_MAX {
            self.outputs.push_back(Output::NameRefused {
                link: id,
                name: name.clone(),
                reason: reason.clone(),
            });
        }
        self.send(id, ToEndpoint::RegisterRefused { name, reason });
    }

    fn deregister(&mut self, id: LinkId, name: &Address) {
        if let Some(link) = self.links.get_mut(&id) {
            link.names.retain(|other| other != name);
            self.names.remove(name, id);
        }
    }

    fn open(&mut self, now: Time, id: LinkId, circuit: CircuitId, destination: Address) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        if link.circuits.contains_key(&circuit) || !circuit.is_endpoints() {
            let text = "a circuit id is in use, or is not an endpoint's to pick";
            self.close_link(id, reason::PROTOCOL, text);
            return;
        }
        match self.route(now, id, &destination) {
            Ok(callee) => self.join(now, (id, circuit), callee, destination),
            Err(refused) => {
                let reason = Reason::new(refused.0, refused.1);
                self.outputs.push_back(Output::CircuitRefused {
                    link: id,
                    destination,
                    reason: reason.clone(),
                });
                self.send(id, ToEndpoint::Refused { circuit, reason });
            }
        }
    }

    /// Finds the link to join with, and takes the circuit out of the budgets.
    fn route(
        &mut self,
        now: Time,
        id: LinkId,
        destination: &Address,
    ) -> Result<(LinkId, CircuitId), (&'static str, &'static str)> {
        let link = self.links.get_mut(&id).ok_or((reason::LINK_LOST, ""))?;
        if !link.opens.take(now) {
            return Err((reason::OVERLOADED, "this link opens circuits too fast"));
        }
        let (class, budgets) = (link.class, self.settings.budgets);
        if link.leaving {
            return Err((reason::DRAINING, "this relay is leaving; use another"));
        }
        link.who.may_open(destination).map_err(|word| match word {
            reason::AUTHORITY_ONLY => (
                word,
                "without a valid credential only the authority may be called",
            ),
            _ => (word, "this kind of peer may not call that kind of name"),
        })?;
        if link.circuits.len() >= budgets.of(class).circuits_per_link {
            return Err((reason::OVERLOADED, "too many circuits on this link"));
        }
        let load = |other: LinkId| {
            let other_link = self.links.get(&other)?;
            let max = budgets.of(other_link.class).circuits_per_link;
            let n_circuits = other_link.circuits.len();
            (other != id && n_circuits < max && other_link.next_incoming.is_some())
                .then_some(n_circuits)
        };
        let callee = self.names.pick(destination, load).ok_or((
            reason::NOT_HERE,
            "nobody has registered this name at this relay",
        ))?;
        if !self.usage(class).take_circuit(now, budgets.of(class)) {
            return Err((
                reason::OVERLOADED,
                "too many circuits of this kind of peer; try again later",
            ));
        }
        let callee_link = self
            .links
            .get_mut(&callee)
            .expect("`load` has just seen it");
        let callee_circuit = callee_link.next_incoming.expect("`load` has just seen it");
        callee_link.next_incoming = callee_circuit.next();
        Ok((callee, callee_circuit))
    }

    fn join(
        &mut self,
        now: Time,
        opener: (LinkId, CircuitId),
        callee: (LinkId, CircuitId),
        destination: Address,
    ) {
        let Some(link) = self.links.get_mut(&opener.0) else {
            return;
        };
        let opened = Opened {
            class: link.class,
            destination: destination.clone(),
            at: now,
        };
        link.circuits
            .insert(opener.1, Half::new(callee, Some(opened)));
        if let Some(link) = self.links.get_mut(&callee.0) {
            link.circuits.insert(callee.1, Half::new(opener, None));
        }
        self.circuits_opened += 1;
        let circuit = callee.1;
        self.send(
            callee.0,
            ToEndpoint::Incoming {
                circuit,
                destination,
            },
        );
        self.send(opener.0, ToEndpoint::Opened { circuit: opener.1 });
    }

    fn credit(&mut self, now: Time, id: LinkId, circuit: CircuitId, max_bytes: u64) {
        let Some(other) = self.half(id, circuit).map(|half| half.other) else {
            return;
        };
        let Some(sender) = self.half(other.0, other.1) else {
            return;
        };
        match sender.grant(max_bytes) {
            Ok(true) => {
                let circuit = other.1;
                self.send(other.0, ToEndpoint::Credit { circuit, max_bytes });
            }
            Ok(false) => {}
            Err(_) => self.reset_circuit(
                now,
                id,
                circuit,
                reason::PROTOCOL,
                "more credit was granted than a window",
            ),
        }
    }
}
