//! What each kind of peer may use, and who gives way.

use super::*;

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
