//! Confirmed publishing: an event goes to all that it matches, and its publisher is told so.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use super::hub::Hub;
use super::replies::{ReturnAddress, Ticket};
use super::runs::Run;
use crate::ambient::{now, wall_clock_ms};
use crate::broker::{ClockChange, Item, KnownSubject, Route, ServiceKey};
use crate::messagebus::{DataType, Message};
use crate::model::ServiceName;
use crate::queues::EmissionId;
use crate::requests::{Emission, Level};
use crate::zmtp::encode_message;

/// Events that wait to be given to subscribers later.
const SCHEDULED_MAX: usize = 10_000;
/// Their bytes; a single one may have more.
const SCHEDULED_BYTES_MAX: usize = 64 << 20;

/// An emission whose answer isn't known yet.
struct Pending {
    id: Bytes,
    /// Its publisher.
    ticket: Ticket,
    /// Those who have sent it again meanwhile.
    again: Vec<Ticket>,
    /// Durable services that have not said yet whether they have it.
    awaited: usize,
    /// One of them did not have it before: it is no duplicate of an earlier run's.
    is_new: bool,
    reached: Reached,
    /// Those that don't have it, and why the first one does not.
    failed: Vec<ServiceName>,
    reason: Option<String>,
}

/// Who has an event.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    /// Services that have it.
    services: usize,
    /// Whether one of them has it on disk.
    on_disk: bool,
    /// Whether plain subscribers get it.
    subscribers: bool,
}

impl Reached {
    fn level(self, asked: Level) -> Level {
        match self.on_disk {
            true => asked,
            false => Level::Memory,
        }
    }

    /// Nobody has it: it can be sent again when somebody wants it.
    fn is_nobody(self) -> bool {
        self.services == 0 && !self.subscribers
    }
}

/// Where the wall clock stood by ours at some time. All times of the wall clock are converted by it,
/// so that the same is the same, and a later one later, whenever it is converted.
#[derive(Debug, Default)]
struct WallTime(Option<(Instant, u64)>);

impl WallTime {
    /// It is still true when the clocks differ by this much, in ms: they are not read at once, and the
    /// wall clock is adjusted all the time.
    const TOLERANCE_MS: u64 = 2;

    /// When the wall clock will show `at_ms`, which it showed as `there_ms` at `here`.
    fn instant_of(&mut self, at_ms: u64, here: Instant, there_ms: u64) -> Instant {
        let is_true = |(at, ms): &(Instant, u64)| {
            let passed = here.saturating_duration_since(*at).as_millis() as u64;
            ms.saturating_add(passed).abs_diff(there_ms) <= Self::TOLERANCE_MS
        };
        let known = self.0.filter(is_true);
        let (at, ms) = *self.0.insert(known.unwrap_or((here, there_ms)));
        at + Duration::from_millis(at_ms.saturating_sub(ms))
    }
}

/// What is known of an id.
enum Known {
    Pending,
    /// It was accepted, and answered with this number of services.
    Accepted(usize, Level),
    /// All have it who should, but for these services: sent again, it is for them alone.
    Partial(Reached, Vec<ServiceName>),
}

/// Emissions that wait for the disk or for their time, and the ids of others.
#[derive(Default)]
pub(super) struct Emissions {
    pending: BTreeMap<EmissionId, Pending>,
    last: EmissionId,
    /// What is known of ids, and the number of the emission from which it is.
    known: HashMap<Bytes, (EmissionId, Known)>,
    /// The order in which ids are forgotten, unless a later emission had them too.
    answered: VecDeque<(Instant, EmissionId, Bytes)>,
    wall_time: WallTime,
    /// For subscribers, by their time.
    scheduled: BTreeMap<(Instant, EmissionId), Bytes>,
    /// Those that wait, as publishers do, until the subscribers of the run before are back, and whether
    /// services have them. While publishers don't wait, there are none.
    held: VecDeque<(Bytes, bool)>,
    /// Of both.
    waiting_bytes: usize,
}

