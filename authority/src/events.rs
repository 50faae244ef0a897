//! Kubernetes events: what somebody who looks at an object should know.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use crate::cluster::call;
use crate::limits;
use crate::names::FIELD_MANAGER;

/// Longest note that the API server takes, in bytes.
const NOTE_MAX: usize = 1024;

/// Takes events; a task writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<Note>,
    dropped: Counter,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The object that it is about.
    pub regarding: ObjectReference,
    /// Whether it should worry somebody.
    pub severity: Severity,
    /// One CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Whether an event should worry somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It should not.
    Normal,
    /// It should.
    Warning,
}

impl Events {
    /// A queue, and its other end for [`write()`].
    pub fn queue() -> (Self, mpsc::Receiver<Note>) {
        let (sender, receiver) = mpsc::channel(limits::EVENTS_QUEUED_MAX);
        (
            Self {
                sender,
                dropped: Counter::default(),
            },
            receiver,
        )
    }

    /// Leaves an event to be written; when the queue is full it is dropped and
    /// counted.
    pub fn note(
        &self,
        regarding: ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        if self
            .sender
            .try_send(Note {
                regarding,
                severity,
                reason,
                message,
            })
            .is_err()
        {
            self.dropped.inc();
        }
    }

    /// Events that were dropped.
    pub fn dropped(&self) -> Counter {
        self.dropped.clone()
    }
}

/// Writes events until all senders are gone.
pub async fn write(mut notes: mpsc::Receiver<Note>, client: Client, instance: String) {
    let reporter = Reporter {
        controller: FIELD_MANAGER.to_owned(),
        instance: Some(instance),
    };
    let recorder = Recorder::new(client, reporter);
    while let Some(note) = notes.recv().await {
        let mut message = note.message;
        if message.len() > NOTE_MAX {
            let end = (0..=NOTE_MAX)
                .rev()
                .find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
        }
        let event = Event {
            type_: match note.severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: note.reason.to_owned(),
            note: Some(message),
            action: note.reason.to_owned(),
            secondary: None,
        };
        if let Err(error) = call("write an event", recorder.publish(&event, &note.regarding)).await
        {
            tracing::debug!(
                event = "event-lost",
                reason = note.reason,
                error = chain(&error)
            );
        }
    }
}

/// An error with all its causes in one line, for logs.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(short) = short(error) {
        return short;
    }
    match error.source() {
        // kube's errors repeat their cause in their own text.
        Some(cause) => {
            let (text, cause) = (error.to_string(), chain(cause));
            if text.contains(&cause) {
                text
            } else {
                format!("{text}: {cause}")
            }
        }
        None => error.to_string(),
    }
}

/// Errors of kube whose own text is a page long.
fn short(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(kube::Error::Api(status)) = error.downcast_ref() {
        return Some(format!("{} (status {})", status.message, status.code));
    }
    let (what, cause) = match error.downcast_ref()? {
        watcher::Error::InitialListFailed(cause) => ("cannot list", chain(cause)),
        watcher::Error::WatchStartFailed(cause) => ("cannot start to watch", chain(cause)),
        watcher::Error::WatchFailed(cause) => ("the watch broke off", chain(cause)),
        watcher::Error::WatchError(status) => ("the watch was ended", status.message.clone()),
        watcher::Error::NoResourceVersion => return None,
    };
    Some(format!("{what}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ApiError;

    #[test]
    fn what_the_api_server_says_is_told_once_and_without_its_page() {
        let status = kube::core::Status {
            message: "pods is forbidden".into(),
            code: 403,
            ..Default::default()
        };
        let refused = || kube::Error::Api(Box::new(status.clone()));
        let error = ApiError::Call {
            action: "read a pod",
            source: refused(),
        };
        assert_eq!(
            chain(&error),
            "the API server could not read a pod: pods is forbidden (status 403)"
        );
        let error = watcher::Error::InitialListFailed(refused());
        assert_eq!(chain(&error), "cannot list: pods is forbidden (status 403)");
    }
}
