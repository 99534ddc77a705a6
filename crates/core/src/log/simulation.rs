//! The log on a disk that fails, against a model that remembers everything.
//!
//! A failure prints its seed. `STORE_SEED=n cargo test -p zmq-event-manager-core --lib log::simulation::a_log`
//! replays it; with `STORE_SEEDS=m` the m seeds from there on are tried.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::sim_disk::{Rng, SimDisk};
use super::*;

mod damage;
mod strays;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Appended, not committed.
    #[default]
    Buffered,
    /// Its commit failed: it may be found by the next who opens the log, unless this one recovers.
    Unsure,
    /// Never to be seen again.
    Gone,
    /// Found by a log that could not make sure of it yet.
    Unproven,
    Live,
    /// Settled, and that was not committed.
    Settling,
    Settled,
}

#[derive(Debug, Default)]
struct Event {
    state: State,
    id: Option<Vec<u8>>,
    body: Vec<u8>,
    time_ms: u64,
    /// Counts that may be found: the last committed one, then those noted since.
    attempts: Vec<u32>,
    /// A record that holds it was damaged.
    doubted: bool,
    /// A record that holds its settlement was damaged.
    may_return: bool,
    /// A record of its attempts or its id was damaged, or the id was in no segment at a crash.
    loose: bool,
    /// Found by a log that has failed, and perhaps settled then: it may still be lost.
    untold: bool,
    /// What had its number before, and was never told of: a crash may bring it back if the header was
    /// damaged that knew that it was not committed.
    before: Option<Vec<u8>>,
}

struct World {
    rng: Rng,
    disk: SimDisk,
    limits: LogLimits,
    log: QueueLog<SimDisk>,
    now_ms: u64,
    events: BTreeMap<Seq, Event>,
    /// The highest number of an event that somebody was told of.
    highest: Seq,
    serial: u64,
    flips: BTreeSet<(String, usize)>,
    /// A header was damaged: it knew what was not committed in the segment before it.
    lost_header: bool,
    has_flipped: bool,
    /// What somebody put there and has to stay.
    strays: Vec<Vec<u8>>,
    /// Segments of which there is another copy.
    copied: BTreeSet<String>,
}

