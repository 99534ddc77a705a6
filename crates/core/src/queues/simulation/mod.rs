//! Publishers, broker, queues, store and workers in one process, on disks that fail, under a fake clock.
//!
//! One seed drives all of it: events that are plain or confirmed, with times and keys, workers that
//! acknowledge, refuse, hang and vanish, kills of the process and of the machine, stops, full and failing
//! disks, retention, ends of services, and requests for dead letters. Asserted are
//!
//! - after each step, the accounting law of each service;
//! - when all is quiet, that nothing that is due waits while a worker could take it;
//! - of each event that is handed out, that it is not done, has come its time, is within its end, keeps
//!   the order of its key, and was tried as often as it says;
//! - in the end, that each confirmed event was delivered, is a dead letter, has expired, or was given up
//!   for a reason with a name.
//!
//! What it found first is in the changelog.
//!
//! With these faults put back one by one, it fails within 1,000 seeds, for the first time at the seed
//! that is named:
//!
//! | Fault | Seed |
//! |---|---|
//! | nothing is read when nothing can be handed out | 0 |
//! | nothing is read when retention gave up what was in memory | 24 |
//! | nothing is read when what was in memory has expired | 0 |
//! | times of events on disk are not known after a start | 0 |
//! | a queue that is found is not dispatched | 0 |
//! | events that wait for a time hold up those that are due | 3 |
//! | retention takes what workers hold | 1 |
//! | `ackTimeout` runs from each delivery on | 181 |
//! | `ackTimeout` is four times as long after a word of the worker | 0 |
//! | attempts are counted by a restart | 4 |
//! | a report of an older generation is heard | 53 |
//! | events are handed out before the log knows | 5 |
//! | a retry of a key doesn't hold its turn after a restart | 18 |
//! | a retry of a key doesn't hold its turn in memory | 2 |
//! | a retry of a key goes to disk to make room | 1 |
//! | what came goes to memory though earlier events are on disk alone | 0 |
//! | events of one key go to two workers | 1 |
//! | the order in memory is that in which events were read | 24 |
//! | a stop doesn't tell the log the last tries | 0 |
//! | a stop doesn't tell the log that nothing is handed out any more | 8 |
//! | at a stop, what was not written to its worker counts as a try | 8 |
//! | an event is settled before its dead letter is on disk | 5 |
//! | an event is settled though its dead letter could not be kept | 50 |
//! | the delay of a NAK is not kept | 0 |
//! | nor over a restart, as it is not written | 144 |
//! | nor over a restart, as it is not read | 144 |
//! | what was not acknowledged in time is tried again at once | 0 |
//! | emissions of a queue that is removed are not answered | 3 |
//! | a replay to a queue that is removed is not answered | 293 |
//! | the wall clock is set: times on disk don't move | 169 |
//! | times in memory don't move | 0 |
//! | delays of retries move too | 93 |
//! | the timetable stays as it was | 16 |
//!
//! Two are no faults. A queue that is not open may count as empty when it is read: a request for its
//! letters is refused because it could not be opened, and of events in it nothing is known. What is done
//! may be settled after a read that was asked for before: the shelf knows what is done, and passes it.
//!
//! What it doesn't find in 1,000 seeds: ids of replayed events without their letters' times, which matters
//! if the letters are lost and as many die again.
//!
//! A failure prints its seed. `EVENT_MANAGER_SIM_SEED=n cargo test -p zmq-event-manager-core --lib
//! queues::simulation` replays it, `EVENT_MANAGER_SIM_SEEDS=n` tries so many.

/// What happens, in words, with `EVENT_MANAGER_SIM_TRACE=1`.
macro_rules! trace {
    ($($what:tt)*) => {
        if std::env::var_os("EVENT_MANAGER_SIM_TRACE").is_some() {
            eprintln!($($what)*);
        }
    };
}

mod checking;
mod daemon;
mod publishing;
mod site;
mod working;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::broker::ServiceKey;
use crate::broker::{
    ClockChange, DeadReason, DeliveryMode, Policies, Policy, QueueLimits, Retry, ServiceSettings,
    Verdict, WhenFull,
};
use crate::log::StoredEvent;
use crate::log::sim_disk::Rng;
use daemon::{Daemon, Held};
use site::{Disks, Fault, SimShell, Time, Ways, Witness, number_of};

