//! What links ask for: names, circuits, credit.

use std::collections::HashMap;

use fairway_control::link::{CircuitId, Instance, ToEndpoint, ToRelay};
use fairway_control::{Reason, reason};
use fairway_identity::Address;

use super::circuit::{Half, Opened};
use super::names::{Fitness, Miss};
use super::output::{LinkId, Output};
use super::{Core, Time, Who};
use crate::limits;

impl Core {
    /// A link sent a control message.
    pub fn handle_message(&mut self, now: Time, id: LinkId, message: ToRelay) {
        match message {
            ToRelay::Register { names, instance } => {
                if self.may_change_names(now, id, names.len()) && self.is_instance(id, instance) {
                    for name in names {
                        self.register(id, name);
                    }
                }
            }
            ToRelay::Deregister { names } => {
                if self.may_change_names(now, id, names.len()) {
                    for name in names {
                        self.deregister(id, &name);
                    }
                }
            }
            ToRelay::Open {
                circuit,
                destination,
                instance,
            } => self.open(now, id, circuit, destination, instance),
            ToRelay::Close { circuit, reason } => self.end_circuit(now, id, circuit, &reason),
            ToRelay::Credit { circuit, max_bytes } => self.credit(now, id, circuit, max_bytes),
            ToRelay::Move { circuit } => self.ask_to_move(id, circuit),
        }
    }

    /// Whether a link may register or deregister so many names now; one that
    /// does nothing else is closed.
    fn may_change_names(&mut self, now: Time, id: LinkId, n_names: usize) -> bool {
        let Some(link) = self.links.get_mut(&id) else {
            return false;
        };
        let may = (0..n_names).all(|_| link.name_changes.take(now));
        if !may {
            let text = "this link registers names without end";
            self.close_link(id, reason::OVERLOADED, text);
        }
        may
    }

    /// Books the instance of a link; a link has one.
    fn is_instance(&mut self, id: LinkId, instance: Instance) -> bool {
        let Some(link) = self.links.get_mut(&id) else {
            return false;
        };
        let is_it = *link.instance.get_or_insert(instance) == instance;
        if !is_it {
            let text = "a link is of one instance";
            self.close_link(id, reason::PROTOCOL, text);
        }
        is_it
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

    fn open(
        &mut self,
        now: Time,
        id: LinkId,
        circuit: CircuitId,
        destination: Address,
        instance: Option<Instance>,
    ) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        if link.circuits.contains_key(&circuit) || !circuit.is_endpoints() {
            let text = "a circuit id is in use, or is not an endpoint's to pick";
            self.close_link(id, reason::PROTOCOL, text);
            return;
        }
        match self.route(now, id, &destination, instance) {
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
        instance: Option<Instance>,
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
        let callee = self.pick(id, destination, instance)?;
        if self.has_its_share(id, callee) {
            let text = "too many circuits between these two; close some";
            return Err((reason::OVERLOADED, text));
        }
        if !self.usage(class).take_circuit(now, budgets.of(class)) {
            return Err((
                reason::OVERLOADED,
                "too many circuits of this kind of peer; try again later",
            ));
        }
        let callee_link = self
            .links
            .get_mut(&callee)
            .expect("it has just been picked");
        let callee_circuit = callee_link
            .next_incoming
            .expect("links without a next circuit are not picked");
        callee_link.next_incoming = callee_circuit.next();
        Ok((callee, callee_circuit))
    }

    /// Picks the link for a circuit that `id` wants.
    fn pick(
        &self,
        id: LinkId,
        destination: &Address,
        instance: Option<Instance>,
    ) -> Result<LinkId, (&'static str, &'static str)> {
        let look = |other: LinkId| {
            let link = match self.links.get(&other) {
                Some(link) if other != id => link,
                Some(_) | None => return Fitness::Other,
            };
            if instance.is_some() && instance != link.instance {
                return Fitness::Other;
            }
            let max = self.settings.budgets.of(link.class).circuits_per_link;
            let load = link.circuits.len();
            // One that does not take its messages is not sent more of them:
            // it would be closed for what others do.
            if load >= max
                || link.messages.len() >= limits::MESSAGES_BASE_MAX
                || link.next_incoming.is_none()
            {
                return Fitness::Full;
            }
            Fitness::Fit { load }
        };
        let picked = self.names.pick(destination, instance.is_some(), look);
        picked.map_err(|miss| match miss {
            // Without an instance, the only other is the caller itself.
            Miss::OtherInstance if instance.is_some() => (
                reason::OTHER_INSTANCE,
                "the name is registered at this relay, but not by this instance",
            ),
            Miss::NotHere | Miss::OtherInstance => (
                reason::NOT_HERE,
                "nobody has registered this name at this relay",
            ),
            Miss::Full => (
                reason::OVERLOADED,
                "whoever has this name takes no more circuits; try again later",
            ),
        })
    }

    /// Whether an identity has as many circuits to one link as it may, so that
    /// one caller cannot use up what a callee has for all.
    fn has_its_share(&self, opener: LinkId, callee: LinkId) -> bool {
        let Some(uid) = self.links.get(&opener).and_then(|link| link.who.uid()) else {
            // The budget of a link without a credential is smaller still.
            return false;
        };
        let siblings = self.identities.get(uid).map_or(&[][..], Vec::as_slice);
        let circuits = |link: &LinkId| self.links.get(link).map(|link| &link.circuits);
        let n_own: usize = siblings.iter().filter_map(circuits).map(HashMap::len).sum();
        if n_own < limits::CIRCUITS_PER_PAIR_MAX {
            return false;
        }
        // The shorter of the two ways to count.
        let callee_circuits = circuits(&callee).map_or(0, HashMap::len);
        let n_between = if callee_circuits <= n_own {
            let halves = circuits(&callee).into_iter().flat_map(HashMap::values);
            halves
                .filter(|half| siblings.contains(&half.other.0))
                .count()
        } else {
            let halves = siblings
                .iter()
                .filter_map(circuits)
                .flat_map(HashMap::values);
            halves.filter(|half| half.other.0 == callee).count()
        };
        n_between >= limits::CIRCUITS_PER_PAIR_MAX
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
        let opened_by = link.class;
        let opened = Opened {
            class: opened_by,
            destination: destination.clone(),
            at: now,
            is_asked_to_move: false,
        };
        link.circuits
            .insert(opener.1, Half::new(callee, Some(opened)));
        self.idle.remove(&(opened_by, opener.0));
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

    /// The callee of a circuit is about to leave its link: the opener is told.
    fn ask_to_move(&mut self, id: LinkId, circuit: CircuitId) {
        let Some((link, circuit)) = self.half(id, circuit).map(|half| half.other) else {
            return;
        };
        // Once for each circuit, and only to who opened it: nobody can be
        // kept busy by it.
        let is_news = self
            .half(link, circuit)
            .and_then(|half| half.opened.as_mut())
            .is_some_and(|opened| !std::mem::replace(&mut opened.is_asked_to_move, true));
        if is_news {
            self.send(link, ToEndpoint::Move { circuit });
        }
    }
}
