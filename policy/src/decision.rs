//! The answer, and why.

use std::fmt;

use crate::model::{Action, Target};

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

/// A verdict with its reason. `Display` says it to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What may happen.
    pub verdict: Verdict,
    /// The policy that decided: the Allow that opened the door or the Deny
    /// that shut it. `None` if no policy allowed.
    pub by: Option<PolicyName>,
    /// What was missing, if no policy allowed.
    pub reason: Option<NearestMiss>,
    /// Audit policies that match, at most [`crate::limits::AUDITED`], in order
    /// of name. When a stream opens, those that look into HTTP are not among
    /// them: they are asked at each request.
    pub audited: Vec<Audited>,
}

impl Decision {
    /// Whether the stream may open, or the request pass.
    pub fn is_allowed(&self) -> bool {
        match self.verdict {
            Verdict::Allow | Verdict::AllowHttp => true,
            Verdict::Deny => false,
        }
    }

    /// The machine-readable word for it: `allowed` or `policy-denied`.
    pub fn word(&self) -> &'static str {
        if self.is_allowed() {
            "allowed"
        } else {
            "policy-denied"
        }
    }
}

/// An audit policy that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Which.
    pub policy: PolicyName,
    /// What it would do.
    pub action: Action,
}

/// Why no policy allowed. `Display` is for people, [`NearestMiss::word`] for
/// programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NearestMiss {
    /// No enforced Allow speaks of this endpoint.
    NoPolicy,
    /// The Allow that came nearest, and what it lacks: at least one of both.
    Lacks {
        /// Which policy.
        policy: PolicyName,
        /// Why it does not mean this caller.
        caller: Option<CallerMiss>,
        /// Why it does not open this door.
        door: Option<DoorMiss>,
    },
}

impl NearestMiss {
    /// `policy-denied`, the machine-readable reason.
    pub fn word(&self) -> &'static str {
        "policy-denied"
    }
}

/// Why a policy does not mean a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerMiss {
    /// It speaks of the other kind of callers.
    Kind {
        /// What the caller is: `devices` or `workloads`.
        caller: &'static str,
    },
    /// Not a namespace that it names.
    Namespace {
        /// The caller's.
        have: String,
    },
    /// Not a name, or a ServiceAccount, that it names.
    Name {
        /// The caller's.
        have: String,
    },
    /// The ServiceAccount `default` must be named to be meant.
    DefaultAccount,
    /// An attribute is missing or different.
    Attribute {
        /// Which.
        key: String,
        /// The caller's value, if it has one.
        have: Option<String>,
        /// What is wanted.
        want: String,
    },
}

/// Why a policy does not open a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DoorMiss {
    /// Another port or service.
    Target {
        /// What was asked for.
        asked: Target,
    },
    /// Another path.
    Path {
        /// What was asked for, shortened.
        asked: String,
    },
    /// The path is right, the method is not.
    Method {
        /// What was asked for, shortened.
        asked: String,
    },
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_allowed(), &self.by, &self.reason) {
            (true, Some(by), _) => write!(f, "allowed by ChannelPolicy {by}"),
            (true, None, _) => f.write_str("allowed"),
            (false, Some(by), _) => write!(f, "denied by ChannelPolicy {by}"),
            (false, None, Some(miss)) => miss.fmt(f),
            (false, None, None) => f.write_str("denied"),
        }
    }
}

impl fmt::Display for NearestMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => f.write_str(
                "no ChannelPolicy allows anything here, and what is not allowed is denied",
            ),
            Self::Lacks {
                policy,
                caller,
                door,
            } => {
                write!(
                    f,
                    "no ChannelPolicy allows it; the nearest is {policy}, which "
                )?;
                match (caller, door) {
                    (Some(caller), Some(door)) => write!(f, "{caller}, and {door}"),
                    (Some(caller), None) => caller.fmt(f),
                    (None, Some(door)) => door.fmt(f),
                    (None, None) => f.write_str("does not match"),
                }
            }
        }
    }
}

impl fmt::Display for CallerMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { caller } => write!(f, "has no rule for {caller}"),
            Self::Namespace { have } => write!(f, "does not name the caller's namespace {have}"),
            Self::Name { have } => write!(f, "does not name the caller {have}"),
            Self::DefaultAccount => f.write_str(
                "does not name the ServiceAccount default, which must be named to be meant",
            ),
            Self::Attribute {
                key,
                have: Some(have),
                want,
            } => {
                write!(
                    f,
                    "wants the attribute {key} to have {want}, and the caller has {have:?}"
                )
            }
            Self::Attribute {
                key,
                have: None,
                want,
            } => {
                write!(
                    f,
                    "wants the attribute {key} to have {want}, and the caller has none"
                )
            }
        }
    }
}

impl fmt::Display for DoorMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target { asked } => write!(f, "does not open {asked}"),
            Self::Path { asked } => write!(f, "does not allow the path {asked}"),
            Self::Method { asked } => write!(f, "does not allow the method {asked} on this path"),
        }
    }
}
