//! The authority goes. Credentials are kept: live connections go on and new
//! ones are made meanwhile. When it is back it is the same authority, which
//! everybody still believes, and it enrols.

use fairway_e2e::{App, SOON, alone};

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
fn credentials_outlive_the_authority() {
    alone("authority-restart", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let inlet = [(7, "echo.$NS.svc.fairway.internal:7")];
        let device = s.running_device("pump-7", &inlet).await?;
        let live = device.start_app(&["hold", "127.0.0.1:7"]).await?;
        live.lines()
            .wait_for("held", SOON, |line| line == "held")
            .await?;

        s.cluster()
            .without("fairway-authority", async || {
                let seen = live.lines().count();
                let more = format!("line {}", seen + 2);
                live.lines()
                    .wait_for("more lines", SOON, |line| line == more)
                    .await?;
                device.echo(7, "without an authority").await
            })
            .await?;

        device.echo(7, "with the credential from before").await?;
        let late = s.running_device("pump-8", &inlet).await?;
        late.echo(7, "enrolled after").await?;
        device.echo(7, "still me").await
    });
}
