//! `kubectl rollout restart` of the relays under load: links move to the new
//! ones, and a held connection does not notice.

use std::time::Duration;

use fairway_e2e::{App, LATER, SOON, alone, ensure, relays::RELAY};

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

/// What a person or a program with a timeout would not call a failure.
const UNNOTICED: Duration = Duration::from_secs(1);

#[test]
fn relays_are_replaced_unnoticed() {
    alone("drain", async |s| {
        s.apply(POLICY).await?;
        let echo = s.app(App::echo("echo")).await?;
        let device = s.running_device("pump-7", &INLET).await?;
        let old = s.cluster().relays().await?;
        s.cluster().on_all_relays(&echo, old.len()).await?;
        let lines = device.count(7, "5ms").await?;
        let transfer = device.transfer(7, "200M", "3M").await?;

        s.cluster().restart(RELAY).await?;
        for relay in &old {
            relay.gone().await?;
        }
        lines.goes_on(SOON).await?;
        ensure!(!transfer.is_over(), "there was no load");

        let pauses = lines.pauses();
        let lines = lines.finish().await?;
        let transfer = transfer.complete(LATER).await?;
        println!("{}\n{}\npauses: {pauses:?}", transfer.said, lines.said);
        ensure!(
            lines.longest_pause < UNNOTICED,
            "it was noticed: {pauses:?}"
        );
        Ok(())
    });
}
