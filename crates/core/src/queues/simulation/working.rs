//! What workers do with what they hold.

use super::*;

impl World {
    pub(super) fn join(&mut self) {
        let service = self.rng.below(3) as usize;
        let credit = [1, 3, 20][self.rng.below(3) as usize];
        let acknowledges = !self.rng.one_in(4);
        self.join_as(service, acknowledges.then_some(credit));
    }

    pub(super) fn join_as(&mut self, service: usize, credit: Option<u32>) {
        let daemon = self.daemon();
        if let Some(key) = daemon.broker.find(&name(service)) {
            daemon.join(service, key, credit);
            daemon.dispatch(key);
            self.carry_out();
        }
    }

    /// A worker does something, or several things; mostly one that has something to do.
    pub(super) fn work(&mut self) {
        let only_busy = !self.rng.one_in(8);
        let workers = &self.daemon().workers;
        let is_meant = |slot: &usize| !(only_busy && workers[*slot].holds.is_empty());
        let meant: Vec<_> = (0..workers.len()).filter(is_meant).collect();
        let Some(slot) = self.rng.pick(&meant).copied() else {
            return;
        };
        let Some(worker) = self.daemon().workers.get_mut(slot) else {
            return;
        };
        let (service, in_order) = (worker.service, worker.in_order);
        if !worker.acknowledges {
            let n = worker.holds.len() as u64;
            let n = self.rng.below(n + 1) as usize;
            return self.write_to(slot, n);
        }
        if self.rng.one_in(12) {
            let credit = 1 + self.rng.below(10) as u32;
            let daemon = self.daemon();
            let (service, key) = (daemon.workers[slot].service_key, daemon.workers[slot].key);
            let found = daemon.broker.service_mut(service).unwrap();
            match credit {
                1 => found.workers.bye(key),
                _ => found.workers.ready_with(key, credit),
            }
            daemon.dispatch(service);
            return self.carry_out();
        }
        for _ in 0..=self.rng.below(4) {
            let holds = self.daemon().workers[slot].holds.len() as u64;
            if holds == 0 {
                return;
            }
            let at = match in_order {
                true => 0,
                false => self.rng.below(holds) as usize,
            };
            let what = self.rng.below(12);
            self.answer(slot, service, at, what);
        }
    }

    pub(super) fn answer(&mut self, slot: usize, service: usize, at: usize, what: u64) {
        let now = self.now();
        let delay_max = [100, 1500, 6000][self.rng.below(3) as usize];
        let delay = self.rng.below(delay_max);
        let daemon = self.daemon.as_mut().unwrap();
        let held = daemon.workers[slot].holds[at].clone();
        trace!(
            "    answer {what} to {} of {service} by {}",
            held.number, daemon.workers[slot].slot
        );
        let (service_key, worker) = (daemon.workers[slot].service_key, daemon.workers[slot].key);
        daemon.workers[slot].heard_at = now;
        let found = daemon.broker.service_mut(service_key).unwrap();
        let fate = self.fates.entry((service, held.number)).or_default();
        let said = match what {
            0..6 => {
                let acked = found.ack(worker, held.id, now);
                daemon.workers[slot].holds.remove(at);
                if let Ok(seq) = acked {
                    (fate.delivered, fate.done, fate.out) = (true, true, false);
                    daemon.settle(service_key, seq.into_iter().collect());
                }
                daemon.dispatch(service_key);
                return self.carry_out();
            }
            6 | 10 => WorkerAnswer::Nak {
                delay: None,
                reason: "no",
            },
            7 | 9 => WorkerAnswer::Nak {
                delay: Some(ms(delay)),
                reason: "later",
            },
            8 | 11 => WorkerAnswer::Term { reason: "never" },
            _ => WorkerAnswer::Wip,
        };
        let judged = found.hear_answer(worker, held.id, said, now, 0.5);
        if !matches!(said, WorkerAnswer::Wip) {
            daemon.workers[slot].holds.remove(at);
        }
        let Ok(aftermath) = judged else { return };
        match said {
            WorkerAnswer::Nak { delay, .. } => {
                fate.out = false;
                // `chance` is a half.
                fate.later = Some(now + delay.unwrap_or(RETRY_MIN * 3 / 4));
                fate.due_by = Some(now + delay.unwrap_or(RETRY_MAX));
                fate.is_later_noted = false;
            }
            WorkerAnswer::Term { .. } => (fate.terminated, fate.out) = (true, false),
            WorkerAnswer::Wip => {}
        }
        self.finish(service, service_key, aftermath);
        self.daemon().dispatch(service_key);
        self.carry_out();
    }