impl Emissions {
    /// What became of an emission with this id.
    fn remember(&mut self, id: &Bytes, number: EmissionId, known: Known, ids_max: usize) {
        if id.is_empty() {
            return;
        }
        self.known.insert(id.clone(), (number, known));
        self.answered.push_back((now(), number, id.clone()));
        while self.answered.len() > ids_max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, number, id)) = self.answered.pop_front()
            && self.known.get(&id).is_some_and(|(last, _)| *last == number)
        {
            self.known.remove(&id);
        }
    }

    fn forget_until(&mut self, time: Instant) {
        while self.answered.front().is_some_and(|(at, ..)| *at <= time) {
            self.forget_oldest();
        }
    }

    /// Why an event can't wait for its time, if it can't.
    fn no_room_for(&self, event: &Bytes) -> Option<String> {
        let waiting = self.waiting_bytes;
        let is_too_much = waiting > 0 && waiting + event.len() > SCHEDULED_BYTES_MAX;
        let events = self.scheduled.len() + self.held.len();
        if events < SCHEDULED_MAX && !is_too_much {
            return None;
        }
        Some(format!(
            "{events} events of {waiting} bytes wait for their time to go to subscribers already"
        ))
    }

    fn schedule(&mut self, at: Instant, number: EmissionId, event: &Bytes) {
        self.waiting_bytes += event.len();
        self.scheduled.insert((at, number), event.clone());
    }

    /// The next event, if its time has come.
    fn take_due(&mut self, now: Instant) -> Option<Bytes> {
        let entry = self.scheduled.first_entry();
        let event = entry.filter(|entry| entry.key().0 <= now)?.remove();
        self.waiting_bytes -= event.len();
        Some(event)
    }

    fn hold(&mut self, event: &Bytes, has_services: bool) {
        self.waiting_bytes += event.len();
        self.held.push_back((event.clone(), has_services));
    }

    fn take_held(&mut self) -> Option<(Bytes, bool)> {
        let (event, has_services) = self.held.pop_front()?;
        self.waiting_bytes -= event.len();
        Some((event, has_services))
    }

    /// The wall clock was set, and events wait for a time of it.
    pub(super) fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        let scheduled = std::mem::take(&mut self.scheduled).into_iter();
        self.scheduled = scheduled
            .map(|((at, number), event)| ((change.apply(at, now), number), event))
            .collect();
    }

    /// When the next event goes to subscribers.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.scheduled.keys().next().map(|(at, _)| *at)
    }
}

