//! A line on a terminal that is written again and again. Where no terminal is, there is none.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use crate::ambient::now;

/// Between two lines.
const EVERY: Duration = Duration::from_millis(200);
/// How wide a bar is.
const BAR: u64 = 30;

/// How far something is.
pub(super) struct Progress {
    what: &'static str,
    /// How many there will be, if that is known.
    total: Option<u64>,
    events: u64,
    began: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: Option<u64>) -> Self {
        Self {
            what,
            total,
            events: 0,
            began: now(),
            shown: None,
            is_terminal: stderr().is_terminal(),
        }
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn add(&mut self, events: u64) {
        self.events += events;
        if !self.is_terminal {
            return;
        }
        let now = now();
        let due = self.shown.map_or(self.began, |shown| shown + EVERY);
        if now >= due {
            self.shown = Some(now);
            let seconds = (now - self.began).as_secs_f64();
            eprint!("\r{}\x1b[K", self.line(seconds));
        }
    }

    fn line(&self, seconds: f64) -> String {
        let rate = self.events as f64 / seconds.max(0.001);
        let (what, events) = (self.what, self.events);
        let Some(total) = self.total else {
            return format!("{events} {what}, {rate:.0} a second");
        };
        let done = (events.min(total) * BAR / total.max(1)) as usize;
        let bar = format!("{}{}", "#".repeat(done), ".".repeat(BAR as usize - done));
        format!("{what} [{bar}] {events} of {total}, {rate:.0} a second")
    }

    /// What comes next has a line of its own.
    pub(super) fn end(&mut self) {
        if self.shown.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut progress = Progress::new("work", Some(3));
        progress.add(1);
        let bar = format!("{}{}", "#".repeat(10), ".".repeat(20));
        assert_eq!(
            progress.line(2.0),
            format!("work [{bar}] 1 of 3, 0 a second")
        );
        progress.add(3);
        assert!(progress.line(0.0).contains("] 4 of 3, 4000 a second"));
        let mut unbounded = Progress::new("confirmed", None);
        unbounded.add(5);
        assert_eq!(unbounded.line(2.0), "5 confirmed, 2 a second");
    }
}
