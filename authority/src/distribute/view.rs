//! The view that one endpoint gets of the index: a pure function.

use std::collections::BTreeSet;

use fairway_control::update::{Door, State};
use fairway_crds::DeviceState;
use fairway_identity::{Address, Label, Subject, Uid, UnixSeconds};
use fairway_policy::{Caller, CallerRule, PolicySet};

use super::facts::{DeviceFacts, PodFacts, PolicyFacts, ServiceFacts, TargetPort};
use super::index::Index;
use crate::limits;
use crate::names::Install;
use crate::revoke::{Entry, Kind};

/// Who watches, by its verified credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A device.
    Device {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// UID of its DeviceIdentity.
        uid: Uid,
    },
    /// A pod with a sidecar.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its ServiceAccount.
        service_account: String,
        /// Its UID.
        uid: Uid,
    },
    /// A relay.
    Relay {
        /// The install namespace.
        namespace: String,
        /// UID of its pod.
        uid: Uid,
    },
    /// The authority's own front.
    Front {
        /// The install namespace.
        namespace: String,
    },
}

/// What an endpoint has to know now.
#[derive(Clone, Debug)]
pub struct View {
    /// What it is told.
    pub state: State,
    /// Which revocations concern it.
    pub concern: Concern,
    /// Which revision of the revocations this is.
    pub revision: u64,
}

/// Why there is nothing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// No such device, or made anew.
    #[error("the device of this credential does not exist any more")]
    Device,
    /// It is suspended or revoked.
    #[error("the device is suspended or revoked")]
    DeviceState,
    /// No such pod (yet).
    #[error("the pod of this credential does not exist")]
    Pod,
}

/// Which revocations concern an endpoint: those of objects that it may meet.
/// By namespace, which is coarser than policy, but never too narrow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    kind: Option<Kind>,
    namespaces: Namespaces,
    /// Relays and the authority concern everybody.
    install: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Namespaces {
    All,
    Some(BTreeSet<String>),
}

impl Audience {
    /// The audience of a verified peer: the relays and the authority are
    /// recognised by exactly their identity.
    pub fn of(subject: &Subject, uid: Uid, install: &Install) -> Self {
        match subject {
            Subject::Device { namespace, name } => Self::Device {
                namespace: namespace.to_string(),
                name: name.to_string(),
                uid,
            },
            Subject::Workload {
                namespace,
                service_account,
            } if *namespace == install.namespace && *service_account == install.relay_account => {
                Self::Relay {
                    namespace: namespace.to_string(),
                    uid,
                }
            }
            Subject::Workload {
                namespace,
                service_account,
            } => Self::Workload {
                namespace: namespace.to_string(),
                service_account: service_account.to_string(),
                uid,
            },
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Device { namespace, .. }
            | Self::Workload { namespace, .. }
            | Self::Relay { namespace, .. }
            | Self::Front { namespace } => namespace,
        }
    }

    /// UID of the object behind it; empty for the front.
    pub fn uid(&self) -> &str {
        match self {
            Self::Device { uid, .. } | Self::Workload { uid, .. } | Self::Relay { uid, .. } => {
                uid.as_str()
            }
            Self::Front { .. } => "",
        }
    }

    /// What kind it is, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Device { .. } => "device",
            Self::Workload { .. } => "workload",
            Self::Relay { .. } => "relay",
            Self::Front { .. } => "front",
        }
    }
}

impl Concern {
    fn everything(install: &Install) -> Self {
        Self {
            kind: None,
            namespaces: Namespaces::All,
            install: install.namespace.to_string(),
        }
    }

    /// Whether a revocation concerns the endpoint.
    pub fn covers(&self, entry: &Entry) -> bool {
        if entry.kind == Kind::Workload && entry.namespace == self.install {
            return true;
        }
        self.kind.is_none_or(|kind| kind == entry.kind)
            && match &self.namespaces {
                Namespaces::All => true,
                Namespaces::Some(namespaces) => namespaces.contains(&entry.namespace),
            }
    }
}

