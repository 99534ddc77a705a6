//! Publishers, broker, queues, store and workers in one process, on disks that fail, under a fake clock.
//!
//! One seed drives all of it: events that are plain or confirmed, with times and keys, workers that
//! acknowledge, refuse, hang and vanish, kills of the process and of the machine, stops, full and failing
//! disks, retention, ends of services, and requests for dead letters. Asserted are
//!
//! - after each step, the accounting law of each service;
//! - when all is quiet, that nothing that is due waits while a worker could take it;
//! - of each event that is handed out, that it is not done, has come its time, is within its end, keeps
//!   the order of its key, and was tried as often as it says: after a kill, or a stop for which the log
//!   had failed, not exactly, but more than once if a worker had it; and not even that if the log had
//!   failed then and did not work again before;
//! - in the end, that each confirmed event was delivered, is a dead letter, has expired, or was given up
//!   for a reason with a name.
//!
//! What it found first is in the changelog.
//!
//! With these faults put back one by one, it fails within 1,000 seeds, but for the last two, for the first
//! time at the seed that is named:
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
//! | what was asked of a queue while its log was read is done in the opposite order | 368 |
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
//! | an event that is carried says that none was given, before the last tries are written | 52652 |
//! | a log works again before what happened meanwhile is written | 3511 |
//!
//! Two are no faults. A queue that is not open may count as empty when it is read: a request for its
//! letters is refused because it could not be opened, and of events in it nothing is known. What is done
//! may be settled after a read that was asked for before: the spill knows what is done, and passes it.
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
mod passing;
mod publishing;
mod restarting;
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
    WhenFull, WorkerAnswer,
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
    /// Its log had failed when it was handed out in this run: if it works again, it knows.
    is_unrecorded: bool,
    /// The run ended before that, so that it may not be known that it was handed out.
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

    /// Does what the queues left to do, and sees what was handed out.
    fn carry_out(&mut self) {
        loop {
            self.see_handed();
            let Some(effect) = self.daemon().queues.next_effect() else {
                return;
            };
            match effect {
                Effect::Dispatch(service_key) => self.daemon().dispatch(service_key),
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
                | Effect::TakenLetter { .. }
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
