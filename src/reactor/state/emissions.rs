//! Confirmed events: which ids are known, which wait for the disk, and which wait for their time.

mod appending;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::RandomState;
use std::time::Instant;

use bytes::Bytes;

use self::appending::Appending;
use super::replies::Ticket;
use event_manager_core::broker::{ClockChange, Via};
use event_manager_core::event_id::{EventId, Recent};
use event_manager_core::queues::EmissionId;
use event_manager_core::requests::Level;
use event_manager_core::security::Identity;
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
    /// Whether the engine of a service has it,
    pub(crate) at_engine: bool,
    /// and whether it is not known of another.
    pub(crate) lacks_engine: bool,
}

impl Reached {
    /// What can be confirmed, if this was asked for.
    pub(crate) fn level(self, asked: Level) -> Level {
        match (self.on_disk, asked) {
            (false, _) => Level::Memory,
            (true, Level::Engine) if !self.at_engine || self.lacks_engine => Level::Disk,
            (true, asked) => asked,
        }
    }

    /// Nobody has it: it can be sent again when somebody wants it.
    fn is_nobody(self) -> bool {
        self.services == 0 && !self.subscribers
    }
}

/// What became of the event with an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was accepted, and answered with this number of services.
    Accepted(usize, Level),
    /// These services don't have it, and all others that should do: sent again, it is for them alone.
    Partial(Reached, Vec<ServiceName>),
    /// The engine of a service never takes it, and why.
    Refused(String),
}

/// What is found of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// Its event waits for the disk, by this emission.
    Pending(EmissionId),
    /// Its event has come before.
    Known(&'a Known),
}

/// An event that waits for the disk, and so does its answer.
struct Pending {
    id: EventId,
    /// What the answer is to mean.
    level: Level,
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
    /// Why the engine of a service doesn't have it yet,
    not_yet: Option<String>,
    /// or never will.
    never: Option<String>,
}

/// An event that goes to subscribers later, and by which way it came: that decides who gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForLater {
    pub(crate) event: Bytes,
    pub(crate) via: Via,
    /// Whether somebody wanted it when it was published. If not, somebody may then.
    pub(crate) has_matched: bool,
}

/// What became of an event that waited for the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    pub(crate) id: EventId,
    pub(crate) ticket: Ticket,
    /// Requests with the same id that came later.
    pub(crate) again: Vec<Ticket>,
    /// What it means that they have it.
    pub(crate) level: Level,
    /// Why it is not the level that was asked for, if that is known.
    pub(crate) reason: Option<String>,
    /// Whether all services had it before; or why one of them doesn't have it.
    pub(crate) is_duplicate: Result<bool, NotHad>,
    pub(crate) reached: Reached,
}

/// Why a service doesn't have an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotHad {
    /// Its queue on disk can't take it.
    ByStore(String),
    /// Its engine never takes it.
    ByEngine(String),
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
    /// Of these, those with an id.
    pending_ids: HashMap<EventId, EmissionId>,
    /// What became of those with an id that were answered.
    answered: Recent<Known, RandomState>,
    /// For subscribers, by their time, and whose each is.
    scheduled: BTreeMap<(Instant, EmissionId), (ForLater, Identity)>,
    /// How many of them each client has, and how many bytes.
    shares: HashMap<Identity, (usize, usize)>,
    /// Events that wait, as publishers do, until the subscribers of the previous run are back. While
    /// publishers don't wait, there are none.
    held: VecDeque<ForLater>,
    /// Of both.
    waiting_bytes: usize,
    pub(crate) appending: Appending,
}

impl Emissions {
    /// The number of the next emission.
    pub(crate) fn next_number(&mut self) -> EmissionId {
        self.last.0 += 1;
        self.last
    }

