//! Events of a service that were taken from its engine, and of which that has not heard the end.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use crate::engines::{Incoming, Queue, Receipt};
use crate::reactor::Settlement;

/// Of so many events it is remembered that they are done, though the engine has not heard it.
const UNHEARD_MAX: usize = 10_000;

/// All of them, by their numbers.
#[derive(Debug, Default)]
pub(super) struct InHands {
    held: BTreeMap<u64, Held>,
    /// Those by what the engine knows them by.
    by_name: HashMap<String, u64>,
    /// Of which it is to hear that they are done.
    done: BTreeSet<u64>,
    /// Which it is to give to others, not before some time.
    back: BTreeSet<(Option<Instant>, u64)>,
    /// Done here, though the engine gives them again: what it knows them by.
    unheard: VecDeque<String>,
    /// The last number.
    last: u64,
    /// How many were given to the service.
    handed: u64,
    pub(super) books: Books,
}

/// What became of events: at any time, `taken = done + dead + returned + in hands`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) taken: u64,
    /// The engine has heard that they are done,
    pub(super) done: u64,
    /// with so many bytes,
    pub(super) bytes: u64,
    /// or are dead letters,
    pub(super) dead: u64,
    /// or are for others; or it gives them to others by itself.
    pub(super) returned: u64,
}

#[derive(Debug)]
struct Held {
    /// None if the connection by which it came is lost, and no other settles it.
    receipt: Option<Receipt>,
    /// By which another connection does.
    token: Option<String>,
    name: String,
    bytes: u64,
    end: Option<End>,
    /// It came by another connection than there is now: the engine may not know of that, and give it again.
    is_recalled: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Dead,
    Back,
}

/// What the engine is told of at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    numbers: Vec<u64>,
    pub(super) receipts: Vec<Receipt>,
}

impl InHands {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many more may be taken, if the service wants so many since the first.
    pub(super) fn room(&self, wanted: u64, held_max: u32) -> usize {
        let room = (held_max as usize).saturating_sub(self.held.len());
        let wanted = usize::try_from(wanted.saturating_sub(self.handed));
        wanted.unwrap_or(usize::MAX).min(room)
    }

    /// Takes an event, which has this id; its number if the service is to have it: it is not in hands
    /// already, nor done.
    pub(super) fn take(&mut self, incoming: &Incoming, id: &str, queue: &dyn Queue) -> Option<u64> {
        let name = incoming.position.clone().unwrap_or_else(|| id.to_owned());
        let (receipt, token) = (Some(incoming.receipt), queue.token(incoming.receipt));
        let known = self.by_name.get(&name).filter(|_| !name.is_empty());
        // An engine that can't tell its events apart may have two with the same id: while one is held, what
        // it gives is another.
        let is_again = |held: &&mut Held| incoming.position.is_some() || held.receipt.is_none();
        let known = known.and_then(|number| self.held.get_mut(number));
        if let Some(held) = known.filter(is_again) {
            (held.receipt, held.token, held.is_recalled) = (receipt, token, false);
            return None;
        }
        let unheard = self.unheard.iter().position(|known| *known == name);
        let is_done = unheard.is_some_and(|at| self.unheard.remove(at).is_some());
        self.last += 1;
        self.books.taken += 1;
        self.by_name.insert(name.clone(), self.last);
        let held = Held {
            receipt,
            token,
            name,
            bytes: incoming.body.len() as u64,
            end: is_done.then_some(End::Done),
            is_recalled: false,
        };
        self.held.insert(self.last, held);
        if is_done {
            self.done.insert(self.last);
            return None;
        }
        self.handed += 1;
        Some(self.last)
    }

    /// Hears what became of an event; `later` is when one goes back that is to come again later.
    pub(super) fn settle(&mut self, settlement: Settlement, later: Instant) {
        let (number, end) = match settlement {
            Settlement::Done(number) => (number, End::Done),
            Settlement::Dead(number) => (number, End::Dead),
            Settlement::Returned(number) | Settlement::Later(number) => (number, End::Back),
        };
        let held = self.held.get_mut(&number);
        let Some(held) = held.filter(|held| held.end.is_none()) else {
            return;
        };
        held.end = Some(end);
        if held.receipt.is_none() {
            return self.let_go(number);
        }
        match settlement {
            Settlement::Done(_) | Settlement::Dead(_) => _ = self.done.insert(number),
            Settlement::Returned(_) => _ = self.back.insert((None, number)),
            Settlement::Later(_) => _ = self.back.insert((Some(later), number)),
        }
    }

