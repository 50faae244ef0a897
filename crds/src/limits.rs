//! Bounds of what a resource may hold, each with its reason.
//!
//! They are written into the schemas, so that the API server refuses what is
//! too large, and checked again on conversion, because an object may be older
//! than the schema that guards its kind.

use fairway_identity::limits as identity;
use fairway_policy::limits as policy;

/// Longest name of a device or namespace: one DNS label, because each of them
/// is one label of a `*.fairway.internal` name.
pub const DNS_LABEL_BYTES_MAX: usize = identity::LABEL_LEN;

/// Longest ServiceAccount name that can have a credential.
pub const SERVICE_ACCOUNT_BYTES_MAX: usize = identity::ACCOUNT_NAME_LEN;

/// Attributes of one device. Together with the three sizes below the largest
/// set still fits a credential of 1 KiB.
pub const ATTRIBUTES_MAX: usize = identity::ATTRIBUTES;

/// Longest key of an attribute.
pub const ATTRIBUTE_KEY_BYTES_MAX: usize = identity::ATTRIBUTE_KEY_LEN;

/// Longest value of an attribute.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = identity::ATTRIBUTE_VALUE_LEN;

/// All keys and values of one device's attributes together.
pub const ATTRIBUTES_BYTES_MAX: usize = identity::ATTRIBUTES_BYTES;

/// Services that one device may offer: as many as a pod may back.
pub const DEVICE_SERVICES_MAX: usize = identity::SERVICES;

/// Longest name of a service that a device offers.
pub const DEVICE_SERVICE_BYTES_MAX: usize = identity::DEVICE_SERVICE_NAME_LEN;

/// Shortest lifetime of a device's credential, in seconds. Renewal at half
/// life must stay rare enough not to be a load on the authority.
pub const CREDENTIAL_TTL_SECONDS_MIN: u32 = 600;

/// Longest lifetime of a device's credential, in seconds (30 days). Until it
/// has ended, a revocation has to be kept and distributed.
pub const CREDENTIAL_TTL_SECONDS_MAX: u32 = 30 * 86_400;

/// Lifetime of a device's credential if nothing is said, in seconds (24 h).
pub const CREDENTIAL_TTL_SECONDS_DEFAULT: u32 = 86_400;

/// Longest text of a public key: base64url of a COSE_Key with a P-256 point.
pub const PUBLIC_KEY_TEXT_BYTES_MAX: usize = 160;

/// Entries of a policy's `from` and of its `to`. Every endpoint evaluates all
/// pairs for each stream that is opened.
pub const RULES_MAX: usize = policy::DOORS;

/// Namespaces, names or ServiceAccounts in one list of a policy. More would
/// not keep an object under 2 KiB; attributes select many devices better.
pub const LIST_MAX: usize = 32;

/// Expressions in one selector.
pub const EXPRESSIONS_MAX: usize = 8;

/// Values of one expression.
pub const VALUES_MAX: usize = policy::VALUES;

/// Labels in one `matchLabels`.
pub const MATCH_LABELS_MAX: usize = 16;

/// Longest key of a label: prefix of 253, slash, name of 63.
pub const LABEL_KEY_BYTES_MAX: usize = 317;

/// HTTP rules of one door.
pub const HTTP_RULES_MAX: usize = policy::HTTP_RULES;

/// Methods of one HTTP rule.
pub const METHODS_MAX: usize = policy::METHODS;

/// Longest HTTP method.
pub const METHOD_BYTES_MAX: usize = policy::METHOD_LEN;

/// Paths of one HTTP rule.
pub const PATHS_MAX: usize = policy::PATHS;

/// Longest path pattern.
pub const PATH_BYTES_MAX: usize = policy::PATH_LEN;

// What the schemas let in, the policy crate takes.
const _: () = assert!(RULES_MAX <= policy::CALLER_RULES);
const _: () = assert!(LIST_MAX <= policy::NAMES);
const _: () = assert!(EXPRESSIONS_MAX <= policy::REQUIREMENTS);
// And the longest credential lifetime, the identity crate.
const _: () = assert!(CREDENTIAL_TTL_SECONDS_MAX as u64 <= identity::CREDENTIAL_SECONDS);

/// Conditions in one status.
pub const CONDITIONS_MAX: usize = 8;

/// Longest message of a condition. Statuses have to stay under 2 KiB.
pub const CONDITION_MESSAGE_BYTES_MAX: usize = 512;
