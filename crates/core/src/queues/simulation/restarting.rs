//! The daemon starts, stops and is killed; what happens to disks and clocks while none runs.

use super::*;

impl World {
    pub(super) fn start(&mut self) {
        // What can't be read at the start counts as damaged, and that is another test's.
        if matches!(self.fault, Fault::Reads(_)) {
            self.set_fault(Fault::None);
        }
        self.note_expired();
        for fate in self.fates.values_mut() {
            (fate.out, fate.done, fate.is_unrecorded) = (false, false, false);
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
                dead_letter_subject: None,
                spool: None,
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

    /// The process is gone, and with `power` the machine.
    pub(super) fn kill(&mut self, power: bool) {
        self.daemon = None;
        if power {
            self.disks.borrow().crash();
        }
        for service in 0..3 {
            self.is_cut_short(service);
        }
        self.rest();
        self.start();
    }

    /// What a service's log was to record last, it may not have.
    fn is_cut_short(&mut self, service: usize) {
        let has_failed = self.witness.borrow().failed.contains(&name(service));
        for ((of, _), fate) in &mut self.fates {
            if *of == service {
                (fate.later, fate.is_doubtful) = (None, true);
                fate.is_vague |= fate.is_unrecorded && has_failed;
            }
        }
    }

    /// No daemon runs for a while.
    pub(super) fn rest(&mut self) {
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
    pub(super) fn lose_queue(&mut self) {
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
    pub(super) fn stop(&mut self) {
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
        let is_told = daemon.stop();
        for service in 0..3 {
            // For a log that has failed, or was not told all, a stop is as a kill.
            if !is_told || self.witness.borrow().failed.contains(&name(service)) {
                self.is_cut_short(service);
            }
        }
        self.rest();
        self.start();
    }
}
