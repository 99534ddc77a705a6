//! Dead letters: kept in a queue of their own, read on request, and made events again.
//!
//! An event of a durable queue is done there when its letter is durable; a letter is done when its event
//! is durable in the service's queue. After a crash in between there are both, and the id of the event
//! keeps a second replay from doubling it.

use bytes::Bytes;

use super::appends::{Append, Content};
use super::{Effect, Note, Queues, Shell, State};
use crate::broker::{Broker, ServiceKey};
use crate::log::StoredEvent;
use crate::seq::Seq;
use crate::store::{Command, Event, Outcome};
use event_manager_wire::model::ServiceName;

/// Requests that may wait for what they read: each has so much in memory.
pub const READS_MAX: usize = 16;

/// Where a letter's event is from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    service: ServiceName,
    /// Its number in the service's queue, and that queue's generation, if it is durable.
    seq: Option<(u64, Seq)>,
    /// Its number among those that another broker gave, if it is one of these.
    taken: Option<Seq>,
}

/// A dead letter that the store was not handed yet.
#[derive(Debug)]
pub(super) struct Letter {
    event: Event,
    origin: Origin,
}

impl<R> Queues<R> {
    /// Keeps a dead letter of a service, with the next flush. `seq` is its event's number in the service's
    /// queue, if that is durable.
    pub fn keep_letter(
        &mut self,
        broker: &mut Broker,
        service: &ServiceName,
        seq: Option<Seq>,
        event: Event,
    ) {
        let generation = self.records.get(service).map(|record| record.id.generation);
        let is_taken = broker
            .find(service)
            .is_some_and(|key| broker[key].taken.is_some());
        let origin = Origin {
            service: service.clone(),
            seq: generation.zip(seq).filter(|_| !is_taken),
            taken: seq.filter(|_| is_taken),
        };
        let Some(queue) = service.dead_letters() else {
            return self.letters_not_kept(broker, vec![origin], "the service's name is too long");
        };
        let bytes = event.bytes();
        let record = self.unflushed(&queue);
        record.weight.came(bytes);
        record.letters.push(Letter { event, origin });
        self.appending_bytes += bytes;
    }

    /// A dead letter of a service can't be kept, as there is no store.
    pub fn lose_letter(&mut self, broker: &mut Broker, service: &ServiceName, reason: &str) {
        let origin = Origin {
            service: service.clone(),
            seq: None,
            taken: None,
        };
        self.letters_not_kept(broker, vec![origin], reason);
    }

    /// Hands the store the letters of a queue of dead letters.
    pub(super) fn flush_letters(&mut self, queue: &ServiceName, shell: &dyn Shell) {
        let record = self.records.get_mut(queue);
        let letters = record.map(|record| std::mem::take(&mut record.letters));
        let letters = letters.unwrap_or_default();
        let Some(first) = letters.first() else { return };
        let limits = shell.limits_of(&first.origin.service);
        self.open(queue, limits);
        let (events, origins): (Vec<_>, Vec<_>) = letters
            .into_iter()
            .map(|letter| (letter.event, letter.origin))
            .unzip();
        let append = Append {
            queue: self.record(queue).id.clone(),
            bytes: events.iter().map(Event::bytes).sum(),
            content: Content::Letters(origins),
        };
        self.send_append(append, events, false);
    }

    /// The event's number in its service's queue, if that is there still.
    fn seq_of(&self, origin: &Origin) -> Option<Seq> {
        let (generation, seq) = origin.seq?;
        let record = self.records.get(&origin.service)?;
        let is_current = record.id.generation == generation && record.state != State::Removing;
        is_current.then_some(seq)
    }

    /// An event of a durable queue is done when its letter is on disk.
    pub(super) fn letters_committed(
        &mut self,
        broker: &mut Broker,
        origins: Vec<Origin>,
        outcomes: &[Outcome],
    ) {
        for (origin, outcome) in origins.into_iter().zip(outcomes) {
            if *outcome == Outcome::TooLarge {
                self.letters_not_kept(broker, vec![origin], "it is too large");
            } else if let Some(number) = origin.taken {
                let service = origin.service;
                let kept = Effect::TakenLetter {
                    service,
                    number,
                    is_kept: true,
                };
                self.effects.push_back(kept);
            } else {
                self.settle(&origin.service, self.seq_of(&origin));
            }
        }
    }

    /// Dead letters of a service could not be kept. Those of a durable queue are not lost: their events
    /// are done only when their letters are on disk.
    pub(super) fn letters_not_kept(
        &mut self,
        broker: &mut Broker,
        origins: Vec<Origin>,
        reason: &str,
    ) {
        let lost = origins
            .iter()
            .filter(|origin| self.seq_of(origin).is_none() && origin.taken.is_none());
        let lost = lost.count();
        for origin in &origins {
            let service = origin.service.clone();
            self.effects
                .extend(origin.taken.map(|number| Effect::TakenLetter {
                    service,
                    number,
                    is_kept: false,
                }));
        }
        let reason = match lost == origins.len() {
            true => reason.to_owned(),
            false => format!("{reason}; its event stays in the queue, and comes after a restart"),
        };
        let Some(Origin { service, .. }) = origins.into_iter().next() else {
            return;
        };
        broker.letters_lost(&service, lost as u64);
        let note = Note::LettersNotKept { service, reason };
        self.effects.push_back(Effect::Note(note));
    }

