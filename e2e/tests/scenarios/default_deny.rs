//! Without a policy nothing is reachable, in neither direction; the caller is
//! told so. With one it is, and without it again not: live connections end.

use fairway_e2e::{App, SOON, eventually, scenario};

const DEVICES_MAY_CALL: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: devices-may-call}
spec:
  target: {workloads: {podSelector: {matchLabels: {app: echo}}}}
  from: [{devices: {namespaces: [$NS], names: [pump-7]}}]
  to: [{port: 8080, protocol: HTTP}, {port: 7000}]
";

const CALLER_MAY_CALL: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: caller-may-call}
spec:
  target: {devices: {any: true}}
  from: [{workloads: {namespaces: [$NS], serviceAccounts: [caller]}}]
  to: [{service: app}]
";

#[test]
fn a_device_needs_a_policy_to_call() {
    scenario("deny-in", async |s| {
        s.app(App::echo("echo")).await?;
        let device = s
            .running_device("pump-7", &[(7, "echo.$NS.svc.fairway.internal:7")])
            .await?;
        let url = "http://echo.$NS.svc.fairway.internal/";
        device.get(url, &[]).await?.is(403, &["policy-denied"])?;
        device
            .app(&["tcp", "127.0.0.1:7", "anybody?"])
            .await?
            .failed()?;

        s.apply(DEVICES_MAY_CALL).await?;
        eventually("the policy to let the device in", SOON, async || {
            device.get(url, &[]).await?.is(200, &[])
        })
        .await?;
        let live = device.start_app(&["hold", "127.0.0.1:7"]).await?;
        live.lines()
            .wait_for("held", SOON, |line| line == "held")
            .await?;

        s.delete("ChannelPolicy", "devices-may-call").await?;
        live.lines()
            .wait_for("ended", SOON, |line| line.starts_with("ended"))
            .await?;
        device.get(url, &[]).await?.is(403, &["policy-denied"])
    });
}

#[test]
fn a_pod_needs_a_policy_to_call() {
    scenario("deny-out", async |s| {
        let caller = s.app(App::caller("caller")).await?;
        let mut device = s.running_device("pump-7", &[]).await?;
        device.serve().await?;
        let url = s.text("http://pump-7.$NS.device.fairway.internal:8080/");
        caller.get(&url, &[]).await?.is(403, &["policy-denied"])?;

        s.apply(CALLER_MAY_CALL).await?;
        eventually("the policy to let the pod in", SOON, async || {
            caller.get(&url, &[]).await?.is(200, &[])
        })
        .await?;

        s.delete("ChannelPolicy", "caller-may-call").await?;
        eventually("the pod to be shut out again", SOON, async || {
            caller.get(&url, &[]).await?.is(403, &["policy-denied"])
        })
        .await
    });
}
