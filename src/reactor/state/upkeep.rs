//! Checks that are done now and then, and when each was done last.

use std::time::Instant;

use super::watchdog::Watchdog;
use crate::systemd::Beat;

/// When what was looked at last.
pub(crate) struct Upkeep {
    /// The last tick. A late one means that our own loop hung.
    pub(crate) ticked_at: Instant,
    /// When workers that read nothing were looked for.
    pub(crate) stuck_looked_at: Instant,
    /// When ports for services without one were looked for.
    pub(crate) ports_sought_at: Option<Instant>,
    /// Tells the service manager that the loop turns.
    pub(crate) beat: Option<Beat>,
    pub(crate) watchdog: Watchdog,
}

impl Upkeep {
    pub(crate) fn started(at: Instant, beat: Option<Beat>) -> Self {
        Self {
            ticked_at: at,
            stuck_looked_at: at,
            ports_sought_at: None,
            beat,
            watchdog: Watchdog::default(),
        }
    }
}
