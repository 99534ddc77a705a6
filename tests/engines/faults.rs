//! Faults of the way from a daemon to the engine, by turns, and what they came to.

use std::time::Duration;

use super::support::way::Way;

/// How many rounds those tests have that are not run by default.
pub fn rounds() -> usize {
    let said = std::env::var("EVENT_MANAGER_ROUNDS").ok();
    said.map_or(20, |rounds| rounds.parse().expect("a number"))
}

pub const KINDS: [&str; 5] = ["cut", "both-ways", "there", "back", "flapping"];

/// Breaks the way for so long, and mends it.
pub fn break_for(way: &Way, kind: &str, time: Duration) {
    let wait = std::thread::sleep;
    match kind {
        "cut" => way.set_cut(true),
        "both-ways" => way.hold(true, true),
        "there" => way.hold(true, false),
        "back" => way.hold(false, true),
        _ => {
            for n in 0..10 {
                match n % 2 {
                    0 => way.set_cut(n % 4 == 0),
                    _ => way.hold(n % 4 == 1, true),
                }
                wait(time / 10);
            }
        }
    }
    wait(time);
    way.set_cut(false);
    way.hold(false, false);
}

/// The median, and the 99th of hundred, in milliseconds.
pub fn shown(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: usize| {
        let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0, Duration::as_millis)
    };
    format!(
        "{} take-overs: p50 {} ms, p99 {} ms, longest {} ms",
        times.len(),
        at(50),
        at(99),
        at(100)
    )
}
