//! What may be registered, and where names lead.

use super::*;

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
