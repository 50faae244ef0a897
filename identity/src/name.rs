//! Names that are signed: trust domains, labels, SPIFFE IDs.
//!
//! A name is checked once, when it is made; from then on its type says that it
//! is well formed. All names are lower case, so one name has one spelling.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty text.
    #[error("a {what} must not be empty")]
    Empty {
        /// Kind of name.
        what: &'static str,
    },
    /// Longer than the bound.
    #[error("a {what} may have at most {max} characters, not {len}")]
    TooLong {
        /// Kind of name.
        what: &'static str,
        /// Bound in bytes.
        max: usize,
        /// Length found, in bytes.
        len: usize,
    },
    /// A character that has no place there.
    #[error("a {what} consists of {allowed}; found {found:?}")]
    Character {
        /// Kind of name.
        what: &'static str,
        /// What would be right.
        allowed: &'static str,
        /// The offending character.
        found: char,
    },
    /// Starts or ends with `-` or `.`, or has an empty part between dots.
    #[error("a {what} must start and end with a letter or a digit, in each part between dots")]
    Edge {
        /// Kind of name.
        what: &'static str,
    },
    /// Not a SPIFFE ID of Fairway's form.
    #[error(
        "not a Fairway SPIFFE ID: write spiffe://TRUSTDOMAIN/ns/NAMESPACE/device/NAME or .../sa/SERVICEACCOUNT"
    )]
    NotSpiffe,
}

/// A DNS label (RFC 1123): the name of a namespace, device, Service or pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<str>);

/// The name of a ServiceAccount: labels joined by dots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(Box<str>);

/// A SPIFFE trust domain, such as `fairway.local`. Cheap to clone: there are
/// many peers, and few domains.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

macro_rules! name_type {
    ($name:ident, $check:expr) => {
        impl $name {
            /// Checks `text` and makes it a name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}

name_type!(Label, |text| check("name", text, limits::LABEL_LEN, false));
name_type!(AccountName, |text| check(
    "ServiceAccount name",
    text,
    limits::ACCOUNT_NAME_LEN,
    true
));
name_type!(TrustDomain, |text| check(
    "trust domain",
    text,
    limits::TRUST_DOMAIN_LEN,
    true
));

/// Who a credential speaks of, inside its trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A device: `/ns/NAMESPACE/device/NAME`.
    Device {
        /// Namespace of the DeviceIdentity.
        namespace: Label,
        /// Name of the DeviceIdentity.
        name: Label,
    },
    /// A workload in the cluster: `/ns/NAMESPACE/sa/SERVICEACCOUNT`.
    Workload {
        /// Namespace of the pod.
        namespace: Label,
        /// ServiceAccount of the pod.
        service_account: AccountName,
    },
}

impl Subject {
    /// The namespace that the subject lives in.
    pub fn namespace(&self) -> &Label {
        match self {
            Self::Device { namespace, .. } | Self::Workload { namespace, .. } => namespace,
        }
    }
}

/// A SPIFFE ID of Fairway's form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// Whose root vouches for it.
    pub trust_domain: TrustDomain,
    /// Who it is.
    pub subject: Subject,
}

impl SpiffeId {
    /// A device's ID.
    pub fn device(trust_domain: TrustDomain, namespace: Label, name: Label) -> Self {
        Self {
            trust_domain,
            subject: Subject::Device { namespace, name },
        }
    }

    /// A workload's ID.
    pub fn workload(
        trust_domain: TrustDomain,
        namespace: Label,
        service_account: AccountName,
    ) -> Self {
        Self {
            trust_domain,
            subject: Subject::Workload {
                namespace,
                service_account,
            },
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = &self.trust_domain;
        match &self.subject {
            Subject::Device { namespace, name } => {
                write!(f, "spiffe://{domain}/ns/{namespace}/device/{name}")
            }
            Subject::Workload {
                namespace,
                service_account,
            } => {
                write!(f, "spiffe://{domain}/ns/{namespace}/sa/{service_account}")
            }
        }
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let rest = text.strip_prefix("spiffe://").ok_or(NameError::NotSpiffe)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or(NameError::NotSpiffe);
        let trust_domain = TrustDomain::new(next()?)?;
        if next()? != "ns" {
            return Err(NameError::NotSpiffe);
        }
        let namespace = Label::new(next()?)?;
        let kind = next()?;
        let name = next()?;
        let subject = match kind {
            "device" => Subject::Device {
                namespace,
                name: Label::new(name)?,
            },
            "sa" => Subject::Workload {
                namespace,
                service_account: AccountName::new(name)?,
            },
            _ => return Err(NameError::NotSpiffe),
        };
        match parts.next() {
            None => Ok(Self {
                trust_domain,
                subject,
            }),
            Some(_) => Err(NameError::NotSpiffe),
        }
    }
}

/// The one rule for names; `dots` says whether several labels may be joined.
fn check(what: &'static str, text: &str, max: usize, dots: bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > max {
        return Err(NameError::TooLong {
            what,
            max,
            len: text.len(),
        });
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(found) = text.chars().find(|&c| !(good(c) || dots && c == '.')) {
        let allowed = if dots {
            "lower-case letters, digits, '-' and '.'"
        } else {
            "lower-case letters, digits and '-'"
        };
        return Err(NameError::Character {
            what,
            allowed,
            found,
        });
    }
    let edge = |part: &str| part.is_empty() || part.starts_with('-') || part.ends_with('-');
    if text.split('.').any(edge) {
        return Err(NameError::Edge { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in ["a", "pump-7", "7", "a--b", &"x".repeat(63)] {
            assert_eq!(Label::new(good).unwrap().as_str(), good);
        }
        let what = "name";
        assert_eq!(Label::new(""), Err(NameError::Empty { what }));
        assert_eq!(
            Label::new(&"x".repeat(64)),
            Err(NameError::TooLong {
                what,
                max: 63,
                len: 64
            })
        );
        for bad in ["-a", "a-"] {
            assert_eq!(Label::new(bad), Err(NameError::Edge { what }));
        }
        for bad in ["A", "a.b", "a_b", "a/b", "ä", "a b", "a\0"] {
            assert!(
                matches!(Label::new(bad), Err(NameError::Character { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn dotted_names_have_no_empty_part() {
        assert!(TrustDomain::new("fairway.local").is_ok());
        for bad in [".", "a..b", ".a", "a.", "a.-b"] {
            assert_eq!(
                TrustDomain::new(bad),
                Err(NameError::Edge {
                    what: "trust domain"
                })
            );
        }
    }

    #[test]
    fn spiffe_ids_round_trip() {
        for text in [
            "spiffe://fairway.local/ns/factory/device/pump-7",
            "spiffe://fairway.local/ns/factory/sa/my.account",
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_spiffe_id() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://td",
            "https://td/ns/a/device/b",
            "SPIFFE://td/ns/a/device/b",
            "spiffe://td/ns/a/device",
            "spiffe://td/ns/a/device/",
            "spiffe://td/ns/a/device/b/",
            "spiffe://td/ns/a/device/b/c",
            "spiffe://td/ns/a/pod/b",
            "spiffe://td/xx/a/device/b",
            "spiffe://td//ns/a/device/b",
            "spiffe://td:80/ns/a/device/b",
            "spiffe://u@td/ns/a/device/b",
            "spiffe://td/ns/a/device/b?x",
            "spiffe://td/ns/a/device/..",
            "spiffe://td/ns/a/device/b%2f",
            "spiffe://TD/ns/a/device/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
