//! The clock, and chance.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

#[allow(
    clippy::disallowed_methods,
    reason = "the one place where the clock is read"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns a random number from 0 to 1, which keeps clients from reconnecting all at once.
pub(crate) fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}
