//! Times in the log are those of the wall clock; in memory they are those of the clock that never jumps.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::broker::{ClockChange, Item, Times};

/// Where the wall clock stands by the one that never jumps. All times of the wall clock are converted by
/// this, so that the same time stays the same, and a later one later, whenever it is converted. It changes
/// only when a [look](Self::look) shows that the clock was set, and what was converted before has to
/// move by as much then: so nothing is planned by the clock as it is now and moved once more, or planned
/// by the clock as it was and left there.
#[derive(Debug, Clone, Copy)]
pub struct WallTime {
    /// When it shows
    at: Instant,
    /// so many milliseconds since 1970: less than 0 if it is set to a time before our start's.
    ms: i64,
}

impl WallTime {
    /// The clocks may differ by so much from what is known: they are not read at once, and in whole
    /// milliseconds.
    const TOLERANCE_MS: u64 = 2;

    /// As the clocks are at the start.
    pub fn started(seen: Clocks) -> Self {
        Self {
            at: seen.here,
            ms: ms(seen.wall_ms),
        }
    }

    /// Takes the clocks as they are seen, which took so long; by how much the wall clock was set since the
    /// last look, if it was.
    #[must_use = "all that was converted before has to move"]
    pub fn look(&mut self, seen: Clocks, took: Duration) -> Option<ClockChange> {
        let forward_ms = ms(seen.wall_ms).saturating_sub(self.ms_at(seen.here));
        let blur_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if forward_ms.unsigned_abs() <= blur_ms.saturating_add(Self::TOLERANCE_MS) {
            return None;
        }
        self.ms = self.ms.saturating_add(forward_ms);
        Some(ClockChange { forward_ms })
    }

    /// Both clocks when the wall clock began to show what it shows now.
    pub fn clocks(&self, now: Instant) -> Clocks {
        let passed = now.saturating_duration_since(self.at);
        Clocks {
            here: now - Duration::from_nanos(u64::from(passed.subsec_nanos() % 1_000_000)),
            wall_ms: u64::try_from(self.ms_at(now)).unwrap_or(0),
        }
    }

    fn ms_at(&self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.at).as_millis();
        self.ms
            .saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }
}

fn ms(wall_ms: u64) -> i64 {
    i64::try_from(wall_ms).unwrap_or(i64::MAX)
}

/// Both clocks, read at once. Times that are converted by one reading keep their order.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// The one that never jumps.
    pub here: Instant,
    /// The wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
}

impl Clocks {
    /// What is noted of an event in the log: when it may go first, and when it ends, each 8 bytes, in
    /// milliseconds since 1970, 0 for none. Nothing if it has neither. `due_ms` is when it may go first as
    /// its publisher said it. Converted back and forth by two readings of the clocks it would be up to two
    /// milliseconds off, and events that have the same time would change their order.
    pub(super) fn attributes_of(self, item: &Item, due_ms: Option<u64>) -> Bytes {
        if (item.not_before, item.expires_at) == (None, None) {
            return Bytes::new();
        }
        let at_ms = |at: Option<Instant>| at.map(|at| self.wall_ms_at(at));
        let due_ms = due_ms.or_else(|| at_ms(item.not_before));
        let noted = [due_ms, at_ms(item.expires_at)];
        noted
            .map(|ms| ms.unwrap_or(0).to_le_bytes())
            .concat()
            .into()
    }

    /// A time of the wall clock, in milliseconds since 1970: upwards, or an event would be served a little
    /// too early.
    pub(super) fn wall_ms_at(self, at: Instant) -> u64 {
        let left = at.saturating_duration_since(self.here);
        let left_ms = left.as_nanos().div_ceil(1_000_000);
        let left_ms = u64::try_from(left_ms).unwrap_or(u64::MAX);
        self.wall_ms.saturating_add(left_ms)
    }

    /// When the wall clock shows this time; now if it has shown it. None if it never will.
    pub fn instant_of(self, ms: u64) -> Option<Instant> {
        let left = Duration::from_millis(ms.saturating_sub(self.wall_ms));
        self.here.checked_add(left)
    }

