//! Confirmed publishing: an event goes to all that it matches, and its publisher is told so.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::emit_answers::{Said, refused_by_engine};
use crate::ambient::now;
use crate::reactor::hub::Hub;
use crate::reactor::state::emissions::{ForLater, Found, IdLimits, Known, Reached};
use crate::reactor::state::inside::{Answers, Batch, Published, Publishing, Slot};
use crate::reactor::state::observing::is_observed;
use crate::reactor::state::replies::{Asker, ReturnAddress};
use crate::reactor::state::runs::Run;
use event_manager_core::broker::{
    Broker, DropReason, KnownSubject, Route, ServiceKey, SubjectIndex, Via,
};
use event_manager_core::event_id::{Emitter, EventId};
use event_manager_core::queues::{EmissionId, Emitted};
use event_manager_core::requests::{Emission, Level};
use event_manager_core::security::Identity;
use event_manager_core::seq::Seq;
use event_manager_wire::messagebus::Message;
use event_manager_wire::model::ServiceName;
use event_manager_zmtp::encode_message;

/// An event that is about to be published.
struct Publication {
    number: EmissionId,
    event: Bytes,
    via: Via,
    route: Rc<Route>,
    /// Where its subject is counted.
    subject: SubjectIndex,
    /// It was not published before. Else it goes to those services only that failed then.
    is_new: bool,
    /// Services on its route that don't get it, because the quotas of others than its emitter are full.
    left_out: Vec<ServiceKey>,
    /// The durable services on its route that get it.
    durable: Vec<ServiceName>,
    /// Who has it already, or gets it whatever happens.
    reached: Reached,
    /// The answer waits for the disk.
    waits_for_disk: bool,
    /// When it was planned.
    at: Instant,
    /// When it is to be delivered, if not at once.
    due: Option<Instant>,
    /// The subscribers of the previous run are waited for: it may be theirs.
    awaits_subscribers: bool,
}

impl Publication {
    /// It waits for its time, to go to subscribers.
    fn is_scheduled(&self) -> bool {
        self.due.is_some() && (self.awaits_subscribers || !self.route.subscribers.is_empty())
    }

    /// It goes to subscribers when those of the previous run are there.
    fn is_held(&self) -> bool {
        self.due.is_none() && self.awaits_subscribers
    }

    fn for_later(&self) -> ForLater {
        ForLater {
            event: self.event.clone(),
            via: self.via,
            has_matched: !self.route.is_empty(),
        }
    }
}

impl Hub {
    /// Publishes what a client has asked for, or another event manager.
    pub(crate) fn emit_for(&mut self, emission: &Emission, back: ReturnAddress) {
        let hub = self.peers.get(back.peer).and_then(|peer| peer.zmtp.hub);
        if let Some(hub) = hub.filter(|hub| self.is_own_hub(*hub)) {
            let sentence = format!(
                "the hub that emits is {hub}, as this one is: it is this daemon itself, or its stateDir is a copy of ours (then stop it, and remove the file \"instance\" there)"
            );
            return self.reply(&back, &Message::nak("forbidden", sentence));
        }
        let via = match hub {
            None => Via::Client,
            Some(_) => Via::Hub,
        };
        let emitter = back.client.clone();
        self.emit(emission, via, &emitter, back.into());
    }

    fn emit(&mut self, emission: &Emission, via: Via, emitter: &Identity, asker: Asker) {
        let window = self.config.dedup_window;
        if let Some(begun) = self.time.now.checked_sub(window) {
            self.requests.emissions.forget_until(begun);
        }
        let mut before = None;
        match self.requests.emissions.known(&emission.id) {
            Some(Found::Known(Known::Accepted(services, level))) => {
                let known = Said::accepted(*services, *level, true);
                return self.say(&asker, &emission.id, &known);
            }
            Some(Found::Pending(number)) => {
                if let Some(ticket) = self.promise(asker) {
                    self.requests.emissions.wait_too(number, ticket);
                }
                return;
            }
            Some(Found::Known(Known::Refused(why))) => {
                let refused = refused_by_engine(why);
                return self.say(&asker, &emission.id, &refused);
            }
            Some(Found::Known(Known::Partial(reached, failed))) => {
                before = Some((*reached, failed.clone()));
            }
            None => {}
        }
        let known = self.look_up(via, emission);
        self.publish_to(known, via, emission, emitter, before, asker);
    }

    /// Publishes an event to one service alone.
    fn emit_to(&mut self, service: ServiceKey, emission: &Emission, asker: Asker) {
        let mut known = self.look_up(Via::Client, emission);
        known.route = Rc::new(Route {
            subscribers: Box::default(),
            services: [service].into(),
        });
        // While its client's services may keep no more, the event waits where it comes from.
        let owner = self.broker[service].owner().cloned();
        let owner = owner.unwrap_or(Identity::Own);
        self.publish_to(known, Via::Bridge, emission, &owner, None, asker);
    }

