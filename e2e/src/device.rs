//! A device: a network namespace behind a NAT router from which the relay's
//! NodePort can be reached and nothing else, and `fairway-device` in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use crate::cluster::here;
use crate::pod::{Answer, PROXY};
use crate::process::{Output, Process, run};
use crate::scenario::Scenario;
use crate::wait::SOON;

/// A device. Dropped, it and all that runs in its place are killed.
pub struct Device<'s> {
    scenario: &'s Scenario,
    name: String,
    place: Place,
    /// The state directory, and the config file beside it.
    home: TempDir,
    agent: Option<Process>,
    apps: Vec<Process>,
}

impl<'s> Device<'s> {
    pub(crate) async fn new(scenario: &'s Scenario, name: &str) -> Result<Self> {
        let place = Place::make(
            &format!("{}-{name}", scenario.namespace()),
            &scenario.cluster().relays,
        )
        .await?;
        Ok(Self {
            scenario,
            name: name.to_owned(),
            place,
            home: TempDir::new()?,
            agent: None,
            apps: Vec::new(),
        })
    }

    /// Runs `fairway-device join`.
    ///
    /// # Errors
    /// It cannot be run. That it fails is in the output.
    pub async fn join(&self, ticket: &str) -> Result<Output> {
        run(self.agent_command().args(["join", ticket])).await
    }

    /// Starts `fairway-device run` with inlets (local port, `HOST:PORT`, in
    /// which `$NS` is the scenario's namespace), and waits until the relay has
    /// registered it.
    ///
    /// # Errors
    /// It does not get that far.
    pub async fn run(&mut self, inlets: &[(u16, &str)]) -> Result<()> {
        self.start(inlets)?;
        self.says(r#""event":"registered""#).await?;
        Ok(())
    }

    /// Starts `fairway-device run` and waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, inlets: &[(u16, &str)]) -> Result<()> {
        let config = self.home.path().join("config.yaml");
        std::fs::write(&config, self.scenario.text(&config_text(inlets)))?;
        let agent = Process::start(self.agent_command().arg("run").arg("--config").arg(config))?;
        self.scenario
            .keep(format!("device {}", self.name), agent.lines());
        self.agent = Some(agent);
        Ok(())
    }

    /// Waits for a line of the running `fairway-device`.
    ///
    /// # Errors
    /// It does not come.
    pub async fn says(&self, what: &str) -> Result<String> {
        self.agent()?
            .lines()
            .wait_for(what, SOON, |line| line.contains(what))
            .await
    }

    /// Stops `fairway-device run`, in good order.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop(&mut self) -> Result<()> {
        let status = self
            .agent
            .take()
            .context("it does not run")?
            .stop(SOON)
            .await?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Starts the echo on the device: what its services `app` and `echo` lead to.
    ///
    /// # Errors
    /// It does not listen.
    pub async fn serve(&mut self) -> Result<()> {
        let app = self
            .start_app(&["serve", "-http", "127.0.0.1:8080", "-tcp", "127.0.0.1:7000"])
            .await?;
        app.lines()
            .wait_for("tcp", SOON, |line| line.starts_with("tcp "))
            .await?;
        self.apps.push(app);
        Ok(())
    }

    /// Runs the app's program on the device.
    ///
    /// # Errors
    /// It cannot be run. That it fails is in the output.
    pub async fn app(&self, args: &[&str]) -> Result<Output> {
        run(&mut self.app_command(args)).await
    }

    /// Starts the app's program on the device, and lets it run.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start_app(&self, args: &[&str]) -> Result<Process> {
        let app = Process::start(&mut self.app_command(args))?;
        self.scenario
            .keep(format!("app {args:?} on device {}", self.name), app.lines());
        Ok(app)
    }

    /// One HTTP request through the device's proxy; in `url`, `$NS` is the
    /// scenario's namespace.
    ///
    /// # Errors
    /// There was no answer at all.
    pub async fn get(&self, url: &str, more: &[&str]) -> Result<Answer> {
        let url = self.scenario.text(url);
        let args = [&["get", "-proxy", PROXY], more, &[url.as_str()]].concat();
        self.app(&args).await?.succeeded()?.parse()
    }

    /// One line over TCP and back, to the far end of an inlet.
    ///
    /// # Errors
    /// It does not come back.
    pub async fn echo(&self, port: u16, text: &str) -> Result<()> {
        let line = self
            .app(&["tcp", &format!("127.0.0.1:{port}"), text])
            .await?
            .succeeded()?;
        ensure!(line.trim_end() == text, "sent {text:?}, got {line:?}");
        Ok(())
    }

    /// Cuts its cable.
    ///
    /// # Errors
    /// It cannot be cut.
    pub async fn unplug(&self) -> Result<()> {
        run(Command::new(script()).args(["unplug", &self.place.id]))
            .await?
            .succeeded()?;
        Ok(())
    }

    /// Its state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// `fairway-device` with the arguments that all its commands share.
    pub fn agent_command(&self) -> Command {
        let mut command = self
            .place
            .command(&self.scenario.cluster().program("fairway-device"));
        command.arg("--state-dir").arg(self.state_dir());
        command
    }

    fn app_command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(&self.scenario.cluster().app("app"));
        command.args(args);
        command
    }

    fn agent(&self) -> Result<&Process> {
        self.agent.as_ref().context("fairway-device does not run")
    }
}

/// A network namespace by `e2e/device-netns`.
#[derive(Debug)]
struct Place {
    id: String,
}

impl Place {
    async fn make(id: &str, reachable: &[String]) -> Result<Self> {
        // First the guard: what is half made must go, too.
        let place = Self { id: id.to_owned() };
        run(Command::new(script()).args(["up", id]).args(reachable))
            .await?
            .succeeded()?;
        Ok(place)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(script());
        command.args(["exec", &self.id]).arg(program);
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(script());
        let _ = command
            .args(["down", &self.id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn script() -> PathBuf {
    here().join("device-netns")
}

fn config_text(inlets: &[(u16, &str)]) -> String {
    let inlets: Vec<String> = inlets
        .iter()
        .map(|(port, to)| format!("{{listen: \"127.0.0.1:{port}\", to: \"{to}\"}}"))
        .collect();
    format!(
        "services:\n\
         - {{name: app, port: 8080, to: \"127.0.0.1:8080\"}}\n\
         - {{name: echo, port: 7000, to: \"127.0.0.1:7000\"}}\n\
         inlets: [{}]\n",
        inlets.join(", ")
    )
}
