//! The life of durable queues, decided without a socket, a clock or a disk.
//!
//! [`Queues`] has one record for each queue on disk, of a service or of its dead letters, and one for
//! each append on its way there. It is told what came, what workers did and what the store
//! [reports](Queues::hear); it changes the services of the [`Broker`](crate::broker::Broker), hands
//! [commands](crate::store::Command) to the store, and leaves [`Effect`]s for its shell to carry out.
//!
//! A record is dropped in one place, [`Queues::remove`], with all that is known of the queue. What the
//! store reports of it later has an older generation, and is ignored.

mod appends;
mod clocks;
mod effects;
mod letters;
mod reports;
mod tries;
mod unreadable;
mod weights;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use slab::Slab;

pub use appends::Emitted;
pub use clocks::{Clocks, WallTime};
pub use effects::{Effect, Note};
pub use letters::READS_MAX;
pub use weights::EVENT_OVERHEAD_BYTES;

use crate::broker::{Item, OrderBy, Service};
use crate::log::LogLimits;
use crate::seq::Seq;
use crate::store::{Command, Full, QueueId, Sink};
use appends::{Append, Unsent};
use event_manager_wire::model::ServiceName;
use event_manager_zmtp::HubId;
use letters::Letter;
use unreadable::Unreadable;
use weights::Weight;

/// Events that may wait for the disk, in bytes; then no more is read from publishers.
pub const APPENDING_BYTES_MAX: usize = 32 << 20;

/// Why nothing can be kept.
const NO_STORE: &str = "there is no state directory";

/// An event that was published with a request for confirmation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EmissionId(pub u64);

/// What the queues ask of their shell.
pub trait Shell {
    /// The bounds of a service's queue, and of that of its dead letters.
    fn limits_of(&self, service: &ServiceName) -> LogLimits;
    /// An event as a service's queue has it, with what it has in common with others that keep their
    /// order.
    fn item(&self, order_by: Option<OrderBy>, body: Bytes) -> Item;
    fn clocks(&self) -> Clocks;
    /// The daemon's id among others.
    fn hub_id(&self) -> HubId;
}

/// How far a queue is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// The store was not asked for it, or could not open it.
    #[default]
    Closed,
    /// The store was asked for it.
    Opening,
    Open,
    /// Its service has ended, and the store is to remove it.
    Removing,
}

/// All that is known of one queue but for its events, which its service has. `R` is a request for dead
/// letters.
#[derive(Debug)]
struct Queue<R> {
    id: QueueId,
    state: State,
    /// Why it takes no events. It may be open all the same: then it can be read.
    failure: Option<String>,
    /// It could not be read when that was last tried.
    unreadable: Option<Unreadable>,
    /// Events that came since the last flush,
    unsent: Unsent,
    /// (so many before the last one),
    usual: usize,
    /// or letters, if it is one of dead letters,
    letters: Vec<Letter>,
    /// and what is done since then.
    settled: Vec<Seq>,
    is_unflushed: bool,
    /// Its events were given to workers, or came back from them, since the store was told how often those
    /// were tried.
    is_tried: bool,
    /// Requests that wait for what they read, in the order of their reads.
    reads: VecDeque<R>,
    weight: Weight,
}

impl<R> Queue<R> {
    fn new(id: QueueId) -> Self {
        Self {
            id,
            state: State::Closed,
            failure: None,
            unreadable: None,
            unsent: Unsent::default(),
            usual: 0,
            letters: vec![],
            settled: vec![],
            is_unflushed: false,
            is_tried: false,
            reads: VecDeque::new(),
            weight: Weight::default(),
        }
    }

    fn is_asked_for(&self) -> bool {
        matches!(self.state, State::Opening | State::Open)
    }
}

