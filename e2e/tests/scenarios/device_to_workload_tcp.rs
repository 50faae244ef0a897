//! A device opens plain TCP connections to a Service: by a fixed inlet, and by
//! CONNECT through its proxy. The Service's port is mapped to the pod's.

use fairway_e2e::{App, scenario};

const POLICY: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: devices-may-echo}
spec:
  target: {workloads: {podSelector: {matchLabels: {app: echo}}}}
  from: [{devices: {namespaces: [$NS], matchAttributes: {site: oslo}}}]
  to: [{port: 7000}]
";

#[test]
fn a_device_reaches_a_service_over_tcp() {
    scenario("tcp-in", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s
            .running_device("pump-7", &[(7, "echo.$NS.svc.fairway.internal:7")])
            .await?;

        device.echo(7, "by inlet").await?;

        let there = s.text("echo.$NS.svc.fairway.internal:7");
        let answer = device
            .app(&["tcp", "-connect", "127.0.0.1:7480", &there, "by CONNECT"])
            .await?
            .succeeded()?;
        assert_eq!(answer.trim_end(), "by CONNECT");

        // The policy names one port; the other one of the same Service stays shut.
        let answer = device
            .get("http://echo.$NS.svc.fairway.internal/", &[])
            .await?;
        answer.is(403, &["policy-denied"])
    });
}

#[test]
fn an_inlet_in_the_cluster_leads_to_a_device() {
    scenario("tcp-out", async |s| {
        s.apply(
            r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: caller-may-echo}
spec:
  target: {devices: {names: [pump-7]}}
  from: [{workloads: {namespaces: [$NS], serviceAccounts: [caller]}}]
  to: [{service: echo}]
",
        )
        .await?;
        let inlet = s.text("7007=pump-7.$NS.device.fairway.internal:7000");
        let caller = s
            .app(App::caller("caller").annotated("fairway.dev/inlets", &inlet))
            .await?;
        let mut device = s.running_device("pump-7", &[]).await?;
        device.serve().await?;

        let answer = caller
            .app(&["tcp", "127.0.0.1:7007", "to the device"])
            .await?
            .succeeded()?;
        assert_eq!(answer.trim_end(), "to the device");
        Ok(())
    });
}
