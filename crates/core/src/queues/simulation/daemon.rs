//! The daemon of the simulation: what the reactor does with the broker and the queues, without sockets.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::site::{Disks, Readers, SimShell, State, Ways, number_of};
use super::{Ask, name};
use crate::broker::{
    Aftermath, BindFailure, Broker, BrokerConfig, ClockChange, Delivery, DeliveryId, DeliveryMode,
    Given, Item, PeerId, Policies, Service, ServiceKey, Streamers, WorkerKey,
};
use crate::log::StoredEvent;
use crate::queues::{Clocks, Emitted, Queues, Shell};
use crate::seq::Seq;
use crate::store::{Event, Logs};
use event_manager_wire::model::{ServiceName, SubjectPattern, SubscriptionId};

/// An event that a worker has.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) id: DeliveryId,
    pub(super) number: u64,
    pub(super) body: Bytes,
    pub(super) given_at: Instant,
    /// It was taken from the worker, which doesn't know it.
    pub(super) is_overdue: Cell<bool>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) service: usize,
    pub(super) service_key: ServiceKey,
    pub(super) key: WorkerKey,
    pub(super) slot: u32,
    pub(super) acknowledges: bool,
    /// It answers in the order in which it gets events.
    pub(super) in_order: bool,
    pub(super) heard_at: Instant,
    pub(super) holds: VecDeque<Held>,
}

/// An event that a worker was just given.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) worker: u32,
    pub(super) service: usize,
    pub(super) number: u64,
    /// None for an event of a live service that isn't acknowledged.
    pub(super) attempt: Option<u32>,
}

struct Willing;

impl Streamers for Willing {
    fn open(&mut self, _: ServiceKey, port: u16) -> Result<u16, BindFailure> {
        Ok(port)
    }
}

pub(super) struct Daemon {
    pub(super) broker: Broker,
    pub(super) queues: Queues<Ask>,
    shell: SimShell,
    ways: Ways,
    store: Logs<State, Ways>,
    readers: Readers,
    disks: Rc<RefCell<Disks>>,
    pub(super) workers: Vec<Worker>,
    last_slot: u32,
    pub(super) handed: Vec<Handed>,
}

impl Daemon {
    pub(super) fn start(
        ways: Ways,
        shell: SimShell,
        disks: &Rc<RefCell<Disks>>,
        policies: Policies,
    ) -> Self {
        let mut broker = Broker::new(BrokerConfig {
            streamer_ports: 5001..=5009,
            subscription_ttl: Duration::from_secs(1 << 30),
            subscriptions_max: 9,
            patterns_per_service_max: 9,
            policies,
        });
        broker.number_deliveries_from(shell.time.wall_ms() << 10);
        let found: Vec<_> = disks.borrow().by_name.keys().cloned().collect();
        broker.know_queues(found.iter().cloned());
        let mut queues = Queues::default();
        queues.begin(Box::new(ways.clone()), found);
        let readers = Readers::default();
        let state = State(Rc::clone(disks), readers.clone());
        let mut daemon = Self {
            broker,
            queues,
            shell,
            disks: Rc::clone(disks),
            store: Logs::new(state, ways.clone()),
            readers,
            ways,
            workers: vec![],
            last_slot: 0,
            handed: vec![],
        };
        (0..3).for_each(|service| daemon.subscribe(service));
        daemon
    }

    fn subscription(service: usize) -> SubscriptionId {
        SubscriptionId::new(name(service).as_str()).unwrap()
    }

    pub(super) fn subscribe(&mut self, service: usize) {
        if self.broker.find(&name(service)).is_some() {
            return;
        }
        let pattern = SubjectPattern::parse("Order", 99).unwrap();
        let delivery = match service {
            0 | 1 => DeliveryMode::Queue,
            _ => DeliveryMode::Live,
        };
        let now = self.shell.time.now();
        let subscribed = self.broker.subscribe(
            &Self::subscription(service),
            &name(service),
            BTreeSet::from([pattern]),
            Some(delivery),
            now,
            &mut Willing,
        );
        let key = subscribed.unwrap().service;
        let service = self.broker.service(key).unwrap();
        self.queues.open_of(service, &self.shell);
    }

    /// Ends a service; whether it was there.
    pub(super) fn end(&mut self, service: usize) -> bool {
        let name = name(service);
        if self.broker.find(&name).is_none() {
            return false;
        }
        let id = Self::subscription(service);
        self.broker.unsubscribe(&id, &BTreeSet::new()).unwrap();
        let ended = self.broker.end_service(&name).unwrap();
        self.workers
            .retain(|worker| worker.service_key != ended.key);
        assert!(ended.durable);
        self.queues.remove(&name);
        true
    }

