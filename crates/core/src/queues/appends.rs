//! Appends: from an event that came to what the store reports of it.

use std::time::Instant;

use bytes::Bytes;

use super::{Effect, EmissionId, Queue, Queues, Shell};
use crate::broker::{Broker, ClockChange, DropReason, Item, Service, ServiceKey};
use crate::event_id::EventId;
use crate::log::Copies;
use crate::seq::Seq;
use crate::store::{AppendTag, Command, Event, Outcome, QueueId};
use event_manager_wire::model::ServiceName;

/// What is known of an event with EMIT beyond its item.
#[derive(Debug, Clone, Default)]
pub struct Emitted {
    /// By which a second publication of it is known.
    pub id: Option<EventId>,
    /// When it may be delivered, as its publisher said it, in ms since 1970. Events with the same time keep
    /// their order, also over a restart.
    pub due_ms: Option<u64>,
    /// Which emission waits to hear of it.
    pub emission: Option<EmissionId>,
}

/// A service's events that the store was not handed yet.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// What the store gets of each,
    pub(super) events: Vec<Event>,
    /// and what stays here.
    pub(super) items: Vec<Item>,
    /// The position among them of each whose publisher waits to hear of it, and its emission.
    pub(super) emissions: Vec<(usize, EmissionId)>,
    /// What their bytes are in: they go to the disk together.
    copies: Copies,
}

impl Unsent {
    /// So many events come; `usual` is how many came before the last flush.
    fn reserve(&mut self, events: usize, usual: usize) {
        let room = match self.items.is_empty() {
            true => events.max(usual),
            false => events,
        };
        self.events.reserve(room);
        self.items.reserve(room);
    }
}

/// What the store was asked to append, and has not reported of.
#[derive(Debug)]
pub(super) struct Append<R> {
    pub(super) queue: QueueId,
    /// What it counts for in what waits for the disk, in bytes.
    pub(super) bytes: usize,
    pub(super) content: Content<R>,
}

#[derive(Debug)]
pub(super) enum Content<R> {
    /// Events of a service. Of some of them the publishers wait to hear.
    Events {
        items: Vec<Item>,
        emissions: Vec<(usize, EmissionId)>,
    },
    /// Dead letters.
    Letters(Vec<super::letters::Origin>),
    /// Events of a service again, which were dead letters in this queue with these numbers.
    Replay {
        items: Vec<Item>,
        letters: ServiceName,
        seqs: Vec<Seq>,
        request: R,
    },
    /// The queue is gone.
    Orphan,
}

impl<R> Append<R> {
    pub(super) fn of(
        queue: &QueueId,
        items: Vec<Item>,
        emissions: Vec<(usize, EmissionId)>,
    ) -> Self {
        Self {
            queue: queue.clone(),
            bytes: items.iter().map(Item::cost).sum(),
            content: Content::Events { items, emissions },
        }
    }

    /// Takes all that there is to know. What stays is there only so that its tag is not given again before
    /// the store has reported of it.
    pub(super) fn take(&mut self) -> Self {
        let orphan = Self {
            queue: self.queue.clone(),
            bytes: 0,
            content: Content::Orphan,
        };
        std::mem::replace(self, orphan)
    }
}

impl<R> Queues<R> {
    /// Takes so many events for a durable service, which matched already; `items` are made of a copy of the
    /// bytes: what waits must not keep all alive that was read with them. They are dropped, and counted, if its
    /// queue takes none; whether it takes them.
    pub fn append<I: Iterator<Item = Item>>(
        &mut self,
        service: &mut Service,
        (bytes, events): (&[u8], usize),
        items: impl FnOnce(Bytes) -> I,
    ) -> bool {
        if self.refusal(service.name()).is_some() {
            let dropped = &mut service.account.dropped;
            dropped.add(DropReason::StoreFailed, events as u64);
            return false;
        }
        let record = self.unsent(service, events);
        let unsent = &mut record.unsent;
        unsent.reserve(events, record.usual);
        let mut bytes_came = 0;
        for item in items(unsent.copies.copy(bytes)) {
            bytes_came += item.cost();
            unsent.events.push(Event {
                id: None,
                attributes: Bytes::new(),
                body: item.body.clone(),
            });
            unsent.items.push(item);
        }
        record.weight.came(bytes_came);
        self.appending_bytes += bytes_came;
        true
    }

