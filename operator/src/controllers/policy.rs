//! ChannelPolicy: condition `Accepted`, with the reason where a policy cannot
//! be compiled. Whether it is, the authority decides by the same function.

use std::sync::Arc;

use fairway_crds::ChannelPolicy;
use fairway_crds::channel_policy::{PolicyAction, PolicyMode};
use fairway_crds::conditions::{ACCEPTED, Observed};
use jiff::Timestamp;
use kube::Resource;
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use serde_json::json;

use super::Controllers;
use super::run::{Backoff, Guarded, config, drain, objects};
use super::status::{Notice, settle, stored_conditions, unreadable};
use crate::call::CallError;

const KIND: &str = "ChannelPolicy";

/// Looks at a policy.
pub fn see(policy: &ChannelPolicy) -> Observed {
    match policy.compile() {
        Ok(_) => Observed {
            kind: ACCEPTED,
            status: Some(true),
            reason: "Accepted",
            message: "it is in force as it is written".to_owned(),
        },
        Err(error) => Observed {
            kind: ACCEPTED,
            status: Some(false),
            reason: "Invalid",
            message: format!("{error}. {}", meanwhile(policy)),
        },
    }
}

/// What endpoints do instead of a policy that cannot be compiled.
fn meanwhile(policy: &ChannelPolicy) -> &'static str {
    match (policy.spec.action, policy.spec.mode) {
        (PolicyAction::Allow, PolicyMode::Enforce) => "Until it is corrected, it allows nothing",
        (PolicyAction::Deny, PolicyMode::Enforce) => {
            "Until it is corrected, everything to its target is denied"
        }
        (PolicyAction::Allow | PolicyAction::Deny, PolicyMode::Audit) => {
            "Until it is corrected, nothing is audited by it"
        }
    }
}

/// The event that a change of the condition is worth: also that a policy is
/// in order again, but not that a new one is.
fn notice(turned: &Observed, is_new: bool) -> Option<Notice> {
    let warning = turned.status != Some(true);
    let notice = || Notice {
        warning,
        reason: turned.reason,
        text: turned.message.clone(),
    };
    (warning || !is_new).then(notice)
}

/// Runs the controller.
pub(super) async fn run(controllers: Controllers) {
    let (store, stream) = objects::<ChannelPolicy>(&controllers, |_| {});
    let context = Arc::new((controllers.clone(), Backoff::default()));
    let results = Controller::for_stream(stream, store)
        .with_config(config())
        .run(
            async |policy, context: Arc<(Controllers, Backoff)>| {
                let done = reconcile(&context.0, &policy, Timestamp::now()).await?;
                context.1.succeeded(policy.as_ref());
                Ok(done)
            },
            |policy, _error: &CallError, context| context.1.failed(policy.as_ref()),
            context,
        );
    drain(&controllers, KIND, results).await;
}

async fn reconcile(
    controllers: &Controllers,
    policy: &Guarded<ChannelPolicy>,
    now: Timestamp,
) -> Result<Action, CallError> {
    let (seen, stored) = match &policy.0 {
        Ok(policy) => {
            let status = policy.status.as_ref();
            (
                see(policy),
                status.map(|s| s.conditions.clone()).unwrap_or_default(),
            )
        }
        Err(error) => (
            unreadable(
                ACCEPTED,
                &format!(
                    "{}; everything in the namespace is denied meanwhile",
                    error.error
                ),
            ),
            stored_conditions(controllers, policy).await,
        ),
    };
    let generation = policy.meta().generation;
    let settled = settle(&stored, vec![seen], generation, now);
    if settled.changed {
        let status = json!({"observedGeneration": generation, "conditions": settled.conditions});
        controllers.apply_status(policy, status).await?;
        let notices = settled
            .turned
            .iter()
            .filter_map(|turned| notice(turned, stored.is_empty()));
        for notice in notices {
            controllers.publish(&notice, &policy.object_ref(&())).await;
        }
    }
    Ok(Action::await_change())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::Value;

    const PATH: &str = "/apis/fairway.dev/v1alpha1/namespaces/factory/channelpolicies/p";

    fn policy(from: Value) -> Value {
        json!({
            "apiVersion": "fairway.dev/v1alpha1", "kind": "ChannelPolicy",
            "metadata": {"name": "p", "namespace": "factory", "uid": "u1", "generation": 1},
            "spec": {
                "action": "Deny",
                "target": {"workloads": {"any": true}}, "from": from, "to": [{"port": 80}],
            },
        })
    }

    async fn turn(api: &FakeApi) -> usize {
        let controllers = Controllers::for_tests(api.client());
        let policy = serde_json::from_value(api.get(PATH).unwrap()).unwrap();
        reconcile(&controllers, &policy, Timestamp::UNIX_EPOCH)
            .await
            .unwrap();
        api.writes().len()
    }

    fn condition(api: &FakeApi) -> (String, String) {
        let condition = &api.get(PATH).unwrap()["status"]["conditions"][0];
        let text = |key: &str| condition[key].as_str().unwrap().to_owned();
        (text("reason"), text("message"))
    }

    #[tokio::test]
    async fn a_policy_is_accepted_or_told_why_not() {
        let good = json!([{"devices": {"namespaces": ["factory"]}}]);
        let api = FakeApi::new();
        api.put(PATH, policy(good.clone()));
        assert_eq!(turn(&api).await, 1, "a status and no event");
        assert_eq!(condition(&api).0, "Accepted");
        assert_eq!(turn(&api).await, 0);

        api.change(PATH, |policy| policy["spec"]["from"] = json!([]));
        assert_eq!(turn(&api).await, 2, "a status and an event");
        let (reason, message) = condition(&api);
        assert_eq!(reason, "Invalid");
        assert!(
            message.starts_with("spec.from: must not be empty"),
            "{message}"
        );
        assert!(
            message.ends_with("everything to its target is denied"),
            "{message}"
        );

        api.change(PATH, |policy| policy["spec"]["from"] = json!("x"));
        assert_eq!(turn(&api).await, 2);
        assert_eq!(condition(&api).0, "Unreadable");
        assert_eq!(turn(&api).await, 0);

        api.change(PATH, |policy| policy["spec"]["from"] = good);
        assert_eq!(turn(&api).await, 2, "in order again is worth an event");
        assert_eq!(condition(&api).0, "Accepted");
    }
}
