//! Publishers wait after a start until the plain subscribers of the previous run are back, or a short
//! time is over: libzmq's publishers connect again as soon as its subscribers do, and what they have
//! queued would go to nobody.
//!
//! A publisher that waits is connected and subscribed to, but not read from. So its libzmq queues, also
//! if it was not connected before: one that isn't subscribed to drops what it is given.

use std::time::Instant;

use crate::ambient::now;
use crate::config::Config;
use crate::reactor::hub::Hub;
use crate::reactor::state::attendance::{Attendance, Hold};
use crate::reactor::state::time::Time;
use crate::telemetry::Notable;

/// From now on publishers wait, if the previous run had subscribers or nobody knows whether it had.
/// To be called just before peers are served, so that the start takes none of that time.
pub(crate) fn await_audience(
    subscribers: &mut Attendance,
    time: &mut Time,
    config: &Config,
    is_known: bool,
) {
    let grace = config.subscriber_grace;
    let now = now();
    if is_known {
        subscribers.remembered_until = Some(now + config.restart_grace.max(grace));
    }
    let missing = subscribers.audience.missing();
    if grace.is_zero() || (is_known && missing == 0) {
        return;
    }
    let grace = if is_known { grace } else { grace / 2 };
    let seconds = grace.as_secs_f64();
    if is_known {
        tracing::info!(
            target: "em.subscriber",
            subscriptions = missing,
            seconds,
            "holding publishers until the subscribers of the previous run are back, or the time is over"
        );
    } else {
        tracing::info!(
            target: "em.subscriber",
            seconds,
            "holding publishers: without state it isn't known whether there were subscribers"
        );
    }
    let until = now + grace;
    subscribers.hold = Some(Hold { until, is_known });
    time.alarm.set(until);
}

impl Hub {
    pub(crate) fn subscriber_joined(&mut self, prefix: &[u8]) {
        self.saved.subscribers.audience.joined(prefix);
        if self
            .saved
            .subscribers
            .hold
            .is_some_and(|hold| hold.is_known)
            && self.saved.subscribers.audience.missing() == 0
        {
            tracing::info!(
                target: "em.subscriber",
                "the subscribers of the previous run are back: publishers are no longer held"
            );
            self.let_publishers_in();
        }
    }

    /// Lets publishers in when their time is over, and later forgets subscribers that are not back.
    pub(crate) fn tend_audience(&mut self, now: Instant) {
        if let Some(hold) = self.saved.subscribers.hold {
            if hold.until > now {
                return self.time.alarm.set(hold.until);
            }
            self.note_missing_audience();
            self.let_publishers_in();
        }
        let remembered_until = self.saved.subscribers.remembered_until;
        if remembered_until.is_some_and(|until| until <= now) {
            self.saved.subscribers.remembered_until = None;
            self.saved.subscribers.audience.forget_missing();
        }
    }

    fn note_missing_audience(&mut self) {
        let subscriptions = self.saved.subscribers.audience.missing();
        if subscriptions > 0 {
            self.notes.note(&Notable::SubscribersMissing {
                subscriptions,
                waited_ms: self.config.subscriber_grace.as_millis() as u64,
            });
        }
    }

    /// Publishers wait no more. What was published by request goes first: it was there before.
    pub(crate) fn let_publishers_in(&mut self) {
        if self.saved.subscribers.hold.take().is_none() {
            return;
        }
        self.upstream.mesh.is_to_be_renewed = true;
        self.deliver_held();
        self.deliver_scheduled(now());
        self.peers.wake_publishers();
    }
}
