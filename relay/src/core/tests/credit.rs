//! Credit, and what waits for slow links.

use super::*;

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
