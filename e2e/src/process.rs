//! Programs on this side of the cluster: run to their end, or kept running.

use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::BufReader;
use tokio::process::{Child, Command};

use crate::lines::Lines;
use crate::wait::within;

/// How long a program that is run to its end may take: helm waits for pods.
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// What a program said, and whether it was content.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code 0.
    pub ok: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Its standard output.
    ///
    /// # Errors
    /// It failed; with what it said.
    pub fn succeeded(self) -> Result<String> {
        ensure!(self.ok, "it failed: {self}");
        Ok(self.stdout)
    }

    /// What it said on both, since it was to fail.
    ///
    /// # Errors
    /// It did not.
    pub fn failed(self) -> Result<String> {
        ensure!(!self.ok, "it did not fail: {self}");
        Ok(self.to_string())
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or does not end.
pub async fn run(command: &mut Command) -> Result<Output> {
    let what = format!("{:?}", command.as_std());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within(&what, RUN_LIMIT, async { Ok(command.output().await?) }).await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Output {
        ok: output.status.success(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    })
}

/// A program that goes on. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Lines,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.as_std()))?;
        let lines = Lines::from_sources(2);
        let (out, err) = (
            child.stdout.take().context("piped")?,
            child.stderr.take().context("piped")?,
        );
        tokio::spawn(lines.clone().read(BufReader::new(out)));
        tokio::spawn(lines.clone().read(BufReader::new(err)));
        Ok(Self { child, lines })
    }

    /// What it writes, on either.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// How it ended.
    ///
    /// # Errors
    /// It did not, within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        within("a process to end", limit, async {
            Ok(self.child.wait().await?)
        })
        .await
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It did not end within `limit`.
    pub async fn stop(mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?))
        {
            kill_process(pid, Signal::TERM)?;
        }
        self.ended(limit).await
    }
}
