//! What waits: for a worker, for another try, for its time, or behind its key.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::item::{ClockChange, Item, Late, OrderKey, Position};
use super::keys::{Change, End, Keys};
use super::line::Line;
use super::plain::Plain;
use crate::broker::ids::{DeliveryId, WorkerKey};
use crate::seq::Seq;

/// An item that needs more than a position in the line.
#[derive(Debug)]
struct Aside {
    item: Item,
    /// Not delivered before this time.
    due: Option<Instant>,
}

impl Aside {
    /// Whether it has its position in the order of its key. What should go later, and was never given
    /// to anyone, gets it only when it is due: it holds up nobody until then.
    fn takes_turns(&self) -> bool {
        self.due.is_none() || self.item.attempt > 0
    }
}

/// All that waits, in the order in which it came.
///
/// Plain items stand in a line, which is all that a live service without keys ever uses; those with a
/// key in one for each key. The others lie aside, with an index for each question about them; a position
/// in the common order tells which of all goes first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    line: Line<Plain>,
    aside: BTreeMap<Position, Aside>,
    /// Those aside that may go now,
    ready: BTreeSet<Position>,
    /// and those that may go to a worker which holds nothing else: they were tried as often as they may be.
    alone: BTreeSet<Position>,
    /// How often an event may be tried.
    deliveries_max: u32,
    due: BTreeSet<(Instant, Position)>,
    /// Those that wait for their time elsewhere, and hold up the others of their key until then.
    away: BTreeMap<Position, OrderKey>,
    ends: BTreeSet<(Instant, Position)>,
    late: BTreeMap<Late, Position>,
    keys: Keys,
    /// The last position given at the back, and at the front.
    back: Position,
    front: Position,
    bytes: usize,
}

/// Where the item of a durable log with this sequence number stands.
fn position_of(seq: Seq) -> Position {
    Position::try_from(seq.0).unwrap_or(Position::MAX)
}

impl Waiting {
    /// So often an event may be tried; beyond that it goes alone.
    pub(super) fn set_deliveries_max(&mut self, max: u32) {
        self.deliveries_max = max;
        let (ready, alone) = (
            std::mem::take(&mut self.ready),
            std::mem::take(&mut self.alone),
        );
        ready
            .into_iter()
            .chain(alone)
            .for_each(|at| self.let_go(at));
    }

    /// One of those aside may go now.
    fn let_go(&mut self, position: Position) {
        let goes_alone = self
            .aside
            .get(&position)
            .is_some_and(|aside| aside.item.attempt >= self.deliveries_max);
        match goes_alone {
            true => self.alone.insert(position),
            false => self.ready.insert(position),
        };
    }

    /// It may not, or is not there any more.
    fn hold_up(&mut self, position: Position) {
        self.ready.remove(&position);
        self.alone.remove(&position);
    }

    /// Adds an item behind all others; one that has a sequence number, behind those with lower ones.
    pub(super) fn push_back(&mut self, mut item: Item) {
        item.position = match item.seq {
            Some(seq) => position_of(seq),
            None => self.back + 1,
        };
        self.give_up_turn(item.position);
        self.back = self.back.max(item.position);
        self.add(item, End::Back);
    }

    /// Adds an item before all others.
    pub(super) fn push_front(&mut self, mut item: Item) {
        self.front -= 1;
        item.position = self.front;
        self.add(item, End::Front);
    }

    fn add(&mut self, item: Item, end: End) {
        let cost = item.cost();
        let item = match Plain::try_from(item) {
            Err(item) => item,
            Ok((plain, None)) => match self.add_to_line(plain, end) {
                Ok(()) => {
                    self.bytes += cost;
                    return;
                }
                Err(plain) => plain.with_key(None),
            },
            Ok((plain, Some(key))) => match self.keys.add(plain, key, end) {
                Ok(change) => {
                    self.bytes += cost;
                    return self.turned(change);
                }
                Err(plain) => plain.with_key(Some(key)),
            },
        };
        let due = item.not_before;
        self.put_aside(item, due);
    }

