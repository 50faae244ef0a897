//! The evil peer's keys and numbers.

use super::*;

/// The evil peer's keys and numbers.
pub(crate) struct Evil {
    pub(crate) role: Role,
    pub(super) keys: Option<Split>,
    /// Keys of the epoch before.
    pub(crate) old_keys: Option<Split>,
    pub(crate) hash: [u8; 32],
    pub(crate) epoch: u64,
    /// The next packet number.
    pub(crate) next: u64,
}

impl Evil {
    pub(crate) fn begin(&mut self, keys: Split) {
        self.hash = keys.hash;
        self.keys = Some(keys);
    }

    pub(crate) fn keys(&self) -> &Split {
        self.keys.as_ref().expect("the handshake is done")
    }

    /// The key that this epoch's records of the evil peer are sealed with.
    pub(crate) fn key(&self, keys: &Split) -> Key {
        match self.role {
            Role::Dials => keys.to_responder.clone(),
            Role::Answers => keys.to_initiator.clone(),
        }
    }

    /// The type byte of this epoch's records.
    pub(crate) fn kind(&self) -> u8 {
        if self.epoch.is_multiple_of(2) { 4 } else { 6 }
    }

    pub(crate) fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        let (key, number) = (self.key(self.keys()), self.next);
        self.next += 1;
        key.seal(&[], self.kind(), number, text)
    }

    pub(crate) fn seal_attach(&mut self, text: &[u8]) -> Vec<u8> {
        let prefix = [&[5][..], &peer::connection_id(&self.hash)].concat();
        let (key, number) = (self.key(self.keys()), self.next);
        self.next += 1;
        key.seal(&prefix, self.kind(), number, text)
    }

    /// A record of the victim's.
    pub(super) fn open(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let all = [&self.keys, &self.old_keys].into_iter().flatten();
        let mut keys = all.map(|keys| match self.role {
            Role::Dials => &keys.to_initiator,
            Role::Answers => &keys.to_responder,
        });
        keys.find_map(|key| key.open(packet))
    }
}
