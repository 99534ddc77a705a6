//! What has to be so: both laws, the order of keys, and that what was confirmed is never lost.

use super::*;
use crate::broker::DropReason;
use crate::seq::Seq;

impl World {
    /// Checks what was handed to workers since the last time.
    pub(super) fn see_handed(&mut self) {
        let now = self.now();
        for handed in std::mem::take(&mut self.daemon().handed) {
            let daemon = self.daemon.as_ref().unwrap();
            let (service, number) = (handed.service, handed.number);
            trace!(
                "    handed {number} of {service} to {}, attempt {:?}",
                handed.worker, handed.attempt
            );
            let fate = self.fates.entry((service, number)).or_default();
            let what = format!("{number} of {}", SERVICES[service]);
            if !fate.replayed && !fate.ended {
                assert!(!fate.done, "{what} is done, and comes again");
                assert!(!fate.out, "{what} is given to two workers");
            }
            let early = |at: Option<Instant>| at.is_some_and(|at| at > now + TOLERANCE);
            let is_sure = !fate.has_vague_times;
            assert!(
                !is_sure || !early(fate.not_before),
                "{what} comes before its time"
            );
            // It may be there twice.
            let is_once = !(fate.replayed || fate.resent && fate.is_doubtful);
            assert!(
                !is_once || !early(fate.later),
                "{what} is tried again before its time"
            );
            let ends = fate.expires_at.map(|at| at + TOLERANCE);
            assert!(
                !is_sure || fate.expired || ends.is_none_or(|at| at > now),
                "{what} comes after its end"
            );
            if let Some(attempt) = handed.attempt
                && service < 2
                && !fate.replayed
                && !fate.ended
                // Its letter is told of, and not its tries.
                && !fate.dead
                // Its id may be forgotten with a segment, if the machine stops while the disk fails.
                && !fate.resent
                && !fate.is_vague
            {
                let tried = attempt > 1 || fate.handed == 0;
                assert!(tried, "{what} comes as if for the first time");
                let tries = fate.handed + 1;
                assert!(
                    fate.is_doubtful || attempt == tries,
                    "{what} comes for the {tries}. time, and is said to for the {attempt}."
                );
            }
            let fails = self.witness.borrow().failed.contains(&name(service));
            fate.is_unrecorded |= fails;
            fate.handed += 1;
            fate.out = true;
            fate.later = None;
            let key = fate.key;
            let is_bare = fate.is_bare;
            let keeps_order =
                !is_bare && self.settings[service].has_order && handed.attempt.is_some();
            if keeps_order && daemon.acknowledges_all(service) {
                self.check_order(service, number, key);
            }
            if keeps_order && service < 2 {
                self.check_turn(service, number);
            }
        }
    }

    /// No event with the same key is with another worker.
    pub(super) fn check_order(&self, service: usize, number: u64, key: u8) {
        let daemon = self.daemon.as_ref().unwrap();
        let workers = daemon.workers.iter();
        let held = workers
            .filter(|worker| worker.service == service)
            .flat_map(|worker| &worker.holds)
            .filter(|held| !held.is_overdue.get() && held.number != number);
        for held in held {
            let other = self.fates.get(&(service, held.number));
            let same = other.is_some_and(|other| other.key == key && other.out && !other.is_bare);
            assert!(
                !same,
                "{number} and {} of one key are both out",
                held.number
            );
        }
    }

    /// Whether the event is on disk, and not done, for all that is known; and so is its time.
    fn waits(&self, service: usize, number: u64, fate: &Fate) -> bool {
        let now = self.now();
        let ends = fate.expires_at.is_some_and(|at| at <= now + TOLERANCE);
        let is_over = ends || fate.expired;
        let is_done = fate.delivered || fate.terminated || fate.dead || fate.purged;
        // It may be there twice, or no more.
        let is_odd = fate.replayed || fate.resent || fate.ended || fate.is_too_large;
        let witness = self.witness.borrow();
        let event = (name(service), number);
        let is_there = witness.durable.contains(&event) && !witness.expelled.contains(&event);
        !is_over && !is_done && !is_odd && is_there
    }

