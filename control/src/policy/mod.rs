//! The wire form of a policy set.
//!
//! The types of `policy` are not serialisable; these mirror them. Reading goes
//! through `TryFrom`, which checks everything that evaluation relies on: what
//! is not understood is an error for the whole set, never a policy with a part
//! missing. A set that cannot be read means that nothing is allowed.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::wire::Violation;

/// Why a policy set on the wire is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A bound or a rule is broken.
    #[error("a policy is invalid: {0}")]
    Rule(#[from] Violation),
    /// A method or path pattern is not one.
    #[error("an HTTP rule is invalid: {0}")]
    Pattern(#[from] fairway_policy::PatternError),
}

/// A [`PolicySet`](fairway_policy::PolicySet) as it is sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct WirePolicies(#[n(0)] Vec<WirePolicy>);

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct WirePolicy {
    #[n(0)]
    namespace: String,
    #[n(1)]
    name: String,
    #[n(2)]
    action: WireAction,
    #[n(3)]
    mode: WireMode,
    #[n(4)]
    from: Vec<WireCaller>,
    #[n(5)]
    to: Vec<WireDoor>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
enum WireAction {
    #[n(0)]
    Allow,
    #[n(1)]
    Deny,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
enum WireMode {
    #[n(0)]
    Enforce,
    #[n(1)]
    Audit,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
enum WireCaller {
    #[n(0)]
    Devices {
        #[n(0)]
        namespaces: Vec<String>,
        #[n(1)]
        names: Vec<String>,
        #[n(2)]
        match_attributes: BTreeMap<String, String>,
        #[n(3)]
        expressions: Vec<WireRequirement>,
    },
    #[n(1)]
    Workloads {
        #[n(0)]
        namespaces: Vec<String>,
        #[n(1)]
        service_accounts: Vec<String>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct WireRequirement {
    #[n(0)]
    key: String,
    #[n(1)]
    operator: WireOperator,
    #[n(2)]
    values: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
enum WireOperator {
    #[n(0)]
    In,
    #[n(1)]
    NotIn,
    #[n(2)]
    Exists,
    #[n(3)]
    DoesNotExist,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
enum WireDoor {
    #[n(0)]
    Any,
    #[n(1)]
    Port {
        #[n(0)]
        port: u16,
        #[n(1)]
        protocol: WireProtocol,
    },
    #[n(2)]
    Service {
        #[n(0)]
        service: String,
        #[n(1)]
        protocol: WireProtocol,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
enum WireProtocol {
    #[n(0)]
    Tcp,
    #[n(1)]
    Http(#[n(0)] Vec<WireHttpRule>),
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct WireHttpRule {
    #[n(0)]
    methods: Vec<String>,
    #[n(1)]
    paths: Vec<String>,
}
