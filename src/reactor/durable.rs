//! Services whose events are kept on disk: from a run to the store. [`reports`](super::reports) is the
//! way back, to workers.
//!
//! An event of a durable service goes to the store first, and to the service's backlog when it is
//! durable: what a worker gets, a crash can't take back. All that came since the last flush is one
//! append for each service. While too much waits for the disk, publishers are not read from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::clocks::Clocks;
use super::deliver::Run;
use super::hub::Hub;
use super::peer::Role;
use super::unread::Unread;
use crate::broker::{Aftermath, DropReason, Item, OrderBy, OrderKey, Service, ServiceKey, Shelf};
use crate::model::{ServiceName, subject_of};
use crate::store::log::LogLimits;
use crate::store::{Command, Event, Full, Store};
use crate::zmtp::frames_of;

/// Events that may wait for the disk, in bytes; then no more is read from publishers.
const APPENDING_BYTES_MAX: usize = 32 << 20;

/// What is noted of an event beside it: its id, the account of a dead one.
const NOTES_BYTES_MAX: usize = 64 << 10;

/// A service's events on their way to the store.
#[derive(Default)]
struct Unsent {
    /// What the store gets of each,
    events: Vec<Event>,
    /// and what stays here.
    items: Vec<Item>,
    /// The place of each whose publisher waits to hear of it, and its emission.
    emissions: Vec<(usize, u64)>,
}

impl Unsent {
    fn reserve(&mut self, events: usize) {
        self.events.reserve(events);
        self.items.reserve(events);
    }

    fn push(&mut self, item: Item, id: Option<Bytes>) {
        self.events.push(Event {
            id,
            attributes: Clocks::read().attributes_of(&item),
            body: item.body.clone(),
        });
        self.items.push(item);
    }
}

/// Dead letters on their way to the store.
pub(super) struct Burial {
    pub(super) service: ServiceName,
    /// The events' places in the service's queue, if that is durable.
    pub(super) places: Vec<Option<u64>>,
    bytes: usize,
}

/// What the reactor keeps of the store.
#[derive(Default)]
pub(super) struct DurableSide {
    pub(super) store: Option<Arc<Store>>,
    /// Commands that the store had no room for yet, the oldest first.
    line: VecDeque<Command>,
    /// What came since the last flush.
    unsent: BTreeMap<ServiceKey, Unsent>,
    /// Appends with emissions in them: the place of each event, and its emission.
    pub(super) confirms: BTreeMap<(ServiceKey, u64), Vec<(usize, u64)>>,
    /// What is done since the last flush.
    pub(super) settled: BTreeMap<ServiceName, Vec<u64>>,
    /// Services whose events were given to workers, or came back from them, since the store was told
    /// how often those were tried.
    tried: BTreeSet<ServiceKey>,
    pub(super) tries_wanted: Rc<Notify>,
    /// Events that died since then, by their services, with their places if they have any.
    dead: BTreeMap<ServiceName, Vec<(Event, Option<u64>)>>,
    /// Queues that the store was asked to open.
    pub(super) opened: BTreeSet<ServiceName>,
    /// Queues whose removal the store has not reported yet, and how many removals those are: what it
    /// reports of them until then is of services that are gone.
    pub(super) removing: BTreeMap<ServiceName, usize>,
    /// Queues that take no events, and why.
    pub(super) failed: BTreeMap<ServiceName, String>,
    /// Queues that could not be read when they were asked last.
    pub(super) unread: BTreeMap<ServiceName, Unread>,
    /// What waits for the disk.
    pub(super) appending_bytes: usize,
    /// Some publisher is not read from until less waits.
    holds_publishers: bool,
    /// Appends of dead letters, by the letters' queue and the append's tag.
    pub(super) burials: BTreeMap<(ServiceName, u64), Burial>,
    last_burial: u64,
}

impl DurableSide {
    /// Whether so much waits for the disk that publishers have to wait too.
    pub(super) fn is_behind(&self) -> bool {
        self.appending_bytes > APPENDING_BYTES_MAX
    }

    /// Whether a publisher has to wait; it is woken when it may go on.
    pub(super) fn holds_publisher(&mut self) -> bool {
        let is_behind = self.is_behind();
        self.holds_publishers |= is_behind;
        is_behind
    }

    /// Whether nothing waits for the disk that has to be heard of again.
    pub(super) fn is_idle(&self) -> bool {
        self.line.is_empty()
            && self.unsent.is_empty()
            && self.burials.is_empty()
            && self.dead.is_empty()
            && self.settled.is_empty()
    }

    /// Events of a service that the store was not handed yet.
    pub(super) fn unsent(&self, service: ServiceKey) -> usize {
        let unsent = self.unsent.get(&service);
        unsent.map_or(0, |unsent| unsent.items.len())
    }

