//! What acknowledging workers hold.
//!
//! Nearly all is done in the order in which it was given, so each index is a line that is added to
//! behind and taken from in front. What is done out of order leaves an entry that means nothing any
//! more; it goes when it comes to the front, or when such entries are the most. What is held while
//! nearly all after it is done is set apart, so that it keeps no line long.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::item::Item;
use crate::broker::dispatch::WorkerKey;

/// A line may have so many entries that mean nothing, beside as many as it has others.
const STALE_MAX: usize = if cfg!(test) { 8 } else { 1024 };

/// What a worker calls an event by that it holds. Never given twice by one backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// An event in a worker's hands.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) item: Item,
    pub(super) given_at: Instant,
    worker: WorkerKey,
    deadline: Option<Instant>,
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
    fn place(&self, id: DeliveryId) -> Option<usize> {
        usize::try_from(id.0.checked_sub(self.first)?).ok()
    }

    fn get(&self, id: DeliveryId) -> Option<&Held> {
        match self.place(id) {
            Some(place) => self.line.get(place)?.as_ref(),
            None => self.long_held.get(&id),
        }
    }

    fn get_mut(&mut self, id: DeliveryId) -> Option<&mut Held> {
        match self.place(id) {
            Some(place) => self.line.get_mut(place)?.as_mut(),
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
        let Some(place) = self.place(id) else {
            let held = self.long_held.get(&id)?;
            return (held.worker == worker).then(|| self.long_held.remove(&id))?;
        };
        let held = self.line.get_mut(place)?;
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

/// Takes out what means nothing any more: in front always, elsewhere when it has become too much. The
/// entry in front still means something unless it `ended` just now.
fn tidy<T>(line: &mut VecDeque<T>, others_max: usize, ended: bool, is_live: impl Fn(&T) -> bool) {
    while ended && line.front().is_some_and(|entry| !is_live(entry)) {
        line.pop_front();
    }
    if line.len() > line_max(others_max) {
        line.retain(is_live);
    }
    shrink(line);
}

/// All that is held, by id, by worker and by deadline.
#[derive(Debug, Default)]
pub(super) struct HeldItems {
    by_id: ById,
    by_worker: BTreeMap<WorkerKey, VecDeque<DeliveryId>>,
    deadlines: VecDeque<(Instant, DeliveryId)>,
    last_id: u64,
    bytes: usize,
}

impl HeldItems {
    pub(super) fn number_from(&mut self, last: u64) {
        self.last_id = last;
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
        self.by_worker.entry(worker).or_default().push_back(id);
        let held = Held {
            item,
            given_at,
            worker,
            deadline,
        };
        self.by_id.push(id, held);
        deadline.inspect(|deadline| self.expect(*deadline, id));
        id
    }

    /// Deadlines nearly always go up, too.
    fn expect(&mut self, deadline: Instant, id: DeliveryId) {
        let entry = (deadline, id);
        match self.deadlines.back() {
            Some(last) if *last > entry => {
                let place = self.deadlines.partition_point(|other| *other < entry);
                self.deadlines.insert(place, entry);
            }
            _ => self.deadlines.push_back(entry),
        }
    }

    /// What this worker holds under this id.
    pub(super) fn take(&mut self, worker: WorkerKey, id: DeliveryId) -> Option<Held> {
        let held = self.by_id.take(worker, id)?;
        self.bytes -= held.item.cost();
        self.tidy_deadlines(id);
        let (by_id, by_worker) = (&self.by_id, &mut self.by_worker);
        if let Some(ids) = by_worker.get_mut(&worker) {
            let ended = ids.front() == Some(&id);
            tidy(ids, by_id.len(), ended, |id| by_id.get(*id).is_some());
            if ids.is_empty() {
                by_worker.remove(&worker);
            }
        }
        Some(held)
    }

    /// A deadline of this delivery means nothing any more.
    fn tidy_deadlines(&mut self, ended: DeliveryId) {
        let by_id = &self.by_id;
        let ended = self.deadlines.front().is_some_and(|(_, id)| *id == ended);
        tidy(&mut self.deadlines, by_id.len(), ended, |(deadline, id)| {
            by_id
                .get(*id)
                .is_some_and(|held| held.deadline == Some(*deadline))
        });
    }

    /// The earliest whose deadline has come.
    pub(super) fn overdue(&self, now: Instant) -> Option<(WorkerKey, DeliveryId)> {
        let (_, id) = *self.deadlines.front().filter(|(end, _)| *end <= now)?;
        Some((self.by_id.get(id)?.worker, id))
    }

    /// Sets another deadline; whether the worker holds such a delivery.
    pub(super) fn renew(&mut self, worker: WorkerKey, id: DeliveryId, deadline: Instant) -> bool {
        let held = self.by_id.get_mut(id);
        let Some(held) = held.filter(|held| held.worker == worker) else {
            return false;
        };
        if held.deadline.replace(deadline) != Some(deadline) {
            self.expect(deadline, id);
            self.tidy_deadlines(id);
        }
        true
    }

    /// What this worker holds, in the order in which it got it.
    pub(super) fn ids_of(&self, worker: WorkerKey) -> impl Iterator<Item = DeliveryId> {
        let ids = self.by_worker.get(&worker).into_iter().flatten();
        ids.copied().filter(|id| self.by_id.get(*id).is_some())
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(end, _)| *end)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
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
        let of_workers = held.by_worker.values().map(VecDeque::len).max();
        [
            held.by_id.line.len(),
            held.deadlines.len(),
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
            assert!(held.renew(worker, id, start + Duration::from_millis(20_000 + ms)));
            assert!(held.take(worker, id).is_some());
            assert!(lines(&held).iter().all(|len| *len <= 2 + STALE_MAX));
        }
        assert_eq!(held.ids_of(worker).collect::<Vec<_>>(), [first]);
        assert!(held.take(worker, first).is_some());
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

    /// All that is held, by a naive model: id, worker, deadline.
    type Naive = Vec<(DeliveryId, WorkerKey, Option<Instant>)>;

    proptest! {
        #[test]
        fn it_is_what_a_list_would_be(steps in prop::collection::vec((0..5_u8, 0..3_u32, any::<prop::sample::Index>(), 0..50_u64), 0..400)) {
            let start = Instant::now();
            let (mut held, mut naive) = (HeldItems::default(), Naive::new());
            for (what, worker, which, ms) in steps {
                let (worker, at) = (WorkerKey(worker), start + Duration::from_millis(ms));
                let known = (!naive.is_empty()).then(|| which.index(naive.len()));
                match (what, known) {
                    (0 | 1, _) => {
                        let deadline = (what == 0).then_some(at);
                        let id = held.insert(Item::new(Bytes::new()), worker, start, deadline);
                        naive.push((id, worker, deadline));
                    }
                    (2, Some(place)) => {
                        let (id, theirs, _) = naive[place];
                        prop_assert_eq!(held.take(worker, id).is_some(), theirs == worker);
                        naive.retain(|(other, _, _)| *other != id || theirs != worker);
                    }
                    (3, Some(place)) => {
                        let (id, theirs, deadline) = &mut naive[place];
                        prop_assert_eq!(held.renew(worker, *id, at), *theirs == worker);
                        if *theirs == worker {
                            *deadline = Some(at);
                        }
                    }
                    _ => prop_assert!(held.take(worker, DeliveryId(1_000_000)).is_none()),
                }
                let first = naive.iter().filter_map(|(id, worker, end)| Some(((*end)?, *id, *worker))).min();
                prop_assert_eq!(held.first_deadline(), first.map(|(end, ..)| end));
                let overdue = first.filter(|(end, ..)| *end <= at).map(|(_, id, worker)| (worker, id));
                prop_assert_eq!(held.overdue(at), overdue);
                prop_assert_eq!(held.len(), naive.len());
                for worker in (0..3).map(WorkerKey) {
                    let theirs: Vec<_> = naive.iter().filter(|entry| entry.1 == worker).map(|entry| entry.0).collect();
                    prop_assert_eq!(held.ids_of(worker).collect::<Vec<_>>(), theirs);
                }
            }
        }
    }
}
