//! What the reactor keeps of durable services: their queues, and what these ask of it.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::replies::Ticket;
use super::runs::Run;
use super::time::WallClock;
use crate::ambient::now;
use crate::config::Config;
use crate::store::Store;
use event_manager_core::broker::{
    Broker, DeliveryMode, Item, OrderBy, OrderKey, Service, ServiceKey,
};
use event_manager_core::log::{LogLimits, StoredEvent};
use event_manager_core::queues::{Clocks, Emitted, Queues, Shell};
use event_manager_core::requests::LettersRequest;
use event_manager_core::store::{Command, Full, Report, Sink};
use event_manager_wire::api::DeadLetters;
use event_manager_wire::api::DurableReason;
use event_manager_wire::model::{ServiceName, subject_of};
use event_manager_zmtp::{HubId, frames};

/// What the log keeps beside an event, at most: its id, or what happened to a dead letter.
const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;

/// A request that waits for dead letters to be read, or to be events again.
#[derive(Debug)]
pub(crate) enum Asked {
    Letters(Ticket, LettersRequest),
    /// How many there are, of a service that has ended.
    Count(Ticket, ServiceName),
    /// Events that are put back, and the answer when they are durable.
    Replay(Ticket, DeadLetters),
}

/// The queues on disk, and what they need.
pub(crate) struct Durable {
    pub(crate) queues: Queues<Asked>,
    pub(crate) items: Items,
    tries_wanted: Rc<Notify>,
    hub_id: HubId,
    wall: WallClock,
}

impl Durable {
    /// None of the daemon with this id yet.
    pub(crate) fn of(hub_id: HubId, wall: WallClock) -> Self {
        Self {
            queues: Queues::default(),
            items: Items::default(),
            tries_wanted: Rc::default(),
            hub_id,
            wall,
        }
    }

    /// From now on events are kept, if there is a store.
    pub(crate) fn begin(&mut self, store: Option<Arc<Store>>) {
        if let Some(store) = store {
            let found = store.found().to_vec();
            self.queues.begin(Box::new(Shared(store)), found);
        }
    }

    /// Notified when the store is to learn how often events were tried.
    pub(crate) fn tries_wanted(&self) -> Rc<Notify> {
        Rc::clone(&self.tries_wanted)
    }

    /// Has the store open a service's queue, if it has one that isn't open.
    pub(crate) fn open(&mut self, service: &Service, config: &Config) {
        let shell = Surroundings::of(config, &self.items, self.hub_id, &self.wall);
        self.queues.open_of(service, &shell);
    }

    /// Takes a run of events, which match already; false if its queue takes none now, and they are
    /// dropped.
    pub(crate) fn append(&mut self, service: &mut Service, run: &Run<'_>) -> bool {
        let (order_by, events) = (service.order_by, run.ends.len());
        let items = &self.items;
        let part = |event, all: &_| items.part(order_by, all, run.part(event..event + 1));
        self.queues.append(service, (&run.bytes, events), |all| {
            (0..events).map(move |event| part(event, &all))
        })
    }

    /// Takes an event whose publisher may wait to hear of it.
    pub(crate) fn append_confirmed(
        &mut self,
        service: &mut Service,
        item: Item,
        emitted: Emitted,
        config: &Config,
    ) {
        let shell = Surroundings::of(config, &self.items, self.hub_id, &self.wall);
        self.queues.append_confirmed(service, item, emitted, &shell);
    }

    /// Puts dead letters back into their service's queue. If the answer doesn't wait for the disk, it
    /// comes back, with the number of letters that had room.
    pub(crate) fn replay(
        &mut self,
        broker: &mut Broker,
        service: ServiceKey,
        (queue, letters): (&ServiceName, Vec<StoredEvent>),
        asked: Asked,
        config: &Config,
    ) -> Option<(Asked, usize)> {
        let shell = Surroundings::of(config, &self.items, self.hub_id, &self.wall);
        self.queues
            .replay(broker, service, queue, letters, asked, &shell)
            .err()
    }

    /// Hands the store what came and what is done since the last time.
    pub(crate) fn flush(&mut self, config: &Config) {
        if self.queues.wants_flush() {
            let shell = Surroundings::of(config, &self.items, self.hub_id, &self.wall);
            self.queues.flush(&shell);
        }
    }

    /// Takes what the store reports.
    pub(crate) fn hear(
        &mut self,
        broker: &mut Broker,
        report: Report,
        now: Instant,
        config: &Config,
    ) {
        let shell = Surroundings::of(config, &self.items, self.hub_id, &self.wall);
        self.queues.hear(broker, report, now, &shell);
        if self.queues.owes_tries() {
            self.tries_wanted.notify_one();
        }
    }

