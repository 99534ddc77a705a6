//! Rate limits: one log line for each burst of similar events.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A burst is over when this much time has passed since its line.
const BURST: Duration = Duration::from_secs(10);
/// Peers influence the keys, so only this many are distinguished.
const KEYS_MAX: usize = 1024;

/// Decides which of many similar lines are written. The next line has the number of those that were
/// not. A key is `kind`, or `kind:detail`; peers may choose the detail, the few kinds are ours.
#[derive(Debug, Default)]
pub struct Bursts {
    by_key: HashMap<String, Burst>,
}

#[derive(Debug)]
struct Burst {
    begun_at: Instant,
    suppressed: u64,
}

impl Bursts {
    /// Whether to write a line for this key now: if so, the number left out since the last one.
    pub fn admit(&mut self, key: &str, now: Instant) -> Option<u64> {
        if let Some(burst) = self.by_key.get_mut(key) {
            if now.saturating_duration_since(burst.begun_at) < BURST {
                burst.suppressed += 1;
                return None;
            }
            burst.begun_at = now;
            return Some(std::mem::take(&mut burst.suppressed));
        }
        if self.by_key.len() >= KEYS_MAX {
            self.by_key
                .retain(|_, burst| now.saturating_duration_since(burst.begun_at) < BURST);
        }
        // More details than that at once count as one burst of their kind, and hide no other kind.
        if self.by_key.len() >= KEYS_MAX
            && let Some((kind, _)) = key.split_once(':')
        {
            return self.admit(kind, now);
        }
        self.by_key.insert(
            key.to_owned(),
            Burst {
                begun_at: now,
                suppressed: 0,
            },
        );
        Some(0)
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
    fn the_first_of_a_burst_is_admitted_and_the_rest_counted() {
        let mut bursts = Bursts::default();
        let now = Instant::now();
        assert_eq!(bursts.admit("a", now), Some(0));
        assert_eq!(bursts.admit("a", now + BURST / 2), None);
        assert_eq!(bursts.admit("b", now + BURST / 2), Some(0));
        assert_eq!(bursts.admit("a", now + BURST), Some(1));
        assert_eq!(bursts.admit("a", now + BURST * 3), Some(0));
    }

    #[test]
    fn keys_are_bounded() {
        let mut bursts = Bursts::default();
        let now = Instant::now();
        let keys = (0..3 * KEYS_MAX).map(|n| format!("kind:{n}"));
        let admitted = keys.filter(|key| bursts.admit(key, now).is_some());
        assert_eq!(admitted.count(), KEYS_MAX + 1);
        assert!(bursts.by_key.len() <= KEYS_MAX + 1);
        assert_eq!(bursts.admit("other:1", now), Some(0));
        assert_eq!(bursts.admit("other:2", now), None);
        assert_eq!(bursts.admit("third", now), Some(0));
    }
}
