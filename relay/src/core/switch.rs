//! [`Core`]: the switchboard itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use fairway_control::link::{CircuitId, Instance, ToEndpoint};
use fairway_control::{Reason, reason};
use fairway_daemon::TokenBucket;
use fairway_identity::{Address, RevocationList, Uid, VerifiedTrustSet};

use super::budget::{Budgets, Class, Usage};
use super::circuit::{CircuitRecord, Half};
use super::drain::Drain;
use super::memory::{Memory, MemoryLimits};
use super::names::Names;
use super::output::{LinkDescription, LinkId, Output, Refusal, Stats};
use super::{Time, Who};
use crate::limits;

/// What a core is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What each kind of peer may use.
    pub budgets: Budgets,
    /// How much may wait for slow links.
    pub memory: MemoryLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budgets: limits::BUDGETS,
            memory: MemoryLimits::default(),
        }
    }
}

/// All links, names and circuits of one relay. The [module docs](super) have
/// the contract.
pub struct Core {
    pub(super) settings: Settings,
    pub(super) trust: Option<VerifiedTrustSet>,
    pub(super) revoked: Arc<RevocationList>,
    pub(super) links: BTreeMap<LinkId, Box<Link>>,
    pub(super) last_link: u64,
    /// The links of each identity, the oldest first.
    pub(super) identities: HashMap<Uid, Vec<LinkId>>,
    pub(super) names: Names,
    pub(super) usage: BTreeMap<Class, Usage>,
    pub(super) memory: Memory,
    /// When links of limited lifetime end.
    pub(super) deadlines: BTreeSet<(Time, LinkId)>,
    /// Links of limited lifetime that have no circuit, the oldest first: they
    /// give way to others of their class.
    pub(super) idle: BTreeSet<(Class, LinkId)>,
    pub(super) drain: Option<Drain>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) runs_dropped: u64,
    pub(super) circuits_opened: u64,
}

/// One link, as the core sees it.
pub(super) struct Link {
    pub(super) who: Who,
    pub(super) class: Class,
    pub(super) deadline: Option<Time>,
    /// Few; a vector is the smallest.
    pub(super) names: Vec<Address>,
    pub(super) circuits: HashMap<CircuitId, Half>,
    /// The process at the other end, once it has registered.
    pub(super) instance: Option<Instance>,
    pub(super) opens: TokenBucket,
    pub(super) name_changes: TokenBucket,
    /// The next id that we pick.
    pub(super) next_incoming: Option<CircuitId>,
    pub(super) messages: VecDeque<ToEndpoint>,
    /// It was told to move, or is being closed: nothing new goes to it.
    pub(super) leaving: bool,
    pub(super) n_names_refused: u32,
    /// The shell was told to close it.
    closing: bool,
}

impl Link {
    fn describe(&self, id: LinkId) -> LinkDescription {
        LinkDescription {
            link: id.number(),
            peer: self.who.to_string(),
            names: self.names.iter().map(ToString::to_string).collect(),
            circuits: self.circuits.len(),
            leaving: self.leaving,
        }
    }
}

impl Core {
    /// A core without links. Nothing can be registered before
    /// [`set_trust`](Self::set_trust).
    pub fn new(settings: Settings) -> Self {
        let usage = |class| (class, Usage::new(settings.budgets.of(class)));
        Self {
            settings,
            trust: None,
            revoked: Arc::default(),
            links: BTreeMap::new(),
            last_link: 0,
            identities: HashMap::new(),
            names: Names::default(),
            usage: Class::ALL.into_iter().map(usage).collect(),
            memory: Memory::default(),
            deadlines: BTreeSet::new(),
            idle: BTreeSet::new(),
            drain: None,
            outputs: VecDeque::new(),
            runs_dropped: 0,
            circuits_opened: 0,
        }
    }

    // --- links ---------------------------------------------------------------