    /// How many requests wait for what they read.
    pub fn reading(&self) -> usize {
        let records = self.records.values();
        records.map(|record| record.reads.len()).sum()
    }

    /// Whether a request under way changes what is in a queue of dead letters.
    pub fn is_changing(&self, letters: &ServiceName, changes: impl Fn(&R) -> bool) -> bool {
        let record = self.records.get(letters);
        let mut reads = record.into_iter().flat_map(|record| &record.reads);
        let is_replay = |append: &Append<R>| match &append.content {
            Content::Replay { letters: of, .. } => of == letters,
            _ => false,
        };
        reads.any(changes) || self.appends.iter().any(|(_, append)| is_replay(append))
    }

    /// Reads a queue of dead letters for a request: [`Effect::Read`] or [`Effect::NotRead`]. There has to be
    /// a store.
    pub fn read(
        &mut self,
        letters: &ServiceName,
        (from, events_max, bytes_max): (Seq, usize, u64),
        request: R,
    ) {
        let record = self.record(letters);
        record.reads.push_back(request);
        let queue = record.id.clone();
        self.send(Command::Read {
            queue,
            from,
            events_max,
            bytes_max,
        });
    }

    /// What was read of a queue, if that was for a request; else it is given back.
    pub(super) fn read_for_request(
        &mut self,
        queue: &ServiceName,
        events: Vec<StoredEvent>,
        unsettled: u64,
    ) -> Option<Vec<StoredEvent>> {
        let Some(record) = self.records.get_mut(queue) else {
            return Some(events);
        };
        let Some(request) = record.reads.pop_front() else {
            return Some(events);
        };
        let queue = queue.clone();
        self.effects.push_back(match record.failure.clone() {
            Some(reason) => Effect::NotRead { request, reason },
            None => Effect::Read {
                request,
                queue,
                events,
                unsettled,
            },
        });
        None
    }

    /// A queue could not be read: whether that was for a request.
    pub(super) fn not_read_for_request(&mut self, queue: &ServiceName, reason: &str) -> bool {
        let Some(record) = self.records.get_mut(queue) else {
            return false;
        };
        let Some(request) = record.reads.pop_front() else {
            return false;
        };
        // That it isn't open says less than why it could not be opened.
        let failure = record.failure.clone();
        let reason = failure.unwrap_or_else(|| reason.to_owned());
        self.effects.push_back(Effect::NotRead { request, reason });
        true
    }

    /// Makes letters events of their service again: [`Effect::Replayed`] or [`Effect::NotReplayed`] if it is
    /// durable. If not, the request is given back, with the number of those that there was room for.
    pub fn replay(
        &mut self,
        broker: &mut Broker,
        key: ServiceKey,
        letters: &ServiceName,
        found: Vec<StoredEvent>,
        request: R,
        shell: &dyn Shell,
    ) -> Result<(), (R, usize)> {
        let Some(service) = broker.service_mut(key) else {
            return Err((request, 0));
        };
        let order_by = service.order_by;
        let Some(spill) = &mut service.spill else {
            let mut seqs = vec![];
            for letter in &found {
                let item = shell.item(order_by, Bytes::copy_from_slice(&letter.body));
                if !service.queue.has_room(&item) {
                    break;
                }
                service.account.matched += 1;
                service.enqueue(item);
                seqs.push(letter.seq);
            }
            let accepted = seqs.len();
            self.settle_at_once(letters, seqs);
            return Err((request, accepted));
        };
        spill.came(found.len());
        service.account.matched += found.len() as u64;
        // A letter's time is part of the id, lest the letters of a queue that began anew are taken for
        // those of the old one.
        let event = |letter: &StoredEvent| Event {
            id: Some(format!("dlq-{}-{}", letter.seq, letter.time_ms).into()),
            attributes: Bytes::new(),
            body: letter.body.clone(),
        };
        let events: Vec<_> = found.iter().map(event).collect();
        let seqs = found.iter().map(|letter| letter.seq).collect();
        let items = found.into_iter().map(|letter| letter.body);
        let items: Vec<_> = items.map(|body| shell.item(order_by, body)).collect();
        let queue = self.record(service.name()).id.clone();
        let bytes = items.iter().map(crate::broker::Item::cost).sum();
        self.appending_bytes += bytes;
        self.record(service.name()).weight.came(bytes);
        let content = Content::Replay {
            items,
            letters: letters.clone(),
            seqs,
            request,
        };
        let append = Append {
            queue,
            bytes,
            content,
        };
        self.send_append(append, events, true);
        Ok(())
    }

    /// Letters are done. The store is told at once: a later read must not find them.
    pub fn settle_at_once(&mut self, letters: &ServiceName, seqs: Vec<Seq>) {
        let queue = self.record(letters).id.clone();
        self.send_settled(&queue, seqs);
    }
}
