//! What time it is, and when the reactor's clock has to wake up.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::upkeep::Upkeep;
use crate::systemd::Beat;
use event_manager_core::broker::{ClockChange, Service, ServiceKey, Timetable};
use event_manager_core::queues::{Clocks, WallTime};

/// The time as of the last tick or request, since when we run, and what is done by time.
pub(crate) struct Time {
    /// Near enough for signs of life.
    pub(crate) now: Instant,
    pub(crate) alarm: Alarm,
    pub(crate) upkeep: Upkeep,
    started_at: Instant,
    started_at_ms: u64,
    wall: WallClock,
}

impl Time {
    pub(crate) fn started(seen: Clocks, wall: WallClock, beat: Option<Beat>) -> Self {
        let (at, wall_clock_ms) = (seen.here, seen.wall_ms);
        Self {
            now: at,
            alarm: Alarm::default(),
            upkeep: Upkeep::started(at, beat),
            started_at: at,
            started_at_ms: wall_clock_ms,
            wall,
        }
    }

    /// The start in milliseconds since 1970, by the wall clock as it was then.
    pub(crate) fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started_at)
    }

    /// Both clocks, as of the last look at them.
    pub(crate) fn clocks(&self, now: Instant) -> Clocks {
        self.wall.clocks(now)
    }

    /// By how much the wall clock was set since the last look, if it was: what waits for a time of it has
    /// to move.
    #[must_use = "what waits for a time of the clock has to move"]
    pub(crate) fn look(&mut self, seen: Clocks, took: Duration) -> Option<ClockChange> {
        let mut wall = self.wall.0.get();
        let change = wall.look(seen, took);
        self.wall.0.set(wall);
        change
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

/// Where the wall clock stands, as of the last [look](Time::look): the same for all who convert its times.
#[derive(Debug, Clone)]
pub(crate) struct WallClock(Rc<Cell<WallTime>>);

impl WallClock {
    /// What is set from now on is noticed.
    pub(crate) fn started(seen: Clocks) -> Self {
        Self(Rc::new(Cell::new(WallTime::started(seen))))
    }

    /// Both clocks.
    pub(crate) fn clocks(&self, now: Instant) -> Clocks {
        self.0.get().clocks(now)
    }
}
