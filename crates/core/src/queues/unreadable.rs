//! Events on disk that can't be read now: they wait there, and are tried again.

use std::time::{Duration, Instant};

use super::appends::find;
use super::{Effect, Note, Queues, Shell, State};
use crate::broker::{Broker, Service, Wanted};
use crate::store::Command;
use event_manager_wire::model::ServiceName;

/// How long until what could not be read is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a queue could not be read, and when that is tried again.
#[derive(Debug)]
pub(super) struct Unreadable {
    reason: String,
    /// None while it is being tried.
    again_at: Option<Instant>,
}

impl<R> Queues<R> {
    /// Why a queue could not be read when that was last tried, if it could not.
    pub fn unreadable(&self, queue: &ServiceName) -> Option<&str> {
        let record = self.records.get(queue)?;
        record.unreadable.as_ref().map(|found| &*found.reason)
    }

    /// Reads from the disk what the service's backlog has room for.
    pub fn refill(&mut self, service: &mut Service) {
        let Some(spill) = &mut service.spill else {
            return;
        };
        let Some(wanted) = spill.wants(&service.queue) else {
            return;
        };
        if self.store.is_none() {
            return spill.not_read();
        }
        let record = self.record(service.name());
        let (queue, seqs) = (record.id.clone(), std::mem::take(&mut record.settled));
        // What is done must not be found again by what is read now.
        self.send_settled(&queue, seqs);
        self.send(match wanted {
            Wanted::InOrder {
                from,
                events_max,
                bytes_max,
            } => Command::Read {
                queue,
                from,
                events_max,
                bytes_max,
            },
            Wanted::These { seqs, bytes_max } => Command::ReadThese {
                queue,
                seqs,
                bytes_max,
            },
        });
    }

    /// The store could not read a queue. Its service asks again later; a request is refused.
    pub(super) fn hear_unread(
        &mut self,
        broker: &Broker,
        queue: &ServiceName,
        reason: String,
        now: Instant,
    ) {
        if self.not_read_for_request(queue, &reason) || broker.find(queue).is_none() {
            return;
        }
        let Some(record) = self.records.get_mut(queue) else {
            return;
        };
        let before = record.unreadable.as_ref();
        if before.is_none_or(|before| before.reason != reason) {
            let (queue, reason) = (queue.clone(), reason.clone());
            let note = Note::Unreadable { queue, reason };
            self.effects.push_back(Effect::Note(note));
        }
        let again_at = Some(now + PAUSE);
        record.unreadable = Some(Unreadable { reason, again_at });
        self.troubled.insert(queue.clone());
    }

    /// It could be read.
    pub(super) fn hear_readable(&mut self, queue: &ServiceName) {
        let record = self.records.get_mut(queue);
        if record.is_some_and(|record| record.unreadable.take().is_some()) {
            let note = Note::Recovered(queue.clone());
            self.effects.push_back(Effect::Note(note));
            self.tend_trouble(queue);
        }
    }

    /// Whether there still is any.
    pub(super) fn tend_trouble(&mut self, queue: &ServiceName) {
        let record = self.records.get(queue);
        let is_troubled =
            |record: &super::Queue<R>| record.failure.is_some() || record.unreadable.is_some();
        match record.is_some_and(is_troubled) {
            true => self.troubled.insert(queue.clone()),
            false => self.troubled.remove(queue),
        };
    }

    /// Tries again what did not work a while ago: to open queues, and to read them. Those of dead letters
    /// are opened, too: it may be long until the next event dies, and the daemon isn't ready meanwhile.
    pub fn try_again(&mut self, broker: &mut Broker, now: Instant, shell: &dyn Shell) {
        for queue in self.troubled.clone() {
            let Some(record) = self.records.get_mut(&queue) else {
                continue;
            };
            let is_closed = record.state == State::Closed && record.failure.is_some();
            let unreadable = record.unreadable.as_mut();
            let again_at = unreadable.and_then(|found| {
                // Once: a second answer would be taken for that to what is asked next.
                found.again_at.take_if(|at| *at <= now)
            });
            match (is_closed, queue.of_dead_letters()) {
                (true, Some(service)) => self.open(&queue, shell.limits_of(&service)),
                (true, None) => {
                    if let Some((_, service)) = find(broker, &queue) {
                        self.open_of(service, shell);
                    }
                }
                (false, _) => {}
            }
            if again_at.is_some()
                && let Some((key, service)) = find(broker, &queue)
                && let Some(spill) = &mut service.spill
            {
                spill.not_read();
                self.effects.push_back(Effect::Dispatch(key));
            }
        }
    }
}
