//! Bounds of this crate, each with its reason. The CRDs take theirs from here.

/// Policies that concern one endpoint. Evaluation is linear in them.
pub const POLICIES: usize = 256;

/// Caller rules (`from`) of one policy.
pub const CALLER_RULES: usize = 16;

/// Doors (`to`) of one policy.
pub const DOORS: usize = 16;

/// Values in any one list of names or namespaces.
pub const NAMES: usize = 64;

/// Requirements in a selector's `matchExpressions`.
pub const REQUIREMENTS: usize = 16;

/// Values of one requirement.
pub const VALUES: usize = 32;

/// HTTP rules of one door.
pub const HTTP_RULES: usize = 16;

/// Methods of one HTTP rule.
pub const METHODS: usize = 16;

/// Paths of one HTTP rule.
pub const PATHS: usize = 32;

/// Length of a path pattern in bytes.
pub const PATH_LEN: usize = 256;

/// Length of an HTTP method in bytes.
pub const METHOD_LEN: usize = 24;

/// Characters of a caller's method or path that a reason repeats: it goes into
/// log lines.
pub const SHOWN_CHARS: usize = 80;

/// Audit policies that a decision lists: it goes into a log line.
pub const AUDITED: usize = 16;
