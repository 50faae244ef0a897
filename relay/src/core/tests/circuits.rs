//! Circuits, from OPEN to their end.

use super::*;

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
