//! Events on disk alone of which a time is known: when they may go, or when they end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::broker::backlog::{ClockChange, Item};
use crate::seq::Seq;

/// What is known in memory of an event whose body is on disk alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// It doesn't go before.
    pub not_before: Option<Instant>,
    /// From then on it is not served any more.
    pub expires_at: Option<Instant>,
    /// It waits at its position of the queue, as others with its key wait behind it: it is tried again.
    pub keeps_turn: bool,
    /// Both are times of the wall clock.
    pub by_clock: bool,
    /// When it was given to an acknowledging worker for the first time.
    pub first_at: Option<Instant>,
    /// How often it was given to one. If it was, others with its key may wait in the backlog until it is there
    /// again; and however full that is of others that can't go, it was there before.
    pub attempt: u32,
}

impl Times {
    pub(super) fn of(item: &Item) -> Self {
        Self {
            not_before: item.not_before,
            expires_at: item.expires_at,
            keeps_turn: false,
            by_clock: item.by_clock,
            first_at: item.first_at,
            attempt: item.attempt,
        }
    }

    /// Until this time a reading in order skips the event.
    fn parked_until(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.keeps_turn)
    }

    /// The item comes from the disk, and goes on as what it was when it went there.
    pub(super) fn restore(self, item: &mut Item) {
        item.not_before = self.not_before.filter(|_| self.keeps_turn);
        item.expires_at = self.expires_at;
        item.by_clock = self.by_clock;
        item.first_at = self.first_at;
        item.attempt = item.attempt.max(self.attempt);
    }
}

/// An event is *parked* while it waits for its time, and then until it is read: who reads the queue in
/// its order passes it over. One with only an end is read in its order, if that comes first.
#[derive(Debug, Default)]
pub(super) struct Timed {
    all: BTreeMap<Seq, Times>,
    /// Parked until this time.
    parked: BTreeSet<(Instant, Seq)>,
    /// Their time has come, and they are read one by one: the queue was read beyond them.
    ready: BTreeSet<Seq>,
    /// Those of them that a worker had.
    again: BTreeSet<Seq>,
    ends: BTreeSet<(Instant, Seq)>,
}

impl Timed {
    /// The event is on disk alone, and has times; parked if it has one to wait for.
    pub(super) fn add(&mut self, seq: Seq, times: Times) {
        if times.not_before.is_none() && times.expires_at.is_none() {
            return;
        }
        self.parked.extend(times.parked_until().map(|at| (at, seq)));
        self.ends.extend(times.expires_at.map(|at| (at, seq)));
        self.all.insert(seq, times);
    }

    /// The event is not on disk alone any more.
    pub(super) fn remove(&mut self, seq: Seq) -> Option<Times> {
        let times = self.all.remove(&seq)?;
        self.ready.remove(&seq);
        self.again.remove(&seq);
        if let Some(at) = times.parked_until() {
            self.parked.remove(&(at, seq));
        }
        if let Some(at) = times.expires_at {
            self.ends.remove(&(at, seq));
        }
        Some(times)
    }

    pub(super) fn get(&self, seq: Seq) -> Option<Times> {
        self.all.get(&seq).copied()
    }

    /// It has no time to wait for any more; if it has no end either, nothing is to be known of it.
    pub(super) fn forget_if_timeless(&mut self, seq: Seq) {
        let times = self.all.get(&seq);
        if times.is_some_and(|times| times.expires_at.is_none() && times.attempt == 0) {
            self.all.remove(&seq);
        }
    }

    /// How many are parked.
    pub(super) fn parked(&self) -> u64 {
        (self.parked.len() + self.ready.len()) as u64
    }

    pub(super) fn is_parked(&self, seq: Seq) -> bool {
        let times = self.all.get(&seq);
        times.is_some_and(|times| times.parked_until().is_some()) || self.ready.contains(&seq)
    }

    /// Those to be read by their numbers, the lowest first.
    pub(super) fn ready(&self) -> impl Iterator<Item = Seq> {
        self.ready.iter().copied()
    }

    /// The first of those that a worker had.
    pub(super) fn first_again(&self) -> Option<Seq> {
        self.again.first().copied()
    }

    /// Whether it is one of these.
    pub(super) fn is_again(&self, seq: Seq) -> bool {
        self.again.contains(&seq)
    }

    fn set_ready(&mut self, seq: Seq) {
        self.ready.insert(seq);
        if self.get(seq).is_some_and(|times| times.attempt > 0) {
            self.again.insert(seq);
        }
    }

    pub(super) fn is_ready(&self, seq: Seq) -> bool {
        self.ready.contains(&seq)
    }

    /// The next one whose end has come.
    pub(super) fn ended(&self, now: Instant) -> Option<Seq> {
        let (at, seq) = self.ends.first()?;
        (*at <= now).then_some(*seq)
    }

    /// Takes the next one whose time has come out of those that wait for it. It is to be read in its
    /// order, or, with `ready`, by its number.
    pub(super) fn wake(&mut self, now: Instant, ready: impl FnOnce(Seq) -> bool) -> Option<Seq> {
        let (at, seq) = *self.parked.first().filter(|(at, _)| *at <= now)?;
        self.parked.remove(&(at, seq));
        if let Some(times) = self.all.get_mut(&seq) {
            times.not_before = None;
        }
        if ready(seq) {
            self.set_ready(seq);
        }
        Some(seq)
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        let first = [self.parked.first(), self.ends.first()];
        first.into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// Those with only an end, which is read in their order from this number on: they are gone.
    pub(super) fn forget_from(&mut self, seq: Seq) {
        let others = self.all.range(seq..).map(|(seq, _)| *seq);
        let others: Vec<_> = others.filter(|seq| !self.is_parked(*seq)).collect();
        for seq in others {
            self.remove(seq);
        }
    }

    pub(super) fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        let by_clock = self.all.iter().filter(|(_, times)| times.by_clock);
        let seqs: Vec<_> = by_clock.map(|(seq, _)| *seq).collect();
        for seq in seqs {
            let is_ready = self.is_ready(seq);
            let Some(mut times) = self.remove(seq) else {
                continue;
            };
            // The delay of a retry is no time of that clock.
            if times.attempt == 0 {
                times.not_before = times.not_before.map(|at| change.apply(at, now));
            }
            times.expires_at = times.expires_at.map(|at| change.apply(at, now));
            self.add(seq, times);
            if is_ready {
                self.all.insert(seq, times);
                self.set_ready(seq);
            }
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_set_moves_the_time_of_an_event_but_no_delay_of_a_retry() {
        let now = Instant::now();
        let later = Some(now + Duration::from_secs(10));
        let of = |attempt| Times {
            not_before: later,
            expires_at: later,
            by_clock: true,
            attempt,
            ..Times::default()
        };
        let mut timed = Timed::default();
        timed.add(Seq(1), of(0));
        timed.add(Seq(2), of(1));
        timed.clock_was_set(ClockChange { forward_ms: 4_000 }, now);
        let moved = Some(now + Duration::from_secs(6));
        let times = |seq| {
            timed
                .get(seq)
                .map(|times| (times.not_before, times.expires_at))
        };
        assert_eq!(times(Seq(1)), Some((moved, moved)));
        assert_eq!(times(Seq(2)), Some((later, moved)));
    }
}
