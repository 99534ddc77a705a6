//! How long things took, counted in fixed buckets.

use std::time::Duration;

/// The upper bounds of the buckets, in microseconds; what took longer is in one more. From 100 µs to
/// a minute: below lies the noise of a scheduler, above a worker that hangs.
pub const BUCKETS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Counts of durations by bucket, and their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS_US.len() + 1],
    sum_us: u64,
}

impl Histogram {
    pub fn add(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|bound| *bound < us);
        self.counts[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many are in each bucket, not added up; the last one has what took longer than all bounds.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All durations together, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        for us in [0, 100, 101, 60_000_000, 60_000_001] {
            histogram.add(Duration::from_micros(us));
        }
        assert_eq!(histogram.counts()[..2], [2, 1]);
        assert_eq!(histogram.counts()[BUCKETS_US.len() - 1..], [1, 1]);
        histogram.add(Duration::MAX);
        assert_eq!(histogram.sum_us(), u64::MAX);
    }

    proptest! {
        #[test]
        fn each_duration_is_in_the_first_bucket_that_holds_it(took in prop::collection::vec(0u64..100_000_000, 0..50)) {
            let mut histogram = Histogram::default();
            for us in &took {
                histogram.add(Duration::from_micros(*us));
            }
            let up_to = |bound: u64| took.iter().filter(|us| **us <= bound).count() as u64;
            let mut before = 0;
            for (bound, count) in BUCKETS_US.iter().zip(histogram.counts()) {
                before += count;
                prop_assert_eq!(before, up_to(*bound));
            }
            prop_assert_eq!(histogram.counts().iter().sum::<u64>(), took.len() as u64);
            prop_assert_eq!(histogram.sum_us(), took.iter().sum::<u64>());
        }
    }
}
