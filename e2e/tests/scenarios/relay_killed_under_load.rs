//! Two relays; the one that is in use is killed under load, again and again:
//! nothing is lost, nothing doubled, and it takes less than two seconds.

use std::time::{Duration, Instant};

use fairway_e2e::{App, LATER, alone, ensure};

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

const RELAYS: usize = 2;

const ROUNDS: usize = 20;

const PAUSE_MAX: Duration = Duration::from_secs(2);

#[test]
fn a_killed_relay_costs_a_pause_and_not_a_byte() {
    alone("relay-killed", async |s| {
        s.apply(POLICY).await?;
        let echo = s.app(App::echo("echo")).await?;
        let cluster = s.cluster();
        let device = s.running_device("pump-7", &INLET).await?;
        cluster.on_all_relays(&echo, RELAYS).await?;
        let lines = device.count(7, "5ms").await?;
        let transfer = device.transfer(7, "300M", "2M").await?;

        let began = Instant::now();
        for _ in 0..ROUNDS {
            let used = cluster.relay_of(&device.address()).await?;
            cluster.kill(&used).await?;
            lines.goes_on(LATER).await?;
            // The next one may be killed when another has taken the place of this one.
            cluster.on_all_relays(&echo, RELAYS).await?;
        }

        let lasted = began.elapsed();
        let transfer = transfer.complete(LATER).await?;
        let pauses = lines.pauses();
        let lines = lines.finish().await?;
        println!(
            "{ROUNDS} relays killed in {} s\n{}\n{}\npauses: {pauses:?}",
            lasted.as_secs(),
            transfer.said,
            lines.said
        );
        ensure!(
            lines.longest_pause < PAUSE_MAX,
            "too long a pause: {pauses:?}"
        );
        Ok(())
    });
}
