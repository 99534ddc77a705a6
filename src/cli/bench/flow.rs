//! Events under way: how many there may be, when the next one is due, which have come.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

use crate::ambient::now;

/// What the bench puts at the beginning of a body: the event's number, and when it was sent.
const HEAD_BYTES: usize = 16;
/// Without an event for so long, those that are under way are lost.
const STALL: Duration = Duration::from_secs(5);

/// Shared by who sends and who receives, in one task.
pub(super) struct Flow {
    began: Instant,
    rate: Option<f64>,
    window: u64,
    sent: Cell<u64>,
    room: Notify,
    come: RefCell<Come>,
}

/// What has come.
struct Come {
    /// A bit for each event: after a lost connection one may come twice.
    seen: Vec<u64>,
    /// In ns.
    latencies: Vec<u64>,
    last: Instant,
}

impl Flow {
    pub(super) fn new(events: u64, rate: Option<f64>, window: u64) -> Self {
        let began = now();
        Self {
            began,
            rate,
            window,
            sent: Cell::new(0),
            room: Notify::new(),
            come: RefCell::new(Come {
                seen: vec![0; events.div_ceil(64) as usize],
                latencies: vec![],
                last: began,
            }),
        }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Waits until the next event is due, and there is room for it; its number.
    pub(super) async fn next(&self) -> u64 {
        self.due().await;
        while self.under_way() >= self.window {
            self.room.notified().await;
        }
        let number = self.sent.get();
        self.sent.set(number + 1);
        number
    }

    /// The same where there is always room.
    pub(super) async fn due(&self) {
        let due = self.rate.map(|rate| self.sent.get() as f64 / rate);
        let due = due.map(|seconds| self.began + Duration::from_secs_f64(seconds));
        if let Some(due) = due.filter(|due| *due > now()) {
            sleep_until(due.into()).await;
        }
    }

    fn under_way(&self) -> u64 {
        self.sent.get() - self.come.borrow().latencies.len() as u64
    }

    /// Writes the beginning of an event's body.
    pub(super) fn stamp(&self, number: u64, body: &mut [u8]) {
        let at = (now() - self.began).as_nanos() as u64;
        body[..8].copy_from_slice(&number.to_le_bytes());
        body[8..HEAD_BYTES].copy_from_slice(&at.to_le_bytes());
    }

    /// An event has come; whether it is the first with its number.
    pub(super) fn has_come(&self, body: &[u8]) -> bool {
        let word = |at: usize| {
            let bytes = body.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let (Some(number), Some(sent_at)) = (word(0), word(8)) else {
            return false;
        };
        let now = now();
        let since = (now - self.began).as_nanos() as u64;
        self.note(number, since.saturating_sub(sent_at), now)
    }

    /// The same of one that took so long, in ns.
    pub(super) fn note(&self, number: u64, latency: u64, now: Instant) -> bool {
        let come = &mut *self.come.borrow_mut();
        let (Some(seen), bit) = (
            come.seen.get_mut((number / 64) as usize),
            1 << (number % 64),
        ) else {
            return false;
        };
        if *seen & bit != 0 {
            return false;
        }
        *seen |= bit;
        come.latencies.push(latency);
        come.last = now;
        self.room.notify_one();
        true
    }

    /// Waits until nothing has come for long, though events are under way; how many have come.
    pub(super) async fn stalled(&self) -> u64 {
        loop {
            sleep(STALL / 10).await;
            let come = self.come.borrow();
            let is_over = now().saturating_duration_since(come.last) >= STALL;
            let events = come.latencies.len() as u64;
            if is_over && self.sent.get() > events {
                return events;
            }
        }
    }

    /// The latencies in order.
    pub(super) fn latencies(self) -> Vec<u64> {
        let mut latencies = self.come.into_inner().latencies;
        latencies.sort_unstable();
        latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_comes_twice_has_come_once() {
        let flow = Flow::new(70, None, 2);
        let mut body = [0; 20];
        for (number, is_new) in [(0, true), (69, true), (69, false), (1, true), (0, false)] {
            flow.stamp(number, &mut body);
            assert_eq!(flow.has_come(&body), is_new, "{number}");
        }
        assert!(!flow.has_come(b"short") && !flow.has_come(&[0xFF; 16]));
        assert_eq!(flow.latencies().len(), 3);
    }
}