    fn look_up(&mut self, via: Via, emission: &Emission) -> KnownSubject {
        let first = emission.frames.first().map(|first| &first[..]);
        let routes = &mut self.broker.routes;
        let key = routes.key_of(first.unwrap_or_default());
        routes.look_up_by(via, key)
    }

    fn publish_to(
        &mut self,
        known: KnownSubject,
        via: Via,
        emission: &Emission,
        emitter: &Identity,
        before: Option<(Reached, Vec<ServiceName>)>,
        asker: Asker,
    ) {
        let publication = self.plan_publication(known, via, emission, emitter, before);
        match self.refusal_of(&publication, emitter) {
            Some(nak) => self.say(&asker, &emission.id, &Said::Refused(nak)),
            None => self.publish_confirmed(emission, publication, emitter, asker),
        }
    }

    /// Where an event goes, and when. If it was published before, it goes to those services that failed
    /// then and want it still.
    fn plan_publication(
        &mut self,
        known: KnownSubject,
        via: Via,
        emission: &Emission,
        emitter: &Identity,
        before: Option<(Reached, Vec<ServiceName>)>,
    ) -> Publication {
        let KnownSubject { mut route, subject } = known;
        let is_new = before.is_none();
        let mut reached = Reached::default();
        if let Some((had, failed)) = before {
            route = Rc::new(part_to(&self.broker, &route, &failed));
            reached = had;
        }
        let event = encode_message(&emission.frames);
        let left_out = self.left_out(&route.services, event.len(), emitter);
        let durable = durable_services(&self.broker, &route, &left_out);
        let (at, due) = self.planned_times(emission);
        let awaits_subscribers = is_new && self.saved.subscribers.is_awaited();
        // Subscribers that are waited for count as there.
        reached.subscribers |= awaits_subscribers || !route.subscribers.is_empty();
        let waits_for_disk = emission.level != Level::Memory && !durable.is_empty();
        // The services whose answer isn't waited for.
        reached.services += route.services.len() - left_out.len();
        if waits_for_disk {
            reached.services -= durable.len();
        }
        Publication {
            number: self.requests.emissions.next_number(),
            event,
            via,
            route,
            subject,
            is_new,
            left_out,
            durable,
            reached,
            waits_for_disk,
            at,
            due,
            awaits_subscribers,
        }
    }

    /// From when an event's life counts, and when it is due, if that isn't now.
    fn planned_times(&mut self, emission: &Emission) -> (Instant, Option<Instant>) {
        if emission.deliver_at_ms.is_none() && emission.ttl.is_none() {
            return (self.time.now, None);
        }
        let clocks = self.look_at_clock();
        let due_ms = emission.deliver_at_ms.filter(|due| *due > clocks.wall_ms);
        (clocks.here, due_ms.and_then(|due| clocks.instant_of(due)))
    }

    /// Why an event can't be published now. Then nobody gets it, so that it can be sent again.
    fn refusal_of(&mut self, publication: &Publication, emitter: &Identity) -> Option<Message> {
        let failing = publication.durable.iter().find_map(|name| {
            let reason = self.durable.queues.refusal(name)?;
            Some(format!("{name}: {reason}"))
        });
        if let Some(failing) = failing {
            return Some(Message::nak("store-failed", failing));
        }
        let waits = publication.is_scheduled() || publication.is_held();
        let sentence = self.requests.emissions.no_room_for(&publication.event);
        let sentence = sentence.filter(|_| waits).or_else(|| {
            let is_shared = publication.is_scheduled() && self.site.keyring.knows_names();
            let emissions = &self.requests.emissions;
            is_shared.then(|| emissions.no_share_for(&publication.event, emitter))?
        });
        let sentence = sentence.or_else(|| {
            let keys = &publication.route.services;
            self.why_not_kept(keys, publication.event.len(), emitter)
        });
        let sentence = sentence.or_else(|| {
            let waits = self.waits_for_room_on_disk(publication, emitter);
            waits.then(|| "too much waits for the disk; try again".to_owned())
        });
        Some(Message::nak("busy", sentence?))
    }

    /// So much waits for the disk that an event for it has to wait where it comes from. A client that has
    /// a name and little there is not held up by others.
    fn waits_for_room_on_disk(&self, publication: &Publication, emitter: &Identity) -> bool {
        let queues = &self.durable.queues;
        if publication.durable.is_empty() || !queues.is_behind() {
            return false;
        }
        let bytes = publication.event.len() * publication.durable.len();
        let appending = &self.requests.emissions.appending;
        !(self.site.keyring.knows_names()
            && appending.has_room(emitter, bytes, queues.appending_bytes()))
    }

