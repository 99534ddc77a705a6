//! From a run of events to the outboxes of those who get them.
//!
//! This is the hot path's second half ([`intake`](super::intake) is the first). A run is a stretch
//! of whole messages with one route: it is given to each receiver as one slice. Only a service with
//! several workers needs the borders within it, because each event goes to the next of them.

use std::ops::Range;

use bytes::Bytes;

use super::hub::Hub;
use super::outbox::outweighs;
use super::runs::Run;
use crate::ambient::now;
use crate::broker::{Delivery, DropReason, Given, PeerId, Route, Service, ServiceKey, WorkerKey};
use crate::config::SlowSubscriber;
use crate::telemetry::Notable;

impl Hub {
    /// Gives a run to everybody on its route.
    pub(super) fn deliver(&mut self, route: &Route, run: &Run<'_>) {
        let given = run.bytes.len() * (route.subscribers.len() + route.services.len());
        self.peers.given(given);
        for &id in &route.subscribers {
            self.deliver_to_subscriber(id, run);
        }
        for &service in &route.services {
            self.deliver_to_service(service, run);
        }
        self.taken(given);
    }

    fn deliver_to_subscriber(&mut self, id: PeerId, run: &Run<'_>) {
        let budget = self.config.budgets.subscriber_outbox_bytes;
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        peer.outbox.push(
            &run.bytes,
            0..run.bytes.len(),
            run.events(),
            run.backing_bytes,
        );
        let waiting = peer.outbox.bytes();
        let over = waiting > budget;
        self.books.outbox_peak_bytes = self.books.outbox_peak_bytes.max(waiting);
        self.books.subscribers.matched += run.events();
        self.books.subscribers.in_flight += run.events();
        if over && self.config.slow_subscriber == SlowSubscriber::Disconnect {
            return self.disconnect_slow(id);
        }
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let dropped = if over { peer.outbox.shed(budget) } else { 0 };
        if dropped > 0 {
            self.books.subscribers.in_flight -= dropped;
            self.books
                .subscribers
                .dropped
                .add(DropReason::SlowSubscriber, dropped);
            self.log_slow_subscriber(id, DropReason::SlowSubscriber, dropped);
        }
        self.peers.mark_dirty(id);
    }

    /// Ends the connection of a subscriber whose outbox is full: it subscribes again, and knows that
    /// it missed something.
    fn disconnect_slow(&mut self, id: PeerId) {
        let Some(address) = self.peers.get_mut(id).map(|peer| peer.address.clone()) else {
            return;
        };
        self.remove(id);
        self.refuse(
            "slow-subscriber",
            &address,
            &"it reads too slowly (slowSubscriber is \"disconnect\")",
        );
    }

    pub(super) fn log_slow_subscriber(&mut self, id: PeerId, reason: DropReason, events: u64) {
        let Some(address) = self.peers.get_mut(id).map(|peer| peer.address.clone()) else {
            return;
        };
        let burst = format!("{reason}:{address}");
        self.notes.burst(&burst, self.clock.now, |suppressed| {
            Notable::SubscriberSlow {
                peer: &address,
                reason: reason.name(),
                events,
                suppressed,
            }
        });
    }

    fn deliver_to_service(&mut self, key: ServiceKey, run: &Run<'_>) {
        let Some(service) = self.broker.service_mut(key) else {
            return;
        };
        service.account.matched += run.events();
        if service.shelf.is_some() {
            return self.append(key, run);
        }
        if service.queues_first() {
            self.enqueue(key, run, 0);
            return self.dispatch(key);
        }
        if self.deal_in_turn(key, run) {
            return;
        }
        let dealt = self.deal(key, run);
        if dealt < run.ends.len() {
            self.enqueue(key, run, dealt);
        }
    }

    /// Gives the whole run to the workers in turn, each its share at once, if that is what dealing
    /// one by one would come to; whether it was.
    fn deal_in_turn(&mut self, key: ServiceKey, run: &Run<'_>) -> bool {
        let mut turns = std::mem::take(&mut self.scratch.turns);
        let events = run.ends.len();
        let service = self.broker.service_mut(key);
        let dealt = service.is_some_and(|service| service.workers.pick_in_turn(events, &mut turns));
        if dealt && let [worker] = turns[..] {
            self.push_to_worker(key, worker, run, std::iter::once(0..events));
        } else if dealt {
            for (first, worker) in turns.iter().enumerate() {
                let share = (first..events).step_by(turns.len());
                self.push_to_worker(key, *worker, run, share.map(|event| event..event + 1));
            }
        }
        self.scratch.turns = turns;
        dealt
    }

    /// Gives events to workers one by one; how many found one.
    fn deal(&mut self, key: ServiceKey, run: &Run<'_>) -> usize {
        for event in 0..run.ends.len() {
            let service = self.broker.service_mut(key);
            let Some(worker) = service.and_then(|service| service.workers.pick()) else {
                return event;
            };
            self.push_to_worker(key, worker, run, std::iter::once(event..event + 1));
        }
        run.ends.len()
    }