impl Index {
    /// What people call an endpoint, shortened.
    pub fn name_of(&self, audience: &Audience) -> String {
        let name = match audience {
            Audience::Device {
                namespace, name, ..
            } => format!("device {namespace}/{name}"),
            Audience::Workload { namespace, uid, .. } | Audience::Relay { namespace, uid } => {
                let pod = self.pod(uid.as_str()).map(|pod| pod.name.as_str());
                format!("pod {namespace}/{}", pod.unwrap_or(uid.as_str()))
            }
            Audience::Front { .. } => "the authority's front".to_owned(),
        };
        match name.char_indices().nth(limits::WAITING_NAME_MAX - 1) {
            Some((end, _)) if name.len() > limits::WAITING_NAME_MAX => {
                format!("{}…", &name[..end])
            }
            Some(_) | None => name,
        }
    }

    /// What `audience` has to know at `now`.
    ///
    /// # Errors
    /// The object behind it is gone, or may not have a credential.
    pub fn view(&self, audience: &Audience, now: UnixSeconds) -> Result<View, Gone> {
        let (mut state, concern) = match audience {
            Audience::Device {
                namespace,
                name,
                uid,
            } => {
                let device = self.device(&(namespace.clone(), name.clone()));
                let device = device
                    .filter(|device| device.uid == uid.as_str())
                    .ok_or(Gone::Device)?;
                self.device_view(device)?
            }
            Audience::Workload { uid, .. } => self.pod_view(
                self.pod(uid.as_str())
                    .filter(|pod| !pod.ending || pod.ready)
                    .ok_or(Gone::Pod)?,
            ),
            Audience::Relay { .. } => (State::default(), Concern::everything(&self.install)),
            Audience::Front { .. } => {
                let state = State {
                    ready: true,
                    relays: self.inside_relays(),
                    names: vec![Address::Authority],
                    ..State::default()
                };
                (state, Concern::everything(&self.install))
            }
        };
        state.trust_set = self
            .trust
            .as_ref()
            .map(|trust| trust.bytes().to_vec())
            .unwrap_or_default();
        state.revocations = self.record.list(now, |entry| concern.covers(entry));
        if let Ok(uid) = Uid::new(audience.uid()) {
            state.renew_issued_before = state
                .renew_issued_before
                .max(self.record.renew_before(&uid));
        }
        Ok(View {
            state,
            concern,
            revision: self.revision,
        })
    }

    fn device_view(&self, device: &DeviceFacts) -> Result<(State, Concern), Gone> {
        match device.state {
            DeviceState::Active => {}
            DeviceState::Suspended | DeviceState::Revoked => return Err(Gone::DeviceState),
        }
        let policies = self.policies_in(&device.namespace);
        let protecting: Vec<&PolicyFacts> = policies
            .filter(|policy| {
                policy
                    .compiled
                    .target
                    .selects_device(&device.name, &device.attributes)
            })
            .collect();
        let caller = Caller::Device {
            namespace: device.namespace.clone(),
            name: device.name.clone(),
            attributes: device.attributes.clone(),
        };
        let names = device_address(device).into_iter().collect();
        let state = State {
            policies: set(&protecting),
            ready: true,
            relays: self.outside_relays.clone(),
            names,
            services: device.services.clone(),
            ..State::default()
        };
        Ok((state, self.concern(Kind::Workload, &protecting, &caller)))
    }

    fn pod_view(&self, pod: &PodFacts) -> (State, Concern) {
        let policies = self.policies_in(&pod.namespace);
        let protecting: Vec<&PolicyFacts> = policies
            .filter(|policy| policy.compiled.target.selects_pod(&pod.labels))
            .collect();
        let caller = Caller::Workload {
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
        };
        let services = self.backing(&pod.namespace, &pod.labels).services;
        let backed: Vec<&ServiceFacts> = self
            .services_of(&pod.namespace)
            .filter(|service| {
                services
                    .iter()
                    .any(|listed| listed.as_str() == service.name)
            })
            .collect();
        let state = State {
            policies: set(&protecting),
            doors: doors(&backed, pod),
            ready: pod.ready && !pod.ending,
            relays: self.inside_relays(),
            names: pod_addresses(&backed, pod),
            renew_issued_before: self.pod_renew_before(&pod.uid),
            ..State::default()
        };
        (state, self.concern(Kind::Device, &protecting, &caller))
    }

