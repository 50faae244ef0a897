//! A relay: the real core, and a shell around it in simulated time.

use std::collections::BTreeMap;

use fairway_control::link::{CircuitId, ToRelay};
use fairway_control::{FrameReader, Message, Reason, frame, reason};
use fairway_identity::{Clock, Form, VerifiedTrustSet};
use fairway_relay::core::{Core, Forward, LinkId, Output, Settings, Who};
use rand::Rng;

use super::{LinkNo, What, World};
use crate::authority::START;

pub(super) struct Relay {
    pub(super) core: Core,
    trust: VerifiedTrustSet,
    ids: BTreeMap<LinkNo, LinkId>,
    links: BTreeMap<LinkId, LinkNo>,
    /// It drops, repeats and mixes up packets.
    pub(super) meddles: bool,
    /// Where packets went, for mixing them up.
    recent: Vec<(LinkNo, CircuitId)>,
}

impl Relay {
    pub(super) fn new(trust: &VerifiedTrustSet) -> Self {
        let mut core = Core::new(Settings::default());
        core.set_trust(trust.clone());
        Self {
            core,
            trust: trust.clone(),
            ids: BTreeMap::new(),
            links: BTreeMap::new(),
            meddles: false,
            recent: Vec::new(),
        }
    }
}

/// A control message in its wire form.
pub(super) fn encode<M: Message>(message: &M) -> Vec<u8> {
    frame(message).expect("a message within its bounds")
}

/// A control message, which nobody has changed.
pub(super) fn decode<M: Message>(bytes: &[u8]) -> M {
    let mut reader = FrameReader::new();
    reader.push(bytes);
    let message = reader.next_message().expect("a good message");
    message.expect("a whole message")
}

impl World {
    /// A link comes up, if the relay lets it.
    pub(super) fn relay_accepts(&mut self, relay: usize, link: LinkNo, node: usize) -> bool {
        let (full, key) = self.nodes[node].shown();
        let clock = Clock::Trusted(START.plus(self.now.as_secs()));
        let trust = &self.relays[relay].trust;
        let Ok(peer) = trust.verify_credential(full, Form::Full, &key, clock) else {
            return false;
        };
        let state = &mut self.relays[relay];
        let Ok(id) = state.core.link_up(self.now, Who::Verified(peer)) else {
            return false;
        };
        state.ids.insert(link, id);
        state.links.insert(id, link);
        true
    }

    pub(super) fn relay_message(&mut self, relay: usize, link: LinkNo, message: &[u8]) {
        let state = &mut self.relays[relay];
        let Some(&id) = state.ids.get(&link) else {
            return;
        };
        state
            .core
            .handle_message(self.now, id, decode::<ToRelay>(message));
        self.flush(relay);
    }

    pub(super) fn relay_data(
        &mut self,
        relay: usize,
        link: LinkNo,
        circuit: CircuitId,
        packet: Vec<u8>,
    ) {
        let state = &mut self.relays[relay];
        let Some(&id) = state.ids.get(&link) else {
            return;
        };
        let forward = state.core.forward(self.now, id, circuit, packet.len());
        if let Forward::To(to, circuit) = forward
            && let Some(&to) = state.links.get(&to)
        {
            self.pass_on(relay, (to, circuit), packet);
        }
        self.flush(relay);
    }

    /// What an honest relay does, and one that meddles.
    fn pass_on(&mut self, relay: usize, to: (LinkNo, CircuitId), packet: Vec<u8>) {
        let state = &mut self.relays[relay];
        let mut copies = 1;
        if state.meddles {
            state.recent.truncate(30);
            state.recent.insert(0, to);
            match self.random.random_range(0..10) {
                0 => copies = 0,
                1 => copies = 2,
                2 => {
                    let other = self.random.random_range(0..state.recent.len());
                    let (link, circuit) = state.recent[other];
                    self.put(link, false, What::Data(circuit), packet);
                    return;
                }
                _ => {}
            }
        }
        for _ in 0..copies {
            self.put(to.0, false, What::Data(to.1), packet.clone());
        }
    }

    /// The relay finds that a link is gone.
    pub(super) fn relay_loses(&mut self, link: LinkNo) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.up_at_relay = false;
        let relay = state.relay;
        let gone = Reason::new(reason::LINK_LOST, "");
        self.relay_ends(relay, link, &gone);
        self.flush(relay);
        self.forget_link(link);
    }

    fn relay_ends(&mut self, relay: usize, link: LinkNo, why: &Reason) {
        let state = &mut self.relays[relay];
        if let Some(id) = state.ids.remove(&link) {
            state.links.remove(&id);
            state.core.link_down(self.now, id, why);
        }
    }

    /// Does what the core says.
    pub(super) fn flush(&mut self, relay: usize) {
        while let Some(output) = self.relays[relay].core.poll_output() {
            match output {
                Output::Deliver(id) => {
                    let state = &mut self.relays[relay];
                    let messages = state.core.take_messages(id);
                    let Some(&link) = state.links.get(&id) else {
                        continue;
                    };
                    for message in messages {
                        self.put(link, false, What::Control, encode(&message));
                    }
                }
                Output::CloseLink { link: id, reason } => {
                    let Some(&link) = self.relays[relay].links.get(&id) else {
                        continue;
                    };
                    assert_eq!(reason.word(), "revoked", "the relay closes a link");
                    self.relay_ends(relay, link, &reason);
                    if let Some(state) = self.links.get_mut(&link) {
                        state.up_at_relay = false;
                    }
                    self.put(link, false, What::Down, Vec::new());
                }
                Output::CircuitEnded(record) => {
                    let word = record.reason.word();
                    let is_fault =
                        matches!(word, "credit-overrun" | "protocol-violation" | "overloaded");
                    // Where packets are repeated, the credits do not match.
                    assert!(!is_fault || self.model.meddled, "a circuit ended: {word}");
                }
                Output::Discard { .. }
                | Output::CircuitRefused { .. }
                | Output::NameRefused { .. } => {}
            }
        }
    }

    /// A relay process dies and another takes its place.
    pub(super) fn restart_relay(&mut self, relay: usize) {
        let trust = self.authority.trust().clone();
        self.relays[relay] = Relay::new(&trust);
        self.relays[relay]
            .core
            .set_revoked(self.authority.revocations());
        let links: Vec<LinkNo> = self.links_of_relay(relay);
        // Some nodes are told by a reset, others find out by silence.
        let told = self.random.random_bool(0.7);
        for link in links {
            if let Some(state) = self.links.get_mut(&link) {
                state.up_at_relay = false;
            }
            if told {
                self.put(link, false, What::Down, Vec::new());
            } else {
                let after = fairway_session::Time::from_millis(self.random.random_range(0..8_000));
                self.plan(after, super::Errand::NodeNotices(link));
            }
        }
    }

    pub(super) fn relay_learns(&mut self, relay: usize) {
        let state = &mut self.relays[relay];
        state.trust = self.authority.trust().clone();
        state.core.set_trust(state.trust.clone());
        state.core.set_revoked(self.authority.revocations());
        self.flush(relay);
    }

    pub(super) fn links_of_relay(&self, relay: usize) -> Vec<LinkNo> {
        let links = self.links.iter();
        let links = links.filter(|(_, link)| link.relay == relay && link.up_at_relay);
        links.map(|(&number, _)| number).collect()
    }
}
