//! What the store has to say goes to the queues; what that comes to is done here.

use super::durable::Surroundings;
use super::hub::Hub;
use super::peer::Role;
use crate::queues::{Effect, Note};
use crate::store::Report;
use crate::store::log::Refused;
use crate::telemetry::Notable;

impl Hub {
    /// What the store has to say.
    pub(super) fn hear_store(&mut self, report: Report) {
        let shell = Surroundings::of(&self.config, &self.hasher);
        let queues = &mut self.durable.queues;
        queues.hear(&mut self.broker, report, self.clock.now, &shell);
        if queues.owes_tries() {
            self.durable.tries_wanted.notify_one();
        }
        self.carry_out();
    }

    /// Does what the queues left to do.
    pub(super) fn carry_out(&mut self) {
        while let Some(effect) = self.durable.queues.next_effect() {
            match effect {
                Effect::Dispatch(key) => self.dispatch(key),
                Effect::WakePublishers => self.wake_publishers(),
                Effect::Confirm {
                    emission,
                    queue,
                    result,
                } => self.confirm(emission, &queue, result),
                Effect::Found { service, events } => self.note_if_left(service, events),
                Effect::Dropped { service, before } => self.log_dropped_since(service, &before),
                Effect::Read {
                    request,
                    queue,
                    events,
                    unsettled,
                } => self.letters_read(request, &queue, events, unsettled),
                Effect::NotRead { request, reason } => self.letters_not_read(request, &reason),
                Effect::Replayed(request) => self.replayed(request),
                Effect::NotReplayed { request, reason } => self.not_replayed(request, &reason),
                Effect::Removed { queue, error } => {
                    if let Some(error) = &error {
                        tracing::error!(target: "em.store", %queue, error, "a queue could not be removed");
                    }
                    self.queue_removed(&queue, error);
                }
                Effect::Note(note) => self.note_of_queue(note),
            }
        }
        if self.durable.queues.wants_flush() {
            self.peers.want_flush();
        }
    }

    fn wake_publishers(&self) {
        let peers = self.peers.iter();
        let publishers = peers.filter(|peer| matches!(peer.role, Role::Publisher));
        publishers.for_each(|peer| peer.wake.notify_one());
    }

    fn note_of_queue(&mut self, note: Note) {
        match note {
            Note::Failed { queue, reason } => self.notes.note(&Notable::StoreFailed {
                queue: queue.as_str(),
                reason: &reason,
            }),
            Note::Recovered(queue) => self.notes.note(&Notable::StoreRecovered {
                queue: queue.as_str(),
            }),
            Note::Unreadable { queue, reason } => self.notes.note(&Notable::QueueUnreadable {
                queue: queue.as_str(),
                reason: &reason,
            }),
            Note::Found {
                queue,
                events,
                torn_bytes,
            } => {
                tracing::info!(target: "em.store", %queue, events, torn_bytes, "a queue was found on disk");
            }
            Note::Damaged { queue, damage } => self.notes.note(&Notable::QueueDamaged {
                queue: queue.as_str(),
                damage: &damage,
            }),
            Note::Refused { queue, refused } => {
                for Refused { file, now, why } in &refused {
                    self.notes.note(&Notable::SegmentRefused {
                        queue: queue.as_str(),
                        file,
                        now,
                        why,
                    });
                }
            }
            Note::LettersDropped {
                queue,
                reason,
                letters,
            } => {
                let burst = format!("{reason}:{queue}");
                if let Some(suppressed) = self.notes.admit(&burst, self.clock.now) {
                    tracing::warn!(target: "em.store", %queue, %reason, letters, suppressed, "dead letters dropped: the oldest");
                }
            }
            Note::LettersNotKept { service, reason } => {
                let now = self.clock.now;
                self.notes
                    .burst_of("not-kept", &service, now, |suppressed| {
                        Notable::DeadLetterNotKept {
                            service: service.as_str(),
                            reason: &reason,
                            suppressed,
                        }
                    });
            }
            Note::DirectoryGone(why) => self.notes.note(&Notable::StateDirGone { why: &why }),
        }
    }
}
