//! A durable service that was ended: nothing of it may be taken for one of the same name, or in the
//! same place, that comes after it.

use std::time::{Duration, Instant};

use super::hub::{Hub, SharedHub};
use super::requester::{ReturnAddress, Ticket};
use crate::ambient::now;
use crate::broker::EndedService;
use crate::messagebus::Message;
use crate::model::ServiceName;
use crate::store::{Command, Report};

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
    /// Whether the queue is still to be removed.
    has_queue: bool,
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
            has_queue: self.durable.removing.contains_key(&service),
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
            if is_kept && !ending.has_queue {
                self.answer_end(ending.service, ending.ticket);
            } else if ending.until <= now {
                let what = match ending.has_queue {
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
    pub(super) fn queue_removed(&mut self, queue: &ServiceName, error: Option<String>) {
        let mut endings = self.endings.iter_mut();
        let at = endings.position(|ending| ending.has_queue && ending.service == *queue);
        let Some(at) = at else { return };
        match error {
            None => self.endings[at].has_queue = false,
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
        let queue = &ended.name;
        self.durable.settled.remove(queue);
        self.durable.forget_tries(ended.key);
        self.durable.forget_places(queue);
        self.durable.failed.remove(queue);
        self.durable.unread.remove(queue);
        // Their letters are kept, but the places are the next queue's soon.
        let burials = self.durable.burials.values_mut();
        for burial in burials.filter(|burial| burial.service == *queue) {
            burial.places.fill(None);
        }
        self.durable.appending_bytes -= ended.pending_bytes;
        self.wake_publishers();
        self.durable.opened.remove(queue);
        let command = Command::Remove {
            queue: queue.clone(),
        };
        if self.durable.send(command) {
            *self.durable.removing.entry(queue.clone()).or_default() += 1;
        }
        let of_it = (ended.key, 0)..=(ended.key, u64::MAX);
        let tags: Vec<_> = self
            .durable
            .confirms
            .range(of_it)
            .map(|(tag, _)| *tag)
            .collect();
        let confirms = tags
            .iter()
            .filter_map(|tag| self.durable.confirms.remove(tag));
        let emissions: Vec<_> = confirms.flatten().collect();
        for (_, emission) in emissions {
            self.confirm(
                emission,
                Some(queue),
                Err(format!("{queue}: the service has ended")),
            );
        }
        self.refuse_replays(queue);
    }

    /// Whether a report is of a queue that was to be removed before what is in it now.
    pub(super) fn is_of_the_past(&mut self, report: &Report) -> bool {
        let Some(queue) = report.queue() else {
            return false;
        };
        let Some(removals) = self.durable.removing.get_mut(queue) else {
            return false;
        };
        if matches!(report, Report::Removed { .. }) {
            *removals -= 1;
            if *removals == 0 {
                self.durable.removing.remove(queue);
            }
            return false;
        }
        true
    }

    fn refuse_replays(&mut self, service: &ServiceName) {
        for tag in self.letters.replays_to(service) {
            self.replay_failed(service, tag, "the service has ended");
        }
    }
}