    /// Takes an event whose publisher may wait to hear of it.
    pub fn append_confirmed(
        &mut self,
        service: &mut Service,
        item: Item,
        emitted: Emitted,
        shell: &dyn Shell,
    ) {
        let attributes = match (item.not_before, item.expires_at) {
            (None, None) => Bytes::new(),
            _ => shell.clocks().attributes_of(&item, emitted.due_ms),
        };
        self.appending_bytes += item.cost();
        let record = self.unsent(service, 1);
        record.weight.came(item.cost());
        let unsent = &mut record.unsent;
        unsent.reserve(1, record.usual);
        let position = unsent.items.len();
        unsent
            .emissions
            .extend(emitted.emission.map(|emission| (position, emission)));
        unsent.events.push(Event {
            id: emitted.id.map(EventId::into_bytes),
            attributes,
            body: item.body.clone(),
        });
        unsent.items.push(item);
    }

    /// The record of a service's queue, for which so many events came.
    fn unsent(&mut self, service: &mut Service, events: usize) -> &mut Queue<R> {
        if let Some(spill) = &mut service.spill {
            spill.came(events);
        }
        self.unflushed(service.name())
    }

    /// Events of a queue are done: the store is told so with the next flush.
    pub fn settle(&mut self, queue: &ServiceName, seqs: impl IntoIterator<Item = Seq>) {
        let mut seqs = seqs.into_iter().peekable();
        if self.store.is_some() && seqs.peek().is_some() {
            self.unflushed(queue).settled.extend(seqs);
        }
    }

    /// Hands the store what came and what is done since the last time.
    pub fn flush(&mut self, shell: &dyn Shell) {
        for queue in std::mem::take(&mut self.unflushed) {
            self.flush_queue(&queue, shell);
        }
    }

    fn flush_queue(&mut self, name: &ServiceName, shell: &dyn Shell) {
        self.flush_letters(name, shell);
        let Some(record) = self.records.get_mut(name) else {
            return;
        };
        if !std::mem::take(&mut record.is_unflushed) {
            return;
        }
        let unsent = std::mem::take(&mut record.unsent);
        record.usual = unsent.items.len();
        let settled = std::mem::take(&mut record.settled);
        let queue = record.id.clone();
        if !unsent.items.is_empty() {
            let append = Append::of(&queue, unsent.items, unsent.emissions);
            self.send_append(append, unsent.events, true);
        }
        self.send_settled(&queue, settled);
    }

    pub(super) fn send_settled(&mut self, queue: &QueueId, seqs: Vec<Seq>) {
        if !seqs.is_empty() {
            let queue = queue.clone();
            self.send(Command::Settle { queue, seqs });
        }
    }

    /// Asks the store for an append of these events, whose bytes were counted.
    pub(super) fn send_append(&mut self, append: Append<R>, events: Vec<Event>, urgent: bool) {
        let queue = append.queue.clone();
        let tag = AppendTag(self.appends.insert(append) as u64);
        self.send(Command::Append {
            queue,
            tag,
            events,
            urgent,
        });
    }

