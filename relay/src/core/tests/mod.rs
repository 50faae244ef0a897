//! The core by plain function calls.

mod random;

use fairway_control::limits::{CIRCUIT_CREDIT, LINK_PAYLOAD_MAX};
use fairway_control::link::{CircuitId, Instance, ToEndpoint, ToRelay};
use fairway_control::{Reason, reason};
use fairway_identity::{Address, Revocation, RevocationList};

use super::*;
use crate::limits::{
    BUDGETS, CIRCUITS_PER_PAIR_MAX, LINKS_PER_IDENTITY_MAX, MESSAGES_BASE_MAX, NAMES_PER_LINK_MAX,
};
use crate::testing::{Domain, NOW, id, uid};

const AUTHORITY: &str = "authority.fairway.internal";
const PUMP: &str = "pump-7.factory.device.fairway.internal";
const COLLECTOR: &str = "collector.factory.svc.fairway.internal";
const T0: Time = Time::from_secs(100);

/// A relay with an authority, and helpers that read like a story.
struct World {
    domain: Domain,
    core: Core,
    now: Time,
    authority: LinkId,
}

impl World {
    fn new() -> Self {
        Self::with(Settings {
            budgets: BUDGETS,
            memory: MemoryLimits::default(),
        })
    }

    fn with(settings: Settings) -> Self {
        let domain = Domain::new();
        let mut core = Core::new(settings);
        core.set_trust(domain.trust.clone());
        let who = Who::Verified(domain.peer("ns/fairway-system/sa/fairway-authority", &[]));
        let authority = core.link_up(T0, who).unwrap();
        let mut world = Self {
            domain,
            core,
            now: T0,
            authority,
        };
        assert_eq!(world.register(authority, AUTHORITY), Ok(()));
        world
    }

    fn link(&mut self, who: &str, services: &[&str]) -> LinkId {
        let who = Who::Verified(self.domain.peer(who, services));
        self.core.link_up(self.now, who).unwrap()
    }

    fn device(&mut self, name: &str) -> LinkId {
        self.link(&format!("ns/factory/device/{name}"), &[])
    }

    fn collector(&mut self) -> LinkId {
        let link = self.link("ns/factory/sa/collector", &["collector"]);
        assert_eq!(self.register(link, COLLECTOR), Ok(()));
        link
    }

    fn anonymous(&mut self) -> LinkId {
        self.core.link_up(self.now, Who::Anonymous).unwrap()
    }

    fn expired(&mut self, name: &str) -> LinkId {
        let who = Who::Expired {
            id: id(&format!("ns/factory/device/{name}")),
            uid: uid(name),
            issued_at: NOW,
        };
        self.core.link_up(self.now, who).unwrap()
    }

    fn say(&mut self, link: LinkId, message: ToRelay) {
        self.core.handle_message(self.now, link, message);
    }

    fn told(&mut self, link: LinkId) -> Vec<ToEndpoint> {
        self.core.take_messages(link).into()
    }

