//! Confirmed events: which ids are known, which wait for the disk, and which wait for their time.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::replies::Ticket;
use event_manager_core::broker::ClockChange;
use event_manager_core::event_id::{EventId, Shares};
use event_manager_core::queues::EmissionId;
use event_manager_core::requests::Level;
use event_manager_wire::model::ServiceName;

/// Events that wait to be given to subscribers later.
const WAITING_MAX: usize = 10_000;
/// Their bytes; a single one may have more.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Who has an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Services that have it.
    pub(crate) services: usize,
    /// Whether one of them has it on disk.
    pub(crate) on_disk: bool,
    /// Whether plain subscribers get it.
    pub(crate) subscribers: bool,
}

impl Reached {
    /// What can be confirmed, if this was asked for.
    pub(crate) fn level(self, asked: Level) -> Level {
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

/// What is known of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// It waits for the disk.
    Pending,
    /// It was accepted, and answered with this number of services.
    Accepted(usize, Level),
    /// These services don't have it, and all others that should do: sent again, it is for them alone.
    Partial(Reached, Vec<ServiceName>),
}

/// An event that waits for the disk, and so does its answer.
struct Pending {
    id: EventId,
    ticket: Ticket,
    /// Requests with the same id that came later.
    again: Vec<Ticket>,
    /// Durable services that have not said yet whether they have it.
    awaited: usize,
    /// One of them did not have it before: it is no duplicate of an earlier run's.
    is_new: bool,
    reached: Reached,
    /// Services that don't have it, and why the first one does not.
    failed: Vec<ServiceName>,
    reason: Option<String>,
}

/// What became of an event that waited for the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    pub(crate) id: EventId,
    pub(crate) ticket: Ticket,
    /// Requests with the same id that came later.
    pub(crate) again: Vec<Ticket>,
    /// Whether all services had it before; or why one of them doesn't have it.
    pub(crate) is_duplicate: Result<bool, String>,
    pub(crate) reached: Reached,
}

/// For how long, and how many, ids are remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdLimits {
    pub(crate) now: Instant,
    pub(crate) ids_max: usize,
}

/// All confirmed events that wait, and the ids of others.
#[derive(Default)]
pub(crate) struct Emissions {
    pending: BTreeMap<EmissionId, Pending>,
    last: EmissionId,
    /// What is known of ids, and the number of the emission from which it is.
    known: HashMap<EventId, (EmissionId, Known)>,
    /// The order in which ids are forgotten, unless a later emission had them too.
    answered: BTreeMap<u64, (Instant, EmissionId, EventId)>,
    last_answered: u64,
    shares: Shares<u64>,
    wall_time: WallTime,
    /// For subscribers, by their time.
    scheduled: BTreeMap<(Instant, EmissionId), Bytes>,
    /// Events that wait, as publishers do, until the subscribers of the previous run are back, and
    /// whether services have them. While publishers don't wait, there are none.
    held: VecDeque<(Bytes, bool)>,
    /// Of both.
    waiting_bytes: usize,
}

impl Emissions {
    /// The number of the next emission.
    pub(crate) fn next_number(&mut self) -> EmissionId {
        self.last.0 += 1;
        self.last
    }

    /// What is known of an id of its owner or anybody's, and from which emission.
    pub(crate) fn known(&self, id: &EventId) -> Option<(EmissionId, &Known)> {
        let known = self.known.get(id).or_else(|| self.known.get(id.shared()?));
        let (number, known) = known?;
        Some((*number, known))
    }

    /// Forgets the ids that were answered by then.
    pub(crate) fn forget_until(&mut self, time: Instant) {
        while let Some((place, (at, ..))) = self.answered.first_key_value()
            && *at <= time
        {
            self.forget(*place);
        }
    }

    fn forget(&mut self, place: u64) {
        let Some((_, number, id)) = self.answered.remove(&place) else {
            return;
        };
        self.shares.remove(id.borrow(), place);
        if self.known.get(&id).is_some_and(|(last, _)| *last == number) {
            self.known.remove(&id);
        }
    }

    /// Keeps what became of an emission with this id, if it has one. If that is one too many, one of who
    /// has most is forgotten.
    fn remember(&mut self, id: &EventId, number: EmissionId, known: Known, limits: IdLimits) {
        if id.is_empty() {
            return;
        }
        self.known.insert(id.clone(), (number, known));
        self.last_answered += 1;
        let place = self.last_answered;
        self.answered
            .insert(place, (limits.now, number, id.clone()));
        self.shares.add(id.borrow(), place);
        while let Some(place) = self.shares.one_too_many(limits.ids_max, id.borrow()) {
            self.forget(place);
        }
    }