    pub(super) fn item(&self, key: ServiceKey, body: Bytes) -> Item {
        let order_by = self.broker.service(key).unwrap().order_by;
        self.shell.item(order_by, body)
    }

    pub(super) fn clocks(&self) -> Clocks {
        self.shell.clocks()
    }

    pub(super) fn deliver(&mut self, key: ServiceKey, body: Bytes) {
        let mut item = self.item(key, body);
        let service = self.broker.service_mut(key).unwrap();
        service.account.matched += 1;
        if service.spill.is_some() {
            let body = item.body.clone();
            self.queues.append(service, (&body, 1), |body| {
                item.body = body;
                std::iter::once(item)
            });
        } else {
            service.enqueue(item);
            self.dispatch(key);
        }
    }

    pub(super) fn deliver_confirmed(&mut self, key: ServiceKey, item: Item, emitted: Emitted) {
        let service = self.broker.service_mut(key).unwrap();
        service.account.matched += 1;
        if service.spill.is_some() {
            self.queues
                .append_confirmed(service, item, emitted, &self.shell);
            self.plan_timeout(key);
        } else {
            service.enqueue(item);
            self.dispatch(key);
        }
    }

    pub(super) fn join(&mut self, service: usize, service_key: ServiceKey, credit: Option<u32>) {
        self.last_slot += 1;
        let slot = self.last_slot;
        let found = self.broker.service_mut(service_key).unwrap();
        let key = found.workers.join(PeerId { slot, serial: 0 }, false);
        match credit {
            Some(credit) => found.workers.ready_with(key, credit),
            None => found.workers.ready(key),
        }
        self.workers.push(Worker {
            service,
            service_key,
            key,
            slot,
            acknowledges: credit.is_some(),
            in_order: slot.is_multiple_of(2),
            heard_at: self.shell.time.now(),
            holds: VecDeque::new(),
        });
    }

    pub(super) fn acknowledges_all(&self, service: usize) -> bool {
        let workers = self.workers.iter();
        let mut of_it = workers.filter(|worker| worker.service == service);
        of_it.all(|worker| worker.acknowledges)
    }

    /// As the reactor's.
    pub(super) fn dispatch(&mut self, key: ServiceKey) {
        self.hand_out(key);
        if let Some(service) = self.broker.service_mut(key) {
            self.queues.refill(service);
        }
        self.plan_timeout(key);
    }

    fn plan_timeout(&mut self, key: ServiceKey) {
        let service = self.broker.service(key);
        let at = service.and_then(Service::poll_timeout);
        self.broker.timetable.set(key, at);
    }

    fn hand_out(&mut self, key: ServiceKey) {
        let now = self.shell.time.now();
        let Some(service) = self.broker.service_mut(key) else {
            return;
        };
        if service.queue.is_empty() || !service.workers.any_eligible() {
            return;
        }
        self.queues.ask_to_hand_out(service, now);
        while let Some((given, (worker, peer))) = service.dequeue(now) {
            let (id, body, attempt) = match given {
                Given::Away(body) => {
                    service.account.in_flight += 1;
                    (DeliveryId(0), body, None)
                }
                Given::Held(Delivery {
                    id, body, attempt, ..
                })
                | Given::UntilWritten(Delivery {
                    id, body, attempt, ..
                }) => (id, body, Some(attempt)),
            };
            let number = number_of(&body);
            let is_it = |found: &&mut Worker| found.slot == peer.slot && found.key == worker;
            let found = self.workers.iter_mut().find(is_it).unwrap();
            found.holds.push_back(Held {
                id,
                number,
                body,
                given_at: now,
                is_overdue: Cell::new(false),
            });
            self.handed.push(Handed {
                worker: found.slot,
                service: found.service,
                number,
                attempt,
            });
        }
        if service.spill.is_some() {
            self.queues.tried(service.name());
        }
    }

    pub(super) fn settle(&mut self, key: ServiceKey, seqs: Vec<Seq>) {
        let service = self.broker.service(key).unwrap();
        self.queues.settle(service.name(), seqs);
    }

    pub(super) fn finish(&mut self, key: ServiceKey, aftermath: Aftermath) {
        let service = self.broker.service(key).unwrap();
        let name = service.name().clone();
        if service.spill.is_some() {
            self.queues.tried(&name);
        }
        self.queues.settle(&name, aftermath.settled);
        for letter in aftermath.dead {
            let event = Event {
                id: None,
                attributes: Bytes::from_static(b"account"),
                body: letter.item.body.clone(),
            };
            let (broker, seq) = (&mut self.broker, letter.item.seq);
            self.queues.keep_letter(broker, &name, seq, event);
        }
    }

