//! Which of a service's workers gets the next event.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use event_manager_wire::messagebus::Introduction;
use slab::Slab;

use super::ids::{PeerId, WorkerKey};

/// Above this many outstanding events a worker counts as one that doesn't report what it has done:
/// it is then served in turn with its like. Without a cap, a worker that says READY once would hand
/// all work to each newcomer until that had caught up with it.
const REPORTED_MAX: u64 = 16;

#[derive(Debug)]
struct Worker {
    peer: PeerId,
    /// It takes the next event only after READY, as a REQ socket must.
    lockstep: bool,
    /// It acknowledges, and holds no more events than this.
    credit: Option<u32>,
    ready: bool,
    /// Its outbox has room.
    open: bool,
    /// Sent, and not yet reported done.
    outstanding: u64,
    /// It let a delivery's time pass, and has said nothing since: others go first.
    is_doubted: bool,
    /// It gets nothing until it holds nothing: an event that goes alone is for it, or in its hands.
    is_alone: bool,
    /// When it had its last turn, or came.
    last_turn: u64,
    /// The number of its valid entry among the turns.
    stamp: u32,
    /// Who it is, if it said so.
    introduction: Option<Box<Introduction>>,
    /// It wants the ids of its events.
    wants_ids: bool,
}

/// A worker that said who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduced<'a> {
    pub peer: PeerId,
    /// What it said.
    pub introduction: &'a Introduction,
    /// Whether it said READY and no BYE since.
    pub ready: bool,
    /// The most events that it holds, if it acknowledges.
    pub credit: Option<u32>,
    /// Events that it was sent, and has not reported done.
    pub outstanding: u64,
}

impl Worker {
    fn eligible(&self) -> bool {
        let held_max = match (self.lockstep || self.is_alone, self.credit) {
            (true, _) => 1,
            (false, Some(credit)) => credit.into(),
            (false, None) => u64::MAX,
        };
        self.ready && self.open && self.outstanding < held_max
    }

    /// It doesn't acknowledge, or holds nothing.
    fn is_light(&self) -> bool {
        self.credit.is_none() || self.outstanding == 0
    }

    /// It will be ready for an event that goes alone, once it holds nothing.
    fn may_be_free(&self) -> bool {
        self.ready && self.credit.is_some()
    }

    /// So many events are not in its hands any more.
    fn lays_down(&mut self, events: u64) {
        self.outstanding = self.outstanding.saturating_sub(events);
        self.is_alone &= self.outstanding > 0;
    }

    fn load(&self) -> u64 {
        match self.is_doubted {
            true => u64::MAX,
            false => self.outstanding.min(REPORTED_MAX),
        }
    }
}

/// An entry of the heap: the fewest outstanding first, then who waited longest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    load: u64,
    last_turn: u64,
    worker: u32,
    stamp: u32,
}

/// The workers of one service.
///
/// Entries of the heap are never searched for: a worker that changes gets a new stamp, and entries
/// with an older one are skipped. They are bounded by a rebuild when most are stale.
#[derive(Debug, Default)]
pub struct Workers {
    workers: Slab<Worker>,
    turns: BinaryHeap<Reverse<Turn>>,
    turn: u64,
    stamp: u32,
    eligible: usize,
    /// Workers that acknowledge.
    acknowledging: usize,
}

impl Workers {
    /// A connection that may become a worker.
    pub fn join(&mut self, peer: PeerId, lockstep: bool) -> WorkerKey {
        let worker = Worker {
            peer,
            lockstep,
            credit: None,
            ready: false,
            open: true,
            outstanding: 0,
            is_doubted: false,
            is_alone: false,
            last_turn: 0,
            stamp: 0,
            introduction: None,
            wants_ids: false,
        };
        WorkerKey(self.workers.insert(worker) as u32)
    }

    /// The connection ended: how many events it held that it had not reported done.
    pub fn leave(&mut self, key: WorkerKey) -> u64 {
        let worker = self.workers.remove(key.0 as usize);
        self.eligible -= usize::from(worker.eligible());
        self.acknowledging -= usize::from(worker.credit.is_some());
        self.bound_turns();
        worker.outstanding
    }

