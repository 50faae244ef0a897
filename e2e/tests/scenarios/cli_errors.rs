//! What goes wrong on a command line is said in words that lead on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use fairway_e2e::process::run;
use fairway_e2e::{Result, scenario};
use tokio::process::Command;

#[test]
fn kubectl_fairway_says_what_is_missing() {
    scenario("cli", async |s| {
        let program = s.cluster().program("kubectl-fairway");
        let said = s.cli(&["ticket", "pump-9"]).await?.failed()?;
        assert!(
            said.contains("pump-9") && said.contains(s.namespace()),
            "no such device: {said}"
        );

        let folder = tempfile::tempdir()?;
        let nowhere = folder.path().join("kubeconfig");
        fs::write(
            &nowhere,
            KUBECONFIG.replace("SERVER", "https://127.0.0.1:9"),
        )?;
        let said = run(Command::new(&program)
            .args(["ticket", "pump-7"])
            .env("KUBECONFIG", &nowhere))
        .await?
        .failed()?;
        assert!(said.contains("127.0.0.1:9"), "no cluster: {said}");

        let said = run(Command::new(&program)
            .args(["ticket", "pump-7"])
            .env("KUBECONFIG", folder.path().join("none")))
        .await?
        .failed()?;
        assert!(
            said.to_lowercase().contains("kubeconfig"),
            "no kubeconfig: {said}"
        );

        // A ServiceAccount that may do nothing.
        s.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: nobody}\n")
            .await?;
        s.identity("pump-7").await?;
        let said = s
            .cli(&[
                "ticket",
                "pump-7",
                "--as",
                &s.text("system:serviceaccount:$NS:nobody"),
            ])
            .await?
            .failed()?;
        assert!(
            said.contains("may not") || said.contains("forbidden"),
            "no permission: {said}"
        );
        Ok(())
    });
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

async fn in_state_dir(
    device: &fairway_e2e::Device<'_>,
    dir: &std::path::Path,
    ticket: &str,
) -> Result<String> {
    run(device
        .agent_command()
        .args(["join", ticket])
        .arg("--state-dir")
        .arg(dir))
    .await?
    .failed()
}

const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
    clusters: [{name: c, cluster: {server: SERVER}}]\n\
    users: [{name: u, user: {token: t}}]\n\
    contexts: [{name: c, context: {cluster: c, user: u}}]\n";
