//! How many connections there are, and may be.

/// Connections from when they are accepted, before their handshake, to their end.
#[derive(Debug)]
pub(crate) struct Connections {
    open: usize,
    max: usize,
}

impl Connections {
    pub(crate) fn with_max(max: usize) -> Self {
        Self { open: 0, max }
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

    pub(crate) fn add(&mut self) {
        self.open += 1;
    }

    pub(crate) fn remove(&mut self) {
        self.open -= 1;
    }
}
