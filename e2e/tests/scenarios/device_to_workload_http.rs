//! A device calls an HTTP service. The app behind it learns who called from
//! headers that nobody else can set, and policy speaks of methods and paths.

use fairway_e2e::{App, Result, Value, scenario};

const POLICY: &str = r"
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: readings}
spec:
  target: {workloads: {podSelector: {matchLabels: {app: echo}}}}
  from: [{devices: {namespaces: [$NS], names: [pump-7]}}]
  to: [{port: 8080, protocol: HTTP, http: [{methods: [GET, POST], paths: [/v1/readings/*]}]}]
---
apiVersion: fairway.dev/v1alpha1
kind: ChannelPolicy
metadata: {name: not-the-secret-ones}
spec:
  action: Deny
  target: {workloads: {podSelector: {matchLabels: {app: echo}}}}
  from: [{devices: {namespaces: [$NS], names: [pump-7]}}]
  to: [{port: 8080, protocol: HTTP, http: [{methods: [GET], paths: [/v1/readings/secret]}]}]
";

/// Every value of a header, in any case.
fn header(echo: &Value, name: &str) -> Vec<String> {
    let headers = echo["header"].as_object().into_iter().flatten();
    let values = headers
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .filter_map(|(_, values)| values.as_array());
    values
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect()
}

#[test]
fn an_app_learns_who_called() {
    scenario("http-in", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s.running_device("pump-7", &[]).await?;
        let url = "http://echo.$NS.svc.fairway.internal/v1/readings/today?unit=bar";

        let echo = device
            .get(url, &["-method", "POST", "-body", "4.2"])
            .await?
            .echo()?;
        assert_eq!(
            (&echo["method"], &echo["body"]),
            (&"POST".into(), &"4.2".into()),
            "{echo}"
        );
        assert_eq!(
            (&echo["path"], &echo["query"]),
            (&"/v1/readings/today".into(), &"unit=bar".into()),
            "{echo}"
        );
        let peer = s.text("spiffe://fairway.local/ns/$NS/device/pump-7");
        assert_eq!(header(&echo, "fairway-peer"), [peer.as_str()]);
        assert_eq!(header(&echo, "fairway-peer-attributes"), ["site=oslo"]);
        let how = header(&echo, "fairway-peer-authentication");
        assert!(how.len() == 1 && how[0].starts_with("live;"), "{how:?}");

        // A caller cannot say itself who it is: not twice, not in another
        // spelling, and not by declaring ours to be for one hop only.
        let spoofs = [
            "Fairway-Peer: spiffe://evil",
            "FAIRWAY_PEER: spiffe://evil",
            "fairway-peer-attributes: site=bergen",
            "Connection: fairway-peer",
        ];
        let args: Vec<&str> = spoofs.iter().flat_map(|spoof| ["-H", spoof]).collect();
        let echo = device.get(url, &args).await?.echo()?;
        assert_eq!(header(&echo, "fairway-peer"), [peer]);
        assert_eq!(header(&echo, "fairway-peer-attributes"), ["site=oslo"]);
        assert!(
            !echo.to_string().contains("evil") && !echo.to_string().contains("bergen"),
            "{echo}"
        );
        Ok(())
    });
}

#[test]
fn policy_speaks_of_methods_and_paths() {
    scenario("http-rules", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let device = s.running_device("pump-7", &[]).await?;
        let get = async |path: &str, more: &[&str]| -> Result<_> {
            device
                .get(&format!("http://echo.$NS.svc.fairway.internal{path}"), more)
                .await
        };

        get("/v1/readings/today", &[]).await?.is(200, &[])?;
        get("/v1/readings/today", &["-method", "DELETE"])
            .await?
            .is(403, &["policy-denied"])?;
        get("/v2/readings/today", &[])
            .await?
            .is(403, &["policy-denied"])?;
        get("/v1/readings/secret", &[])
            .await?
            .is(403, &["not-the-secret-ones"])?;
        // What two programs could read in two ways reaches neither.
        get("/v1/readings/x/../../../admin", &[])
            .await?
            .is(400, &["bad-request"])?;
        get("/v1/readings/x%2F..%2Fsecret", &[])
            .await?
            .is(400, &["bad-request"])
    });
}