    /// A link's session is established.
    ///
    /// # Errors
    ///
    /// Says why the link is not wanted: close it with that reason.
    pub fn link_up(&mut self, now: Time, who: Who) -> Result<LinkId, Refusal> {
        let class = who.class();
        let budget = *self.settings.budgets.of(class);
        if self.drain.is_some() {
            return Err(refusal(
                reason::DRAINING,
                "this relay is leaving; use another",
            ));
        }
        if who.is_revoked(&self.revoked) {
            return Err(refusal(
                reason::REVOKED,
                "the identity is suspended or revoked",
            ));
        }
        if self.usage(class).links >= budget.links && !self.evict_idle(class) {
            return Err(refusal(
                reason::OVERLOADED,
                "too many links of this kind; try again later",
            ));
        }
        self.last_link += 1;
        let id = LinkId(self.last_link);
        let deadline = budget.lifetime.map(|lifetime| now + lifetime);
        if let Some(at) = deadline {
            self.deadlines.insert((at, id));
            self.idle.insert((class, id));
        }
        self.usage(class).links += 1;
        self.join_identity(&who, id);
        let link = Link {
            who,
            class,
            deadline,
            names: Vec::new(),
            circuits: HashMap::new(),
            instance: None,
            opens: TokenBucket::new(budget.opens_per_link),
            name_changes: TokenBucket::new(budget.names_per_link),
            next_incoming: Some(CircuitId::FIRST_OF_RELAY),
            messages: VecDeque::new(),
            leaving: false,
            n_names_refused: 0,
            closing: false,
        };
        self.links.insert(id, Box::new(link));
        Ok(id)
    }

