//! A device whose only way out is a radio that loses a fifth of the packets
//! each way, and has a round trip of 200 ms: the channel stays up all the time,
//! and carries a conversation and a transfer.
//!
//! The kernel of the machine may have no netem, so the radio is a program on the
//! device's router (`app radio`) that passes on UDP.

use std::time::Duration;

use fairway_e2e::{App, ROUTER, Way, ensure, scenario};

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

/// A handshake takes several round trips, and any of its packets may be lost
/// more than once.
const SLOWLY: Duration = Duration::from_secs(60);

#[test]
fn quic_keeps_its_channel_on_a_bad_radio() {
    scenario("bad-radio", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let mut device = s.device_by(&[], "pump-7").await?;
        let port = Way::Quic.port();
        let near = format!("{ROUTER}:{port}");
        let far = format!("{}:{port}", s.cluster().nodes[0]);
        let args = [
            "radio", "-loss", "0.2", "-delay", "100ms", "-seed", "7", &near, &far,
        ];
        let radio = device.beside(&format!("{port}/udp"), &s.cluster().app("app"), &args)?;
        radio
            .lines()
            .wait_for("radio", SLOWLY, |line| line.starts_with("radio"))
            .await?;
        device.configure(&format!("relays: [\"quic://{near}\"]\n"));

        s.identity("pump-7").await?;
        device.join(&s.ticket("pump-7").await?).await?.succeeded()?;
        device.start(&INLET)?;
        device
            .says_within(SLOWLY, r#""event":"registered""#)
            .await?;
        let lines = device.count(7, "50ms").await?;
        let transfer = device.transfer(7, "2M", "1M").await?;

        let transfer = transfer.complete(Duration::from_secs(120)).await?;
        let pauses = lines.pauses();
        let lines = lines.finish().await?;
        println!("{}\n{}\npauses: {pauses:?}", transfer.said, lines.said);
        radio.stop(SLOWLY).await?;
        ensure!(
            device.has_said(r#""event":"link-up""#)? == 1,
            "the link did not stay up"
        );
        Ok(())
    });
}
