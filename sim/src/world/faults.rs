//! What goes wrong, and how it ends.

use std::collections::BTreeMap;

use fairway_session::Time;
use rand::Rng;

use super::node::Node;
use super::{Errand, LinkNo, World};
use crate::Conditions;
use crate::authority::START;

impl World {
    /// Something goes wrong, and the next thing is planned.
    pub(super) fn next_fault(&mut self) {
        if self.calm {
            return;
        }
        let pause = Time::from_millis(self.random.random_range(50..3_000));
        self.plan(pause, Errand::Fault);
        self.model.summary.faults += 1;
        let node = self.random.random_range(0..self.nodes.len());
        let relay = self.random.random_range(0..self.relays.len());
        match self.random.random_range(0..24) {
            0..=4 => self.cut_a_link(),
            5..=7 => self.roam(node),
            8..=10 => self.stall_a_link(),
            11 => self.restart_relay(relay),
            12 => self.restart_node(node),
            13..=14 => self.renew_credential_of(node),
            15 => self.rotate_issuer(),
            16 => self.change_policy(node),
            17 => self.revoke(node),
            18 => self.jump_clock(node),
            19..=20 => self.let_apps_sleep(node),
            21 => self.meddle(relay),
            _ => self.drain(relay),
        }
    }

    fn some_link(&mut self) -> Option<LinkNo> {
        let links: Vec<LinkNo> = self.links.keys().copied().collect();
        (!links.is_empty()).then(|| links[self.random.random_range(0..links.len())])
    }

    /// Both ends notice, each in its own time.
    fn cut_a_link(&mut self) {
        let Some(link) = self.some_link() else { return };
        self.net.lose(|hop| hop.link == link);
        for errand in [Errand::NodeNotices(link), Errand::RelayNotices(link)] {
            let silent = self.random.random_bool(0.3);
            let most = if silent { 10_000 } else { 50 };
            let after = Time::from_millis(self.random.random_range(0..most));
            self.plan(after, errand);
        }
        // Nothing passes any more.
        if let Some(state) = self.links.get_mut(&link) {
            state.stalled_until = Time::MAX;
        }
    }

    /// A node's address changes: its links are gone, the relays find out later.
    fn roam(&mut self, node: usize) {
        for link in self.nodes[node].links.clone() {
            self.node_loses(link);
            let after = Time::from_millis(self.random.random_range(0..10_000));
            self.plan(after, Errand::RelayNotices(link));
        }
    }

    /// Nothing passes for a while, and nobody is told.
    fn stall_a_link(&mut self) {
        let Some(link) = self.some_link() else { return };
        let until = self.now + Time::from_millis(self.random.random_range(100..15_000));
        if let Some(state) = self.links.get_mut(&link) {
            state.stalled_until = state.stalled_until.max(until);
        }
    }

    fn renew_credential_of(&mut self, node: usize) {
        if !self.model.revoked.contains(&node) {
            self.renew_credential(node);
        }
    }

    /// The authority signs with another key from now on.
    fn rotate_issuer(&mut self) {
        // The trust set keeps the two before it, and a renewal takes its time.
        if self.authority.trust().version() > 2 {
            return;
        }
        self.authority.rotate_issuer();
        for node in 0..self.nodes.len() {
            self.renew_credential_of(node);
        }
        self.tell_everybody();
    }

    fn change_policy(&mut self, node: usize) {
        let allow = !self.model.beliefs[node].allows;
        self.set_policy(node, allow);
    }

    fn set_policy(&mut self, node: usize, allow: bool) {
        self.model.beliefs[node].allows = allow;
        self.model.beliefs[node].policy_changed = Some(self.now);
        let rules = self.nodes[node].rules_that_allow(allow);
        self.apply_rules(node, rules);
    }

    fn revoke(&mut self, node: usize) {
        // At most one, or there is nobody left to talk.
        if !self.model.revoked.is_empty() {
            return;
        }
        let uid = self.nodes[node].uid().clone();
        let before = START.plus(self.now.as_secs() + 1);
        self.authority.revoke_uid(uid, before);
        self.model.revoked.insert(node);
        self.tell_everybody();
    }

    fn tell_everybody(&mut self) {
        for node in 0..self.nodes.len() {
            let after = Time::from_millis(self.random.random_range(0..3_000));
            self.plan(after, Errand::Learn(node));
        }
        for relay in 0..self.relays.len() {
            let after = Time::from_millis(self.random.random_range(0..3_000));
            self.plan(after, Errand::RelayLearns(relay));
        }
    }

    /// What the authority says has come to a node.
    pub(super) fn learn(&mut self, node: usize) {
        self.model.beliefs[node].revoked = self.model.revoked.clone();
        let mut rules = self.nodes[node].rules.clone();
        rules.revoked = self.authority.revocations();
        self.apply_rules(node, rules);
    }

    /// By hours, or by minutes back; for a while.
    fn jump_clock(&mut self, node: usize) {
        let wrong = if self.random.random_bool(0.5) {
            5_000
        } else {
            -600
        };
        self.set_clock(node, wrong);
        let after = Time::from_millis(self.random.random_range(100..8_000));
        self.plan(after, Errand::ClockMended(node));
    }

    fn let_apps_sleep(&mut self, node: usize) {
        let pause = Time::from_millis(self.random.random_range(100..10_000));
        self.nodes[node].apps_sleep_until = self.now + pause;
        self.plan(pause, Errand::Apps(node));
    }

    /// The relay is bad from now on: it drops, repeats and mixes up packets.
    fn meddle(&mut self, relay: usize) {
        self.model.meddled = true;
        self.relays[relay].meddles = true;
    }

    /// The relay leaves: it tells its links to move, and is started anew.
    fn drain(&mut self, relay: usize) {
        self.relays[relay].core.begin_drain(self.now, Time::ZERO);
        self.flush(relay);
        let after = Time::from_millis(self.random.random_range(500..4_000));
        self.plan(after, Errand::RelayRestarts(relay));
    }

    /// No more faults, and what is broken is mended.
    pub(super) fn begin_calm(&mut self) {
        self.calm = true;
        for relay in 0..self.relays.len() {
            self.relays[relay].meddles = false;
            self.relay_learns(relay);
        }
        for node in 0..self.nodes.len() {
            self.set_clock(node, 0);
            self.learn(node);
            self.set_policy(node, true);
        }
        let links: Vec<LinkNo> = self.links.keys().copied().collect();
        for link in links {
            let Some(state) = self.links.get_mut(&link) else {
                continue;
            };
            let is_dead = state.stalled_until == Time::MAX;
            state.conditions = Conditions::perfect();
            state.stalled_until = Time::ZERO;
            if is_dead {
                self.plan(Time::ZERO, Errand::NodeNotices(link));
                self.plan(Time::ZERO, Errand::RelayNotices(link));
            }
        }
    }

    /// Nothing is left over that should not be.
    pub(super) fn check_calm(&mut self) {
        self.pass(Time::from_secs(5));
        for relay in &self.relays {
            let stats = relay.core.stats();
            assert_eq!(stats.queued_bytes, 0);
            assert!(stats.names <= self.nodes.len());
        }
        // A session that only one end has is waited for; its streams are over.
        let mut ends: BTreeMap<[u8; 32], (usize, usize)> = BTreeMap::new();
        for (hash, streams) in self.nodes.iter().flat_map(Node::live_streams) {
            let entry = ends.entry(hash).or_default();
            *entry = (entry.0 + 1, entry.1 + streams);
        }
        for (n_ends, streams) in ends.into_values() {
            assert!(n_ends < 2 || streams == 0, "streams are left over");
        }
    }
}
