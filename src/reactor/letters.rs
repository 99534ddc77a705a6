//! Dead letters on request: listed, shown, put back into their service's queue, deleted.
//!
//! A request waits for the store: first for the letters, then, where a durable service gets its
//! events back, until these are durable. A letter is settled only after that. A crash in between
//! leaves the letter, and its event's id keeps a second replay from doubling it.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use serde_json::{Value, json};

use super::hub::Hub;
use super::requester::Ticket;
use crate::ambient::wall_clock_ms;
use crate::broker::ServiceKey;
use crate::messagebus::{DataType, Message};
use crate::model::{ServiceName, subject_of};
use crate::requests::{LettersOp, LettersRequest};
use crate::store::log::StoredEvent;
use crate::store::{Command, Event, Outcome};
use crate::zmtp::frames_of;

/// What one request reads, in bytes.
const READ_BYTES: u64 = 4 << 20;
/// Requests that may wait for what they read: each has so much in memory.
const READS_MAX: usize = 16;

/// Requests that wait for the store.
#[derive(Default)]
pub(super) struct Letters {
    /// By the letters' queue, in the order of their reads.
    reads: BTreeMap<ServiceName, VecDeque<(Ticket, Asked)>>,
    /// By the service's queue and the append's tag.
    replays: BTreeMap<(ServiceName, u64), Replay>,
}

/// What a queue of letters is read for.
enum Asked {
    Letters(LettersRequest),
    /// How many there are, of a service that has ended.
    Count(ServiceName),
}

/// What a request came to at first.
pub(super) enum Begun {
    /// It waits for the store.
    Waiting(Ticket),
    /// There was nothing to wait for.
    Answered(Message),
}

/// Letters whose events are on their way to a durable queue.
struct Replay {
    ticket: Ticket,
    letters: ServiceName,
    seqs: Vec<u64>,
    answer: Value,
}

impl Letters {
    fn reading(&self) -> usize {
        self.reads.values().map(VecDeque::len).sum()
    }

    fn is_changing(&self, letters: &ServiceName) -> bool {
        let mut reads = self.reads.get(letters).into_iter().flatten();
        let changes = |asked: &Asked| matches!(asked, Asked::Letters(asked) if asked.changes());
        reads.any(|(_, asked)| changes(asked))
            || self.replays.values().any(|found| found.letters == *letters)
    }
}

impl Letters {
    /// The tags of the appends to a service's queue that are replays.
    pub(super) fn replays_to(&self, service: &ServiceName) -> Vec<u64> {
        let to_it = (service.clone(), 0)..=(service.clone(), u64::MAX);
        self.replays
            .range(to_it)
            .map(|((_, tag), _)| *tag)
            .collect()
    }
}

impl LettersRequest {
    fn changes(&self) -> bool {
        !self.dry_run && matches!(self.op, LettersOp::Replay | LettersOp::Purge)
    }

    fn wants(&self, letter: &StoredEvent, account: &Value) -> bool {
        let seqs = self.seqs.as_ref();
        let reason = self.reason.as_ref();
        let subject = self.subject.as_ref();
        seqs.is_none_or(|seqs| seqs.contains(&letter.seq))
            && reason.is_none_or(|reason| account["reason"] == **reason)
            && subject.is_none_or(|prefix| {
                let frames = frames_of(&letter.body);
                let first = frames.first().map(|first| subject_of(first));
                first.is_some_and(|subject| subject.starts_with(prefix.as_bytes()))
            })
    }
}

