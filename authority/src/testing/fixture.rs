//! An authority with a mock API server, keys, and an empty, ready index.

use std::sync::Arc;

use fairway_control::front::Stream;
use fairway_identity::proof::Statement;
use fairway_identity::{Label, Uid, VerifyingKey};
use tokio::sync::{Semaphore, mpsc, watch};

use super::mock::{self, Server};
use super::{START, index, install, ring};
use crate::authority::{Authority, Keys};
use crate::clock::WallClock;
use crate::distribute::Hub;
use crate::events::{Events, Note};
use crate::metrics::Metrics;
use crate::revoke::issued::Issued;
use crate::seen::LastSeen;

/// The handshake key that callers have proven.
pub(crate) const KEY: [u8; 32] = [9; 32];

/// A caller without a credential.
pub(crate) fn stream() -> Stream {
    Stream {
        handshake_hash: [1; 32],
        proven_key: KEY,
        peer: None,
    }
}

/// Namespace and name of a device.
pub(crate) fn pump() -> (Label, Label) {
    let label = |text| Label::new(text).unwrap();
    (label("factory"), label("pump-7"))
}

/// What a device with this key signs over [`stream`].
pub(crate) fn statement<'a>(
    authority: &'a Authority,
    (namespace, device): (&'a Label, &'a Label),
    device_key: &'a VerifyingKey,
) -> Statement<'a> {
    Statement {
        trust_domain: &authority.install.trust_domain,
        namespace,
        device,
        device_key,
        handshake_hash: &[1; 32],
        handshake_key: &KEY,
    }
}

pub(crate) struct Fixture {
    pub(crate) authority: Arc<Authority>,
    pub(crate) hub: Arc<Hub>,
    notes: std::sync::Mutex<mpsc::Receiver<Note>>,
    _keys: watch::Sender<Keys>,
}

impl Fixture {
    pub(crate) fn new() -> (Self, Server) {
        Self::with(Keys::Ready(Arc::new(ring())))
    }

    pub(crate) fn without_keys() -> (Self, Server) {
        Self::with(Keys::Refused)
    }

    fn with(keys: Keys) -> (Self, Server) {
        let (client, server) = mock::api();
        let clock = WallClock::from_fn(|| START);
        let hub = Hub::new(index(), clock.clone());
        let (events, notes) = Events::queue();
        let (sender, keys) = watch::channel(keys);
        let authority = Arc::new(Authority {
            install: install(),
            pod_name: "fairway-authority-0".to_owned(),
            pod_uid: Uid::new("a0000000-0000-4000-8000-000000000001").unwrap(),
            client: client.clone(),
            clock,
            keys,
            hub: hub.clone(),
            issued: Arc::new(Issued::new(&client, "fairway-system")),
            events,
            seen: LastSeen::queue().0,
            metrics: Metrics::default(),
            turns: Semaphore::new(4),
        });
        (
            Self {
                authority,
                hub,
                notes: notes.into(),
                _keys: sender,
            },
            server,
        )
    }

    /// Reasons of the events so far.
    pub(crate) fn events(&self) -> Vec<&'static str> {
        let mut notes = self.notes.lock().unwrap();
        std::iter::from_fn(|| notes.try_recv().ok())
            .map(|note| note.reason)
            .collect()
    }
}
