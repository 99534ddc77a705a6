//! What acknowledging workers hold.
//!
//! Nearly all is done in the order in which it was given, so each index is a line that is added to
//! behind and taken from in front. What is done out of order leaves an entry that means nothing any
//! more; it goes when it comes to the front, or when such entries are the most. What is held while
//! nearly all after it is done is set apart, so that it keeps no line long.
//!
//! **When a delivery is overdue.** A worker takes what it holds in its order, mostly one after the other:
//! what waits in its hands behind other events is not late. So the time of a delivery runs from when it
//! was given or from the last word of its worker, whichever is later. But once the worker has answered an
//! event that it got later, it has *overtaken* this one: it is at work on it, or forgot it. From then on
//! only a word on this delivery itself gives it more time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Instant;

use super::item::{ClockChange, Item, Late};
use crate::broker::account::DropReason;
use crate::broker::ids::{DeliveryId, WorkerKey};
use crate::seq::Seq;

/// A line may have so many entries that mean nothing, beside as many as it has others.
const STALE_MAX: usize = if cfg!(test) { 8 } else { 1024 };

/// An event in a worker's hands.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) item: Item,
    pub(super) given_at: Instant,
    /// A worker that had it before acknowledged it meanwhile: it is done, however this delivery ends.
    pub(super) is_done: bool,
    /// Why its log has given it up meanwhile: it is not tried again.
    pub(super) given_up: Option<DropReason>,
    worker: WorkerKey,
    /// None for what is held until its worker says something, or leaves.
    deadline: Option<Instant>,
    /// Its worker has answered an event that it got later.
    overtaken: bool,
}

/// What one worker holds.
#[derive(Debug, Default)]
struct OfWorker {
    /// In the order in which it got them; those before `overtaken` have been overtaken.
    ids: VecDeque<DeliveryId>,
    overtaken: usize,
    /// Until then its last word counts for what it holds.
    trusted_until: Option<Instant>,
    /// Its entry among those that are looked at when their time comes.
    next_check_at: Option<Instant>,
}

impl OfWorker {
    fn deadline_of(&self, held: &Held) -> Option<Instant> {
        let deadline = held.deadline?;
        match (held.overtaken, self.trusted_until) {
            (false, Some(trusted)) => Some(deadline.max(trusted)),
            _ => Some(deadline),
        }
    }
}

impl OfWorker {
    /// One of its deliveries ended; whether nothing is left of it. The entry in front means something
    /// unless it is the one.
    fn forget(&mut self, ended: DeliveryId, by_id: &ById) -> bool {
        let ids = &mut self.ids;
        if ids.front() == Some(&ended) {
            ids.pop_front();
            self.overtaken = self.overtaken.saturating_sub(1);
            while ids.front().is_some_and(|id| by_id.get(*id).is_none()) {
                ids.pop_front();
                self.overtaken = self.overtaken.saturating_sub(1);
            }
        }
        if ids.len() > line_max(by_id.len()) {
            let (mut overtaken, mut index) = (0, 0);
            ids.retain(|id| {
                let is_held = by_id.get(*id).is_some();
                overtaken += usize::from(is_held && index < self.overtaken);
                index += 1;
                is_held
            });
            self.overtaken = overtaken;
        }
        shrink(ids);
        ids.is_empty() && self.next_check_at.is_none()
    }
}

/// Deliveries by their ids, which are given one after the other.
#[derive(Debug, Default)]
struct ById {
    /// Those from `first` on; what is done leaves a gap.
    line: VecDeque<Option<Held>>,
    first: u64,
    /// How many of the line are no gaps.
    in_line: usize,
    /// Those before `first`: held for so long that most of what came after them is done.
    long_held: BTreeMap<DeliveryId, Held>,
}

impl ById {
    fn index_of(&self, id: DeliveryId) -> Option<usize> {
        usize::try_from(id.0.checked_sub(self.first)?).ok()
    }

    fn get(&self, id: DeliveryId) -> Option<&Held> {
        match self.index_of(id) {
            Some(index) => self.line.get(index)?.as_ref(),
            None => self.long_held.get(&id),
        }
    }

    fn get_mut(&mut self, id: DeliveryId) -> Option<&mut Held> {
        match self.index_of(id) {
            Some(index) => self.line.get_mut(index)?.as_mut(),
            None => self.long_held.get_mut(&id),
        }
    }

