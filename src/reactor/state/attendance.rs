//! Whether the plain subscribers of the previous run are back, and how long publishers wait for them.

use std::time::Instant;

use crate::ambient::now;
use event_manager_core::broker::Audience;
use event_manager_wire::api::AwaitedSubscribers;

/// The audience, and for how long publishers wait for it.
#[derive(Debug, Default)]
pub(crate) struct Attendance {
    pub(crate) audience: Audience,
    pub(crate) hold: Option<Hold>,
    /// Until then subscribers that are not back are remembered: they may need longer than publishers
    /// wait, and the next restart may come before.
    pub(crate) remembered_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold {
    pub(crate) until: Instant,
    /// Without a state database it isn't known who was there.
    pub(crate) is_known: bool,
}

impl Attendance {
    /// Whether publishers, and what is published by request, wait for subscribers.
    pub(crate) fn is_awaited(&self) -> bool {
        self.hold.is_some()
    }

    /// For STATUS.
    pub(crate) fn status(&self) -> Option<AwaitedSubscribers> {
        self.hold.map(|hold| AwaitedSubscribers {
            awaited_subscriptions: hold.is_known.then(|| self.audience.missing()),
            seconds_left: hold.until.saturating_duration_since(now()).as_secs_f64(),
        })
    }
}
