//! Kubernetes events: what somebody who looks at an object should know.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
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
    /// A queue, and its other end for [`write`].
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
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // kube's errors repeat their cause.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
