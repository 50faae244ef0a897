//! Both replicas of the operator go: what is live goes on, and afterwards pods
//! are injected and resources looked after as before.

use fairway_e2e::{App, SOON, alone, eventually, wait};

const POLICY: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: devices-may-echo}
spec:
  target: {workloads: {podSelector: {matchLabels: {app: echo}}}}
  from: [{devices: {namespaces: [$NS], names: [pump-7]}}]
  to: [{port: 7000}]
";

#[test]
fn the_operator_can_be_replaced() {
    alone("operator-restart", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s
            .running_device("pump-7", &[(7, "echo.$NS.svc.fairway.internal:7")])
            .await?;
        let live = device.start_app(&["hold", "127.0.0.1:7"]).await?;
        live.lines()
            .wait_for("held", SOON, |line| line == "held")
            .await?;

        s.cluster().replace_pods("fairway-operator").await?;

        let seen = live.lines().count();
        live.lines()
            .wait_for("more lines", SOON, |line| {
                line == format!("line {}", seen + 2)
            })
            .await?;
        // Both were killed without warning: until kube-proxy knows the new ones,
        // the API server finds nobody to ask, and says so.
        eventually("the injector to be reached", wait::LATER, async || {
            s.app(App::echo("new")).await
        })
        .await?;
        // A leader is there: it writes conditions.
        s.identity("pump-8").await?;
        s.condition("DeviceIdentity", "pump-8", "Enrolled", "False")
            .await?;
        Ok(())
    });
}
