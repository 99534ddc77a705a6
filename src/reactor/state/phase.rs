//! How far the reactor is on its way to the end.

/// Goes forward only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    #[default]
    Serving,
    /// Stopping: nothing new is taken on; what waits is delivered.
    Draining,
    /// No worker is given anything any more.
    Ended,
}

impl Phase {
    /// Whether nothing new is taken on.
    pub(crate) fn is_draining(self) -> bool {
        self >= Self::Draining
    }

    /// Whether no worker is given anything any more.
    pub(crate) fn has_ended(self) -> bool {
        self == Self::Ended
    }
}
