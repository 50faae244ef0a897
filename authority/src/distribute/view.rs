//! The view that one endpoint gets of the index: a pure function.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use fairway_control::update::{Door, State};
use fairway_crds::DeviceState;
use fairway_identity::{Address, Label, Uid, UnixSeconds};
use fairway_policy::{Caller, CallerRule, PolicySet};

use super::audience::{Audience, Concern, Namespaces};
use super::facts::{DeviceFacts, PodFacts, PolicyFacts, ServiceFacts, TargetPort};
use super::index::Index;
use crate::limits;
use crate::revoke::Kind;

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
            Audience::Relay { .. } => {
                let state = State {
                    tickets: self.live_tickets(now),
                    ..State::default()
                };
                (state, Concern::everything(&self.install))
            }
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
