//! An app that listens beyond loopback could be reached without Fairway, and
//! would believe a forged `fairway-peer`: the sidecar does not deliver to it,
//! and says what to change. An annotation accepts the risk.

use fairway_e2e::{App, scenario};

const POLICY: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: devices-may-call}
spec:
  target: {workloads: {any: true}}
  from: [{devices: {namespaces: [$NS], names: [pump-7]}}]
  to: [{any: true}]
";

#[test]
fn an_app_on_all_addresses_is_not_delivered_to() {
    scenario("exposed", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("open").exposed()).await?;
        s.app(
            App::echo("accepted")
                .exposed()
                .annotated("fairway.dev/allow-exposed-ports", "8080"),
        )
        .await?;
        let device = s.running_device("pump-7", &[]).await?;

        device
            .get("http://open.$NS.svc.fairway.internal/", &[])
            .await?
            .is(502, &["exposed-port", "127.0.0.1"])?;
        device
            .get("http://accepted.$NS.svc.fairway.internal/", &[])
            .await?
            .is(200, &[])
    });
}
