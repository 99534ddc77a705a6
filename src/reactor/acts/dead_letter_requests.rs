//! Dead letters on request: listed, shown, put back into their service's queue, deleted.
//!
//! A request waits for the store: first for the letters, then, where a durable service gets its
//! events back, until these are durable. A letter is settled only after that. A crash in between
//! leaves the letter, and its event's id keeps a second replay from doubling it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use serde::Serialize;

use crate::ambient::wall_clock_ms;
use crate::reactor::hub::Hub;
use crate::reactor::state::durable::{Asked, log_limits};
use crate::reactor::state::replies::Ticket;
use event_manager_core::log::StoredEvent;
use event_manager_core::queues::READS_MAX;
use event_manager_core::requests::{LettersOp, LettersRequest};
use event_manager_core::seq::Seq;
use event_manager_wire::api::{self, DeadLetters, LetterAccount, LetterFrame, ServiceEnd};
use event_manager_wire::messagebus::{DataType, Message, Nak};
use event_manager_wire::model::{ServiceName, subject_of};
use event_manager_zmtp::frames_of;

/// What one request reads, in bytes.
const READ_BYTES: u64 = 4 << 20;

/// What a request came to at first.
pub(crate) enum Begun {
    /// It waits for the store.
    Waiting(Ticket),
    /// There was nothing to wait for.
    Answered(Message),
}

fn is_changing(asked: &Asked) -> bool {
    match asked {
        Asked::Letters(_, request) => request.changes(),
        Asked::Count(..) => false,
        Asked::Replay(..) => true,
    }
}

/// Whether the request is about this letter, whose account says what happened to it.
fn wants(request: &LettersRequest, letter: &StoredEvent, account: &LetterAccount) -> bool {
    let seqs = request.seqs.as_ref();
    let reason = request.reason.as_ref();
    let subject = request.subject.as_ref();
    seqs.is_none_or(|seqs| seqs.contains(&letter.seq))
        && reason.is_none_or(|reason| account.reason == *reason)
        && subject.is_none_or(|prefix| {
            let frames = frames_of(&letter.body);
            let first = frames.first().map(|first| subject_of(first));
            first.is_some_and(|subject| subject.starts_with(prefix.as_bytes()))
        })
}

impl Hub {
    /// Reads a service's dead letters; the answer comes with [`Self::letters_read`].
    pub(crate) fn begin_letters(&mut self, request: LettersRequest) -> Result<Begun, Nak> {
        let queues = &self.durable.queues;
        if !queues.has_store() {
            let sentence = "this event manager keeps no dead letters: its stateDir is empty, or can't be used (EM-0505 in its log says why)";
            return Err(Nak::new("no-store", sentence));
        }
        let service = &request.service;
        let sentence = || format!("there is no service {service}, and no dead letter of one");
        let queue = service
            .dead_letters()
            .ok_or_else(|| Nak::new("unknown-service", sentence()))?;
        if !queues.has_queue(&queue) && queues.failure(&queue).is_none() {
            return match self.broker.find(service) {
                Some(_) => {
                    let nothing = self.found_of(service, vec![], None);
                    Ok(Begun::Answered(ack(&nothing)))
                }
                None => Err(Nak::new("unknown-service", sentence())),
            };
        }
        if queues.reading() >= READS_MAX {
            let sentence = format!("{READS_MAX} requests wait for dead letters already; try again");
            return Err(Nak::new("busy", sentence));
        }
        if request.changes() && queues.is_changing(&queue, is_changing) {
            let sentence = "its dead letters are being replayed or purged already";
            return Err(Nak::new("busy", sentence));
        }
        let first = request.seqs.as_ref().and_then(|seqs| seqs.first());
        let limits = log_limits(&self.config, service);
        let from = request.from.max(first.copied().unwrap_or_default());
        let what = (from, request.limit, READ_BYTES);
        let ticket = self.requests.replies.ticket();
        let queues = &mut self.durable.queues;
        queues.open(&queue, limits);
        queues.read(&queue, what, Asked::Letters(ticket, request));
        Ok(Begun::Waiting(ticket))
    }

    /// What a request wanted to read.
    pub(crate) fn letters_read(
        &mut self,
        asked: Asked,
        queue: &ServiceName,
        found: Vec<StoredEvent>,
        unsettled: u64,
    ) {
        let (ticket, request) = match asked {
            Asked::Letters(ticket, request) => (ticket, request),
            Asked::Count(ticket, service) => {
                return self.answer_letters(ticket, &has_ended(&service, Some(unsettled)));
            }
            // It reads nothing.
            Asked::Replay(..) => return,
        };
        let is_early = |letter: &StoredEvent| request.before.is_none_or(|ms| letter.time_ms < ms);
        let last = found.last().filter(|last| is_early(last));
        let next = last.map(|last| last.seq.0 + 1);
        let mut wanted = vec![];
        for letter in found {
            let account = serde_json::from_slice(&letter.attributes);
            let account: LetterAccount = account.unwrap_or_default();
            if is_early(&letter) && wants(&request, &letter, &account) {
                wanted.push((letter, account));
            }
        }
        let with_frames = request.op == LettersOp::Show;
        let shown: Vec<_> = wanted
            .iter()
            .map(|(letter, account)| shown(letter, account.clone(), with_frames))
            .collect();
        let letters: Vec<_> = wanted.into_iter().map(|(letter, _)| letter).collect();
        let answer = self.found_of(&request.service, shown, next);
        if !request.changes() {
            self.answer_letters(ticket, &answer);
        } else if request.op == LettersOp::Purge {
            let seqs = letters.iter().map(|letter| letter.seq).collect();
            self.durable.queues.settle_at_once(queue, seqs);
            self.answer_letters(ticket, &answer);
        } else {
            self.replay(ticket, queue, &request.service, letters, answer);
        }
    }

