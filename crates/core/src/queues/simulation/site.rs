//! What the simulated daemon stands on: disks, clocks, a store without a thread, and who watches them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::broker::{Item, OrderBy, OrderKey};
use crate::log::sim_disk::{Rng, SimDisk};
use crate::log::{Damage, LogLimits};
use crate::queues::{Clocks, Shell};
use crate::seq::Seq;
use crate::store::{
    AppendTag, Appended, Command, Full, Opened, Opening, Outcome, Outside, QueueId, Report, Sink,
    StateStore,
};
use event_manager_wire::model::ServiceName;
use event_manager_zmtp::HubId;

/// Both clocks. They go on alike, until the wall clock is set.
#[derive(Debug, Clone)]
pub(super) struct Time(Rc<Cell<(Instant, u64)>>);

impl Time {
    #[allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]
    pub(super) fn begin() -> Self {
        Self(Rc::new(Cell::new((Instant::now(), 1_700_000_000_000))))
    }

    pub(super) fn now(&self) -> Instant {
        self.0.get().0
    }

    pub(super) fn wall_ms(&self) -> u64 {
        self.0.get().1
    }

    pub(super) fn pass(&self, ms: u64) {
        let (now, wall_ms) = self.0.get();
        self.0.set((now + Duration::from_millis(ms), wall_ms + ms));
    }

    /// Somebody sets the wall clock.
    pub(super) fn set_wall(&self, forward_ms: i64) {
        let (now, wall_ms) = self.0.get();
        self.0.set((now, wall_ms.saturating_add_signed(forward_ms)));
    }
}

/// What is wrong with disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    Full,
    Writes(u64),
    Reads(u64),
    /// A queue can't be opened.
    Opens,
}

impl Fault {
    fn apply(self, disk: &SimDisk) {
        disk.leave_room(usize::MAX);
        disk.fail_one_in(0);
        disk.fail_reads_one_in(0);
        match self {
            Self::None | Self::Opens => {}
            Self::Full => disk.leave_room(0),
            Self::Writes(n) => disk.fail_one_in(n),
            Self::Reads(n) => disk.fail_reads_one_in(n),
        }
    }
}

/// The disks of all queues.
#[derive(Debug)]
pub(super) struct Disks {
    pub(super) by_name: BTreeMap<ServiceName, SimDisk>,
    fault: Fault,
    /// The queue on whose disk it is; on those of all if none.
    faulty: Option<ServiceName>,
    rng: Rng,
}

impl Disks {
    pub(super) fn new(seed: u64) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            by_name: BTreeMap::new(),
            fault: Fault::None,
            faulty: None,
            rng: Rng(seed),
        }))
    }

    pub(super) fn set(&mut self, fault: Fault, faulty: Option<ServiceName>) {
        (self.fault, self.faulty) = (fault, faulty);
        self.apply();
    }

    fn fault_of(&self, queue: &ServiceName) -> Fault {
        let is_faulty = self.faulty.as_ref().is_none_or(|faulty| faulty == queue);
        if is_faulty { self.fault } else { Fault::None }
    }

    fn apply(&self) {
        for (queue, disk) in &self.by_name {
            self.fault_of(queue).apply(disk);
        }
    }

    /// What can't be read when a queue is opened counts as damaged, and that is another test's.
    fn spare(&self, queue: &ServiceName) {
        if let Fault::Reads(_) = self.fault_of(queue)
            && let Some(disk) = self.by_name.get(queue)
        {
            Fault::None.apply(disk);
        }
    }

    /// All have what is wrong with them again, those too that were spared to be opened.
    pub(super) fn spare_no_more(&self) {
        if let Fault::Reads(_) = self.fault {
            self.apply();
        }
    }

    pub(super) fn crash(&self) {
        self.by_name.values().for_each(SimDisk::crash);
    }
}

/// Logs that are being read beside the store.
#[derive(Debug, Clone, Default)]
pub(super) struct Readers(Rc<RefCell<Vec<Opening<SimDisk>>>>);

impl Readers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// One of them may have come to the end, whichever it is.
    pub(super) fn next(&self, disks: &RefCell<Disks>, now_ms: u64) -> Option<Opened<SimDisk>> {
        let disks = &mut *disks.borrow_mut();
        let mut openings = self.0.borrow_mut();
        let at = disks.rng.below(2 * openings.len() as u64 + 1) as usize;
        let opening = (at < openings.len()).then(|| openings.remove(at))?;
        disks.spare(&opening.queue().name);
        Some(opening.run(now_ms))
    }
}

