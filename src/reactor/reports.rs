//! What the store has to say: events that are durable now, were read, or are no more.

use std::collections::{BTreeMap, BTreeSet};

use super::clocks::Clocks;
use super::emit::IsNew;
use super::hub::Hub;
use crate::broker::{DropReason, ServiceKey, Shelf, Wanted};
use crate::model::ServiceName;
use crate::store::log::{ExpelReason, Refused, StoredEvent};
use crate::store::{Command, Outcome, Report};
use crate::telemetry::Notable;

impl Hub {
    /// What the store has to say.
    pub(super) fn hear_store(&mut self, report: Report) {
        self.durable.send_line();
        if self.durable.owes_tries() {
            self.durable.tries_wanted.notify_one();
        }
        if self.is_of_the_past(&report) {
            return;
        }
        match report {
            Report::Opened { queue, recovered } => {
                self.queue_recovered(&queue);
                for damage in &recovered.damage {
                    self.note_damaged(&queue, damage);
                }
                let found = recovered.unsettled_events;
                if found > 0 || recovered.torn_bytes > 0 {
                    tracing::info!(target: "em.store", %queue, events = found, torn_bytes = recovered.torn_bytes, "a queue was found on disk");
                }
                let Some(key) = self.broker.find(&queue) else {
                    return;
                };
                let clocks = Clocks::read();
                let service = self.broker.service(key);
                let keeps_order = service.is_some_and(|service| service.order_by.is_some());
                let noted = recovered.attributes.iter();
                let mut times: BTreeMap<_, _> = noted
                    .map(|(seq, attributes)| (*seq, clocks.times_from(attributes)))
                    .collect();
                for (seq, until_ms) in &recovered.later {
                    let until = clocks.times_from(&until_ms.to_le_bytes());
                    let known = times.entry(*seq).or_insert(until);
                    known.not_before = known.not_before.max(until.not_before);
                    known.keeps_turn = keeps_order;
                }
                self.with_shelf(key, |service, _| {
                    if let Some(shelf) = &mut service.shelf {
                        let given_below = recovered.given_below;
                        shelf.found(recovered.lowest_unsettled, found, given_below, times);
                        // Those of an earlier run match still.
                        service.account.matched += found;
                    }
                });
                let damage = recovered.damage.iter();
                let damaged = damage.map(|damage| damage.seqs.len() as u64).sum();
                self.found_damaged(key, damaged);
                self.note_if_left(key, found);
            }
            Report::Committed {
                queue,
                tag,
                outcomes,
            } => {
                self.committed(&queue, tag, &outcomes);
                self.replay_committed(&queue, tag, &outcomes);
            }
            Report::Failed { queue, tag, reason } => {
                if let Some(burial) = self.take_burial(&queue, tag) {
                    return self.letters_not_kept(&burial.service, &burial.places, &reason);
                }
                if let Some(key) = self.broker.find(&queue) {
                    self.append_failed(key, tag, &reason);
                }
                self.replay_failed(&queue, tag, &reason);
            }
            Report::Stored {
                queue,
                events,
                unsettled,
                ..
            } => {
                if let Some(events) = self.letters_read(&queue, events, unsettled) {
                    self.hear_read(&queue);
                    self.stored(&queue, events);
                }
            }
            Report::HandingOut { queue } => {
                if let Some(key) = self.broker.find(&queue) {
                    self.with_shelf(key, |service, _| {
                        service.shelf.iter_mut().for_each(Shelf::hands_out);
                    });
                }
            }
            Report::Unread { queue, reason, .. } => self.hear_unread(queue, reason),
            Report::Expelled { queue, events } => {
                for reason in [ExpelReason::RetentionBytes, ExpelReason::RetentionAge] {
                    let those = events.iter().filter(|event| event.reason == reason);
                    self.gave_up(
                        &queue,
                        retention(reason),
                        those.map(|event| event.seq).collect(),
                    );
                }
            }
            Report::Damaged { queue, damage } => {
                self.note_damaged(&queue, &damage);
                let seqs = damage.into_iter().flat_map(|damage| damage.seqs);
                self.gave_up(&queue, DropReason::Damaged, seqs.collect());
            }
            Report::Refused { queue, refused } => {
                for Refused { file, now, why } in &refused {
                    self.notes.note(&Notable::SegmentRefused {
                        queue: queue.as_str(),
                        file,
                        now,
                        why,
                    });
                }
            }
            Report::OpenFailed { queue, reason } => {
                self.durable.opened.remove(&queue);
                self.queue_failed(queue, reason);
            }
            Report::State {
                queue,
                failed: Some(reason),
            } => self.queue_failed(queue, reason),
            Report::State {
                queue,
                failed: None,
            } => self.queue_recovered(&queue),
            Report::DirectoryGone { why } => {
                self.notes.note(&Notable::StateDirGone { why: &why });
            }
            Report::Closed { .. } | Report::Died => {}
            Report::Removed { queue, error } => {
                if let Some(error) = &error {
                    tracing::error!(target: "em.store", %queue, error, "a queue could not be removed");
                }
                self.queue_removed(&queue, error);
            }
        }
    }

