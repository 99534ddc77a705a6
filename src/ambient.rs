//! What comes from outside: the time, and chance. The core is given both; only shells ask here.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[allow(
    clippy::disallowed_methods,
    reason = "the one place where the clock is read"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, in milliseconds since 1970: for what outlives the process. It may jump.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place where the wall clock is read"
)]
pub fn wall_clock_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |since| since.as_millis() as u64)
}

/// Both clocks, our own just after the wall clock, and how long reading them took: who is interrupted
/// between reads them again.
pub fn both_clocks() -> (Instant, u64, Duration) {
    let read = || {
        let (before, wall_ms, after) = (now(), wall_clock_ms(), now());
        (after, wall_ms, after.saturating_duration_since(before))
    };
    let mut best = read();
    for _ in 0..3 {
        if best.2 < Duration::from_millis(1) {
            break;
        }
        let again = read();
        if again.2 < best.2 {
            best = again;
        }
    }
    best
}

/// Returns a random number, drawn from a fresh `RandomState`.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Bytes that nobody can guess, for keys.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[allow(clippy::expect_used, reason = "without it, keys would be guessable")]
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

/// The same from 0 to 1.
pub fn chance() -> f64 {
    (random() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn chance_varies_within_its_bounds() {
        let drawn: Vec<f64> = (0..100).map(|_| super::chance()).collect();
        assert!(drawn.iter().all(|n| (0.0..1.0).contains(n)));
        assert!(drawn.iter().any(|n| *n < 0.5) && drawn.iter().any(|n| *n > 0.5));
    }
}
