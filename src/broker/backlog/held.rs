//! What acknowledging workers hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::item::Item;
use crate::broker::dispatch::WorkerKey;

/// What a worker calls an event by that it holds. Never given twice by one backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// An event in a worker's hands.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) item: Item,
    pub(super) given_at: Instant,
    worker: WorkerKey,
    deadline: Instant,
}

/// All that is held, by id, by worker and by deadline.
#[derive(Debug, Default)]
pub(super) struct HeldItems {
    by_id: BTreeMap<DeliveryId, Held>,
    by_worker: BTreeSet<(WorkerKey, DeliveryId)>,
    deadlines: BTreeSet<(Instant, DeliveryId)>,
    last_id: u64,
    bytes: usize,
}

impl HeldItems {
    pub(super) fn number_from(&mut self, last: u64) {
        self.last_id = last;
    }

    pub(super) fn insert(
        &mut self,
        item: Item,
        worker: WorkerKey,
        given_at: Instant,
        deadline: Instant,
    ) -> DeliveryId {
        self.last_id += 1;
        let id = DeliveryId(self.last_id);
        self.bytes += item.cost();
        self.by_worker.insert((worker, id));
        self.deadlines.insert((deadline, id));
        let held = Held {
            item,
            given_at,
            worker,
            deadline,
        };
        self.by_id.insert(id, held);
        id
    }

    /// What this worker holds under this id.
    pub(super) fn take(&mut self, worker: WorkerKey, id: DeliveryId) -> Option<Held> {
        let is_theirs = self.by_worker.remove(&(worker, id));
        let held = is_theirs.then(|| self.by_id.remove(&id)).flatten()?;
        self.deadlines.remove(&(held.deadline, id));
        self.bytes -= held.item.cost();
        Some(held)
    }

    /// The earliest whose deadline has come.
    pub(super) fn overdue(&self, now: Instant) -> Option<(WorkerKey, DeliveryId)> {
        let (_, id) = *self.deadlines.first().filter(|(end, _)| *end <= now)?;
        Some((self.by_id[&id].worker, id))
    }

    /// Sets another deadline; whether the worker holds such a delivery.
    pub(super) fn renew(&mut self, worker: WorkerKey, id: DeliveryId, deadline: Instant) -> bool {
        let held = self.by_id.get_mut(&id);
        let Some(held) = held.filter(|held| held.worker == worker) else {
            return false;
        };
        self.deadlines.remove(&(held.deadline, id));
        self.deadlines.insert((deadline, id));
        held.deadline = deadline;
        true
    }

    /// What this worker holds, in the order in which it got it.
    pub(super) fn ids_of(&self, worker: WorkerKey) -> impl Iterator<Item = DeliveryId> {
        let all = (worker, DeliveryId(0))..=(worker, DeliveryId(u64::MAX));
        self.by_worker.range(all).map(|(_, id)| *id)
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(end, _)| *end)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
