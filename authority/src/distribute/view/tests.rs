use super::*;
use crate::distribute::facts::TicketFacts;
use crate::distribute::index::Touched;
use crate::revoke::Cause;
use crate::revoke::Entry;
use crate::testing::{self, device, device_policy, index, pod, policy, service};
use fairway_identity::proof::TicketId;

const NOW: UnixSeconds = UnixSeconds(1000);

fn of_pod(pod: &PodFacts) -> Audience {
    Audience::Workload {
        namespace: pod.namespace.clone(),
        service_account: pod.service_account.clone(),
        uid: Uid::new(&pod.uid).unwrap(),
    }
}

fn of_device(device: &DeviceFacts) -> Audience {
    Audience::Device {
        namespace: device.namespace.clone(),
        name: device.name.clone(),
        uid: Uid::new(&device.uid).unwrap(),
    }
}

fn put(index: &mut Index, facts: PolicyFacts) {
    index.apply_policy((facts.namespace.clone(), facts.name.clone()), Some(facts));
}

fn put_service(index: &mut Index, facts: ServiceFacts) {
    index.apply_service(
        (facts.namespace.clone(), facts.name.clone()),
        Some(facts),
        NOW,
    );
}

fn revoke(index: &mut Index, kind: Kind, namespace: &str, uid: &str) {
    let mut record = index.record().clone();
    record.insert(Entry {
        uid: Uid::new(uid).unwrap(),
        kind,
        namespace: namespace.to_owned(),
        name: "x".to_owned(),
        cause: Cause::Deleted,
        issued_before: NOW,
        effective: NOW,
        keep_until: NOW.plus(100),
    });
    index.set_record(record, NOW);
}

#[test]
fn relays_are_told_of_tickets_that_have_not_expired() {
    let mut index = index();
    let relay = Audience::Relay {
        namespace: "fairway-system".to_owned(),
        uid: Uid::new("relay-0").unwrap(),
    };
    let ticket = |n: u8, expires| TicketFacts {
        id: TicketId([n; 16]),
        expires,
    };
    let name = |name: &str| ("factory".to_owned(), name.to_owned());
    let told = |index: &Index, now| index.view(&relay, now).unwrap().state.tickets;
    let later = NOW.plus(60);
    assert!(told(&index, NOW).is_empty());
    let touched = index.apply_ticket(name("a"), Some(ticket(1, later)));
    assert_eq!(
        touched,
        Touched::Namespaces(["fairway-system".to_owned()].into())
    );
    index.apply_ticket(name("b"), Some(ticket(2, NOW)));
    assert_eq!(told(&index, NOW), [TicketId([1; 16])].into());
    assert!(told(&index, later).is_empty());
    assert_eq!(
        index.apply_ticket(name("a"), Some(ticket(1, later))),
        Touched::Nobody
    );
    index.apply_ticket(name("a"), None);
    assert!(told(&index, NOW).is_empty());
    let pump = device("factory", "pump-7");
    index.apply_device(pump.clone());
    index.apply_ticket(name("c"), Some(ticket(3, later)));
    assert!(
        index
            .view(&of_device(&pump), NOW)
            .unwrap()
            .state
            .tickets
            .is_empty()
    );
}

#[test]
fn a_device_is_told_which_services_it_may_offer() {
    let mut index = index();
    for services in [None, Some(vec![]), Some(vec!["metrics".to_owned()])] {
        let pump = DeviceFacts {
            services: services.clone(),
            ..device("factory", "pump-7")
        };
        index.apply_device(pump.clone());
        let told = index.view(&of_device(&pump), NOW).unwrap().state;
        assert_eq!(told.services, services);
    }
}

#[test]
fn endpoints_have_names_for_people() {
    let mut index = index();
    let short = pod("factory", "web-0", "");
    let long = PodFacts {
        name: "x".repeat(200),
        ..pod("factory", "web-1", "")
    };
    for pod in [&short, &long] {
        index.apply_pod(pod.clone(), NOW);
    }
    assert_eq!(index.name_of(&of_pod(&short)), "pod factory/web-0");
    let name = index.name_of(&of_pod(&long));
    assert_eq!(name.chars().count(), limits::WAITING_NAME_MAX);
    let pump = device("factory", "pump-7");
    assert_eq!(index.name_of(&of_device(&pump)), "device factory/pump-7");
}

