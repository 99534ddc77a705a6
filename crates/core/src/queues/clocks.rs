//! Times in the log are those of the wall clock; in memory they are those of the clock that never jumps.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::broker::{Item, Times};

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

    /// The same as it is in memory; what is over already is due, or at its end, now.
    pub(super) fn times_from(self, attributes: &[u8]) -> Times {
        let at = |bytes: Option<&[u8; 8]>| {
            let ms = u64::from_le_bytes(*bytes?);
            let left = Duration::from_millis(ms.saturating_sub(self.wall_ms));
            (ms > 0).then(|| self.here.checked_add(left)).flatten()
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
}
