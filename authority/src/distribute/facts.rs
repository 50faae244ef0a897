//! What the authority keeps of each Kubernetes object: a few fields instead of
//! the whole, since a large cluster has many.

use std::collections::BTreeMap;

use fairway_crds::conditions::find;
use fairway_crds::labels::SIDECAR_CONTAINER;
use fairway_crds::{CompiledPolicy, DeviceIdentity, DeviceState, EnrollmentTicket};
use fairway_identity::proof::TicketId;
use fairway_identity::{HostPort, RelayAddress, UnixSeconds, VerifyingKey};
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::clock::from_kubernetes;
use crate::names::{Install, REVOKED};

/// A pod that is an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its ServiceAccount.
    pub service_account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is Ready.
    pub ready: bool,
    /// Whether it is being deleted or has ended.
    pub ending: bool,
    /// Whether the kubelet has seen its sidecar end. Only that says so: the
    /// phase is also set by others, for nodes that nobody can ask.
    pub sidecar_ended: bool,
    /// Its named container ports.
    pub ports: BTreeMap<String, u16>,
}

impl PodFacts {
    /// The facts of `pod`; `None` if it has no sidecar and is no part of
    /// Fairway: then it cannot be an endpoint.
    pub fn of(pod: &Pod, install: &Install) -> Option<Self> {
        let namespace = pod.namespace()?;
        let spec = pod.spec.as_ref()?;
        let service_account = spec
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let injected = spec
            .init_containers
            .iter()
            .flatten()
            .any(|container| container.name == SIDECAR_CONTAINER);
        let own = namespace == install.namespace.as_str()
            && (service_account == install.relay_account.as_str()
                || service_account == install.authority_account.as_str());
        if !injected && !own {
            return None;
        }
        let containers = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        Some(Self {
            name: pod.name_any(),
            uid: pod.uid()?,
            service_account,
            labels: pod.labels().clone(),
            ready: is_ready(pod),
            sidecar_ended: sidecar_has_ended(pod),
            ending: pod.metadata.deletion_timestamp.is_some() || has_ended(pod),
            ports: containers.flat_map(named_ports).collect(),
            namespace,
        })
    }
}

/// Whether all containers of a pod have ended for good.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn sidecar_has_ended(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_ref());
    let sidecar = statuses
        .into_iter()
        .flatten()
        .find(|status| status.name == SIDECAR_CONTAINER);
    let state = sidecar.and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.terminated.is_some())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn named_ports(container: &Container) -> impl Iterator<Item = (String, u16)> + '_ {
    container.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.container_port)
            .ok()
            .filter(|number| *number != 0)?;
        // Fairway carries TCP; Kubernetes' default protocol is TCP.
        let tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
        Some((port.name.clone().filter(|_| tcp)?, number))
    })
}

/// A Service that may select pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Labels that a pod must have; never empty.
    pub selector: BTreeMap<String, String>,
    /// Whether single pods of it can be addressed.
    pub headless: bool,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port that callers use.
    pub port: u16,
    /// Where it leads.
    pub target: TargetPort,
}

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container port.
    Name(String),
}

impl ServiceFacts {
    /// The facts of `service`; `None` if it selects nothing: one without a
    /// selector, or an ExternalName, never gives a pod its name.
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let selector = spec
            .selector
            .clone()
            .filter(|selector| !selector.is_empty())?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        Some(Self {
            namespace: service.namespace()?,
            name: service.name_any(),
            selector,
            headless: spec.cluster_ip.as_deref() == Some("None"),
            ports: spec
                .ports
                .iter()
                .flatten()
                .filter_map(service_port)
                .collect(),
        })
    }

    /// Whether it selects a pod of its namespace with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

fn service_port(port: &k8s_openapi::api::core::v1::ServicePort) -> Option<ServicePort> {
    if port.protocol.as_deref().unwrap_or("TCP") != "TCP" {
        return None;
    }
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number(port.port)?),
        Some(IntOrString::Int(target)) => TargetPort::Number(number(*target)?),
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
    };
    Some(ServicePort {
        port: number(port.port)?,
        target,
    })
}

/// A DeviceIdentity.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Attributes.
    pub attributes: BTreeMap<String, String>,
    /// The services that it may offer; `None`: all that its config names.
    pub services: Option<Vec<String>>,
    /// Whether it may have a credential.
    pub state: DeviceState,
    /// Generation of its spec.
    pub generation: i64,
    /// Whether a key is enrolled.
    pub enrolled: bool,
    /// Its newest credential.
    pub credential: Option<KnownCredential>,
    /// When it was last seen.
    pub last_seen: Option<UnixSeconds>,
    /// Its condition of how far a revocation has come.
    pub revoked: Option<Condition>,
}

