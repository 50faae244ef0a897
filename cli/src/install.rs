//! What the installation says about itself: trust domain, root, and where
//! devices find its relays.

use fairway_crds::labels;
use fairway_identity::{
    AddressError, HostPort, NameError, RelayAddress, RootHash, Transport, TrustDomain,
};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service, ServicePort};
use kube::api::ListParams;

use crate::Error;
use crate::cluster::{Cluster, ClusterError};

/// Name of the Service that devices come in by.
pub const RELAY_SERVICE: &str = "fairway-relay";

/// Ports of the relays by protocol and number, and what links run on there.
const LINKS_PORTS: [(&str, i32, &[Transport]); 3] = [
    ("UDP", 7440, &[Transport::Quic]),
    ("TCP", 7440, &[Transport::Tcp]),
    ("TCP", 7443, &[Transport::Tls, Transport::WebSocket]),
];

/// Hosts that are looked for when nobody named any: the device learns more once
/// it is connected, and a ticket is to be short.
const HOSTS_MAX: usize = 2;

/// Why the installation does not say what is needed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no ConfigMap.
    #[error(
        "Fairway is not (fully) installed in namespace {namespace}: it has no ConfigMap fairway-trust, which the authority makes when it first starts; see `kubectl fairway check`, or name the right namespace by --install-namespace"
    )]
    NoTrust {
        /// Namespace looked in.
        namespace: String,
    },
    /// A key of it is missing.
    #[error("ConfigMap fairway-trust has no {0}; look at the logs of Deployment fairway-authority")]
    Missing(&'static str),
    /// Its trust domain is malformed.
    #[error(
        "ConfigMap fairway-trust has a malformed trustDomain; look at the logs of Deployment fairway-authority"
    )]
    Domain(#[source] NameError),
    /// Its hash of the root is malformed.
    #[error(
        "ConfigMap fairway-trust has a malformed rootHash; look at the logs of Deployment fairway-authority"
    )]
    Root(#[source] fairway_identity::KeyError),
    /// A relay's address is malformed.
    #[error(
        "ConfigMap fairway-trust has a malformed relay address {text:?}; mend the value relay.externalAddresses of the chart"
    )]
    Relay {
        /// The address.
        text: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
}

/// What ConfigMap fairway-trust says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The trust domain.
    pub domain: TrustDomain,
    /// Hash of the root.
    pub root: RootHash,
    /// Addresses of the relays, if the chart was told.
    pub relays: Vec<RelayAddress>,
}

impl Trust {
    /// Reads the ConfigMap.
    pub async fn read(cluster: &Cluster) -> Result<Self, Error> {
        let namespace = &cluster.install_namespace;
        let api = cluster.namespaced::<ConfigMap>(namespace);
        let found = cluster.find(&api, labels::TRUST_CONFIG_MAP).await?;
        let missing = InstallError::NoTrust {
            namespace: namespace.clone(),
        };
        Ok(Self::parse(&found.ok_or(missing)?)?)
    }

    fn parse(config_map: &ConfigMap) -> Result<Self, InstallError> {
        let data = config_map.data.as_ref();
        let value = |key: &'static str| {
            data.and_then(|data| data.get(key))
                .ok_or(InstallError::Missing(key))
        };
        let relay = |text: &str| {
            text.parse().map_err(|source| InstallError::Relay {
                text: text.to_owned(),
                source,
            })
        };
        let relays = data
            .and_then(|data| data.get(labels::TRUST_RELAYS))
            .map_or("", String::as_str);
        let relays = relays
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        Ok(Self {
            domain: value(labels::TRUST_DOMAIN)?
                .parse()
                .map_err(InstallError::Domain)?,
            root: value(labels::TRUST_ROOT_HASH)?
                .parse()
                .map_err(InstallError::Root)?,
            relays: relays.map(relay).collect::<Result<_, _>>()?,
        })
    }
}

/// Where devices may reach the relays, as the Service fairway-relay has it:
/// its load balancer, or its node ports on nodes that are ready. Empty if it is
/// reachable from inside the cluster only.
pub async fn relay_addresses(cluster: &Cluster) -> Result<Vec<RelayAddress>, ClusterError> {
    let api = cluster.namespaced::<Service>(&cluster.install_namespace);
    let Some(service) = cluster.find(&api, RELAY_SERVICE).await? else {
        return Ok(Vec::new());
    };
    let balanced = addresses(
        load_balancers(&service),
        &ports(&service, |port| Some(port.port)),
    );
    if !balanced.is_empty() {
        return Ok(balanced);
    }
    let node_ports = ports(&service, |port| port.node_port);
    if node_ports.is_empty() {
        return Ok(Vec::new());
    }
    let nodes = cluster
        .list(&cluster.clusterwide::<Node>(), ListParams::default())
        .await?;
    let hosts = nodes
        .items
        .iter()
        .filter(|node| is_ready(node))
        .filter_map(node_host);
    Ok(addresses(hosts, &node_ports))
}