    /// Adds an item before or behind all others, or gives it back: it would be between them.
    fn add_to_line(&mut self, plain: Plain, end: End) -> Result<(), Plain> {
        let position = plain.position;
        match end {
            End::Back if self.line.back().is_none_or(|last| last.position < position) => {
                self.line.push_back(plain);
            }
            End::Front
                if self
                    .line
                    .front()
                    .is_none_or(|first| first.position > position) =>
            {
                self.line.push_front(plain);
            }
            _ => return Err(plain),
        }
        Ok(())
    }

    /// Adds an item at the position that it has.
    pub(super) fn put_aside(&mut self, item: Item, due: Option<Instant>) {
        let (position, key) = (item.position, item.key);
        self.bytes += item.cost();
        self.due.extend(due.map(|due| (due, position)));
        self.ends.extend(item.expires_at.map(|end| (end, position)));
        self.late
            .extend(item.late.as_deref().map(|late| (*late, position)));
        let aside = Aside { item, due };
        let takes_turns = aside.takes_turns();
        self.aside.insert(position, aside);
        match key {
            None if due.is_none() => self.let_go(position),
            Some(key) if takes_turns => {
                let change = self.keys.put_aside(key, position);
                self.turned(change);
            }
            _ => {}
        }
    }

    /// No worker holds an item with this one's key any more.
    pub(super) fn free_key_of(&mut self, item: &Item) {
        if let Some(key) = item.key {
            let change = self.keys.set_held(key, false);
            self.turned(change);
        }
    }

    /// Of those aside, another may go than before.
    fn turned(&mut self, (before, after): Change) {
        if let Some(before) = before {
            self.hold_up(before);
        }
        if let Some(after) = after
            && let Some(aside) = self.aside.get(&after)
            && aside.due.is_none()
        {
            self.let_go(after);
        }
    }

    /// The item waits for its time elsewhere. If it was tried before, others of its key wait for it.
    pub(super) fn keep_turn(&mut self, item: &Item) {
        if let (Some(seq), Some(key)) = (item.seq, item.key)
            && item.attempt > 0
        {
            let position = position_of(seq);
            self.away.insert(position, key);
            let change = self.keys.put_aside(key, position);
            self.turned(change);
        }
    }

    /// It is not elsewhere any more: it comes back, or never will.
    fn give_up_turn(&mut self, position: Position) {
        if let Some(key) = self.away.remove(&position) {
            let change = self.keys.take_aside(key, position, false);
            self.turned(change);
        }
    }

    /// The item with this sequence number will never come back from elsewhere.
    pub(super) fn give_up_turn_of(&mut self, seq: Seq) {
        self.give_up_turn(position_of(seq));
    }

    /// Of those aside, the first that is not past its end.
    #[inline]
    fn first_live(&self, positions: &BTreeSet<Position>, now: Instant) -> Option<Position> {
        // There are hardly ever any, and an iterator over none costs more than this.
        if positions.is_empty() {
            return None;
        }
        let is_live = |position: &&Position| !self.aside[position].item.is_expired(now);
        positions.iter().find(is_live).copied()
    }

    /// The position of the next item that may go, but for those that go alone. Those past their end are passed
    /// over.
    fn next_position(&self, now: Instant) -> Option<Position> {
        let aside = self.first_live(&self.ready, now);
        let line = self.line.front().map(|item| item.position);
        let keyed = self.keys.first_free();
        aside.into_iter().chain(line).chain(keyed).min()
    }

    /// Whether some item may go, but for those that go alone.
    pub(super) fn has_next(&self, now: Instant) -> bool {
        self.next_position(now).is_some()
    }

    /// Whether some item may go to a worker that holds nothing else.
    pub(super) fn has_next_alone(&self, now: Instant) -> bool {
        self.first_live(&self.alone, now).is_some()
    }