/// What the status of a DeviceIdentity tells of its newest credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCredential {
    /// When it was issued.
    pub issued_at: UnixSeconds,
    /// When it ends.
    pub expires: UnixSeconds,
    /// Generation of the spec that it was signed from.
    pub generation: i64,
}

impl DeviceFacts {
    /// The facts of `device`; `None` if it did not come from an API server.
    pub fn of(device: &DeviceIdentity) -> Option<Self> {
        let status = device.status.as_ref();
        let credential = status.and_then(|status| status.credential.as_ref());
        Some(Self {
            namespace: device.namespace()?,
            name: device.name_any(),
            uid: device.uid()?,
            attributes: device.spec.attributes.clone(),
            services: device.spec.services.clone(),
            state: device.spec.state,
            generation: device.metadata.generation.unwrap_or(0),
            enrolled: status.is_some_and(|status| status.device_key.is_some()),
            credential: credential.map(|credential| KnownCredential {
                issued_at: credential
                    .issued_time
                    .as_ref()
                    .map(from_kubernetes)
                    .unwrap_or_default(),
                expires: from_kubernetes(&credential.expiry_time),
                generation: credential.observed_generation.unwrap_or(0),
            }),
            revoked: status
                .and_then(|status| find(&status.conditions, REVOKED))
                .cloned(),
            last_seen: status
                .and_then(|status| status.last_seen_time.as_ref())
                .map(from_kubernetes),
        })
    }
}

/// An EnrollmentTicket, as far as relays have to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketFacts {
    /// By its key.
    pub id: TicketId,
    /// When it ends.
    pub expires: UnixSeconds,
}

impl TicketFacts {
    /// The facts of `ticket`; `None` if its key cannot be read.
    pub fn of(ticket: &EnrollmentTicket) -> Option<Self> {
        let key: VerifyingKey = ticket.spec.public_key.parse().ok()?;
        Some(Self {
            id: TicketId::of(&key),
            expires: from_kubernetes(&ticket.spec.expiry_time),
        })
    }
}

/// A ChannelPolicy that can be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it says; one that could not be read denies.
    pub compiled: CompiledPolicy,
}

