//! The log lines of connections, as events to wait for.

use std::io;

use serde_json::Value;
use tokio::sync::mpsc;
use tracing_subscriber::fmt;

use super::soon;

/// Lines of this test's thread, until it is dropped.
pub struct Lines {
    lines: mpsc::UnboundedReceiver<String>,
    _guard: tracing::subscriber::DefaultGuard,
}

struct Sender(mpsc::UnboundedSender<String>);

impl Lines {
    pub fn capture() -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        let subscriber = fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || Sender(sender.clone()))
            .finish();
        Self {
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The next line of a connection that a portal writes in this direction.
    pub async fn connection(&mut self, direction: &str) -> Value {
        self.find(|line| line["event"] == "connection" && line["direction"] == direction)
            .await
    }

    /// The next line that is looked for.
    pub async fn find(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        soon(async {
            loop {
                let line = self.lines.recv().await.unwrap();
                let line = serde_json::from_str(&line).unwrap();
                if is_it(&line) {
                    return line;
                }
            }
        })
        .await
    }
}

/// A line comes in one write.
impl io::Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
