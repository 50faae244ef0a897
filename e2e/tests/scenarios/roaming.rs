//! The device's address changes in mid-transfer: its router gets another one,
//! and forgets what it had translated. No end of the old connections is told.
//! Session and connections live on, and not a byte is lost or doubled.

use std::time::Duration;

use fairway_e2e::{App, LATER, Way, ensure, scenario};

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

/// Silence is noticed after a second or some, and then a way is looked for; on a
/// machine with two cores that does several things at once.
const BACK: Duration = Duration::from_secs(30);

#[test]
fn an_address_that_changes_is_survived_on_tcp() {
    roam("roam-tcp", Way::Tcp);
}

#[test]
fn an_address_that_changes_is_survived_on_quic() {
    roam("roam-quic", Way::Quic);
}

#[track_caller]
fn roam(name: &str, way: Way) {
    scenario(name, async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s.running_device_by(&[way], "pump-7", &INLET).await?;
        let lines = device.count(7, "5ms").await?;
        let transfer = device.transfer(7, "24M", "3M").await?;

        transfer.is_back(LATER, 4 << 20).await?;
        device.moves().await?;
        lines.goes_on(BACK).await?;
        ensure!(!transfer.is_over(), "it was not in mid-transfer");
        // And once more, from there.
        device.moves().await?;
        lines.goes_on(BACK).await?;

        let transfer = transfer.complete(LATER).await?;
        let pauses = lines.pauses();
        let lines = lines.finish().await?;
        println!("{}\n{}\npauses: {pauses:?}", transfer.said, lines.said);
        Ok(())
    });
}