    /// What a request wanted to read can't be read.
    pub(crate) fn letters_not_read(&mut self, asked: Asked, reason: &str) {
        match asked {
            Asked::Count(ticket, service) => {
                self.answer_letters(ticket, &has_ended(&service, None));
            }
            Asked::Letters(ticket, _) | Asked::Replay(ticket, _) => {
                self.complete(ticket, &Message::nak("store-failed", reason));
            }
        }
    }

    /// A service has ended. The answer says how many dead letters of it are kept, which the store
    /// has to count.
    pub(crate) fn answer_end(&mut self, service: ServiceName, ticket: Ticket) {
        let queue = service.dead_letters();
        let Some(queue) = queue.filter(|queue| self.durable.queues.has_queue(queue)) else {
            return self.complete(ticket, &ack(&has_ended(&service, Some(0))));
        };
        let limits = log_limits(&self.config, &service);
        let queues = &mut self.durable.queues;
        queues.open(&queue, limits);
        queues.read(&queue, (Seq::ZERO, 1, 0), Asked::Count(ticket, service));
    }

    fn replay(
        &mut self,
        ticket: Ticket,
        queue: &ServiceName,
        service: &ServiceName,
        letters: Vec<StoredEvent>,
        answer: DeadLetters,
    ) {
        let Some(key) = self.broker.find(service) else {
            let sentence =
                format!("there is no service {service} to give them to; subscribe it first");
            return self.complete(ticket, &Message::nak("unknown-service", sentence));
        };
        // What came from another broker goes there again.
        let key = self.broker[key].waits_in().unwrap_or(key);
        let service = self.broker[key].name();
        if let Some(reason) = self.durable.queues.failure(service) {
            let answer = Message::nak("store-failed", reason);
            return self.complete(ticket, &answer);
        }
        if letters.is_empty() {
            return self.answer_letters(ticket, &answer);
        }
        let next = letters
            .iter()
            .map(|letter| letter.seq.0)
            .collect::<Vec<_>>();
        let (broker, asked) = (&mut self.broker, Asked::Replay(ticket, answer));
        let letters = (queue, letters);
        let replayed = self
            .durable
            .replay(broker, key, letters, asked, &self.config);
        let Some((Asked::Replay(ticket, mut answer), accepted)) = replayed else {
            return;
        };
        if let Some(refused) = next.get(accepted) {
            answer.letters.truncate(accepted);
            answer.next = Some(*refused);
            answer.stopped = Some("queue-full".to_owned());
        }
        self.answer_letters(ticket, &answer);
        self.dispatch(key);
    }

    /// The events of letters are durable in their service's queue again.
    pub(crate) fn replayed(&mut self, asked: Asked) {
        if let Asked::Replay(ticket, answer) = asked {
            self.answer_letters(ticket, &answer);
        }
    }

    /// They are not; the letters stay.
    pub(crate) fn not_replayed(&mut self, asked: Asked, reason: &str) {
        self.letters_not_read(asked, reason);
    }

    /// What is found; a service that is gone has lost none that are known.
    fn found_of(
        &self,
        service: &ServiceName,
        letters: Vec<api::DeadLetter>,
        next: Option<u64>,
    ) -> DeadLetters {
        let found = self.broker.find(service);
        let account = found.map(|key| &self.broker[key].account);
        DeadLetters {
            service: service.to_string(),
            letters,
            next,
            now_ms: wall_clock_ms(),
            letters_lost: account.map_or(0, |account| account.letters_lost),
            stopped: None,
        }
    }

    fn answer_letters(&mut self, ticket: Ticket, answer: &impl Serialize) {
        self.complete(ticket, &ack(answer));
    }
}

fn ack(answer: &impl Serialize) -> Message {
    // It has nothing that JSON can't say.
    Message::ack(
        DataType::String,
        serde_json::to_vec(answer).unwrap_or_default(),
    )
}

/// The answer to END; the count is not known if the store can't tell.
fn has_ended(service: &ServiceName, letters: Option<u64>) -> ServiceEnd {
    let hint = "its dead letters stay: DLQ with list shows them and with purge deletes them, as do \
                `event-manager dlq list SERVICE` and `event-manager dlq purge SERVICE`";
    ServiceEnd {
        service: service.to_string(),
        dead_letters: letters,
        hint: (letters != Some(0)).then(|| hint.to_owned()),
    }
}

fn shown(letter: &StoredEvent, account: LetterAccount, with_frames: bool) -> api::DeadLetter {
    let frame = |frame: &Bytes| match std::str::from_utf8(frame) {
        Ok(text) => LetterFrame::Text(text.to_owned()),
        Err(_) => LetterFrame::Binary {
            base64: BASE64.encode(frame),
        },
    };
    api::DeadLetter {
        account,
        seq: letter.seq.0,
        time_ms: letter.time_ms,
        frames: with_frames.then(|| frames_of(&letter.body).iter().map(frame).collect()),
    }
}