    /// So many of what a worker that doesn't acknowledge has in its outbox are written.
    pub(super) fn write_to(&mut self, slot: usize, n: usize) {
        let now = self.now();
        let daemon = self.daemon.as_mut().unwrap();
        let (service_key, worker) = (daemon.workers[slot].service_key, daemon.workers[slot].key);
        let service = daemon.workers[slot].service;
        for held in daemon.workers[slot].holds.drain(..n) {
            let fate = self.fates.entry((service, held.number)).or_default();
            (fate.delivered, fate.done, fate.out) = (true, true, false);
        }
        let found = daemon.broker.service_mut(service_key).unwrap();
        let aftermath = found.written(worker, n as u64, now);
        self.finish(service, service_key, aftermath);
        self.daemon().dispatch(service_key);
        self.carry_out();
    }

    pub(super) fn leave(&mut self) {
        let workers = self.daemon().workers.len() as u64;
        if workers > 0 {
            let slot = self.rng.below(workers) as usize;
            self.let_go(slot);
        }
    }

    pub(super) fn let_go(&mut self, slot: usize) {
        let now = self.now();
        let unwritten = self.rng.below(3) as usize;
        let daemon = self.daemon.as_mut().unwrap();
        let worker = daemon.workers.swap_remove(slot);
        let its_own = |held: &&Held| !held.is_overdue.get();
        for held in worker.holds.iter().filter(its_own) {
            let fate = self.fates.entry((worker.service, held.number)).or_default();
            fate.out = false;
        }
        let found = daemon.broker.service_mut(worker.service_key).unwrap();
        let unwritten = worker.holds.len() - unwritten.min(worker.holds.len());
        let aftermath = if worker.acknowledges {
            let ids: Vec<_> = worker
                .holds
                .range(unwritten..)
                .map(|held| held.id)
                .collect();
            for held in worker.holds.range(unwritten..) {
                let fate = self.fates.entry((worker.service, held.number)).or_default();
                fate.unwritten(held);
            }
            found.holder_left(worker.key, &ids, now)
        } else if found.spill.is_some() {
            for held in worker.holds.range(..unwritten) {
                let fate = self.fates.entry((worker.service, held.number)).or_default();
                (fate.delivered, fate.done) = (true, true);
            }
            for held in worker.holds.range(unwritten..) {
                let fate = self.fates.entry((worker.service, held.number)).or_default();
                fate.unwritten(held);
            }
            found.plain_worker_left(worker.key, unwritten as u64, now)
        } else {
            for held in &worker.holds {
                let fate = self.fates.entry((worker.service, held.number)).or_default();
                (fate.not_before, fate.expires_at, fate.is_bare) = (None, None, true);
                (fate.due_ms, fate.ends_ms) = (None, None);
            }
            let bodies = worker.holds.iter().map(|held| held.body.clone()).collect();
            found.worker_left(worker.key, bodies);
            crate::broker::Aftermath::default()
        };
        self.finish(worker.service, worker.service_key, aftermath);
        self.daemon().dispatch(worker.service_key);
        self.carry_out();
    }

    /// What is left to do for events that are done with.
    pub(super) fn finish(
        &mut self,
        service: usize,
        service_key: ServiceKey,
        aftermath: crate::broker::Aftermath,
    ) {
        for letter in &aftermath.dead {
            let number = number_of(&letter.item.body);
            let fate = self.fates.entry((service, number)).or_default();
            let tries = self.settings[service].max_deliveries;
            match letter.reason {
                DeadReason::Terminated => assert!(fate.terminated, "{number} died"),
                DeadReason::MaxDeliveries => assert!(
                    fate.handed + fate.unwritten >= tries,
                    "{number} died after {} of {tries} deliveries",
                    fate.handed
                ),
            }
            (fate.dead, fate.done, fate.out) = (true, true, false);
            // If the log isn't told in time that it is done, it comes again at once.
            fate.later = None;
        }
        self.daemon().finish(service_key, aftermath);
    }
}
