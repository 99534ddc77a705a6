//! Confirmed publishing: an event goes to all that it matches, and its publisher is told so.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use super::deliver::Run;
use super::hub::Hub;
use super::requester::{ReturnAddress, Ticket};
use crate::ambient::{now, wall_clock_ms};
use crate::broker::{Item, KnownSubject, Route, ServiceKey};
use crate::messagebus::{DataType, Message};
use crate::model::ServiceName;
use crate::requests::{Emission, Level};
use crate::zmtp::encode_message;

/// Events that wait to be given to subscribers later.
const SCHEDULED_MAX: usize = 10_000;
/// Their bytes; a single one may have more.
const SCHEDULED_BYTES_MAX: usize = 64 << 20;

/// An emission whose answer isn't known yet.
struct Pending {
    id: Bytes,
    /// Its publisher; more if it was sent again meanwhile.
    tickets: Vec<Ticket>,
    /// Durable services that have not said yet whether they have it.
    awaited: usize,
    services: usize,
    failed: Option<String>,
}

/// What is known of an id.
enum Known {
    Pending(u64),
    /// It was accepted, and answered with this number of services.
    Accepted(usize, Level),
}

/// Emissions that wait for the disk or for their time, and the ids of others.
#[derive(Default)]
pub(super) struct Emissions {
    pending: BTreeMap<u64, Pending>,
    last: u64,
    known: HashMap<Bytes, Known>,
    /// The order in which ids are forgotten.
    accepted: VecDeque<(Instant, Bytes)>,
    /// For subscribers, by their time.
    scheduled: BTreeMap<(Instant, u64), Bytes>,
    scheduled_bytes: usize,
}

impl Emissions {
    fn remember(&mut self, id: &Bytes, services: usize, level: Level, ids_max: usize) {
        if id.is_empty() {
            return;
        }
        self.known
            .insert(id.clone(), Known::Accepted(services, level));
        self.accepted.push_back((now(), id.clone()));
        while self.accepted.len() > ids_max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.accepted.pop_front() {
            self.known.remove(&id);
        }
    }

    fn forget_until(&mut self, time: Instant) {
        while self.accepted.front().is_some_and(|(at, _)| *at <= time) {
            self.forget_oldest();
        }
    }

    /// Why an event can't wait for its time, if it can't.
    fn no_room_for(&self, event: &Bytes) -> Option<String> {
        let waiting = self.scheduled_bytes;
        let is_too_much = waiting > 0 && waiting + event.len() > SCHEDULED_BYTES_MAX;
        if self.scheduled.len() < SCHEDULED_MAX && !is_too_much {
            return None;
        }
        let events = self.scheduled.len();
        Some(format!(
            "{events} events of {waiting} bytes wait for their time to go to subscribers already"
        ))
    }

    fn schedule(&mut self, at: Instant, number: u64, event: &Bytes) {
        self.scheduled_bytes += event.len();
        self.scheduled.insert((at, number), event.clone());
    }

    /// The next event, if its time has come.
    fn take_due(&mut self, now: Instant) -> Option<Bytes> {
        let entry = self.scheduled.first_entry();
        let event = entry.filter(|entry| entry.key().0 <= now)?.remove();
        self.scheduled_bytes -= event.len();
        Some(event)
    }

    /// When the next event goes to subscribers.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.scheduled.keys().next().map(|(at, _)| *at)
    }
}

fn answer(id: &Bytes, services: usize, level: Level, duplicate: bool) -> Message {
    let data = json!({
        "id": String::from_utf8_lossy(id),
        "services": services,
        "level": level.name(),
        "duplicate": duplicate,
    });
    Message::ack(DataType::String, data.to_string())
}

impl Hub {
    pub(super) fn emit(&mut self, emission: &Emission, back: ReturnAddress) {
        let window = self.config.dedup_window;
        if let Some(begun) = now().checked_sub(window) {
            self.emissions.forget_until(begun);
        }
        match self.emissions.known.get(&emission.id) {
            Some(Known::Accepted(services, level)) => {
                let known = answer(&emission.id, *services, *level, true);
                return self.reply(&back, &known);
            }
            Some(Known::Pending(number)) => {
                let number = *number;
                if let Some(ticket) = self.promise(back)
                    && let Some(pending) = self.emissions.pending.get_mut(&number)
                {
                    pending.tickets.push(ticket);
                }
                return;
            }
            None => {}
        }
        if self.durable.is_behind() {
            let sentence = "too much waits for the disk; try again";
            return self.reply(&back, &Message::nak("busy", sentence));
        }
        self.publish_confirmed(emission, back);
    }