    /// Why a queue would not take an event now.
    pub(super) fn refusal(&self, queue: &ServiceName) -> Option<&str> {
        match self.store {
            None => Some("there is no state directory"),
            Some(_) => self.failure(queue),
        }
    }

    /// Why a queue takes no events.
    pub(super) fn failure(&self, queue: &ServiceName) -> Option<&str> {
        self.failed.get(queue).map(String::as_str)
    }

    /// Whether the store has such a queue, as far as is known: it was there at the start, or was asked
    /// for since.
    pub(super) fn has_queue(&self, queue: &ServiceName) -> bool {
        let found = self.store.as_ref().map_or(&[][..], |store| store.found());
        self.opened.contains(queue) || found.contains(queue)
    }

    /// Hands the store a command, as soon as it has room; false if there is no store. How much can wait
    /// for that is bounded: events by what may wait for the disk, the others by the events in memory.
    pub(super) fn send(&mut self, command: Command) -> bool {
        if self.store.is_none() {
            return false;
        }
        self.line.push_back(command);
        self.send_line();
        true
    }

    /// Hands the store what it had no room for.
    pub(super) fn send_line(&mut self) {
        let Some(store) = &self.store else { return };
        while let Some(command) = self.line.pop_front() {
            if let Err(Full(command)) = store.try_send(command) {
                return self.line.push_front(command);
            }
        }
    }

    /// Events of this service were given to workers, or came back from them.
    pub(super) fn tried(&mut self, service: ServiceKey) {
        if self.tried.insert(service) {
            self.tries_wanted.notify_one();
        }
    }

    /// Whether the store should be told of tries, and has room for that.
    pub(super) fn owes_tries(&self) -> bool {
        self.line.is_empty() && !self.tried.is_empty()
    }

    pub(super) fn forget_tries(&mut self, service: ServiceKey) {
        self.tried.remove(&service);
    }

    pub(super) fn settle(&mut self, queue: &ServiceName, places: impl IntoIterator<Item = u64>) {
        let mut places = places.into_iter().peekable();
        if places.peek().is_some() {
            self.settled
                .entry(queue.clone())
                .or_default()
                .extend(places);
        }
    }

    /// Tells the store at once what is done of a queue: the next read must not find it again.
    pub(super) fn send_settled(&mut self, queue: &ServiceName) {
        if let Some((queue, seqs)) = self.settled.remove_entry(queue) {
            self.send(Command::Settle { queue, seqs });
        }
    }

    /// The queue goes; the letters of its events stay.
    pub(super) fn forget_places(&mut self, queue: &ServiceName) {
        let dead = self.dead.get_mut(queue).into_iter().flatten();
        dead.for_each(|(_, place)| *place = None);
    }

    pub(super) fn open(&mut self, queue: &ServiceName, limits: LogLimits) {
        let queue = queue.clone();
        let command = Command::Open {
            queue: queue.clone(),
            limits,
        };
        if !self.opened.contains(&queue) && self.send(command) {
            self.opened.insert(queue);
        }
    }
}

impl Hub {
    /// Has the store open the queues of all durable services.
    pub(super) fn open_queues(&mut self) {
        let services = self.broker.services();
        let names: Vec<_> = services
            .map(|(_, service)| service.name().clone())
            .collect();
        names.iter().for_each(|name| self.open_queue(name));
    }

    /// Has the store open the service's queue, if it has one, and that is not open.
    pub(super) fn open_queue(&mut self, service: &ServiceName) {
        let found = self.broker.find(service);
        let found = found.and_then(|key| self.broker.service(key));
        if found.is_some_and(|found| found.shelf.is_some())
            && !self.durable.opened.contains(service)
        {
            let limits = self.log_limits(service);
            self.durable.open(service, limits);
        }
    }

    /// Tries again those that could not be opened. Those of dead letters, too: it may be long until the
    /// next event dies, and the daemon isn't ready meanwhile.
    pub(super) fn open_failed_queues(&mut self) {
        let failed = self.durable.failed.keys();
        let failed = failed.filter(|queue| !self.durable.opened.contains(*queue));
        let failed: Vec<_> = failed.cloned().collect();
        for queue in failed {
            match queue.of_dead_letters() {
                Some(service) => {
                    let limits = self.log_limits(&service);
                    self.durable.open(&queue, limits);
                }
                None => self.open_queue(&queue),
            }
        }
    }

