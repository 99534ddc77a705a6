//! What is answered when no crash can take it back: that a durable service was ended, or asked for.

use std::time::{Duration, Instant};

use super::hub::{Hub, SharedHub};
use super::replies::{ReturnAddress, Ticket};
use crate::ambient::now;
use crate::broker::EndedService;
use crate::messagebus::Message;
use crate::model::{ServiceName, SubscriptionId};
use crate::store::QueueId;

/// For how long a client waits to hear that what it asked for is durable.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a NAK says of an end that a crash may take back.
const NOT_DURABLE: &str = "the service has ended, but may come back after a crash";

/// What a NAK says of either, if the state database is to blame.
const NOT_WRITTEN: &str = "the state database could not be written yet";

/// An answer that waits until no crash takes back what it says.
pub(super) struct Promise {
    what: Promised,
    ticket: Ticket,
    /// The state database has it when it has all up to here; none while it was not told.
    mark: Option<u64>,
    until: Instant,
}

enum Promised {
    /// The service doesn't come back.
    End {
        service: ServiceName,
        /// The queue that is still to be removed.
        queue: Option<QueueId>,
    },
    /// The subscription does.
    Subscription {
        id: SubscriptionId,
        /// The ACK.
        answer: Message,
    },
}

/// Answers as soon as the state database has what was promised.
pub(super) async fn hear_of_state(hub: SharedHub) {
    let written = hub.borrow().keeping.written();
    let Some(written) = written else {
        return std::future::pending().await;
    };
    loop {
        written.notified().await;
        hub.borrow_mut().tend_promises();
    }
}

impl Hub {
    /// A client's END was heeded, and its service is gone from memory.
    pub(super) fn promise_end(&mut self, service: ServiceName, back: ReturnAddress) {
        let queue = self.durable.queues.removing(&service).cloned();
        self.promise_that(Promised::End { service, queue }, back);
    }

    /// A client has asked for a durable service, and may leave when that is promised.
    pub(super) fn promise_subscription(
        &mut self,
        id: SubscriptionId,
        answer: Message,
        back: ReturnAddress,
    ) {
        self.promise_that(Promised::Subscription { id, answer }, back);
    }

    fn promise_that(&mut self, what: Promised, back: ReturnAddress) {
        let Some(ticket) = self.promise(back) else {
            return;
        };
        self.promises.push(Promise {
            what,
            ticket,
            mark: None,
            until: now() + PATIENCE,
        });
        self.tend_promises();
    }

    /// Answers those requests that are durable now, and those that have waited too long.
    pub(super) fn tend_promises(&mut self) {
        if self.promises.is_empty() {
            return;
        }
        let now = now();
        for mut promise in std::mem::take(&mut self.promises) {
            if promise.mark.is_none() {
                promise.mark = match &promise.what {
                    Promised::End { service, .. } => self.keeping.mark_of_end(service),
                    Promised::Subscription { id, .. } => self.keeping.mark_of_subscription(id),
                };
            }
            let is_written = promise
                .mark
                .is_some_and(|mark| self.keeping.has_written(mark));
            let is_late = promise.until <= now;
            match promise.what {
                Promised::End { service, queue } if is_written && queue.is_none() => {
                    self.answer_end(service, promise.ticket);
                }
                Promised::Subscription { answer, .. } if is_written => {
                    self.complete(promise.ticket, &answer);
                }
                Promised::End { service, queue } if is_late => {
                    let what = match queue.is_some() {
                        true => "its queue could not be deleted yet",
                        false => NOT_WRITTEN,
                    };
                    let why = format!("{service}: {NOT_DURABLE}: {what}");
                    self.complete(promise.ticket, &Message::nak("store-failed", why));
                }
                Promised::Subscription { id, .. } if is_late => {
                    let why = format!(
                        "{id}: it is subscribed, but a crash may take that back: {NOT_WRITTEN}"
                    );
                    self.complete(promise.ticket, &Message::nak("store-failed", why));
                }
                what => self.promises.push(Promise { what, ..promise }),
            }
        }
    }

    /// The store has removed a queue, or could not.
    pub(super) fn queue_removed(&mut self, removed: &QueueId, error: Option<String>) {
        let of_it = |promise: &Promise| matches!(&promise.what, Promised::End { queue, .. } if queue.as_ref() == Some(removed));
        let Some(at) = self.promises.iter().position(of_it) else {
            return;
        };
        if let Some(error) = error {
            let promise = self.promises.remove(at);
            let why = format!("{removed}: {NOT_DURABLE}: its queue could not be deleted: {error}");
            self.complete(promise.ticket, &Message::nak("store-failed", why));
        } else if let Promised::End { queue, .. } = &mut self.promises[at].what {
            *queue = None;
        }
        self.tend_promises();
    }

    /// Its queue goes, and all that waits for the disk on its account. What was told of its events
    /// was handed to the store already.
    pub(super) fn remove_queue(&mut self, ended: &EndedService) {
        self.durable.queues.remove(&ended.name);
        self.carry_out();
    }
}