    /// All who should have the event do. If that is nobody, it may come again.
    pub(crate) fn accept(
        &mut self,
        id: &EventId,
        number: EmissionId,
        reached: Reached,
        asked: Level,
        limits: IdLimits,
    ) {
        if reached.is_nobody() {
            self.known.remove(id);
        } else {
            let known = Known::Accepted(reached.services, reached.level(asked));
            self.remember(id, number, known, limits);
        }
    }

    /// The answer to an emission waits until so many durable services have told what became of it.
    pub(crate) fn wait_for_disk(
        &mut self,
        number: EmissionId,
        id: &EventId,
        ticket: Ticket,
        awaited: usize,
        reached: Reached,
    ) {
        let pending = Pending {
            id: id.clone(),
            ticket,
            again: vec![],
            awaited,
            is_new: false,
            reached,
            failed: vec![],
            reason: None,
        };
        self.pending.insert(number, pending);
        if !id.is_empty() {
            self.known.insert(id.clone(), (number, Known::Pending));
        }
    }

    /// Another request with the id of one that waits for the disk: it gets its answer then, too.
    pub(crate) fn wait_too(&mut self, number: EmissionId, ticket: Ticket) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.again.push(ticket);
        }
    }

    /// A durable service has the event of an emission, and whether it is new to it; or it has not. The
    /// last word tells what became of the emission.
    pub(crate) fn confirm(
        &mut self,
        number: EmissionId,
        service: &ServiceName,
        result: Result<bool, String>,
        limits: IdLimits,
    ) -> Option<Confirmed> {
        let pending = self.pending.get_mut(&number)?;
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
            return None;
        }
        let pending = self.pending.remove(&number)?;
        let reached = pending.reached;
        let is_duplicate = match pending.reason {
            Some(reason) => {
                let known = Known::Partial(reached, pending.failed);
                self.remember(&pending.id, number, known, limits);
                Err(reason)
            }
            None => {
                self.accept(&pending.id, number, reached, Level::Disk, limits);
                Ok(!pending.is_new)
            }
        };
        Some(Confirmed {
            id: pending.id,
            ticket: pending.ticket,
            again: pending.again,
            is_duplicate,
            reached,
        })
    }

    /// When the wall clock will show `at_ms`, which shows `there_ms` now, at `here`.
    pub(crate) fn due(&mut self, at_ms: u64, here: Instant, there_ms: u64) -> Instant {
        self.wall_time.instant_of(at_ms, here, there_ms)
    }

    /// Why an event can't wait for its time, if it can't.
    pub(crate) fn no_room_for(&self, event: &Bytes) -> Option<String> {
        let waiting = self.waiting_bytes;
        let is_too_much = waiting > 0 && waiting + event.len() > WAITING_BYTES_MAX;
        let events = self.scheduled.len() + self.held.len();
        if events < WAITING_MAX && !is_too_much {
            return None;
        }
        Some(format!(
            "{events} events of {waiting} bytes wait for their time to go to subscribers already"
        ))
    }

    /// An event for subscribers waits for its time.
    pub(crate) fn schedule(&mut self, at: Instant, number: EmissionId, event: &Bytes) {
        self.waiting_bytes += event.len();
        self.scheduled.insert((at, number), event.clone());
    }

    /// The next event whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Bytes> {
        let entry = self.scheduled.first_entry();
        let event = entry.filter(|entry| entry.key().0 <= now)?.remove();
        self.waiting_bytes -= event.len();
        Some(event)
    }

    /// When the next event goes to subscribers.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.scheduled.keys().next().map(|(at, _)| *at)
    }

    /// The wall clock was set, and events wait for a time of it.
    pub(crate) fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        let scheduled = std::mem::take(&mut self.scheduled).into_iter();
        self.scheduled = scheduled
            .map(|((at, number), event)| ((change.apply(at, now), number), event))
            .collect();
    }

    /// An event waits for the subscribers of the previous run.
    pub(crate) fn hold(&mut self, event: &Bytes, has_services: bool) {
        self.waiting_bytes += event.len();
        self.held.push_back((event.clone(), has_services));
    }

    /// The oldest event that waits for subscribers, and whether services have it.
    pub(crate) fn take_held(&mut self) -> Option<(Bytes, bool)> {
        let (event, has_services) = self.held.pop_front()?;
        self.waiting_bytes -= event.len();
        Some((event, has_services))
    }
}