    /// No event overtakes one of its key that waits, unless that has a time to wait for.
    fn check_turn(&self, service: usize, number: u64) {
        let witness = self.witness.borrow();
        let seq_of = |number| witness.seqs.get(&(name(service), number)).copied();
        let (fate, seq) = (&self.fates[&(service, number)], seq_of(number));
        let Some(seq) = seq.filter(|_| !fate.resent && !fate.replayed) else {
            return;
        };
        let (first, own) = ((name(service), Seq::ZERO), (name(service), seq));
        for (_, other) in witness.numbers.range(first..own) {
            let Some(before) = self.fates.get(&(service, *other)) else {
                continue;
            };
            let is_in_order = before.due_ms.is_none();
            assert!(
                before.key != fate.key || !is_in_order || !self.waits(service, *other, before),
                "{number} of {} overtakes {other}: {before:?}",
                SERVICES[service]
            );
        }
    }

    /// No worker keeps an event for longer than it may.
    pub(super) fn check_deadlines(&self) {
        let (now, daemon) = (self.now(), self.daemon.as_ref().unwrap());
        for worker in daemon.workers.iter().filter(|worker| worker.acknowledges) {
            for held in worker.holds.iter().filter(|held| !held.is_overdue.get()) {
                let silent = now - held.given_at.max(worker.heard_at);
                assert!(
                    silent <= ACK_TIMEOUT,
                    "{} is with a silent worker for {silent:?}",
                    held.number
                );
            }
        }
    }

    /// What was listed once, and nobody took, is there still.
    pub(super) fn check_listed(&self, service: usize, queue: &ServiceName, numbers: &[u64]) {
        let witness = self.witness.borrow();
        let listed = self.letters.iter().filter(|(of, _)| *of == service);
        for (_, number) in listed {
            assert!(
                numbers.contains(number) || witness.expelled.contains(&(queue.clone(), *number)),
                "{number} is missing in {queue}"
            );
        }
    }

    /// What is due is out, where there is a worker for it: by the books of this simulation.
    fn check_due(&self) {
        let (now, daemon) = (self.now(), self.daemon.as_ref().unwrap());
        for ((service, number), fate) in &self.fates {
            let Some(key) = daemon.broker.find(&name(*service)) else {
                continue;
            };
            let found = daemon.broker.service(key).unwrap();
            if found.free_workers() == 0 || self.settings[*service].has_order {
                continue;
            }
            let seqs = &self.witness.borrow().seqs;
            let seq = seqs.get(&(name(*service), *number)).copied();
            let goes_alone = seq.is_some_and(|seq| found.queue.goes_alone(seq));
            let some_wait = found.queue.has_next_alone(now) && !found.workers.any_for_one_alone();
            // One that waits for a worker to hold nothing else, or for those that do and take all room.
            if some_wait && (goes_alone || found.queue.len() >= found.queue.limits().events_max) {
                continue;
            }
            let times = [fate.not_before, fate.due_by];
            let is_due = times.iter().flatten().all(|at| *at + TOLERANCE <= now);
            assert!(
                !is_due || fate.out || !self.waits(*service, *number, fate),
                "{number} of {} waits in vain: {fate:?}",
                SERVICES[*service]
            );
        }
    }

    pub(super) fn check_law(&mut self) {
        let witness = Rc::clone(&self.witness);
        let witness = witness.borrow();
        let broker = &self.daemon().broker;
        for (key, service) in broker.services() {
            let (wanted, noted) = (service.poll_timeout(), broker.timetable.at(key));
            let is_noted = wanted.is_none_or(|wanted| noted.is_some_and(|noted| noted <= wanted));
            assert!(is_noted, "{}: {wanted:?} {noted:?}", service.name());
            let (matched, ended) = service.sides();
            assert_eq!(matched, ended, "{}: {:?}", service.name(), service.account);
            let mut dropped = service.account.dropped.iter();
            let is_damage = |(reason, _): &(DropReason, u64)| *reason == DropReason::Damaged;
            let damaged = dropped.find(is_damage).map_or(0, |(_, events)| events);
            let reported = witness.damaged.get(service.name()).copied();
            assert!(
                damaged <= reported.unwrap_or(0),
                "nothing of {} is damaged",
                service.name()
            );
        }
    }

