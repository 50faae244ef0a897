//! All relays go, and come back as other pods: device and sidecar find them again
//! by themselves, and what they had to say to each other waits.

use std::time::{Duration, Instant};

use fairway_e2e::{App, alone, eventually, relays::RELAY};

const POLICY: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: devices-may-echo}
spec:
  target: {workloads: {podSelector: {matchLabels: {app: echo}}}}
  from: [{devices: {namespaces: [$NS], names: [pump-7]}}]
  to: [{port: 7000}]
";

const BACK: Duration = Duration::from_secs(40);

#[test]
fn new_relays_are_found() {
    alone("relay-restart", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s
            .running_device("pump-7", &[(7, "echo.$NS.svc.fairway.internal:7")])
            .await?;
        let held = device.count(7, "20ms").await?;

        s.cluster().replace_pods(RELAY).await?;
        let ready = Instant::now();
        // Back-off is jittered and at most 30 s; after lost relays it has hardly begun.
        eventually("the device to be connected again", BACK, async || {
            device.echo(7, "after").await
        })
        .await?;
        println!(
            "connected again {} ms after the new relays were ready",
            ready.elapsed().as_millis()
        );
        held.goes_on(BACK).await?;
        println!("{}", held.finish().await?.said);
        Ok(())
    });
}