    /// The wall clock was set: the times of events on their way to the disk move with it.
    pub fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        let records = self.records.values_mut();
        let unsent = records.flat_map(|record| &mut record.unsent.items);
        let appends = self.appends.iter_mut();
        let appending = appends.filter_map(|(_, append)| match &mut append.content {
            Content::Events { items, .. } => Some(items),
            // Nothing that is replayed has a time.
            Content::Replay { .. } | Content::Letters(_) | Content::Orphan => None,
        });
        for item in unsent.chain(appending.flatten()) {
            item.clock_was_set(change, now);
        }
    }

    /// What an append was, of which the store reports.
    fn take_append(&mut self, tag: AppendTag, is_on_disk: bool) -> Option<Append<R>> {
        let append = self.appends.try_remove(usize::try_from(tag.0).ok()?)?;
        self.appended_bytes(append.bytes);
        let record = self.records.get_mut(&append.queue.name);
        if let Some(record) = record.filter(|record| record.id == append.queue) {
            self.weighed += u64::from(!is_on_disk);
            record.weight.arrived(append.bytes, is_on_disk);
        }
        Some(append)
    }

    pub(super) fn committed(&mut self, broker: &mut Broker, tag: AppendTag, outcomes: &[Outcome]) {
        let Some(Append { queue, content, .. }) = self.take_append(tag, true) else {
            return;
        };
        match content {
            Content::Events { items, emissions } => {
                self.events_committed(broker, &queue.name, items, outcomes);
                for (position, emission) in emissions {
                    let result = match outcomes.get(position) {
                        Some(Outcome::TooLarge) => Err(format!("{queue}: the event is too large")),
                        outcome => Ok(!matches!(outcome, Some(Outcome::Seen(_)))),
                    };
                    let seq = match outcomes.get(position) {
                        Some(Outcome::Appended(seq)) => Some(*seq),
                        _ => None,
                    };
                    self.confirm(emission, &queue.name, result, seq);
                }
            }
            Content::Letters(origins) => self.letters_committed(broker, origins, outcomes),
            Content::Replay {
                items,
                letters,
                seqs,
                request,
            } => {
                self.events_committed(broker, &queue.name, items, outcomes);
                let accepted = seqs.into_iter().zip(outcomes);
                let accepted = accepted.filter(|(_, outcome)| **outcome != Outcome::TooLarge);
                self.settle_at_once(&letters, accepted.map(|(seq, _)| seq).collect());
                self.effects.push_back(Effect::Replayed(request));
            }
            Content::Orphan => {}
        }
    }

    fn events_committed(
        &mut self,
        broker: &mut Broker,
        queue: &ServiceName,
        items: Vec<Item>,
        outcomes: &[Outcome],
    ) {
        let Some((key, service)) = find(broker, queue) else {
            return;
        };
        let Some(spill) = &mut service.spill else {
            return;
        };
        let seqs: Vec<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                Outcome::Appended(seq) => Some(*seq),
                Outcome::Seen(_) | Outcome::TooLarge => None,
            })
            .collect();
        let is_seen = |outcome: &&Outcome| matches!(outcome, Outcome::Seen(_));
        let seen = outcomes.iter().filter(is_seen).count() as u64;
        let is_too_large = |outcome: &&Outcome| **outcome == Outcome::TooLarge;
        let too_large = outcomes.iter().filter(is_too_large).count() as u64;
        let lost = spill.committed(items, &seqs, &mut service.queue);
        // It had them already, and counted them then.
        service.account.matched -= seen;
        let dropped = &mut service.account.dropped;
        dropped.add(DropReason::TooLarge, lost.events + too_large);
        self.settle(queue, lost.seqs);
        self.effects.push_back(Effect::Dispatch(key));
    }

    pub(super) fn append_failed(&mut self, broker: &mut Broker, tag: AppendTag, reason: &str) {
        let Some(append) = self.take_append(tag, false) else {
            return;
        };
        let queue = append.queue.name.clone();
        match append.content {
            Content::Events { items, emissions } => {
                self.events_failed(broker, &queue, items.len());
                for (_, emission) in emissions {
                    self.confirm(emission, &queue, Err(reason.to_owned()), None);
                }
            }
            Content::Letters(origins) => self.letters_not_kept(broker, origins, reason),
            Content::Replay { items, request, .. } => {
                self.events_failed(broker, &queue, items.len());
                let reason = reason.to_owned();
                self.effects
                    .push_back(Effect::NotReplayed { request, reason });
            }
            Content::Orphan => {}
        }
    }

    fn events_failed(&mut self, broker: &mut Broker, queue: &ServiceName, events: usize) {
        let Some((key, service)) = find(broker, queue) else {
            return;
        };
        if let Some(spill) = &mut service.spill {
            spill.failed(events);
            let dropped = &mut service.account.dropped;
            let before = *dropped;
            dropped.add(DropReason::StoreFailed, events as u64);
            let service = key;
            self.effects.push_back(Effect::Dispatch(key));
            self.effects.push_back(Effect::Dropped { service, before });
        }
    }

    /// The append's queue is gone: those who wait for it are told so.
    pub(super) fn orphan(&mut self, append: Append<R>) {
        let queue = append.queue.name;
        self.appended_bytes(append.bytes);
        let ended = "the service has ended";
        match append.content {
            Content::Events { emissions, .. } => {
                for (_, emission) in emissions {
                    self.confirm(emission, &queue, Err(format!("{queue}: {ended}")), None);
                }
            }
            Content::Replay { request, .. } => {
                let reason = ended.to_owned();
                self.effects
                    .push_back(Effect::NotReplayed { request, reason });
            }
            Content::Letters(_) | Content::Orphan => {}
        }
    }

    fn confirm(
        &mut self,
        emission: EmissionId,
        queue: &ServiceName,
        result: Result<bool, String>,
        seq: Option<Seq>,
    ) {
        self.effects.push_back(Effect::Confirm {
            emission,
            queue: queue.clone(),
            result,
            seq,
        });
    }
}

/// The service whose events a queue holds.
pub(super) fn find<'a>(
    broker: &'a mut Broker,
    queue: &ServiceName,
) -> Option<(ServiceKey, &'a mut Service)> {
    let key = broker.find(queue)?;
    Some((key, broker.service_mut(key)?))
}