/// Where the wall clock stood by ours at some time. All times of the wall clock are converted by it,
/// so that the same time stays the same, and a later one later, whenever it is converted.
#[derive(Debug, Default)]
struct WallTime(Option<(Instant, u64)>);

impl WallTime {
    /// It is still true when the clocks differ by this much, in ms: they are not read at once, and the
    /// wall clock is adjusted all the time.
    const TOLERANCE_MS: u64 = 2;

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

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::super::replies::PendingReplies;
    use super::*;
    use event_manager_core::event_id::Emitter;

    fn service(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    fn id(said: &'static str) -> EventId {
        EventId::of(Emitter::Anybody, said.into())
    }

    fn tickets<const N: usize>() -> [Ticket; N] {
        let mut all = PendingReplies::new(N);
        std::array::from_fn(|_| all.ticket())
    }

    fn at(origin: Instant, seconds: u64, ids_max: usize) -> IdLimits {
        IdLimits {
            now: origin + Duration::from_secs(seconds),
            ids_max,
        }
    }

    const ONE_SERVICE: Reached = Reached {
        services: 1,
        on_disk: false,
        subscribers: false,
    };

    #[test]
    fn ids_are_forgotten_by_time_and_by_number_the_oldest_first() {
        let origin = Instant::now();
        let mut emissions = Emissions::default();
        let ids = ["a", "b", "c", "d"].map(id);
        for (id, seconds) in ids.iter().zip(0..) {
            let number = emissions.next_number();
            let limits = at(origin, seconds, 3);
            emissions.accept(id, number, ONE_SERVICE, Level::Memory, limits);
        }
        let are_known = |emissions: &Emissions| {
            let known = ids.iter().map(|id| emissions.known(id).is_some());
            known.collect::<Vec<_>>()
        };
        assert_eq!(are_known(&emissions), [false, true, true, true]);
        // One that comes again is remembered from then on.
        let number = emissions.next_number();
        emissions.accept(
            &ids[1],
            number,
            ONE_SERVICE,
            Level::Memory,
            at(origin, 4, 4),
        );
        emissions.forget_until(origin + Duration::from_secs(2));
        assert_eq!(are_known(&emissions), [false, true, false, true]);
    }

    #[test]
    fn an_id_is_known_to_its_owner_and_one_of_anybody_to_all() {
        let limits = at(Instant::now(), 0, 10);
        let of = |emitter, said: &'static str| EventId::of(emitter, said.into());
        let (till, desk) = (Emitter::Client("till"), Emitter::Client("desk"));
        let mut emissions = Emissions::default();
        for id in [of(till, "a"), of(Emitter::Anybody, "b")] {
            let number = emissions.next_number();
            emissions.accept(&id, number, ONE_SERVICE, Level::Memory, limits);
        }
        let [ticket] = tickets();
        let number = emissions.next_number();
        emissions.wait_for_disk(number, &of(desk, "c"), ticket, 1, ONE_SERVICE);
        for (emitter, said, is_known) in [
            (till, "a", true),
            (desk, "a", false),
            (Emitter::Anybody, "a", false),
            (till, "b", true),
            (Emitter::Nameless, "b", true),
            (till, "c", false),
            (desk, "c", true),
        ] {
            let known = emissions.known(&of(emitter, said)).is_some();
            assert_eq!(known, is_known, "{emitter:?} {said}");
        }
    }

    #[test]
    fn ids_of_one_client_push_out_no_other_s() {
        let limits = at(Instant::now(), 0, 10);
        let mut emissions = Emissions::default();
        let of = |name, said: u8| EventId::of(Emitter::Client(name), vec![said].into());
        let mut accept = |id: &EventId| {
            let number = emissions.next_number();
            emissions.accept(id, number, ONE_SERVICE, Level::Memory, limits);
        };
        (1..=5).for_each(|said| accept(&of("till", said)));
        (1..=100).for_each(|said| accept(&of("desk", said)));
        assert!((1..=5).all(|said| emissions.known(&of("till", said)).is_some()));
        let theirs = (1..=100).filter(|said| emissions.known(&of("desk", *said)).is_some());
        assert_eq!(theirs.collect::<Vec<_>>(), [96, 97, 98, 99, 100]);
        assert_eq!(emissions.known.len(), 10);
    }

    #[test]
    fn what_reached_nobody_and_what_has_no_id_is_not_remembered() {
        let limits = at(Instant::now(), 0, 10);
        let mut emissions = Emissions::default();
        for (said, reached, is_known) in [
            ("a", Reached::default(), false),
            ("", ONE_SERVICE, false),
            ("b", ONE_SERVICE, true),
        ] {
            let (id, number) = (id(said), emissions.next_number());
            emissions.accept(&id, number, reached, Level::Disk, limits);
            assert_eq!(emissions.known(&id).is_some(), is_known, "{said:?}");
        }
        // It is on no disk, so no more than memory is confirmed, whatever was asked for.
        let accepted = Known::Accepted(1, Level::Memory);
        let known = emissions.known(&id("b"));
        assert_eq!(known.map(|(_, known)| known), Some(&accepted));
    }

    #[test]
    fn the_last_of_the_durable_services_confirms() {
        let limits = at(Instant::now(), 0, 10);
        let mut emissions = Emissions::default();
        let ([ticket, later], id) = (tickets(), id("id"));
        let number = emissions.next_number();
        emissions.wait_for_disk(number, &id, ticket, 2, ONE_SERVICE);
        assert_eq!(emissions.known(&id), Some((number, &Known::Pending)));
        emissions.wait_too(number, later);
        let (one, two) = (service("one"), service("two"));
        assert_eq!(emissions.confirm(number, &one, Ok(false), limits), None);
        let confirmed = emissions.confirm(number, &two, Ok(true), limits).unwrap();
        assert_eq!((confirmed.ticket, confirmed.again), (ticket, vec![later]));
        assert_eq!(confirmed.is_duplicate, Ok(false));
        assert_eq!(
            (confirmed.reached.services, confirmed.reached.on_disk),
            (3, true)
        );
        let known = emissions.known(&id);
        assert_eq!(known, Some((number, &Known::Accepted(3, Level::Disk))));
        // Nothing waits for it any more.
        assert_eq!(emissions.confirm(number, &two, Ok(true), limits), None);
    }

    #[test]
    fn services_without_the_event_are_remembered_with_the_first_reason() {
        let limits = at(Instant::now(), 0, 10);
        let mut emissions = Emissions::default();
        let ([ticket], id) = (tickets(), id("id"));
        let number = emissions.next_number();
        emissions.wait_for_disk(number, &id, ticket, 3, Reached::default());
        let names = ["one", "two", "three"].map(service);
        let full = Err("full".to_owned());
        assert_eq!(emissions.confirm(number, &names[0], full, limits), None);
        assert_eq!(emissions.confirm(number, &names[1], Ok(true), limits), None);
        let gone = Err("gone".to_owned());
        let confirmed = emissions.confirm(number, &names[2], gone, limits);
        let confirmed = confirmed.unwrap();
        assert_eq!(confirmed.is_duplicate, Err("full".to_owned()));
        let failed = vec![names[0].clone(), names[2].clone()];
        let known = Known::Partial(confirmed.reached, failed);
        assert_eq!(emissions.known(&id), Some((number, &known)));
        assert_eq!(confirmed.reached.services, 1);
    }

    #[test]
    fn what_waits_goes_in_the_order_of_its_time_and_is_bounded() {
        let origin = Instant::now();
        let at = |seconds| origin + Duration::from_secs(seconds);
        let mut emissions = Emissions::default();
        let huge = Bytes::from(vec![0; WAITING_BYTES_MAX + 1]);
        // A single one may have more.
        assert_eq!(emissions.no_room_for(&huge), None);
        for (seconds, event) in [(2, "later"), (1, "sooner"), (1, "sooner too")] {
            let number = emissions.next_number();
            emissions.schedule(at(seconds), number, &Bytes::from(event));
        }
        emissions.hold(&Bytes::from("held"), true);
        assert!(emissions.no_room_for(&huge).is_some());
        assert_eq!(emissions.no_room_for(&Bytes::from("small")), None);
        assert_eq!(emissions.next_due(), Some(at(1)));
        assert_eq!(emissions.take_due(origin), None);
        assert_eq!(emissions.take_due(at(1)), Some("sooner".into()));
        assert_eq!(emissions.take_due(at(1)), Some("sooner too".into()));
        assert_eq!(emissions.take_due(at(1)), None);
        // The wall clock was set back by a second.
        let back = ClockChange { forward_ms: -1000 };
        emissions.clock_was_set(back, at(1));
        assert_eq!(emissions.take_due(at(2)), None);
        assert_eq!(emissions.take_due(at(3)), Some("later".into()));
        assert_eq!(emissions.take_held(), Some(("held".into(), true)));
        assert_eq!(emissions.take_held(), None);
        assert_eq!(emissions.no_room_for(&huge), None);
        for _ in 0..WAITING_MAX {
            emissions.hold(&Bytes::new(), false);
        }
        assert!(emissions.no_room_for(&Bytes::new()).is_some());
    }

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