    /// The disks are well, and all that is under way arrives: nothing that is due waits in vain then.
    pub(super) fn quiet(&mut self) {
        self.set_fault(Fault::None);
        for _ in 0..3 {
            self.settle_down();
            self.pass(1100);
        }
        self.settle_down();
        self.check_nothing_waits();
        self.check_due();
        assert_eq!(self.asked, 0, "requests for dead letters wait in vain");
        let waiting = &self.emissions;
        assert!(waiting.is_empty(), "publishers wait in vain: {waiting:?}");
    }

    pub(super) fn settle_down(&mut self) {
        for _ in 0..200 {
            self.daemon().flush();
            self.note_tries();
            self.daemon().run_store(u64::MAX);
            while self.daemon().hear_one() {
                self.carry_out();
                self.check_law();
            }
            self.pass(0);
            self.check_law();
            if self.daemon().is_quiet() {
                return;
            }
            self.pass(1);
        }
        panic!("it does not come to rest");
    }

    pub(super) fn check_nothing_waits(&mut self) {
        let now = self.now();
        for (_, service) in self.daemon().broker.services() {
            let name = service.name();
            let (due, free) = (service.due_events(now), service.free_workers());
            let spill = &service.spill;
            assert!(
                due == 0 || free == 0,
                "{name}: {due} wait in vain: {} ready in memory, {spill:?}",
                service.queue.ready()
            );
            let at = service.poll_timeout();
            assert!(at.is_none_or(|at| at > now), "{name}: a time passed");
        }
    }

    /// In the end all is well, and whatever is there is worked off.
    pub(super) fn end(&mut self) {
        if self.rng.one_in(2) {
            self.break_disks();
        }
        while !self.daemon().workers.is_empty() {
            self.let_go(0);
        }
        for _ in 0..self.rng.below(9) {
            self.run(4);
            self.pass(100);
        }
        self.set_fault(Fault::None);
        self.settle_down();
        if self.witness.borrow().letters_failed || self.rng.one_in(2) {
            let power = self.rng.one_in(2);
            self.kill(power);
        }
        self.set_fault(Fault::None);
        while !self.daemon().workers.is_empty() {
            self.let_go(0);
        }
        for service in 0..3 {
            self.daemon().subscribe(service);
            self.join_as(service, Some(20));
        }
        self.quiet();
        for _ in 0..1000 {
            self.settle_down();
            self.check_nothing_waits();
            for slot in 0..3 {
                while !self.daemon().workers[slot].holds.is_empty() {
                    let service = self.daemon().workers[slot].service;
                    self.answer(slot, service, 0, 0);
                }
            }
            if self.daemon().is_empty() {
                break;
            }
            let passed = 50 + self.rng.below(200);
            self.pass(passed);
        }
        assert!(self.daemon().is_empty(), "not all is worked off");
        self.settle_down();
        self.check_law();
        self.check_confirmed();
    }

    /// What was confirmed is not lost.
    pub(super) fn check_confirmed(&mut self) {
        for service in 0..3 {
            self.ask(service, Ask::List);
        }
        self.settle_down();
        let now = self.now();
        let witness = self.witness.borrow();
        for ((service, number), fate) in &self.fates {
            let queue = name(*service);
            let letters = queue.dead_letters().unwrap();
            let is_letter = self.letters.contains(&(*service, *number));
            let is_expelled = [queue, letters]
                .into_iter()
                .any(|queue| witness.expelled.contains(&(queue, *number)));
            let has_ended = fate.expires_at.is_some_and(|at| at <= now);
            let is_over = has_ended || fate.expired || fate.has_vague_times;
            let is_dropped = is_expelled || fate.is_too_large;
            // Its letter could not be kept, so that it comes after a restart.
            let comes_again = fate.dead && witness.letters_failed;
            let is_dead = is_letter || fate.purged || comes_again;
            let is_known = fate.delivered || is_dead || is_dropped;
            assert!(
                is_known || is_over || fate.ended || !fate.confirmed,
                "{number} of {} was confirmed, and is lost: {fate:?}",
                SERVICES[*service]
            );
        }
    }
}
