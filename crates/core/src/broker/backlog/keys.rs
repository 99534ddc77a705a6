//! Whose turn it is among the items with the same key.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::item::{OrderKey, Position};

/// One key: what waits with it, and whether a worker holds something with it.
#[derive(Debug, Default)]
pub(super) struct KeyState {
    pub(super) is_held: bool,
    pub(super) waiting: BTreeSet<Position>,
}

impl KeyState {
    /// The only item of the key that may go.
    fn front(&self) -> Option<Position> {
        self.waiting.first().copied().filter(|_| !self.is_held)
    }
}

/// The keys of all that waits or is held.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<OrderKey, KeyState>);

impl Keys {
    /// Changes one key; whose turn it was before, and whose it is now.
    pub(super) fn change(
        &mut self,
        key: OrderKey,
        change: impl FnOnce(&mut KeyState),
    ) -> (Option<Position>, Option<Position>) {
        let mut entry = match self.0.entry(key) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(KeyState::default()),
        };
        let state = entry.get_mut();
        let before = state.front();
        change(state);
        let after = state.front();
        if !state.is_held && state.waiting.is_empty() {
            entry.remove();
        }
        (before, after)
    }

    /// The only item of the key that may go.
    pub(super) fn front(&self, key: OrderKey) -> Option<Position> {
        self.0.get(&key).and_then(KeyState::front)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
