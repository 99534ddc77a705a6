//! Events that wait for a service's workers, and those that acknowledging workers hold.

mod held;
mod item;
mod keys;
mod line;
mod outcome;
mod plain;
mod policy;
mod tries;
mod waiting;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub use item::{ClockChange, Item, OrderKey};
pub use outcome::{Acked, DeadLetter, DeadReason, Delivery, Lost, Outcome, Settled};
pub use policy::{OrderBy, Policy, QueueLimits, Retry, WhenFull};

use super::account::DropReason;
use super::ids::{DeliveryId, WorkerKey};
use crate::seq::Seq;
use event_manager_wire::messagebus::NAK_DELAY_MAX;
use held::{Held, HeldItems};
use tries::Tries;
use waiting::Waiting;

/// The worker holds no such delivery; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such delivery")]
pub struct UnknownDelivery;

/// The events of one service that are not done yet.
///
/// An event *waits* or is *held*. It waits for a worker, for another try, for its time, or behind
/// an event with the same key. Of those that may go, the one that came first goes first, however
/// often it was tried. It is held by a worker that acknowledges, until a word of it, its timeout or
/// its end; an event for any other worker is simply [taken](Self::next).
///
/// A delivery is overdue when its worker was silent for the policy's `ack_timeout`, or answered what it
/// got later that long ago.
///
/// Events with the same [`OrderKey`] are never held by two workers, and each goes only after all
/// that came before it are done, dead or given up. One that should go
/// [not before](Item::not_before) some time comes into this order then.
///
/// An event that was tried as often as it may be, and came back with others that its worker held, may be
/// innocent: any of them can have been what ended the worker, or stopped it. So it *goes alone* once more, to
/// a worker that holds nothing else. Whoever fails alone is dead.
///
/// What has to do with time happens in [`handle_timeout`](Self::handle_timeout); it should be called
/// when [`poll_timeout`](Self::poll_timeout) says so, before the next event is taken. Each method that
/// drops events, or ends them, tells which; whoever asked keeps the books.
#[derive(Debug)]
pub struct Backlog {
    policy: Rc<Policy>,
    waiting: Waiting,
    held: HeldItems,
    tries: Tries,
}

/// Why an event was not done.
#[derive(Debug, Clone, Copy)]
struct Fault<'a> {
    detail: &'a str,
    /// It is the event's own; else it may be that of another which its worker held, too.
    is_sure: bool,
}

impl Backlog {
    pub fn new(policy: Rc<Policy>) -> Self {
        let mut waiting = Waiting::default();
        waiting.set_deliveries_max(policy.retry.max_deliveries);
        Self {
            policy,
            waiting,
            held: HeldItems::default(),
            tries: Tries::default(),
        }
    }

    /// Behaves otherwise from now on; what was given up, because less may wait. Workers have the time
    /// that they were given for what they hold.
    pub fn set_policy(&mut self, policy: Rc<Policy>) -> Lost {
        self.policy = policy;
        let max = self.policy.retry.max_deliveries;
        self.waiting.set_deliveries_max(max);
        let mut lost = Lost::default();
        self.shrink(&mut lost);
        lost
    }

    /// How it behaves.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Deliveries get numbers above this one.
    pub fn number_from(&mut self, last: u64) {
        self.held.number_from(last);
    }

    /// Whether this event could ever wait here.
    pub fn fits(&self, item: &Item) -> bool {
        let limits = &self.policy.limits;
        item.cost() <= limits.bytes_max && limits.events_max > 0
    }

    /// Whether this event could wait now without another being given up for it.
    pub fn has_room(&self, item: &Item) -> bool {
        self.has_bytes(item.cost())
    }

    /// Whether an event that costs so much could wait now without another being given up for it.
    pub fn has_bytes(&self, cost: usize) -> bool {
        let limits = &self.policy.limits;
        self.bytes() + cost <= limits.bytes_max && self.len() < limits.events_max
    }