    /// READY: the first admits it to work, each later one reports an event done. A worker that
    /// acknowledges reports in its own way: for it this changes nothing once it is admitted.
    pub fn ready(&mut self, key: WorkerKey) {
        self.change(key, |worker| {
            let is_report = worker.ready && worker.credit.is_none();
            worker.outstanding = worker.outstanding.saturating_sub(is_report.into());
            worker.ready = true;
        });
    }

    /// READY from a worker that acknowledges, and holds at most `credit` events, from 1. Again, it
    /// changes the credit. What it got before it said so for the first time is not counted.
    pub fn ready_with(&mut self, key: WorkerKey, credit: u32) {
        self.acknowledging += usize::from(!self.acknowledges(key));
        self.change(key, |worker| {
            if worker.credit.is_none() {
                worker.outstanding = 0;
            }
            worker.credit = Some(credit);
            worker.ready = true;
        });
    }

    /// Whether it wants the ids of events.
    pub fn set_wants_ids(&mut self, key: WorkerKey, wants: bool) {
        self.workers[key.0 as usize].wants_ids = wants;
    }

    /// Whether it wants the ids of events.
    pub fn wants_ids(&self, key: WorkerKey) -> bool {
        self.workers[key.0 as usize].wants_ids
    }

    /// It says who it is; what it doesn't say is as before.
    pub fn introduce(&mut self, key: WorkerKey, introduction: Introduction) {
        if !introduction.is_empty() {
            let known = &mut self.workers[key.0 as usize].introduction;
            known.get_or_insert_default().update(introduction);
        }
    }