    /// What the engine is to hear of as done.
    pub(super) fn to_acknowledge(&self, events_max: usize) -> Option<Batch> {
        self.batch(self.done.iter().copied().take(events_max))
    }

    /// What it is to give to others by now.
    pub(super) fn to_give_back(&self, events_max: usize, now: Instant) -> Option<Batch> {
        let is_due = |at: &Option<Instant>| at.is_none_or(|at| at <= now);
        let due = self.back.iter().take_while(|(at, _)| is_due(at));
        self.batch(due.map(|(_, number)| *number).take(events_max))
    }

    fn batch(&self, numbers: impl Iterator<Item = u64>) -> Option<Batch> {
        let mut batch = Batch::default();
        for number in numbers {
            let held = self.held.get(&number);
            if let Some(receipt) = held.and_then(|held| held.receipt) {
                batch.numbers.push(number);
                batch.receipts.push(receipt);
            }
        }
        (!batch.numbers.is_empty()).then_some(batch)
    }

    /// The engine has heard of these.
    pub(super) fn told(&mut self, batch: &Batch) {
        for number in &batch.numbers {
            let Some(held) = self.forget(*number) else {
                continue;
            };
            match held.end {
                Some(End::Done) => {
                    self.books.done += 1;
                    self.books.bytes += held.bytes;
                }
                Some(End::Dead) => self.books.dead += 1,
                Some(End::Back) | None => self.books.returned += 1,
            }
            if held.is_recalled {
                self.remember(&held);
            }
        }
    }

    fn forget(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        if self.by_name.get(&held.name) == Some(&number) {
            self.by_name.remove(&held.name);
        }
        self.done.remove(&number);
        if held.end == Some(End::Back) {
            self.back.retain(|(_, back)| *back != number);
        }
        Some(held)
    }

    /// The engine gives it to others by itself, and is told nothing of it. If it is done here and is given
    /// to us again, that is known.
    pub(super) fn let_go(&mut self, number: u64) {
        let Some(held) = self.forget(number) else {
            return;
        };
        self.books.returned += 1;
        self.remember(&held);
    }

    /// It may be given to us again. If it is done here, that is known then.
    fn remember(&mut self, held: &Held) {
        if matches!(held.end, Some(End::Done | End::Dead)) && !held.name.is_empty() {
            if self.unheard.len() >= UNHEARD_MAX {
                self.unheard.pop_front();
            }
            self.unheard.push_back(held.name.clone());
        }
    }

    /// All that the engine could be told of.
    pub(super) fn receipts(&self) -> Vec<Receipt> {
        let held = self.held.values();
        held.filter_map(|held| held.receipt).collect()
    }

    /// The connection is lost. Those that no other settles, and that may be in workers' hands: the engine
    /// gives them to others.
    pub(super) fn disconnect(&mut self) -> Vec<u64> {
        let mut orphans = vec![];
        for (number, held) in &mut self.held {
            if held.token.is_none() {
                held.receipt = None;
                orphans.push(*number);
            }
        }
        let is_over = |number: &u64| self.held.get(number).is_some_and(|held| held.end.is_some());
        let (over, open): (Vec<_>, Vec<_>) = orphans.into_iter().partition(is_over);
        over.into_iter().for_each(|number| self.let_go(number));
        open
    }

    /// There is another connection.
    pub(super) fn reconnect(&mut self, queue: &mut dyn Queue) {
        for held in self.held.values_mut() {
            if let Some(token) = &held.token {
                held.receipt = queue.recall(token);
                held.is_recalled = true;
            }
        }
    }

    /// Whatever is in hands goes back.
    pub(super) fn give_all_back(&mut self) {
        for (number, held) in &mut self.held {
            if held.end.is_none() {
                held.end = Some(End::Back);
                self.back.insert((None, *number));
            }
        }
    }
}

#[cfg(test)]
mod tests;