impl Hub {
    /// Reads a service's dead letters; the answer comes with [`Self::letters_read`].
    pub(super) fn begin_letters(&mut self, request: LettersRequest) -> Result<Begun, Message> {
        if self.durable.store.is_none() {
            let sentence = "this event manager keeps no dead letters: it has no store";
            return Err(Message::nak("no-store", sentence));
        }
        if self.phase.is_draining() {
            return Err(Message::nak("stopping", "the event manager is stopping"));
        }
        let service = &request.service;
        let sentence = || format!("there is no service {service}, and no dead letter of one");
        let queue = service
            .dead_letters()
            .ok_or_else(|| Message::nak("unknown-service", sentence()))?;
        if !self.durable.has_queue(&queue) && self.durable.failure(&queue).is_none() {
            return match self.broker.find(service) {
                Some(_) => {
                    let nothing = self.found_of(service, vec![], None);
                    Ok(Begun::Answered(ack(&nothing)))
                }
                None => Err(Message::nak("unknown-service", sentence())),
            };
        }
        if self.letters.reading() >= READS_MAX {
            let sentence = format!("{READS_MAX} requests wait for dead letters already; try again");
            return Err(Message::nak("busy", sentence));
        }
        if request.changes() && self.letters.is_changing(&queue) {
            let sentence = "its dead letters are being replayed or purged already";
            return Err(Message::nak("busy", sentence));
        }
        let first = request.seqs.as_ref().and_then(|seqs| seqs.first());
        let limits = self.log_limits(service);
        self.durable.open(&queue, limits);
        let command = Command::Read {
            queue: queue.clone(),
            from: request.from.max(first.copied().unwrap_or_default()),
            events_max: request.limit,
            bytes_max: READ_BYTES,
        };
        if !self.durable.send(command) {
            return Err(Message::nak("busy", "too much waits for the disk"));
        }
        let ticket = self.pending_replies.ticket();
        let reads = self.letters.reads.entry(queue).or_default();
        reads.push_back((ticket, Asked::Letters(request)));
        Ok(Begun::Waiting(ticket))
    }

    /// What was read of a queue, if it was read for a request; else it's given back.
    pub(super) fn letters_read(
        &mut self,
        queue: &ServiceName,
        found: Vec<StoredEvent>,
        unsettled: u64,
    ) -> Option<Vec<StoredEvent>> {
        let next = self.letters.reads.get_mut(queue);
        let Some((ticket, asked)) = next.and_then(VecDeque::pop_front) else {
            return Some(found);
        };
        let request = match asked {
            Asked::Letters(request) => request,
            Asked::Count(service) => {
                let count = self.durable.failure(queue).is_none().then_some(unsettled);
                self.answer_letters(ticket, &has_ended(&service, count));
                return None;
            }
        };
        if let Some(reason) = self.durable.failure(queue) {
            let answer = Message::nak("store-failed", reason);
            self.complete(ticket, &answer);
            return None;
        }
        let is_early = |letter: &StoredEvent| request.before.is_none_or(|ms| letter.time_ms < ms);
        let last = found.last().filter(|last| is_early(last));
        let next = last.map(|last| last.seq + 1);
        let mut wanted = vec![];
        for letter in found {
            let account: Value = serde_json::from_slice(&letter.attributes).unwrap_or_default();
            if is_early(&letter) && request.wants(&letter, &account) {
                wanted.push((letter, account));
            }
        }
        let with_frames = request.op == LettersOp::Show;
        let shown: Vec<_> = wanted
            .iter()
            .map(|(letter, account)| shown(letter, account, with_frames))
            .collect();
        let letters: Vec<_> = wanted.into_iter().map(|(letter, _)| letter).collect();
        let answer = self.found_of(&request.service, shown, next);
        if !request.changes() {
            self.answer_letters(ticket, &answer);
        } else if request.op == LettersOp::Purge {
            self.settle_letters(queue, letters.iter().map(|letter| letter.seq).collect());
            self.answer_letters(ticket, &answer);
        } else {
            self.replay(ticket, queue, &request.service, letters, answer);
        }
        None
    }

    /// A queue could not be read: if it was for a request, that is refused, and true.
    pub(super) fn refuse_letters(&mut self, queue: &ServiceName, reason: &str) -> bool {
        let next = self.letters.reads.get_mut(queue);
        let Some((ticket, asked)) = next.and_then(VecDeque::pop_front) else {
            return false;
        };
        // That it isn't open says less than why it could not be opened.
        let failure = self.durable.failure(queue).map(str::to_owned);
        let reason = failure.as_deref().unwrap_or(reason);
        match asked {
            Asked::Letters(_) => self.complete(ticket, &Message::nak("store-failed", reason)),
            Asked::Count(service) => self.answer_letters(ticket, &has_ended(&service, None)),
        }
        true
    }

