//! What is looked after now and then, and when it was last.

use std::time::Instant;

use super::watchdog::Watchdog;
use crate::systemd::Beat;

/// What each tick goes by.
pub(crate) struct Upkeep {
    /// When the last tick was, by which a stall of our own loop is told.
    pub(crate) ticked_at: Instant,
    /// When it was looked for workers that read nothing.
    pub(crate) stuck_looked_at: Instant,
    /// When it was looked for ports of services that have none.
    pub(crate) ports_sought_at: Option<Instant>,
    /// Tells the service manager that we turn.
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
