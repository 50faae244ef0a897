//! The core under any sequence of events: the books always balance.

use fairway_control::limits::CIRCUIT_CREDIT;
use fairway_control::link::{CircuitId, Instance, ToRelay};
use fairway_control::{Reason, reason};
use proptest::prelude::*;

use super::super::*;
use super::{AUTHORITY, COLLECTOR, PUMP, T0, World, address, instance_of};
use crate::limits::BUDGETS;

/// Something that links or the shell do. Numbers are taken modulo what is there.
#[derive(Clone, Debug)]
enum Event {
    LinkUp(u8),
    LinkDown(usize),
    Register(usize, bool),
    Deregister(usize),
    Open(usize, u32, u8),
    Close(usize, u32),
    Move(usize, u32),
    Credit(usize, u32, u64),
    Forward(usize, u32, usize),
    Queued(usize, u32, usize),
    Drained(usize, u32, usize),
    Wait(u64),
    Drain,
}

fn events() -> impl Strategy<Value = Event> {
    // Ids and links of small ranges, so that they often mean something.
    let (link, circuit) = (0..12_usize, 0..14_u32);
    prop_oneof![
        4 => any::<u8>().prop_map(Event::LinkUp),
        1 => link.clone().prop_map(Event::LinkDown),
        4 => (link.clone(), any::<bool>()).prop_map(|(l, own)| Event::Register(l, own)),
        1 => link.clone().prop_map(Event::Deregister),
        8 => (link.clone(), circuit.clone(), any::<u8>()).prop_map(|(l, c, d)| Event::Open(l, c, d)),
        2 => (link.clone(), circuit.clone()).prop_map(|(l, c)| Event::Close(l, c)),
        1 => (link.clone(), circuit.clone()).prop_map(|(l, c)| Event::Move(l, c)),
        3 => (link.clone(), circuit.clone(), 0..CIRCUIT_CREDIT * 6).prop_map(|(l, c, n)| Event::Credit(l, c, n)),
        6 => (link.clone(), circuit.clone(), 0..CIRCUIT_CREDIT as usize).prop_map(|(l, c, n)| Event::Forward(l, c, n)),
        3 => (link.clone(), circuit.clone(), 0..3_000_000_usize).prop_map(|(l, c, n)| Event::Queued(l, c, n)),
        2 => (link, circuit, 0..3_000_000_usize).prop_map(|(l, c, n)| Event::Drained(l, c, n)),
        1 => (0..40_u64).prop_map(Event::Wait),
        1 => Just(Event::Drain),
    ]
}

