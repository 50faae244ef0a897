//! A pod without the label is none of Fairway's business.

use fairway_e2e::{App, ensure, scenario};

#[test]
fn a_pod_without_the_label_is_untouched() {
    scenario("untouched", async |s| {
        let pod = s
            .app(App::echo("plain").uninjected().exposed())
            .await?
            .ready()
            .await?;
        let spec = serde_json::to_string(&pod)?;
        ensure!(
            !spec.contains("fairway-sidecar") && !spec.contains("fairway.dev/injected"),
            "{spec}"
        );
        let containers = pod.spec.map_or(0, |spec| {
            spec.containers.len() + spec.init_containers.map_or(0, |all| all.len())
        });
        assert_eq!(containers, 1);
        Ok(())
    });
}

#[test]
fn a_namespace_can_be_labelled_and_a_pod_opt_out() {
    scenario("namespace-label", async |s| {
        s.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: $NS, labels: {fairway.dev/inject: enabled, fairway.dev/e2e: 'true', pod-security.kubernetes.io/enforce: restricted}}\n").await?;
        let injected = s.app(App::echo("in").uninjected()).await?.ready().await?;
        ensure!(
            serde_json::to_string(&injected)?.contains("fairway-sidecar"),
            "no sidecar: {injected:?}"
        );
        let out = s.app(App::echo("out").opted_out()).await?.ready().await?;
        ensure!(
            !serde_json::to_string(&out)?.contains("fairway-sidecar"),
            "a sidecar: {out:?}"
        );
        Ok(())
    });
}