pub(super) struct State(pub(super) Rc<RefCell<Disks>>, pub(super) Readers);

impl StateStore for State {
    type Directory = SimDisk;

    fn is_held(&self) -> bool {
        true
    }

    fn hold_again(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn queue(&self, queue: &ServiceName) -> io::Result<SimDisk> {
        let disks = &mut *self.0.borrow_mut();
        let fault = disks.fault_of(queue);
        if fault == Fault::Opens {
            return Err(io::Error::other("it can't be opened"));
        }
        let rng = &mut disks.rng;
        let disk = disks.by_name.entry(queue.clone()).or_insert_with(|| {
            let disk = SimDisk::new(rng.next());
            fault.apply(&disk);
            disk
        });
        let disk = disk.clone();
        disks.spare(queue);
        Ok(disk)
    }

    fn is_long(&self, bytes: u64) -> bool {
        bytes > 0 && self.0.borrow_mut().rng.one_in(2)
    }

    fn begin(&self, opening: Opening<SimDisk>) -> Result<(), Opening<SimDisk>> {
        if self.0.borrow_mut().rng.one_in(8) {
            return Err(opening);
        }
        self.1.0.borrow_mut().push(opening);
        Ok(())
    }

    fn remove(&self, queue: &ServiceName) -> io::Result<()> {
        self.0.borrow_mut().by_name.remove(queue);
        Ok(())
    }
}

/// The number of an event, which its body begins with, behind its key.
pub(super) fn number_of(body: &[u8]) -> u64 {
    let number = body.get(1..9).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(number.unwrap())
}

pub(super) fn key_of(body: &[u8]) -> u8 {
    body[0]
}

fn short(what: impl std::fmt::Debug) -> String {
    let mut all = format!("{what:?}");
    all.truncate(all.floor_char_boundary(1500));
    all
}

/// Sees what the store is asked and what it says, and so what is durable under which number.
#[derive(Debug, Default)]
pub(super) struct Witness {
    appends: BTreeMap<AppendTag, Vec<u64>>,
    /// The numbers of events by their sequence numbers, in each queue as it is now.
    pub(super) numbers: BTreeMap<(ServiceName, Seq), u64>,
    /// And the other way round.
    pub(super) seqs: BTreeMap<(ServiceName, u64), Seq>,
    /// Events of which the store said that they are durable. Of a commit that failed a crash may leave some,
    /// and another one may take them.
    pub(super) durable: BTreeSet<(ServiceName, u64)>,
    /// How many events of each queue were damaged in this run: a crash leaves half of a commit that failed.
    pub(super) damaged: BTreeMap<ServiceName, u64>,
    /// Some letters could not be kept: their events are in their queues, and come after a restart.
    pub(super) letters_failed: bool,
    /// Queues whose logs have failed, whether the daemon has heard so or not.
    pub(super) failed: BTreeSet<ServiceName>,
    /// Events that retention took.
    pub(super) expelled: BTreeSet<(ServiceName, u64)>,
    /// What workers hold, as far as the store was told.
    in_hands: BTreeSet<(QueueId, Seq)>,
}

impl Witness {
    /// The queue is gone.
    pub(super) fn forget(&mut self, queue: &ServiceName) {
        self.numbers.retain(|(name, _), _| name != queue);
        self.seqs.retain(|(name, _), _| name != queue);
        self.durable.retain(|(name, _)| name != queue);
    }

    fn is_at(&mut self, queue: &QueueId, seq: Seq, number: u64) {
        self.numbers.insert((queue.name.clone(), seq), number);
        self.seqs.insert((queue.name.clone(), number), seq);
    }

    fn see_damage(&mut self, queue: &QueueId, damage: &[Damage]) {
        let events: usize = damage.iter().map(|damage| damage.seqs.len()).sum();
        *self.damaged.entry(queue.name.clone()).or_default() += events as u64;
    }

    fn see_command(&mut self, command: &Command) {
        trace!("      {}", short(command));
        match command {
            Command::Append { tag, events, .. } => {
                let numbers = events.iter().map(|event| number_of(&event.body));
                self.appends.insert(*tag, numbers.collect());
            }
            Command::Settle { queue, seqs } => {
                for seq in seqs {
                    self.in_hands.remove(&(queue.clone(), *seq));
                }
            }
            Command::Attempts {
                queue,
                attempts,
                in_hands,
            } => {
                for (seq, _) in attempts {
                    self.in_hands.remove(&(queue.clone(), *seq));
                }
                let in_hands = in_hands.iter().map(|seq| (queue.clone(), *seq));
                self.in_hands.extend(in_hands);
            }
            Command::Remove { queue } => self.forget(&queue.name),
            _ => {}
        }
    }