    /// Lets the run's events from `first` on wait. They are copied together if they are only a part of
    /// the memory that they lie in: what waits must not keep a whole chunk alive.
    fn enqueue(&mut self, key: ServiceKey, run: &Run<'_>, first: usize) {
        let waiting = run.part(first..run.ends.len());
        let start = waiting.start;
        let all = match outweighs(run.backing_bytes, waiting.len()) {
            true => Bytes::copy_from_slice(&run.bytes[waiting]),
            false => run.bytes.slice(waiting),
        };
        let Some(service) = self.broker.service(key) else {
            return;
        };
        let (order_by, before) = (service.order_by, service.account.dropped);
        for event in first..run.ends.len() {
            let part = run.part(event..event + 1);
            let item = self.part_item(order_by, &all, part.start - start..part.end - start);
            if let Some(service) = self.broker.service_mut(key) {
                service.enqueue(item);
            }
        }
        self.log_dropped_since(key, &before);
    }

    /// What follows when anything of a service changed, whatever it was: waiting events go to workers that
    /// can take them, more are read from disk if few can go, and it is noted when the others want
    /// attention. Who changes a service and doesn't call this lets events wait for ever.
    pub(super) fn dispatch(&mut self, key: ServiceKey) {
        self.hand_out(key);
        self.refill(key);
        self.plan_timeout(key);
    }

    fn hand_out(&mut self, key: ServiceKey) {
        let waits = |service: &Service| !service.queue.is_empty() && service.workers.any_eligible();
        if !self.broker.service(key).is_some_and(waits) {
            return;
        }
        let now = now();
        self.ask_to_hand_out(key, now);
        let mut is_durable = false;
        while let Some(service) = self.broker.service_mut(key)
            && !self.phase.has_ended()
            && let Some((given, worker)) = service.dequeue(now)
        {
            match given {
                Given::Away(event) => {
                    let len = event.len();
                    self.peers.given(len);
                    let run = Run {
                        bytes: event,
                        ends: &[len],
                        backing_bytes: len,
                    };
                    self.push_to_worker(key, worker, &run, std::iter::once(0..1));
                }
                Given::Held(delivery) => {
                    is_durable |= delivery.seq.is_some();
                    self.peers.given(delivery.body.len());
                    self.trace_attempt(key, &delivery);
                    self.push_held(key, worker, &delivery);
                }
                Given::Lent(delivery) => {
                    is_durable = true;
                    self.peers.given(delivery.body.len());
                    self.trace_attempt(key, &delivery);
                    self.push_lent(key, worker, &delivery);
                }
            }
        }
        if is_durable {
            self.tried(key);
        }
    }

    /// To a worker that doesn't acknowledge, of a durable service.
    fn push_lent(
        &mut self,
        service: ServiceKey,
        (worker, id): (WorkerKey, PeerId),
        delivery: &Delivery,
    ) {
        let len = delivery.body.len();
        let run = Run {
            bytes: delivery.body.clone(),
            ends: &[len],
            backing_bytes: len,
        };
        let in_flight = self
            .broker
            .service(service)
            .map(|found| found.account.in_flight);
        self.push_to_worker(service, (worker, id), &run, std::iter::once(0..1));
        // It is held, and so in flight already.
        if let Some((found, in_flight)) = self.broker.service_mut(service).zip(in_flight) {
            found.account.in_flight = in_flight;
        }
    }

    fn push_held(
        &mut self,
        service: ServiceKey,
        (worker, id): (WorkerKey, PeerId),
        delivery: &Delivery,
    ) {
        let budget = self.config.budgets.worker_outbox_bytes;
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        peer.push_held(worker, delivery);
        if peer.outbox.bytes() > budget {
            if let Some(service) = self.broker.service_mut(service) {
                service.workers.set_open(worker, false);
            }
            self.set_proxied_open(service, id, false);
        }
        self.peers.mark_dirty(id);
    }

    /// Appends stretches of the run's events to a worker's outbox. It may go over its budget by as
    /// much as a run; then it gets no more until it has read.
    fn push_to_worker(
        &mut self,
        service: ServiceKey,
        (worker, id): (WorkerKey, PeerId),
        run: &Run<'_>,
        stretches: impl Iterator<Item = Range<usize>>,
    ) {
        let budget = self.config.budgets.worker_outbox_bytes;
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let before = peer.outbox.events();
        for events in stretches {
            peer.push_to_worker(worker, run, events);
        }
        let events = peer.outbox.events() - before;
        let full = peer.outbox.bytes() > budget;
        if let Some(service) = self.broker.service_mut(service) {
            service.account.in_flight += events;
            if full {
                service.workers.set_open(worker, false);
            }
        }
        if full {
            self.set_proxied_open(service, id, false);
        }
        self.peers.mark_dirty(id);
    }
}
