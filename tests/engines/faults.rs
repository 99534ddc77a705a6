//! Faults of the way from a daemon to the engine, by turns, and what they came to.

use std::time::Duration;

use super::support::network::Link;
use super::support::way::Way;

/// What connects a daemon with the engine.
pub trait Line: Sync {
    /// It is no more.
    fn set_cut(&self, is_cut: bool);

    /// Nothing arrives at the engine, or nothing of what it sends.
    fn hold(&self, there: bool, back: bool);
}

/// What it holds arrives later.
impl Line for Way {
    fn set_cut(&self, is_cut: bool) {
        Way::set_cut(self, is_cut);
    }

    fn hold(&self, there: bool, back: bool) {
        Way::hold(self, there, back);
    }
}

/// Packets are lost.
impl Line for Link {
    fn set_cut(&self, is_cut: bool) {
        Link::set_cut(self, is_cut);
    }

    fn hold(&self, there: bool, back: bool) {
        self.lose(there, back);
    }
}

/// How many rounds those tests have that are not run by default.
pub fn rounds() -> usize {
    number("EVENT_MANAGER_ROUNDS").unwrap_or(20)
}

/// How many kills of those that are run by default, if more than these are wanted.
pub fn kills(default: usize) -> usize {
    number("EVENT_MANAGER_KILLS").unwrap_or(default)
}

/// How many events from one kill to the next.
pub fn events(default: usize) -> usize {
    number("EVENT_MANAGER_EVENTS").unwrap_or(default)
}

fn number(name: &str) -> Option<usize> {
    let said = std::env::var(name).ok()?;
    Some(
        said.parse()
            .unwrap_or_else(|_| panic!("{name}: {said} is no number")),
    )
}

pub const KINDS: [&str; 5] = ["cut", "both-ways", "there", "back", "flapping"];

/// Breaks it for so long, and mends it.
pub fn break_for(way: &dyn Line, kind: &str, time: Duration) {
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
