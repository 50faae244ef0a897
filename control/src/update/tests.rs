//! Publisher and subscriber against each other, and the codec of updates.

use std::collections::{BTreeMap, BTreeSet};

use fairway_identity::proof::TicketId;
use fairway_identity::{Address, Revocation, RevocationList, Uid, UnixSeconds};
use fairway_policy::{Action, CallerRule, Mode, Policy, PolicySet, Protocol};
use proptest::collection::vec;
use proptest::prelude::*;

use super::section::Section;
use super::*;
use crate::authority::{Ack, Response};
use crate::testing::*;

fn allow(name: &str) -> Policy {
    Policy {
        namespace: "factory".to_owned(),
        name: name.to_owned(),
        action: Action::Allow,
        mode: Mode::Enforce,
        from: vec![CallerRule::Workloads {
            namespaces: vec![],
            service_accounts: vec![],
        }],
        to: vec![fairway_policy::Door::Port {
            port: 80,
            protocol: Protocol::Tcp,
        }],
    }
}

fn state() -> State {
    let mut revocations = RevocationList::default();
    let entry = Revocation {
        issued_before: UnixSeconds(5),
        keep_until: UnixSeconds(9),
    };
    revocations
        .insert(Uid::new("uid-1").unwrap(), entry)
        .unwrap();
    State {
        trust_set: b"signed".to_vec(),
        policies: PolicySet {
            policies: vec![allow("a")],
        },
        revocations,
        doors: vec![Door {
            service: "broker".parse().unwrap(),
            port: 1883,
            target_port: 1884,
        }],
        ready: true,
        relays: vec!["relay.example:7440".parse().unwrap()],
        names: vec!["broker.factory.svc.fairway.internal".parse().unwrap()],
        renew_issued_before: Some(UnixSeconds(77)),
        services: Some(vec!["metrics".to_owned()]),
        tickets: [TicketId([7; 16])].into(),
    }
}

fn any_state() -> impl Strategy<Value = State> {
    let door =
        (label(), 1..=u16::MAX, 1..=u16::MAX).prop_map(|(service, port, target_port)| Door {
            service,
            port,
            target_port,
        });
    let lists = (
        vec(door, 0..3),
        vec(relay_address(), 0..3),
        vec(address(), 0..3),
    );
    let names = vec("[a-z]{1,8}", 0..3);
    let services = proptest::option::of(vec("[a-z]{1,15}", 0..3));
    (
        vec(any::<u8>(), 0..20),
        names,
        any::<bool>(),
        lists,
        any::<Option<u64>>(),
        (services, vec(any::<[u8; 16]>(), 0..3)),
    )
        .prop_map(
            |(trust_set, names, ready, (doors, relays, addresses), renew, (services, tickets))| {
                State {
                    trust_set,
                    policies: PolicySet {
                        policies: names.iter().map(|name| allow(name)).collect(),
                    },
                    revocations: RevocationList::default(),
                    doors,
                    ready,
                    relays,
                    names: addresses,
                    renew_issued_before: renew.map(UnixSeconds),
                    services,
                    tickets: tickets.into_iter().map(TicketId).collect(),
                }
            },
        )
}

/// Sends what there is to send, through the codec; the answer says whether
/// there was anything.
fn step(publisher: &Publisher, watcher: &mut Watcher, subscriber: &mut Subscriber) -> bool {
    let Some(update) = publisher.poll(watcher) else {
        return false;
    };
    let applied = subscriber.apply(&through_codec(update)).expect("in step");
    watcher.acknowledge(&applied.ack).expect("in flight");
    true
}