    pub(super) fn note_tries(&mut self, stops: bool) {
        self.queues.note_tries(&mut self.broker, stops, &self.shell);
    }

    pub(super) fn flush(&mut self) {
        self.queues.flush(&self.shell);
    }

    /// As each tick does.
    pub(super) fn tend(&mut self) {
        self.queues.send_waiting();
        let now = self.shell.time.now();
        self.queues.try_again(&mut self.broker, now, &self.shell);
    }

    /// The store does at most so many commands, together.
    pub(super) fn run_store(&mut self, commands: u64) {
        if commands > 0
            && let Some(first) = self.ways.next_command()
        {
            let mut left = commands - 1;
            let ways = &self.ways;
            self.store.group(first, || {
                left = left.checked_sub(1)?;
                ways.next_command()
            });
        }
        self.read_logs();
        self.store.tend();
        self.disks.borrow().spare_no_more();
    }

    /// The store hears of some of the logs that are read beside it.
    fn read_logs(&mut self) {
        let now_ms = self.shell.time.wall_ms();
        while let Some(opened) = self.readers.next(&self.disks, now_ms) {
            self.store.opened(opened);
        }
    }

    /// Hears the next report; whether there was one.
    pub(super) fn hear_one(&mut self) -> bool {
        let report = self.ways.reports.borrow_mut().pop_front();
        let Some(report) = report else { return false };
        let now = self.shell.time.now();
        self.queues.hear(&mut self.broker, report, now, &self.shell);
        true
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.queues.is_idle() && self.ways.is_empty() && self.readers.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        let mut services = self.broker.services();
        services.all(|(_, service)| service.queued() == 0 && service.queue.held() == 0)
    }

    /// Asks for dead letters; whether that is answered.
    pub(super) fn ask(&mut self, service: &ServiceName, what: Ask) -> bool {
        let letters = service.dead_letters().unwrap();
        let is_changing = || self.queues.is_changing(&letters, |_| true);
        if !self.queues.has_queue(&letters) || is_changing() {
            return false;
        }
        self.queues.open(&letters, self.shell.limits_of(service));
        self.queues
            .read(&letters, (Seq::ZERO, 10_000, 1 << 20), what);
        true
    }

    /// Makes letters events again; whether that is answered already.
    pub(super) fn replay(
        &mut self,
        service: &ServiceName,
        letters: &ServiceName,
        events: Vec<StoredEvent>,
        request: Ask,
    ) -> bool {
        let Some(key) = self.broker.find(service) else {
            return true;
        };
        let broker = &mut self.broker;
        let replayed = self
            .queues
            .replay(broker, key, letters, events, request, &self.shell);
        if replayed.is_err() {
            self.dispatch(key);
        }
        replayed.is_err()
    }

    /// As the reactor does when it sees that the wall clock was set.
    pub(super) fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        self.queues.clock_was_set(change, now);
        let keys: Vec<_> = self.broker.services().map(|(key, _)| key).collect();
        for key in keys {
            let service = self.broker.service_mut(key).unwrap();
            service.clock_was_set(change, now);
            self.plan_timeout(key);
        }
    }

    /// The daemon stops, and so many of the events that the worker has were written to it.
    pub(super) fn end_worker(&mut self, worker: &Worker, written: usize, now: Instant) {
        let service = self.broker.service_mut(worker.service_key).unwrap();
        if service.spill.is_none() {
            return;
        }
        if worker.acknowledges {
            let unwritten = worker.holds.range(written..);
            return service.queue.not_written(unwritten.map(|held| held.id));
        }
        let aftermath = service.written(worker.key, written as u64, now);
        self.queues.settle(service.name(), aftermath.settled);
        let unwritten: Vec<_> = service.queue.held_by(worker.key).collect();
        service.queue.not_written(unwritten);
    }

    /// As the reactor ends, and then the store; whether that was told all.
    pub(super) fn stop(mut self) -> bool {
        self.flush();
        let names: Vec<_> = (0..2).map(name).collect();
        for name in names.iter().filter(|name| self.broker.find(name).is_some()) {
            self.queues.tried(name);
        }
        self.note_tries(true);
        let is_told = self.queues.commands.is_empty();
        // What the channel has no room for is lost, as the store ends when it has done what is there.
        while let Some(first) = self.ways.next_command() {
            self.store.group(first, || self.ways.next_command());
        }
        while !self.readers.is_empty() {
            self.read_logs();
        }
        self.store.end();
        is_told
    }
}