fn policy_names(state: &State) -> Vec<&str> {
    state
        .policies
        .policies
        .iter()
        .map(|policy| policy.name.as_str())
        .collect()
}

#[test]
fn a_pod_gets_the_policies_that_select_it_and_no_others() {
    let mut index = index();
    let pod = pod("factory", "p", "app=a");
    index.apply_pod(pod.clone(), NOW);
    put(&mut index, policy("factory", "mine", "app=a", &["factory"]));
    put(
        &mut index,
        policy("factory", "anothers", "app=b", &["factory"]),
    );
    put(
        &mut index,
        policy("lab", "elsewhere", "app=a", &["factory"]),
    );
    put(
        &mut index,
        device_policy("factory", "devices", "pump-7", &["factory"]),
    );
    let view = index.view(&of_pod(&pod), NOW).unwrap();
    assert_eq!(policy_names(&view.state), ["mine"]);
}

#[test]
fn a_device_gets_the_policies_that_select_it_and_its_own_name() {
    let mut index = index();
    let device = device("factory", "pump-7");
    index.apply_device(device.clone());
    put(
        &mut index,
        device_policy("factory", "mine", "pump-7", &["monitoring"]),
    );
    put(
        &mut index,
        device_policy("factory", "anothers", "pump-8", &["monitoring"]),
    );
    put(&mut index, policy("factory", "pods", "app=a", &["factory"]));
    let state = index.view(&of_device(&device), NOW).unwrap().state;
    assert_eq!(policy_names(&state), ["mine"]);
    assert_eq!(
        state.names,
        ["pump-7.factory.device.fairway.internal".parse().unwrap()]
    );
    assert_eq!(state.relays, ["relay.example.com:7440".parse().unwrap()]);
    assert!(state.ready && state.doors.is_empty() && !state.trust_set.is_empty());
}

#[test]
fn doors_and_names_come_from_services() {
    let mut index = index();
    let mut pod = pod("factory", "db-0", "app=db");
    pod.ports.insert("sql".to_owned(), 5432);
    index.apply_pod(pod.clone(), NOW);
    let mut db = service("factory", "db", "app=db");
    db.headless = true;
    db.ports = vec![
        crate::distribute::facts::ServicePort {
            port: 80,
            target: TargetPort::Name("sql".to_owned()),
        },
        crate::distribute::facts::ServicePort {
            port: 81,
            target: TargetPort::Name("nowhere".to_owned()),
        },
    ];
    put_service(&mut index, db);
    put_service(&mut index, service("factory", "web", "app=db"));
    put_service(&mut index, service("factory", "other", "app=x"));
    let state = index.view(&of_pod(&pod), NOW).unwrap().state;
    let doors: Vec<_> = state
        .doors
        .iter()
        .map(|d| (d.service.as_str(), d.port, d.target_port))
        .collect();
    assert_eq!(doors, [("db", 80, 5432), ("web", 80, 8080)]);
    let names: Vec<String> = state.names.iter().map(Address::to_string).collect();
    assert_eq!(
        names,
        [
            "db.factory.svc.fairway.internal",
            "db-0.db.factory.svc.fairway.internal",
            "web.factory.svc.fairway.internal"
        ]
    );
}

#[test]
fn names_are_registered_only_while_the_pod_is_ready() {
    let mut index = index();
    let mut pod = pod("factory", "p", "");
    for (ready, ending, want) in [
        (true, false, true),
        (false, false, false),
        (true, true, false),
    ] {
        (pod.ready, pod.ending) = (ready, ending);
        index.apply_pod(pod.clone(), NOW);
        assert_eq!(index.view(&of_pod(&pod), NOW).unwrap().state.ready, want);
    }
}