    fn push(&mut self, id: DeliveryId, held: Held) {
        if self.line.is_empty() {
            self.first = id.0;
        }
        self.line.push_back(Some(held));
        self.in_line += 1;
    }

    fn take(&mut self, worker: WorkerKey, id: DeliveryId) -> Option<Held> {
        let Some(index) = self.index_of(id) else {
            let held = self.long_held.get(&id)?;
            return (held.worker == worker).then(|| self.long_held.remove(&id))?;
        };
        let held = self.line.get_mut(index)?;
        let held = held.take_if(|held| held.worker == worker)?;
        self.in_line -= 1;
        self.tidy();
        Some(held)
    }

    /// Ends the gap in front, and sets those apart before which there are too many.
    fn tidy(&mut self) {
        let line_max = line_max(self.in_line);
        while let Some(front) = self.line.front()
            && (front.is_none() || self.line.len() > line_max)
        {
            if let Some(mut held) = self.line.pop_front().flatten() {
                held.item.own_body();
                self.long_held.insert(DeliveryId(self.first), held);
                self.in_line -= 1;
            }
            self.first += 1;
        }
        shrink(&mut self.line);
    }

    fn len(&self) -> usize {
        self.in_line + self.long_held.len()
    }
}

/// How many entries a line may have of which so many mean something.
fn line_max(entries: usize) -> usize {
    2 * entries + STALE_MAX
}

/// Gives memory back, but not what will be needed again soon.
fn shrink<T>(line: &mut VecDeque<T>) {
    if line.capacity() > 8 * line_max(line.len()) {
        line.shrink_to(line_max(line.len()));
    }
}

/// All that is held, by id, by worker and by deadline.
#[derive(Debug, Default)]
pub(super) struct HeldItems {
    by_id: ById,
    by_worker: BTreeMap<WorkerKey, OfWorker>,
    /// Workers that hold something with a deadline, and when to look at them: not after the first of
    /// those deadlines, often before it.
    looks: BTreeSet<(Instant, WorkerKey)>,
    /// What was held before by a worker that may still acknowledge it, and the delivery by which it is
    /// held now.
    late: BTreeMap<Late, DeliveryId>,
    last_id: u64,
    bytes: usize,
}

impl HeldItems {
    pub(super) fn number_from(&mut self, last: u64) {
        self.last_id = last;
    }

    /// The number of the last delivery.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Without a deadline it is held until the worker says something, or leaves.
    pub(super) fn insert(
        &mut self,
        item: Item,
        worker: WorkerKey,
        given_at: Instant,
        deadline: Option<Instant>,
    ) -> DeliveryId {
        self.last_id += 1;
        let id = DeliveryId(self.last_id);
        self.bytes += item.cost();
        self.late
            .extend(item.late.as_deref().map(|late| (*late, id)));
        let held = Held {
            item,
            given_at,
            is_done: false,
            given_up: None,
            worker,
            deadline,
            overtaken: false,
        };
        self.by_id.push(id, held);
        let of_worker = self.by_worker.entry(worker).or_default();
        if of_worker.ids.is_empty() {
            of_worker.trusted_until = None;
        }
        of_worker.ids.push_back(id);
        if let Some(deadline) = deadline {
            look_by(&mut self.looks, worker, of_worker, deadline);
        }
        id
    }

    /// The worker said something: until `trusted_until` all that it holds in its order is in time.
    pub(super) fn hear(&mut self, worker: WorkerKey, trusted_until: Instant) {
        if let Some(of_worker) = self.by_worker.get_mut(&worker) {
            of_worker.trusted_until = of_worker.trusted_until.max(Some(trusted_until));
        }
    }

    /// What this worker holds under this id, which it has answered; what it got before is overtaken, and
    /// has this deadline.
    pub(super) fn answered(
        &mut self,
        worker: WorkerKey,
        id: DeliveryId,
        deadline: Instant,
    ) -> Option<Held> {
        let held = self.by_id.take(worker, id)?;
        self.bytes -= held.item.cost();
        let Some(of_worker) = self.by_worker.get_mut(&worker) else {
            return Some(held);
        };
        of_worker.trusted_until = of_worker.trusted_until.max(Some(deadline));
        while let Some(older) = of_worker
            .ids
            .get(of_worker.overtaken)
            .filter(|at| **at < id)
        {
            of_worker.overtaken += 1;
            if let Some(older) = self.by_id.get_mut(*older)
                && older.deadline.is_some()
            {
                older.overtaken = true;
                older.deadline = Some(deadline);
                look_by(&mut self.looks, worker, of_worker, deadline);
            }
        }
        if let Some(late) = &held.item.late {
            self.late.remove(&**late);
        }
        if of_worker.forget(id, &self.by_id) {
            self.by_worker.remove(&worker);
        }
        Some(held)
    }