/// As many hosts, with all their transports, as a ticket has room for.
fn addresses(hosts: impl Iterator<Item = String>, ports: &[(Transport, u16)]) -> Vec<RelayAddress> {
    let of = |host: String| {
        let address = move |&(transport, port): &(Transport, u16)| {
            let at = HostPort::new(&host, port).ok()?;
            Some(RelayAddress::new(transport, at))
        };
        ports.iter().filter_map(address)
    };
    hosts
        .take(HOSTS_MAX)
        .flat_map(of)
        .take(fairway_identity::limits::TICKET_RELAYS)
        .collect()
}

/// The Service's ports for links by transport, the preferred first.
fn ports(service: &Service, number: impl Fn(&ServicePort) -> Option<i32>) -> Vec<(Transport, u16)> {
    let known = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let found = |protocol: &str, port: i32| {
        let protocol_of = |port: &ServicePort| port.protocol.clone().unwrap_or("TCP".to_owned());
        let known = known.into_iter().flatten();
        let mut same = known.filter(|p| p.port == port && protocol_of(p) == protocol);
        u16::try_from(number(same.next()?)?).ok()
    };
    let mut ports: Vec<_> = LINKS_PORTS
        .into_iter()
        .flat_map(|(protocol, port, transports)| {
            let number = found(protocol, port);
            transports.iter().filter_map(move |&t| Some((t, number?)))
        })
        .collect();
    ports.sort();
    ports
}

fn load_balancers(service: &Service) -> impl Iterator<Item = String> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten();
    ingress.filter_map(|ingress| ingress.hostname.clone().or(ingress.ip.clone()))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The address from outside if the node has one, else the one inside.
fn node_host(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let of = |kind: &str| addresses.iter().find(|address| address.type_ == kind);
    Some(
        of("ExternalIP")
            .or_else(|| of("InternalIP"))?
            .address
            .clone(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{self, FakeCluster};

    fn trust(data: Value) -> Result<Trust, InstallError> {
        Trust::parse(&serde_json::from_value(json!({"data": data})).unwrap())
    }

    #[test]
    fn the_config_map_is_read() {
        let found = trust(testing::trust_data("a.example.com:1, [2001:db8::1]:2")).unwrap();
        assert_eq!(found.domain, "fairway.local");
        let relays: Vec<String> = found.relays.iter().map(ToString::to_string).collect();
        assert_eq!(relays, ["a.example.com:1", "[2001:db8::1]:2"]);
        assert!(trust(testing::trust_data("")).unwrap().relays.is_empty());
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        let with = |key: &str, value: Value| {
            let mut data = testing::trust_data("");
            data[key] = value;
            trust(data).unwrap_err().to_string()
        };
        assert!(trust(json!({})).is_err());
        assert!(with("rootHash", json!("abc")).contains("rootHash"));
        assert!(with("trustDomain", json!("A")).contains("trustDomain"));
        assert!(with("relays", json!("nonsense")).contains("\"nonsense\""));
    }

    #[tokio::test]
    async fn relays_are_found_by_the_service() {
        let service = "/api/v1/namespaces/fairway-system/services/fairway-relay";
        let node_port = json!({"spec": {"ports": [{"port": 7440, "nodePort": 30740}]}});
        let balanced = json!({
            "spec": {"ports": [{"port": 7440, "nodePort": 30740}]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}, {"ip": "203.0.113.1"}]}},
        });
        let inside = json!({"spec": {"ports": [{"port": 7440}, {"port": 7443}]}});
        let all = json!({"spec": {"ports": [
            {"port": 7440, "nodePort": 30740, "protocol": "TCP"},
            {"port": 7440, "nodePort": 30741, "protocol": "UDP"},
            {"port": 7443, "nodePort": 30743},
        ]}});
        for (object, want) in [
            (node_port, vec!["203.0.113.7:30740", "198.18.0.3:30740"]),
            (balanced, vec!["lb.example.com:7440", "203.0.113.1:7440"]),
            (
                all,
                vec![
                    "quic://203.0.113.7:30741",
                    "203.0.113.7:30740",
                    "tls://203.0.113.7:30743",
                    "wss://203.0.113.7:30743",
                    "quic://198.18.0.3:30741",
                    "198.18.0.3:30740",
                    "tls://198.18.0.3:30743",
                    "wss://198.18.0.3:30743",
                ],
            ),
            (inside, vec![]),
        ] {
            let fake = FakeCluster::new()
                .object(service, object)
                .list("/api/v1/nodes", testing::nodes());
            let found = relay_addresses(&fake.cluster()).await.unwrap();
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, want);
        }
        let fake = FakeCluster::new().missing(service);
        assert!(
            relay_addresses(&fake.cluster()).await.unwrap().is_empty(),
            "no Service"
        );
    }
}
