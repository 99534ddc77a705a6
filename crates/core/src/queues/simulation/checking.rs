//! What has to be so: both laws, the order of keys, and that what was confirmed is never lost.

use super::*;

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
            assert!(!early(fate.not_before), "{what} comes before its time");
            assert!(!early(fate.later), "{what} is tried again before its time");
            let ends = fate.expires_at.map(|at| at + TOLERANCE);
            assert!(ends.is_none_or(|at| at > now), "{what} comes after its end");
            if let Some(attempt) = handed.attempt
                && service < 2
                && !fate.replayed
                && !fate.ended
                // Its letter is told of, and not its tries.
                && !fate.dead
                // Its id may be forgotten with a segment, if the machine stops while the disk fails.
                && !fate.resent
            {
                let tried = attempt > 1 || fate.handed == 0 || fate.is_vague;
                assert!(tried, "{what} comes as if for the first time");
            }
            let fails = daemon.queues.failure(&name(service)).is_some();
            fate.is_vague |= fails || self.fault != Fault::None;
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

    pub(super) fn check_law(&mut self) {
        for (_, service) in self.daemon().broker.services() {
            let (matched, ended) = service.sides();
            assert_eq!(matched, ended, "{}: {:?}", service.name(), service.account);
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
            let shelf = &service.shelf;
            assert!(
                due == 0 || free == 0,
                "{name}: {due} wait in vain: {} ready in memory, {shelf:?}",
                service.queue.ready()
            );
            let at = service.poll_timeout();
            assert!(at.is_none_or(|at| at > now), "{name}: a time passed");
        }
    }

    /// In the end all is well, and whatever is there is worked off.
    pub(super) fn end(&mut self) {
        self.set_fault(Fault::None);
        while !self.daemon().workers.is_empty() {
            self.let_go(0);
        }
        if self.rng.one_in(2) {
            let power = self.rng.one_in(2);
            self.kill(power);
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
        self.letters.clear();
        for service in 0..3 {
            self.daemon().ask(&name(service), Ask::List);
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
            let is_over = fate.expires_at.is_some_and(|at| at <= now);
            let is_known = fate.delivered || is_letter || fate.purged || is_expelled;
            assert!(
                is_known || is_over || fate.ended || !fate.confirmed,
                "{number} of {} was confirmed, and is lost: {fate:?}",
                SERVICES[*service]
            );
        }
    }
}