    fn policies_in(&self, namespace: &str) -> impl Iterator<Item = &PolicyFacts> {
        self.policies
            .get(namespace)
            .into_iter()
            .flat_map(|policies| policies.values())
    }

    /// Whom the endpoint may meet: callers that its own policies let in, and
    /// callees whose policies let it in.
    fn concern(&self, kind: Kind, protecting: &[&PolicyFacts], caller: &Caller) -> Concern {
        let mut namespaces = BTreeSet::new();
        let mut all = false;
        for rule in protecting
            .iter()
            .flat_map(|policy| &policy.compiled.policy.from)
        {
            let (CallerRule::Devices {
                namespaces: from, ..
            }
            | CallerRule::Workloads {
                namespaces: from, ..
            }) = rule;
            all |= from.is_empty();
            namespaces.extend(from.iter().cloned());
        }
        for policy in self
            .policies
            .values()
            .flat_map(|policies| policies.values())
        {
            if policy
                .compiled
                .policy
                .from
                .iter()
                .any(|rule| may_match(rule, caller))
            {
                namespaces.insert(policy.namespace.clone());
            }
        }
        Concern {
            kind: Some(kind),
            namespaces: if all {
                Namespaces::All
            } else {
                Namespaces::Some(namespaces)
            },
            install: self.install.namespace.to_string(),
        }
    }
}

/// Whether a rule could mean the caller: attributes and names are left out,
/// which only makes more revocations concern it.
fn may_match(rule: &CallerRule, caller: &Caller) -> bool {
    match (rule, caller) {
        (CallerRule::Devices { namespaces, .. }, Caller::Device { namespace, .. })
        | (CallerRule::Workloads { namespaces, .. }, Caller::Workload { namespace, .. }) => {
            namespaces.is_empty() || namespaces.contains(namespace)
        }
        (CallerRule::Devices { .. }, Caller::Workload { .. })
        | (CallerRule::Workloads { .. }, Caller::Device { .. }) => false,
    }
}

fn set(policies: &[&PolicyFacts]) -> PolicySet {
    PolicySet {
        policies: policies
            .iter()
            .map(|policy| policy.compiled.policy.clone())
            .collect(),
    }
}

fn device_address(device: &DeviceFacts) -> Option<Address> {
    let (namespace, name) = (
        Label::new(&device.namespace).ok()?,
        Label::new(&device.name).ok()?,
    );
    Some(Address::Device { namespace, name })
}

/// The ports of the Services that a pod backs, and where they lead in it. A
/// named port that no container has leads nowhere.
fn doors(services: &[&ServiceFacts], pod: &PodFacts) -> Vec<Door> {
    let mut doors = Vec::new();
    for service in services {
        for port in &service.ports {
            let target = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => pod.ports.get(name).copied(),
            };
            let (Some(target_port), Ok(service)) = (target, Label::new(&service.name)) else {
                continue;
            };
            doors.push(Door {
                service,
                port: port.port,
                target_port,
            });
        }
    }
    doors.sort();
    doors.truncate(limits::DOORS_PER_POD_MAX);
    doors
}

fn pod_addresses(services: &[&ServiceFacts], pod: &PodFacts) -> Vec<Address> {
    let mut addresses = Vec::new();
    let Ok(namespace) = Label::new(&pod.namespace) else {
        return addresses;
    };
    for service in services {
        let Ok(label) = Label::new(&service.name) else {
            continue;
        };
        addresses.push(Address::Service {
            namespace: namespace.clone(),
            service: label.clone(),
        });
        if service.headless
            && let Ok(pod) = Label::new(&pod.name)
        {
            addresses.push(Address::Pod {
                namespace: namespace.clone(),
                service: label,
                pod,
            });
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revoke::Cause;
    use crate::testing::{self, device, device_policy, index, pod, policy, service};

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
}
