//! Circuits to one process behind a name.

use super::*;

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
