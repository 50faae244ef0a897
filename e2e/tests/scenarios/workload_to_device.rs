//! A pod calls a service of a device behind NAT, through its sidecar's proxy.

use fairway_e2e::{App, scenario};

#[test]
fn a_pod_reaches_a_device() {
    scenario("http-out", async |s| {
        s.apply(
            r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: caller-may-look}
spec:
  target: {devices: {matchAttributes: {site: oslo}}}
  from: [{workloads: {namespaces: [$NS], serviceAccounts: [caller]}}]
  to: [{service: app, protocol: HTTP, http: [{methods: [GET], paths: [/metrics]}]}]
",
        )
        .await?;
        let caller = s.app(App::caller("caller")).await?;
        let mut device = s.running_device("pump-7", &[]).await?;
        device.serve().await?;

        let there = s.text("http://pump-7.$NS.device.fairway.internal:8080");
        let echo = caller.get(&format!("{there}/metrics"), &[]).await?.echo()?;
        assert_eq!(
            echo["header"]["Fairway-Peer"][0],
            s.text("spiffe://fairway.local/ns/$NS/sa/caller"),
            "{echo}"
        );
        caller
            .get(&format!("{there}/secrets"), &[])
            .await?
            .is(403, &["policy-denied"])?;

        // A port that no policy opens (who may not call it does not learn
        // whether the device offers it), a device that is not there, and a
        // host outside of Fairway: each says what it is.
        caller
            .get(
                &s.text("http://pump-7.$NS.device.fairway.internal:22/"),
                &[],
            )
            .await?
            .is(403, &["policy-denied"])?;
        caller
            .get(
                &s.text("http://pump-8.$NS.device.fairway.internal:8080/"),
                &[],
            )
            .await?
            .is(502, &["not-here"])?;
        caller
            .get("http://example.com/", &[])
            .await?
            .is(403, &["foreign-host"])
    });
}