    /// Lets an event wait behind all others; what was given up for it, maybe itself.
    ///
    /// # Errors
    /// The event, if it doesn't [fit](Self::fits); nothing has changed then.
    pub fn push(&mut self, item: Item) -> Result<Lost, Item> {
        self.add(item, Waiting::push_back)
    }

    /// Lets an event wait before all others: it was taken, and reached nobody.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn put_back(&mut self, item: Item) -> Result<Lost, Item> {
        self.add(item, Waiting::push_front)
    }

    fn add(&mut self, item: Item, add: fn(&mut Waiting, Item)) -> Result<Lost, Item> {
        if !self.fits(&item) {
            return Err(item);
        }
        add(&mut self.waiting, item);
        let mut lost = Lost::default();
        self.shrink(&mut lost);
        Ok(lost)
    }

    /// Gives up those that came first, until at most so many bytes wait.
    pub fn shed(&mut self, bytes_max: usize) -> Lost {
        let mut lost = Lost::default();
        while self.bytes() > bytes_max
            && let Some(item) = self.waiting.take_oldest()
        {
            lost.add(&item);
        }
        lost
    }

    /// Gives up those that wait and have these sequence numbers: the log has done so. Those that workers
    /// hold are dropped if they come back.
    pub fn give_up(&mut self, seqs: &BTreeSet<Seq>, reason: DropReason) -> Lost {
        self.held.give_up(seqs, reason);
        let mut lost = Lost::default();
        for seq in seqs {
            let item = self.waiting.take_seq(*seq);
            item.iter().for_each(|item| lost.add(item));
        }
        lost
    }

    /// Takes the newest of those that may go and that nobody here was given, until at most `keep` may go.
    pub fn take_surplus(&mut self, keep: u64) -> Vec<Item> {
        let mut surplus = vec![];
        while self.ready() as u64 > keep
            && let Some(item) = self.waiting.take_newest_untried()
        {
            surplus.push(item);
        }
        surplus
    }

    /// Takes all that waits.
    pub fn take_all(&mut self) -> Vec<Item> {
        std::iter::from_fn(|| self.waiting.take_oldest()).collect()
    }

    /// Takes the event with this number, if it waits.
    pub fn take_waiting(&mut self, seq: Seq) -> Option<Item> {
        self.waiting.take_seq(seq)
    }

    /// Takes the event that waits for the latest time of all, and that time: it waits elsewhere, so that
    /// others have room. Those of its key for which it was their turn to wait wait on, until it is
    /// [pushed](Self::push) again, or will [never](Self::give_up_turn) be.
    pub fn take_latest_due(&mut self) -> Option<(Instant, Item)> {
        self.waiting.take_latest_due()
    }

    /// The event has a time to wait for, and does so elsewhere, as one that is [taken](Self::take_latest_due).
    pub fn keep_turn(&mut self, item: &Item) {
        self.waiting.keep_turn(item);
    }

    /// The event that waited elsewhere is gone.
    pub fn give_up_turn(&mut self, seq: Seq) {
        self.waiting.give_up_turn_of(seq);
    }

    /// Whether there is one to [take](Self::take_latest_due).
    pub fn any_waits_for_time(&self) -> bool {
        self.latest_due().is_some()
    }

    /// When the one goes that [`take_latest_due`](Self::take_latest_due) would take.
    pub fn latest_due(&self) -> Option<Instant> {
        self.waiting.latest_due()
    }

    /// How many events may go now, but for those that are past their end.
    pub fn ready(&self) -> usize {
        self.waiting.ready()
    }

    /// The wall clock was set.
    pub fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        self.waiting.clock_was_set(change, now);
        self.held.clock_was_set(change, now);
    }

    fn shrink(&mut self, lost: &mut Lost) {
        let limits = self.policy.limits;
        while self.bytes() > limits.bytes_max || self.len() > limits.events_max {
            let item = match self.policy.when_full {
                WhenFull::DropOldest => self.waiting.take_oldest(),
                WhenFull::DropNewest => self.waiting.take_newest(),
                WhenFull::Spill => return,
            };
            item.iter().for_each(|item| lost.add(item));
        }
    }

    /// Whether some event may go, but for those that go alone.
    pub fn has_next(&self, now: Instant) -> bool {
        self.waiting.has_next(now)
    }

    /// Whether the event with this number waits, and goes alone.
    #[cfg(test)]
    pub(crate) fn goes_alone(&self, seq: Seq) -> bool {
        self.waiting.goes_alone(seq)
    }

    /// Whether some event may go to a worker that holds nothing else.
    pub fn has_next_alone(&self, now: Instant) -> bool {
        self.waiting.has_next_alone(now)
    }

    /// Takes the next event of all for a worker that doesn't acknowledge: it is done with here.
    pub fn next(&mut self, now: Instant) -> Option<Item> {
        self.waiting.take_next(now)
    }

    /// Gives the next event to a worker that acknowledges.
    pub fn hold_next(&mut self, worker: WorkerKey, now: Instant) -> Option<Delivery> {
        let item = self.waiting.hold_next(now)?;
        Some(self.hold(item, worker, now, Some(now + self.policy.ack_timeout)))
    }

    /// Gives the next event that goes alone to a worker that acknowledges, and holds nothing.
    pub fn hold_next_alone(&mut self, worker: WorkerKey, now: Instant) -> Option<Delivery> {
        let item = self.waiting.hold_next_alone(now)?;
        Some(self.hold(item, worker, now, Some(now + self.policy.ack_timeout)))
    }

    fn hold(
        &mut self,
        mut item: Item,
        worker: WorkerKey,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Delivery {
        item.attempt = item.attempt.saturating_add(1);
        item.first_at.get_or_insert(now);
        let attempt = item.attempt + u32::from(item.given_before);
        let (seq, body) = (item.seq, item.body.clone());
        let id = self.held.insert(item, worker, now, deadline);
        Delivery {
            id,
            attempt,
            seq,
            body,
        }
    }

    /// Gives the next event to a worker that doesn't acknowledge, to be [acked](Self::ack) when it is
    /// written: it is lost to nobody until then.
    pub fn hold_until_written(&mut self, worker: WorkerKey, now: Instant) -> Option<Delivery> {
        let item = match self.waiting.has_next(now) {
            true => self.waiting.hold_next(now),
            false => self.waiting.hold_next_alone(now),
        };
        Some(self.hold(item?, worker, now, None))
    }

    /// The worker said something that shows that it goes on.
    pub fn hear(&mut self, worker: WorkerKey, now: Instant) {
        self.held.hear(worker, now + self.policy.ack_timeout);
    }

    /// ACK: the event is done. Heard also when the time for it is over: nobody needs to do it again. If
    /// it went to a worker again meanwhile, it is done when that delivery ends, however it does: until
    /// then that worker may be at it, and an event with the same key must not go to another.
    ///
    /// # Errors
    /// [`UnknownDelivery`].
    pub fn ack(
        &mut self,
        worker: WorkerKey,
        id: DeliveryId,
        now: Instant,
    ) -> Result<Acked, UnknownDelivery> {
        if let Some(held) = self.take_answered(worker, id, now) {
            return Ok(Acked::Done(Settled {
                given_at: Some(held.given_at),
                item: held.item,
                late: false,
            }));
        }
        if let Some(item) = self.waiting.take_late(worker, id) {
            return Ok(Acked::Done(Settled {
                given_at: item.first_at,
                item,
                late: true,
            }));
        }
        let is_held = self.held.mark_done((worker, id));
        is_held.then_some(Acked::HeldAgain).ok_or(UnknownDelivery)
    }

    fn take_answered(&mut self, worker: WorkerKey, id: DeliveryId, now: Instant) -> Option<Held> {
        let deadline = now + self.policy.ack_timeout;
        let held = self.held.answered(worker, id, deadline)?;
        self.waiting.free_key_of(&held.item);
        Some(held)
    }

    /// NAK: the event should be tried again, after the delay that the worker asks for (at most a
    /// day) or that the policy has; `chance` is from 0 to 1. `reason` is for the dead letter, if
    /// this was the last time.
    ///
    /// # Errors
    /// [`UnknownDelivery`], also for a delivery that timed out: it is tried again anyway.
    pub fn nak(
        &mut self,
        worker: WorkerKey,
        id: DeliveryId,
        delay: Option<Duration>,
        reason: &str,
        now: Instant,
        chance: f64,
    ) -> Result<Outcome, UnknownDelivery> {
        let held = self.take_answered(worker, id, now);
        let held = held.ok_or(UnknownDelivery)?;
        let delay = match delay {
            Some(delay) => delay.min(NAK_DELAY_MAX),
            None => self.policy.retry.delay(held.item.attempt, chance),
        };
        let mut outcome = Outcome::default();
        let fault = Fault {
            detail: reason,
            is_sure: true,
        };
        let again = self.try_again(held, delay, fault, now, &mut outcome);
        outcome.retries = again.into();
        self.shrink(&mut outcome.dropped);
        Ok(outcome)
    }

    /// TERM: the event should never be tried again.
    ///
    /// # Errors
    /// [`UnknownDelivery`], also for a delivery that timed out.
    pub fn term(
        &mut self,
        worker: WorkerKey,
        id: DeliveryId,
        reason: &str,
        now: Instant,
    ) -> Result<Outcome, UnknownDelivery> {
        let held = self.take_answered(worker, id, now);
        let held = held.ok_or(UnknownDelivery)?;
        let mut outcome = Outcome::default();
        if held.is_done {
            outcome.done.add(&held.item);
        } else {
            let terminated = DeadReason::Terminated;
            let letter = DeadLetter::new(held.item, terminated, reason, held.given_at);
            outcome.dead.push(letter);
        }
        Ok(outcome)
    }

    /// WIP: the worker is still at it; its time begins anew, and that of what waits in its hands.
    ///
    /// # Errors
    /// [`UnknownDelivery`].
    pub fn wip(
        &mut self,
        worker: WorkerKey,
        id: DeliveryId,
        now: Instant,
    ) -> Result<(), UnknownDelivery> {
        let deadline = now + self.policy.ack_timeout;
        self.held.hear(worker, deadline);
        let renewed = self.held.renew(worker, id, deadline);
        renewed.then_some(()).ok_or(UnknownDelivery)
    }

    /// The worker left: what it held may go to others at once. Those of `unwritten` certainly never
    /// reached it, so for them it was no delivery.
    pub fn release(
        &mut self,
        worker: WorkerKey,
        unwritten: &[DeliveryId],
        now: Instant,
    ) -> Outcome {
        let unwritten: BTreeSet<_> = unwritten.iter().collect();
        let mut outcome = Outcome::default();
        let ids: Vec<_> = self.held.ids_of(worker).collect();
        let written = ids.iter().filter(|id| !unwritten.contains(id)).count();
        let fault = Fault {
            detail: "its worker left",
            is_sure: written <= 1 && !self.waiting.any_late(worker) && !self.held.any_late(worker),
        };
        self.waiting.forget_late(worker);
        for id in ids {
            let Ok(mut held) = self.take_held(worker, id) else {
                continue;
            };
            let was_written = !unwritten.contains(&id);
            if !was_written {
                held.item.attempt -= 1;
                held.item.first_at = held.item.first_at.filter(|_| held.item.attempt > 0);
            }
            let again = self.try_again(held, Duration::ZERO, fault, now, &mut outcome);
            outcome.retries += u64::from(again && was_written);
        }
        self.held.forget(worker);
        self.shrink(&mut outcome.dropped);
        outcome
    }

    fn take_held(&mut self, worker: WorkerKey, id: DeliveryId) -> Result<Held, UnknownDelivery> {
        let held = self.held.take(worker, id).ok_or(UnknownDelivery)?;
        self.waiting.free_key_of(&held.item);
        Ok(held)
    }

    /// Lets an event wait again that a worker didn't do, unless it is too old or was tried too often;
    /// whether it waits.
    fn try_again(
        &mut self,
        held: Held,
        delay: Duration,
        fault: Fault<'_>,
        now: Instant,
        outcome: &mut Outcome,
    ) -> bool {
        let Held {
            mut item,
            given_at,
            is_done,
            given_up,
            ..
        } = held;
        if is_done {
            outcome.done.add(&item);
            return false;
        }
        if item.attempt >= self.policy.retry.max_deliveries && fault.is_sure {
            let letter = DeadLetter::new(item, DeadReason::MaxDeliveries, fault.detail, given_at);
            outcome.dead.push(letter);
            return false;
        }
        if item.is_expired(now) {
            outcome.expired.add(&item);
            return false;
        }
        if let Some(reason) = given_up {
            outcome.given_up.add(reason, 1);
            return false;
        }
        // The first time; from then on it has its own.
        if item.attempt <= 1 {
            item.own_body();
        }
        if let Some(seq) = item.seq {
            self.tries.came_back.insert(seq, item.attempt);
        }
        let due = (!delay.is_zero()).then(|| now + delay);
        if let (Some(seq), Some(due)) = (item.seq, due) {
            self.tries.later.insert(seq, due);
        }
        self.waiting.put_aside(item, due);
        true
    }

    /// Does what the time asks for: gives up what is too old, takes back what was held too long, and
    /// lets go again what has waited long enough. `chance` gives a number from 0 to 1 for each delay.
    pub fn handle_timeout(&mut self, now: Instant, mut chance: impl FnMut() -> f64) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(item) = self.waiting.take_expired(now) {
            outcome.expired.add(&item);
        }
        let overdue = self.held.overdue(now);
        // Before the first is taken: those of one worker are all suspect.
        let is_sure = |(worker, id): &(WorkerKey, DeliveryId)| {
            self.held.is_overtaken(*id) || self.held.ids_of(*worker).nth(1).is_none()
        };
        let sure: Vec<_> = overdue.iter().map(is_sure).collect();
        for ((worker, id), is_sure) in overdue.into_iter().zip(sure) {
            let Ok(mut held) = self.take_held(worker, id) else {
                continue;
            };
            outcome.timed_out.push((worker, id));
            held.item.late = Some(Box::new((worker, id)));
            let delay = self.policy.retry.delay(held.item.attempt, chance());
            let fault = Fault {
                detail: "not acknowledged in time",
                is_sure,
            };
            let again = self.try_again(held, delay, fault, now, &mut outcome);
            outcome.retries += u64::from(again);
        }
        self.waiting.wake_due(now);
        self.shrink(&mut outcome.dropped);
        outcome
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), at the latest; it may find nothing to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = [self.waiting.first_deadline(), self.held.first_look()];
        deadlines.into_iter().flatten().min()
    }

    /// What may wait at most.
    pub fn limits(&self) -> QueueLimits {
        self.policy.limits
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the waiting events cost, in bytes.
    pub fn bytes(&self) -> usize {
        self.waiting.bytes()
    }

    /// How many events are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What the held events cost, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Whether workers hold as much as may wait.
    pub fn holds_too_much(&self) -> bool {
        self.held_bytes() >= self.policy.limits.bytes_max
    }

    /// The deliveries that this worker holds, in the order in which it got them.
    pub fn held_by(&self, worker: WorkerKey) -> impl Iterator<Item = DeliveryId> {
        self.held.ids_of(worker)
    }
}

#[cfg(test)]
mod tests;
