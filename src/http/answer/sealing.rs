//! Reasoning that a client keeps in the server's place, and cannot read or change.

use crate::actors::messages::KeyId;
use crate::store::ResponseStore;

/// What reasoning is sealed with, and for which owner.
#[derive(Debug, Clone)]
pub(in crate::http) struct Sealing {
    /// The store, whose key it is.
    pub(in crate::http) store: ResponseStore,
    /// The key that the request came with.
    pub(in crate::http) owner: KeyId,
}

impl Sealing {
    /// `text`, sealed.
    pub(in crate::http) fn seal(&self, text: &str) -> String {
        self.store.seal().seal(&owner_bytes(self.owner), text)
    }

    /// What was sealed for this owner by this server; `None` for anything else.
    pub(in crate::http) fn open(&self, sealed: &str) -> Option<String> {
        self.store.seal().open(&owner_bytes(self.owner), sealed)
    }
}

/// An owner as the store has it.
pub(in crate::http) fn owner_bytes(owner: KeyId) -> Vec<u8> {
    owner.0.map_or_else(Vec::new, |id| id.to_vec())
}
