//! Somebody floods every port of the relays with garbage and with connections
//! that come to nothing. Who has a credential goes on, and gets in; the relays'
//! memory stays bounded.

use std::time::Duration;

use fairway_e2e::{App, LATER, Way, alone, ensure};

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

/// Until the echo of a line is back, for 99 of 100: the flood has half of this
/// machine's two cores.
const LATENCY_MAX: Duration = Duration::from_millis(500);

/// More than the half-open connections may cost (1,024 at 10 KiB, and as many
/// QUIC handshakes), with room for what an allocator keeps.
const GROWTH_MAX: u64 = 96 << 20;

#[test]
fn a_flood_does_not_get_in_the_way() {
    alone("flood", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s.running_device("pump-7", &INLET).await?;
        let mut late = s.running_device("pump-8", &INLET).await?;
        late.stop().await?;
        let lines = device.count(7, "5ms").await?;
        let relays = s.cluster().relays().await?;
        let before: Vec<_> = relays.iter().map(|relay| relay.resident_bytes()).collect();

        let flooder = s.device("flooder").await?;
        let ports = s.cluster().nodes.iter().flat_map(|node| {
            Way::ALL.map(|way| match way {
                Way::Quic => format!("udp:{node}:{}", way.port()),
                Way::Tcp | Way::Tls => format!("tcp:{node}:{}", way.port()),
            })
        });
        let ports: Vec<_> = ports.collect();
        let args = [
            &["flood", "-for", "15s", "-rate", "300"][..],
            &ports.iter().map(String::as_str).collect::<Vec<_>>(),
        ]
        .concat();
        let mut flood = flooder.start_app(&args).await?;
        flood
            .lines()
            .wait_for("flooding", LATER, |line| line == "flooding")
            .await?;

        // Who was away comes back while it lasts.
        late.run(&INLET).await?;
        late.echo(7, "through the flood").await?;
        ensure!(!flood.lines().has_ended(), "the flood was over");
        flood.ended(LATER).await?;
        let lines = lines.finish().await?;
        println!("{}\n{}", flood.lines().last(1), lines.said);

        ensure!(lines.p99()? < LATENCY_MAX, "{}", lines.said);
        let after: Vec<_> = relays.iter().map(|relay| relay.resident_bytes()).collect();
        println!("relays' memory, bytes: {before:?}, then {after:?}");
        for (before, after) in before.iter().zip(&after) {
            if let (Some(before), Some(after)) = (before, after) {
                ensure!(
                    *after < before + GROWTH_MAX,
                    "a relay grew from {before} to {after}"
                );
            }
        }
        let still: Vec<_> = s
            .cluster()
            .relays()
            .await?
            .into_iter()
            .map(|relay| relay.ip)
            .collect();
        ensure!(
            relays.iter().all(|relay| still.contains(&relay.ip)),
            "a relay ended"
        );
        Ok(())
    });
}