    /// Dead letters of a service could not be kept; they are from these places of its queue, if that is
    /// durable. Those are not lost: their events are done only when their letters are on disk.
    pub(super) fn letters_not_kept(
        &mut self,
        service: &ServiceName,
        places: &[Option<u64>],
        reason: &str,
    ) {
        let lost = places.iter().filter(|place| place.is_none()).count();
        self.broker.letters_lost(service, lost as u64);
        let reason = match lost == places.len() {
            true => reason.to_owned(),
            false => format!("{reason}; its event stays in the queue, and comes after a restart"),
        };
        let burst = format!("not-kept:{service}");
        self.notes.burst(&burst, self.clock.now, |suppressed| {
            Notable::DeadLetterNotKept {
                service: service.as_str(),
                reason: &reason,
                suppressed,
            }
        });
    }

    fn log_letters_given_up(&mut self, queue: &ServiceName, reason: DropReason, letters: usize) {
        let burst = format!("{reason}:{queue}");
        if let Some(suppressed) = self.notes.admit(&burst, self.clock.now) {
            tracing::warn!(target: "em.store", %queue, %reason, letters, suppressed, "dead letters dropped: the oldest");
        }
    }

    fn note_damaged(&self, queue: &ServiceName, damage: impl std::fmt::Debug) {
        self.notes.note(&Notable::QueueDamaged {
            queue: queue.as_str(),
            damage: &format!("{damage:?}"),
        });
    }

    fn queue_failed(&mut self, queue: ServiceName, reason: String) {
        if self.durable.failure(&queue) != Some(&reason) {
            self.notes.note(&Notable::StoreFailed {
                queue: queue.as_str(),
                reason: &reason,
            });
            self.durable.failed.insert(queue, reason);
        }
    }

    fn queue_recovered(&mut self, queue: &ServiceName) {
        if self.durable.failed.remove(queue).is_some() {
            self.notes.note(&Notable::StoreRecovered {
                queue: queue.as_str(),
            });
        }
    }

    /// Events of an earlier run matched as those that are whole did, and are lost.
    fn found_damaged(&mut self, key: ServiceKey, events: u64) {
        let Some(service) = self.broker.service_mut(key) else {
            return;
        };
        let before = service.account.dropped;
        service.account.matched += events;
        service.account.dropped.add(DropReason::Damaged, events);
        self.log_dropped_since(key, &before);
    }

