//! Which tickets belong to which device, so that a change of a device touches
//! its own tickets and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::Stream;
use tokio::sync::Notify;

/// Namespace and name.
pub type Key = (String, String);

/// The tickets of each device. Pure: it is told what happens.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TicketIndex {
    /// Tickets by namespace and name of their device.
    by_device: BTreeMap<Key, BTreeSet<String>>,
    /// The device of each ticket.
    device_of: BTreeMap<Key, String>,
}

impl TicketIndex {
    /// A ticket is there.
    pub fn apply(&mut self, namespace: &str, ticket: &str, device: &str) {
        self.delete(namespace, ticket);
        let key = (namespace.to_owned(), ticket.to_owned());
        self.device_of.insert(key, device.to_owned());
        let key = (namespace.to_owned(), device.to_owned());
        self.by_device
            .entry(key)
            .or_default()
            .insert(ticket.to_owned());
    }

    /// A ticket is gone.
    pub fn delete(&mut self, namespace: &str, ticket: &str) {
        let key = (namespace.to_owned(), ticket.to_owned());
        let Some(device) = self.device_of.remove(&key) else {
            return;
        };
        let key = (namespace.to_owned(), device);
        if let Some(tickets) = self.by_device.get_mut(&key) {
            tickets.remove(ticket);
            if tickets.is_empty() {
                self.by_device.remove(&key);
            }
        }
    }

    /// The tickets of a device.
    pub fn of_device(&self, namespace: &str, device: &str) -> impl Iterator<Item = &str> {
        let key = (namespace.to_owned(), device.to_owned());
        self.by_device
            .get(&key)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }
}

/// Carries "look at this ticket again" from the devices' controller to the
/// tickets'. It holds each ticket at most once, so it is never larger than
/// the index.
#[derive(Debug, Default)]
pub struct TicketLinks {
    state: Mutex<State>,
    something: Notify,
}

#[derive(Debug, Default)]
struct State {
    index: TicketIndex,
    dirty: BTreeSet<Key>,
}

impl TicketLinks {
    /// A ticket is there.
    pub fn ticket_applied(&self, namespace: &str, ticket: &str, device: &str) {
        self.state().index.apply(namespace, ticket, device);
    }

    /// A ticket is gone.
    pub fn ticket_deleted(&self, namespace: &str, ticket: &str) {
        let mut state = self.state();
        state.index.delete(namespace, ticket);
        state
            .dirty
            .remove(&(namespace.to_owned(), ticket.to_owned()));
    }

    /// A device came, changed or went.
    pub fn device_touched(&self, namespace: &str, device: &str) {
        let mut state = self.state();
        let State { index, dirty } = &mut *state;
        let before = dirty.len();
        dirty.extend(
            index
                .of_device(namespace, device)
                .map(|name| (namespace.to_owned(), name.to_owned())),
        );
        if dirty.len() > before {
            self.something.notify_one();
        }
    }

    /// Tickets to look at again, for one reader.
    pub fn touched(&self) -> impl Stream<Item = Key> + '_ {
        futures::stream::unfold(self, async |links| {
            loop {
                let first = links.state().dirty.pop_first();
                if let Some(key) = first {
                    return Some((key, links));
                }
                links.something.notified().await;
            }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt};

    #[test]
    fn the_index_follows_tickets() {
        let mut index = TicketIndex::default();
        index.apply("a", "pump-1", "pump");
        index.apply("a", "pump-2", "pump");
        index.apply("b", "pump-1", "pump");
        let of = |index: &TicketIndex, ns, device| -> Vec<String> {
            index.of_device(ns, device).map(str::to_owned).collect()
        };
        assert_eq!(of(&index, "a", "pump"), ["pump-1", "pump-2"]);
        index.apply("a", "pump-1", "valve");
        assert_eq!(of(&index, "a", "pump"), ["pump-2"]);
        assert_eq!(of(&index, "a", "valve"), ["pump-1"]);
        for (namespace, ticket) in [
            ("a", "pump-1"),
            ("a", "pump-2"),
            ("b", "pump-1"),
            ("b", "x"),
        ] {
            index.delete(namespace, ticket);
        }
        assert_eq!(index, TicketIndex::default());
    }

    #[tokio::test]
    async fn a_device_touches_its_tickets_once() {
        let links = TicketLinks::default();
        links.ticket_applied("a", "pump-1", "pump");
        links.ticket_applied("a", "valve-1", "valve");
        links.device_touched("a", "pump");
        links.device_touched("a", "pump");
        links.device_touched("b", "pump");
        let mut touched = std::pin::pin!(links.touched());
        assert_eq!(
            touched.next().await,
            Some(("a".to_owned(), "pump-1".to_owned()))
        );
        assert_eq!(touched.next().now_or_never(), None);
        links.device_touched("a", "valve");
        assert_eq!(
            touched.next().await,
            Some(("a".to_owned(), "valve-1".to_owned()))
        );
    }
}