/// Ours, and the wall clock in ms, at one time: who is interrupted between reads them again.
fn both_clocks() -> (Instant, u64) {
    let mut clocks = (now(), wall_clock_ms());
    for _ in 0..3 {
        if now().saturating_duration_since(clocks.0) < Duration::from_millis(1) {
            break;
        }
        clocks = (now(), wall_clock_ms());
    }
    clocks
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
        let mut before = None;
        match self.emissions.known.get(&emission.id) {
            Some((_, Known::Accepted(services, level))) => {
                let known = answer(&emission.id, *services, *level, true);
                return self.reply(&back, &known);
            }
            Some((number, Known::Pending)) => {
                let number = *number;
                if let Some(ticket) = self.promise(back)
                    && let Some(pending) = self.emissions.pending.get_mut(&number)
                {
                    pending.again.push(ticket);
                }
                return;
            }
            Some((_, Known::Partial(reached, failed))) => before = Some((*reached, failed.clone())),
            None => {}
        }
        if self.durable.queues.is_behind() {
            let sentence = "too much waits for the disk; try again";
            return self.reply(&back, &Message::nak("busy", sentence));
        }
        self.publish_confirmed(emission, back, before);
    }

    /// Publishes an event; if it was before, to the services that failed then and want it still.
    fn publish_confirmed(
        &mut self,
        emission: &Emission,
        back: ReturnAddress,
        before: Option<(Reached, Vec<ServiceName>)>,
    ) {
        let event = encode_message(&emission.frames);
        let first = emission.frames.first().cloned().unwrap_or_default();
        let key = self.broker.routes.key_of(&first).to_vec();
        let KnownSubject { mut route, place } = self.broker.routes.look_up(&key);
        let is_new = before.is_none();
        let mut reached = Reached::default();
        if let Some((had, failed)) = before {
            route = Rc::new(self.those_of(&route, &failed));
            reached = had;
        }
        let durable = self.durable_services(&route);
        let failing = durable.iter().find_map(|name| {
            let reason = self.durable.queues.refusal(name)?;
            Some(format!("{name}: {reason}"))
        });
        if let Some(failing) = failing {
            // Nobody gets it, so that it can be sent again.
            return self.reply(&back, &Message::nak("store-failed", failing));
        }
        let (here, there) = both_clocks();
        let due = emission.deliver_at_ms.filter(|at| *at > there);
        let due = due.map(|at| self.emissions.wall_time.instant_of(at, here, there));
        let is_held = is_new && due.is_none() && self.attendance.is_awaited();
        let is_scheduled = due.is_some() && !route.subscribers.is_empty();
        if (is_scheduled || is_held)
            && let Some(sentence) = self.emissions.no_room_for(&event)
        {
            return self.reply(&back, &Message::nak("busy", sentence));
        }
        // Those who are waited for count as there: the event may be theirs.
        reached.subscribers |= is_held || !route.subscribers.is_empty();
        let waits = emission.level == Level::Disk && !durable.is_empty();
        self.emissions.last.0 += 1;
        let number = self.emissions.last;
        if waits {
            let Some(ticket) = self.promise(back) else {
                return;
            };
            reached.services += route.services.len() - durable.len();
            let pending = Pending {
                id: emission.id.clone(),
                ticket,
                again: vec![],
                awaited: durable.len(),
                is_new: false,
                reached,
                failed: vec![],
                reason: None,
            };
            self.emissions.pending.insert(number, pending);
            if !emission.id.is_empty() {
                self.emissions
                    .known
                    .insert(emission.id.clone(), (number, Known::Pending));
            }
        } else {
            reached.services += route.services.len();
            let answered = self.accepted(&emission.id, number, reached, emission.level, false);
            self.reply(&back, &answered);
        }
        if is_new {
            self.books.published.events += 1;
            self.broker.routes.subjects.add(place, 1);
            self.books.published.bytes += event.len() as u64;
            if route.is_empty() && !is_held {
                self.books.published.unmatched += 1;
            }
        }
        match due {
            _ if is_held => self.emissions.hold(&event, !route.services.is_empty()),
            Some(at) if is_scheduled => {
                self.emissions.schedule(at, number, &event);
                self.alarm.set(at);
            }
            Some(_) => {}
            None => {
                // Its time may have come just after that of others.
                self.deliver_scheduled(here);
                self.deliver_to_subscribers(&route, &event);
            }
        }
        self.give_to_services(&route, emission, &event, due, number, waits);
    }

    /// All who should have it do: the answer.
    fn accepted(
        &mut self,
        id: &Bytes,
        number: EmissionId,
        reached: Reached,
        asked: Level,
        is_duplicate: bool,
    ) -> Message {
        let level = reached.level(asked);
        if reached.is_nobody() {
            self.emissions.known.remove(id);
        } else {
            let known = Known::Accepted(reached.services, level);
            let ids_max = self.config.dedup_ids_max;
            self.emissions.remember(id, number, known, ids_max);
        }
        answer(id, reached.services, level, is_duplicate)
    }

    /// The part of a route that leads to these services.
    fn those_of(&self, route: &Route, names: &[ServiceName]) -> Route {
        let is_wanted = |key: &ServiceKey| {
            let service = self.broker.service(*key);
            service.is_some_and(|service| names.contains(service.name()))
        };
        Route {
            subscribers: Box::default(),
            services: route.services.iter().copied().filter(is_wanted).collect(),
        }
    }

    fn durable_services(&self, route: &Route) -> Vec<ServiceName> {
        let services = route.services.iter();
        let services = services.filter_map(|key| self.broker.service(*key));
        let durable = services.filter(|service| service.shelf.is_some());
        durable.map(|service| service.name().clone()).collect()
    }

    /// Gives the event to services, which keep it until it is due.
    fn give_to_services(
        &mut self,
        route: &Route,
        emission: &Emission,
        event: &Bytes,
        due: Option<Instant>,
        number: EmissionId,
        waits: bool,
    ) {
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
            item.by_clock = due.is_some();
            self.give_to_service(key, item, &emission.id, waits.then_some(number));
            self.plan_timeout(key);
        }
        self.taken(event.len() * route.services.len());
    }

    fn give_to_service(
        &mut self,
        key: ServiceKey,
        item: Item,
        id: &Bytes,
        emission: Option<EmissionId>,
    ) {
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

    /// Gives subscribers the events whose time has come, unless they have to wait for subscribers.
    pub(super) fn deliver_scheduled(&mut self, now: Instant) {
        if self.attendance.is_awaited() {
            return;
        }
        while let Some(event) = self.emissions.take_due(now) {
            self.deliver_to_present(&event);
        }
    }

    /// An event of our own goes to services now, and to subscribers when they are not waited for.
    pub(super) fn deliver_or_hold(&mut self, route: &Route, run: &Run<'_>) {
        if !self.attendance.is_awaited() || self.emissions.no_room_for(&run.bytes).is_some() {
            return self.deliver(route, run);
        }
        self.emissions.hold(&run.bytes, true);
        let services = Route {
            subscribers: Box::default(),
            services: route.services.clone(),
        };
        self.deliver(&services, run);
    }

    /// Gives subscribers the events that waited for them.
    pub(super) fn deliver_held(&mut self) {
        while let Some((event, has_services)) = self.emissions.take_held() {
            let has_subscribers = self.deliver_to_present(&event);
            if !has_subscribers && !has_services {
                self.books.published.unmatched += 1;
            }
        }
    }

    /// Gives an event to the subscribers that there are now; whether there are any.
    fn deliver_to_present(&mut self, event: &Bytes) -> bool {
        let frames = crate::zmtp::frames_of(event);
        let Some(first) = frames.first() else {
            return false;
        };
        let key = self.broker.routes.key_of(first).to_vec();
        let route = self.broker.routes.route(&key);
        self.deliver_to_subscribers(&route, event);
        !route.subscribers.is_empty()
    }

    /// A durable service has the event of an emission, and maybe had it before; or it has not. The last
    /// one's word is the answer.
    pub(super) fn confirm(
        &mut self,
        number: EmissionId,
        service: &ServiceName,
        result: Result<bool, String>,
    ) {
        let Some(pending) = self.emissions.pending.get_mut(&number) else {
            return;
        };
        pending.awaited -= 1;
        match result {
            Ok(is_new) => {
                pending.is_new |= is_new;
                pending.reached.services += 1;
                pending.reached.on_disk = true;
            }
            Err(reason) => {
                pending.failed.push(service.clone());
                pending.reason.get_or_insert(reason);
            }
        }
        if pending.awaited > 0 {
            return;
        }
        let Some(pending) = self.emissions.pending.remove(&number) else {
            return;
        };
        let reached = pending.reached;
        let (first, again) = match pending.reason {
            Some(reason) => {
                let known = Known::Partial(reached, pending.failed);
                let ids_max = self.config.dedup_ids_max;
                self.emissions.remember(&pending.id, number, known, ids_max);
                let nak = Message::nak("store-failed", reason);
                (nak.clone(), nak)
            }
            None => {
                let is_duplicate = !pending.is_new;
                let level = Level::Disk;
                let first = self.accepted(&pending.id, number, reached, level, is_duplicate);
                let level = reached.level(level);
                (first, answer(&pending.id, reached.services, level, true))
            }
        };
        self.complete(pending.ticket, &first);
        for ticket in pending.again {
            self.complete(ticket, &again);
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_wall_clock_is_the_same_whenever_it_is_converted() {
        let origin = Instant::now();
        let at = |us: u64| origin + Duration::from_micros(us);
        let mut wall = WallTime::default();
        let due = wall.instant_of(1_000, at(700), 0);
        assert_eq!(due, at(1_000_700));
        // The wall clock turns to the next ms at 1000, 2000, … µs of ours.
        for us in 701..9_000 {
            assert_eq!(wall.instant_of(1_000, at(us), us / 1_000), due);
            assert!(wall.instant_of(1_001, at(us), us / 1_000) > due);
        }
        // It was set.
        let later = wall.instant_of(60_000, at(9_000), 59_000);
        assert_eq!(later, at(1_009_000));
        assert_eq!(wall.instant_of(0, at(10_000), 59_001), at(9_000));
    }
}