    /// A service has ended. The answer says how many dead letters of it are kept, which the store
    /// has to count.
    pub(super) fn answer_end(&mut self, service: ServiceName, ticket: Ticket) {
        let queue = service.dead_letters();
        let Some(queue) = queue.filter(|queue| self.durable.has_queue(queue)) else {
            return self.complete(ticket, &ack(&has_ended(&service, Some(0))));
        };
        let limits = self.log_limits(&service);
        self.durable.open(&queue, limits);
        let command = Command::Read {
            queue: queue.clone(),
            from: 0,
            events_max: 1,
            bytes_max: 0,
        };
        if !self.durable.send(command) {
            return self.complete(ticket, &ack(&has_ended(&service, None)));
        }
        let reads = self.letters.reads.entry(queue).or_default();
        reads.push_back((ticket, Asked::Count(service)));
    }

    fn replay(
        &mut self,
        ticket: Ticket,
        queue: &ServiceName,
        service: &ServiceName,
        letters: Vec<StoredEvent>,
        mut answer: Value,
    ) {
        let Some(key) = self.broker.find(service) else {
            let sentence =
                format!("there is no service {service} to give them to; subscribe it first");
            return self.complete(ticket, &Message::nak("unknown-service", sentence));
        };
        if let Some(reason) = self.durable.failure(service) {
            let answer = Message::nak("store-failed", reason);
            return self.complete(ticket, &answer);
        }
        let is_durable = self
            .broker
            .service(key)
            .is_some_and(|service| service.shelf.is_some());
        if letters.is_empty() {
            return self.answer_letters(ticket, &answer);
        }
        if is_durable {
            let seqs = letters.iter().map(|letter| letter.seq).collect();
            let replay = Replay {
                ticket,
                letters: queue.clone(),
                seqs,
                answer,
            };
            return self.replay_durable(key, service, letters, replay);
        }
        let seqs = self.replay_live(key, &letters);
        if let Some(refused) = letters.get(seqs.len()) {
            if let Some(shown) = answer["letters"].as_array_mut() {
                shown.truncate(seqs.len());
            }
            answer["next"] = json!(refused.seq);
            answer["stopped"] = json!("queue-full");
        }
        self.settle_letters(queue, seqs);
        self.answer_letters(ticket, &answer);
        self.dispatch(key);
    }

    /// The places of the letters whose events a live service's queue had room for.
    fn replay_live(&mut self, key: ServiceKey, letters: &[StoredEvent]) -> Vec<u64> {
        let mut seqs = vec![];
        for letter in letters {
            let order_by = self.broker.service(key).and_then(|found| found.order_by);
            let item = self.item(order_by, Bytes::copy_from_slice(&letter.body));
            let Some(service) = self.broker.service_mut(key) else {
                break;
            };
            if !service.queue.has_room(&item) {
                break;
            }
            service.account.matched += 1;
            service.enqueue(item);
            seqs.push(letter.seq);
        }
        seqs
    }

    fn replay_durable(
        &mut self,
        key: ServiceKey,
        name: &ServiceName,
        letters: Vec<StoredEvent>,
        replay: Replay,
    ) {
        // A letter's time is part of the id, lest the letters of a queue that began anew are taken
        // for those of the old one.
        let event = |letter: &StoredEvent| Event {
            id: Some(format!("dlq-{}-{}", letter.seq, letter.time_ms).into()),
            attributes: Bytes::new(),
            body: letter.body.clone(),
        };
        let events: Vec<_> = letters.iter().map(event).collect();
        let order_by = self.broker.service(key).and_then(|found| found.order_by);
        let items: Vec<_> = letters
            .into_iter()
            .map(|letter| self.item(order_by, letter.body))
            .collect();
        let mut tag = None;
        self.with_shelf(key, |service, appending_bytes| {
            if let Some(shelf) = &mut service.shelf {
                let before = shelf.pending_bytes();
                service.account.matched += items.len() as u64;
                tag = Some(shelf.append(items));
                *appending_bytes += shelf.pending_bytes() - before;
            }
        });
        let Some(tag) = tag else { return };
        let queue = name.clone();
        self.letters.replays.insert((queue.clone(), tag), replay);
        if !self.durable.send(Command::Append {
            queue,
            tag,
            events,
            urgent: true,
        }) {
            self.append_failed(key, tag, "there is no state directory");
            self.replay_failed(name, tag, "too much waits for the disk");
        }
    }

