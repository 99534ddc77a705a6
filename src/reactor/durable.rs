//! Services whose events are kept on disk: what comes for them, and what their workers do, is told to
//! the [`Queues`], which decide. [`reports`](super::reports) is the way back, to workers.
//!
//! An event of a durable service goes to the store first, and to the service's backlog when it is
//! durable: what a worker gets, a crash can't take back. All that came since the last flush is one
//! append for each service. While too much waits for the disk, publishers are not read from.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::hub::Hub;
use super::letters::Asked;
use super::runs::Run;
use crate::ambient::{now, wall_clock_ms};
use crate::broker::{Aftermath, Item, OrderBy, OrderKey, Service, ServiceKey};
use crate::config::Config;
use crate::model::{ServiceName, subject_of};
use crate::queues::{Clocks, EmissionId, Queues, Shell};
use crate::store::log::LogLimits;
use crate::store::{Command, Full, Sink, Store};
use crate::zmtp::frames_of;

/// What is noted of an event beside it: its id, the account of a dead one.
const NOTES_BYTES_MAX: usize = 64 << 10;

/// What the reactor keeps of the store.
#[derive(Default)]
pub(super) struct DurableSide {
    pub(super) queues: Queues<Asked>,
    pub(super) tries_wanted: Rc<Notify>,
}

impl DurableSide {
    /// Keeps events from now on, if there is a store.
    pub(super) fn begin(&mut self, store: Option<Arc<Store>>) {
        if let Some(store) = store {
            let found = store.found().to_vec();
            self.queues.begin(Box::new(Shared(store)), found);
        }
    }

    /// Events of this queue were given to workers, or came back from them.
    fn tried(&mut self, queue: &ServiceName) {
        if self.queues.tried(queue) {
            self.tries_wanted.notify_one();
        }
    }
}

struct Shared(Arc<Store>);

impl Sink for Shared {
    fn try_send(&self, command: Command) -> Result<(), Full> {
        self.0.try_send(command)
    }
}

/// What the queues ask of the reactor.
pub(super) struct Surroundings<'a> {
    config: &'a Config,
    hasher: &'a RandomState,
}

impl Shell for Surroundings<'_> {
    fn limits_of(&self, service: &ServiceName) -> LogLimits {
        let retention = self.config.policy_of(service).retention;
        LogLimits {
            event_bytes_max: self.config.limits.message_bytes_max + NOTES_BYTES_MAX,
            bytes_max: retention.bytes_max,
            age_max_ms: retention
                .age_max
                .map_or(u64::MAX, |age| age.as_millis() as u64),
            dedup_window_ms: self.config.dedup_window.as_millis() as u64,
            dedup_ids_max: self.config.dedup_ids_max,
            ..LogLimits::default()
        }
    }

    fn item(&self, order_by: Option<OrderBy>, body: Bytes) -> Item {
        let key = order_by.and_then(|order_by| {
            let frames = frames_of(&body);
            let of = match order_by {
                OrderBy::Subject => subject_of(frames.first()?),
                OrderBy::Frame(index) => frames.get(index)?,
            };
            Some(OrderKey::from_hash(self.hasher.hash_one(of)))
        });
        let mut item = Item::new(body);
        item.key = key;
        item
    }

    fn clocks(&self) -> Clocks {
        Clocks {
            here: now(),
            wall_ms: wall_clock_ms(),
        }
    }
}

impl<'a> Surroundings<'a> {
    pub(super) fn of(config: &'a Config, hasher: &'a RandomState) -> Self {
        Self { config, hasher }
    }

    /// [`item`](Self::item) for one of many events in one piece of memory.
    fn part_item(&self, order_by: Option<OrderBy>, all: &Bytes, part: Range<usize>) -> Item {
        let mut item = self.item(order_by, all.slice(part));
        if item.key.is_some() {
            // It may wait for its key while all around it is done.
            item.own_body();
        }
        item
    }
}

impl Hub {
    /// Has the store open the queues of all durable services.
    pub(super) fn open_queues(&mut self) {
        let shell = Surroundings::of(&self.config, &self.hasher);
        for (_, service) in self.broker.services() {
            self.durable.queues.open_of(service, &shell);
        }
    }

    /// Has the store open the service's queue, if it has one, and that is not open.
    pub(super) fn open_queue(&mut self, service: &ServiceName) {
        let found = self.broker.find(service);
        let shell = Surroundings::of(&self.config, &self.hasher);
        if let Some(service) = found.and_then(|key| self.broker.service(key)) {
            self.durable.queues.open_of(service, &shell);
        }
    }

