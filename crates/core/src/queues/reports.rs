//! What the store has to say: events that are durable now, were read, or are no more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::appends::find;
use super::{Effect, Note, Queues, Shell, State};
use crate::broker::{Broker, DropReason, Dropped, ServiceKey, Spill};
use crate::log::{Damage, ExpelReason, Recovered, StoredEvent};
use crate::seq::Seq;
use crate::store::{Appended, Report};
use event_manager_wire::model::ServiceName;

impl<R> Queues<R> {
    /// Hears what the store has to say. What it says of a queue that is gone is ignored.
    pub fn hear(&mut self, broker: &mut Broker, report: Report, now: Instant, shell: &dyn Shell) {
        self.send_waiting();
        match report {
            // An append is known by its tag, and there until this is heard.
            Report::Committed {
                queue,
                appends,
                holds,
            } => {
                for Appended { tag, outcomes } in appends {
                    self.committed(broker, tag, &outcomes);
                }
                if self.is_current(&queue) {
                    self.weigh(&queue.name, holds);
                }
                return;
            }
            Report::Failed { tag, reason, .. } => return self.append_failed(broker, tag, &reason),
            Report::Removed { queue, error } => {
                if self.removing(&queue.name) == Some(&queue) {
                    self.records.remove(&queue.name);
                }
                return self.effects.push_back(Effect::Removed { queue, error });
            }
            Report::DirectoryGone { why } => return self.note(Note::DirectoryGone(why)),
            _ => {}
        }
        let Some(queue) = report.queue().filter(|queue| self.is_current(queue)) else {
            return;
        };
        let queue = queue.name.clone();
        self.hear_of(broker, queue, report, now, shell);
    }

    /// Hears what the store has to say of a queue that is there.
    fn hear_of(
        &mut self,
        broker: &mut Broker,
        queue: ServiceName,
        report: Report,
        now: Instant,
        shell: &dyn Shell,
    ) {
        match report {
            Report::Opened { recovered, .. } => self.opened(broker, queue, recovered, shell),
            Report::OpenFailed { reason, .. } => {
                self.record(&queue).state = State::Closed;
                self.failed(queue, reason);
            }
            Report::State { failed, .. } => match failed {
                Some(reason) => self.failed(queue, reason),
                None => self.recovered(queue),
            },
            Report::Stored {
                events, unsettled, ..
            } => {
                if let Some(events) = self.read_for_request(&queue, events, unsettled) {
                    self.hear_readable(&queue);
                    self.stored(broker, &queue, events, shell);
                }
            }
            Report::Unread { reason, .. } => self.hear_unread(broker, &queue, reason, now),
            Report::Holds { bytes, .. } => self.weigh(&queue, bytes),
            Report::HandingOut { .. } => {
                if let Some((key, service)) = find(broker, &queue) {
                    service.spill.iter_mut().for_each(Spill::hands_out);
                    self.effects.push_back(Effect::Dispatch(key));
                }
            }
            Report::Expelled { events, .. } => {
                for reason in [ExpelReason::RetentionBytes, ExpelReason::RetentionAge] {
                    let those = events.iter().filter(|event| event.reason == reason);
                    let seqs = those.map(|event| event.seq).collect();
                    self.gave_up(broker, &queue, retention(reason), seqs);
                }
            }
            Report::Damaged { damage, .. } => {
                self.note_damaged(&queue, &damage);
                let seqs = damage.into_iter().flat_map(|damage| damage.seqs);
                self.gave_up(broker, &queue, DropReason::Damaged, seqs.collect());
            }
            Report::Refused { refused, .. } => self.note(Note::Refused { queue, refused }),
            Report::Closed { .. }
            | Report::Died
            | Report::Committed { .. }
            | Report::Failed { .. }
            | Report::Removed { .. }
            | Report::DirectoryGone { .. } => {}
        }
    }

    fn note(&mut self, note: Note) {
        self.effects.push_back(Effect::Note(note));
    }

    fn note_damaged(&mut self, queue: &ServiceName, all: &[Damage]) {
        for damage in all {
            self.note(Note::Damaged {
                queue: queue.clone(),
                damage: damage.to_string(),
            });
        }
    }

    fn failed(&mut self, queue: ServiceName, reason: String) {
        let record = self.record(&queue);
        if record.failure.as_ref() != Some(&reason) {
            record.failure = Some(reason.clone());
            self.troubled.insert(queue.clone());
            self.note(Note::Failed { queue, reason });
        }
    }