    /// An append to a service's queue is durable: if it was a replay, its letters are done.
    pub(super) fn replay_committed(&mut self, queue: &ServiceName, tag: u64, outcomes: &[Outcome]) {
        let Some(replay) = self.letters.replays.remove(&(queue.clone(), tag)) else {
            return;
        };
        let accepted = replay.seqs.iter().zip(outcomes);
        let accepted = accepted.filter(|(_, outcome)| **outcome != Outcome::TooLarge);
        let accepted = accepted.map(|(seq, _)| *seq).collect();
        self.settle_letters(&replay.letters, accepted);
        self.answer_letters(replay.ticket, &replay.answer);
    }

    /// An append came to nothing: if it was a replay, its letters stay.
    pub(super) fn replay_failed(&mut self, queue: &ServiceName, tag: u64, reason: &str) {
        if let Some(replay) = self.letters.replays.remove(&(queue.clone(), tag)) {
            self.complete(replay.ticket, &Message::nak("store-failed", reason));
        }
    }

    /// Sent at once: a later read must not find them.
    fn settle_letters(&mut self, queue: &ServiceName, seqs: Vec<u64>) {
        let command = Command::Settle {
            queue: queue.clone(),
            seqs: seqs.clone(),
        };
        if !seqs.is_empty() && !self.durable.send(command) {
            self.durable.settle(queue, seqs);
            self.peers.want_flush();
        }
    }

    /// What is found; a service that is gone has lost none that are known.
    fn found_of(&self, service: &ServiceName, letters: Vec<Value>, next: Option<u64>) -> Value {
        let found = self.broker.find(service);
        let account = found.and_then(|key| Some(self.broker.service(key)?.account));
        json!({
            "service": service.as_str(),
            "letters": letters,
            "next": next,
            "nowMs": wall_clock_ms(),
            "lettersLost": account.map_or(0, |account| account.letters_lost),
        })
    }

    fn answer_letters(&mut self, ticket: Ticket, answer: &Value) {
        self.complete(ticket, &ack(answer));
    }
}

fn ack(answer: &Value) -> Message {
    Message::ack(DataType::String, answer.to_string())
}

/// The answer to END; the count is not known if the store can't tell.
fn has_ended(service: &ServiceName, letters: Option<u64>) -> Value {
    let mut answer = json!({"service": service.as_str(), "deadLetters": letters});
    if letters != Some(0) {
        answer["hint"] = json!(
            "its dead letters stay: DLQ with list shows them and with purge deletes them, as do \
             `event-manager dlq list SERVICE` and `event-manager dlq purge SERVICE`"
        );
    }
    answer
}

fn shown(letter: &StoredEvent, account: &Value, with_frames: bool) -> Value {
    let mut shown = account.clone();
    if !shown.is_object() {
        shown = json!({});
    }
    shown["seq"] = json!(letter.seq);
    shown["timeMs"] = json!(letter.time_ms);
    if with_frames {
        let frame = |frame: &Bytes| match std::str::from_utf8(frame) {
            Ok(text) => json!(text),
            Err(_) => json!({"base64": BASE64.encode(frame)}),
        };
        let frames: Vec<_> = frames_of(&letter.body).iter().map(frame).collect();
        shown["frames"] = frames.into();
    }
    shown
}