    fn committed(&mut self, queue: &ServiceName, tag: u64, outcomes: &[Outcome]) {
        if let Some(burial) = self.take_burial(queue, tag) {
            for (outcome, place) in outcomes.iter().zip(burial.places) {
                match outcome {
                    Outcome::TooLarge => {
                        self.letters_not_kept(&burial.service, &[place], "it is too large");
                    }
                    Outcome::Appended(_) | Outcome::Seen(_) => {
                        self.durable.settle(&burial.service, place);
                    }
                }
            }
            return self.peers.want_flush();
        }
        let Some(key) = self.broker.find(queue) else {
            return;
        };
        let places: Vec<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                Outcome::Appended(place) => Some(*place),
                Outcome::Seen(_) | Outcome::TooLarge => None,
            })
            .collect();
        let too_large = outcomes
            .iter()
            .filter(|outcome| **outcome == Outcome::TooLarge)
            .count();
        let seen = |outcome: &&Outcome| matches!(outcome, Outcome::Seen(_));
        let seen = outcomes.iter().filter(seen).count() as u64;
        if let Some(service) = self.broker.service_mut(key) {
            // It had them already, and counted them then.
            service.account.matched -= seen;
            if let Some(shelf) = &mut service.shelf {
                let bytes = shelf.pending_bytes();
                let lost = shelf.committed(tag, &places, &mut service.queue);
                self.durable.appending_bytes -= bytes - shelf.pending_bytes();
                let too_large = lost.events + too_large as u64;
                service.account.dropped.add(DropReason::TooLarge, too_large);
                // Before the next read, which would find them again.
                self.durable.settle(queue, lost.seqs);
            }
        }
        self.wake_publishers();
        self.dispatch(key);
        for (place, emission) in self
            .durable
            .confirms
            .remove(&(key, tag))
            .unwrap_or_default()
        {
            let result = match outcomes.get(place) {
                Some(Outcome::TooLarge) => Err(format!("{queue}: the event is too large")),
                outcome => Ok(IsNew(!matches!(outcome, Some(Outcome::Seen(_))))),
            };
            self.confirm(emission, Some(queue), result);
        }
    }

    /// Reads from the disk what the backlog has room for.
    pub(super) fn refill(&mut self, key: ServiceKey) {
        let Some(service) = self.broker.service_mut(key) else {
            return;
        };
        let Some(wanted) = service
            .shelf
            .as_mut()
            .and_then(|shelf| shelf.wants(&service.queue))
        else {
            return;
        };
        let queue = service.name().clone();
        self.durable.send_settled(&queue);
        let command = match wanted {
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
        };
        if !self.durable.send(command)
            && let Some(shelf) = self
                .broker
                .service_mut(key)
                .and_then(|found| found.shelf.as_mut())
        {
            shelf.not_read();
        }
    }

    fn stored(&mut self, queue: &ServiceName, events: Vec<StoredEvent>) {
        let Some(key) = self.broker.find(queue) else {
            return;
        };
        let Some(service) = self.broker.service(key) else {
            return;
        };
        let order_by = service.order_by;
        let items: Vec<_> = events
            .into_iter()
            .map(|event| {
                let mut item = self.item(order_by, event.body);
                item.seq = Some(event.seq);
                item.attempt = event.attempts;
                item
            })
            .collect();
        let mut given_up = vec![];
        self.with_shelf(key, |service, _| {
            let Some(shelf) = &mut service.shelf else {
                return;
            };
            let loss = shelf.read(items, &mut service.queue);
            let dropped = &mut service.account.dropped;
            dropped.add(DropReason::TooLarge, loss.too_large.events);
            // What isn't where it should be was damaged.
            dropped.add(DropReason::Damaged, loss.missing);
            given_up = loss.too_large.seqs;
        });
        self.durable.settle(queue, given_up);
        self.peers.want_flush();
    }

    /// The store gave up events of a queue: the oldest, or damaged ones.
    fn gave_up(&mut self, queue: &ServiceName, reason: DropReason, places: BTreeSet<u64>) {
        if places.is_empty() {
            return;
        }
        if queue.is_of_dead_letters() {
            return self.log_letters_given_up(queue, reason, places.len());
        }
        let Some(key) = self.broker.find(queue) else {
            return;
        };
        let before = self
            .broker
            .service(key)
            .map(|service| service.account.dropped);
        self.with_shelf(key, |service, _| {
            let waited = service.queue.give_up(&places).events;
            let on_disk = places.into_iter();
            let on_disk = service
                .shelf
                .as_mut()
                .map_or(0, |shelf| shelf.gave_up(on_disk));
            service.account.dropped.add(reason, waited + on_disk);
        });
        before.inspect(|before| self.log_dropped_since(key, before));
    }
}

fn retention(reason: ExpelReason) -> DropReason {
    match reason {
        ExpelReason::RetentionBytes => DropReason::RetentionBytes,
        ExpelReason::RetentionAge => DropReason::RetentionAge,
    }
}
