//! Policies from the wire, and questions to them.

use fairway_control::Message as _;
use fairway_control::authority::Response;
use fairway_control::update::Subscriber;
use fairway_policy::{
    Caller, HttpRequest, PathPattern, Target, Verdict, evaluate_http, evaluate_open,
};

use crate::Script;
use crate::control::one_section;

/// Section 1 of an update, any content: one that cannot be read denies
/// everything, and one that can gives the same answer to the same question.
pub(crate) fn policy(data: &[u8]) {
    let mut script = Script::new(data);
    let request = text(script.piece());
    let content = script.rest();
    let bytes = one_section(1, None, 1, content);
    let Ok(Response::Update(update)) = Response::from_bytes(&bytes) else {
        return;
    };
    let mut subscriber = Subscriber::new();
    let readable = subscriber
        .apply(&update)
        .is_ok_and(|applied| applied.ack.problem.is_none());
    let policies = &subscriber.state().policies;

    let (method, path) = request.split_once(' ').unwrap_or(("GET", &request));
    for caller in callers() {
        for target in targets() {
            let open = evaluate_open(policies, &caller, &target);
            assert_eq!(
                open.verdict,
                evaluate_open(policies, &caller, &target).verdict
            );
            let request = HttpRequest { method, path };
            let http = evaluate_http(policies, &caller, &target, &request);
            if !readable || policies.policies.is_empty() {
                assert_eq!((open.verdict, http.verdict), (Verdict::Deny, Verdict::Deny));
            }
        }
    }
    if let Ok(pattern) = PathPattern::new(path) {
        assert_eq!(pattern.as_str(), path);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn callers() -> [Caller; 2] {
    let attributes = [("model", "pump"), ("site", "oslo")];
    [
        Caller::Device {
            namespace: "factory".to_owned(),
            name: "pump-7".to_owned(),
            attributes: attributes
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        },
        Caller::Workload {
            namespace: "factory".to_owned(),
            service_account: "prometheus".to_owned(),
        },
    ]
}

fn targets() -> [Target; 2] {
    [Target::Port(8080), Target::Service("config".to_owned())]
}
