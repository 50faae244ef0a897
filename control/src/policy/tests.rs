use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use fairway_policy::{
    Action, AttributeSelector, CallerRule, Door, HttpRule, Method, Mode, Operator, PathPattern,
    Policy, PolicySet, Protocol, Requirement, limits,
};

use super::*;
use crate::limits::POLICY_TEXT_MAX;

fn word() -> impl Strategy<Value = String> {
    "[a-z]{1,8}"
}

fn words() -> impl Strategy<Value = Vec<String>> {
    vec(word(), 0..3)
}

fn http_rule() -> impl Strategy<Value = HttpRule> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("DELETE")];
    let path = prop_oneof![Just("/metrics"), Just("/v1/*"), Just("/")];
    (vec(method, 0..3), vec(path, 0..3)).prop_map(|(methods, paths)| HttpRule {
        methods: methods
            .into_iter()
            .map(|m| Method::new(m).expect("a method"))
            .collect(),
        paths: paths
            .into_iter()
            .map(|p| PathPattern::new(p).expect("a pattern"))
            .collect(),
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Tcp),
        vec(http_rule(), 0..3).prop_map(Protocol::Http)
    ]
}

fn door() -> impl Strategy<Value = Door> {
    prop_oneof![
        Just(Door::Any),
        (1..=u16::MAX, protocol()).prop_map(|(port, protocol)| Door::Port { port, protocol }),
        (word(), protocol()).prop_map(|(service, protocol)| Door::Service { service, protocol }),
    ]
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let with_values = prop_oneof![Just(Operator::In), Just(Operator::NotIn)];
    let without = prop_oneof![Just(Operator::Exists), Just(Operator::DoesNotExist)];
    prop_oneof![
        (word(), with_values, vec(word(), 1..3)).prop_map(|(key, operator, values)| {
            Requirement {
                key,
                operator,
                values,
            }
        }),
        (word(), without).prop_map(|(key, operator)| Requirement {
            key,
            operator,
            values: vec![]
        }),
    ]
}

fn caller() -> impl Strategy<Value = CallerRule> {
    let selector = (btree_map(word(), word(), 0..3), vec(requirement(), 0..3));
    prop_oneof![
        (words(), words(), selector).prop_map(|(namespaces, names, selector)| {
            let (match_attributes, expressions) = selector;
            let attributes = AttributeSelector {
                match_attributes,
                expressions,
            };
            CallerRule::Devices {
                namespaces,
                names,
                attributes,
            }
        }),
        (words(), words()).prop_map(|(namespaces, service_accounts)| {
            CallerRule::Workloads {
                namespaces,
                service_accounts,
            }
        }),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let mode = prop_oneof![Just(Mode::Enforce), Just(Mode::Audit)];
    (
        word(),
        word(),
        action,
        mode,
        vec(caller(), 0..3),
        vec(door(), 0..3),
    )
        .prop_map(|(namespace, name, action, mode, from, to)| Policy {
            namespace,
            name,
            action,
            mode,
            from,
            to,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is enforced at the endpoint is what the authority meant.
    #[test]
    fn policies_round_trip(policies in vec(policy(), 0..4)) {
        let set = PolicySet { policies };
        let bytes = minicbor::to_vec(WirePolicies::from(&set)).expect("into a Vec");
        let wire: WirePolicies = minicbor::decode(&bytes).expect("readable");
        prop_assert_eq!(PolicySet::try_from(wire).expect("valid"), set);
        for end in 0..bytes.len() {
            prop_assert!(minicbor::decode::<WirePolicies>(&bytes[..end]).is_err());
        }
    }
}

fn valid() -> WirePolicy {
    WirePolicy {
        namespace: "ns".to_owned(),
        name: "p".to_owned(),
        action: WireAction::Deny,
        mode: WireMode::Enforce,
        from: vec![],
        to: vec![],
    }
}

fn refused(policy: WirePolicy) -> bool {
    // Among good ones, to see that it is the whole set that is refused.
    PolicySet::try_from(WirePolicies(vec![valid(), policy, valid()])).is_err()
}

fn requires(operator: WireOperator, values: &[&str]) -> WirePolicy {
    let requirement = WireRequirement {
        key: "site".to_owned(),
        operator,
        values: values.iter().map(ToString::to_string).collect(),
    };
    let caller = WireCaller::Devices {
        namespaces: vec![],
        names: vec![],
        match_attributes: BTreeMap::new(),
        expressions: vec![requirement],
    };
    WirePolicy {
        from: vec![caller],
        ..valid()
    }
}

fn http(method: &str, path: &str) -> WirePolicy {
    let rule = WireHttpRule {
        methods: vec![method.to_owned()],
        paths: vec![path.to_owned()],
    };
    let door = WireDoor::Port {
        port: 80,
        protocol: WireProtocol::Http(vec![rule]),
    };
    WirePolicy {
        to: vec![door],
        ..valid()
    }
}

#[test]
fn what_is_not_understood_refuses_the_whole_set() {
    assert!(!refused(valid()));
    assert!(!refused(requires(WireOperator::In, &["oslo"])));
    assert!(!refused(http("GET", "/v1/*")));

    assert!(refused(requires(WireOperator::In, &[])));
    assert!(refused(requires(WireOperator::NotIn, &[])));
    assert!(refused(requires(WireOperator::Exists, &["oslo"])));
    assert!(refused(requires(WireOperator::DoesNotExist, &["oslo"])));
    assert!(refused(requires(
        WireOperator::In,
        &["x".repeat(POLICY_TEXT_MAX + 1).as_str()]
    )));
    assert!(refused(http("", "/")));
    assert!(refused(http("GET", "no-slash")));
    assert!(refused(http("GET", "/a*b")));
    assert!(refused(WirePolicy {
        name: String::new(),
        ..valid()
    }));
    let any = vec![WireDoor::Any; limits::DOORS + 1];
    assert!(refused(WirePolicy { to: any, ..valid() }));
    let nobody = WireCaller::Workloads {
        namespaces: vec![],
        service_accounts: vec![],
    };
    assert!(refused(WirePolicy {
        from: vec![nobody; limits::CALLER_RULES + 1],
        ..valid()
    }));
    let port_0 = WireDoor::Port {
        port: 0,
        protocol: WireProtocol::Tcp,
    };
    assert!(refused(WirePolicy {
        to: vec![port_0],
        ..valid()
    }));
    let unnamed = WireDoor::Service {
        service: String::new(),
        protocol: WireProtocol::Tcp,
    };
    assert!(refused(WirePolicy {
        to: vec![unnamed],
        ..valid()
    }));
    let many = WirePolicies(vec![valid(); limits::POLICIES + 1]);
    assert!(PolicySet::try_from(many).is_err());
}

#[test]
fn an_unknown_action_mode_or_operator_is_refused() {
    assert!(minicbor::decode::<WireAction>(&[2]).is_err());
    assert!(minicbor::decode::<WireMode>(&[2]).is_err());
    assert!(minicbor::decode::<WireOperator>(&[4]).is_err());
    assert!(minicbor::decode::<WireDoor>(&[0x82, 3, 0x80]).is_err());
}
