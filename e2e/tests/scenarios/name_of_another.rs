//! A device cannot register another's name: it says that it is pump-8, but has
//! only the credential of pump-7.

use std::fs;

use fairway_e2e::{App, Context as _, Value, scenario};

const POLICY: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: caller-may-look}
spec:
  target: {devices: {any: true}}
  from: [{workloads: {namespaces: [$NS], serviceAccounts: [caller]}}]
  to: [{service: app}]
";

#[test]
fn a_device_cannot_take_anothers_name() {
    scenario("name", async |s| {
        s.apply(POLICY).await?;
        let caller = s.app(App::caller("caller")).await?;
        let mut thief = s.running_device("pump-7", &[]).await?;
        thief.serve().await?;
        thief.stop().await?;
        s.identity("pump-8").await?;

        // Its own state directory is the thief's to change.
        let file = thief.state_dir().join("enrolment.json");
        let mut enrolment: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        assert_eq!(enrolment["name"], "pump-7");
        enrolment["name"] = "pump-8".into();
        fs::write(&file, enrolment.to_string())?;
        thief.start(&[])?;
        thief
            .says("name-not-yours")
            .await
            .context("the relay's refusal")?;

        caller
            .get(
                &s.text("http://pump-8.$NS.device.fairway.internal:8080/"),
                &[],
            )
            .await?
            .is(502, &["not-here"])
    });
}