/// All queues on disk. `R` is a request for dead letters.
pub struct Queues<R> {
    store: Option<Box<dyn Sink>>,
    /// Queues that the store had at the start.
    found: BTreeSet<ServiceName>,
    records: BTreeMap<ServiceName, Queue<R>>,
    /// By their tags. An append stays here until the store has reported of it.
    appends: Slab<Append<R>>,
    last_generation: u64,
    /// Commands that the store had no room for yet, the oldest first.
    commands: VecDeque<Command>,
    effects: VecDeque<Effect<R>>,
    /// Queues with something to flush.
    unflushed: Vec<ServiceName>,
    /// Queues whose tries the store doesn't know.
    tried: Vec<ServiceName>,
    /// Queues that take no events, or can't be read.
    troubled: BTreeSet<ServiceName>,
    /// What waits for the disk.
    appending_bytes: usize,
    weighed: u64,
    /// Some publisher is not read from until less waits.
    holds_publishers: bool,
}

impl<R> Default for Queues<R> {
    fn default() -> Self {
        Self {
            store: None,
            found: BTreeSet::new(),
            records: BTreeMap::new(),
            appends: Slab::new(),
            last_generation: 0,
            commands: VecDeque::new(),
            effects: VecDeque::new(),
            unflushed: vec![],
            tried: vec![],
            troubled: BTreeSet::new(),
            appending_bytes: 0,
            weighed: 0,
            holds_publishers: false,
        }
    }
}

impl<R> Queues<R> {
    /// Keeps events from now on. `found` are the queues that the store had when it began.
    pub fn begin(&mut self, store: Box<dyn Sink>, found: impl IntoIterator<Item = ServiceName>) {
        self.store = Some(store);
        self.found.extend(found);
    }

    /// Whether anything is kept.
    pub fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// The next thing that the shell is to do.
    pub fn next_effect(&mut self) -> Option<Effect<R>> {
        self.effects.pop_front()
    }

    /// Whether there is something for the store at the next [flush](Self::flush).
    pub fn wants_flush(&self) -> bool {
        !self.unflushed.is_empty()
    }

