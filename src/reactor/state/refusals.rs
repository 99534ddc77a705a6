//! Peers that are refused again and again: who dials ten times a second is told by no single refusal.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use event_manager_wire::api::RefusedAgain;
use event_manager_wire::model::excerpt;

/// Refusals with less than this between them are one series.
const BETWEEN_MAX: Duration = Duration::from_secs(60);
/// How many make a series worth a word.
const TIMES_MIN: u64 = 5;
/// Series that are kept apart; of more at once, those that began first.
const SERIES_MAX: usize = 256;
/// Series that are shown, those with the most refusals.
const SHOWN_MAX: usize = 20;
/// Of a sentence, which may quote the peer.
const WHY_BYTES_MAX: usize = 200;

/// Refusals by reason and host: a peer that dials anew has another port each time.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    series: HashMap<(&'static str, Box<str>), Series>,
}

#[derive(Debug)]
struct Series {
    times: u64,
    begun_at: Instant,
    last_at: Instant,
    /// Why, the last time.
    why: String,
}

/// The host of `host:port`; of another text all.
pub(super) fn host_of(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => address,
    }
}

impl Refusals {
    pub(crate) fn add(&mut self, reason: &'static str, address: &str, why: &str, now: Instant) {
        let is_over = |series: &Series| now.saturating_duration_since(series.last_at) > BETWEEN_MAX;
        let key = (reason, host_of(address).into());
        if self.series.len() >= SERIES_MAX && !self.series.contains_key(&key) {
            self.series.retain(|_, series| !is_over(series));
            if self.series.len() >= SERIES_MAX {
                return;
            }
        }
        let begun = || Series {
            times: 0,
            begun_at: now,
            last_at: now,
            why: String::new(),
        };
        let series = self.series.entry(key).or_insert_with(begun);
        if is_over(series) {
            *series = begun();
        }
        series.times += 1;
        series.last_at = now;
        series.why = excerpt(why, WHY_BYTES_MAX).into();
    }

    /// The series that go on, for reports.
    pub(crate) fn again(&self, now: Instant) -> Vec<RefusedAgain> {
        let since = |at| now.saturating_duration_since(at);
        let mut again: Vec<_> = self
            .series
            .iter()
            .filter(|(_, series)| series.times >= TIMES_MIN && since(series.last_at) <= BETWEEN_MAX)
            .collect();
        again.sort_by_key(|(_, series)| std::cmp::Reverse(series.times));
        again.truncate(SHOWN_MAX);
        let shown = again
            .into_iter()
            .map(|((reason, host), series)| RefusedAgain {
                host: host.to_string(),
                reason: (*reason).to_owned(),
                times: series.times,
                seconds: since(series.begun_at).as_secs_f64(),
                why: series.why.to_string(),
            });
        shown.collect()
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
    fn a_series_is_told_while_it_goes_on() {
        let origin = Instant::now();
        let at = |seconds| origin + Duration::from_secs(seconds);
        let mut refusals = Refusals::default();
        for n in 0..4 {
            let address = format!("10.0.0.7:{}", 40_000 + n);
            refusals.add("malformed", &address, "it is", at(n));
            refusals.add("malformed", &format!("[fe80::{n}]:5"), "it is", at(n));
            refusals.add("not-zmtp", &address, "it is none", at(n));
        }
        assert_eq!(refusals.again(at(4)), vec![]);
        let long = "x".repeat(1000);
        refusals.add("malformed", "10.0.0.7:1", &long, at(10));
        let again = refusals.again(at(70));
        assert_eq!(again.len(), 1, "{again:?}");
        assert_eq!(
            (
                &*again[0].host,
                &*again[0].reason,
                again[0].times,
                again[0].seconds
            ),
            ("10.0.0.7", "malformed", 5, 70.0)
        );
        assert!(again[0].why.len() < 210);
        assert_eq!(refusals.again(at(71)), vec![]);
        // What comes later is another series.
        refusals.add("malformed", "10.0.0.7:2", "it is", at(71));
        assert_eq!(refusals.again(at(71)), vec![]);
    }

    #[test]
    fn series_are_bounded() {
        let origin = Instant::now();
        let mut refusals = Refusals::default();
        for n in 0..1000 {
            (0..5).for_each(|_| refusals.add("malformed", &format!("host{n}:1"), "", origin));
        }
        assert_eq!(
            (refusals.series.len(), refusals.again(origin).len()),
            (SERIES_MAX, SHOWN_MAX)
        );
        let later = origin + BETWEEN_MAX * 2;
        refusals.add("malformed", "another:1", "", later);
        assert_eq!(refusals.series.len(), 1);
    }
}
