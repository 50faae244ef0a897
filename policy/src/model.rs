//! What a policy is, compiled: plain data that the control plane sends and
//! [`crate::evaluate_open`] reads.

use std::collections::BTreeMap;
use std::fmt;

use crate::http::HttpRule;
use crate::selector::AttributeSelector;

/// All policies that concern one endpoint (the callee). Empty denies all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// The policies, in any order: the verdict does not depend on it.
    pub policies: Vec<Policy>,
}

/// One ChannelPolicy, its `target` already resolved to this endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace of the resource.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// What a match does.
    pub action: Action,
    /// Whether a match counts or is only reported.
    pub mode: Mode,
    /// Which callers: one rule must match. Empty matches nobody, for either
    /// action.
    pub from: Vec<CallerRule>,
    /// Which doors: one must match. Empty matches no door.
    pub to: Vec<Door>,
}

/// What a matching policy does. Deny wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Opens the door.
    Allow,
    /// Shuts it, whatever else allows.
    Deny,
}

/// Whether a policy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It is reported in [`crate::Decision::audited`] and changes no verdict.
    Audit,
}

/// Callers that a policy speaks of. In every list, empty means any: that the
/// user has written "any" on purpose is the CRD's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerRule {
    /// Devices.
    Devices {
        /// Namespaces of the devices.
        namespaces: Vec<String>,
        /// Names of the devices.
        names: Vec<String>,
        /// What their signed attributes must be.
        attributes: AttributeSelector,
    },
    /// Workloads in the cluster.
    Workloads {
        /// Namespaces of the pods.
        namespaces: Vec<String>,
        /// ServiceAccounts of the pods. Empty means any but `default`, which
        /// must be named to be meant.
        service_accounts: Vec<String>,
    },
}

/// What is called: a port of a pod, or a service of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// A port of the pod (the Service's targetPort).
    Port {
        /// The port.
        port: u16,
        /// How far the policy looks into the stream.
        protocol: Protocol,
    },
    /// A service that the device offers.
    Service {
        /// Its name.
        service: String,
        /// How far the policy looks into the stream.
        protocol: Protocol,
    },
    /// Every door of the endpoint, as TCP.
    Any,
}

/// How far a policy looks into a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Not at all: the stream as a whole.
    Tcp,
    /// Each HTTP request; one of the rules must match. An empty list matches
    /// every request.
    Http(Vec<HttpRule>),
}

/// Who calls, from the caller's verified credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A device.
    Device {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its signed attributes.
        attributes: BTreeMap<String, String>,
    },
    /// A workload.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its ServiceAccount.
        service_account: String,
    },
}

/// What the caller wants to reach at this endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of the pod (the targetPort).
    Port(u16),
    /// A service of the device.
    Service(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Service(service) => write!(f, "service {service}"),
        }
    }
}