    /// What is known of an id of its owner or anybody's.
    pub(crate) fn known(&self, id: &EventId) -> Option<Found<'_>> {
        self.found(id.borrow()).or_else(|| self.found(id.shared()?))
    }

    fn found(&self, id: &[u8]) -> Option<Found<'_>> {
        // As a rule none of them is of level `disk`.
        let pending = match self.pending_ids.is_empty() {
            true => None,
            false => self.pending_ids.get(id),
        };
        match pending {
            Some(number) => Some(Found::Pending(*number)),
            None => self.answered.get(id).map(Found::Known),
        }
    }

    /// Forgets the ids that were answered by then.
    pub(crate) fn forget_until(&mut self, time: Instant) {
        self.answered.forget_until(time);
    }

    /// Keeps what became of an emission with this id, if it has one.
    fn remember(&mut self, id: &EventId, known: Known, limits: IdLimits) {
        if !id.is_empty() {
            self.answered.insert(id, known, limits.now, limits.ids_max);
        }
    }

    /// All who should have the event do. If that is nobody, it may come again.
    pub(crate) fn accept(
        &mut self,
        id: &EventId,
        reached: Reached,
        asked: Level,
        limits: IdLimits,
    ) {
        if reached.is_nobody() {
            self.answered.withdraw(id.borrow());
        } else {
            let known = Known::Accepted(reached.services, reached.level(asked));
            self.remember(id, known, limits);
        }
    }

    /// The answer to an emission waits until so many durable services have told what became of it.
    pub(crate) fn wait_for_disk(
        &mut self,
        number: EmissionId,
        (id, level): (&EventId, Level),
        ticket: Ticket,
        awaited: usize,
        reached: Reached,
    ) {
        let pending = Pending {
            id: id.clone(),
            level,
            ticket,
            again: vec![],
            awaited,
            is_new: false,
            reached,
            failed: vec![],
            reason: None,
            not_yet: None,
            never: None,
        };
        self.pending.insert(number, pending);
        if !id.is_empty() {
            self.pending_ids.insert(id.clone(), number);
        }
    }

    /// Another request with the id of one that waits for the disk: it gets its answer then, too.
    pub(crate) fn wait_too(&mut self, number: EmissionId, ticket: Ticket) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.again.push(ticket);
        }
    }

    /// Whether the answer to an emission is to wait for engines.
    pub(crate) fn waits_for_engines(&self, number: EmissionId) -> bool {
        let pending = self.pending.get(&number);
        pending.is_some_and(|pending| pending.level == Level::Engine)
    }

    /// The engine of a service has the event of an emission; or not yet, and why, if that is known.
    pub(crate) fn engine_has(&mut self, number: EmissionId, has: Result<(), Option<String>>) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.reached.at_engine |= has.is_ok();
            pending.reached.lacks_engine |= has.is_err();
            if let Err(Some(why)) = has {
                pending.not_yet.get_or_insert(why);
            }
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
        self.one_less(number, limits)
    }

    /// The engine of a durable service never takes the event of an emission. The same as
    /// [`confirm`](Self::confirm) else.
    pub(crate) fn refused_by_engine(
        &mut self,
        number: EmissionId,
        why: String,
        limits: IdLimits,
    ) -> Option<Confirmed> {
        let pending = self.pending.get_mut(&number)?;
        pending.never.get_or_insert(why);
        self.one_less(number, limits)
    }

    /// One durable service less is waited for; what became of the emission if that was the last.
    fn one_less(&mut self, number: EmissionId, limits: IdLimits) -> Option<Confirmed> {
        let pending = self.pending.get_mut(&number)?;
        pending.awaited -= 1;
        if pending.awaited > 0 {
            return None;
        }
        let pending = self.pending.remove(&number)?;
        if !pending.id.is_empty() {
            self.pending_ids.remove(&pending.id);
        }
        let reached = pending.reached;
        let is_duplicate = match (pending.reason, pending.never) {
            (Some(reason), _) => {
                let known = Known::Partial(reached, pending.failed);
                self.remember(&pending.id, known, limits);
                Err(NotHad::ByStore(reason))
            }
            (None, Some(why)) => {
                let known = Known::Refused(why.clone());
                self.remember(&pending.id, known, limits);
                Err(NotHad::ByEngine(why))
            }
            (None, None) => {
                self.accept(&pending.id, reached, pending.level, limits);
                Ok(!pending.is_new)
            }
        };
        Some(Confirmed {
            id: pending.id,
            ticket: pending.ticket,
            again: pending.again,
            level: reached.level(pending.level),
            reason: pending.not_yet,
            is_duplicate,
            reached,
        })
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

    /// Why another event of this client can't wait for its time, though there is room: none takes more of
    /// that than it leaves to others.
    pub(crate) fn no_share_for(&self, event: &Bytes, client: &Identity) -> Option<String> {
        let (events, bytes) = self.shares.get(client).copied().unwrap_or_default();
        let waiting = self.scheduled.len() + self.held.len();
        let left = WAITING_BYTES_MAX.saturating_sub(self.waiting_bytes);
        let is_too_much = bytes > 0 && bytes + event.len() > left;
        (events >= WAITING_MAX.saturating_sub(waiting) || is_too_much).then(|| {
            format!(
                "{events} events of {bytes} bytes of this client wait for their time already; the rest of the room is for others"
            )
        })
    }

    /// An event of a client waits for its time, for subscribers.
    pub(crate) fn schedule(
        &mut self,
        at: Instant,
        number: EmissionId,
        later: ForLater,
        client: &Identity,
    ) {
        let len = later.event.len();
        self.waiting_bytes += len;
        let (events, bytes) = self.shares.entry(client.clone()).or_default();
        (*events, *bytes) = (*events + 1, *bytes + len);
        self.scheduled.insert((at, number), (later, client.clone()));
    }

    /// The next event whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<ForLater> {
        let entry = self.scheduled.first_entry();
        let (later, client) = entry.filter(|entry| entry.key().0 <= now)?.remove();
        let len = later.event.len();
        self.waiting_bytes -= len;
        if let Some((events, bytes)) = self.shares.get_mut(&client) {
            (*events, *bytes) = (*events - 1, *bytes - len);
            if *events == 0 {
                self.shares.remove(&client);
            }
        }
        Some(later)
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
    pub(crate) fn hold(&mut self, later: ForLater) {
        self.waiting_bytes += later.event.len();
        self.held.push_back(later);
    }

    /// The oldest event that waits for subscribers.
    pub(crate) fn take_held(&mut self) -> Option<ForLater> {
        let later = self.held.pop_front()?;
        self.waiting_bytes -= later.event.len();
        Some(later)
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests;
