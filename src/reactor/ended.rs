//! A durable service that was ended: nothing of it may be taken for one of the same name, or in the
//! same place, that comes after it.

use std::time::{Duration, Instant};

use super::hub::{Hub, SharedHub};
use super::requester::{ReturnAddress, Ticket};
use crate::ambient::now;
use crate::broker::EndedService;
use crate::messagebus::Message;
use crate::model::ServiceName;
use crate::store::QueueId;

/// For how long a client waits to hear that an end is durable.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a NAK says of an end that a crash may take back.
const NOT_DURABLE: &str = "the service has ended, but may come back after a crash";

/// An END whose answer waits until no crash brings the service back.
pub(super) struct Ending {
    service: ServiceName,
    ticket: Ticket,
    /// The state database has it when it has all up to here; none while it was not told.
    mark: Option<u64>,
    /// The queue that is still to be removed.
    queue: Option<QueueId>,
    until: Instant,
}

/// Answers ENDs as soon as the state database has them.
pub(super) async fn hear_of_state(hub: SharedHub) {
    let written = hub.borrow().keeping.written();
    let Some(written) = written else {
        return std::future::pending().await;
    };
    loop {
        written.notified().await;
        hub.borrow_mut().tend_endings();
    }
}

impl Hub {
    /// A client's END was heeded, and its service is gone from memory.
    pub(super) fn promise_end(&mut self, service: ServiceName, back: ReturnAddress) {
        let Some(ticket) = self.promise(back) else {
            return;
        };
        self.endings.push(Ending {
            queue: self.durable.queues.removing(&service).cloned(),
            service,
            ticket,
            mark: None,
            until: now() + PATIENCE,
        });
        self.tend_endings();
    }

    /// Answers those ENDs that are durable now, and those that have waited too long.
    pub(super) fn tend_endings(&mut self) {
        if self.endings.is_empty() {
            return;
        }
        let now = now();
        for mut ending in std::mem::take(&mut self.endings) {
            if ending.mark.is_none() {
                ending.mark = self.keeping.mark_of_end(&ending.service);
            }
            let is_kept = ending
                .mark
                .is_some_and(|mark| self.keeping.has_written(mark));
            if is_kept && ending.queue.is_none() {
                self.answer_end(ending.service, ending.ticket);
            } else if ending.until <= now {
                let what = match ending.queue.is_some() {
                    true => "its queue could not be deleted yet",
                    false => "the state database could not be written yet",
                };
                let why = format!("{}: {NOT_DURABLE}: {what}", ending.service);
                self.complete(ending.ticket, &Message::nak("store-failed", why));
            } else {
                self.endings.push(ending);
            }
        }
    }

    /// The store has removed a queue, or could not.
    pub(super) fn queue_removed(&mut self, queue: &QueueId, error: Option<String>) {
        let mut endings = self.endings.iter_mut();
        let at = endings.position(|ending| ending.queue.as_ref() == Some(queue));
        let Some(at) = at else { return };
        match error {
            None => self.endings[at].queue = None,
            Some(error) => {
                let ending = self.endings.remove(at);
                let why =
                    format!("{queue}: {NOT_DURABLE}: its queue could not be deleted: {error}");
                self.complete(ending.ticket, &Message::nak("store-failed", why));
            }
        }
        self.tend_endings();
    }

    /// Its queue goes, and all that waits for the disk on its account. What was told of its events
    /// was handed to the store already.
    pub(super) fn remove_queue(&mut self, ended: &EndedService) {
        self.durable.queues.remove(&ended.name);
        self.carry_out();
    }
}