    /// Whether nothing waits for the disk that has to be heard of again.
    pub fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.unflushed.is_empty() && self.appends.is_empty()
    }

    /// What waits for the disk, in bytes.
    pub fn appending_bytes(&self) -> usize {
        self.appending_bytes
    }

    /// Whether so much waits for the disk that publishers have to wait too.
    pub fn is_behind(&self) -> bool {
        self.appending_bytes > APPENDING_BYTES_MAX
    }

    /// The same of a publisher that is about to be read from: [`Effect::WakePublishers`] says when it may
    /// go on.
    pub fn hold_publisher(&mut self) -> bool {
        let is_behind = self.is_behind();
        self.holds_publishers |= is_behind;
        is_behind
    }

    fn appended_bytes(&mut self, bytes: usize) {
        self.appending_bytes -= bytes;
        if self.holds_publishers && self.appending_bytes < APPENDING_BYTES_MAX / 2 {
            self.holds_publishers = false;
            self.effects.push_back(Effect::WakePublishers);
        }
    }

    /// Why a queue would not take an event now.
    pub fn refusal(&self, queue: &ServiceName) -> Option<&str> {
        match self.store {
            None => Some(NO_STORE),
            Some(_) => self.failure(queue),
        }
    }

    /// Why a queue takes no events.
    pub fn failure(&self, queue: &ServiceName) -> Option<&str> {
        self.records.get(queue)?.failure.as_deref()
    }

    /// All queues that take no events, with the reasons.
    pub fn failures(&self) -> impl Iterator<Item = (&ServiceName, &str)> {
        let troubled = self.troubled.iter();
        troubled.filter_map(|queue| Some((queue, self.failure(queue)?)))
    }

    /// Whether the store was asked to open a queue, or could not.
    pub fn is_known(&self, queue: &ServiceName) -> bool {
        let record = self.records.get(queue);
        record.is_some_and(|record| record.is_asked_for() || record.failure.is_some())
    }

    /// Whether the store has such a queue, as far as is known: it was there at the start, or was asked
    /// for since.
    pub fn has_queue(&self, queue: &ServiceName) -> bool {
        let record = self.records.get(queue);
        record.is_some_and(Queue::is_asked_for) || self.found.contains(queue)
    }

    /// The queue of this name, if the store is to remove it and there is no newer one.
    pub fn removing(&self, queue: &ServiceName) -> Option<&QueueId> {
        let record = self.records.get(queue)?;
        (record.state == State::Removing).then_some(&record.id)
    }

    /// The record of a queue, which begins if there is none, or only one that is to be removed.
    fn record(&mut self, name: &ServiceName) -> &mut Queue<R> {
        record(&mut self.records, &mut self.last_generation, name)
    }

    /// The same; there is something of it to flush from now on.
    fn unflushed(&mut self, name: &ServiceName) -> &mut Queue<R> {
        let record = record(&mut self.records, &mut self.last_generation, name);
        if !std::mem::replace(&mut record.is_unflushed, true) {
            self.unflushed.push(name.clone());
        }
        record
    }

    fn is_current(&self, queue: &QueueId) -> bool {
        let record = self.records.get(&queue.name);
        record.is_some_and(|record| record.id == *queue && record.state != State::Removing)
    }

    /// Hands the store a command, as soon as it has room. How much can wait for that is bounded: events by
    /// what may wait for the disk, the others by the events in memory.
    fn send(&mut self, command: Command) {
        if self.store.is_some() {
            self.commands.push_back(command);
            self.send_waiting();
        }
    }

    /// Hands the store what it had no room for.
    pub fn send_waiting(&mut self) {
        let Some(store) = &self.store else { return };
        while let Some(command) = self.commands.pop_front() {
            if let Err(Full(command)) = store.try_send(command) {
                return self.commands.push_front(command);
            }
        }
    }

    /// Has the store open a queue, unless it was asked already.
    pub fn open(&mut self, queue: &ServiceName, limits: LogLimits) {
        if self.store.is_none() {
            return;
        }
        let record = self.record(queue);
        if record.state == State::Closed {
            record.state = State::Opening;
            let queue = record.id.clone();
            self.send(Command::Open { queue, limits });
        }
    }

    /// Has the store open a service's queue, if it has one.
    pub fn open_of(&mut self, service: &Service, shell: &dyn Shell) {
        if service.spill.is_some() {
            self.open(service.name(), shell.limits_of(service.name()));
        }
    }

    /// Queues have other bounds from now on.
    pub fn limit(&mut self, limits_of: impl Fn(&ServiceName) -> LogLimits) {
        let records = self.records.values();
        let open = records.filter(|record| record.is_asked_for());
        let open: Vec<_> = open.map(|record| record.id.clone()).collect();
        for queue in open {
            let limits = limits_of(&queue.name);
            self.send(Command::Limit { queue, limits });
        }
    }

    /// Tells the log of a durable service that its events are given to workers, if they are to be and it
    /// doesn't know. They go when it does.
    pub fn ask_to_hand_out(&mut self, service: &mut Service, now: std::time::Instant) {
        if service.wants_to_hand_out(now) {
            let queue = self.record(service.name()).id.clone();
            self.send(Command::HandOut { queue, on: true });
        }
    }

    /// A service has ended, and its queue goes, with all that waits for the disk on its account. Dead
    /// letters stay.
    pub fn remove(&mut self, queue: &ServiceName) {
        if self.store.is_none() {
            return;
        }
        let record = self.record(queue);
        let id = record.id.clone();
        let mut former = std::mem::replace(record, Queue::new(id.clone()));
        record.state = State::Removing;
        self.weighed += 1;
        self.troubled.remove(queue);
        let unsent = std::mem::take(&mut former.unsent);
        let unsent = Append::of(&id, unsent.items, unsent.emissions);
        self.orphan(unsent);
        let appends = self.appends.iter_mut();
        let of_it = appends.filter(|(_, append)| append.queue == id);
        let of_it: Vec<_> = of_it.map(|(_, append)| append.take()).collect();
        of_it.into_iter().for_each(|append| self.orphan(append));
        self.send(Command::Remove { queue: id });
    }
}

fn record<'a, R>(
    records: &'a mut BTreeMap<ServiceName, Queue<R>>,
    last_generation: &mut u64,
    name: &ServiceName,
) -> &'a mut Queue<R> {
    let mut begin = || {
        *last_generation += 1;
        Queue::new(QueueId {
            name: name.clone(),
            generation: *last_generation,
        })
    };
    let record = records.entry(name.clone()).or_insert_with(&mut begin);
    if record.state == State::Removing {
        *record = begin();
    }
    record
}

#[cfg(test)]
mod simulation;