/// After so many failures no more are looked for.
const FAILURES_MAX: usize = 5;
/// Steps of one seed.
const STEPS: u64 = 80;
const ACK_TIMEOUT: Duration = Duration::from_millis(500);
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(100);
/// What times lose when they are converted from one clock to the other, and back.
const TOLERANCE: Duration = Duration::from_millis(2);
const SERVICES: [&str; 3] = ["Billing", "Archive", "Live"];

fn name(service: usize) -> ServiceName {
    ServiceName::new(SERVICES[service]).unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How a service is configured.
#[derive(Debug, Clone, Copy)]
struct Setting {
    events_max: usize,
    bytes_max: usize,
    has_order: bool,
    max_deliveries: u32,
}

/// What became of one event at one service.
#[derive(Debug, Clone, Default)]
struct Fate {
    key: u8,
    confirmed: bool,
    not_before: Option<Instant>,
    expires_at: Option<Instant>,
    /// When those are by the wall clock, in ms since 1970: that is what is on disk.
    due_ms: Option<u64>,
    ends_ms: Option<u64>,
    /// Both are times of the wall clock: they move with it.
    by_clock: bool,
    /// It was sent again before the wall clock was set, so that its times may be these or those.
    has_vague_times: bool,
    /// How often a worker got it.
    handed: u32,
    /// How often it was not written to a worker after all, which a kill may have made forgotten.
    unwritten: u32,
    delivered: bool,
    /// Its end came once, though it may be before that again, as the wall clock was set back.
    expired: bool,
    /// A worker said TERM.
    terminated: bool,
    /// It is a dead letter, or was one.
    dead: bool,
    purged: bool,
    /// Its publisher has sent it again.
    resent: bool,
    /// It was replayed: it may come again.
    replayed: bool,
    /// Its service was ended when it was there.
    ended: bool,
    /// It was given to a worker in this run and not given back, or is done in this run.
    out: bool,
    done: bool,
    /// It is not to be handed out before, as far as is known for sure,
    later: Option<Instant>,
    /// and should be when this has come.
    due_by: Option<Instant>,
    /// `later` is noted on disk as a time of the wall clock: it moves when that is set.
    is_later_noted: bool,
    /// It is larger than all that may wait in memory.
    is_too_large: bool,
    /// The daemon was killed, or stopped with a bad disk, when it was there: workers may have had it.
    is_doubtful: bool,
    /// A disk failed when it was handed out, so that it may not be known that it was.
    is_vague: bool,
    /// It was given to a worker that doesn't acknowledge, of a live service, and came back: it has no times
    /// and no key any more.
    is_bare: bool,
}

impl Fate {
    fn unwritten(&mut self, held: &Held) {
        if !held.is_overdue.get() {
            self.handed -= 1;
            self.unwritten += 1;
        }
    }
}

/// A request for dead letters.
#[derive(Debug, Clone, Copy)]
enum Ask {
    List,
    Purge,
    Replay,
}

/// A publisher waits to hear of an event.
#[derive(Debug)]
struct Emission {
    number: u64,
    awaited: usize,
    failed: bool,
}

struct World {
    rng: Rng,
    time: Time,
    disks: Rc<RefCell<Disks>>,
    witness: Rc<RefCell<Witness>>,
    settings: [Setting; 3],
    limits: LogLimits,
    daemon: Option<Daemon>,
    fates: BTreeMap<(usize, u64), Fate>,
    /// Events that can be sent again, with what they were sent with.
    resends: Vec<Sent>,
    emissions: BTreeMap<EmissionId, Emission>,
    number: u64,
    letters: BTreeSet<(usize, u64)>,
    /// Requests for dead letters that are not answered.
    asked: usize,
    /// The wall clock was set in this run.
    was_set: bool,
    fault: Fault,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    number: u64,
    key: u8,
    due: Option<Instant>,
    expires_at: Option<Instant>,
}

fn body(key: u8, number: u64, padding: usize) -> Bytes {
    let mut body = vec![key];
    body.extend(number.to_le_bytes());
    body.resize(9 + padding, 0);
    body.into()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let settings = [0, 1, 2].map(|_| Setting {
            events_max: [2, 6, 100][rng.below(3) as usize],
            bytes_max: [1 << 20, 1 << 20, 2000, 600][rng.below(4) as usize],
            has_order: rng.one_in(2),
            max_deliveries: [3, 100_000][rng.below(2) as usize],
        });
        let limits = LogLimits {
            segment_bytes: 1000 + rng.below(3000),
            event_bytes_max: 2000,
            bytes_max: if rng.one_in(4) { 1500 } else { u64::MAX },
            age_max_ms: if rng.one_in(4) { 4000 } else { u64::MAX },
            dedup_window_ms: 1 << 40,
            dedup_ids_max: 100_000,
            reserve_bytes: 1200,
        };
        let disks = Disks::new(rng.next());
        let mut world = Self {
            rng,
            time: Time::begin(),
            disks,
            witness: Rc::default(),
            settings,
            limits,
            daemon: None,
            fates: BTreeMap::new(),
            resends: vec![],
            emissions: BTreeMap::new(),
            number: 0,
            letters: BTreeSet::new(),
            asked: 0,
            was_set: false,
            fault: Fault::None,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        // What can't be read at the start counts as damaged, and that is another test's.
        if matches!(self.fault, Fault::Reads(_)) {
            self.set_fault(Fault::None);
        }
        self.note_expired();
        for fate in self.fates.values_mut() {
            (fate.out, fate.done) = (false, false);
            let left = |at_ms: u64| ms(at_ms.saturating_sub(self.time.wall_ms()));
            let at = |at_ms: u64| self.time.now() + left(at_ms);
            fate.not_before = fate.due_ms.map(at);
            fate.expires_at = fate.ends_ms.map(at);
            fate.by_clock = true;
            fate.later = fate.later.filter(|_| !self.was_set);
            fate.is_later_noted = true;
        }
        self.was_set = false;
        self.emissions.clear();
        self.asked = 0;
        let settings = self.settings;
        let policies = Policies::new(move |name, _| {
            let service = SERVICES.iter().position(|known| *known == name.as_str());
            let service = service.unwrap_or_default();
            let setting = settings[service];
            let is_durable = service < 2;
            let policy = Policy {
                limits: QueueLimits {
                    bytes_max: setting.bytes_max,
                    events_max: setting.events_max,
                },
                when_full: match is_durable {
                    true => WhenFull::Spill,
                    false => WhenFull::DropOldest,
                },
                ack_timeout: ACK_TIMEOUT,
                retry: Retry {
                    initial: RETRY_MIN,
                    multiplier: 2.0,
                    max: RETRY_MAX,
                    max_deliveries: setting.max_deliveries,
                },
            };
            ServiceSettings {
                policy,
                order_by: setting.has_order.then_some(OrderBy::Subject),
                delivery: match is_durable {
                    true => DeliveryMode::Queue,
                    false => DeliveryMode::Live,
                },
            }
        });
        let commands_max = [2, 1000][self.rng.below(2) as usize];
        let ways = Ways::new(commands_max, Rc::clone(&self.witness), self.time.clone());
        let shell = SimShell {
            limits: self.limits,
            time: self.time.clone(),
        };
        self.daemon = Some(Daemon::start(ways, shell, &self.disks, policies));
        // Workers of the run before come back, sometimes at once.
        for _ in 0..self.rng.below(4) {
            self.join();
        }
        for _ in 0..self.rng.below(6) {
            self.run(40);
        }
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().unwrap()
    }

    fn now(&self) -> Instant {
        self.time.now()
    }

    fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
        let service = self.rng.below(2) as usize;
        let queue = match self.rng.below(4) {
            0 => Some(name(service)),
            1 | 2 => name(service).dead_letters(),
            _ => None,
        };
        self.disks.borrow_mut().set(fault, queue);
    }

    fn step(&mut self) {
        let what = self.rng.below(100);
        trace!("step {what}");
        match what {
            0..10 => self.publish(),
            10..24 => self.emit(None),
            24..26 => self.resend(),
            26..34 => self.join(),
            34..58 => self.work(),
            58..61 => self.leave(),
            61..67 => self.run(4),
            67..73 => self.run(40),
            73..80 => {
                let passed = self.rng.below(300);
                self.pass(passed);
            }
            80..83 => self.note_tries(),
            83..87 => self.break_disks(),
            87 => self.set_fault(Fault::None),
            88..91 => self.ask_letters(),
            91 => self.end_service(),
            92 => self.kill(false),
            93 => self.kill(true),
            94..97 => self.stop(),
            97 => self.set_clock(),
            _ => self.quiet(),
        }
        self.check_law();
    }

    fn break_disks(&mut self) {
        let n = 1 + self.rng.below(4);
        let fault = match self.rng.below(4) {
            0 => Fault::Full,
            1 => Fault::Writes(n),
            2 => Fault::Opens,
            _ => Fault::Reads(1 + n),
        };
        self.set_fault(fault);
    }

    fn note_tries(&mut self) {
        self.daemon().note_tries(false);
        self.carry_out();
    }

    /// Time passes, and what it asks for is done.
    fn pass(&mut self, ms: u64) {
        self.time.pass(ms);
        let now = self.now();
        let due = self.daemon().broker.timetable.take_due(now);
        for place in due {
            self.time_out(place, now);
        }
        self.daemon().tend();
        self.carry_out();
        self.check_deadlines();
    }

    /// The wall clock is set, forwards or back, and the daemon notices.
    fn set_clock(&mut self) {
        let forward_ms = self.rng.below(6000) as i64 - 3000;
        self.set_wall(forward_ms);
        let now = self.now();
        self.daemon().clock_was_set(ClockChange { forward_ms }, now);
        self.carry_out();
    }

    fn set_wall(&mut self, forward_ms: i64) {
        trace!("    the wall clock is set forward by {forward_ms} ms");
        self.time.set_wall(forward_ms);
        let by = ms(forward_ms.unsigned_abs());
        self.was_set = true;
        self.note_expired();
        let now = self.now();
        let moved = |at: Instant| match forward_ms < 0 {
            true => at + by,
            false => (at - by).max(now),
        };
        for fate in self.fates.values_mut() {
            let has_times = fate.due_ms.or(fate.ends_ms).is_some();
            fate.has_vague_times |= fate.resent && has_times;
            // What was due is due, at the latest when it would be now.
            let later = fate.not_before.map(moved);
            if forward_ms < 0 {
                fate.due_by = fate.due_by.map(|at| at + by);
            }
            fate.later = fate.later.filter(|_| !fate.is_later_noted);
            fate.due_by = fate.due_by.max(later.filter(|_| fate.by_clock));
            fate.not_before = later.filter(|_| fate.not_before > Some(now));
            if fate.by_clock {
                fate.expires_at = fate.expires_at.map(moved);
            }
        }
        self.resends
            .retain(|sent| sent.due.or(sent.expires_at).is_none());
    }

    fn note_expired(&mut self) {
        let now = self.now();
        for fate in self.fates.values_mut() {
            fate.expired |= fate.expires_at.is_some_and(|at| at <= now + TOLERANCE);
        }
    }

    fn time_out(&mut self, place: ServiceKey, now: Instant) {
        let daemon = self.daemon.as_mut().unwrap();
        let Some(found) = daemon.broker.service_mut(place) else {
            return;
        };
        let aftermath = found.handle_timeout(now, || 0.5);
        let mut service = None;
        for worker in daemon.workers.iter().filter(|worker| worker.place == place) {
            service = Some(worker.service);
            let held: BTreeSet<_> = found.queue.held_by(worker.key).collect();
            for lost in worker.holds.iter().filter(|h| !held.contains(&h.id)) {
                if !worker.acknowledges || lost.is_overdue.get() {
                    continue;
                }
                lost.is_overdue.set(true);
                let silent = now - worker.heard_at;
                assert!(
                    !worker.in_order || silent >= ACK_TIMEOUT,
                    "{} was taken from a worker that was silent for {silent:?}",
                    lost.number
                );
                let fate = self.fates.entry((worker.service, lost.number)).or_default();
                fate.out = false;
                // `chance` is a half.
                fate.later = Some(now + RETRY_MIN * 3 / 4);
                fate.due_by = Some(now + RETRY_MAX);
                fate.is_later_noted = false;
            }
        }
        let service = service.or_else(|| {
            let name = found.name().as_str();
            SERVICES.iter().position(|known| *known == name)
        });
        self.finish(service.unwrap_or_default(), place, aftermath);
        self.daemon().dispatch(place);
        self.carry_out();
    }

    /// The store does some of what it was asked, and some of what it says is heard.
    fn run(&mut self, n: u64) {
        if self.rng.one_in(2) {
            self.daemon().flush();
        }
        let commands = self.rng.below(n + 1);
        self.daemon().run_store(commands);
        for _ in 0..self.rng.below(n + 1) {
            self.daemon().hear_one();
            self.carry_out();
        }
    }

    fn ask_letters(&mut self) {
        let service = self.rng.below(3) as usize;
        let what = match self.rng.below(4) {
            0 => Ask::List,
            1 => Ask::Purge,
            _ => Ask::Replay,
        };
        self.ask(service, what);
    }

    /// Letters are on their way back.
    fn replay_half(&mut self, service: usize) {
        self.ask(service, Ask::Replay);
        let letters = name(service).dead_letters().unwrap();
        for _ in 0..9 {
            while self.daemon().hear_one() {
                self.carry_out();
            }
            if self.daemon().queues.is_changing(&letters, |_| false) {
                return;
            }
            self.daemon().run_store(u64::MAX);
        }
    }

    fn ask(&mut self, service: usize, what: Ask) {
        let asked = self.daemon().ask(&name(service), what);
        self.asked += usize::from(asked);
    }

    fn end_service(&mut self) {
        let service = self.rng.below(2) as usize;
        if self.rng.one_in(4) {
            self.replay_half(service);
        }
        let daemon = self.daemon.as_mut().unwrap();
        if !daemon.end(service) {
            return;
        }
        for ((of, _), fate) in &mut self.fates {
            if *of == service {
                fate.ended = true;
                (fate.out, fate.done) = (false, false);
            }
        }
        self.carry_out();
        if self.rng.one_in(2) {
            self.daemon().subscribe(service);
        } else {
            self.run(4);
            self.daemon().subscribe(service);
        }
        self.carry_out();
    }

    /// The process is gone, and with `power` the machine.
    fn kill(&mut self, power: bool) {
        self.daemon = None;
        if power {
            self.disks.borrow().crash();
        }
        for fate in self.fates.values_mut() {
            (fate.later, fate.is_doubtful) = (None, true);
        }
        self.rest();
        self.start();
    }

    /// No daemon runs for a while.
    fn rest(&mut self) {
        let passed = self.rng.below(500);
        self.time.pass(passed);
        if self.rng.one_in(8) {
            let forward_ms = self.rng.below(6000) as i64 - 3000;
            self.set_wall(forward_ms);
        }
        match self.rng.below(8) {
            0 | 1 => self.lose_queue(),
            2 | 3 => self.set_fault(Fault::Opens),
            _ => {}
        }
    }

    /// Somebody removes the directory of a queue, or of its dead letters.
    fn lose_queue(&mut self) {
        let service = self.rng.below(2) as usize;
        let is_of_letters = !self.rng.one_in(4);
        let queue = match is_of_letters {
            true => name(service).dead_letters().unwrap(),
            false => name(service),
        };
        trace!("    {queue} is lost");
        self.disks.borrow_mut().by_name.remove(&queue);
        self.witness.borrow_mut().forget(&queue);
        self.letters
            .retain(|(of, _)| *of != service || !is_of_letters);
        for ((of, _), fate) in &mut self.fates {
            if *of == service {
                fate.ended |= !is_of_letters;
                fate.purged |= is_of_letters && fate.dead;
            }
        }
    }

    /// It is asked to stop.
    fn stop(&mut self) {
        let written = self.rng.below(3) as usize;
        let now = self.now();
        let mut daemon = self.daemon.take().unwrap();
        for worker in std::mem::take(&mut daemon.workers) {
            let n = worker.holds.len() - written.min(worker.holds.len());
            for (at, held) in worker.holds.iter().enumerate() {
                let fate = self.fates.entry((worker.service, held.number)).or_default();
                if at >= n {
                    fate.unwritten(held);
                } else if !worker.acknowledges {
                    fate.delivered = true;
                }
            }
            daemon.end_worker(&worker, n, now);
        }
        let is_bad = self.fault != Fault::None || daemon.queues.failures().next().is_some();
        let is_told = daemon.stop();
        if is_bad || !is_told {
            for fate in self.fates.values_mut() {
                (fate.later, fate.is_doubtful) = (None, true);
            }
        }
        self.rest();
        self.start();
    }

    /// Does what the queues left to do, and sees what was handed out.
    fn carry_out(&mut self) {
        loop {
            self.see_handed();
            let Some(effect) = self.daemon().queues.next_effect() else {
                return;
            };
            match effect {
                Effect::Dispatch(place) => self.daemon().dispatch(place),
                Effect::Confirm {
                    emission, result, ..
                } => self.confirmed(emission, result.is_ok()),
                Effect::Read {
                    request,
                    queue,
                    events,
                    ..
                } => self.letters_read(request, &queue, events),
                Effect::Removed { error, .. } => assert_eq!(error, None),
                Effect::NotRead { .. } | Effect::Replayed(_) | Effect::NotReplayed { .. } => {
                    self.asked -= 1;
                }
                Effect::WakePublishers
                | Effect::Found { .. }
                | Effect::Dropped { .. }
                | Effect::Note(_) => {}
            }
        }
    }

    fn confirmed(&mut self, id: EmissionId, well: bool) {
        let Some(emission) = self.emissions.get_mut(&id) else {
            return;
        };
        emission.awaited -= 1;
        emission.failed |= !well;
        if emission.awaited > 0 {
            return;
        }
        let (number, failed) = (emission.number, emission.failed);
        self.emissions.remove(&id);
        if failed {
            return;
        }
        for service in 0..2 {
            if let Some(fate) = self.fates.get_mut(&(service, number)) {
                fate.confirmed = true;
            }
        }
    }

    fn letters_read(&mut self, request: Ask, queue: &ServiceName, events: Vec<StoredEvent>) {
        let of = queue.of_dead_letters().unwrap();
        let service = SERVICES.iter().position(|known| *known == of.as_str());
        let service = service.unwrap();
        let numbers: Vec<_> = events.iter().map(|event| number_of(&event.body)).collect();
        self.asked -= 1;
        self.check_listed(service, queue, &numbers);
        match request {
            Ask::List => self
                .letters
                .extend(numbers.iter().map(|number| (service, *number))),
            Ask::Purge => {
                self.letters.retain(|(of, _)| *of != service);
                for number in numbers {
                    self.fates.entry((service, number)).or_default().purged = true;
                }
                let seqs = events.iter().map(|event| event.seq).collect();
                self.daemon().queues.settle_at_once(queue, seqs);
            }
            Ask::Replay => {
                if events.is_empty() || self.daemon().broker.find(&of).is_none() {
                    return;
                }
                self.letters.retain(|(of, _)| *of != service);
                for number in numbers {
                    let fate = self.fates.entry((service, number)).or_default();
                    (fate.replayed, fate.done) = (true, false);
                    // It comes without its times, and begins anew.
                    (fate.not_before, fate.expires_at) = (None, None);
                    (fate.due_ms, fate.ends_ms) = (None, None);
                    (fate.later, fate.due_by, fate.is_later_noted) = (None, None, false);
                }
                let is_answered = self.daemon().replay(&of, queue, events, request);
                self.asked += usize::from(!is_answered);
            }
        }
    }
}

fn play(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.end();
}

fn play_all(seeds: u64) {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    if let Some(seed) = number("EVENT_MANAGER_SIM_SEED") {
        return play(seed);
    }
    let mut failed = vec![];
    for seed in 0..number("EVENT_MANAGER_SIM_SEEDS").unwrap_or(seeds) {
        if catch_unwind(AssertUnwindSafe(|| play(seed))).is_err() {
            eprintln!("EVENT_MANAGER_SIM_SEED={seed}");
            failed.push(seed);
        }
        if failed.len() == FAILURES_MAX {
            break;
        }
    }
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

#[test]
fn no_event_is_lost_and_none_waits_in_vain() {
    play_all(2000);
}