    /// Takes the next item of all that may go.
    pub(super) fn take_next(&mut self, now: Instant) -> Option<Item> {
        let alone = self.first_live(&self.alone, now);
        self.take(self.next_position(now).into_iter().chain(alone).min()?)
    }

    /// Takes the next that doesn't go alone; a worker holds it from now on, and so its key.
    pub(super) fn hold_next(&mut self, now: Instant) -> Option<Item> {
        self.take_as(self.next_position(now)?, true)
    }

    /// The same of those that go alone.
    pub(super) fn hold_next_alone(&mut self, now: Instant) -> Option<Item> {
        self.take_as(self.first_live(&self.alone, now)?, true)
    }

    /// Takes the item that came first, whether it may go or not.
    pub(super) fn take_oldest(&mut self) -> Option<Item> {
        let line = self.line.front().map(|item| item.position);
        let aside = self.aside.first_key_value().map(|(position, _)| *position);
        let keyed = self.keys.oldest();
        self.take(line.into_iter().chain(aside).chain(keyed).min()?)
    }

    /// Takes the item with this sequence number in a durable log, if it waits.
    pub(super) fn take_seq(&mut self, seq: Seq) -> Option<Item> {
        self.take(position_of(seq))
    }

    /// Takes the item that waits for the latest time of all, and that time. It [keeps](Self::keep_turn) its
    /// turn.
    pub(super) fn take_latest_due(&mut self) -> Option<(Instant, Item)> {
        let (due, position) = *self.due.last()?;
        let item = self.take(position)?;
        self.keep_turn(&item);
        Some((due, item))
    }

    /// When the one goes that [`take_latest_due`](Self::take_latest_due) would take.
    pub(super) fn latest_due(&self) -> Option<Instant> {
        self.due.last().map(|(due, _)| *due)
    }

    /// How many items may go now, but for those that go alone. Of those past their end some are counted, too.
    pub(super) fn ready(&self) -> usize {
        self.line.len() + self.keys.free() + self.ready.len()
    }

