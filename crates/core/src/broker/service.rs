//! One service: its subscriptions' patterns, its workers, its queue, its books.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::account::{Account, DropReason};
use super::backlog::{
    Acked, Backlog, ClockChange, DeadLetter, Delivery, Item, Lost, OrderBy, Outcome, Policy,
    QueueLimits, UnknownDelivery,
};
use super::delivery_mode::DeliveryMode;
use super::dispatch::Workers;
use super::histogram::Histogram;
use super::ids::{DeliveryId, PeerId, ServiceKey, WorkerKey};
use super::options::ServiceOptions;
use super::spill::Spill;
use super::taken::Taken;
use crate::security::Identity;
use crate::seq::Seq;
use event_manager_wire::model::{EventSubject, ServiceName, SubjectPattern, SubscriptionId};
use event_manager_zmtp::HubId;

/// An event that is given to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// It is done with here.
    Away(Bytes),
    /// The worker acknowledges it.
    Held(Delivery),
    /// It is done when it is written: the worker doesn't acknowledge, but the queue is durable.
    UntilWritten(Delivery),
}

/// What is configured for a service.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    pub policy: Policy,
    /// What events have in common that keep their order.
    pub order_by: Option<OrderBy>,
    /// Where its events are kept.
    pub delivery: DeliveryMode,
    /// The subject of its dead letters; that of its name if there is none.
    pub dead_letter_subject: Option<EventSubject>,
    /// Of one whose queue is another broker's: the durable service in which events wait to go there.
    pub spool: Option<ServiceName>,
}

impl ServiceSettings {
    /// In memory, the oldest make room.
    pub fn live(limits: QueueLimits) -> Self {
        Self {
            policy: Policy::live(limits),
            order_by: None,
            delivery: DeliveryMode::Live,
            dead_letter_subject: None,
            spool: None,
        }
    }
}

/// What is left to do for events that are done with.
#[derive(Debug, Default)]
#[must_use = "dead events are told of, and durable ones settled"]
pub struct Aftermath {
    /// No worker could do them.
    pub dead: Vec<DeadLetter>,
    /// The numbers of others in the durable log, or of those that another broker gave.
    pub settled: Vec<Seq>,
}

/// A worker's word on an event that it holds, if it isn't [done](Service::ack).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerAnswer<'a> {
    /// To be tried again, after a delay if it names one.
    Nak {
        delay: Option<Duration>,
        /// For the dead letter.
        reason: &'a str,
    },
    /// Never to be tried again.
    Term {
        /// For the dead letter.
        reason: &'a str,
    },
    /// Still at it.
    Wip,
}

/// A service with at least one subscription, or a queue on disk.
#[derive(Debug)]
pub struct Service {
    name: ServiceName,
    /// The port of its streamer, or why it has none.
    pub(super) port: Result<u16, String>,
    pub(super) subscriptions: BTreeSet<SubscriptionId>,
    /// What it wants on though nobody is subscribed.
    pub(super) kept: BTreeSet<SubjectPattern>,
    /// Whose it is: who subscribed it, as far as that is known.
    pub(super) owner: Option<Identity>,
    /// The configuration says that it exists.
    pub(super) is_declared: bool,
    /// Where its events are kept, if its first subscription said so.
    pub(super) asked: Option<DeliveryMode>,
    /// What subscriptions said beside that.
    pub(super) options: ServiceOptions,
    /// What events have in common that keep their order.
    pub order_by: Option<OrderBy>,
    /// The subject of its dead letters, if it is not that of its name.
    pub(super) dead_letter_subject: Option<EventSubject>,
    /// The events that are not in the queue's memory, if it is durable.
    pub spill: Option<Spill>,
    /// Those that another broker gave, if its queue is there.
    pub taken: Option<Taken>,
    /// The service that gets what it wants, if that waits elsewhere.
    pub(super) spool: Option<ServiceKey>,
    /// It is such a service: a part of this process is its worker, also while nothing waits.
    pub(super) is_spool: bool,
    /// What the ids of the events in its queue on disk begin with, once that is open.
    event_ids: Option<Box<str>>,
    /// How many subscriptions ask for each pattern.
    pub(super) patterns: BTreeMap<SubjectPattern, usize>,
    pub workers: Workers,
    /// Events that no worker could take, and those that acknowledging workers hold.
    pub queue: Backlog,
    /// Where its events went.
    pub account: Account,
    /// How long workers had events that they acknowledged.
    pub consumed: Histogram,
    given_out: u64,
}

