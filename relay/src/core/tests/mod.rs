//! The core by plain function calls.

mod budgets;
mod circuits;
mod credit;
mod instances;
mod names;
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