fn through_codec(update: Update) -> Update {
    use crate::wire::Message;
    let bytes = Response::Update(update)
        .to_bytes()
        .expect("an update can be sent");
    match Response::from_bytes(&bytes) {
        Ok(Response::Update(update)) => update,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_snapshot_and_then_only_what_changed() {
    let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
    assert!(publisher.set(&state()).unwrap());
    assert!(
        !publisher.set(&state()).unwrap(),
        "the same again is no change"
    );
    let mut watcher = Watcher::new(None);
    let update = publisher.poll(&mut watcher).unwrap();
    assert!(update.is_snapshot());
    assert!(
        publisher.poll(&mut watcher).is_none(),
        "one in flight at a time"
    );
    let applied = subscriber.apply(&update).unwrap();
    assert_eq!(subscriber.state(), &state());
    watcher.acknowledge(&applied.ack).unwrap();
    assert!(publisher.poll(&mut watcher).is_none(), "up to date");

    let changed = State {
        ready: false,
        ..state()
    };
    publisher.set(&changed).unwrap();
    let update = publisher.poll(&mut watcher).unwrap();
    assert!(!update.is_snapshot());
    assert_eq!(update.sections.0.len(), 1);
    let applied = subscriber.apply(&update).unwrap();
    assert_eq!(
        applied.changed,
        Changed {
            ready: true,
            ..Changed::default()
        }
    );
    assert_eq!(subscriber.state(), &changed);
}

#[test]
fn changes_while_one_is_in_flight_come_together_and_none_is_lost() {
    let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
    publisher.set(&state()).unwrap();
    let mut watcher = Watcher::new(None);
    let update = publisher.poll(&mut watcher).unwrap();
    publisher
        .set(&State {
            ready: false,
            ..state()
        })
        .unwrap();
    let last = State {
        ready: false,
        trust_set: b"newer".to_vec(),
        ..state()
    };
    publisher.set(&last).unwrap();
    let applied = subscriber.apply(&update).unwrap();
    assert_eq!(subscriber.state(), &state());
    watcher.acknowledge(&applied.ack).unwrap();
    assert!(step(&publisher, &mut watcher, &mut subscriber));
    assert_eq!(subscriber.state(), &last);
    assert!(!step(&publisher, &mut watcher, &mut subscriber));
}

#[test]
fn a_watcher_resumes_at_the_same_publisher_and_starts_over_at_another() {
    let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
    publisher.set(&state()).unwrap();
    step(&publisher, &mut Watcher::new(None), &mut subscriber);
    let have = |subscriber: &Subscriber| match subscriber.request() {
        crate::authority::Request::Watch { have } => have,
        other => panic!("{other:?}"),
    };

    publisher
        .set(&State {
            ready: false,
            ..state()
        })
        .unwrap();
    let resumed = publisher
        .poll(&mut Watcher::new(have(&subscriber)))
        .unwrap();
    assert!(!resumed.is_snapshot());
    subscriber.apply(&resumed).unwrap();

    // Another replica, which by chance is at the same number.
    let mut other = Publisher::new(2);
    other
        .set(&State {
            names: vec![],
            ..state()
        })
        .unwrap();
    other.set(&state()).unwrap();
    let fresh = other.poll(&mut Watcher::new(have(&subscriber))).unwrap();
    assert!(fresh.is_snapshot());
    subscriber.apply(&fresh).unwrap();
    assert_eq!(subscriber.state(), &state());

    // A version from the future of this publisher means nothing either.
    let ahead = Version {
        publisher: 2,
        number: 99,
    };
    assert!(
        other
            .poll(&mut Watcher::new(Some(ahead)))
            .unwrap()
            .is_snapshot()
    );
}

#[test]
fn an_update_on_something_else_changes_nothing() {
    let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
    publisher.set(&state()).unwrap();
    let mut watcher = Watcher::new(Some(publisher.version()));
    publisher
        .set(&State {
            ready: false,
            ..state()
        })
        .unwrap();
    let delta = publisher.poll(&mut watcher).unwrap();
    assert_eq!(
        subscriber.apply(&delta).unwrap_err(),
        OutOfStep {
            got: publisher.version()
        }
    );
    assert_eq!(subscriber.state(), &State::default());
    assert!(matches!(
        subscriber.request(),
        crate::authority::Request::Watch { have: None }
    ));
}

#[test]
fn only_the_update_in_flight_can_be_acknowledged() {
    let mut publisher = Publisher::new(1);
    publisher.set(&state()).unwrap();
    let mut watcher = Watcher::new(None);
    let ack = Ack {
        version: publisher.version(),
        problem: None,
    };
    assert!(watcher.acknowledge(&ack).is_err(), "nothing was sent yet");
    publisher.poll(&mut watcher).unwrap();
    let other = Ack {
        version: Version {
            publisher: 1,
            number: 9,
        },
        problem: None,
    };
    assert_eq!(
        watcher.acknowledge(&other),
        Err(NotInFlight { got: other.version })
    );
    watcher.acknowledge(&ack).unwrap();
    assert_eq!(watcher.acknowledged(), Some(publisher.version()));
    assert!(watcher.acknowledge(&ack).is_err(), "not twice");
}

#[test]
fn an_unreadable_section_closes_doors_and_only_its_own() {
    for (section, expected) in [
        (
            Section::Policies,
            State {
                policies: PolicySet::default(),
                ..state()
            },
        ),
        (
            Section::Revocations,
            State {
                policies: PolicySet::default(),
                ..state()
            },
        ),
        (
            Section::Doors,
            State {
                doors: vec![],
                ..state()
            },
        ),
        (
            Section::Ready,
            State {
                ready: false,
                ..state()
            },
        ),
        (
            Section::Names,
            State {
                names: vec![],
                ..state()
            },
        ),
        (
            Section::Services,
            State {
                services: Some(vec![]),
                ..state()
            },
        ),
        (
            Section::Tickets,
            State {
                tickets: BTreeSet::new(),
                ..state()
            },
        ),
        (Section::Relays, state()),
    ] {
        let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
        publisher.set(&state()).unwrap();
        let mut watcher = Watcher::new(None);
        step(&publisher, &mut watcher, &mut subscriber);
        // What an authority that is too new might send.
        let number = 2;
        let mut update = Update {
            version: Version {
                publisher: 1,
                number,
            },
            base: Some(1),
            sections: Sections(BTreeMap::from([(section, vec![0xff, 0xff])])),
        };
        let applied = subscriber.apply(&update).unwrap();
        assert_eq!(applied.ack.problem.unwrap().word(), "unreadable-section");
        assert_eq!(subscriber.state(), &expected, "{section:?}");
        // Readable again, all is as before, without another snapshot.
        let bytes = section.write(&state()).unwrap();
        update.sections.0.insert(section, bytes);
        update.base = Some(number);
        update.version.number = number + 1;
        let applied = subscriber.apply(&update).unwrap();
        assert_eq!(applied.ack.problem, None);
        assert_eq!(subscriber.state(), &state(), "{section:?}");
    }
}

#[test]
fn what_cannot_be_published_is_published_as_unreadable() {
    let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
    let mut watcher = Watcher::new(None);
    publisher.set(&state()).unwrap();
    step(&publisher, &mut watcher, &mut subscriber);
    let many = vec![allow("x"); fairway_policy::limits::POLICIES + 1];
    let bad = State {
        policies: PolicySet { policies: many },
        ready: false,
        ..state()
    };
    let error = publisher.set(&bad).unwrap_err();
    assert_eq!(error.problems.len(), 1);
    assert!(error.to_string().contains("policies"), "{error}");
    step(&publisher, &mut watcher, &mut subscriber);
    assert_eq!(
        subscriber.state(),
        &State {
            policies: PolicySet::default(),
            ready: false,
            ..state()
        }
    );
}

#[test]
fn a_snapshot_from_an_authority_that_says_less_means_less() {
    let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
    publisher.set(&state()).unwrap();
    step(&publisher, &mut Watcher::new(None), &mut subscriber);
    let empty = Update {
        version: Version {
            publisher: 7,
            number: 1,
        },
        base: None,
        sections: Sections::default(),
    };
    subscriber.apply(&empty).unwrap();
    let kept = State {
        trust_set: b"signed".to_vec(),
        relays: state().relays,
        ..State::default()
    };
    assert_eq!(subscriber.state(), &kept);
}

#[test]
fn unknown_sections_are_skipped_and_doubled_ones_refused() {
    let known = [0x04, 0x41, 0xf5];
    let decode = |bytes: &[u8]| minicbor::decode::<Sections>(bytes);
    let skipped = decode(&[&[0xa2, 0x18, 0x63, 0x41, 0x00][..], &known].concat()).unwrap();
    assert_eq!(
        skipped.0.keys().copied().collect::<Vec<_>>(),
        [Section::Ready]
    );
    assert!(decode(&[&[0xa2][..], &known, &known].concat()).is_err());
}

/// Bytes as SPEC.md section 5 has them, for implementations in other languages.
#[test]
fn vectors_of_the_section_services() {
    let with = |services: Option<&[&str]>| State {
        services: services.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        ..State::default()
    };
    for (services, bytes) in [
        (None, &[0xf6][..]),
        (Some(&[][..]), &[0x80]),
        (Some(&["ssh", "app"][..]), b"\x82\x63ssh\x63app"),
    ] {
        let state = with(services);
        assert_eq!(Section::Services.write(&state).unwrap(), bytes);
        let mut read = State::default();
        Section::Services.read(bytes, &mut read).unwrap();
        assert_eq!(read, state);
    }
    for bad in [
        &b"\x81\x60"[..],
        b"\x81\x70sixteen-letters-",
        b"\x81\x01",
        b"\x80\x80",
    ] {
        assert!(
            Section::Services.read(bad, &mut State::default()).is_err(),
            "{bad:?}"
        );
    }
    let many = vec!["a".to_owned(); crate::limits::SERVICES_MAX + 1];
    let state = State {
        services: Some(many),
        ..State::default()
    };
    assert!(Section::Services.write(&state).is_err());
}

#[test]
fn vectors_of_the_section_tickets() {
    let mut bytes = vec![0x81, 0x50];
    bytes.extend([7; 16]);
    assert_eq!(Section::Tickets.write(&state()).unwrap(), bytes);
    let mut read = State::default();
    Section::Tickets.read(&bytes, &mut read).unwrap();
    assert_eq!(read.tickets, state().tickets);
    for bad in [&b"\x81\x4f"[..], b"\x81\x01", b"\x80\x80", &bytes[..17]] {
        assert!(Section::Tickets.read(bad, &mut State::default()).is_err());
    }
}

#[test]
fn the_largest_state_fits_into_an_update() {
    let mut revocations = RevocationList::default();
    for n in 0..fairway_identity::limits::REVOCATIONS {
        let entry = Revocation {
            issued_before: UnixSeconds(u64::MAX),
            keep_until: UnixSeconds(u64::MAX),
        };
        revocations
            .insert(Uid::new(&format!("{n:036}")).unwrap(), entry)
            .unwrap();
    }
    let names: Vec<Address> = vec![Address::Authority; crate::limits::NAMES_MAX];
    let full = State {
        revocations,
        names,
        tickets: (0..crate::limits::TICKETS_MAX as u128)
            .map(|n| TicketId(n.to_be_bytes()))
            .collect(),
        ..state()
    };
    let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
    publisher.set(&full).unwrap();
    step(&publisher, &mut Watcher::new(None), &mut subscriber);
    assert_eq!(subscriber.state(), &full);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens to the state and to the stream, a watcher that goes on
    /// asking ends with the state of the publisher.
    #[test]
    fn subscribers_converge(states in vec((any_state(), any::<bool>(), any::<bool>()), 1..12)) {
        let (mut publisher, mut subscriber) = (Publisher::new(1), Subscriber::new());
        let mut watcher = Watcher::new(None);
        let mut last = State::default();
        for (state, poll, reconnect) in states {
            publisher.set(&state).expect("small states can be published");
            last = state;
            if reconnect {
                let crate::authority::Request::Watch { have } = subscriber.request() else {
                    unreachable!("a subscriber only watches")
                };
                watcher = Watcher::new(have);
            }
            if poll {
                step(&publisher, &mut watcher, &mut subscriber);
            }
        }
        while step(&publisher, &mut watcher, &mut subscriber) {}
        prop_assert_eq!(subscriber.state(), &last);
    }

    #[test]
    fn updates_have_a_codec(state in any_state()) {
        let mut publisher = Publisher::new(3);
        publisher.set(&state).expect("small states can be published");
        let update = publisher.poll(&mut Watcher::new(None)).expect("a snapshot");
        check_codec(&Response::Update(update));
    }

    #[test]
    fn garbage_in_a_section_never_panics(bytes in garbage()) {
        for section in Section::ALL {
            let mut state = state();
            if section.read(&bytes, &mut state).is_ok() {
                section.write(&state).expect("what was read can be written");
            }
        }
    }
}
