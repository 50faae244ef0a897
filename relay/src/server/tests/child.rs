//! Processes beside the test's own: for what a process has to itself, such as
//! its memory and its files.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Runs one of the ignored tests in here, by its path below `server::tests`.
pub(super) fn this_binary(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("server::tests::{test}")])
        .args(["--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Starts it, and waits for a line that begins with `word`; the answer is the
/// rest of that line.
pub(super) async fn start(mut command: Command, word: &str, patience: Duration) -> (Child, String) {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = timeout(patience, find(&mut lines, word)).await;
    let rest = found.expect("in time").expect("the child says it");
    // What it still says is not waited for, and does not stop it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, rest)
}

async fn find(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) -> Option<String> {
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(rest) = line.strip_prefix(word) {
            return Some(rest.trim().to_owned());
        }
    }
    None
}

/// In the child: until the parent closes its end, or is gone.
pub(super) async fn until_the_parent_ends_it() {
    let waiting = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1]));
    let _ = waiting.await;
}
