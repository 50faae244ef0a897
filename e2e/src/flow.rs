//! What runs on a device while something happens to the network: lines that are
//! counted, and a transfer with a checksum.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::device::Device;
use crate::process::Process;
use crate::wait::SOON;

/// Lines that are far more than can be under way, and come within half a second.
const MORE_LINES: u64 = 100;

/// `app count`: numbered lines that go to an echo unasked, of which none may be
/// lost or doubled.
#[derive(Debug)]
pub struct Count(Process);

/// `app transfer`: bytes that go to an echo and back.
#[derive(Debug)]
pub struct Transfer(Process);

/// How steadily something came back.
#[derive(Clone, Debug)]
pub struct Steadiness {
    /// What the app said in the end.
    pub said: String,
    /// The longest time in which nothing came.
    pub longest_pause: Duration,
}

impl Device<'_> {
    /// Starts to count, at the far end of an inlet, a line each `every`.
    ///
    /// # Errors
    /// The first line does not come back.
    pub async fn count(&self, port: u16, every: &str) -> Result<Count> {
        let there = format!("127.0.0.1:{port}");
        let app = self.start_app(&["count", "-every", every, &there]).await?;
        let lines = app.lines();
        lines
            .wait_for("counting", SOON, |line| line == "counting")
            .await?;
        Ok(Count(app))
    }

    /// Starts a transfer of so many bytes (`40M`), at most so many a second
    /// (`4M`), at the far end of an inlet.
    ///
    /// # Errors
    /// Nothing comes back.
    pub async fn transfer(&self, port: u16, bytes: &str, rate: &str) -> Result<Transfer> {
        let there = format!("127.0.0.1:{port}");
        let args = ["transfer", "-bytes", bytes, "-rate", rate, &there];
        let transfer = Transfer(self.start_app(&args).await?);
        transfer.is_back(SOON, 1).await?;
        Ok(transfer)
    }
}

impl Count {
    /// Waits until lines come back that were sent after this call.
    ///
    /// # Errors
    /// They do not, within `limit`.
    pub async fn goes_on(&self, limit: Duration) -> Result<()> {
        let wanted = last_back(&self.0) + MORE_LINES;
        is_back(&self.0, limit, wanted).await
    }

    /// Pauses of a tenth of a second and more, until now.
    pub fn pauses(&self) -> Vec<Duration> {
        self.0.lines().each(pause)
    }

    /// Ends it, when all lines are back.
    ///
    /// # Errors
    /// One was lost, doubled or out of turn, or the connection did not live on.
    pub async fn finish(self) -> Result<Steadiness> {
        let lines = self.0.lines().clone();
        let status = self.0.stop(SOON).await?;
        ensure!(status.success(), "{}", lines.last(5));
        let said = lines
            .wait_for("all lines", SOON, |line| line.starts_with("all "))
            .await?;
        Steadiness::of(said)
    }
}

impl Transfer {
    /// Waits until so many bytes are back.
    ///
    /// # Errors
    /// They are not, within `limit`.
    pub async fn is_back(&self, limit: Duration, bytes: u64) -> Result<()> {
        is_back(&self.0, limit, bytes).await
    }

    /// Whether it has ended, well or not.
    pub fn is_over(&self) -> bool {
        self.0.lines().has_ended()
    }

    /// How it ended: every byte came back, and the checksum is right.
    ///
    /// # Errors
    /// It is not so, or not within `limit`.
    pub async fn complete(mut self, limit: Duration) -> Result<Steadiness> {
        let status = self.0.ended(limit).await?;
        let lines = self.0.lines();
        ensure!(status.success(), "{}", lines.last(5));
        let said = lines
            .wait_for("the sum", SOON, |line| line.starts_with("complete"))
            .await?;
        Steadiness::of(said)
    }
}

impl Steadiness {
    fn of(said: String) -> Result<Self> {
        let (_, after) = said.split_once("longest pause ").context("no pause")?;
        let (ms, _) = after.split_once(" ms").context("no pause")?;
        let longest_pause = Duration::from_millis(ms.parse()?);
        Ok(Self {
            said,
            longest_pause,
        })
    }

    /// The 99th percentile of the time from a line to its echo.
    ///
    /// # Errors
    /// It is not of a count.
    pub fn p99(&self) -> Result<Duration> {
        let (_, after) = self.said.split_once("p99 ").context("no p99")?;
        let ms: f64 = after.trim_end_matches(" ms").parse()?;
        Ok(Duration::from_secs_f64(ms / 1000.0))
    }
}

/// `back N`: so far it is.
fn back(line: &str) -> Option<u64> {
    line.strip_prefix("back ")?.parse().ok()
}

/// `pause MS ms before N`.
fn pause(line: &str) -> Option<Duration> {
    let (ms, _) = line.strip_prefix("pause ")?.split_once(" ms")?;
    Some(Duration::from_millis(ms.parse().ok()?))
}

fn last_back(app: &Process) -> u64 {
    app.lines().each(back).last().copied().unwrap_or_default()
}

async fn is_back(app: &Process, limit: Duration, n: u64) -> Result<()> {
    let enough = |line: &str| back(line).is_some_and(|there| there >= n);
    app.lines()
        .wait_for(&format!("back {n}"), limit, enough)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_app_says_is_understood() {
        assert_eq!(back("back 1234"), Some(1234));
        assert_eq!(
            pause("pause 1250 ms before 77"),
            Some(Duration::from_millis(1250))
        );
        let said =
            "all 900 lines back, in order; longest pause 312 ms; latency p50 1.2 ms p99 40.5 ms";
        let count = Steadiness::of(said.to_owned()).unwrap();
        assert_eq!(count.longest_pause, Duration::from_millis(312));
        assert_eq!(count.p99().unwrap(), Duration::from_micros(40_500));
        let said = "complete: 300001 bytes, sha256 13d8, longest pause 7 ms, in 20 ms";
        let transfer = Steadiness::of(said.to_owned()).unwrap();
        assert_eq!(transfer.longest_pause, Duration::from_millis(7));
        assert!(transfer.p99().is_err());
    }
}