    fn recovered(&mut self, queue: ServiceName) {
        if self.record(&queue).failure.take().is_some() {
            self.tend_trouble(&queue);
            self.note(Note::Recovered(queue));
        }
    }

    fn opened(
        &mut self,
        broker: &mut Broker,
        queue: ServiceName,
        recovered: Recovered,
        shell: &dyn Shell,
    ) {
        self.record(&queue).state = State::Open;
        self.weigh(&queue, recovered.unsettled_bytes);
        self.recovered(queue.clone());
        self.note_damaged(&queue, &recovered.damage);
        let (events, torn_bytes) = (recovered.unsettled_events, recovered.torn_bytes);
        if events > 0 || torn_bytes > 0 {
            self.note(Note::Found {
                queue: queue.clone(),
                events,
                torn_bytes,
            });
        }
        let Some((key, service)) = find(broker, &queue) else {
            return;
        };
        service.name_events(shell.hub_id(), recovered.created_ms);
        let Some(spill) = &mut service.spill else {
            return;
        };
        let clocks = shell.clocks();
        let noted = recovered.attributes.iter();
        let mut times: BTreeMap<_, _> = noted
            .map(|(seq, attributes)| (*seq, clocks.times_from(attributes)))
            .collect();
        for (seq, until_ms) in &recovered.later {
            let until = clocks.times_from(&until_ms.to_le_bytes());
            let known = times.entry(*seq).or_insert(until);
            known.not_before = known.not_before.max(until.not_before);
            known.keeps_turn = service.order_by.is_some();
        }
        let lowest = recovered.lowest_unsettled;
        spill.found(lowest, events, recovered.given_below, times);
        let account = &mut service.account;
        let before = account.dropped;
        let damage = recovered.damage.iter();
        let damaged: u64 = damage.map(|damage| damage.seqs.len() as u64).sum();
        // Those of an earlier run matched, those that are lost too.
        account.matched += events + damaged;
        account.dropped.add(DropReason::Damaged, damaged);
        self.effects.push_back(Effect::Dispatch(key));
        self.note_dropped(key, before);
        let service = key;
        self.effects.push_back(Effect::Found { service, events });
    }

    fn note_dropped(&mut self, service: ServiceKey, before: Dropped) {
        self.effects.push_back(Effect::Dropped { service, before });
    }

    fn stored(
        &mut self,
        broker: &mut Broker,
        queue: &ServiceName,
        events: Vec<StoredEvent>,
        shell: &dyn Shell,
    ) {
        let Some((key, service)) = find(broker, queue) else {
            return;
        };
        let order_by = service.order_by;
        let Some(spill) = &mut service.spill else {
            return;
        };
        let items: Vec<_> = events
            .into_iter()
            .map(|event| {
                let mut item = shell.item(order_by, event.body);
                item.seq = Some(event.seq);
                item.attempt = event.attempts;
                if item.key.is_some() || item.attempt > 0 {
                    // It may stay while all that was read with it is done.
                    item.own_body();
                }
                item
            })
            .collect();
        let loss = spill.read(items, &mut service.queue);
        let dropped = &mut service.account.dropped;
        dropped.add(DropReason::TooLarge, loss.too_large.events);
        // What isn't where it should be was damaged.
        dropped.add(DropReason::Damaged, loss.missing);
        self.settle(queue, loss.too_large.seqs);
        self.effects.push_back(Effect::Dispatch(key));
    }

    /// The store gave up events of a queue: the oldest, or damaged ones.
    fn gave_up(
        &mut self,
        broker: &mut Broker,
        queue: &ServiceName,
        reason: DropReason,
        seqs: BTreeSet<Seq>,
    ) {
        if seqs.is_empty() {
            return;
        }
        if queue.is_of_dead_letters() {
            return self.note(Note::LettersDropped {
                queue: queue.clone(),
                reason,
                letters: seqs.len(),
            });
        }
        let Some((key, service)) = find(broker, queue) else {
            return;
        };
        let before = service.account.dropped;
        let waited = service.queue.give_up(&seqs, reason).events;
        let spill = service.spill.as_mut();
        let on_disk = spill.map_or(0, |spill| spill.gave_up(seqs, &mut service.queue));
        service.account.dropped.add(reason, waited + on_disk);
        self.effects.push_back(Effect::Dispatch(key));
        self.note_dropped(key, before);
    }
}

fn retention(reason: ExpelReason) -> DropReason {
    match reason {
        ExpelReason::RetentionBytes => DropReason::RetentionBytes,
        ExpelReason::RetentionAge => DropReason::RetentionAge,
    }
}