/// Addresses of the relays in one EndpointSlice of their headless Service;
/// `None` if the slice belongs to something else.
///
/// Relays that are not Ready count: a new one becomes Ready by the sidecars'
/// registering there. Those that are leaving do not.
pub fn relay_addresses(slice: &EndpointSlice, install: &Install) -> Option<Vec<RelayAddress>> {
    let of = slice.labels().get("kubernetes.io/service-name");
    if of != Some(&install.relay_service) {
        return None;
    }
    let numbered = |port: &EndpointPort| u16::try_from(port.port?).ok();
    let named = slice
        .ports
        .iter()
        .flatten()
        .find(|port| port.name.as_deref() == Some("links"));
    let port = named
        .or_else(|| slice.ports.iter().flatten().next())
        .and_then(numbered);
    let staying = slice.endpoints.iter().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        !conditions
            .and_then(|conditions| conditions.terminating)
            .unwrap_or(false)
    });
    let addresses = staying.filter_map(|endpoint| endpoint.addresses.first());
    // Inside the cluster nothing is in TCP's way.
    let address = |host: &String| HostPort::new(host, port?).ok().map(RelayAddress::from);
    Some(addresses.filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, from_json};
    use serde_json::json;

    fn install() -> Install {
        testing::install()
    }

    #[test]
    fn only_pods_with_a_sidecar_and_our_own_are_endpoints() {
        let pod = |namespace: &str, account: &str, init: &str| {
            let pod: Pod = from_json(json!({
                "metadata": {"name": "p", "namespace": namespace, "uid": "u"},
                "spec": {"serviceAccountName": account, "containers": [],
                         "initContainers": [{"name": init}]}}));
            PodFacts::of(&pod, &install()).is_some()
        };
        assert!(pod("factory", "default", "fairway-sidecar"));
        assert!(!pod("factory", "default", "other"));
        assert!(
            !pod("factory", "fairway-relay", "other"),
            "only in the install namespace"
        );
        assert!(pod("fairway-system", "fairway-relay", "other"));
        assert!(pod("fairway-system", "fairway-authority", "other"));
        assert!(!pod("fairway-system", "fairway-operator", "other"));
    }

    #[test]
    fn facts_of_a_pod() {
        let pod: Pod = from_json(json!({
            "metadata": {"name": "p", "namespace": "factory", "uid": "u", "labels": {"app": "a"}},
            "spec": {
                "initContainers": [{"name": "fairway-sidecar"}],
                "containers": [{"name": "app", "ports": [
                    {"name": "http", "containerPort": 8080},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"containerPort": 9}]}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        let facts = PodFacts::of(&pod, &install()).unwrap();
        assert_eq!(facts.ports, BTreeMap::from([("http".to_owned(), 8080)]));
        assert_eq!(facts.service_account, "default");
        assert!(facts.ready && !facts.ending);
    }

    #[test]
    fn a_pod_that_ends_is_known_to() {
        for (status, deleted) in [
            (json!({"phase": "Succeeded"}), None),
            (json!({}), Some("2026-11-23T06:00:00Z")),
        ] {
            let pod: Pod = from_json(json!({
                "metadata": {"name": "p", "namespace": "factory", "uid": "u", "deletionTimestamp": deleted},
                "spec": {"containers": [], "initContainers": [{"name": "fairway-sidecar"}]},
                "status": status}));
            assert!(PodFacts::of(&pod, &install()).unwrap().ending);
        }
    }

    #[test]
    fn only_the_kubelets_word_for_the_sidecars_own_end_counts() {
        let ended = |statuses: serde_json::Value| {
            let pod: Pod = from_json(json!({
                "metadata": {"name": "p", "namespace": "factory", "uid": "u"},
                "spec": {"containers": [], "initContainers": [{"name": "fairway-sidecar"}]},
                "status": {"phase": "Failed", "initContainerStatuses": statuses}}));
            PodFacts::of(&pod, &install()).unwrap().sidecar_ended
        };
        let status = |name: &str, state: serde_json::Value| {
            json!([{"name": name, "state": state, "ready": false, "restartCount": 0,
                    "image": "i", "imageID": "i"}])
        };
        let terminated = json!({"terminated": {"exitCode": 0}});
        assert!(ended(status("fairway-sidecar", terminated.clone())));
        assert!(!ended(status("fairway-sidecar", json!({"running": {}}))));
        assert!(!ended(status("setup", terminated)));
        assert!(!ended(json!([])));
    }

    #[test]
    fn services_without_a_selector_give_no_names() {
        let service = |spec: serde_json::Value| {
            let service: Service =
                from_json(json!({"metadata": {"name": "s", "namespace": "factory"}, "spec": spec}));
            ServiceFacts::of(&service)
        };
        assert_eq!(service(json!({})), None);
        assert_eq!(service(json!({"selector": {}})), None);
        assert_eq!(
            service(json!({"selector": {"a": "b"}, "type": "ExternalName", "externalName": "x"})),
            None
        );
        let facts = service(
            json!({"selector": {"a": "b"}, "clusterIP": "None", "ports": [
            {"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}, {"port": 82},
            {"port": 53, "protocol": "UDP"}]}),
        )
        .unwrap();
        assert!(facts.headless);
        let ports: Vec<_> = facts
            .ports
            .iter()
            .map(|port| (port.port, port.target.clone()))
            .collect();
        assert_eq!(
            ports,
            [
                (80, TargetPort::Name("http".to_owned())),
                (81, TargetPort::Number(8081)),
                (82, TargetPort::Number(82))
            ]
        );
    }

    #[test]
    fn relays_that_leave_are_not_dialled() {
        let slice: EndpointSlice = from_json(json!({
            "metadata": {"name": "x", "namespace": "fairway-system",
                         "labels": {"kubernetes.io/service-name": "fairway-relay-links"}},
            "addressType": "IPv4",
            "ports": [{"name": "links", "port": 7440}],
            "endpoints": [
                {"addresses": ["198.18.0.1"], "conditions": {"ready": true}},
                {"addresses": ["198.18.0.2"], "conditions": {"ready": false, "serving": false}},
                {"addresses": ["198.18.0.3"], "conditions": {"terminating": true}}]}));
        assert_eq!(
            relay_addresses(&slice, &install()),
            Some(vec![
                "198.18.0.1:7440".parse().unwrap(),
                "198.18.0.2:7440".parse().unwrap()
            ])
        );
        let mut other = slice;
        other.metadata.labels = None;
        assert_eq!(relay_addresses(&other, &install()), None);
    }
}