fn limits(rng: &mut Rng) -> LogLimits {
    LogLimits {
        segment_bytes: 1000 + rng.below(3000),
        event_bytes_max: 2000,
        bytes_max: if rng.one_in(4) { 3000 } else { u64::MAX },
        age_max_ms: if rng.one_in(4) { 20_000 } else { u64::MAX },
        dedup_window_ms: 1 + rng.below(60_000),
        dedup_ids_max: if rng.one_in(2) { 4 } else { 1000 },
        reserve_bytes: 1200,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let disk = SimDisk::new(rng.next());
        if rng.one_in(2) {
            disk.take_space_ahead();
        }
        let limits = limits(&mut rng);
        let now_ms = 1_700_000_000_000;
        let (log, recovered) = QueueLog::open(disk.clone(), "own", limits, now_ms).unwrap();
        assert_eq!(
            (recovered.next_seq, recovered.lowest_unsettled),
            (Seq::FIRST, None)
        );
        Self {
            rng,
            disk,
            limits,
            log,
            now_ms,
            events: BTreeMap::new(),
            highest: Seq::ZERO,
            serial: 0,
            flips: BTreeSet::new(),
            lost_header: false,
            has_flipped: false,
            strays: vec![],
            copied: BTreeSet::new(),
        }
    }

    fn step(&mut self) {
        self.now_ms += self.rng.below(3000);
        match self.rng.below(41) {
            0..12 => self.append(),
            12..19 => self.commit(),
            19..25 => self.settle(),
            25..27 => self.attempts(),
            27..29 => self.read_all(),
            29..33 => self.trim(),
            33 => self.enforce(),
            34 => self.flip(),
            35 => self.faults(),
            36..38 => self.recover(),
            38 => self.reopen(true),
            39 => self.log.give_back(),
            _ => self.reopen(false),
        }
        assert_eq!(self.log.unsettled_events(), self.log.index.live_in_all());
    }

    fn append(&mut self) {
        for _ in 0..1 + self.rng.below(4) {
            self.serial += 1;
            let mut body = self.serial.to_le_bytes().to_vec();
            body.resize(8 + self.rng.below(300) as usize, self.serial as u8);
            let id = self
                .rng
                .one_in(2)
                .then(|| vec![self.rng.below(12) as u8; 3]);
            if let Some(id) = &id
                && self.check_seen(id)
            {
                continue;
            }
            let new = NewEvent {
                id: id.as_deref(),
                attributes: b"attributes",
                body: &body,
            };
            let Ok(seq) = self.log.append(new, self.now_ms) else {
                assert!(self.log.failed().is_some());
                return;
            };
            assert!(seq > self.highest, "{seq} was used before");
            let event = Event {
                id,
                body,
                time_ms: self.now_ms,
                attempts: vec![0],
                ..Event::default()
            };
            if let Some(known) = self.events.insert(seq, event) {
                assert!(known.untold || known.state == State::Gone);
                let event = self.events.get_mut(&seq);
                event.unwrap().before = self.lost_header.then_some(known.body);
            }
        }
    }

    fn check_seen(&self, id: &[u8]) -> bool {
        let seen = self.log.seen(id, self.now_ms);
        let fresh = |event: &Event| self.now_ms < event.time_ms + self.limits.dedup_window_ms;
        if let Some(seq) = seen {
            let event = &self.events[&seq];
            assert!(event.id.as_deref() == Some(id) && fresh(event));
            let is_known = !matches!(event.state, State::Gone | State::Unsure);
            assert!(
                is_known || event.loose,
                "id of {seq}, which is {:?}",
                event.state
            );
        }
        let committed =
            |event: &&Event| matches!(event.state, State::Live | State::Settling | State::Settled);
        let mut since = 0;
        for (seq, event) in self.events.iter().rev() {
            since += usize::from(event.id.is_some());
            if event.id.as_deref() == Some(id)
                && committed(&event)
                && since <= self.limits.dedup_ids_max
            {
                let known = event.loose || event.doubted || !fresh(event);
                assert!(known || seen >= Some(*seq), "id of {seq} is forgotten");
            }
        }
        seen.is_some()
    }

    fn states(&mut self, change: impl Fn(&mut Event) -> Option<State>) {
        for event in self.events.values_mut() {
            if let Some(state) = change(event) {
                event.state = state;
            }
        }
    }

    fn commit(&mut self) {
        match self.log.commit(self.now_ms) {
            Ok(()) => {
                self.states(|event| match event.state {
                    State::Buffered => Some(State::Live),
                    State::Settling => Some(State::Settled),
                    _ => None,
                });
                let live = self.events.values_mut().filter(|e| e.state == State::Live);
                for event in live {
                    event.attempts.drain(..event.attempts.len() - 1);
                }
                self.told();
            }
            Err(_) => {
                self.failed();
                self.commit_settled();
            }
        }
    }

    /// On a full disk what is done is durable as well, unless too much else is written there.
    fn commit_settled(&mut self) {
        self.log.commit_settled(self.now_ms);
        if self.log.owes_no_settlement() {
            self.states(|event| match event.state {
                State::Settling => Some(State::Settled),
                _ => None,
            });
        }
    }

    fn told(&mut self) {
        let is_told =
            |event: &Event| matches!(event.state, State::Live | State::Settled) && !event.untold;
        let told = self.those(is_told).last().copied();
        self.highest = self.highest.max(told.unwrap_or_default());
    }

    fn failed(&mut self) {
        assert!(self.log.failed().is_some());
        self.states(|event| (event.state == State::Buffered).then_some(State::Unsure));
    }

    fn those(&self, which: impl Fn(&Event) -> bool) -> Vec<Seq> {
        let events = self.events.iter().filter(|(_, event)| which(event));
        events.map(|(seq, _)| *seq).collect()
    }

    fn settle(&mut self) {
        for _ in 0..self.rng.below(12) {
            let open = self.those(|event| {
                matches!(event.state, State::Live | State::Unproven | State::Buffered)
            });
            // Mostly in order, as queues are worked off.
            let among = &open[..open.len().min(4)];
            let seq = if self.rng.one_in(6) {
                self.rng.pick(&open)
            } else {
                self.rng.pick(among)
            };
            let Some(seq) = seq.copied() else { return };
            self.log.settle(seq);
            self.log.settle(seq);
            self.settling(seq);
        }
    }

    fn settling(&mut self, seq: Seq) {
        let event = self.events.get_mut(&seq).unwrap();
        // A buffered event whose commit fails is lost with its settlement.
        if event.state != State::Buffered {
            event.state = State::Settling;
        } else {
            self.commit();
            let event = self.events.get_mut(&seq).unwrap();
            if event.state == State::Live {
                event.state = State::Settled;
            } else {
                // Found with its settlement, it is known by its id only.
                event.loose = true;
            }
        }
    }

    fn attempts(&mut self) {
        let live = self.those(|event| matches!(event.state, State::Live | State::Unproven));
        if let Some(seq) = self.rng.pick(&live).copied() {
            let event = self.events.get_mut(&seq).unwrap();
            let attempts = event.attempts.last().unwrap() + 1;
            event.attempts.push(attempts);
            self.log.note_attempts(seq, attempts);
            if self.rng.one_in(2) {
                let until_ms = self.now_ms + self.rng.below(120_000);
                self.log.note_later(seq, until_ms);
            }
        }
    }

    /// Everything that is there, by pieces of any size. What can't be read now can be later.
    fn found(&mut self) -> Vec<StoredEvent> {
        let mut found: Vec<StoredEvent> = vec![];
        loop {
            let from = found.last().map_or(Seq::ZERO, |event| event.seq.next());
            let (events_max, bytes_max) = (1 + self.rng.below(20), self.rng.below(4000));
            let Ok(read) = self.log.read(from, events_max as usize, bytes_max) else {
                assert!(self.disk.fails_reads());
                continue;
            };
            assert!(read.len() as u64 <= events_max);
            assert!(read.is_sorted_by_key(|event| event.seq));
            if read.is_empty() {
                return found;
            }
            found.extend(read);
        }
    }

    fn check_content(&self, stored: &StoredEvent, newest_attempts: bool) {
        let event = &self.events[&stored.seq];
        if event.before.as_deref() == Some(&*stored.body) {
            return;
        }
        assert_eq!(stored.body, event.body, "{}", stored.seq);
        assert_eq!(stored.id.as_deref(), event.id.as_deref());
        assert_eq!(stored.time_ms, event.time_ms);
        assert_eq!(&*stored.attributes, b"attributes");
        let attempts = stored.attempts;
        let known = if newest_attempts {
            event.attempts.last() == Some(&attempts)
        } else {
            event.attempts.contains(&attempts)
        };
        assert!(known || event.loose, "{attempts} of {:?}", event.attempts);
    }

    fn read_all(&mut self) {
        let found = self.found();
        let seqs: BTreeSet<Seq> = found.iter().map(|event| event.seq).collect();
        assert_eq!(seqs.len(), found.len());
        for stored in &found {
            self.check_content(stored, true);
            let state = self.events[&stored.seq].state;
            assert!(
                matches!(state, State::Live | State::Unproven),
                "{stored:?} {state:?}"
            );
        }
        let damage = self.log.take_damage();
        for (seq, event) in &mut self.events {
            if matches!(event.state, State::Live | State::Unproven) && !seqs.contains(seq) {
                assert!(event.doubted, "{seq} is lost");
                assert!(!damage.is_empty(), "{seq} is lost without a word");
                // A copy of it that was to go may come back with a crash.
                event.state = State::Settling;
            }
        }
    }

    fn trim(&mut self) {
        if self.log.trim(self.now_ms).is_err() && self.log.failed().is_some() {
            self.failed();
        }
        if !self.log.damage.is_empty() {
            // Carrying came upon it.
            self.read_all();
        }
    }

    fn enforce(&mut self) {
        for expelled in self.log.enforce(self.now_ms) {
            let event = &self.events[&expelled.seq];
            assert!(matches!(event.state, State::Live | State::Unproven));
            match expelled.reason {
                ExpelReason::RetentionBytes => assert!(self.limits.bytes_max < u64::MAX),
                ExpelReason::RetentionAge => {
                    assert!(self.now_ms - event.time_ms >= self.limits.age_max_ms);
                }
            }
            self.settling(expelled.seq);
        }
        assert!(self.log.unsettled_bytes() <= self.limits.bytes_max);
    }

    fn faults(&mut self) {
        match self.rng.below(7) {
            0 => self.disk.fail_one_in(1 + self.rng.below(6)),
            1 => self.disk.leave_room(self.rng.below(3000) as usize),
            2 | 3 => self.disk.fail_reads_one_in(2 + self.rng.below(4)),
            _ => {
                self.disk.fail_reads_one_in(0);
                self.disk.fail_one_in(0);
                self.disk.leave_room(usize::MAX);
            }
        }
    }

    fn recover(&mut self) {
        if self.log.try_recover(self.now_ms).is_ok() {
            assert!(self.log.failed().is_none());
            self.states(|event| match event.state {
                State::Unsure => Some(State::Gone),
                State::Unproven => Some(State::Live),
                _ => None,
            });
            self.events
                .values_mut()
                .for_each(|event| event.untold = false);
            self.told();
        } else {
            assert!(self.log.failed().is_some());
        }
    }

    fn reopen(&mut self, power_fails: bool) {
        if self.log.homeless_ids {
            self.events
                .values_mut()
                .for_each(|event| event.loose = true);
        }
        // What can't be read then is damaged.
        self.disk.fail_reads_one_in(0);
        if power_fails {
            self.disk.crash();
        }
        self.states(|event| match event.state {
            State::Buffered => Some(State::Gone),
            State::Unproven => Some(State::Unsure),
            _ => None,
        });
        if self.rng.one_in(2) {
            self.put_stray();
        }
        let opened = QueueLog::open(self.disk.clone(), "own", self.limits, self.now_ms);
        let (log, recovered) = opened.unwrap();
        self.log = log;
        let found = self.found();
        assert_eq!(found.len() as u64, recovered.unsettled_events);
        assert_eq!(
            found.first().map(|event| event.seq),
            recovered.lowest_unsettled
        );
        assert!(
            recovered.next_seq > self.highest,
            "{} was used: {recovered:?}",
            self.highest
        );
        for stored in &found {
            self.check_content(stored, false);
        }
        let is_odd =
            |damage: &Damage| damage.why.contains("header") || damage.why.contains("missing");
        let is_odd = recovered.damage.iter().any(is_odd);
        assert!(self.has_flipped || !is_odd, "{recovered:?}");
        self.reconcile(&found, &recovered);
        self.check_flips(&recovered);
        self.check_strays();
    }

    fn reconcile(&mut self, found: &[StoredEvent], recovered: &Recovered) {
        let proven = self.log.failed().is_none();
        let found: BTreeMap<Seq, u32> = found.iter().map(|e| (e.seq, e.attempts)).collect();
        let mut lost = 0;
        for (seq, event) in &mut self.events {
            let attempts = found.get(seq);
            let was_settling = event.state == State::Settling;
            event.state = match (event.state, attempts.is_some()) {
                // The settlement may be in a tail whose removal was not synced.
                (State::Settling, true) if !proven => State::Unproven,
                (State::Live | State::Settling, true) => State::Live,
                (State::Gone, true) if self.lost_header && proven => State::Live,
                (State::Gone, true) if self.lost_header => State::Unproven,
                (State::Unsure, true) if proven => State::Live,
                (State::Unsure, true) => State::Unproven,
                (State::Unsure, false) if proven => State::Gone,
                // An event may be found with its settlement after their commit failed, and count as
                // gone.
                (State::Settled | State::Gone, true) if event.may_return && proven => State::Live,
                (State::Settled | State::Gone, true) if event.may_return => State::Unproven,
                (State::Live, false) if event.doubted => {
                    lost += 1;
                    State::Settling
                }
                (State::Settling, false) if event.untold && proven => State::Gone,
                (State::Settling, false) if event.untold => State::Unsure,
                (State::Settling, false) if proven => State::Settled,
                (State::Gone | State::Settled | State::Settling | State::Unsure, false) => {
                    event.state
                }
                (state, found) => panic!("{seq} was {state:?}, found: {found}"),
            };
            // It may be there with its settlement, and be known by its id.
            event.loose |= was_settling && event.untold && attempts.is_none();
            event.untold |= event.state == State::Unproven;
            if let Some(attempts) = attempts {
                if proven {
                    event.untold = false;
                    event.attempts.clear();
                }
                event.attempts.push(*attempts);
            }
        }
        self.told();
        let is_named = !recovered.damage.is_empty() || recovered.torn_bytes > 0;
        assert!(lost == 0 || is_named, "{lost} lost without a word");
    }

    /// In the end the disk is well, and everything is found.
    fn end(&mut self) {
        self.disk.fail_reads_one_in(0);
        self.disk.fail_one_in(0);
        self.disk.leave_room(usize::MAX);
        self.recover();
        self.commit();
        self.trim();
        assert!(self.log.failed().is_none());
        self.read_all();
        self.reopen(true);
        self.read_all();
        let live = self.those(|event| event.state == State::Live);
        live.into_iter().for_each(|seq| self.log.settle(seq));
        let new = NewEvent {
            id: None,
            attributes: b"",
            body: b"",
        };
        let last = self.log.append(new, self.now_ms).unwrap();
        self.log.settle(last);
        self.now_ms += self.limits.dedup_window_ms;
        self.log.commit(self.now_ms).unwrap();
        self.log.trim(self.now_ms).unwrap();
        assert_eq!(self.log.index.segments.len(), 1, "the newest stays");
        let mut names = self.disk.names().unwrap();
        names.retain(|name| !name.contains("refused"));
        assert_eq!(names.len(), 1);
    }
}

fn simulate(seeds: std::ops::Range<u64>) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let count = number("STORE_SEEDS").unwrap_or(1);
    let chosen = number("STORE_SEED").map(|first| first..first + count);
    for seed in chosen.unwrap_or(seeds) {
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(seed);
            for _ in 0..20 + seed % 60 {
                world.step();
            }
            world.end();
        }));
        if let Err(panic) = run {
            eprintln!("replay it with STORE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_log_on_a_failing_disk_keeps_its_word() {
    simulate(0..5000);
}

#[test]
#[ignore = "takes minutes"]
fn long_a_log_on_a_failing_disk_keeps_its_word() {
    simulate(0..100_000);
}
