//! The evaluation.

use crate::decision::Decision;
use crate::http::HttpRequest;
use crate::model::{Caller, PolicySet, Target};

/// May `caller` open a stream to `target`?
pub fn evaluate_open(_policies: &PolicySet, _caller: &Caller, _target: &Target) -> Decision {
    todo!()
}

/// May `caller` send `request` to `target`?
pub fn evaluate_http(
    _policies: &PolicySet,
    _caller: &Caller,
    _target: &Target,
    _request: &HttpRequest<'_>,
) -> Decision {
    todo!()
}