    pub(super) fn log_limits(&self, service: &ServiceName) -> LogLimits {
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

    /// Takes a run of events for a durable service. They matched already.
    pub(super) fn append(&mut self, key: ServiceKey, run: &Run<'_>) {
        let Some(service) = self.broker.service_mut(key) else {
            return;
        };
        if self.durable.refusal(service.name()).is_some() {
            let before = service.account.dropped;
            service
                .account
                .dropped
                .add(DropReason::StoreFailed, run.ends.len() as u64);
            return self.log_dropped_since(key, &before);
        }
        let order_by = service.order_by;
        // What waits must not keep a whole chunk alive.
        let all = Bytes::copy_from_slice(&run.bytes);
        let mut unsent = self.durable.unsent.remove(&key).unwrap_or_default();
        unsent.reserve(run.ends.len());
        for event in 0..run.ends.len() {
            let item = self.part_item(order_by, &all, run.part(event..event + 1));
            unsent.push(item, None);
        }
        self.durable.unsent.insert(key, unsent);
        self.peers.want_flush();
    }

    /// Takes an event whose publisher may wait to hear of it.
    pub(super) fn append_confirmed(
        &mut self,
        key: ServiceKey,
        item: Item,
        id: &Bytes,
        emission: Option<u64>,
    ) {
        let id = (!id.is_empty()).then(|| id.clone());
        let unsent = self.durable.unsent.entry(key).or_default();
        let place = unsent.items.len();
        unsent
            .emissions
            .extend(emission.map(|emission| (place, emission)));
        unsent.push(item, id);
        self.peers.want_flush();
    }

    /// Hands the store what came and what is done since the last time.
    pub(super) fn flush_store(&mut self) {
        for (key, unsent) in std::mem::take(&mut self.durable.unsent) {
            let service = self.broker.service_mut(key);
            let Some((queue, shelf)) = service.and_then(with_its_shelf) else {
                for (_, emission) in unsent.emissions {
                    self.confirm(emission, None, Err("the service has ended".to_owned()));
                }
                continue;
            };
            let before = shelf.pending_bytes();
            let tag = shelf.append(unsent.items);
            self.durable.appending_bytes += shelf.pending_bytes() - before;
            if !unsent.emissions.is_empty() {
                self.durable.confirms.insert((key, tag), unsent.emissions);
            }
            let command = Command::Append {
                queue,
                tag,
                events: unsent.events,
                urgent: true,
            };
            if !self.durable.send(command) {
                self.append_failed(key, tag, "there is no state directory");
            }
        }
        self.flush_dead();
        for (queue, seqs) in std::mem::take(&mut self.durable.settled) {
            self.durable.send(Command::Settle { queue, seqs });
        }
    }

    /// Tells the store how often events were tried that are not done, unless it has no room: then later.
    /// There is no bound to how often events are tried while the disk hangs, so only the last counts wait
    /// for it, with the events.
    pub(super) fn note_tries(&mut self) {
        if !self.durable.line.is_empty() {
            return;
        }
        for key in std::mem::take(&mut self.durable.tried) {
            let Some(service) = self.broker.service_mut(key) else {
                continue;
            };
            let attempts = service.queue.take_tries();
            let in_hands = service.queue.take_in_hands();
            let later = service.queue.take_later();
            let queue = service.name().clone();
            let rests = service.rests(self.phase.has_ended());
            let is_durable = service.shelf.is_some();
            if !attempts.is_empty() && is_durable {
                let queue = queue.clone();
                let command = Command::Attempts {
                    queue,
                    attempts,
                    in_hands,
                };
                self.durable.send(command);
            }
            if !later.is_empty() && is_durable {
                let clocks = Clocks::read();
                let until = later.into_iter();
                let until = until.map(|(seq, at)| (seq, clocks.wall_ms_at(at)));
                let queue = queue.clone();
                let until_ms = until.collect();
                self.durable.send(Command::Later { queue, until_ms });
            }
            if rests {
                self.durable.send(Command::HandOut { queue, on: false });
            }
        }
    }

    /// Tells the log of a durable service that its events are given to workers, if they are to be and it
    /// doesn't know. They go when it does.
    pub(super) fn ask_to_hand_out(&mut self, key: ServiceKey, now: Instant) {
        let service = self.broker.service_mut(key);
        let asking = service.filter(|service| service.shelf.is_some());
        if let Some(service) = asking
            && service.wants_to_hand_out(now)
        {
            let queue = service.name().clone();
            self.durable.send(Command::HandOut { queue, on: true });
        }
    }

    /// Hands the store dead letters. An event of a durable queue is done there when it is durable here.
    fn flush_dead(&mut self) {
        for (service, dead) in std::mem::take(&mut self.durable.dead) {
            let Some(queue) = service.dead_letters() else {
                let places: Vec<_> = dead.iter().map(|(_, place)| *place).collect();
                self.letters_not_kept(&service, &places, "the service's name is too long");
                continue;
            };
            let limits = self.log_limits(&service);
            self.durable.open(&queue, limits);
            self.durable.last_burial += 1;
            let tag = self.durable.last_burial;
            let (events, places): (Vec<_>, Vec<_>) = dead.into_iter().unzip();
            let bytes = events.iter().map(Event::bytes).sum();
            let command = Command::Append {
                queue: queue.clone(),
                tag,
                events,
                urgent: false,
            };
            if !self.durable.send(command) {
                // Without a state directory nobody asked for them to be kept.
                if !self.config.state_dir.as_os_str().is_empty() {
                    let reason = "the state directory can't be used";
                    self.letters_not_kept(&service, &places, reason);
                }
            } else {
                let burial = Burial {
                    service,
                    places,
                    bytes,
                };
                self.durable.appending_bytes += bytes;
                self.durable.burials.insert((queue, tag), burial);
            }
        }
    }

    pub(super) fn append_failed(&mut self, key: ServiceKey, tag: u64, reason: &str) {
        let before = self
            .broker
            .service(key)
            .map(|service| service.account.dropped);
        self.with_shelf(key, |service, appending_bytes| {
            let Some(shelf) = &mut service.shelf else {
                return;
            };
            let bytes = shelf.pending_bytes();
            let events = shelf.failed(tag);
            *appending_bytes -= bytes - shelf.pending_bytes();
            service.account.dropped.add(DropReason::StoreFailed, events);
        });
        before.inspect(|before| self.log_dropped_since(key, before));
        let confirms = self.durable.confirms.remove(&(key, tag));
        let service = self.broker.service(key);
        let name = service.map(|service| service.name().clone());
        for (_, emission) in confirms.unwrap_or_default() {
            self.confirm(emission, name.as_ref(), Err(reason.to_owned()));
        }
    }

    /// Changes what is of a durable service on its way to the disk, or on it, and does what follows.
    pub(super) fn with_shelf(
        &mut self,
        key: ServiceKey,
        act: impl FnOnce(&mut Service, &mut usize),
    ) {
        if let Some(service) = self.broker.service_mut(key) {
            act(service, &mut self.durable.appending_bytes);
        }
        self.wake_publishers();
        self.dispatch(key);
    }

    /// If too much waited for the disk, and doesn't any more, publishers are read from again.
    pub(super) fn wake_publishers(&mut self) {
        if self.durable.holds_publishers && self.durable.appending_bytes < APPENDING_BYTES_MAX / 2 {
            self.durable.holds_publishers = false;
            let publishers = self
                .peers
                .iter()
                .filter(|peer| matches!(peer.role, Role::Publisher));
            publishers.for_each(|peer| peer.wake.notify_one());
        }
    }

    /// What is left to do for events that are done with.
    pub(super) fn finish(&mut self, key: ServiceKey, aftermath: Aftermath) {
        let Some(service) = self.broker.service(key) else {
            return;
        };
        if service.shelf.is_some() {
            self.durable.tried(key);
        }
        if !aftermath.settled.is_empty() {
            self.durable.settle(service.name(), aftermath.settled);
            self.peers.want_flush();
        }
        self.bury_dead(key, aftermath.dead);
    }

    /// Keeps a dead letter, with the next flush.
    pub(super) fn keep_dead(&mut self, service: &ServiceName, place: Option<u64>, event: Event) {
        let dead = self.durable.dead.entry(service.clone()).or_default();
        dead.push((event, place));
        self.peers.want_flush();
    }

    /// The dead letters of this append, of which the store has said what became of it.
    pub(super) fn take_burial(&mut self, queue: &ServiceName, tag: u64) -> Option<Burial> {
        let burial = self.durable.burials.remove(&(queue.clone(), tag))?;
        self.durable.appending_bytes -= burial.bytes;
        self.wake_publishers();
        Some(burial)
    }
}

impl Hub {
    /// [`item`](Self::item) for one of many events in one piece of memory.
    pub(super) fn part_item(
        &self,
        order_by: Option<OrderBy>,
        all: &Bytes,
        part: Range<usize>,
    ) -> Item {
        let mut item = self.item(order_by, all.slice(part));
        if item.key.is_some() {
            // It may wait for its key while all around it is done.
            item.own_body();
        }
        item
    }

    /// An event as a service's queue has it.
    pub(super) fn item(&self, order_by: Option<OrderBy>, body: Bytes) -> Item {
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
}

fn with_its_shelf(service: &mut Service) -> Option<(ServiceName, &mut Shelf)> {
    let name = service.name().clone();
    Some((name, service.shelf.as_mut()?))
}
