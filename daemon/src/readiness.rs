//! Readiness as a set of named tasks: ready when none is pending.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Whether the process may be sent work. Cheap to clone; all clones are one set.
///
/// Every task that must come first takes a [`ReadyTask`]. A task that is
/// dropped before it is done stays pending: a part that died while starting
/// must not make the process look ready.
#[derive(Clone, Debug)]
pub struct Readiness {
    tasks: Arc<watch::Sender<BTreeMap<&'static str, bool>>>,
}

/// One condition of readiness; pending until [`done`](Self::done).
#[derive(Clone, Debug)]
pub struct ReadyTask {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// An empty set, which is ready.
    pub fn new() -> Self {
        Self {
            tasks: Arc::new(watch::Sender::new(BTreeMap::new())),
        }
    }

    /// Adds a condition, pending. `name` is shown by `/readyz`.
    pub fn task(&self, name: &'static str) -> ReadyTask {
        let task = ReadyTask {
            name,
            readiness: self.clone(),
        };
        task.pending();
        task
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        all_done(&self.tasks.borrow())
    }

    /// The names of what is still pending, sorted.
    pub fn pending(&self) -> Vec<&'static str> {
        let tasks = self.tasks.borrow();
        tasks
            .iter()
            .filter_map(|(&name, &done)| (!done).then_some(name))
            .collect()
    }

    /// Resolves once nothing is pending.
    pub async fn ready(&self) {
        let mut tasks = self.tasks.subscribe();
        // The sender lives as long as `self`.
        let _ = tasks.wait_for(all_done).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl ReadyTask {
    /// The condition holds.
    pub fn done(&self) {
        self.set(true);
    }

    /// The condition holds no more (a credential ran out, a lease was lost).
    pub fn pending(&self) {
        self.set(false);
    }

    fn set(&self, done: bool) {
        self.readiness
            .tasks
            .send_if_modified(|tasks| tasks.insert(self.name, done) != Some(done));
    }
}

fn all_done(tasks: &BTreeMap<&'static str, bool>) -> bool {
    tasks.values().all(|&done| done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_nothing_is_pending() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (credential, listener) = (readiness.task("credential"), readiness.task("listener"));
        assert_eq!(readiness.pending(), ["credential", "listener"]);
        listener.done();
        assert!(!readiness.is_ready());
        credential.done();
        assert!(readiness.is_ready());
        credential.pending();
        assert_eq!(readiness.pending(), ["credential"]);
    }

    #[test]
    fn a_dropped_task_stays_pending() {
        let readiness = Readiness::new();
        drop(readiness.task("credential"));
        assert!(!readiness.is_ready());
    }

    #[tokio::test]
    async fn ready_resolves_when_the_last_task_is_done() {
        let readiness = Readiness::new();
        let task = readiness.task("credential");
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        task.done();
        waiter.await.unwrap();
    }
}
