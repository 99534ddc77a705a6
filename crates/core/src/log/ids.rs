//! Ids of recent events, by which one that is published twice is known.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::event_id::{Shares, is_from_inside, shared};
use crate::seq::Seq;

#[derive(Debug)]
struct Remembered {
    id: Arc<[u8]>,
    time_ms: u64,
    /// The segment that holds it durably; [`Ids::NOWHERE`] while none does.
    segment: u64,
}

/// Ids that are remembered for a time; when there are too many, the oldest of who has most is forgotten.
#[derive(Debug)]
pub(super) struct Ids {
    by_seq: BTreeMap<Seq, Remembered>,
    by_id: HashMap<Arc<[u8]>, Seq>,
    shares: Shares<Seq>,
    /// The one that was remembered last.
    newest: Arc<[u8]>,
    window_ms: u64,
    max: usize,
}

impl Ids {
    /// No segment has this number.
    pub(super) const NOWHERE: u64 = 0;

    pub(super) fn new(window_ms: u64, max: usize) -> Self {
        Self {
            by_seq: BTreeMap::new(),
            by_id: HashMap::new(),
            shares: Shares::default(),
            newest: [].into(),
            window_ms,
            max,
        }
    }

    pub(super) fn set_bounds(&mut self, window_ms: u64, max: usize) {
        (self.window_ms, self.max) = (window_ms, max);
    }

    /// The sequence number of the event that had this id within the window, of its owner or anybody's.
    pub(super) fn seen(&self, id: &[u8], now_ms: u64) -> Option<Seq> {
        let seen = |id: &[u8]| {
            let seq = *self.by_id.get(id)?;
            let remembered = self.by_seq.get(&seq)?;
            self.is_fresh(remembered, now_ms).then_some(seq)
        };
        seen(id).or_else(|| seen(shared(id)?))
    }

    fn is_fresh(&self, remembered: &Remembered, now_ms: u64) -> bool {
        now_ms < remembered.time_ms.saturating_add(self.window_ms)
    }

    /// Remembers the id of an event; of two events with one id the later one counts.
    pub(super) fn remember(&mut self, id: &[u8], seq: Seq, time_ms: u64, segment: u64) {
        if self.by_id.get(id).is_some_and(|known| *known > seq) {
            return;
        }
        let id: Arc<[u8]> = id.into();
        if let Some(known) = self.by_id.insert(id.clone(), seq) {
            self.by_seq.remove(&known);
            self.shares.remove(&id, known);
        }
        self.shares.add(&id, seq);
        self.newest = id.clone();
        let remembered = Remembered {
            id,
            time_ms,
            segment,
        };
        self.by_seq.insert(seq, remembered);
    }

    /// Forgets those whose time is over, and some of who has most if there are too many.
    pub(super) fn forget_old(&mut self, now_ms: u64) {
        while let Some((seq, oldest)) = self.by_seq.first_key_value()
            && !self.is_fresh(oldest, now_ms)
        {
            self.forget(*seq);
        }
        self.bound();
    }

    /// Forgets some of who has most if there are too many.
    pub(super) fn bound(&mut self) {
        while let Some(seq) = self.shares.one_too_many(self.max, &self.newest) {
            self.forget(seq);
        }
    }

    fn forget(&mut self, seq: Seq) {
        if let Some(forgotten) = self.by_seq.remove(&seq) {
            self.by_id.remove(&forgotten.id);
            self.shares.remove(&forgotten.id, seq);
        }
    }

    /// All was read that was there when the log was written last, at `last_ms`. Ids of parts of the daemon
    /// don't grow old while it is down: a broker that gives an event again does so when we are back.
    pub(super) fn wake(&mut self, last_ms: u64, now_ms: u64) {
        let down_ms = now_ms.saturating_sub(last_ms);
        for remembered in self.by_seq.values_mut() {
            if is_from_inside(&remembered.id) {
                remembered.time_ms = remembered.time_ms.saturating_add(down_ms);
            }
        }
        self.forget_old(now_ms);
    }

