//! What goes wrong on a command line is said in words that lead on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fairway_e2e::process::run;
use fairway_e2e::{Context as _, Device, Result, Scenario, Value, json, scenario};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use tokio::process::Command;

#[test]
fn kubectl_fairway_says_what_is_missing() {
    scenario("cli", async |s| {
        let said = s.cli(&["ticket", "pump-9"]).await?.failed()?;
        let place = format!("namespace {} has no DeviceIdentity pump-9", s.namespace());
        assert!(said.contains(&place), "no such device: {said}");

        s.identity("pump-7").await?;
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let said = ticket_with(s, &kubeconfig).await?;
        assert!(said.contains("--kubeconfig"), "no kubeconfig: {said}");

        fs::write(&kubeconfig, NOWHERE)?;
        let said = ticket_with(s, &kubeconfig).await?;
        assert!(
            said.contains("https://127.0.0.1:9 cannot be reached"),
            "{said}"
        );

        fs::write(&kubeconfig, kubeconfig_of_nobody(s).await?)?;
        let said = ticket_with(s, &kubeconfig).await?;
        assert!(said.contains("no permission"), "{said}");
        Ok(())
    });
}

async fn ticket_with(s: &Scenario, kubeconfig: &Path) -> Result<String> {
    let program = s.cluster().program("kubectl-fairway");
    let mut command = Command::new(program);
    command
        .args(["ticket", "pump-7", "--namespace", s.namespace()])
        .arg("--kubeconfig")
        .arg(kubeconfig);
    run(&mut command).await?.failed()
}

#[test]
fn kubectl_fairway_finds_the_installation_sound() {
    scenario("check", async |s| {
        let said = s.cli(&["check"]).await?.succeeded()?;
        println!("{said}");
        let device = s.running_device("pump-7", &[]).await?;
        let said = s.cli(&["status", "pump-7"]).await?.succeeded()?;
        for word in [
            s.text("spiffe://fairway.local/ns/$NS/device/pump-7")
                .as_str(),
            "Enrolled",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let said = run(device.agent_command().arg("status"))
            .await?
            .succeeded()?;
        assert!(said.contains("registered"), "{said}");
        Ok(())
    });
}

#[test]
fn fairway_device_says_what_is_missing() {
    scenario("device-cli", async |s| {
        s.identity("pump-7").await?;
        let ticket = s.ticket("pump-7").await?;
        let device = s.device("pump-7").await?;

        let said = run(device.agent_command().arg("run")).await?.failed()?;
        assert!(said.contains("fairway-device join"), "not joined: {said}");
        let said = run(device.agent_command().arg("status")).await?.failed();
        println!("{said:?}");

        // A state directory that others can read is no place for a key.
        let open = tempfile::tempdir()?;
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755))?;
        let said = in_state_dir(&device, open.path(), &ticket).await?;
        assert!(said.contains("chmod 700"), "{said}");
        let said = in_state_dir(&device, "/proc/nowhere".as_ref(), &ticket).await?;
        assert!(
            said.contains("/proc/nowhere") && said.contains("--state-dir"),
            "{said}"
        );

        // A network from which the relay cannot be reached.
        device.unplug().await?;
        let said = device.join(&ticket).await?.failed()?;
        assert!(said.contains("30740"), "not reachable: {said}");
        Ok(())
    });
}

async fn in_state_dir(device: &Device<'_>, dir: &Path, ticket: &str) -> Result<String> {
    run(device
        .agent_command()
        .args(["join", ticket])
        .arg("--state-dir")
        .arg(dir))
    .await?
    .failed()
}

/// The same cluster, for a ServiceAccount that may do nothing.
async fn kubeconfig_of_nobody(s: &Scenario) -> Result<String> {
    s.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: nobody}\n")
        .await?;
    let accounts = Api::<ServiceAccount>::namespaced(s.client(), s.namespace());
    let request = accounts
        .create_token_request("nobody", &PostParams::default(), &TokenRequest::default())
        .await?;
    let token = request.status.context("no token")?.token;
    let ours =
        run(Command::new("kubectl").args(["config", "view", "--raw", "--minify", "-o", "json"]))
            .await?
            .succeeded()?;
    let mut config: Value = serde_json::from_str(&ours)?;
    config["users"][0]["user"] = json!({"token": token});
    Ok(config.to_string())
}

const NOWHERE: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
    clusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}]\n\
    users: [{name: u, user: {token: t}}]\n\
    contexts: [{name: c, context: {cluster: c, user: u}}]\n";