impl World {
    /// Does it, and then what the core says: links that it closes are closed.
    fn live(&mut self, links: &mut Vec<(LinkId, &'static str)>, event: &Event) {
        let pick =
            |links: &[(LinkId, &'static str)], n: usize| links.get(n % links.len().max(1)).copied();
        let names = |name: &str| vec![address(name)];
        match *event {
            Event::LinkUp(kind) => {
                let (who, name) = match kind % 5 {
                    0 => (Who::Anonymous, AUTHORITY),
                    1 => (
                        Who::Verified(self.domain.peer("ns/factory/device/pump-7", &[])),
                        PUMP,
                    ),
                    2 => (
                        Who::Verified(self.domain.peer("ns/m/sa/prometheus", &[])),
                        PUMP,
                    ),
                    3 => (
                        Who::Verified(
                            self.domain
                                .peer("ns/fairway-system/sa/fairway-authority", &[]),
                        ),
                        AUTHORITY,
                    ),
                    _ => (
                        Who::Verified(self.domain.peer("ns/factory/sa/collector", &["collector"])),
                        COLLECTOR,
                    ),
                };
                if let Ok(id) = self.core.link_up(self.now, who) {
                    links.push((id, name));
                }
            }
            Event::LinkDown(n) => {
                if let Some((id, _)) = pick(links, n) {
                    self.core
                        .link_down(self.now, id, &Reason::new(reason::LINK_LOST, ""));
                    links.retain(|&(other, _)| other != id);
                }
            }
            Event::Register(n, own) => {
                if let Some((id, name)) = pick(links, n) {
                    let names = names(if own { name } else { PUMP });
                    let instance = instance_of(id);
                    self.say(id, ToRelay::Register { names, instance });
                }
            }
            Event::Deregister(n) => {
                if let Some((id, name)) = pick(links, n) {
                    let names = names(name);
                    self.say(id, ToRelay::Deregister { names });
                }
            }
            Event::Open(n, circuit, to) => {
                if let Some((id, _)) = pick(links, n) {
                    let destination = address([AUTHORITY, PUMP, COLLECTOR][usize::from(to % 3)]);
                    let circuit = CircuitId(circuit);
                    self.say(
                        id,
                        ToRelay::Open {
                            circuit,
                            destination,
                            instance: (to >= 128).then_some(Instance([to % 8; 16])),
                        },
                    );
                }
            }
            Event::Close(n, circuit) => {
                if let Some((id, _)) = pick(links, n) {
                    let (circuit, reason) = (CircuitId(circuit), Reason::new("done", ""));
                    self.say(id, ToRelay::Close { circuit, reason });
                }
            }
            Event::Move(n, circuit) => {
                if let Some((id, _)) = pick(links, n) {
                    let circuit = CircuitId(circuit);
                    self.say(id, ToRelay::Move { circuit });
                }
            }
            Event::Credit(n, circuit, max_bytes) => {
                if let Some((id, _)) = pick(links, n) {
                    let circuit = CircuitId(circuit);
                    self.say(id, ToRelay::Credit { circuit, max_bytes });
                }
            }
            Event::Forward(n, circuit, payload) => {
                if let Some((id, _)) = pick(links, n)
                    && let Forward::To(to, _) = self.forward(id, circuit, payload)
                {
                    assert!(
                        links.iter().any(|&(link, _)| link == to),
                        "to a link that is gone"
                    );
                    assert_ne!(to, id, "back to where it came from");
                }
            }
            Event::Queued(n, circuit, bytes) => {
                if let Some((id, _)) = pick(links, n) {
                    self.core.queued(self.now, id, CircuitId(circuit), bytes);
                }
            }
            Event::Drained(n, circuit, bytes) => {
                if let Some((id, _)) = pick(links, n) {
                    self.core.drained(id, CircuitId(circuit), bytes);
                }
            }
            Event::Wait(seconds) => {
                self.now += Time::from_secs(seconds);
                self.core.handle_timeout(self.now);
            }
            Event::Drain => self.core.begin_drain(self.now, Time::from_secs(1)),
        }
        for (id, word) in self.closed() {
            self.core.link_down(self.now, id, &Reason::new(&word, ""));
            links.retain(|&(other, _)| other != id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_books_balance(events in prop::collection::vec(events(), 1..150)) {
        let memory = MemoryLimits { total: 8_000_000, link: 4_000_000 };
        let mut world = World::with(Settings { budgets: BUDGETS, memory });
        let mut links = vec![(world.authority, AUTHORITY)];
        for event in &events {
            world.live(&mut links, event);
            prop_assert!(world.core.links_are_consistent(), "after {event:?}");
            prop_assert!(world.core.stats().queued_bytes <= memory.total);
            let n_links: usize = Class::ALL.map(|class| world.core.usage_of(class).0).iter().sum();
            prop_assert_eq!(n_links, links.len());
        }
        for (id, _) in links {
            world.core.link_down(T0, id, &Reason::new(reason::LINK_LOST, ""));
        }
        prop_assert_eq!(Class::ALL.map(|class| world.core.usage_of(class)), [(0, 0); 5]);
        let stats = world.core.stats();
        prop_assert_eq!((stats.names, stats.queued_bytes), (0, 0));
        for _ in 0..100 {
            if let Some(at) = world.core.poll_timeout() {
                world.core.handle_timeout(at);
            }
        }
        prop_assert_eq!(world.core.poll_timeout(), None);
    }
}