    /// The wall clock was set: what goes or ends at a time of that clock does so earlier or later.
    pub(super) fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        let by_clock = self.aside.iter().filter(|(_, aside)| aside.item.by_clock);
        let positions: Vec<_> = by_clock.map(|(position, _)| *position).collect();
        for position in positions {
            let due = self.aside.get(&position).and_then(|aside| aside.due);
            let Some(mut item) = self.take(position) else {
                continue;
            };
            let waits_for_clock = due.is_some() && due == item.not_before;
            item.clock_was_set(change, now);
            let due = if waits_for_clock {
                item.not_before
            } else {
                due
            };
            self.put_aside(item, due);
        }
    }

    /// Takes the item that came last, whether it may go or not.
    pub(super) fn take_newest(&mut self) -> Option<Item> {
        let line = self.line.back().map(|item| item.position);
        let aside = self.aside.last_key_value().map(|(position, _)| *position);
        let keyed = self.keys.newest();
        self.take(line.into_iter().chain(aside).chain(keyed).max()?)
    }

    /// Takes the item that came last of those that may go and were given to nobody.
    pub(super) fn take_newest_untried(&mut self) -> Option<Item> {
        let is_untried = |position: &&Position| {
            let aside = self.aside.get(position);
            aside.is_none_or(|aside| aside.item.first_at.is_none())
        };
        let aside = self.ready.iter().rev().find(is_untried).copied();
        let line = self.line.back().map(|item| item.position);
        self.take(line.into_iter().chain(aside).max()?)
    }

    /// Takes an item whose end has come.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Item> {
        let (_, position) = *self.ends.first().filter(|(end, _)| *end <= now)?;
        self.take(position)
    }

    /// Takes the item that waits since this delivery timed out.
    pub(super) fn take_late(&mut self, worker: WorkerKey, id: DeliveryId) -> Option<Item> {
        let position = *self.late.get(&(worker, id))?;
        self.take(position)
    }

    fn take(&mut self, position: Position) -> Option<Item> {
        self.take_as(position, false)
    }

    fn take_as(&mut self, position: Position, to_hold: bool) -> Option<Item> {
        let item = if self
            .line
            .front()
            .is_some_and(|item| item.position == position)
        {
            self.line.pop_front().map(|plain| plain.with_key(None))
        } else if self
            .line
            .back()
            .is_some_and(|item| item.position == position)
        {
            self.line.pop_back().map(|plain| plain.with_key(None))
        } else {
            self.take_keyed(position, to_hold)
                .or_else(|| self.take_aside(position, to_hold))
                .or_else(|| self.take_from_line(position))
        }?;
        self.bytes -= item.cost();
        Some(item)
    }

    fn take_from_line(&mut self, position: Position) -> Option<Item> {
        let plain = self.line.remove_by_key(&position, |item| item.position);
        plain.map(|plain| plain.with_key(None))
    }

    fn take_keyed(&mut self, position: Position, to_hold: bool) -> Option<Item> {
        let (item, change) = self.keys.take(position, to_hold)?;
        self.turned(change);
        Some(item)
    }

    fn take_aside(&mut self, position: Position, to_hold: bool) -> Option<Item> {
        let aside = self.aside.remove(&position)?;
        self.hold_up(position);
        if let Some(due) = aside.due {
            self.due.remove(&(due, position));
        }
        if let Some(end) = aside.item.expires_at {
            self.ends.remove(&(end, position));
        }
        if let Some(late) = &aside.item.late {
            self.late.remove(&**late);
        }
        if let Some(key) = aside.item.key
            && aside.takes_turns()
        {
            let change = self.keys.take_aside(key, position, to_hold);
            self.turned(change);
        }
        Some(aside.item)
    }

    /// Lets those go whose time has come.
    pub(super) fn wake_due(&mut self, now: Instant) {
        while let Some((due, position)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, position));
            let Some(aside) = self.aside.get_mut(&position) else {
                continue;
            };
            aside.due = None;
            let Some(key) = aside.item.key else {
                self.let_go(position);
                continue;
            };
            let change = self.keys.put_aside(key, position);
            self.turned(change);
            if self.keys.is_turn_of(key, position) {
                self.let_go(position);
            }
        }
    }

    /// Whether something waits that timed out at this worker, which may still be at it.
    pub(super) fn any_late(&self, worker: WorkerKey) -> bool {
        let all = (worker, DeliveryId(0))..=(worker, DeliveryId(u64::MAX));
        self.late.range(all).next().is_some()
    }

    /// The worker is gone: what it said too late is not heard any more.
    pub(super) fn forget_late(&mut self, worker: WorkerKey) {
        let aside = &mut self.aside;
        self.late.retain(|(by, _), position| {
            let is_of_another = *by != worker;
            if !is_of_another && let Some(aside) = aside.get_mut(position) {
                aside.item.late = None;
            }
            is_of_another
        });
    }

    /// When the next item is due, or at its end.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        let due = self.due.first().map(|(due, _)| *due);
        let end = self.ends.first().map(|(end, _)| *end);
        due.into_iter().chain(end).min()
    }

    pub(super) fn len(&self) -> usize {
        self.line.len() + self.keys.len() + self.aside.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn goes_alone(&self, seq: Seq) -> bool {
        let position = Position::try_from(seq.0).unwrap_or(Position::MAX);
        let aside = self.aside.get(&position);
        aside.is_some_and(|aside| aside.item.attempt >= self.deliveries_max)
    }

    #[cfg(test)]
    pub(super) fn key_count(&self) -> usize {
        self.keys.key_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_item_costs_no_more_than_it_is_counted_for() {
        assert!(size_of::<Plain>() <= Item::OVERHEAD_BYTES);
    }
}
