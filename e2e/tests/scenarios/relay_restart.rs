//! The relay goes, and comes back as another pod: device and sidecar find it
//! again by themselves.

use std::time::{Duration, Instant};

use fairway_e2e::{App, alone, eventually};

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
fn a_new_relay_is_found() {
    alone("relay-restart", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s
            .running_device("pump-7", &[(7, "echo.$NS.svc.fairway.internal:7")])
            .await?;
        device.echo(7, "before").await?;

        s.cluster().replace_pods("fairway-relay").await?;
        let ready = Instant::now();
        // Back-off is jittered and at most 30 s; after one lost relay it has hardly begun.
        eventually(
            "the device to be connected again",
            Duration::from_secs(40),
            async || device.echo(7, "after").await,
        )
        .await?;
        println!(
            "connected again {} ms after the new relay was ready",
            ready.elapsed().as_millis()
        );
        Ok(())
    });
}
