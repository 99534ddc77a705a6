//! How long to wait before another try.

use std::time::Duration;

/// Exponential backoff with jitter: each delay is between a half and the whole of a time that
/// doubles up to a limit, so that many who lost the same peer don't come back all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// The first delay is at most `min`, every one at most `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            next: min,
        }
    }

    /// The delay before the next try; `random` is from 0 to 1.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        whole / 2 + (whole / 2).mul_f64(random.clamp(0.0, 1.0))
    }

    /// It worked: the next delay is short again.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_delay_is_from_half_to_whole_of_a_bounded_doubling(
            (min, max) in (1u64..10_000, 1u64..100_000).prop_map(|(a, b)| (a.min(b), a.max(b))),
            randoms in prop::collection::vec(-0.5f64..1.5, 1..40),
            reset_at in 0usize..40,
        ) {
            let ms = Duration::from_millis;
            let mut backoff = Backoff::new(ms(min), ms(max));
            let mut whole = ms(min);
            for (n, random) in randoms.into_iter().enumerate() {
                if n == reset_at {
                    backoff.reset();
                    whole = ms(min);
                }
                let delay = backoff.next_delay(random);
                prop_assert!(whole / 2 <= delay && delay <= whole, "{delay:?} of {whole:?}");
                whole = (whole * 2).min(ms(max));
            }
        }
    }

    #[test]
    fn delays_double_within_bounds_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        let whole: Vec<_> = (0..4).map(|_| backoff.next_delay(1.0)).collect();
        assert_eq!(whole, [ms(100), ms(200), ms(350), ms(350)]);
        backoff.reset();
        assert_eq!(backoff.next_delay(0.0), ms(50));
    }
}
