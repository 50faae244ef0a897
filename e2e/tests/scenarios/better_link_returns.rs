//! UDP is blocked, so the device takes TCP; when UDP gets through again it goes
//! back up to QUIC, and when that dies, down again: all of it within one session,
//! on which a connection is held.

use std::time::Duration;

use fairway_e2e::{App, SOON, Way, scenario};

const POLICY: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: devices-may-echo}
spec:
  target: {workloads: {podSelector: {matchLabels: {app: echo}}}}
  from: [{devices: {namespaces: [$NS], matchAttributes: {site: oslo}}}]
  to: [{port: 7000}]
";

const INLET: [(u16, &str); 1] = [(7, "echo.$NS.svc.fairway.internal:7")];

/// A better way is looked for after a minute, with jitter.
const UP: Duration = Duration::from_secs(100);

/// Silence is noticed after a second or some, and then another way is looked for.
const DOWN: Duration = Duration::from_secs(40);

#[test]
fn a_device_goes_back_to_the_better_link() {
    scenario("better-link", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s.device_by(&[Way::Tcp], "pump-7").await?;
        device.forbid(Way::Quic).await?;
        let device = s.running(device, "pump-7", &INLET).await?;
        device.linked_by(SOON, "198.18.").await?;
        let lines = device.count(7, "5ms").await?;

        device.allow(Way::Quic).await?;
        device.linked_by(UP, "quic://").await?;
        lines.goes_on(SOON).await?;
        println!("up: pauses {:?}", lines.pauses());

        device.forbid(Way::Quic).await?;
        device.linked_by(DOWN, "198.18.").await?;
        lines.goes_on(SOON).await?;
        println!("and down: pauses {:?}", lines.pauses());
        println!("{}", lines.finish().await?.said);
        Ok(())
    });
}