    /// Forgets the events from this sequence number on: they were not committed.
    pub(super) fn forget_from(&mut self, seq: Seq) {
        for (seq, remembered) in self.by_seq.split_off(&seq) {
            self.by_id.remove(&remembered.id);
            self.shares.remove(&remembered.id, seq);
        }
    }

    /// The ids that this segment holds: sequence number, time and id.
    pub(super) fn held_by(&self, segment: u64) -> impl Iterator<Item = (Seq, u64, &[u8])> {
        self.by_seq
            .iter()
            .filter(move |(_, remembered)| remembered.segment == segment)
            .map(|(seq, remembered)| (*seq, remembered.time_ms, &*remembered.id))
    }

    /// What one segment held, another holds now.
    pub(super) fn move_all(&mut self, from: u64, to: u64) {
        for remembered in self.by_seq.values_mut().filter(|r| r.segment == from) {
            remembered.segment = to;
        }
    }

    /// The events from this sequence number on are committed, in this segment.
    pub(super) fn committed_from(&mut self, seq: Seq, segment: u64) {
        for (_, remembered) in self.by_seq.range_mut(seq..) {
            remembered.segment = segment;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_id::{Emitter, EventId};

    #[test]
    fn ids_from_inside_grow_old_only_while_the_log_is_written() {
        let inside = |said: &'static str| {
            let id = EventId::of(Emitter::Inside("prices"), said.into());
            id.into_bytes()
        };
        let mut ids = Ids::new(100, 10);
        ids.remember(&inside("long ago"), Seq(1), 1000, 1);
        ids.remember(b"a client's", Seq(2), 1150, 1);
        ids.remember(&inside("a"), Seq(3), 1150, 1);
        // Nothing was written for an hour.
        let now_ms = 1200 + 3_600_000;
        ids.wake(1200, now_ms);
        let seen = [&inside("long ago"), &b"a client's"[..], &inside("a")];
        assert_eq!(
            seen.map(|id| ids.seen(id, now_ms)),
            [None, None, Some(Seq(3))]
        );
        assert_eq!(ids.seen(&inside("a"), now_ms + 49), Some(Seq(3)));
        assert_eq!(ids.seen(&inside("a"), now_ms + 50), None);
        // The clock was set back.
        ids.wake(1 << 40, 1150);
        assert_eq!(ids.seen(b"a client's", 1150), None);
    }

    #[test]
    fn ids_are_forgotten_by_time_and_number() {
        let mut ids = Ids::new(100, 2);
        ids.remember(b"a", Seq(1), 1000, 1);
        ids.remember(b"b", Seq(2), 1050, 1);
        assert_eq!(
            (ids.seen(b"a", 1099), ids.seen(b"a", 1100)),
            (Some(Seq(1)), None)
        );
        ids.remember(b"c", Seq(3), 1060, 1);
        ids.forget_old(1060);
        assert_eq!(
            (ids.seen(b"a", 1060), ids.seen(b"b", 1060)),
            (None, Some(Seq(2)))
        );
        ids.remember(b"b", Seq(4), 1070, 1);
        assert_eq!(ids.seen(b"b", 1070), Some(Seq(4)));
        ids.forget_from(Seq(4));
        assert_eq!(
            (ids.seen(b"b", 1070), ids.seen(b"c", 1070)),
            (None, Some(Seq(3)))
        );
        ids.forget_old(1160);
        assert!(ids.by_id.is_empty() && ids.by_seq.is_empty());
    }

    #[test]
    fn who_has_most_forgets_first() {
        let id = |name, said: &'static str| EventId::of(Emitter::Client(name), said.into());
        let (mine, flood) = (id("till", "a").into_bytes(), ["a", "b", "c", "d"]);
        let mut ids = Ids::new(100, 3);
        ids.remember(&mine, Seq(1), 1000, 1);
        for (said, seq) in flood.into_iter().zip(2..) {
            ids.remember(&id("desk", said).into_bytes(), Seq(seq), 1000, 1);
            ids.forget_old(1000);
        }
        assert_eq!(ids.seen(&mine, 1000), Some(Seq(1)));
        let known = |said| ids.seen(&id("desk", said).into_bytes(), 1000).is_some();
        assert_eq!(flood.map(known), [false, false, true, true]);
    }
}