    fn publish_confirmed(
        &mut self,
        emission: &Emission,
        publication: Publication,
        emitter: &Identity,
        asker: Asker,
    ) {
        let (number, reached) = (publication.number, publication.reached);
        if publication.waits_for_disk {
            // Else it was answered that too many requests wait.
            let Some(ticket) = self.promise(asker) else {
                return;
            };
            let awaited = publication.durable.len();
            self.requests.emissions.wait_for_disk(
                number,
                (&emission.id, emission.level),
                ticket,
                awaited,
                reached,
            );
        } else {
            let limits = self.id_limits();
            self.requests
                .emissions
                .accept(&emission.id, reached, emission.level, limits);
            let level = reached.level(emission.level);
            let accepted = Said::accepted(reached.services, level, false);
            self.say(&asker, &emission.id, &accepted);
        }
        self.count_publication(&publication);
        self.give_to_subscribers(&publication, emitter);
        let before = self.durable.queues.appending_bytes();
        self.give_to_services(emission, &publication);
        if self.site.keyring.knows_names() {
            let appending = self.durable.queues.appending_bytes();
            let bytes = appending.saturating_sub(before);
            let emissions = &mut self.requests.emissions;
            let awaited = publication.durable.len();
            emissions.appending.add(number, emitter, bytes, awaited);
        }
    }

    fn count_publication(&mut self, publication: &Publication) {
        if publication.is_new {
            self.accounts.published.events += 1;
            self.accounts.published.bytes += publication.event.len() as u64;
            self.broker.routes.subjects.add(publication.subject, 1);
            if publication.route.is_empty() && !publication.awaits_subscribers {
                self.accounts.published.unmatched += 1;
            }
            if is_observed(&publication.route) {
                self.observe_emitted(&publication.event);
            }
        }
    }

    /// Gives the event to subscribers, now or when they are there or its time comes.
    fn give_to_subscribers(&mut self, publication: &Publication, emitter: &Identity) {
        let Publication { event, route, .. } = publication;
        match publication.due {
            _ if publication.is_held() => {
                self.requests.emissions.hold(publication.for_later());
            }
            Some(at) if publication.is_scheduled() => {
                self.requests.emissions.schedule(
                    at,
                    publication.number,
                    publication.for_later(),
                    emitter,
                );
                self.time.alarm.set(at);
            }
            Some(_) => {}
            None => {
                // Its time may have come just after that of others.
                self.deliver_scheduled(publication.at);
                self.deliver_to_subscribers(route, event);
            }
        }
    }

    /// Gives the event to services, which keep it until it is due.
    fn give_to_services(&mut self, emission: &Emission, publication: &Publication) {
        let Publication {
            event, route, due, ..
        } = publication;
        let expires_at = emission.ttl.map(|ttl| due.unwrap_or(publication.at) + ttl);
        let is_told = publication.waits_for_disk || self.site.keyring.knows_names();
        let emitted = || Emitted {
            id: Some(emission.id.clone()).filter(|id| !id.is_empty()),
            due_ms: due.and(emission.deliver_at_ms),
            emission: is_told.then_some(publication.number),
        };
        for &key in &route.services {
            let service = &mut self.broker[key];
            service.account.matched += 1;
            if publication.left_out.contains(&key) {
                let before = service.account.dropped;
                service.account.dropped.add(DropReason::Quota, 1);
                self.notes.dropped_since(service, &before);
                continue;
            }
            let mut item = self.durable.items.item(service.order_by, event.clone());
            item.not_before = *due;
            item.expires_at = expires_at;
            item.by_clock = due.is_some();
            if service.spill.is_some() {
                self.durable
                    .append_confirmed(service, item, emitted(), &self.config);
                self.keeps_more(key, 1, event.len());
                self.peers.want_flush();
                self.plan_timeout(key);
            } else {
                let before = service.account.dropped;
                service.enqueue(item);
                self.notes.dropped_since(service, &before);
                self.dispatch(key);
            }
        }
        self.taken(event.len() * route.services.len());
    }

    fn deliver_to_subscribers(&mut self, route: &Route, event: &Bytes) {
        if route.subscribers.is_empty() {
            return;
        }
        let subscribers = Route {
            subscribers: route.subscribers.clone(),
            services: Box::default(),
        };
        self.deliver(&subscribers, &Run::of_one(event.clone(), &[event.len()]));
    }