    /// What this worker holds under this id, and is taken from it.
    pub(super) fn take(&mut self, worker: WorkerKey, id: DeliveryId) -> Option<Held> {
        let held = self.by_id.take(worker, id)?;
        self.bytes -= held.item.cost();
        if let Some(late) = &held.item.late {
            self.late.remove(&**late);
        }
        let of_worker = self.by_worker.get_mut(&worker);
        if of_worker.is_some_and(|of_worker| of_worker.forget(id, &self.by_id)) {
            self.by_worker.remove(&worker);
        }
        Some(held)
    }

    /// The worker is gone; it holds nothing any more.
    pub(super) fn forget(&mut self, worker: WorkerKey) {
        if let Some(of_worker) = self.by_worker.remove(&worker)
            && let Some(at) = of_worker.next_check_at
        {
            self.looks.remove(&(at, worker));
        }
        let by_id = &mut self.by_id;
        self.late.retain(|(by, _), id| {
            let is_of_another = *by != worker;
            if !is_of_another && let Some(held) = by_id.get_mut(*id) {
                held.item.late = None;
            }
            is_of_another
        });
    }

    /// Those whose deadline has come, the earliest first; they are still held. From then on
    /// [`Self::first_look`] is after `now`, if they are taken.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(WorkerKey, DeliveryId)> {
        let mut overdue = vec![];
        while let Some((at, worker)) = self.looks.first().copied().filter(|(at, _)| *at <= now) {
            self.looks.remove(&(at, worker));
            let Some(of_worker) = self.by_worker.get_mut(&worker) else {
                continue;
            };
            of_worker.next_check_at = None;
            let mut next: Option<Instant> = None;
            for id in &of_worker.ids {
                let held = self.by_id.get(*id);
                match held.and_then(|held| of_worker.deadline_of(held)) {
                    None => {}
                    Some(deadline) if deadline <= now => overdue.push((deadline, *id, worker)),
                    Some(deadline) => {
                        next = Some(next.map_or(deadline, |next| next.min(deadline)));
                    }
                }
            }
            match next {
                Some(next) => look_by(&mut self.looks, worker, of_worker, next),
                None if of_worker.ids.is_empty() => drop(self.by_worker.remove(&worker)),
                None => {}
            }
        }
        overdue.sort_unstable();
        overdue.into_iter().map(|(_, id, by)| (by, id)).collect()
    }

    /// A word on this delivery: whether the worker holds it. If it was overtaken, it has until
    /// `deadline`.
    pub(super) fn renew(&mut self, worker: WorkerKey, id: DeliveryId, deadline: Instant) -> bool {
        let held = self.by_id.get_mut(id);
        let Some(held) = held.filter(|held| held.worker == worker) else {
            return false;
        };
        if held.deadline.is_some() {
            held.deadline = held.deadline.max(Some(deadline));
            if let Some(of_worker) = self.by_worker.get_mut(&worker) {
                look_by(&mut self.looks, worker, of_worker, deadline);
            }
        }
        true
    }

    /// Whether its worker has answered an event that it got later.
    pub(super) fn is_overtaken(&self, id: DeliveryId) -> bool {
        self.by_id.get(id).is_some_and(|held| held.overtaken)
    }

    /// Whether something is held that timed out at this worker before, which may still be at it.
    pub(super) fn any_late(&self, worker: WorkerKey) -> bool {
        let all = (worker, DeliveryId(0))..=(worker, DeliveryId(u64::MAX));
        self.late.range(all).next().is_some()
    }

    /// A worker that held this event before says that it is done: whether somebody holds it now.
    pub(super) fn mark_done(&mut self, late: Late) -> bool {
        let id = self.late.get(&late).copied();
        let held = id.and_then(|id| self.by_id.get_mut(id));
        held.map(|held| held.is_done = true).is_some()
    }

    /// What this worker holds, in the order in which it got it.
    pub(super) fn ids_of(&self, worker: WorkerKey) -> impl Iterator<Item = DeliveryId> {
        let of_worker = self.by_worker.get(&worker);
        let ids = of_worker.into_iter().flat_map(|of_worker| &of_worker.ids);
        ids.copied().filter(|id| self.by_id.get(*id).is_some())
    }

    /// This delivery never reached its worker: it was no try. The event's sequence number, and how often
    /// it was tried then.
    pub(super) fn not_written(&mut self, id: DeliveryId) -> Option<(Seq, u32)> {
        let item = &mut self.by_id.get_mut(id)?.item;
        item.attempt = item.attempt.saturating_sub(1);
        Some((item.seq?, item.attempt))
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        let ById {
            line, long_held, ..
        } = &mut self.by_id;
        line.iter_mut().flatten().chain(long_held.values_mut())
    }

    /// The wall clock was set: what comes back goes or ends at another time.
    pub(super) fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        for held in self.all_mut() {
            held.item.clock_was_set(change, now);
        }
    }

    /// The log has given up the events with these sequence numbers: they are in their workers' hands alone.
    pub(super) fn give_up(&mut self, seqs: &BTreeSet<Seq>, reason: DropReason) {
        for held in self.all_mut() {
            let seq = held.item.seq.take_if(|seq| seqs.contains(seq));
            held.given_up = held.given_up.or(seq.map(|_| reason));
        }
    }

    /// What is held and was given after this delivery.
    pub(super) fn given_after(&self, id: DeliveryId) -> impl Iterator<Item = &Held> {
        let from = id.0.saturating_add(1).saturating_sub(self.by_id.first);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let from = from.min(self.by_id.line.len());
        let line = self.by_id.line.range(from..).flatten();
        let apart = self
            .by_id
            .long_held
            .range((Bound::Excluded(id), Bound::Unbounded));
        apart.map(|(_, held)| held).chain(line)
    }

    /// When to look whether something is overdue: not after the first deadline.
    pub(super) fn first_look(&self) -> Option<Instant> {
        self.looks.first().map(|(at, _)| *at)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Has a worker looked at when this deadline comes, if not before.
fn look_by(
    looks: &mut BTreeSet<(Instant, WorkerKey)>,
    worker: WorkerKey,
    of_worker: &mut OfWorker,
    deadline: Instant,
) {
    if of_worker.next_check_at.is_some_and(|at| at <= deadline) {
        return;
    }
    if let Some(at) = of_worker.next_check_at.replace(deadline) {
        looks.remove(&(at, worker));
    }
    looks.insert((deadline, worker));
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]

    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn lines(held: &HeldItems) -> [usize; 3] {
        let of_workers = held.by_worker.values().map(|by| by.ids.len()).max();
        [
            held.by_id.line.len(),
            held.looks.len(),
            of_workers.unwrap_or_default(),
        ]
    }

    #[test]
    fn one_that_is_held_for_long_pins_nothing() {
        let mut held = HeldItems::default();
        let start = Instant::now();
        let worker = WorkerKey(0);
        let give = |held: &mut HeldItems, ms| {
            let at = start + Duration::from_millis(ms);
            held.insert(Item::new(Bytes::new()), worker, at, Some(at))
        };
        let first = give(&mut held, 0);
        for ms in 1..10_000 {
            let id = give(&mut held, ms);
            let later = start + Duration::from_millis(20_000 + ms);
            assert!(held.renew(worker, id, later));
            assert!(held.answered(worker, id, later).is_some());
            assert!(lines(&held).iter().all(|len| *len <= 2 + STALE_MAX));
        }
        assert_eq!(held.ids_of(worker).collect::<Vec<_>>(), [first]);
        assert!(held.take(worker, first).is_some());
        // Its worker is looked at once more.
        assert_eq!((lines(&held), held.by_worker.len()), ([0, 1, 0], 1));
        assert_eq!(held.overdue(start + Duration::from_secs(60)), []);
        assert_eq!((lines(&held), held.by_worker.len()), ([0; 3], 0));
    }

    #[test]
    fn what_is_held_for_long_keeps_no_more_alive_than_its_own() {
        let (mut held, worker, start) = (HeldItems::default(), WorkerKey(0), Instant::now());
        let all = Bytes::from(vec![b'x'; 1 << 20]);
        let long = held.insert(Item::new(all.slice(..9)), worker, start, None);
        assert!(!all.is_unique());
        for _ in 0..100 {
            let id = held.insert(Item::new(all.slice(9..)), worker, start, None);
            assert!(held.take(worker, id).is_some());
        }
        assert!(all.is_unique());
        let kept = held.take(worker, long).map(|held| held.item.body);
        assert_eq!(kept, Some(Bytes::from_static(b"xxxxxxxxx")));
    }

    /// One that is held, by a naive model.
    #[derive(Debug, Clone, Copy)]
    struct Naive {
        id: DeliveryId,
        worker: WorkerKey,
        deadline: Option<Instant>,
        overtaken: bool,
    }

    proptest! {
        #[test]
        fn it_is_what_a_list_would_be(steps in prop::collection::vec((0..8_u8, 0..3_u32, any::<prop::sample::Index>(), 0..50_u64), 0..400)) {
            let start = Instant::now();
            let (mut held, mut naive) = (HeldItems::default(), Vec::<Naive>::new());
            let mut trusted = [None::<Instant>; 3];
            for (what, n, which, ms) in steps {
                let (worker, at) = (WorkerKey(n), start + Duration::from_millis(ms));
                let known = (!naive.is_empty()).then(|| which.index(naive.len()));
                match (what, known) {
                    (0 | 1, _) => {
                        if naive.iter().all(|entry| entry.worker != worker) {
                            trusted[n as usize] = None;
                        }
                        let deadline = (what == 0).then_some(at);
                        let id = held.insert(Item::new(Bytes::new()), worker, start, deadline);
                        naive.push(Naive { id, worker, deadline, overtaken: false });
                    }
                    (2, Some(index)) => {
                        let Naive { id, worker: theirs, .. } = naive[index];
                        prop_assert_eq!(held.take(worker, id).is_some(), theirs == worker);
                        naive.retain(|other| other.id != id || theirs != worker);
                    }
                    (3, Some(index)) => {
                        let entry = &mut naive[index];
                        prop_assert_eq!(held.renew(worker, entry.id, at), entry.worker == worker);
                        if entry.worker == worker {
                            entry.deadline = entry.deadline.map(|before| before.max(at));
                        }
                    }
                    (4, Some(index)) => {
                        let Naive { id, worker: theirs, .. } = naive[index];
                        prop_assert_eq!(held.answered(worker, id, at).is_some(), theirs == worker);
                        if theirs == worker {
                            trusted[n as usize] = trusted[n as usize].max(Some(at));
                            naive.retain(|other| other.id != id);
                            for older in naive.iter_mut().filter(|other| other.worker == worker && other.id < id && !other.overtaken) {
                                older.overtaken = true;
                                older.deadline = older.deadline.map(|_| at);
                            }
                        }
                    }
                    (5, _) => {
                        held.hear(worker, at);
                        trusted[n as usize] = trusted[n as usize].max(Some(at));
                    }
                    (6, _) => {
                        let mut expected: Vec<_> = naive.iter().filter_map(|entry| {
                            let trusted = trusted[entry.worker.0 as usize].filter(|_| !entry.overtaken);
                            let deadline = trusted.map_or(entry.deadline?, |trusted| trusted.max(entry.deadline.unwrap()));
                            (deadline <= at).then_some((deadline, entry.id, entry.worker))
                        }).collect();
                        expected.sort();
                        let overdue = held.overdue(at);
                        prop_assert_eq!(&overdue, &expected.iter().map(|(_, id, by)| (*by, *id)).collect::<Vec<_>>());
                        for (by, id) in overdue {
                            prop_assert!(held.take(by, id).is_some());
                            naive.retain(|other| other.id != id);
                        }
                        prop_assert!(held.first_look().is_none_or(|next| next > at));
                    }
                    _ => prop_assert!(held.take(worker, DeliveryId(1_000_000)).is_none()),
                }
                prop_assert_eq!(held.len(), naive.len());
                prop_assert_eq!(held.given_after(DeliveryId(3)).count(), naive.iter().filter(|entry| entry.id.0 > 3).count());
                for worker in (0..3).map(WorkerKey) {
                    let theirs: Vec<_> = naive.iter().filter(|entry| entry.worker == worker).map(|entry| entry.id).collect();
                    prop_assert_eq!(held.ids_of(worker).collect::<Vec<_>>(), theirs);
                }
            }
        }
    }
}