    /// Those that said who they are, in no order.
    pub fn introduced(&self) -> impl Iterator<Item = Introduced<'_>> {
        self.workers.iter().filter_map(|(_, worker)| {
            Some(Introduced {
                peer: worker.peer,
                introduction: worker.introduction.as_deref()?,
                ready: worker.ready,
                credit: worker.credit,
                outstanding: worker.outstanding,
            })
        })
    }

    /// BYE: it gets no more, until it says READY again.
    pub fn bye(&mut self, key: WorkerKey) {
        self.change(key, |worker| worker.ready = false);
    }

    /// Whether it said READY and no BYE since, and its credit if it acknowledges.
    pub fn readiness(&self, key: WorkerKey) -> (bool, Option<u32>) {
        let worker = &self.workers[key.0 as usize];
        (worker.ready, worker.credit)
    }

    /// Events that it was sent, and has not reported done.
    pub fn outstanding(&self, key: WorkerKey) -> u64 {
        self.workers[key.0 as usize].outstanding
    }

    /// Whether it acknowledges what it gets.
    pub fn acknowledges(&self, key: WorkerKey) -> bool {
        self.workers[key.0 as usize].credit.is_some()
    }

    /// Whether any worker acknowledges.
    pub fn any_acknowledges(&self) -> bool {
        self.acknowledging > 0
    }

    /// Whether its outbox has room.
    pub fn set_open(&mut self, key: WorkerKey, open: bool) {
        if self.workers[key.0 as usize].open != open {
            self.change(key, |worker| worker.open = open);
        }
    }

    /// It doesn't hold these events any more: they are done, or taken from it. As long as it counts as
    /// no less busy it keeps its turn.
    pub fn done(&mut self, key: WorkerKey, events: u64) {
        let worker = &mut self.workers[key.0 as usize];
        let outstanding = worker.outstanding.saturating_sub(events);
        let before = worker.load();
        if worker.eligible() && (worker.is_doubted || before == outstanding.min(REPORTED_MAX)) {
            worker.outstanding = outstanding;
        } else {
            self.change(key, |worker| worker.lays_down(events));
        }
    }

    /// It let the time of a delivery pass, which is taken from it. Until it says something, it gets
    /// events only if no other worker can take them. It does get them: it may have lost the event, and
    /// wait for the next.
    pub fn let_down(&mut self, key: WorkerKey) {
        self.change(key, |worker| {
            worker.lays_down(1);
            worker.is_doubted = true;
        });
    }

    /// It said something.
    pub fn trust(&mut self, key: WorkerKey) {
        if self.workers[key.0 as usize].is_doubted {
            self.change(key, |worker| worker.is_doubted = false);
        }
    }

    fn change(&mut self, key: WorkerKey, change: impl FnOnce(&mut Worker)) {
        let worker = &mut self.workers[key.0 as usize];
        self.eligible -= usize::from(worker.eligible());
        change(worker);
        self.stamp = self.stamp.wrapping_add(1);
        worker.stamp = self.stamp;
        if !worker.eligible() {
            return;
        }
        self.eligible += 1;
        self.turn += 1;
        worker.last_turn = self.turn;
        let turn = Turn {
            load: worker.load(),
            last_turn: self.turn,
            worker: key.0,
            stamp: self.stamp,
        };
        self.turns.push(Reverse(turn));
        self.bound_turns();
    }

    fn bound_turns(&mut self) {
        if self.turns.len() > 2 * self.workers.len() + 16 {
            let workers = &self.workers;
            self.turns.retain(|Reverse(turn)| is_valid(workers, turn));
        }
    }

    /// Brings a valid entry to the top of the heap, if there is one.
    fn forget_stale(&mut self) {
        while let Some(Reverse(top)) = self.turns.peek()
            && !is_valid(&self.workers, top)
        {
            self.turns.pop();
        }
    }

    /// Gives the next event to a worker; `None` if none can take one.
    pub fn pick(&mut self) -> Option<(WorkerKey, PeerId)> {
        self.forget_stale();
        let mut top = self.turns.peek_mut()?;
        let key = WorkerKey(top.0.worker);
        let worker = &mut self.workers[key.0 as usize];
        worker.outstanding += 1;
        if worker.eligible() {
            self.turn += 1;
            worker.last_turn = self.turn;
            top.0.load = worker.load();
            top.0.last_turn = self.turn;
        } else {
            self.eligible -= 1;
            PeekMut::pop(top);
        }
        Some((key, worker.peer))
    }

    /// Gives the next event to a worker that doesn't acknowledge, or holds none: for when too much is
    /// held. It looks at each worker.
    pub fn pick_light(&mut self) -> Option<(WorkerKey, PeerId)> {
        let workers = self.workers.iter();
        let light = workers.filter(|(_, worker)| worker.eligible() && worker.is_light());
        let (key, worker) = light.min_by_key(|(_, worker)| (worker.load(), worker.last_turn))?;
        let picked = (WorkerKey(key as u32), worker.peer);
        self.change(picked.0, |worker| worker.outstanding += 1);
        Some(picked)
    }

    /// Whether there is somebody for an event that goes alone.
    pub fn any_for_one_alone(&self) -> bool {
        self.for_one_alone().is_some()
    }

    /// Who could take an event that goes alone. One that let a delivery's time pass may be stuck: it is asked
    /// only if all are such.
    fn for_one_alone(&self) -> Option<WorkerKey> {
        let workers = self.workers.iter();
        let may_take = |worker: &Worker| worker.eligible() && worker.is_light();
        let light = workers.filter(|(_, worker)| may_take(worker));
        let (key, worker) = light.min_by_key(|(_, worker)| (worker.load(), worker.last_turn))?;
        let is_better = |other: &Worker| other.may_be_free() && !other.is_doubted;
        let mut others = self.workers.iter();
        let is_best = !worker.is_doubted || !others.any(|(_, other)| is_better(other));
        is_best.then_some(WorkerKey(key as u32))
    }

    /// Gives an event that goes alone to a worker that holds nothing else, and gets nothing else meanwhile; or
    /// to one that doesn't acknowledge. If there is none, the least busy one gets no more until it is. It looks
    /// at each worker.
    pub fn pick_for_one_alone(&mut self) -> Option<(WorkerKey, PeerId)> {
        if let Some(key) = self.for_one_alone() {
            self.change(key, |worker| {
                worker.outstanding += 1;
                worker.is_alone = worker.credit.is_some();
            });
            return Some((key, self.workers[key.0 as usize].peer));
        }
        let workers = self.workers.iter();
        let free = workers.filter(|(_, worker)| worker.may_be_free());
        let hope = |worker: &Worker| (worker.is_doubted, !worker.open, worker.outstanding);
        let (least, worker) = free.min_by_key(|(_, worker)| (!worker.is_alone, hope(worker)))?;
        if worker.is_alone {
            return None;
        }
        let key = WorkerKey(least as u32);
        self.change(key, |worker| worker.is_alone = true);
        None
    }

    /// Gives a run of events to all workers in turn, if they would be picked in turn anyway: they are
    /// as busy as each other, and report nothing in between. Event `i` goes to the worker at
    /// `i % turns.len()`. Otherwise nothing has changed, and each event has to be [picked](Self::pick)
    /// for.
    pub fn pick_in_turn(&mut self, events: usize, turns: &mut Vec<(WorkerKey, PeerId)>) -> bool {
        turns.clear();
        if self.eligible == 1 && events == 1 && !self.any_acknowledges() {
            turns.extend(self.pick());
            return !turns.is_empty();
        }
        // A look at each worker is worth it only if there is something for each.
        if self.eligible == 0 || events < self.workers.len() {
            return false;
        }
        let mut load = None;
        for (key, worker) in self.workers.iter().filter(|(_, worker)| worker.eligible()) {
            let takes_many = !worker.lockstep && worker.credit.is_none();
            if !takes_many || *load.get_or_insert(worker.load()) != worker.load() {
                return false;
            }
            turns.push((WorkerKey(key as u32), worker.peer));
        }
        turns.sort_unstable_by_key(|(key, _)| self.workers[key.0 as usize].last_turn);
        let (each, more) = (events / turns.len(), events % turns.len());
        // From the one whose turn is next.
        let (got_more, others) = turns.split_at(more);
        for (key, _) in others {
            self.change(*key, |worker| worker.outstanding += each as u64);
        }
        for (key, _) in got_more {
            self.change(*key, |worker| worker.outstanding += each as u64 + 1);
        }
        true
    }

    /// Connections, those that said READY, and those of them that are passed over because they
    /// don't read.
    pub fn census(&self) -> (usize, usize, usize) {
        let ready = self.workers.iter().filter(|(_, worker)| worker.ready);
        let stalled = ready.clone().filter(|(_, worker)| !worker.open).count();
        (self.workers.len(), ready.count(), stalled)
    }

    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.workers.iter().map(|(_, worker)| worker.peer)
    }

    /// How many workers could take an event now; if too much is held, how many of those that don't
    /// acknowledge or hold nothing.
    pub fn free(&self, too_much_is_held: bool) -> usize {
        let eligible = self.workers.iter().filter(|(_, worker)| worker.eligible());
        eligible
            .filter(|(_, worker)| !too_much_is_held || worker.is_light())
            .count()
    }

    /// How many events workers could take now. One that doesn't acknowledge could take any number; a few
    /// keep it busy.
    pub fn free_credit(&self) -> u64 {
        let free = |worker: &Worker| match (worker.lockstep, worker.credit) {
            (true, _) => 1,
            (false, Some(credit)) => u64::from(credit).saturating_sub(worker.outstanding),
            (false, None) => REPORTED_MAX,
        };
        let eligible = self.workers.iter().map(|(_, worker)| worker);
        eligible.filter(|worker| worker.eligible()).map(free).sum()
    }

    /// Whether some worker said READY, and no BYE since.
    pub fn any_ready(&self) -> bool {
        self.workers.iter().any(|(_, worker)| worker.ready)
    }

    /// Whether some worker could take an event now.
    pub fn any_eligible(&self) -> bool {
        self.eligible > 0
    }
}

fn is_valid(workers: &Slab<Worker>, turn: &Turn) -> bool {
    workers
        .get(turn.worker as usize)
        .is_some_and(|w| w.stamp == turn.stamp && w.eligible())
}

#[cfg(test)]
mod tests;