    fn see_report(&mut self, report: &Report) {
        trace!("      {}", short(report));
        match report {
            Report::Committed { queue, appends, .. } => {
                for Appended { tag, outcomes } in appends {
                    let numbers = self.appends.remove(tag).unwrap_or_default();
                    for (number, outcome) in numbers.into_iter().zip(outcomes) {
                        if let Outcome::Appended(seq) | Outcome::Seen(seq) = outcome {
                            self.is_at(queue, *seq, number);
                            self.durable.insert((queue.name.clone(), number));
                        }
                    }
                }
            }
            Report::Failed { queue, .. } => {
                self.letters_failed |= queue.name.is_of_dead_letters();
            }
            Report::State { queue, failed } => {
                match failed {
                    Some(_) => self.failed.insert(queue.name.clone()),
                    None => self.failed.remove(&queue.name),
                };
            }
            Report::Opened { queue, recovered } => self.see_damage(queue, &recovered.damage),
            Report::Damaged { queue, damage } => self.see_damage(queue, damage),
            Report::Stored { queue, events, .. } => {
                for event in events {
                    self.is_at(queue, event.seq, number_of(&event.body));
                }
            }
            Report::Expelled { queue, events } => {
                for event in events {
                    let held = self.in_hands.contains(&(queue.clone(), event.seq));
                    assert!(
                        !held,
                        "retention took {} of {queue} from a worker",
                        event.seq
                    );
                    if let Some(number) = self.numbers.get(&(queue.name.clone(), event.seq)) {
                        self.expelled.insert((queue.name.clone(), *number));
                    }
                }
            }
            _ => {}
        }
    }
}

/// The two ways between the queues and the store.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    commands: Rc<RefCell<VecDeque<Command>>>,
    commands_max: usize,
    pub(super) reports: Rc<RefCell<VecDeque<Report>>>,
    pub(super) witness: Rc<RefCell<Witness>>,
    time: Time,
}

impl Ways {
    pub(super) fn new(commands_max: usize, witness: Rc<RefCell<Witness>>, time: Time) -> Self {
        {
            let mut witness = witness.borrow_mut();
            witness.appends.clear();
            witness.damaged.clear();
            witness.failed.clear();
            witness.letters_failed = false;
            witness.in_hands.clear();
        }
        Self {
            commands: Rc::default(),
            commands_max,
            reports: Rc::default(),
            witness,
            time,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commands.borrow().is_empty() && self.reports.borrow().is_empty()
    }

    pub(super) fn next_command(&self) -> Option<Command> {
        let command = self.commands.borrow_mut().pop_front()?;
        self.witness.borrow_mut().see_command(&command);
        Some(command)
    }
}

impl Sink for Ways {
    fn try_send(&self, command: Command) -> Result<(), Full> {
        let mut commands = self.commands.borrow_mut();
        if commands.len() >= self.commands_max {
            return Err(Full(command));
        }
        commands.push_back(command);
        Ok(())
    }
}

impl Outside for Ways {
    fn report(&self, report: Report) {
        self.witness.borrow_mut().see_report(&report);
        self.reports.borrow_mut().push_back(report);
    }

    fn now(&self) -> Instant {
        self.time.now()
    }

    fn wall_ms(&self) -> u64 {
        self.time.wall_ms()
    }
}

/// What the queues ask of their shell.
#[derive(Debug, Clone)]
pub(super) struct SimShell {
    pub(super) limits: LogLimits,
    pub(super) time: Time,
}

impl Shell for SimShell {
    fn limits_of(&self, _: &ServiceName) -> LogLimits {
        self.limits
    }

    fn item(&self, order_by: Option<OrderBy>, body: Bytes) -> Item {
        let key = order_by.map(|_| OrderKey::from_hash(u64::from(key_of(&body)) + 1));
        let mut item = Item::new(body);
        item.key = key;
        item
    }

    fn clocks(&self) -> Clocks {
        Clocks {
            here: self.time.now(),
            wall_ms: self.time.wall_ms(),
        }
    }

    fn hub_id(&self) -> HubId {
        HubId::from_bytes([1; 8])
    }
}