    /// A link is gone; its circuits end with `reason`.
    pub fn link_down(&mut self, now: Time, id: LinkId, reason: &Reason) {
        self.retire(id);
        let Some(link) = self.links.get(&id) else {
            return;
        };
        let (class, deadline) = (link.class, link.deadline);
        let mut circuits: Vec<_> = link.circuits.keys().copied().collect();
        circuits.sort_unstable();
        for circuit in circuits {
            self.end_circuit(now, id, circuit, reason);
        }
        self.memory.remove_link(id);
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, id));
            self.idle.remove(&(class, id));
        }
        if let Some(link) = self.links.remove(&id) {
            self.leave_identity(&link.who, id);
        }
        self.usage(class).links -= 1;
    }

    /// Takes the messages that wait for a link, to be sent in this order.
    pub fn take_messages(&mut self, id: LinkId) -> VecDeque<ToEndpoint> {
        let link = self.links.get_mut(&id);
        link.map(|link| std::mem::take(&mut link.messages))
            .unwrap_or_default()
    }

    /// Who is at the other end of `id`, while it is up.
    pub fn who(&self, id: LinkId) -> Option<&Who> {
        self.links.get(&id).map(|link| &link.who)
    }

    // --- the world ---------------------------------------------------------------

    /// The trust set by which names are judged.
    pub fn set_trust(&mut self, trust: VerifiedTrustSet) {
        self.trust = Some(trust);
    }

    /// The newest revocations; links of those concerned are closed.
    pub fn set_revoked(&mut self, revoked: Arc<RevocationList>) {
        self.revoked = revoked;
        let dead: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.who.is_revoked(&self.revoked))
            .map(|(&id, _)| id)
            .collect();
        for id in dead {
            self.close_link(id, reason::REVOKED, "the identity is suspended or revoked");
        }
    }

    /// Tells all links to move, spread over `span`. New links are refused from
    /// now on; circuits can be opened until the link in question was told.
    pub fn begin_drain(&mut self, now: Time, span: Time) {
        if self.drain.is_none() {
            self.drain = Some(Drain::new(now, self.links.keys().copied(), span));
            self.handle_timeout(now);
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.remove(&(at, id));
            self.close_link(
                id,
                reason::OVERLOADED,
                "a link without a valid credential may not last this long",
            );
        }
        let due = self.drain.as_mut().map(|drain| drain.due(now));
        for id in due.unwrap_or_default() {
            self.retire(id);
            self.send(id, ToEndpoint::Drain);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let deadline = self.deadlines.first().map(|&(at, _)| at);
        let drain = self.drain.as_ref().and_then(Drain::next_at);
        [deadline, drain].into_iter().flatten().min()
    }

    /// What the shell has to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Gauges and counters.
    pub fn stats(&self) -> Stats {
        Stats {
            names: self.names.len(),
            queued_bytes: self.memory.total(),
            runs_dropped: self.runs_dropped,
            circuits_opened: self.circuits_opened,
        }
    }

    /// The first links, each with who it is, its names and its number of
    /// circuits, for people.
    pub fn describe_links(&self, max: usize) -> Vec<LinkDescription> {
        let links = self.links.iter().take(max);
        links.map(|(&id, link)| link.describe(id)).collect()
    }

    /// Whether somebody has registered `name`.
    pub fn is_registered(&self, name: &Address) -> bool {
        self.names.contains(name)
    }

    /// Links and open circuits of a class.
    pub fn usage_of(&self, class: Class) -> (usize, usize) {
        let usage = self.usage.get(&class);
        usage.map_or((0, 0), |usage| (usage.links, usage.circuits))
    }

    /// Whether every half has its other half, and the books add up.
    #[cfg(test)]
    pub(super) fn links_are_consistent(&self) -> bool {
        let total: usize = self.links.values().map(|link| link.circuits.len()).sum();
        let booked: usize = self.usage.values().map(|usage| usage.circuits).sum();
        let paired = self.links.iter().all(|(&id, link)| {
            let mut halves: Vec<_> = link.circuits.iter().collect();
            halves.sort_by_key(|(circuit, _)| **circuit);
            halves.into_iter().all(|(&circuit, half)| {
                let other = self.links.get(&half.other.0);
                other
                    .and_then(|other| other.circuits.get(&half.other.1))
                    .is_some_and(|other| other.other == (id, circuit))
            })
        });
        paired && total == 2 * booked
    }

    // --- helpers -----------------------------------------------------------------

    pub(super) fn half(&mut self, id: LinkId, circuit: CircuitId) -> Option<&mut Half> {
        self.links.get_mut(&id)?.circuits.get_mut(&circuit)
    }

    pub(super) fn usage(&mut self, class: Class) -> &mut Usage {
        let budget = self.settings.budgets.of(class);
        self.usage
            .entry(class)
            .or_insert_with(|| Usage::new(budget))
    }

    /// Queues a message. A link that does not take its messages is closed.
    pub(super) fn send(&mut self, id: LinkId, message: ToEndpoint) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let max = 4 * self.settings.budgets.of(link.class).circuits_per_link;
        if link.messages.len() >= max + limits::MESSAGES_BASE_MAX {
            link.messages.clear();
            self.close_link(
                id,
                reason::OVERLOADED,
                "the link does not take its control messages",
            );
            return;
        }
        if link.messages.is_empty() {
            self.outputs.push_back(Output::Deliver(id));
        }
        link.messages.push_back(message);
    }

    /// Ends a circuit at the wish of the link at one end. What is under way to
    /// the other end is still delivered.
    pub(super) fn end_circuit(&mut self, now: Time, id: LinkId, circuit: CircuitId, why: &Reason) {
        let Some((link, circuit)) = self.remove_circuit(now, id, circuit, why) else {
            return;
        };
        let reason = why.clone();
        self.send(link, ToEndpoint::Closed { circuit, reason });
    }

    /// Ends a circuit at the relay's own wish, and throws away what waits.
    pub(super) fn reset_circuit(
        &mut self,
        now: Time,
        id: LinkId,
        circuit: CircuitId,
        word: &str,
        text: &str,
    ) {
        let reason = Reason::new(word, text);
        let Some(other) = self.remove_circuit(now, id, circuit, &reason) else {
            return;
        };
        for (link, circuit) in [(id, circuit), other] {
            let reason = reason.clone();
            self.send(link, ToEndpoint::Closed { circuit, reason });
            self.outputs.push_back(Output::Discard { link, circuit });
        }
    }

    /// Takes both halves out of the books; the answer is the other one.
    fn remove_circuit(
        &mut self,
        now: Time,
        id: LinkId,
        circuit: CircuitId,
        reason: &Reason,
    ) -> Option<(LinkId, CircuitId)> {
        let near = self.links.get_mut(&id)?.circuits.remove(&circuit)?;
        let other = near.other;
        let far_link = self.links.get_mut(&other.0);
        let far = far_link.and_then(|link| link.circuits.remove(&other.1))?;
        let (opener, from, callee, to) = if near.opened.is_some() {
            (id, near, other.0, far)
        } else {
            (other.0, far, id, near)
        };
        let (bytes_in, bytes_out) = (from.all_bytes(), to.all_bytes());
        let Some(opened) = from.opened else {
            debug_assert!(false, "one end of a circuit has opened it");
            return Some(other);
        };
        self.usage(opened.class).circuits -= 1;
        self.book_if_idle(opener);
        let peer = self.who(opener).map(ToString::to_string);
        self.outputs
            .push_back(Output::CircuitEnded(Box::new(CircuitRecord {
                opener,
                peer: peer.unwrap_or_default(),
                destination: opened.destination,
                callee,
                bytes_in,
                bytes_out,
                duration: now.saturating_sub(opened.at),
                reason: reason.clone(),
            })));
        Some(other)
    }

    /// Nothing new goes to this link from here on.
    fn retire(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.leaving = true;
            for name in std::mem::take(&mut link.names) {
                self.names.remove(&name, id);
            }
        }
    }

    pub(super) fn close_link(&mut self, id: LinkId, word: &str, text: &str) {
        self.retire(id);
        if let Some(link) = self.links.get_mut(&id)
            && !std::mem::replace(&mut link.closing, true)
        {
            let reason = Reason::new(word, text);
            self.outputs
                .push_back(Output::CloseLink { link: id, reason });
        }
    }

    /// Books a link under its identity; when that has too many, the oldest goes.
    fn join_identity(&mut self, who: &Who, id: LinkId) {
        let Some(uid) = who.uid() else {
            return;
        };
        let links = self.identities.entry(uid.clone()).or_default();
        if links.is_empty() {
            links.reserve_exact(1);
        }
        links.push(id);
        let is_full = links.len() > limits::LINKS_PER_IDENTITY_MAX;
        let oldest = links.first().copied().filter(|_| is_full);
        if let Some(oldest) = oldest {
            links.remove(0);
            self.close_link(
                oldest,
                reason::OVERLOADED,
                "this identity has many newer links",
            );
        }
    }

    fn leave_identity(&mut self, who: &Who, id: LinkId) {
        if let Some(uid) = who.uid()
            && let Some(links) = self.identities.get_mut(uid)
        {
            links.retain(|&other| other != id);
            if links.is_empty() {
                self.identities.remove(uid);
            }
        }
    }

    /// A link of limited lifetime may have nothing to do any more.
    fn book_if_idle(&mut self, id: LinkId) {
        if let Some(link) = self.links.get(&id)
            && link.deadline.is_some()
            && link.circuits.is_empty()
            && !link.closing
        {
            self.idle.insert((link.class, id));
        }
    }

    /// Closes the oldest link of a class that has no circuit, so that one that
    /// wants to do something can come in. Not for links with a credential:
    /// being idle is their trade.
    fn evict_idle(&mut self, class: Class) -> bool {
        let of_class = (class, LinkId(0))..=(class, LinkId(u64::MAX));
        let Some(&(_, id)) = self.idle.range(of_class).next() else {
            return false;
        };
        self.idle.remove(&(class, id));
        self.close_link(
            id,
            reason::OVERLOADED,
            "others without a valid credential are waiting",
        );
        true
    }
}

fn refusal(word: &str, text: &str) -> Refusal {
    Refusal(Reason::new(word, text))
}
