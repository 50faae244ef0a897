//! A policy speaks for callees of its own namespace, and opens no door in
//! another one, whatever its selectors say.

use fairway_e2e::{App, SOON, eventually, scenario};

/// In the other namespace it is right; it must not leak into this one.
const ALLOW_ALL: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: allow-all, namespace: $NS-b}
spec:
  target: {workloads: {any: true}}
  from: [{devices: {namespaces: ['*']}}]
  to: [{any: true}]
";

#[test]
fn a_policy_opens_no_door_in_another_namespace() {
    scenario("foreign", async |s| {
        let other = s.another_namespace().await?;
        s.apply(ALLOW_ALL).await?;
        s.app(App::echo("echo")).await?;
        s.app_in(&other, &App::echo("echo")).await?;
        let device = s.running_device("pump-7", &[]).await?;

        // Once it is seen to work where it should, its silence here means something.
        eventually(
            "the policy to work in its own namespace",
            SOON,
            async || {
                device
                    .get("http://echo.$NS-b.svc.fairway.internal/", &[])
                    .await?
                    .is(200, &[])
            },
        )
        .await?;
        device
            .get("http://echo.$NS.svc.fairway.internal/", &[])
            .await?
            .is(403, &["policy-denied"])
    });
}