    /// Registers one name; the error is the word of the refusal.
    fn register(&mut self, link: LinkId, name: &str) -> Result<(), String> {
        let (names, instance) = (vec![address(name)], instance_of(link));
        self.say(link, ToRelay::Register { names, instance });
        match self.told(link).pop() {
            Some(ToEndpoint::Registered { .. }) => Ok(()),
            Some(ToEndpoint::RegisterRefused { reason, .. }) => Err(reason.word().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    /// Opens a circuit; the answer is where it came in, or the word of the refusal.
    fn open(
        &mut self,
        link: LinkId,
        circuit: u32,
        name: &str,
    ) -> Result<(LinkId, CircuitId), String> {
        self.open_to(link, circuit, name, None)
    }

    /// The same, to one instance.
    fn open_to(
        &mut self,
        link: LinkId,
        circuit: u32,
        name: &str,
        instance: Option<Instance>,
    ) -> Result<(LinkId, CircuitId), String> {
        while self.core.poll_output().is_some() {}
        let (circuit, destination) = (CircuitId(circuit), address(name));
        self.say(
            link,
            ToRelay::Open {
                circuit,
                destination: destination.clone(),
                instance,
            },
        );
        match self.told(link).pop() {
            Some(ToEndpoint::Opened { circuit: opened }) => assert_eq!(opened, circuit),
            Some(ToEndpoint::Refused {
                circuit: refused,
                reason,
            }) => {
                assert_eq!(refused, circuit);
                return Err(reason.word().to_owned());
            }
            other => panic!("{other:?}"),
        }
        let Some(Output::Deliver(callee)) = self.core.poll_output() else {
            panic!("the callee is told first");
        };
        let Some(ToEndpoint::Incoming {
            circuit,
            destination: dialled,
        }) = self.told(callee).pop()
        else {
            panic!("the callee is told");
        };
        assert_eq!(dialled, destination);
        Ok((callee, circuit))
    }

    fn forward(&mut self, link: LinkId, circuit: u32, payload: usize) -> Forward {
        self.core
            .forward(self.now, link, CircuitId(circuit), payload)
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }

    /// Which links were closed, and the word why.
    fn closed(&mut self) -> Vec<(LinkId, String)> {
        let outputs = self.outputs().into_iter();
        outputs
            .filter_map(|output| match output {
                Output::CloseLink { link, reason } => Some((link, reason.word().to_owned())),
                _ => None,
            })
            .collect()
    }
}

/// A process of its own for each link.
fn instance_of(link: LinkId) -> Instance {
    Instance([link.0 as u8; 16])
}

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

fn closed_words(messages: &[ToEndpoint]) -> Vec<(u32, &str)> {
    messages
        .iter()
        .map(|message| match message {
            ToEndpoint::Closed { circuit, reason } => (circuit.0, reason.word()),
            other => panic!("{other:?}"),
        })
        .collect()
}

// --- names -----------------------------------------------------------------------

#[test]
fn a_name_is_registered_only_by_whose_it_is() {
    let mut world = World::new();
    let device = world.device("pump-7");
    let workload = world.link("ns/factory/sa/collector", &["collector"]);
    let relay = world.link("ns/fairway-system/sa/fairway-relay", &[]);
    let (anonymous, expired) = (world.anonymous(), world.expired("pump-7"));
    for (link, name, allowed) in [
        (device, PUMP, true),
        (device, "pump-8.factory.device.fairway.internal", false),
        (device, "pump-7.other.device.fairway.internal", false),
        (device, COLLECTOR, false),
        (device, AUTHORITY, false),
        (device, "relay.fairway.internal", false),
        (workload, COLLECTOR, true),
        (workload, "collector.other.svc.fairway.internal", false),
        (workload, "else.factory.svc.fairway.internal", false),
        (workload, PUMP, false),
        (workload, AUTHORITY, false),
        (relay, "relay.fairway.internal", false),
        (expired, PUMP, false),
        (anonymous, PUMP, false),
        (anonymous, AUTHORITY, false),
    ] {
        let expected = if allowed {
            Ok(())
        } else {
            Err(reason::NAME_NOT_YOURS.to_owned())
        };
        assert_eq!(world.register(link, name), expected, "{name}");
    }
}

#[test]
fn nothing_is_registered_before_the_trust_set_is_known() {
    let mut world = World::new();
    world.core = Core::new(Settings {
        budgets: BUDGETS,
        memory: MemoryLimits::default(),
    });
    let device = world.device("pump-7");
    assert_eq!(
        world.register(device, PUMP),
        Err(reason::NAME_NOT_YOURS.to_owned())
    );
}

#[test]
fn a_deregistered_name_leads_nowhere_and_open_circuits_go_on() {
    let mut world = World::new();
    let (collector, device) = (world.collector(), world.device("pump-7"));
    assert_eq!(
        world.open(device, 2, COLLECTOR),
        Ok((collector, CircuitId(1)))
    );
    let names = vec![address(COLLECTOR)];
    world.say(collector, ToRelay::Deregister { names });
    assert_eq!(
        world.open(device, 4, COLLECTOR),
        Err(reason::NOT_HERE.to_owned())
    );
    assert_eq!(
        world.forward(device, 2, 10),
        Forward::To(collector, CircuitId(1))
    );
}

#[test]
fn the_names_of_a_link_are_bounded() {
    let mut world = World::new();
    let services: Vec<_> = (0..16).map(|i| format!("s{i}")).collect();
    let services: Vec<_> = services.iter().map(String::as_str).collect();
    let link = world.link("ns/factory/sa/many", &services);
    for service in &services {
        assert_eq!(
            world.register(link, &format!("{service}.factory.svc.fairway.internal")),
            Ok(())
        );
    }
    assert!(services.len() < NAMES_PER_LINK_MAX);
    assert_eq!(world.core.stats().names, 17);
    world
        .core
        .link_down(T0, link, &Reason::new(reason::LINK_LOST, ""));
    assert_eq!(world.core.stats().names, 1);
}

// --- circuits ----------------------------------------------------------------------

#[test]
fn who_may_open_what() {
    let mut world = World::new();
    let (device, other) = (world.device("pump-7"), world.device("pump-8"));
    let (collector, prometheus) = (world.collector(), world.link("ns/m/sa/prometheus", &[]));
    let (anonymous, expired) = (world.anonymous(), world.expired("pump-9"));
    world.register(device, PUMP).unwrap();
    let mut circuit = 0;
    for (link, name, expected) in [
        (device, AUTHORITY, Ok(world.authority)),
        (device, COLLECTOR, Ok(collector)),
        (device, PUMP, Err(reason::FORBIDDEN)),
        (other, PUMP, Err(reason::FORBIDDEN)),
        (prometheus, PUMP, Ok(device)),
        (prometheus, COLLECTOR, Err(reason::FORBIDDEN)),
        (prometheus, AUTHORITY, Ok(world.authority)),
        (
            prometheus,
            "gone.factory.device.fairway.internal",
            Err(reason::NOT_HERE),
        ),
        (prometheus, "relay.fairway.internal", Err(reason::FORBIDDEN)),
        (anonymous, AUTHORITY, Ok(world.authority)),
        (anonymous, COLLECTOR, Err(reason::AUTHORITY_ONLY)),
        (anonymous, PUMP, Err(reason::AUTHORITY_ONLY)),
        (expired, AUTHORITY, Ok(world.authority)),
        (expired, COLLECTOR, Err(reason::AUTHORITY_ONLY)),
    ] {
        circuit += 2;
        let opened = world.open(link, circuit, name).map(|(callee, _)| callee);
        assert_eq!(opened, expected.map_err(str::to_owned), "{name} {circuit}");
    }
}

#[test]
fn circuits_go_to_the_least_loaded_pod() {
    let mut world = World::new();
    let pods = [world.collector(), world.collector(), world.collector()];
    let device = world.device("pump-7");
    let mut n_circuits = [0; 3];
    for circuit in 1..=30 {
        let (callee, _) = world.open(device, circuit * 2, COLLECTOR).unwrap();
        n_circuits[pods.iter().position(|&pod| pod == callee).unwrap()] += 1;
    }
    assert_eq!(n_circuits, [10, 10, 10]);
}

#[test]
fn data_is_switched_both_ways_and_closing_tells_the_other_end() {
    let mut world = World::new();
    let (collector, device) = (world.collector(), world.device("pump-7"));
    let (_, incoming) = world.open(device, 2, COLLECTOR).unwrap();
    assert_eq!(
        world.forward(device, 2, 100),
        Forward::To(collector, incoming)
    );
    assert_eq!(
        world.forward(collector, incoming.0, 7),
        Forward::To(device, CircuitId(2))
    );
    assert_eq!(world.forward(device, 4, 1), Forward::Drop);
    world.now += Time::from_secs(3);
    let bye = Reason::new("done", "bye");
    world.outputs();
    world.say(
        device,
        ToRelay::Close {
            circuit: CircuitId(2),
            reason: bye.clone(),
        },
    );
    assert_eq!(closed_words(&world.told(collector)), [(incoming.0, "done")]);
    assert!(world.told(device).is_empty());
    assert_eq!(world.forward(device, 2, 1), Forward::Drop);
    assert_eq!(world.forward(collector, incoming.0, 1), Forward::Drop);
    let Some(Output::CircuitEnded(record)) = world.outputs().into_iter().next() else {
        panic!("the access log has a line");
    };
    assert_eq!((record.opener, record.callee), (device, collector));
    assert_eq!((record.bytes_in, record.bytes_out), (100, 7));
    assert_eq!(record.duration, Time::from_secs(3));
    assert_eq!(
        (record.reason, record.peer.as_str()),
        (bye, "spiffe://t.local/ns/factory/device/pump-7")
    );
}

#[test]
fn a_lost_link_ends_its_circuits_with_the_reason() {
    let mut world = World::new();
    let (collector, device) = (world.collector(), world.device("pump-7"));
    let (first, second) = (
        world.open(device, 2, COLLECTOR).unwrap(),
        world.open(device, 4, AUTHORITY).unwrap(),
    );
    let lost = Reason::new(reason::LINK_LOST, "the connection was closed");
    world.core.link_down(T0, device, &lost);
    assert_eq!(
        closed_words(&world.told(collector)),
        [(first.1.0, "link-lost")]
    );
    let authority = world.authority;
    assert_eq!(
        closed_words(&world.told(authority)),
        [(second.1.0, "link-lost")]
    );
    assert_eq!(world.core.usage_of(Class::Device), (0, 0));
    assert!(world.core.links_are_consistent());
}

#[test]
fn a_circuit_id_that_is_in_use_or_not_an_endpoints_closes_the_link() {
    let mut world = World::new();
    for circuit in [4, 5, 0] {
        let device = world.device("pump-7");
        world.open(device, 4, AUTHORITY).unwrap();
        let (circuit, destination) = (CircuitId(circuit), address(AUTHORITY));
        world.say(
            device,
            ToRelay::Open {
                circuit,
                destination,
                instance: None,
            },
        );
        assert_eq!(world.closed(), [(device, reason::PROTOCOL.to_owned())]);
    }
}

// --- credit and memory -----------------------------------------------------------------

#[test]
fn an_overrun_resets_only_that_circuit() {
    let mut world = World::new();
    let (collector, device) = (world.collector(), world.device("pump-7"));
    let bad = world.open(device, 2, COLLECTOR).unwrap().1;
    let good = world.open(device, 4, COLLECTOR).unwrap().1;
    let window = CIRCUIT_CREDIT as usize;
    assert_eq!(
        world.forward(device, 2, window),
        Forward::To(collector, bad)
    );
    world.outputs();
    assert_eq!(world.forward(device, 2, 1), Forward::Drop);
    assert_eq!(
        closed_words(&world.told(collector)),
        [(bad.0, reason::CREDIT_OVERRUN)]
    );
    assert_eq!(
        closed_words(&world.told(device)),
        [(2, reason::CREDIT_OVERRUN)]
    );
    assert_eq!(world.forward(device, 4, 1), Forward::To(collector, good));
    assert_eq!(world.closed(), []);
}

#[test]
fn credit_is_passed_through_and_no_more_than_a_window() {
    let mut world = World::new();
    let (collector, device) = (world.collector(), world.device("pump-7"));
    let incoming = world.open(device, 2, COLLECTOR).unwrap().1;
    let window = CIRCUIT_CREDIT as usize;
    world.forward(device, 2, window);
    let more = LINK_PAYLOAD_MAX as u64;
    // Less than a frame: with the next one.
    for max_bytes in [CIRCUIT_CREDIT + 1, CIRCUIT_CREDIT + more - 1] {
        let circuit = incoming;
        world.say(collector, ToRelay::Credit { circuit, max_bytes });
    }
    assert_eq!(world.told(device), []);
    let max_bytes = CIRCUIT_CREDIT + more;
    world.say(
        collector,
        ToRelay::Credit {
            circuit: incoming,
            max_bytes,
        },
    );
    world.say(
        collector,
        ToRelay::Credit {
            circuit: incoming,
            max_bytes,
        },
    );
    assert_eq!(
        world.told(device),
        [ToEndpoint::Credit {
            circuit: CircuitId(2),
            max_bytes
        }]
    );
    assert_eq!(
        world.forward(device, 2, LINK_PAYLOAD_MAX),
        Forward::To(collector, incoming)
    );
    let max_bytes = u64::MAX;
    world.say(
        collector,
        ToRelay::Credit {
            circuit: incoming,
            max_bytes,
        },
    );
    assert_eq!(closed_words(&world.told(device)), [(2, reason::PROTOCOL)]);
    assert_eq!(
        closed_words(&world.told(collector)),
        [(incoming.0, reason::PROTOCOL)]
    );
}

#[test]
fn when_memory_runs_out_the_worst_offender_is_reset() {
    let mut world = World::with(Settings {
        budgets: BUDGETS,
        memory: MemoryLimits {
            total: 1_000_000,
            link: 800_000,
        },
    });
    let (collector, slow) = (world.collector(), world.device("slow"));
    let (fast, prometheus) = (world.device("fast"), world.link("ns/m/sa/prometheus", &[]));
    for (device, name) in [(slow, "slow"), (fast, "fast")] {
        world
            .register(device, &format!("{name}.factory.device.fairway.internal"))
            .unwrap();
    }
    let to_slow = world
        .open(prometheus, 2, "slow.factory.device.fairway.internal")
        .unwrap()
        .1;
    let to_fast = world
        .open(prometheus, 4, "fast.factory.device.fairway.internal")
        .unwrap()
        .1;
    let to_collector = world.open(slow, 2, COLLECTOR).unwrap().1;
    world.core.queued(T0, slow, to_slow, 700_000);
    world.core.queued(T0, slow, CircuitId(2), 50_000);
    world.core.queued(T0, fast, to_fast, 200_000);
    assert_eq!(world.closed(), []);
    world.core.queued(T0, fast, to_fast, 100_000);
    let discarded: Vec<_> = world
        .outputs()
        .into_iter()
        .filter_map(|output| match output {
            Output::Discard { link, circuit } => Some((link, circuit)),
            _ => None,
        })
        .collect();
    assert!(discarded.contains(&(slow, to_slow)));
    assert_eq!(
        closed_words(&world.told(prometheus)),
        [(2, reason::OVERLOADED)]
    );
    assert_eq!(
        closed_words(&world.told(slow)),
        [(to_slow.0, reason::OVERLOADED)]
    );
    assert_eq!(world.core.stats().queued_bytes, 350_000);
    assert_eq!(world.forward(prometheus, 4, 1), Forward::To(fast, to_fast));
    assert_eq!(
        world.forward(slow, 2, 1),
        Forward::To(collector, to_collector)
    );
    world.core.drained(slow, to_slow, 700_000);
    assert_eq!(world.core.stats().queued_bytes, 350_000);
}

// --- budgets -------------------------------------------------------------------------------

#[test]
fn noise_without_a_credential_starves_nobody_else() {
    let mut world = World::new();
    for _ in 0..BUDGETS.anonymous.links {
        let link = world.anonymous();
        let circuit = CircuitId(2);
        world.say(
            link,
            ToRelay::Open {
                circuit,
                destination: address(AUTHORITY),
                instance: None,
            },
        );
    }
    let refused = world.core.link_up(T0, Who::Anonymous);
    // Links that were refused their circuit are idle: the oldest makes room.
    assert!(refused.is_ok());
    assert_eq!(
        world.core.usage_of(Class::Anonymous).1,
        BUDGETS.anonymous.opens.burst as usize
    );
    let (expired, device) = (world.expired("pump-9"), world.device("pump-7"));
    let newcomer = world.core.link_up(T0, Who::TicketHolder).unwrap();
    world.outputs();
    let authority = world.authority;
    world.told(authority);
    assert!(world.open(newcomer, 2, AUTHORITY).is_ok());
    assert!(world.open(expired, 2, AUTHORITY).is_ok());
    assert!(world.open(device, 2, AUTHORITY).is_ok());
}

#[test]
fn without_a_credential_circuits_bytes_and_time_are_few() {
    let mut world = World::new();
    let link = world.anonymous();
    let max = BUDGETS.anonymous.circuits_per_link as u32;
    for circuit in 1..=max {
        world.open(link, circuit * 2, AUTHORITY).unwrap();
    }
    assert_eq!(
        world.open(link, max * 2 + 2, AUTHORITY),
        Err(reason::OVERLOADED.to_owned())
    );
    let bytes = BUDGETS.anonymous.bytes_per_circuit.unwrap() as usize;
    assert!(matches!(world.forward(link, 2, bytes), Forward::To(..)));
    assert_eq!(world.forward(link, 2, 1), Forward::Drop);
    assert_eq!(closed_words(&world.told(link)), [(2, reason::OVERLOADED)]);
    assert!(matches!(world.forward(link, 4, 1), Forward::To(..)));

    world.outputs();
    let deadline = T0 + BUDGETS.anonymous.lifetime.unwrap();
    assert_eq!(world.core.poll_timeout(), Some(deadline));
    world.core.handle_timeout(deadline);
    assert_eq!(world.closed(), [(link, reason::OVERLOADED.to_owned())]);
    assert_eq!(world.core.poll_timeout(), None);
}

#[test]
fn one_device_cannot_take_the_places_of_others() {
    let mut world = World::new();
    let first = world.device("pump-7");
    for _ in 1..LINKS_PER_IDENTITY_MAX {
        world.device("pump-7");
    }
    assert_eq!(world.closed(), []);
    let newest = world.device("pump-7");
    assert_eq!(world.closed(), [(first, reason::OVERLOADED.to_owned())]);
    let overloaded = Reason::new(reason::OVERLOADED, "");
    world.core.link_down(T0, first, &overloaded);
    // Nor open circuits without end.
    let opens = BUDGETS.device.opens_per_link;
    for circuit in 1..=opens.burst {
        let circuit = circuit * 2;
        world.open(newest, circuit, AUTHORITY).unwrap();
        let (circuit, reason) = (CircuitId(circuit), Reason::new("done", ""));
        world.say(newest, ToRelay::Close { circuit, reason });
        let authority = world.authority;
        world.told(authority);
    }
    let refused = world.open(newest, 10_000, AUTHORITY);
    assert_eq!(refused, Err(reason::OVERLOADED.to_owned()));
    let other = world.device("pump-8");
    assert!(world.open(other, 2, AUTHORITY).is_ok());
    world.now += Time::from_secs(1);
    assert!(world.open(newest, 10_002, AUTHORITY).is_ok());
}

#[test]
fn links_with_a_credential_are_never_evicted() {
    let mut budgets = BUDGETS;
    budgets.device.links = 1;
    let memory = MemoryLimits::default();
    let mut world = World::with(Settings { budgets, memory });
    world.device("pump-7");
    let who = Who::Verified(world.domain.peer("ns/factory/device/pump-8", &[]));
    let refused = world.core.link_up(T0, who).unwrap_err();
    assert_eq!(refused.0.word(), reason::OVERLOADED);
    assert_eq!(world.closed(), []);
}

#[test]
fn a_link_that_takes_no_messages_is_closed() {
    let mut world = World::new();
    let device = world.device("pump-7");
    // Its own questions; the answers wait.
    for circuit in 1..=10_000 {
        world.say(
            device,
            ToRelay::Open {
                circuit: CircuitId(circuit * 2),
                destination: address(COLLECTOR),
                instance: None,
            },
        );
    }
    assert_eq!(world.closed(), [(device, reason::OVERLOADED.to_owned())]);
}

#[test]
fn a_link_that_takes_no_messages_is_not_closed_for_what_others_do() {
    let mut world = World::new();
    let device = world.device("pump-7");
    world.register(device, PUMP).unwrap();
    let mut n_opened = 0;
    for caller in 0..40 {
        let caller = world.link(&format!("ns/m/sa/caller-{caller}"), &[]);
        for circuit in 1..=100 {
            let circuit = CircuitId(circuit * 2);
            world.say(
                caller,
                ToRelay::Open {
                    circuit,
                    destination: address(PUMP),
                    instance: None,
                },
            );
            match world.told(caller).pop() {
                Some(ToEndpoint::Opened { .. }) => n_opened += 1,
                Some(ToEndpoint::Refused { reason, .. }) => {
                    assert_eq!(reason.word(), reason::OVERLOADED);
                }
                other => panic!("{other:?}"),
            }
            let reason = Reason::new("done", "");
            world.say(caller, ToRelay::Close { circuit, reason });
        }
    }
    assert!((1..=MESSAGES_BASE_MAX).contains(&n_opened), "{n_opened}");
    assert_eq!(world.closed(), []);
    // Once it reads again, it can be called again.
    world.told(device);
    let caller = world.link("ns/m/sa/caller", &[]);
    assert!(world.open(caller, 2, PUMP).is_ok());
}

#[test]
fn one_caller_cannot_use_up_what_a_callee_has_for_all() {
    let mut world = World::new();
    let device = world.device("pump-7");
    world.register(device, PUMP).unwrap();
    // Over as many links as it may have.
    let mallory = ["ns/m/sa/mallory"; LINKS_PER_IDENTITY_MAX].map(|who| world.link(who, &[]));
    let mut n_opened = 0;
    for circuit in 1..=CIRCUITS_PER_PAIR_MAX as u32 {
        for link in mallory {
            n_opened += usize::from(world.open(link, circuit * 2, PUMP).is_ok());
        }
    }
    assert_eq!(n_opened, CIRCUITS_PER_PAIR_MAX);
    let refused = world.open(mallory[0], 10_000, PUMP);
    assert_eq!(refused, Err(reason::OVERLOADED.to_owned()));
    // To others it still may, and others to the device.
    assert!(world.open(mallory[0], 10_002, AUTHORITY).is_ok());
    let prometheus = world.link("ns/m/sa/prometheus", &[]);
    assert!(world.open(prometheus, 2, PUMP).is_ok());
    let circuit = CircuitId(2);
    let reason = Reason::new("done", "");
    world.say(mallory[0], ToRelay::Close { circuit, reason });
    world.told(device);
    assert!(world.open(mallory[1], 10_000, PUMP).is_ok());
}

#[test]
fn names_that_come_and_go_without_end_close_the_link() {
    let mut world = World::new();
    let device = world.device("pump-7");
    let instance = instance_of(device);
    for _ in 0..BUDGETS.device.names_per_link.burst {
        let names = vec![address(PUMP)];
        let register = ToRelay::Register {
            names: names.clone(),
            instance,
        };
        world.say(device, register);
        world.say(device, ToRelay::Deregister { names });
        world.told(device);
    }
    assert_eq!(world.closed(), [(device, reason::OVERLOADED.to_owned())]);
    assert_eq!(world.core.stats().names, 1);
}

#[test]
fn links_without_a_credential_give_way_when_they_do_nothing() {
    let mut budgets = BUDGETS;
    budgets.anonymous.links = 3;
    let memory = MemoryLimits::default();
    let mut world = World::with(Settings { budgets, memory });
    let [first, second, third] = [(); 3].map(|()| world.anonymous());
    for link in [first, second] {
        world.open(link, 2, AUTHORITY).unwrap();
    }
    let circuit = CircuitId(2);
    let reason = Reason::new("done", "");
    world.say(second, ToRelay::Close { circuit, reason });
    // The oldest that is idle, then the next; one with a circuit stays.
    for gone in [second, third] {
        world.anonymous();
        assert_eq!(world.closed(), [(gone, reason::OVERLOADED.to_owned())]);
        let why = Reason::new(reason::OVERLOADED, "");
        world.core.link_down(world.now, gone, &why);
    }
    assert!(matches!(world.forward(first, 2, 1), Forward::To(..)));
}

// --- instances ---------------------------------------------------------------------------------

#[test]
fn a_circuit_to_an_instance_leads_to_that_one_or_nowhere() {
    let mut world = World::new();
    let pods = [world.collector(), world.collector()];
    let device = world.device("pump-7");
    for (circuit, pod) in [(2, pods[0]), (4, pods[0]), (6, pods[1])] {
        let opened = world.open_to(device, circuit, COLLECTOR, Some(instance_of(pod)));
        assert_eq!(opened.map(|(link, _)| link), Ok(pod));
    }
    let gone = Some(Instance([0xee; 16]));
    let refused = world.open_to(device, 8, COLLECTOR, gone);
    assert_eq!(refused, Err(reason::OTHER_INSTANCE.to_owned()));
    let prometheus = world.link("ns/m/sa/prometheus", &[]);
    let refused = world.open_to(prometheus, 2, PUMP, gone);
    assert_eq!(refused, Err(reason::NOT_HERE.to_owned()));
    // Whoever draws on no credential is refused by that, not told who is there.
    let anonymous = world.anonymous();
    let refused = world.open_to(anonymous, 2, COLLECTOR, Some(instance_of(pods[0])));
    assert_eq!(refused, Err(reason::AUTHORITY_ONLY.to_owned()));
}

#[test]
fn a_new_link_of_an_instance_takes_over_from_its_old_one() {
    let mut world = World::new();
    let (old, device) = (world.collector(), world.device("pump-7"));
    let instance = instance_of(old);
    let incoming = world.open(device, 2, COLLECTOR).unwrap().1;
    let new = world.link("ns/factory/sa/collector", &["collector"]);
    let names = vec![address(COLLECTOR)];
    world.say(new, ToRelay::Register { names, instance });
    world.told(new);
    let opened = world.open_to(device, 4, COLLECTOR, Some(instance));
    assert_eq!(opened.map(|(link, _)| link), Ok(new));
    // The pod asks those who called to come over: each once.
    for _ in 0..3 {
        let circuit = incoming;
        world.say(old, ToRelay::Move { circuit });
    }
    let circuit = CircuitId(2);
    assert_eq!(world.told(device), [ToEndpoint::Move { circuit }]);
    // It is the callee who leaves; the other way it means nothing.
    let circuit = CircuitId(4);
    world.say(device, ToRelay::Move { circuit });
    assert_eq!(world.told(new), []);
    let circuit = CircuitId(98);
    world.say(device, ToRelay::Move { circuit });
    assert_eq!(world.closed(), []);
}

#[test]
fn a_link_is_of_one_instance() {
    let mut world = World::new();
    let collector = world.collector();
    let (names, instance) = (vec![address(COLLECTOR)], Instance([0xee; 16]));
    world.say(collector, ToRelay::Register { names, instance });
    assert_eq!(world.closed(), [(collector, reason::PROTOCOL.to_owned())]);
}

// --- the world -------------------------------------------------------------------------------

#[test]
fn revocation_closes_the_links_of_the_revoked_and_refuses_new_ones() {
    let mut world = World::new();
    let (device, other) = (world.device("pump-7"), world.device("pump-8"));
    let mut list = RevocationList::default();
    let revocation = Revocation {
        issued_before: NOW.plus(1),
        keep_until: NOW.plus(86_400),
    };
    list.insert(uid("ns/factory/device/pump-7"), revocation)
        .unwrap();
    world.core.set_revoked(list.into());
    assert_eq!(world.closed(), [(device, reason::REVOKED.to_owned())]);
    let who = Who::Verified(world.domain.peer("ns/factory/device/pump-7", &[]));
    assert_eq!(
        world.core.link_up(T0, who).unwrap_err().0.word(),
        reason::REVOKED
    );
    assert!(world.open(other, 2, AUTHORITY).is_ok());
}

#[test]
fn a_drain_tells_all_links_and_routes_around_those_told() {
    let mut world = World::new();
    let (pods, device) = (
        [world.collector(), world.collector()],
        world.device("pump-7"),
    );
    world.now += Time::from_secs(1);
    world
        .core
        .begin_drain(world.now, crate::limits::DRAIN_TICK * 4);
    let refused = world.core.link_up(world.now, Who::Anonymous).unwrap_err();
    assert_eq!(refused.0.word(), reason::DRAINING);
    // The authority, and with the next tick the first pod.
    world.now = world.core.poll_timeout().unwrap();
    world.core.handle_timeout(world.now);
    assert_eq!(world.told(pods[0]).pop(), Some(ToEndpoint::Drain));
    assert_eq!(
        world.open(device, 2, COLLECTOR).map(|(pod, _)| pod),
        Ok(pods[1])
    );
    while let Some(at) = world.core.poll_timeout() {
        world.now = at;
        world.core.handle_timeout(at);
    }
    assert_eq!(world.told(device).pop(), Some(ToEndpoint::Drain));
    assert_eq!(
        world.open(device, 4, COLLECTOR),
        Err(reason::DRAINING.to_owned())
    );
    assert!(matches!(world.forward(device, 2, 1), Forward::To(..)));
}
