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
//! Found with it: a queue that could not be read was read twice when the disk was slow; and events that
//! had expired on disk were counted again when retention gave them up before the log was told.
//!
//! With these faults put back one by one, it fails within 1,000 seeds, at the first time at the seed that
//! is named:
//!
//! | Fault | Seed |
//! |---|---|
//! | nothing is read when nothing can be handed out | 0 |
//! | nothing is read when retention gave up what was in memory | 8 |
//! | nothing is read when what was in memory has expired | 0 |
//! | times of events on disk are not known after a start | 0 |
//! | a queue that is found is not dispatched | 0 |
//! | events that wait for a time hold up those that are due | 0 |
//! | retention takes what workers hold | 3 |
//! | `ackTimeout` runs from each delivery on | 168 |
//! | attempts are counted by a restart | 1 |
//! | a report of an older generation is heard | 27 |
//! | events are handed out before the log knows | 1 |
//!
//! A failure prints its seed. `EVENT_MANAGER_SIM_SEED=n cargo test --lib queues::simulation` replays it.

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
    DeadReason, DeliveryMode, Policies, Policy, QueueLimits, Retry, ServiceSettings, Verdict,
    WhenFull,
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
    /// How often a worker got it.
    handed: u32,
    /// How often it was not written to a worker after all, which a kill may have made forgotten.
    unwritten: u32,
    delivered: bool,
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
    /// It is not to be handed out before, as far as this run knows.
    later: Option<Instant>,
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
        for fate in self.fates.values_mut() {
            (fate.out, fate.done, fate.later) = (false, false, None);
        }
        self.emissions.clear();
        let settings = self.settings;
        let policies = Policies::new(move |name, _| {
            let service = SERVICES.iter().position(|known| *known == name.as_str());
            let service = service.unwrap_or_default();
            let setting = settings[service];
            let is_durable = service < 2;
            let policy = Policy {
                limits: QueueLimits {
                    bytes_max: 1 << 20,
                    events_max: setting.events_max,
                },
                when_full: match is_durable {
                    true => WhenFull::Spill,
                    false => WhenFull::DropOldest,
                },
                ack_timeout: ACK_TIMEOUT,
                retry: Retry {
                    initial: ms(20),
                    multiplier: 2.0,
                    max: ms(100),
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
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().unwrap()
    }

    fn now(&self) -> Instant {
        self.time.now()
    }

    fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
        self.disks.borrow_mut().set(fault);
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
            61..70 => self.run(4),
            70..80 => {
                let passed = self.rng.below(300);
                self.pass(passed);
            }
            80..84 => self.note_tries(),
            84 | 85 => self.break_disks(),
            86 | 87 => self.set_fault(Fault::None),
            88..90 => self.ask_letters(),
            90 => self.end_service(),
            91..93 => self.kill(false),
            93 => self.kill(true),
            94 => self.stop(),
            _ => self.quiet(),
        }
        self.check_law();
    }

    fn break_disks(&mut self) {
        let n = 1 + self.rng.below(4);
        let fault = match self.rng.below(3) {
            0 => Fault::Full,
            1 => Fault::Writes(n),
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
        let what = match self.rng.below(3) {
            0 => Ask::List,
            1 => Ask::Purge,
            _ => Ask::Replay,
        };
        self.daemon().ask(&name(service), what);
    }

    fn end_service(&mut self) {
        let service = self.rng.below(2) as usize;
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
        self.pass_dead();
        self.start();
    }

    fn pass_dead(&mut self) {
        let passed = self.rng.below(500);
        self.time.pass(passed);
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
        daemon.stop();
        self.pass_dead();
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
                Effect::WakePublishers
                | Effect::Found { .. }
                | Effect::Dropped { .. }
                | Effect::NotRead { .. }
                | Effect::Replayed(_)
                | Effect::NotReplayed { .. }
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
        match request {
            Ask::List => self
                .letters
                .extend(numbers.iter().map(|number| (service, *number))),
            Ask::Purge => {
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
                for number in numbers {
                    let fate = self.fates.entry((service, number)).or_default();
                    (fate.replayed, fate.done) = (true, false);
                    // It comes without its times, and begins anew.
                    (fate.not_before, fate.expires_at, fate.later) = (None, None, None);
                }
                self.daemon().replay(&of, queue, events, request);
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
    if let Ok(seed) = std::env::var("EVENT_MANAGER_SIM_SEED") {
        return play(seed.parse().unwrap());
    }
    let mut failed = vec![];
    for seed in 0..seeds {
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

#[test]
#[ignore = "some minutes"]
fn no_event_is_lost_and_none_waits_in_vain_for_long() {
    play_all(100_000);
}