    pub(super) fn log_limits(&self, service: &ServiceName) -> LogLimits {
        self.surroundings().limits_of(service)
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings::of(&self.config, &self.hasher)
    }

    /// What did not work a while ago is tried again: queues are opened, and read.
    pub(super) fn tend_queues(&mut self) {
        let shell = Surroundings::of(&self.config, &self.hasher);
        let now = self.clock.now;
        self.durable.queues.send_waiting();
        self.durable.queues.try_again(&mut self.broker, now, &shell);
        self.carry_out();
    }

    /// Takes a run of events for a durable service. They matched already.
    pub(super) fn append(&mut self, key: ServiceKey, run: &Run<'_>) {
        let Some(service) = self.broker.service_mut(key) else {
            return;
        };
        let (order_by, before) = (service.order_by, service.account.dropped);
        // What waits must not keep a whole chunk alive.
        let all = Bytes::copy_from_slice(&run.bytes);
        let shell = Surroundings::of(&self.config, &self.hasher);
        let events = 0..run.ends.len();
        let items = events.map(|event| shell.part_item(order_by, &all, run.part(event..event + 1)));
        match self.durable.queues.append(service, items) {
            true => self.peers.want_flush(),
            false => self.log_dropped_since(key, &before),
        }
    }

    /// Takes an event whose publisher may wait to hear of it.
    pub(super) fn append_confirmed(
        &mut self,
        key: ServiceKey,
        item: Item,
        id: &Bytes,
        emission: Option<EmissionId>,
    ) {
        let id = (!id.is_empty()).then(|| id.clone());
        let shell = Surroundings::of(&self.config, &self.hasher);
        let queues = &mut self.durable.queues;
        if let Some(service) = self.broker.service_mut(key) {
            queues.append_confirmed(service, item, id, emission, &shell);
        }
        self.peers.want_flush();
    }

    /// Hands the store what came and what is done since the last time.
    pub(super) fn flush_store(&mut self) {
        if self.durable.queues.wants_flush() {
            let shell = Surroundings::of(&self.config, &self.hasher);
            self.durable.queues.flush(&shell);
        }
    }

    /// Tells the store how often events were tried that are not done.
    pub(super) fn note_tries(&mut self) {
        let shell = Surroundings::of(&self.config, &self.hasher);
        let (broker, stops) = (&mut self.broker, self.phase.has_ended());
        self.durable.queues.note_tries(broker, stops, &shell);
    }

    /// Tells the log of a durable service that its events are given to workers, if they are to be and it
    /// doesn't know. They go when it does.
    pub(super) fn ask_to_hand_out(&mut self, key: ServiceKey, now: Instant) {
        if let Some(service) = self.broker.service_mut(key) {
            self.durable.queues.ask_to_hand_out(service, now);
        }
    }

    /// Reads from the disk what the backlog has room for.
    pub(super) fn refill(&mut self, key: ServiceKey) {
        if let Some(service) = self.broker.service_mut(key) {
            self.durable.queues.refill(service);
        }
    }

    /// Events of a service were given to workers, or came back from them; if it is durable, the store is
    /// told so.
    pub(super) fn tried(&mut self, key: ServiceKey) {
        let is_durable = |service: &&Service| service.shelf.is_some();
        if let Some(service) = self.broker.service(key).filter(is_durable) {
            self.durable.tried(service.name());
        }
    }

    /// What is left to do for events that are done with.
    pub(super) fn finish(&mut self, key: ServiceKey, aftermath: Aftermath) {
        self.tried(key);
        if let Some(service) = self.broker.service(key)
            && !aftermath.settled.is_empty()
        {
            self.durable
                .queues
                .settle(service.name(), aftermath.settled);
            self.peers.want_flush();
        }
        self.bury_dead(key, aftermath.dead);
    }

    /// An event as a service's queue has it.
    pub(super) fn item(&self, order_by: Option<OrderBy>, body: Bytes) -> Item {
        self.surroundings().item(order_by, body)
    }

    /// [`item`](Self::item) for one of many events in one piece of memory.
    pub(super) fn part_item(
        &self,
        order_by: Option<OrderBy>,
        all: &Bytes,
        part: Range<usize>,
    ) -> Item {
        self.surroundings().part_item(order_by, all, part)
    }
}
