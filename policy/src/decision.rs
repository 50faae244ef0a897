//! The answer, and why.

use std::fmt;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The stream, or the request, passes.
    Allow,
    /// The stream may open, but each request in it must be parsed and asked
    /// about with [`crate::evaluate_http`]. Only [`crate::evaluate_open`]
    /// answers this.
    AllowHttp,
    /// It does not pass.
    Deny,
}

/// Which resource decided: `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// Namespace of the ChannelPolicy.
    pub namespace: String,
    /// Name of the ChannelPolicy.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What may happen.
    pub verdict: Verdict,
    /// The policy that decided; `None` when no policy allowed.
    pub by: Option<PolicyName>,
    /// Why it was denied; `None` unless `verdict` is Deny.
    pub reason: Option<NearestMiss>,
    /// Audit policies that would have matched.
    pub audited: Vec<Audited>,
}

/// An audit policy that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Which.
    pub policy: PolicyName,
    /// What it would do.
    pub action: crate::model::Action,
}

/// Why a call was denied: `Display` is for people, [`NearestMiss::word`] for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NearestMiss {
    /// No policy at all speaks of this endpoint.
    NoPolicy,
}

impl NearestMiss {
    /// `policy-denied`, the machine-readable reason.
    pub fn word(&self) -> &'static str {
        "policy-denied"
    }
}

impl fmt::Display for NearestMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => f.write_str("no ChannelPolicy speaks of this endpoint"),
        }
    }
}
