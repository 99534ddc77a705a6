//! The clock, and chance.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Instant, SystemTime};

#[allow(
    clippy::disallowed_methods,
    reason = "the one place where the clock is read"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns a random number from 0 to 1, which keeps clients from reconnecting all at once.
pub(crate) fn chance() -> f64 {
    (random() >> 11) as f64 / (1u64 << 53) as f64
}

/// Random bits.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// An id that nobody else has: the time first, so that ids sort by it; then who made it, as the random
/// bits of a forked process may be those of its parent.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place where the clock is read"
)]
pub(crate) fn unique() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    format!("{micros:014x}-{:x}-{:016x}", std::process::id(), random())
}

/// Bytes that nobody can guess, for keys.
pub(crate) fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}