    fn publish_confirmed(&mut self, emission: &Emission, back: ReturnAddress) {
        let event = encode_message(&emission.frames);
        let first = emission.frames.first().cloned().unwrap_or_default();
        let key = self.broker.routes.key_of(&first).to_vec();
        let KnownSubject { route, place } = self.broker.routes.look_up(&key);
        let durable = self.durable_services(&route);
        let failing = durable.iter().find_map(|name| {
            let reason = self.durable.refusal(name)?;
            Some(format!("{name}: {reason}"))
        });
        if let Some(failing) = failing {
            // Nobody gets it, so that it can be sent again.
            return self.reply(&back, &Message::nak("store-failed", failing));
        }
        let (here, there) = (now(), wall_clock_ms());
        let due = emission.deliver_at_ms.filter(|at| *at > there);
        let due = due.map(|at| here + Duration::from_millis(at - there));
        if due.is_some()
            && !route.subscribers.is_empty()
            && let Some(sentence) = self.emissions.no_room_for(&event)
        {
            return self.reply(&back, &Message::nak("busy", sentence));
        }
        let services = route.services.len();
        let waits = emission.level == Level::Disk && !durable.is_empty();
        self.emissions.last += 1;
        let number = self.emissions.last;
        if waits {
            let Some(ticket) = self.promise(back) else {
                return;
            };
            let pending = Pending {
                id: emission.id.clone(),
                tickets: vec![ticket],
                awaited: durable.len(),
                services,
                failed: None,
            };
            self.emissions.pending.insert(number, pending);
            if !emission.id.is_empty() {
                self.emissions
                    .known
                    .insert(emission.id.clone(), Known::Pending(number));
            }
        } else {
            let ids_max = self.config.dedup_ids_max;
            self.emissions
                .remember(&emission.id, services, Level::Memory, ids_max);
            self.reply(&back, &answer(&emission.id, services, Level::Memory, false));
        }
        self.published.events += 1;
        self.broker.routes.subjects.add(place, 1);
        self.published.bytes += event.len() as u64;
        if route.is_empty() {
            self.published.unmatched += 1;
        }
        self.spread(&route, emission, &event, due, number, waits);
    }

    fn durable_services(&self, route: &Route) -> Vec<ServiceName> {
        let services = route.services.iter();
        let services = services.filter_map(|key| self.broker.service(*key));
        let durable = services.filter(|service| service.shelf.is_some());
        durable.map(|service| service.name().clone()).collect()
    }

    /// Gives the event to subscribers and services, now or when it is due.
    fn spread(
        &mut self,
        route: &Route,
        emission: &Emission,
        event: &Bytes,
        due: Option<Instant>,
        number: u64,
        waits: bool,
    ) {
        match due {
            Some(at) if !route.subscribers.is_empty() => {
                self.emissions.schedule(at, number, event);
                self.plan(at);
            }
            Some(_) => {}
            None => self.deliver_to_subscribers(route, event),
        }
        let expires_at = emission.ttl.map(|ttl| due.unwrap_or_else(now) + ttl);
        for &key in &route.services {
            let Some(service) = self.broker.service_mut(key) else {
                continue;
            };
            service.account.matched += 1;
            let order_by = service.order_by;
            let mut item = self.item(order_by, event.clone());
            item.not_before = due;
            item.expires_at = expires_at;
            self.give_to_service(key, item, &emission.id, waits.then_some(number));
            self.plan_timeout(key);
        }
        self.taken(event.len() * route.services.len());
    }

    fn give_to_service(&mut self, key: ServiceKey, item: Item, id: &Bytes, emission: Option<u64>) {
        let Some(service) = self.broker.service_mut(key) else {
            return;
        };
        if service.shelf.is_some() {
            return self.append_confirmed(key, item, id, emission);
        }
        let before = service.account.dropped;
        service.enqueue(item);
        self.log_dropped_since(key, &before);
        self.dispatch(key);
    }

    fn deliver_to_subscribers(&mut self, route: &Route, event: &Bytes) {
        let run = Run {
            bytes: event.clone(),
            ends: &[event.len()],
            backing_bytes: event.len(),
        };
        let subscribers = Route {
            subscribers: route.subscribers.clone(),
            services: Box::default(),
        };
        self.deliver(&subscribers, &run);
    }

    /// Gives subscribers the events whose time has come.
    pub(super) fn deliver_scheduled(&mut self, now: Instant) {
        while let Some(event) = self.emissions.take_due(now) {
            let frames = crate::zmtp::frames_of(&event);
            let Some(first) = frames.first() else {
                continue;
            };
            let key = self.broker.routes.key_of(first).to_vec();
            let route = self.broker.routes.route(&key);
            self.deliver_to_subscribers(&route, &event);
        }
        self.emissions.next_due().inspect(|at| self.plan(*at));
    }

    /// A durable service has the event of an emission, or not; the last one's word is the answer.
    pub(super) fn confirm(&mut self, number: u64, result: Result<(), String>) {
        let Some(pending) = self.emissions.pending.get_mut(&number) else {
            return;
        };
        pending.awaited -= 1;
        pending.failed = pending.failed.take().or(result.err());
        if pending.awaited > 0 {
            return;
        }
        let Some(pending) = self.emissions.pending.remove(&number) else {
            return;
        };
        let answer = match pending.failed {
            Some(reason) => {
                self.emissions.known.remove(&pending.id);
                Message::nak("store-failed", reason)
            }
            None => {
                let ids_max = self.config.dedup_ids_max;
                self.emissions
                    .remember(&pending.id, pending.services, Level::Disk, ids_max);
                answer(&pending.id, pending.services, Level::Disk, false)
            }
        };
        for ticket in pending.tickets {
            self.complete(ticket, &answer);
        }
    }
}
