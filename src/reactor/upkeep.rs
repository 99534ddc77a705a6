//! What is looked after now and then, and when it was last.

use std::time::Instant;

use super::watchdog::Watchdog;
use crate::systemd::Beat;

/// What each tick goes by.
pub(super) struct Upkeep {
    /// When the last tick was, by which a stall of our own loop is told.
    pub(super) ticked_at: Instant,
    /// When it was looked for workers that read nothing.
    pub(super) stuck_looked_at: Instant,
    /// When it was looked for ports of services that have none.
    pub(super) ports_sought_at: Option<Instant>,
    /// Tells the service manager that we turn.
    pub(super) beat: Option<Beat>,
    pub(super) watchdog: Watchdog,
}

impl Upkeep {
    pub(super) fn started(at: Instant, beat: Option<Beat>) -> Self {
        Self {
            ticked_at: at,
            stuck_looked_at: at,
            ports_sought_at: None,
            beat,
            watchdog: Watchdog::default(),
        }
    }
}