impl Service {
    /// A service without subscriptions, on the port that it has, or with the reason why it has none.
    pub fn new(name: ServiceName, port: Result<u16, String>, settings: ServiceSettings) -> Self {
        let policy = Rc::new(settings.policy);
        Self {
            kept: BTreeSet::new(),
            owner: None,
            is_declared: false,
            asked: None,
            options: ServiceOptions::default(),
            order_by: settings.order_by,
            dead_letter_subject: settings.dead_letter_subject,
            spill: (settings.delivery == DeliveryMode::Queue).then(Spill::default),
            taken: (settings.delivery == DeliveryMode::Engine).then(Taken::default),
            spool: None,
            is_spool: false,
            event_ids: None,
            name,
            port,
            subscriptions: BTreeSet::new(),
            patterns: BTreeMap::new(),
            workers: Workers::default(),
            queue: Backlog::new(policy),
            account: Account::default(),
            consumed: Histogram::default(),
            given_out: 0,
        }
    }

    /// Its queue on disk is open, which began at this time, in ms since 1970.
    pub fn name_events(&mut self, hub: HubId, created_ms: u64) {
        let prefix = format!("{hub}.{}.{created_ms:x}.", self.name);
        self.event_ids = Some(prefix.into());
    }

    /// The id of an event for this worker, if it wants one and the event is in a queue on disk: no other
    /// event of any daemon has it, whatever happens to the queue or the service, and this one keeps it.
    pub fn event_id_for(&self, worker: WorkerKey, seq: Option<Seq>) -> Option<String> {
        let seq = seq?;
        if !self.workers.wants_ids(worker) {
            return None;
        }
        match &self.taken {
            Some(taken) => taken.id_of(seq).map(str::to_owned),
            None => Some(format!("{}{}", self.event_ids.as_deref()?, seq.0)),
        }
    }

    /// Its settings are others from now on, but for where its events are kept. What has no room any
    /// more is given up, and counted; events that wait keep the order that they have.
    pub(super) fn set(&mut self, settings: ServiceSettings) {
        self.order_by = settings.order_by;
        self.dead_letter_subject = settings.dead_letter_subject;
        let lost = self.queue.set_policy(Rc::new(settings.policy));
        self.account.dropped.add(DropReason::QueueFull, lost.events);
    }

    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The port of its streamer, if it has one.
    pub fn port(&self) -> Option<u16> {
        self.port.as_ref().ok().copied()
    }

    /// Why it has no port though workers should reach it; a sentence.
    pub fn lacks_port(&self) -> Option<&str> {
        let why = self.port.as_ref().err()?;
        self.needs_port().then_some(why)
    }

    /// Whether workers have something to do for it, or may come to have. What has only an empty queue
    /// on disk takes no port from others.
    pub(super) fn needs_port(&self) -> bool {
        let pending = self.spill.as_ref().map_or(0, Spill::pending);
        let waits = self.queued() > 0 || self.queue.held() > 0 || pending > 0;
        waits || !self.patterns.is_empty() || self.is_spool
    }

    /// Where its events are kept.
    pub fn delivery(&self) -> DeliveryMode {
        match (&self.spill, &self.taken) {
            (Some(_), _) => DeliveryMode::Queue,
            (None, Some(_)) => DeliveryMode::Engine,
            (None, None) => DeliveryMode::Live,
        }
    }

    /// The same, if a subscription said so rather than the configuration.
    pub fn asked_delivery(&self) -> Option<DeliveryMode> {
        self.asked
    }

    /// What subscriptions said of it beside that.
    pub fn options(&self) -> &ServiceOptions {
        &self.options
    }

