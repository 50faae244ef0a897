//! The lines that a process or a pod writes, kept, and awaited as they come.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

/// All lines so far. A clone is the same lines.
#[derive(Clone, Debug)]
pub struct Lines(watch::Sender<Written>);

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    /// Readers that may still bring more.
    open: usize,
}

impl Lines {
    /// None yet, from `sources` sources (stdout and stderr are two).
    pub fn from_sources(sources: usize) -> Self {
        Self(watch::Sender::new(Written {
            lines: Vec::new(),
            open: sources,
        }))
    }

    /// Takes lines from a source until it ends.
    pub async fn read(self, mut source: impl AsyncBufRead + Unpin) {
        let mut line = Vec::new();
        while let Ok(1..) = source.read_until(b'\n', &mut line).await {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.0.send_modify(|written| written.lines.push(text));
            line.clear();
        }
        self.0.send_modify(|written| written.open -= 1);
    }

    /// The first line, old or new, that `matches`.
    ///
    /// # Errors
    /// None came within `limit`, or none can come any more; with the last lines.
    pub async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let found = |written: &Written| written.lines.iter().find(|line| matches(line)).cloned();
        let mut reader = self.0.subscribe();
        let waited = timeout(
            limit,
            reader.wait_for(|written| written.open == 0 || found(written).is_some()),
        )
        .await;
        let line = match waited {
            Ok(Ok(written)) => found(&written),
            Ok(Err(_)) | Err(_) => None,
        };
        line.ok_or_else(|| {
            anyhow!(
                "no line with {what} came within {} s; the last were:\n{}",
                limit.as_secs(),
                self.last(15)
            )
        })
    }

    /// The last `n` lines.
    pub fn last(&self, n: usize) -> String {
        let written = self.0.borrow();
        written.lines[written.lines.len().saturating_sub(n)..].join("\n")
    }

    /// What `of` makes of each line so far that it knows.
    pub fn each<T>(&self, of: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let written = self.0.borrow();
        written.lines.iter().filter_map(|line| of(line)).collect()
    }

    /// Whether no more can come.
    pub fn has_ended(&self) -> bool {
        self.0.borrow().open == 0
    }

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.0.borrow().lines.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn old_and_new_lines_are_found() {
        let lines = Lines::from_sources(1);
        lines.clone().read(&b"one\ntwo"[..]).await;
        assert_eq!(
            lines
                .wait_for("two", SECOND, |line| line == "two")
                .await
                .unwrap(),
            "two"
        );
        assert_eq!(lines.last(1), "two");
    }

    #[tokio::test]
    async fn an_end_is_noticed_at_once() {
        let lines = Lines::from_sources(1);
        lines.clone().read(&b"one\n"[..]).await;
        let error = lines
            .wait_for("a three", Duration::from_secs(600), |line| line == "three")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("one"), "{error}");
    }
}
