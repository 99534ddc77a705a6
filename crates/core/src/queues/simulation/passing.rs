//! Time passes, and the wall clock is set.

use super::*;

impl World {
    /// Time passes, and what it asks for is done.
    pub(super) fn pass(&mut self, ms: u64) {
        self.time.pass(ms);
        let now = self.now();
        let due = self.daemon().broker.timetable.take_due(now);
        for service_key in due {
            self.time_out(service_key, now);
        }
        self.daemon().tend();
        self.carry_out();
        self.check_deadlines();
    }

    /// The wall clock is set, forwards or back, and the daemon notices.
    pub(super) fn set_clock(&mut self) {
        let forward_ms = self.rng.below(6000) as i64 - 3000;
        self.set_wall(forward_ms);
        let now = self.now();
        self.daemon().clock_was_set(ClockChange { forward_ms }, now);
        self.carry_out();
    }

    pub(super) fn set_wall(&mut self, forward_ms: i64) {
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

    pub(super) fn note_expired(&mut self) {
        let now = self.now();
        for fate in self.fates.values_mut() {
            fate.expired |= fate.expires_at.is_some_and(|at| at <= now + TOLERANCE);
        }
    }

    pub(super) fn time_out(&mut self, service_key: ServiceKey, now: Instant) {
        let daemon = self.daemon.as_mut().unwrap();
        let Some(found) = daemon.broker.service_mut(service_key) else {
            return;
        };
        let aftermath = found.handle_timeout(now, || 0.5);
        let mut service = None;
        for worker in daemon
            .workers
            .iter()
            .filter(|worker| worker.service_key == service_key)
        {
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
        self.finish(service.unwrap_or_default(), service_key, aftermath);
        self.daemon().dispatch(service_key);
        self.carry_out();
    }
}
