//! From a run of events to the outboxes of those who get them.
//!
//! This is the hot path's second half ([`intake`](super::intake) is the first). A run is a stretch
//! of whole messages with one route: it is given to each receiver as one slice. Only a service with
//! several workers needs the borders within it, because each event goes to the next of them.

use bytes::Bytes;

use super::to_workers::ToWorkers;
use crate::ambient::now;
use crate::config::SlowSubscriber;
use crate::reactor::hub::Hub;
use crate::reactor::io::outbox::outweighs;
use crate::reactor::report::spans::trace_attempt;
use crate::reactor::state::durable::Items;
use crate::reactor::state::peer::Role;
use crate::reactor::state::runs::Run;
use event_manager_core::broker::{DropReason, PeerId, Route, Service, ServiceKey};

impl Hub {
    /// Gives a run to everybody on its route; whether anybody was there to take it. It may end
    /// connections: those of slow subscribers, and of others when memory is short.
    pub(crate) fn deliver(&mut self, route: &Route, run: &Run<'_>) -> bool {
        let given = run.bytes.len() * (route.subscribers.len() + route.services.len());
        self.peers.given(given);
        let to_services = 4 * run.events() * route.services.len() as u64;
        self.accounts.dealt += to_services + route.subscribers.len() as u64;
        let mut is_matched = !route.services.is_empty();
        for &id in &route.subscribers {
            is_matched |= self.deliver_to_subscriber(id, run);
        }
        for &key in &route.services {
            self.deliver_to_service(key, run);
        }
        self.taken(given);
        is_matched
    }

    /// Whether it is still there.
    fn deliver_to_subscriber(&mut self, id: PeerId, run: &Run<'_>) -> bool {
        let budget = self.config.budgets.subscriber_outbox_bytes;
        // Its connection has ended, and its prefixes are still in the index.
        let Some(peer) = self.peers.outgoing(id) else {
            return false;
        };
        let all = 0..run.bytes.len();
        peer.outbox
            .push(&run.bytes, all, run.events(), run.backing_bytes);
        let waiting = peer.outbox.bytes();
        self.accounts.given_to_subscriber(run.events(), waiting);
        if waiting <= budget {
            return true;
        }
        match self.config.slow_subscriber {
            SlowSubscriber::Disconnect => self.disconnect_slow(id),
            SlowSubscriber::DropOldest => {
                let dropped = peer.outbox.shed(budget);
                if dropped > 0 {
                    let reason = DropReason::SlowSubscriber;
                    self.accounts.dropped_for_subscriber(reason, dropped);
                    if let Role::Subscriber { hub: Some(hub), .. } = &mut peer.role {
                        hub.dropped += dropped;
                    }
                    self.notes.subscriber_slow(&peer.address, reason, dropped);
                }
            }
        }
        true
    }

    /// Ends the connection of a subscriber whose outbox is full: it subscribes again, and knows that
    /// it missed something.
    fn disconnect_slow(&mut self, id: PeerId) {
        let address = self.peers[id].address.clone();
        self.remove(id);
        let why = "it reads too slowly (slowSubscriber is \"disconnect\")";
        self.notes.refuse("slow-subscriber", &address, &why);
    }

    fn deliver_to_service(&mut self, key: ServiceKey, run: &Run<'_>) {
        let service = &mut self.broker[key];
        service.account.matched += run.events();
        if service.spill.is_some() {
            self.append_for_service(key, run);
        } else if service.queues_first() {
            let before = service.account.dropped;
            enqueue(service, run, 0, &self.durable.items);
            self.notes.dropped_since(service, &before);
            self.dispatch(key);
        } else {
            let budget = self.config.budgets.worker_outbox_bytes;
            let mut workers = ToWorkers::of(service, &mut self.peers, budget);
            let dealt = workers.deal(run, &mut self.scratch.turns);
            if dealt < run.ends.len() {
                let before = service.account.dropped;
                enqueue(service, run, dealt, &self.durable.items);
                self.notes.dropped_since(service, &before);
            }
        }
    }

    fn append_for_service(&mut self, key: ServiceKey, run: &Run<'_>) {
        let before = self.broker[key].account.dropped;
        let kept;
        let run = match self.clients.limits_storage() {
            false => run,
            true => {
                kept = self.kept_of(key, run);
                &kept
            }
        };
        if run.events() > 0 && self.durable.append(&mut self.broker[key], run) {
            self.keeps_more(key, run.events(), run.bytes.len());
            self.peers.want_flush();
        }
        self.notes.dropped_since(&self.broker[key], &before);
    }

    /// To be called after any change of a service: gives waiting events to workers that can take them,
    /// reads more from disk if few can go, and plans the next timer. Without it events wait for ever.
    pub(crate) fn dispatch(&mut self, key: ServiceKey) {
        let (service, timetable) = self.broker.with_timetable(key);
        if !service.queue.is_empty() && service.workers.any_eligible() {
            let now = now();
            self.durable.queues.ask_to_hand_out(service, now);
            if !self.phase.has_ended() {
                let budget = self.config.budgets.worker_outbox_bytes;
                let mut workers = ToWorkers::of(service, &mut self.peers, budget);
                let (tracer, shown_max) =
                    (self.notes.tracer(), self.config.limits.subject_bytes_max);
                let trace =
                    |name: &_, delivery: &_| trace_attempt(tracer, shown_max, name, delivery);
                if workers.hand_out(now, trace) {
                    self.durable.tried(service);
                }
            }
        }
        self.durable.queues.refill(service);
        self.time.alarm.plan(key, service, timetable);
        if self.broker[key].taken.is_some() {
            self.tell_engine(key);
        }
    }
}

/// Lets the run's events from `first` on wait. They are copied together if they are only a part of
/// the memory that they lie in: what waits must not keep a whole chunk alive.
fn enqueue(service: &mut Service, run: &Run<'_>, first: usize, items: &Items) {
    let waiting = run.part(first..run.ends.len());
    let start = waiting.start;
    let all = match outweighs(run.backing_bytes, waiting.len()) {
        true => Bytes::copy_from_slice(&run.bytes[waiting]),
        false => run.bytes.slice(waiting),
    };
    for event in first..run.ends.len() {
        let part = run.part(event..event + 1);
        let item = items.part(service.order_by, &all, part.start - start..part.end - start);
        service.enqueue(item);
    }
}
