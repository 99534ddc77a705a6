//! How many connections there are, and may be.

/// Connections from when they are accepted, before their handshake, to their end.
#[derive(Debug)]
pub(super) struct Connections {
    open: usize,
    max: usize,
}

impl Connections {
    pub(super) fn with_max(max: usize) -> Self {
        Self { open: 0, max }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn are_full(&self) -> bool {
        self.open >= self.max
    }

    pub(super) fn add(&mut self) {
        self.open += 1;
    }

    pub(super) fn remove(&mut self) {
        self.open -= 1;
    }
}
