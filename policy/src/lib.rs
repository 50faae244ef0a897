//! Policy: who may call what, as a pure function with an explanation.
//!
//! [`evaluate_open`] decides whether a stream may open, [`evaluate_http`]
//! whether one request may pass. Both return a [`Decision`] that names the
//! policy that decided or, for a refusal, what the nearest policy lacks.
//! No clock, no lock, no log, no crypto in here. Data path, `kubectl fairway
//! explain` and dry runs all call the same two functions.
//!
//! The empty [`PolicySet`] denies everything.

pub mod decision;
pub mod http;
pub mod limits;
pub mod model;
pub mod selector;

mod evaluate;

pub use decision::{Audited, CallerMiss, Decision, DoorMiss, NearestMiss, PolicyName, Verdict};
pub use evaluate::{evaluate_http, evaluate_open};
pub use http::{HttpRequest, HttpRule, Method, PathPattern, PatternError};
pub use model::{Action, Caller, CallerRule, Door, Mode, Policy, PolicySet, Protocol, Target};
pub use selector::{AttributeSelector, Operator, Requirement};
