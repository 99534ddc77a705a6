//! One service: its subscriptions' patterns, its workers, its queue, its books.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::account::{Account, DropReason};
use super::backlog::{Backlog, Item, Lost, Policy};
use super::dispatch::{WorkerKey, Workers};
use super::routes::PeerId;
use crate::model::{ServiceName, SubjectPattern, SubscriptionId};

/// A service's place in the broker's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey(pub u32);

/// A service with at least one subscription.
#[derive(Debug)]
pub struct Service {
    name: ServiceName,
    port: u16,
    pub(super) subscriptions: BTreeSet<SubscriptionId>,
    /// How many subscriptions ask for each pattern.
    pub(super) patterns: BTreeMap<SubjectPattern, usize>,
    /// Its workers.
    pub workers: Workers,
    /// Events that no worker could take, and those that acknowledging workers hold.
    pub queue: Backlog,
    /// Where its events went.
    pub account: Account,
}

impl Service {
    pub(super) fn new(name: ServiceName, port: u16, policy: Rc<Policy>) -> Self {
        Self {
            name,
            port,
            subscriptions: BTreeSet::new(),
            patterns: BTreeMap::new(),
            workers: Workers::default(),
            queue: Backlog::new(policy),
            account: Account::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The port of its streamer.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its subscriptions.
    pub fn subscriptions(&self) -> impl Iterator<Item = &SubscriptionId> {
        self.subscriptions.iter()
    }

    /// The union of its subscriptions' patterns.
    pub fn patterns(&self) -> impl Iterator<Item = &SubjectPattern> {
        self.patterns.keys()
    }

    /// Lets an event wait; counts what is given up for it.
    pub fn enqueue(&mut self, event: Bytes) {
        let lost = self.queue.push(Item::new(event));
        self.count_lost(lost);
    }

    /// Takes the next waiting event and the worker that gets it, if there are both.
    pub fn dequeue(&mut self, now: Instant) -> Option<(Bytes, (WorkerKey, PeerId))> {
        if !self.queue.has_next(now) {
            return None;
        }
        let worker = self.workers.pick()?;
        Some((self.queue.next(now)?.body, worker))
    }

    /// A worker's connection ended. The events that had not been written to it go to the front of
    /// the queue, in their order; the oldest are given up if that is full.
    pub fn worker_left(&mut self, worker: WorkerKey, unwritten: Vec<Bytes>) {
        let unwritten_events = unwritten.len() as u64;
        let held = self.workers.leave(worker);
        self.account.unconfirmed += held.saturating_sub(unwritten_events);
        self.account.in_flight -= unwritten_events;
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

    /// The two sides of the accounting law.
    pub fn sides(&self) -> (u64, u64) {
        let (queued, held) = (self.queue.len() as u64, self.queue.held() as u64);
        self.account.sides(queued, held)
    }
}
