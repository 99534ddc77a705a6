//! What time it is, and when the reactor's clock has to wake up.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::upkeep::Upkeep;
use crate::systemd::Beat;
use event_manager_core::broker::{Service, ServiceKey, Timetable};

/// The wall clock is adjusted by less than this between two ticks, if it is not set.
const JUMP_MIN_MS: u64 = 1000;

/// The time as of the last tick or request, since when we run, and what is done by time.
pub(crate) struct Time {
    /// Near enough for signs of life.
    pub(crate) now: Instant,
    pub(crate) alarm: Alarm,
    pub(crate) upkeep: Upkeep,
    started_at: Instant,
    started_at_ms: u64,
    wall: ClockWatch,
}

impl Time {
    pub(crate) fn started(at: Instant, wall_clock_ms: u64, beat: Option<Beat>) -> Self {
        Self {
            now: at,
            alarm: Alarm::default(),
            upkeep: Upkeep::started(at, beat),
            started_at: at,
            started_at_ms: wall_clock_ms,
            wall: ClockWatch::started(wall_clock_ms, at),
        }
    }

    /// The start in milliseconds since 1970, by the wall clock as it was then.
    pub(crate) fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started_at)
    }

    /// By how many milliseconds the wall clock was set forward since the last look, if it was set.
    pub(crate) fn jump_ms(&mut self, wall_clock_ms: u64) -> Option<i64> {
        self.wall.look(wall_clock_ms, self.now)
    }
}

/// When something wants attention next; the clock's task sleeps until then.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    at: Option<Instant>,
    changed: Rc<Notify>,
}

impl Alarm {
    /// Something wants attention at this time: the clock's task sleeps no longer.
    pub(crate) fn set(&mut self, at: Instant) {
        if self.at.is_none_or(|planned| at < planned) {
            self.at = Some(at);
            self.changed.notify_one();
        }
    }

    /// Plans the timer of a service anew: when its events want attention next, if they do. To be called
    /// whenever that may be sooner than before.
    pub(crate) fn plan(&mut self, key: ServiceKey, service: &Service, timetable: &mut Timetable) {
        let at = service.poll_timeout();
        timetable.set(key, at);
        at.inspect(|at| self.set(*at));
    }

    /// The clock's task is awake, and goes to sleep until then.
    pub(crate) fn begin_again(&mut self, at: Option<Instant>) {
        self.at = at;
    }

    /// Notified when it was set to an earlier time.
    pub(crate) fn changed(&self) -> Rc<Notify> {
        Rc::clone(&self.changed)
    }
}

/// Tells when the wall clock is set.
#[derive(Debug, Default)]
struct ClockWatch {
    last: Option<(u64, Instant)>,
}

impl ClockWatch {
    /// What is set from now on is noticed.
    fn started(wall_clock_ms: u64, now: Instant) -> Self {
        Self {
            last: Some((wall_clock_ms, now)),
        }
    }

    /// By how much it went forward since the last look, beyond the time that passed; if it was set.
    fn look(&mut self, wall_clock_ms: u64, now: Instant) -> Option<i64> {
        let (wall, at) = self.last.replace((wall_clock_ms, now))?;
        let passed = now.saturating_duration_since(at).as_millis() as u64;
        let jump = wall_clock_ms.wrapping_sub(wall.wrapping_add(passed)) as i64;
        (jump.unsigned_abs() >= JUMP_MIN_MS).then_some(jump)
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_and_one_that_is_adjusted_is_not() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let mut clock = ClockWatch::default();
        assert_eq!(clock.look(1_000_000, at(0)), None);
        assert_eq!(clock.look(1_000_250, at(250)), None);
        // A stall of our own loop is no jump.
        assert_eq!(clock.look(1_060_250, at(60_250)), None);
        // Slewed by a little at each look, which adds up.
        for look in 1..100 {
            assert_eq!(
                clock.look(1_060_250 + 300 * look, at(60_250 + 250 * look)),
                None
            );
        }
        let (wall, passed) = (1_060_250 + 300 * 99, 60_250 + 250 * 99);
        assert_eq!(clock.look(wall + 5_250, at(passed + 250)), Some(5_000));
        assert_eq!(clock.look(wall - 3_500, at(passed + 500)), Some(-9_000));
        assert_eq!(clock.look(wall - 3_250, at(passed + 750)), None);
    }
}