    /// The subject under which its dead letters are published.
    pub fn dead_letter_subject(&self) -> Cow<'_, str> {
        match &self.dead_letter_subject {
            Some(subject) => subject.as_str().into(),
            None => format!("{}{}", self.name, ServiceName::DEAD_LETTERS).into(),
        }
    }

    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = &SubscriptionId> {
        self.subscriptions.iter()
    }

    /// The union of its subscriptions' patterns.
    pub fn patterns(&self) -> impl ExactSizeIterator<Item = &SubjectPattern> {
        self.patterns.keys()
    }

    /// The same in order, those behind this one if one is named.
    pub fn patterns_behind(
        &self,
        after: Option<&SubjectPattern>,
    ) -> impl Iterator<Item = &SubjectPattern> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.patterns.range((from, Bound::Unbounded));
        behind.map(|(pattern, _)| pattern)
    }

    /// What it wants on though nobody is subscribed.
    pub fn wanted_on(&self) -> impl Iterator<Item = &SubjectPattern> {
        self.kept.iter()
    }

    /// The client that answers for it and what it wants: that whose subscription made it, as long as it has
    /// one there. None if nobody subscribed it, or an earlier release didn't write down who.
    pub fn owner(&self) -> Option<&Identity> {
        self.owner.as_ref()
    }

    /// Lets an event wait; counts what is given up for it.
    pub fn enqueue(&mut self, event: Item) {
        let lost = self.queue.push(event);
        self.count_lost(lost);
    }

    /// Whether it lives on without subscriptions, until it is ended.
    pub(super) fn outlives_subscriptions(&self) -> bool {
        self.is_kept()
    }

    /// Whether its events are kept elsewhere until they are settled there: on disk, or by another broker.
    pub fn is_kept(&self) -> bool {
        self.spill.is_some() || self.taken.is_some()
    }

    /// Whether nothing can be done for its events now: none is in a worker's hands, and those that wait
    /// have no worker, or not come their time, or are safe on disk.
    pub fn is_idle(&self, now: Instant) -> bool {
        let pending = self.spill.as_ref().map_or(0, Spill::pending);
        let can_go = self.queue.has_next(now) && self.workers.any_eligible()
            || self.queue.has_next_alone(now) && self.workers.any_ready();
        pending == 0 && self.queue.held() == 0 && !can_go
    }

    /// Whether events have to wait before they are given out, if only for an instant: single ones are
    /// held by workers, or keep an order.
    pub fn queues_first(&self) -> bool {
        !self.queue.is_empty() || self.workers.any_acknowledges() || self.order_by.is_some()
    }

    /// Takes the next waiting event and the worker that gets it, if there are both. While workers hold
    /// as much as may wait, each that acknowledges has one event at a time: a worker that only takes
    /// must not cost all memory, nor the others their work.
    pub fn dequeue(&mut self, now: Instant) -> Option<(Given, (WorkerKey, PeerId))> {
        let may_hand_out = self.spill.as_ref().is_none_or(Spill::may_hand_out);
        if !may_hand_out {
            return None;
        }
        let alone = match self.queue.has_next_alone(now) {
            true => self.workers.pick_for_one_alone(),
            false => None,
        };
        if alone.is_none() && !self.queue.has_next(now) {
            return None;
        }
        let (worker, peer) = match (alone, self.queue.holds_too_much()) {
            (Some(alone), _) => alone,
            (None, false) => self.workers.pick()?,
            (None, true) => self.workers.pick_light()?,
        };
        let given = match (self.workers.acknowledges(worker), self.is_kept()) {
            (true, _) if alone.is_some() => Given::Held(self.queue.hold_next_alone(worker, now)?),
            (true, _) => Given::Held(self.queue.hold_next(worker, now)?),
            (false, true) => Given::UntilWritten(self.queue.hold_until_written(worker, now)?),
            (false, false) => Given::Away(self.queue.next(now)?.body),
        };
        self.given_out += 1;
        if let Given::Held(Delivery { attempt: 2.., .. })
        | Given::UntilWritten(Delivery { attempt: 2.., .. }) = given
        {
            self.account.redelivered += 1;
        }
        Some((given, (worker, peer)))
    }

    /// How many waiting events were given to workers since it began.
    pub fn given_out(&self) -> u64 {
        self.given_out
    }

    /// How many waiting events could go now if there is a worker for them, in memory or on disk. Those
    /// on disk count only if there is room for them in memory.
    pub fn due_events(&self, now: Instant) -> u64 {
        let in_memory = match self.queue.has_next(now) {
            true => self.queue.ready() as u64,
            false => 0,
        };
        let has_room = |spill: &&Spill| in_memory > 0 || spill.may_read_into(&self.queue);
        let spill = self.spill.as_ref().filter(has_room);
        let alone = self.queue.has_next_alone(now) && self.workers.any_for_one_alone();
        in_memory + spill.map_or(0, Spill::due) + u64::from(alone)
    }

    /// How many workers could take an event now.
    pub fn free_workers(&self) -> usize {
        self.workers.free(self.queue.holds_too_much())
    }

    /// Whether the disk was asked for something that has to be there before events can go on.
    pub fn waits_for_disk(&self) -> bool {
        self.spill.as_ref().is_some_and(Spill::waits_for_disk)
    }

    /// Whether its log is to be told that events are given to workers from now on.
    pub fn wants_to_hand_out(&mut self, now: Instant) -> bool {
        let spill = self.spill.as_mut().filter(|spill| !spill.may_hand_out());
        let has_next = || self.queue.has_next(now) || self.queue.has_next_alone(now);
        let can_go = || self.workers.any_eligible() && has_next();
        spill.is_some_and(|spill| can_go() && spill.wants_to_hand_out())
    }

    /// Whether its log is to be told that no events are given to workers any more: no worker holds one,
    /// and, none could take one, as the daemon stops or none is ready.
    pub fn stops_handing_out(&mut self, is_stopping: bool) -> bool {
        let is_idle = self.queue.held() == 0 && (is_stopping || !self.workers.any_ready());
        let spill = self.spill.as_mut().filter(|_| is_stopping || is_idle);
        spill.is_some_and(|spill| spill.stops_handing_out(is_stopping))
    }

    /// Gives up the oldest events, until at most so many bytes wait in memory.
    pub fn shed(&mut self, bytes_max: usize) {
        let lost = self.queue.shed(bytes_max);
        self.account
            .dropped
            .add(DropReason::MemoryLimit, lost.events);
    }

    /// The worker said something: it goes on.
    pub fn hear(&mut self, worker: WorkerKey, now: Instant) {
        self.queue.hear(worker, now);
        self.workers.trust(worker);
    }

    /// ACK: the event is done. Returns its sequence number if it is in a durable log.
    ///
    /// # Errors
    /// [`UnknownDelivery`]; nothing has changed then.
    pub fn ack(
        &mut self,
        worker: WorkerKey,
        id: DeliveryId,
        now: Instant,
    ) -> Result<Option<Seq>, UnknownDelivery> {
        let acked = self.queue.ack(worker, id, now);
        let settled = match acked {
            Ok(Acked::Done(settled)) if !settled.late => {
                self.workers.trust(worker);
                self.workers.done(worker, 1);
                settled
            }
            other => {
                self.hear(worker, now);
                match other? {
                    Acked::Done(settled) => settled,
                    Acked::HeldAgain => return Ok(None),
                }
            }
        };
        self.account.delivered += 1;
        if let Some(given_at) = settled.given_at {
            self.consumed.add(now.saturating_duration_since(given_at));
        }
        Ok(settled.item.seq)
    }

    /// Another word of a worker on an event that it holds. `chance` is from 0 to 1.
    ///
    /// # Errors
    /// [`UnknownDelivery`]; nothing has changed then.
    pub fn hear_answer(
        &mut self,
        worker: WorkerKey,
        id: DeliveryId,
        answer: WorkerAnswer<'_>,
        now: Instant,
        chance: f64,
    ) -> Result<Aftermath, UnknownDelivery> {
        self.hear(worker, now);
        let outcome = match answer {
            WorkerAnswer::Wip => {
                return self
                    .queue
                    .wip(worker, id, now)
                    .map(|()| Aftermath::default());
            }
            WorkerAnswer::Nak { delay, reason } => {
                self.queue.nak(worker, id, delay, reason, now, chance)?
            }
            WorkerAnswer::Term { reason } => self.queue.term(worker, id, reason, now)?,
        };
        self.workers.done(worker, 1);
        Ok(self.book(outcome))
    }

    /// So many events are written to a worker that doesn't acknowledge.
    pub fn written(&mut self, worker: WorkerKey, events: u64, now: Instant) -> Aftermath {
        self.account.delivered += events;
        if !self.is_kept() {
            self.account.in_flight -= events;
            return Aftermath::default();
        }
        let ids: Vec<_> = self.queue.held_by(worker).take(events as usize).collect();
        let acked = ids
            .into_iter()
            .filter_map(|id| self.queue.ack(worker, id, now).ok());
        let seq_of = |acked| match acked {
            Acked::Done(settled) => settled.item.seq,
            Acked::HeldAgain => None,
        };
        Aftermath {
            settled: acked.filter_map(seq_of).collect(),
            ..Aftermath::default()
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; it may find nothing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let spill = self.spill.as_ref().and_then(Spill::poll_timeout);
        spill.into_iter().chain(self.queue.poll_timeout()).min()
    }

    /// The wall clock was set: what goes or ends at a time of that clock does so earlier or later.
    pub fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        self.queue.clock_was_set(change, now);
        if let Some(spill) = &mut self.spill {
            spill.clock_was_set(change, now);
        }
    }

    /// Does what the time asks for.
    pub fn handle_timeout(&mut self, now: Instant, chance: impl FnMut() -> f64) -> Aftermath {
        let mut outcome = self.queue.handle_timeout(now, chance);
        if let Some(spill) = &mut self.spill {
            let expired = spill.handle_timeout(now, &mut self.queue);
            outcome.expired.events += expired.events;
            outcome.expired.seqs.extend(expired.seqs);
        }
        for (worker, _) in &outcome.timed_out {
            self.workers.let_down(*worker);
        }
        self.book(outcome)
    }

    /// Keeps the books of what became of events.
    fn book(&mut self, outcome: Outcome) -> Aftermath {
        let account = &mut self.account;
        account.retries += outcome.retries;
        account.delivered += outcome.done.events;
        account.expired += outcome.expired.events;
        account
            .dropped
            .add(DropReason::QueueFull, outcome.dropped.events);
        account.dropped.merge(&outcome.given_up);
        account.dead_lettered += outcome.dead.len() as u64;
        let mut settled = outcome.expired.seqs;
        settled.extend(outcome.dropped.seqs);
        settled.extend(outcome.done.seqs);
        Aftermath {
            dead: outcome.dead,
            settled,
        }
    }

    /// The connection of a worker ended that acknowledges. What it held goes to others; those that
    /// were not written to it count as never delivered. The events that are dead.
    pub fn holder_left(
        &mut self,
        worker: WorkerKey,
        unwritten: &[DeliveryId],
        now: Instant,
    ) -> Aftermath {
        let outcome = self.queue.release(worker, unwritten, now);
        self.workers.leave(worker);
        self.book(outcome)
    }

    /// The connection of a worker ended that doesn't acknowledge, of a durable service. So many of the
    /// events that it was given were written to it, the others go to others.
    pub fn plain_worker_left(
        &mut self,
        worker: WorkerKey,
        written: u64,
        now: Instant,
    ) -> Aftermath {
        let mut aftermath = self.written(worker, written, now);
        let unwritten: Vec<_> = self.queue.held_by(worker).collect();
        let others = self.holder_left(worker, &unwritten, now);
        aftermath.dead.extend(others.dead);
        aftermath.settled.extend(others.settled);
        aftermath
    }

    /// The connection of another worker ended. The events that had not been written to it go to the
    /// front of the queue, in their order; the oldest are given up if that is full.
    pub fn worker_left(&mut self, worker: WorkerKey, unwritten: Vec<Bytes>) {
        let unwritten_events = unwritten.len() as u64;
        let held = self.workers.leave(worker);
        self.account.unconfirmed += held.saturating_sub(unwritten_events);
        self.take_back(unwritten);
    }

    /// Events that were given away, and not written: they go to the front of the queue, in their order;
    /// the oldest are given up if that is full.
    pub fn take_back(&mut self, unwritten: Vec<Bytes>) {
        self.account.in_flight -= unwritten.len() as u64;
        for event in unwritten.into_iter().rev() {
            let lost = self.queue.put_back(Item::new(event));
            self.count_lost(lost);
        }
    }

    fn count_lost(&mut self, lost: Result<Lost, Item>) {
        let (reason, events) = match lost {
            Ok(lost) => (DropReason::QueueFull, lost.events),
            Err(_) => (DropReason::TooLarge, 1),
        };
        self.account.dropped.add(reason, events);
    }

    /// Events that wait, in memory or on disk.
    pub fn queued(&self) -> u64 {
        self.queue.len() as u64 + self.spill.as_ref().map_or(0, Spill::len)
    }

    /// The two sides of the accounting law.
    pub fn sides(&self) -> (u64, u64) {
        self.account.sides(self.queued(), self.queue.held() as u64)
    }
}

#[cfg(test)]
mod tests;
