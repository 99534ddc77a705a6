//! Events on disk that can't be read now: they wait there, and are tried again.

use std::time::{Duration, Instant};

use super::hub::Hub;
use crate::model::ServiceName;
use crate::telemetry::Notable;

/// How long until what could not be read is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A queue that could not be read.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) reason: String,
    again_at: Instant,
}

impl Hub {
    /// The store could not read a queue. Its service asks again later; a request is refused.
    pub(super) fn hear_unread(&mut self, queue: ServiceName, reason: String) {
        if self.refuse_letters(&queue, &reason) {
            return;
        }
        if self.broker.find(&queue).is_none() {
            return;
        }
        let before = self.durable.unread.get(&queue);
        if before.is_none_or(|before| before.reason != reason) {
            self.notes.note(&Notable::QueueUnreadable {
                queue: queue.as_str(),
                reason: &reason,
            });
        }
        let again_at = self.clock.now + PAUSE;
        let unread = Unread { reason, again_at };
        self.durable.unread.insert(queue, unread);
    }

    /// It could be read.
    pub(super) fn hear_read(&mut self, queue: &ServiceName) {
        if self.durable.unread.remove(queue).is_some() {
            self.notes.note(&Notable::StoreRecovered {
                queue: queue.as_str(),
            });
        }
    }

    /// Asks again for what could not be read a while ago.
    pub(super) fn read_again(&mut self) {
        let now = self.clock.now;
        let unread = self.durable.unread.iter_mut();
        let due: Vec<_> = unread
            .filter(|(_, unread)| unread.again_at <= now)
            .map(|(queue, unread)| {
                unread.again_at = now + PAUSE;
                queue.clone()
            })
            .collect();
        for queue in due {
            let Some(key) = self.broker.find(&queue) else {
                continue;
            };
            self.with_shelf(key, |service, _| {
                if let Some(shelf) = &mut service.shelf {
                    shelf.not_read();
                }
            });
        }
    }
}
