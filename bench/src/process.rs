//! Child processes that end with the harness, and what they cost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A child process. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it prints goes to `dir/NAME.log`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = fs::File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its name in figures.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last lines that it printed.
    pub fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// CPU time so far (proc(5), `/proc/PID/stat`, fields 14 and 15).
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .with_context(|| format!("{} has ended:\n{}", self.name, self.tail()))?;
        // The command's name is in parentheses and may hold spaces.
        let fields = stat.rsplit_once(')').context("no command in stat")?.1;
        let ticks: u64 = fields
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .map(|f| f.parse().unwrap_or(0))
            .sum();
        // USER_HZ is 100 on every Linux.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Resident set in KiB (proc(5), `VmRSS`).
    ///
    /// # Errors
    /// It has ended.
    pub fn rss_kib(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// How often its first thread has waited for something so far (proc(5),
    /// `voluntary_ctxt_switches`).
    ///
    /// # Errors
    /// It has ended.
    pub fn waits(&self) -> Result<u64> {
        self.status("voluntary_ctxt_switches:")
    }

    fn status(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .with_context(|| format!("{} has ended:\n{}", self.name, self.tail()))?;
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let value = value.with_context(|| format!("no {name} in its status"))?;
        Ok(value.trim().trim_end_matches(" kB").parse()?)
    }

    /// Waits for the end of a process that ends by itself.
    ///
    /// # Errors
    /// It failed; the error has its last lines.
    pub fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        anyhow::ensure!(
            status.success(),
            "{} failed ({status}):\n{}",
            self.name,
            self.tail()
        );
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; either way nothing of it is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
