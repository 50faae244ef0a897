//! A device in a company's network: nothing gets out but through an HTTP proxy
//! that wants a password and lets nobody connect to anything but HTTPS.

use std::io::Write as _;

use fairway_e2e::{App, ROUTER, SOON, Way, ensure, eventually, scenario};

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

const PROXY_PORT: &str = "3128";

#[test]
fn a_device_gets_out_by_websocket_through_a_proxy() {
    scenario("proxy-out", async |s| {
        s.apply(POLICY).await?;
        s.app(App::echo("echo")).await?;
        let mut device = s.device_by(&[], "pump-7").await?;
        let port = Way::Tls.port();
        let mut config = tempfile::NamedTempFile::new()?;
        write!(
            config,
            "Listen {ROUTER}\nPort {PROXY_PORT}\nTimeout 600\nMaxClients 50\nLogLevel Connect\n             BasicAuth pump secret\nConnectPort {port}\n"
        )?;
        let config = config.path().to_string_lossy().into_owned();
        let proxy = device.beside(PROXY_PORT, "tinyproxy".as_ref(), &["-d", "-c", &config])?;

        s.identity("pump-7").await?;
        let ticket = s.ticket("pump-7").await?;
        let node = &s.cluster().nodes[0];
        let by = |password: &str| {
            format!(
                "relays: [\"wss://{node}:{port}\"]\n\
                 https_proxy: \"http://pump:{password}@{ROUTER}:{PROXY_PORT}\"\n"
            )
        };
        device.configure(&by("guessed"));
        let said = device.join(&ticket).await?.failed()?;
        ensure!(
            said.contains("proxy") && !said.contains("guessed"),
            "{said}"
        );
        device.configure(&by("secret"));
        device.join(&ticket).await?.succeeded()?;
        device.run(&INLET).await?;
        device.linked_by(SOON, "wss://").await?;

        let lines = device.count(7, "5ms").await?;
        let transfer = device.transfer(7, "20M", "10M").await?;
        println!("{}", transfer.complete(SOON).await?.said);
        println!("{}", lines.finish().await?.said);
        let through = format!("CONNECT {node}:{port}");
        eventually("the proxy to have said so", SOON, async || {
            ensure!(
                !proxy
                    .lines()
                    .each(|line| line.contains(&through).then_some(()))
                    .is_empty()
            );
            Ok(())
        })
        .await
    });
}
