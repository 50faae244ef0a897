//! The relay's core under any sequence of what links and the shell do.

use fairway_control::link::{CircuitId, ToRelay};
use fairway_control::{Message as _, Reason, reason};
use fairway_identity::{Clock, Form, VerifiedPeer};
use fairway_relay::core::{
    Class, Core, Forward, LinkId, MemoryLimits, Output, Settings, Time, Who,
};

use crate::{Script, world};

const MEMORY: MemoryLimits = MemoryLimits {
    total: 8_000_000,
    link: 4_000_000,
};

/// Links of every kind come and go, say anything (messages as bytes, so that
/// every field has every value), send and are slow: nothing is forwarded to a
/// link that is gone, nothing waits beyond the bounds, and when all links are
/// down nothing of them is left.
pub(crate) fn core(data: &[u8]) {
    let mut run = Run::new();
    let mut script = Script::new(data);
    for _ in 0..256 {
        if script.is_over() {
            break;
        }
        run.step(&mut script);
        run.obey();
        assert!(run.core.stats().queued_bytes <= MEMORY.total);
        let n_links: usize = Class::ALL
            .map(|class| run.core.usage_of(class).0)
            .iter()
            .sum();
        assert_eq!(n_links, run.links.len());
    }
    for id in core::mem::take(&mut run.links) {
        run.down(id);
    }
    assert_eq!(
        Class::ALL.map(|class| run.core.usage_of(class)),
        [(0, 0); 5]
    );
    let stats = run.core.stats();
    assert_eq!((stats.names, stats.queued_bytes), (0, 0));
}

struct Run {
    core: Core,
    now: Time,
    links: Vec<LinkId>,
    peers: Vec<Who>,
}

impl Run {
    fn new() -> Self {
        let mut core = Core::new(Settings {
            memory: MEMORY,
            ..Settings::default()
        });
        core.set_trust(world::trust());
        Self {
            core,
            now: Time::from_secs(1),
            links: Vec::new(),
            peers: peers(),
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let kind = script.below(8);
        if kind == 0 || self.links.is_empty() {
            let who = self.peers[script.below(self.peers.len())].clone();
            if let Ok(id) = self.core.link_up(self.now, who) {
                self.links.push(id);
            }
            return;
        }
        let id = self.links[script.below(self.links.len())];
        let circuit = CircuitId(u32::try_from(script.below(14)).unwrap());
        match kind {
            1 => {
                self.links.retain(|&other| other != id);
                self.down(id);
            }
            2 | 3 => {
                if let Ok(message) = ToRelay::from_bytes(script.piece()) {
                    self.core.handle_message(self.now, id, message);
                }
            }
            4 => {
                let bytes = script.below(1 << 16) * 16;
                let forward = match bytes % 32 {
                    0 => self.core.forward(self.now, id, circuit, bytes),
                    _ => self.core.forward_datagrams(self.now, id, circuit, bytes),
                };
                if let Forward::To(to, _) = forward {
                    assert!(self.links.contains(&to), "to a link that is gone");
                    assert_ne!(to, id, "back to where it came from");
                }
            }
            5 => self
                .core
                .queued(self.now, id, circuit, script.below(1 << 16) * 46),
            6 => self.core.drained(id, circuit, script.below(1 << 16) * 46),
            _ => {
                self.now += Time::from_secs(u64::from(script.byte() % 40));
                self.core.handle_timeout(self.now);
                if script.byte() == 255 {
                    self.core.begin_drain(self.now, Time::from_secs(1));
                }
            }
        }
    }

    /// What the shell does with what the core says.
    fn obey(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Deliver(id) => {
                    assert!(self.core.take_messages(id).len() <= 65_536);
                }
                Output::CloseLink { link, .. } => {
                    self.links.retain(|&other| other != link);
                    self.down(link);
                }
                Output::Discard { .. }
                | Output::CircuitEnded(_)
                | Output::CircuitRefused { .. }
                | Output::NameRefused { .. } => {}
            }
        }
    }

    fn down(&mut self, id: LinkId) {
        let gone = Reason::new(reason::LINK_LOST, "");
        self.core.link_down(self.now, id, &gone);
    }
}

fn peers() -> Vec<Who> {
    vec![
        Who::Anonymous,
        Who::Verified(peer("ns/factory/device/pump-7", &[])),
        Who::Verified(peer("ns/m/sa/prometheus", &[])),
        Who::Verified(peer("ns/fairway-system/sa/fairway-authority", &[])),
        Who::Verified(peer("ns/factory/sa/collector", &["collector"])),
    ]
}

fn peer(path: &str, services: &[&str]) -> VerifiedPeer {
    let key = [7; 32];
    let [_, full] = world::credentials(path, services, key);
    let clock = Clock::Trusted(world::NOW);
    let trust = world::trust();
    trust
        .verify_credential(&full, Form::Full, &key, clock)
        .unwrap()
}