#[test]
fn who_is_gone_is_told_nothing() {
    let mut index = index();
    let pump = device("factory", "pump-7");
    assert_eq!(
        index.view(&of_device(&pump), NOW).unwrap_err(),
        Gone::Device
    );
    index.apply_device(DeviceFacts {
        uid: "anew".to_owned(),
        ..pump.clone()
    });
    assert_eq!(
        index.view(&of_device(&pump), NOW).unwrap_err(),
        Gone::Device
    );
    for state in [DeviceState::Suspended, DeviceState::Revoked] {
        index.apply_device(DeviceFacts {
            state,
            ..pump.clone()
        });
        assert_eq!(
            index.view(&of_device(&pump), NOW).unwrap_err(),
            Gone::DeviceState
        );
    }
    assert_eq!(
        index
            .view(&of_pod(&pod("factory", "p", "")), NOW)
            .unwrap_err(),
        Gone::Pod
    );
}

#[test]
fn revocations_go_to_those_who_may_meet_the_revoked() {
    let mut index = index();
    let (collector, other) = (
        pod("factory", "collector", "app=a"),
        pod("office", "other", "app=b"),
    );
    let (pump, meter) = (device("factory", "pump-7"), device("lab", "meter-1"));
    index.apply_pod(collector.clone(), NOW);
    index.apply_pod(other.clone(), NOW);
    index.apply_device(pump.clone());
    index.apply_device(meter.clone());
    // Devices of the lab may call the collector.
    put(&mut index, policy("factory", "p", "app=a", &["lab"]));
    revoke(&mut index, Kind::Device, "lab", "dead-device");
    revoke(&mut index, Kind::Workload, "factory", "dead-pod");
    revoke(&mut index, Kind::Workload, "fairway-system", "dead-relay");
    let told = |audience: &Audience| -> Vec<String> {
        let view = index.view(audience, NOW).unwrap();
        view.state
            .revocations
            .iter()
            .map(|(uid, _)| uid.to_string())
            .collect()
    };
    assert_eq!(told(&of_pod(&collector)), ["dead-device", "dead-relay"]);
    assert_eq!(told(&of_pod(&other)), ["dead-relay"]);
    assert_eq!(told(&of_device(&meter)), ["dead-pod", "dead-relay"]);
    assert_eq!(told(&of_device(&pump)), ["dead-relay"]);
    let all = ["dead-device", "dead-pod", "dead-relay"];
    assert_eq!(
        told(&Audience::Front {
            namespace: "fairway-system".into()
        }),
        all
    );
    let relay = Audience::Relay {
        namespace: "fairway-system".into(),
        uid: Uid::new("r").unwrap(),
    };
    assert_eq!(told(&relay), all);
}

#[test]
fn a_changed_attribute_asks_for_renewal_before_it_kills() {
    let mut index = index();
    let pump = device("factory", "pump-7");
    index.apply_device(pump.clone());
    let mut record = Record::default();
    record.insert(Entry {
        uid: Uid::new(&pump.uid).unwrap(),
        kind: Kind::Device,
        namespace: "factory".to_owned(),
        name: "pump-7".to_owned(),
        cause: Cause::Changed,
        issued_before: NOW,
        effective: NOW.plus(60),
        keep_until: NOW.plus(1000),
    });
    index.set_record(record, NOW);
    let state = index.view(&of_device(&pump), NOW).unwrap().state;
    assert_eq!(state.renew_issued_before, Some(NOW));
    let front = Audience::Front {
        namespace: "fairway-system".into(),
    };
    assert!(
        index
            .view(&front, NOW.plus(59))
            .unwrap()
            .state
            .revocations
            .is_empty()
    );
    assert_eq!(
        index
            .view(&front, NOW.plus(60))
            .unwrap()
            .state
            .revocations
            .len(),
        1
    );
}

#[test]
fn relays_and_front_are_recognised_by_exactly_their_identity() {
    let install = testing::install();
    let audience = |id: &str| {
        let id: fairway_identity::SpiffeId = id.parse().unwrap();
        Audience::of(&id.subject, Uid::new("u").unwrap(), &install)
    };
    let relay = audience("spiffe://fairway.local/ns/fairway-system/sa/fairway-relay");
    assert!(matches!(relay, Audience::Relay { .. }));
    for other in [
        "ns/factory/sa/fairway-relay",
        "ns/fairway-system/sa/fairway-authority",
    ] {
        let audience = audience(&format!("spiffe://fairway.local/{other}"));
        assert!(matches!(audience, Audience::Workload { .. }), "{other}");
    }
}

use crate::revoke::Record;