    /// Gives subscribers the events whose time has come, unless they have to wait for subscribers.
    pub(crate) fn deliver_scheduled(&mut self, now: Instant) {
        let is_due = |at| at <= now;
        if self.saved.subscribers.is_awaited()
            || !self.requests.emissions.next_due().is_some_and(is_due)
        {
            return;
        }
        // It isn't, if the clock was set back.
        self.look_at_clock();
        while let Some(later) = self.requests.emissions.take_due(now) {
            self.deliver_to_present(&later);
        }
    }

    /// An event of our own goes to services now, and to subscribers when they are not waited for.
    pub(crate) fn deliver_or_hold(&mut self, route: &Route, run: &Run<'_>) {
        if !self.saved.subscribers.is_awaited()
            || self.requests.emissions.no_room_for(&run.bytes).is_some()
        {
            self.deliver(route, run);
            return;
        }
        let later = ForLater {
            event: run.bytes.clone(),
            via: Via::Client,
            has_matched: true,
        };
        self.requests.emissions.hold(later);
        let services = Route {
            subscribers: Box::default(),
            services: route.services.clone(),
        };
        self.deliver(&services, run);
    }

    /// Gives subscribers the events that waited for them.
    pub(crate) fn deliver_held(&mut self) {
        while let Some(later) = self.requests.emissions.take_held() {
            self.deliver_to_present(&later);
        }
    }

    /// Gives an event to the subscribers that there are now.
    fn deliver_to_present(&mut self, later: &ForLater) {
        let ForLater { event, via, .. } = later;
        let first = event_manager_zmtp::frames(event).next().unwrap_or_default();
        let key = self.broker.routes.key_of(first).to_vec();
        let route = self.broker.routes.look_up_by(*via, &key).route;
        self.deliver_to_subscribers(&route, event);
        if route.subscribers.is_empty() && !later.has_matched {
            self.accounts.published.unmatched += 1;
        }
    }

    /// A durable service has the event of an emission, and whether it is new to it; or it has not. The
    /// last one's word is the answer.
    pub(crate) fn confirm(
        &mut self,
        number: EmissionId,
        service: &ServiceName,
        result: Result<bool, String>,
        seq: Option<Seq>,
    ) {
        self.requests.emissions.appending.told(number);
        if result.is_ok() && self.waits_for_engine(number, service, seq) {
            return;
        }
        let limits = self.id_limits();
        if let Some(confirmed) = self
            .requests
            .emissions
            .confirm(number, service, result, limits)
        {
            self.answer_confirmed(confirmed);
        }
    }

    /// Publishes what a part of this process wants to, in its order.
    pub(crate) fn publish_batch(&mut self, batch: Batch) {
        let Batch {
            publisher,
            events,
            answered,
        } = batch;
        self.set_now(now());
        let answers = Answers::new(events.len(), answered);
        let mut is_put_off = None;
        for (index, event) in events.into_iter().enumerate() {
            let slot = answers.slot(index);
            if let Some(why) = &is_put_off {
                slot.give(Published::NotNow(String::clone(why)));
                continue;
            }
            self.publish_from_inside(&publisher, event, slot);
            is_put_off = answers.put_off(index);
        }
    }

    fn publish_from_inside(&mut self, publisher: &str, event: Publishing, slot: Slot) {
        let emission = Emission {
            id: EventId::of(Emitter::Inside(publisher), event.id),
            level: Level::Disk,
            frames: event.frames,
            ttl: None,
            deliver_at_ms: None,
        };
        if let Err(nak) = emission.check(&self.site.settings.limits) {
            let refused = Message::from(nak);
            return slot.give(Published::Refused(
                String::from_utf8_lossy(&refused.data).into_owned(),
            ));
        }
        match event.only {
            None => self.emit(&emission, Via::Bridge, &Identity::Own, Asker::Inside(slot)),
            Some(name) => match self.broker.find(&name) {
                Some(key) => self.emit_to(key, &emission, Asker::Inside(slot)),
                None => slot.give(Published::NotNow(format!("there is no service {name}"))),
            },
        }
    }

    pub(super) fn id_limits(&self) -> IdLimits {
        IdLimits {
            now: self.time.now,
            ids_max: self.config.dedup_ids_max,
        }
    }
}

/// The part of a route that leads to these services.
fn part_to(broker: &Broker, route: &Route, names: &[ServiceName]) -> Route {
    let services = route.services.iter().copied();
    Route {
        subscribers: Box::default(),
        services: services
            .filter(|key| names.contains(broker[*key].name()))
            .collect(),
    }
}

fn durable_services(broker: &Broker, route: &Route, but: &[ServiceKey]) -> Vec<ServiceName> {
    let services = route.services.iter().filter(|key| !but.contains(key));
    let services = services.map(|key| &broker[*key]);
    let durable = services.filter(|service| service.spill.is_some());
    durable.map(|service| service.name().clone()).collect()
}
