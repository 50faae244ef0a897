//! A device: a network namespace behind a NAT router from which the relays'
//! NodePorts can be reached and nothing else, and `fairway-device` in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::cluster::{Way, here};
use crate::pod::{Answer, PROXY};
use crate::process::{Output, Process, run};
use crate::scenario::Scenario;
use crate::wait::{SOON, eventually};

/// Where a device reaches what runs [beside](Device::beside) it.
pub const ROUTER: &str = "198.18.64.1";

/// A device. Dropped, it and all that runs in its place are killed.
pub struct Device<'s> {
    scenario: &'s Scenario,
    name: String,
    place: Place,
    /// The state directory, and the config file beside it.
    home: TempDir,
    /// Lines of its config beside those of services and inlets.
    more_config: String,
    agent: Option<Process>,
    apps: Vec<Process>,
}

impl<'s> Device<'s> {
    pub(crate) async fn new(scenario: &'s Scenario, name: &str, ways: &[Way]) -> Result<Self> {
        let nodes = &scenario.cluster().nodes;
        let reachable: Vec<_> = nodes
            .iter()
            .flat_map(|node| ways.iter().map(|way| way.target(node)))
            .collect();
        let id = format!("{}-{name}", scenario.namespace());
        let place = Place::make(&id, &reachable).await?;
        Ok(Self {
            scenario,
            name: name.to_owned(),
            place,
            home: TempDir::new()?,
            more_config: String::new(),
            agent: None,
            apps: Vec::new(),
        })
    }

    /// What its config says beside services and inlets, from the next `join`
    /// or `run` on.
    pub fn configure(&mut self, lines: &str) {
        lines.clone_into(&mut self.more_config);
    }

    /// Runs `fairway-device join`.
    ///
    /// # Errors
    /// It cannot be run. That it fails is in the output.
    pub async fn join(&self, ticket: &str) -> Result<Output> {
        let config = self.write_config(&[])?;
        let mut command = self.agent_command();
        command.arg("join").arg("--config").arg(config).arg(ticket);
        run(&mut command).await
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
        let config = self.write_config(inlets)?;
        let agent = Process::start(self.agent_command().arg("run").arg("--config").arg(config))?;
        self.scenario
            .keep(format!("device {}", self.name), agent.lines());
        self.agent = Some(agent);
        Ok(())
    }

    fn write_config(&self, inlets: &[(u16, &str)]) -> Result<PathBuf> {
        let path = self.home.path().join("config.yaml");
        let text = config_text(inlets) + &self.more_config;
        std::fs::write(&path, self.scenario.text(&text))?;
        Ok(path)
    }

    /// Waits for a line of the running `fairway-device`.
    ///
    /// # Errors
    /// It does not come.
    pub async fn says(&self, what: &str) -> Result<String> {
        self.says_within(SOON, what).await
    }

    /// The same, for what takes its time.
    ///
    /// # Errors
    /// It does not come.
    pub async fn says_within(&self, limit: Duration, what: &str) -> Result<String> {
        self.agent()?
            .lines()
            .wait_for(what, limit, |line| line.contains(what))
            .await
    }

    /// Waits until it is linked to a relay by an address with this prefix.
    ///
    /// # Errors
    /// It is not, within `limit`.
    pub async fn linked_by(&self, limit: Duration, prefix: &str) -> Result<()> {
        eventually(&format!("a link to {prefix}"), limit, async || {
            let links = self.status().await?["agent"]["links"].take();
            let remotes = links.as_array().into_iter().flatten();
            let is_it = |link: &Value| {
                link["state"] == "up"
                    && link["remote"]
                        .as_str()
                        .is_some_and(|at| at.starts_with(prefix))
            };
            ensure!(
                remotes.clone().count() == 1 && remotes.clone().all(is_it),
                "{links}"
            );
            Ok(())
        })
        .await
    }

    /// `fairway-device status`, as JSON.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> Result<Value> {
        let said = run(self.agent_command().args(["status", "--json"])).await?;
        Ok(serde_json::from_str(&said.succeeded()?)?)
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

    /// How often it has said something.
    ///
    /// # Errors
    /// It does not run.
    pub fn has_said(&self, what: &str) -> Result<usize> {
        let said = |line: &str| line.contains(what).then_some(());
        Ok(self.agent()?.lines().each(said).len())
    }

    /// Its address, as its callers write it.
    pub fn address(&self) -> String {
        let namespace = self.scenario.namespace();
        format!("{}.{namespace}.device.fairway.internal", self.name)
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

    /// Starts a program on its router, where the device reaches its `port`
    /// (`PORT` or `PORT/udp`) as [`ROUTER`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn beside(&self, port: &str, program: &Path, args: &[&str]) -> Result<Process> {
        let mut command = Command::new(script());
        command.args(["beside", &self.place.id, port]).arg(program);
        let process = Process::start(command.args(args))?;
        let title = format!("{} beside device {}", program.display(), self.name);
        self.scenario.keep(title, process.lines());
        Ok(process)
    }

    /// Cuts its cable.
    ///
    /// # Errors
    /// It cannot be cut.
    pub async fn unplug(&self) -> Result<()> {
        self.place.change(&["unplug"]).await
    }

    /// Gives its router another address: its connections are dead, and nobody
    /// is told.
    ///
    /// # Errors
    /// There is no other address.
    pub async fn moves(&self) -> Result<()> {
        self.place.change(&["move"]).await
    }

    /// Lets it out by a way by which it could not get out, on all nodes.
    ///
    /// # Errors
    /// The router does not take the rule.
    pub async fn allow(&self, way: Way) -> Result<()> {
        for node in &self.scenario.cluster().nodes {
            self.place.change(&["allow", &way.target(node)]).await?;
        }
        Ok(())
    }

    /// Drops everything that it sends by a way, without a word.
    ///
    /// # Errors
    /// The router does not take the rule.
    pub async fn forbid(&self, way: Way) -> Result<()> {
        for node in &self.scenario.cluster().nodes {
            self.place.change(&["forbid", &way.target(node)]).await?;
        }
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

    /// `e2e/device-netns VERB ID ARGUMENTS`.
    async fn change(&self, verb_and_args: &[&str]) -> Result<()> {
        let (verb, args) = verb_and_args.split_first().context("a verb")?;
        let mut command = Command::new(script());
        run(command.args([verb, self.id.as_str()]).args(args))
            .await?
            .succeeded()?;
        Ok(())
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
