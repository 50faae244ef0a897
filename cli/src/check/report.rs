//! Findings, in the order in which they were found.

use std::io::Write;

use crate::Outcome;
use crate::cluster::ClusterError;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Finding>);

#[derive(Debug)]
struct Finding {
    level: Level,
    what: String,
    /// What to do about it.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Good,
    Doubtful,
    Bad,
}

impl Report {
    pub(super) fn good(&mut self, what: impl Into<String>) {
        self.0.push(Finding {
            level: Level::Good,
            what: what.into(),
            remedy: None,
        });
    }

    pub(super) fn doubtful(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into());
        self.0.push(Finding {
            level: Level::Doubtful,
            what: what.into(),
            remedy,
        });
    }

    pub(super) fn bad(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into());
        self.0.push(Finding {
            level: Level::Bad,
            what: what.into(),
            remedy,
        });
    }

    /// Something that this user may not look at is said to be unseen; any
    /// other error ends the check.
    pub(super) fn unseen(&mut self, what: &str, error: ClusterError) -> Result<(), ClusterError> {
        match error {
            ClusterError::Forbidden { message } => {
                self.doubtful(
                    format!("cannot look at {what}: {message}"),
                    "let somebody check who may see it",
                );
                Ok(())
            }
            other => Err(other),
        }
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for finding in &self.0 {
            let mark = match finding.level {
                Level::Good => "[ok]  ",
                Level::Doubtful => "[warn]",
                Level::Bad => "[fail]",
            };
            writeln!(out, "{mark} {}", finding.what)?;
            if let Some(remedy) = &finding.remedy {
                writeln!(out, "       to do: {remedy}")?;
            }
        }
        Ok(())
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.0.iter().any(|finding| finding.level == Level::Bad) {
            Outcome::Findings
        } else {
            Outcome::Good
        }
    }
}
