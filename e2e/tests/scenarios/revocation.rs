//! `state: Revoked` ends what is live, at once and on both sides, and nothing
//! that the device holds brings it back; only a new ticket does.

use fairway_e2e::{App, SOON, json, scenario};

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
fn revoking_a_device_ends_its_live_connection() {
    scenario("revoked", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let inlet = [(7, "echo.$NS.svc.fairway.internal:7")];
        let device = s.running_device("pump-7", &inlet).await?;
        let other = s.running_device("pump-8", &inlet).await?;
        let live = device.start_app(&["hold", "127.0.0.1:7"]).await?;
        let others = other.start_app(&["hold", "127.0.0.1:7"]).await?;
        for app in [&live, &others] {
            app.lines()
                .wait_for("held", SOON, |line| line == "held")
                .await?;
        }

        s.patch(
            "DeviceIdentity",
            "pump-7",
            json!({"spec": {"state": "Revoked"}}),
        )
        .await?;
        live.lines()
            .wait_for("the end", SOON, |line| line.starts_with("ended"))
            .await?;
        device
            .app(&["tcp", "127.0.0.1:7", "again?"])
            .await?
            .failed()?;
        s.condition("DeviceIdentity", "pump-7", "Ready", "False")
            .await?;

        // Another device's connection goes on.
        let seen = others.lines().count();
        others
            .lines()
            .wait_for("more lines", SOON, |line| {
                line == format!("line {}", seen + 2)
            })
            .await?;
        other.echo(7, "not me").await
    });
}