    /// The same as it is in memory; what is over already is due, or at its end, now.
    pub(super) fn times_from(self, attributes: &[u8]) -> Times {
        let at = |bytes: Option<&[u8; 8]>| {
            let ms = u64::from_le_bytes(*bytes?);
            (ms > 0).then(|| self.instant_of(ms)).flatten()
        };
        Times {
            not_before: at(attributes.first_chunk()).filter(|at| *at > self.here),
            expires_at: at(attributes.get(8..).and_then(<[u8]>::first_chunk)),
            by_clock: true,
            ..Times::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn clocks() -> Clocks {
        Clocks {
            here: Instant::now(),
            wall_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn times_are_what_they_were() {
        let clocks = clocks();
        let mut item = Item::new(Bytes::new());
        assert!(clocks.attributes_of(&item, None).is_empty());
        let none = Times {
            by_clock: true,
            ..Times::default()
        };
        assert_eq!(clocks.times_from(&[]), none);
        let hour = Duration::from_secs(3600);
        item.not_before = Some(clocks.here + hour);
        item.expires_at = Some(clocks.here + 2 * hour + Duration::from_nanos(1));
        let times = clocks.times_from(&clocks.attributes_of(&item, None));
        assert_eq!(times.not_before, item.not_before);
        // Never earlier, and no more than a millisecond later.
        let late = times.expires_at.unwrap() - item.expires_at.unwrap();
        assert!(late < Duration::from_millis(1));
    }

    #[test]
    fn the_time_that_was_asked_for_is_noted_as_it_was() {
        let clocks = clocks();
        let due_ms = clocks.wall_ms + 3000;
        let mut item = Item::new(Bytes::new());
        item.not_before = Some(clocks.here + Duration::from_secs(3));
        // A moment later the wall clock shows the next millisecond.
        let later = Clocks {
            here: clocks.here + Duration::from_micros(100),
            wall_ms: clocks.wall_ms + 1,
        };
        let noted = later.attributes_of(&item, Some(due_ms));
        assert_eq!(noted.first_chunk(), Some(&due_ms.to_le_bytes()));
    }

    #[test]
    fn what_is_over_is_due_and_what_never_comes_has_no_time() {
        let clocks = clocks();
        let is_over = [1_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat();
        let times = clocks.times_from(&is_over);
        assert_eq!(times.not_before, None);
        assert_eq!(times.expires_at, Some(clocks.here));
        let never = [0, u64::MAX].map(u64::to_le_bytes).concat();
        assert_eq!(clocks.times_from(&never).not_before, None);
    }

    #[test]
    fn a_time_of_the_wall_clock_is_the_same_whenever_it_is_converted() {
        let origin = Instant::now();
        let at = |us: u64| origin + Duration::from_micros(us);
        let seen = |us, wall_ms| Clocks {
            here: at(us),
            wall_ms,
        };
        let none = Duration::ZERO;
        let mut wall = WallTime::started(seen(700, 0));
        let due = at(1_000_700);
        // The wall clock turns to the next ms at 1000, 2000, … µs of ours.
        for us in 701..9_000 {
            assert_eq!(wall.look(seen(us, us / 1_000), none), None);
            let clocks = wall.clocks(at(us));
            assert_eq!(clocks.instant_of(1_000), Some(due));
            assert!(clocks.instant_of(1_001) > Some(due));
            let noted = 1_000_u64.to_le_bytes();
            assert_eq!(clocks.times_from(&noted).not_before, Some(due));
            assert_eq!(clocks.wall_ms_at(due), 1_000);
        }
        // Whoever reads the clocks was interrupted.
        let took = Duration::from_millis(500);
        assert_eq!(wall.look(seen(500_000, 9), took), None);
        // A stall of our own loop is no jump.
        assert_eq!(wall.look(seen(60_000_000, 60_000), none), None);
        // It is set by less than anybody is told of, again and again.
        for times in 1..100 {
            let now = 60_000_700 + times;
            let change = wall.look(seen(now, 60_000 + 50 * times), none);
            assert_eq!(change, Some(ClockChange { forward_ms: 50 }));
        }
        // To 1970, where it never was while we ran.
        let change = wall.look(seen(60_001_000, 0), none);
        let forward_ms = -(60_000 + 50 * 99);
        assert_eq!(change, Some(ClockChange { forward_ms }));
        let clocks = wall.clocks(at(60_001_000));
        assert_eq!(clocks.wall_ms, 0);
        assert_eq!(clocks.instant_of(5), Some(clocks.here + 5 * took / 500));
    }

    /// What happens to a daemon; the numbers are µs, and ms.
    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        /// The wall clock is set forward.
        Set(i64),
        /// A tick, or a timer.
        Look,
        /// An event comes that is due so much later than now.
        Emit(i64),
        /// It is found on disk.
        Open(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..300_000_u64).prop_map(Step::Pass),
            (-30_000..30_000_i64).prop_map(Step::Set),
            (-900..900_i64).prop_map(Step::Set),
            Just(Step::Look),
            (-1_000..60_000_i64).prop_map(Step::Emit),
            (-1_000..60_000_i64).prop_map(Step::Open),
        ]
    }

    /// A daemon, its clocks as they are, and the events that wait for their times, in ms.
    struct World {
        origin: Instant,
        now_us: u64,
        ahead_us: i64,
        wall: WallTime,
        waiting: Vec<(i64, Item)>,
    }

    impl World {
        fn now(&self) -> Instant {
            self.origin + Duration::from_micros(self.now_us)
        }

        fn wall_us(&self) -> i64 {
            self.now_us as i64 + self.ahead_us
        }

        fn take(&mut self, step: &Step) {
            match step {
                Step::Pass(us) => self.now_us += us,
                Step::Set(ms) => self.ahead_us += ms * 1000,
                Step::Look => self.look(),
                Step::Emit(ms) | Step::Open(ms) => {
                    // Just before it is planned.
                    self.look();
                    let due_ms = self.wall_us() / 1000 + ms;
                    let (clocks, due) = (self.wall.clocks(self.now()), due_ms as u64);
                    let mut item = Item::new(Bytes::new());
                    item.by_clock = true;
                    item.not_before = match step {
                        Step::Open(_) => clocks.times_from(&due.to_le_bytes()).not_before,
                        _ => clocks.instant_of(due).filter(|_| due > clocks.wall_ms),
                    };
                    self.waiting.push((due_ms, item));
                    // If it is due, it goes at once.
                    self.look();
                }
            }
        }

        /// What is due goes; all else waits until the wall clock shows its time.
        fn look(&mut self) {
            let now = self.now();
            let seen = Clocks {
                here: now,
                wall_ms: (self.wall_us() / 1000) as u64,
            };
            if let Some(change) = self.wall.look(seen, Duration::ZERO) {
                let items = self.waiting.iter_mut();
                items.for_each(|(_, item)| item.clock_was_set(change, now));
            }
            let wall_us = self.wall_us();
            self.waiting.retain(|(due_ms, item)| {
                let left = item.not_before.map(|at| at.saturating_duration_since(now));
                let left_us = left.map_or(0, |left| left.as_micros() as i64);
                let off_us = wall_us + left_us - due_ms * 1000;
                assert!(off_us > -4_000, "{off_us} µs too early");
                assert!(left_us == 0 || off_us < 4_000, "{off_us} µs too late");
                left_us > 0
            });
        }
    }

    proptest! {
        #[test]
        fn what_waits_is_due_when_the_wall_clock_shows_its_time(
            steps in vec(step(), 1..60),
            ahead_us in 1_700_000_000_000_000..1_700_000_000_001_000_i64,
        ) {
            let origin = Instant::now();
            let seen = Clocks { here: origin, wall_ms: (ahead_us / 1000) as u64 };
            let mut world = World {
                origin,
                now_us: 0,
                ahead_us,
                wall: WallTime::started(seen),
                waiting: vec![],
            };
            for step in &steps {
                world.take(step);
            }
            world.look();
        }
    }
}