    /// What did not work a while ago is tried again: queues are opened, and read.
    pub(crate) fn try_again(&mut self, broker: &mut Broker, now: Instant, config: &Config) {
        let shell = Surroundings::of(config, &self.items, self.hub_id, &self.wall);
        self.queues.send_waiting();
        self.queues.try_again(broker, now, &shell);
    }

    /// Events of a service were given to workers, or came back from them. If it is durable, the store
    /// is told so a little later.
    pub(crate) fn tried(&mut self, service: &Service) {
        if service.spill.is_some() && self.queues.tried(service.name()) {
            self.tries_wanted.notify_one();
        }
    }

    /// Tells the store how often events were tried that are not done.
    pub(crate) fn note_tries(&mut self, broker: &mut Broker, stops: bool, config: &Config) {
        let shell = Surroundings::of(config, &self.items, self.hub_id, &self.wall);
        self.queues.note_tries(broker, stops, &shell);
    }

    /// The bounds of all open queues, those of dead letters too, are as configured from now on.
    pub(crate) fn set_limits(&mut self, broker: &Broker, config: &Config) {
        self.queues.limit(|queue| {
            let is_service = broker.find(queue).is_some();
            let service = queue.of_dead_letters().filter(|_| !is_service);
            log_limits(config, service.as_ref().unwrap_or(queue))
        });
    }
}

struct Shared(Arc<Store>);

impl Sink for Shared {
    fn try_send(&self, command: Command) -> Result<(), Full> {
        self.0.try_send(command)
    }
}

/// Makes the items of services' queues.
#[derive(Default)]
pub(crate) struct Items {
    /// Peers choose the keys by which events keep their order, so hashes of them can't be foreseen.
    hasher: RandomState,
}

impl Items {
    /// An event as a service's queue has it.
    pub(crate) fn item(&self, order_by: Option<OrderBy>, body: Bytes) -> Item {
        let key = order_by.and_then(|order_by| {
            let mut frames = frames(&body);
            let of = match order_by {
                OrderBy::Subject => subject_of(frames.next()?),
                OrderBy::Frame(index) => frames.nth(index)?,
            };
            Some(OrderKey::from_hash(self.hasher.hash_one(of)))
        });
        let mut item = Item::new(body);
        item.key = key;
        item
    }

    /// [`item`](Self::item) for one of many events in one piece of memory.
    pub(crate) fn part(&self, order_by: Option<OrderBy>, all: &Bytes, part: Range<usize>) -> Item {
        let mut item = self.item(order_by, all.slice(part));
        if item.key.is_some() {
            // It may wait for its key while all around it is done.
            item.own_body();
        }
        item
    }
}

/// What makes a durable service durable.
pub(crate) fn why_durable(service: &Service, config: &Config) -> DurableReason {
    if service.asked_delivery() == Some(DeliveryMode::Queue) {
        return DurableReason::Subscribed;
    }
    match config.policy_of(service.name()).delivery {
        DeliveryMode::Queue => DurableReason::Configured,
        DeliveryMode::Live | DeliveryMode::Engine => DurableReason::OnDisk,
    }
}

/// The bounds of a service's log, and of that of its dead letters.
pub(crate) fn log_limits(config: &Config, service: &ServiceName) -> LogLimits {
    let retention = config.policy_of(service).retention;
    LogLimits {
        event_bytes_max: config.limits.message_bytes_max + ATTRIBUTES_BYTES_MAX,
        bytes_max: retention.bytes_max,
        age_max_ms: retention
            .age_max
            .map_or(u64::MAX, |age| age.as_millis() as u64),
        dedup_window_ms: config.dedup_window.as_millis() as u64,
        dedup_ids_max: config.dedup_ids_max,
        ..LogLimits::default()
    }
}

/// What the queues ask of the reactor.
struct Surroundings<'a> {
    config: &'a Config,
    items: &'a Items,
    hub_id: HubId,
    wall: &'a WallClock,
}

impl<'a> Surroundings<'a> {
    fn of(config: &'a Config, items: &'a Items, hub_id: HubId, wall: &'a WallClock) -> Self {
        Self {
            config,
            items,
            hub_id,
            wall,
        }
    }
}

impl Shell for Surroundings<'_> {
    fn limits_of(&self, service: &ServiceName) -> LogLimits {
        log_limits(self.config, service)
    }

    fn item(&self, order_by: Option<OrderBy>, body: Bytes) -> Item {
        self.items.item(order_by, body)
    }

    fn clocks(&self) -> Clocks {
        self.wall.clocks(now())
    }

    fn hub_id(&self) -> HubId {
        self.hub_id
    }
}
