//! How much a client may do per second.

use std::time::{Duration, Instant};

/// What a client may do at once that did nothing for a while, in seconds of its rate.
const BURST: Duration = Duration::from_secs(1);

/// A token bucket that may be overdrawn: what has come is never dropped, so it is paid off before more is
/// taken.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: u64,
    /// When all that was taken so far is paid for. Earlier than now by at most a burst.
    paid_at: Instant,
}

impl Bucket {
    /// A full one; the rate is not 0.
    pub fn full(per_second: u64, now: Instant) -> Self {
        Self {
            per_second: per_second.max(1),
            paid_at: now.checked_sub(BURST).unwrap_or(now),
        }
    }

    /// The rate.
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Another rate from now on; what was taken is paid for at the old one.
    pub fn set_rate(&mut self, per_second: u64) {
        self.per_second = per_second.max(1);
    }

    /// So much was taken.
    pub fn take(&mut self, amount: u64, now: Instant) {
        let full_since = now.checked_sub(BURST).unwrap_or(now);
        let (rate, nanos) = (
            u128::from(self.per_second),
            u128::from(amount) * 1_000_000_000,
        );
        // Rounded up: rates above one in a nanosecond cost something, too.
        let cost = u64::try_from(nanos.div_ceil(rate)).unwrap_or(u64::MAX);
        let from = self.paid_at.max(full_since);
        self.paid_at = from.checked_add(Duration::from_nanos(cost)).unwrap_or(from);
    }

    /// When more may be taken, if not now.
    pub fn overdrawn_until(&self, now: Instant) -> Option<Instant> {
        (self.paid_at > now).then_some(self.paid_at)
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_is_free_and_debts_are_paid() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let mut bucket = Bucket::full(1000, origin);
        bucket.take(1000, origin);
        assert_eq!(bucket.overdrawn_until(origin), None);
        bucket.take(500, origin);
        assert_eq!(bucket.overdrawn_until(origin), Some(at(500)));
        assert_eq!(bucket.overdrawn_until(at(499)), Some(at(500)));
        assert_eq!(bucket.overdrawn_until(at(500)), None);
        // A pause fills it again, but no more than a burst.
        bucket.take(1001, at(10_000));
        assert_eq!(bucket.overdrawn_until(at(10_000)), Some(at(10_001)));
    }

    #[test]
    fn another_rate_holds_from_then_on() {
        let origin = Instant::now();
        let mut bucket = Bucket::full(10, origin);
        bucket.take(20, origin);
        bucket.set_rate(1000);
        bucket.take(1000, origin);
        assert_eq!(
            bucket.overdrawn_until(origin),
            Some(origin + Duration::from_secs(2))
        );
        bucket.take(u64::MAX, origin);
        assert!(bucket.overdrawn_until(origin).is_some());
    }

    proptest! {
        /// Who takes whenever it may, in pieces of any size, gets the rate, a burst and a last piece.
        #[test]
        fn the_rate_is_kept(
            rate in 1u64..100_000,
            pieces in proptest::collection::vec((1u64..50_000, 0u64..2_000_000_000), 1..50),
        ) {
            let origin = Instant::now();
            let mut now = origin;
            let mut bucket = Bucket::full(rate, origin);
            let (mut taken, mut last) = (0, 0);
            for (piece, pause) in pieces {
                now += Duration::from_nanos(pause);
                // It is never later than what was taken costs.
                if let Some(until) = bucket.overdrawn_until(now) {
                    let wait = until - now;
                    prop_assert!(wait <= Duration::from_secs_f64(last as f64 / rate as f64 + 0.000_001));
                    now = until;
                }
                prop_assert_eq!(bucket.overdrawn_until(now), None);
                bucket.take(piece, now);
                (taken, last) = (taken + piece, piece);
                let passed = (now - origin).as_secs_f64();
                let allowed = rate as f64 * (passed + 1.0) + last as f64;
                prop_assert!(taken as f64 <= allowed + 1.0, "{} of {}", taken, allowed);
            }
        }
    }
}
