//! How many connections there are, and may be.

use crate::reactor::io::agreements::Agreements;
use event_manager_core::security::Handshakes;

/// Connections from when they are accepted, before their handshake, to their end.
pub(crate) struct Connections {
    open: usize,
    max: usize,
    /// Those of the open ones that are refused, and kept for a while before they end.
    held: usize,
    /// Handshakes with keys that are under way.
    pub(crate) handshakes: Handshakes,
    /// The thread that agrees on their keys.
    pub(crate) agreements: Agreements,
}

/// So many refused connections are kept for a while at most, and no more than a quarter of `max`: the
/// others end at once.
const HELD_MAX: usize = 1024;

impl Connections {
    pub(crate) fn with_max(max: usize, agreements: Agreements) -> Self {
        Self {
            open: 0,
            max,
            held: 0,
            handshakes: Handshakes::default(),
            agreements,
        }
    }

    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn are_full(&self) -> bool {
        self.open >= self.max
    }

    /// Counts a refused connection that is kept for a while; false if there are enough of them.
    pub(crate) fn hold(&mut self) -> bool {
        let is_held = self.held < HELD_MAX.min(self.max / 4);
        self.held += usize::from(is_held);
        is_held
    }

    /// A connection that was kept for a while ends.
    pub(crate) fn let_go(&mut self) {
        self.held -= 1;
    }

    pub(crate) fn add(&mut self) {
        self.open += 1;
    }

    pub(crate) fn remove(&mut self) {
        self.open -= 1;
    }
}
