//! Where the unsettled events are: 16 bytes for each, and for the settled ones of segments that are
//! still there.

use std::collections::{BTreeMap, VecDeque};

use crate::seq::Seq;

/// Where an event is in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) offset: u32,
    /// Its whole record; 0 if it is settled or was carried to another segment.
    pub(super) bytes: u32,
    pub(super) attempts: u32,
    /// When it was appended, in seconds since 1970.
    pub(super) seconds: u32,
}

impl Slot {
    /// Of an event that should be in its segment and wasn't found there.
    pub(super) const MISSING: Self = Self {
        offset: u32::MAX,
        bytes: 0,
        attempts: 0,
        seconds: 0,
    };

    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.bytes)
    }
}

/// An unsettled event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) seq: Seq,
    /// The number of the segment that holds it.
    pub(super) segment: u64,
    pub(super) slot: Slot,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) first_seq: Seq,
    /// Where its records begin.
    start: u64,
    /// Its length; anything after that in its file was never committed.
    pub(super) bytes: u64,
    /// Its own events, by sequence number from `first_seq`.
    slots: Vec<Slot>,
    /// All slots before this one are gone.
    low: usize,
    /// Its unsettled events, those carried here included.
    pub(super) live_events: u64,
    pub(super) live_bytes: u64,
}

impl Segment {
    pub(super) fn new(number: u64, first_seq: Seq, start: u64) -> Self {
        Self {
            number,
            first_seq,
            start,
            bytes: start,
            slots: vec![],
            low: 0,
            live_events: 0,
            live_bytes: 0,
        }
    }

    pub(super) fn name(&self) -> String {
        super::format::segment_name(self.number, self.first_seq)
    }

    /// The sequence number after its last own event.
    pub(super) fn end_seq(&self) -> Seq {
        self.first_seq.plus(self.slots.len() as u64)
    }

    /// Whether it holds no record at all.
    pub(super) fn is_blank(&self) -> bool {
        self.bytes <= self.start
    }

    fn slot_mut(&mut self, seq: Seq) -> Option<&mut Slot> {
        let at = usize::try_from(seq.0.checked_sub(self.first_seq.0)?).ok()?;
        self.slots.get_mut(at)
    }

    /// Its own unsettled events from this sequence number on.
    fn live_from(&self, from: Seq) -> impl Iterator<Item = Found> {
        let at = usize::try_from(from.since(self.first_seq)).unwrap_or(usize::MAX);
        let at = at.max(self.low);
        let slots = self.slots.get(at..).unwrap_or_default().iter();
        let live = slots.zip(at as u64..).filter(|(slot, _)| slot.bytes > 0);
        live.map(|(slot, at)| Found {
            seq: self.first_seq.plus(at),
            segment: self.number,
            slot: *slot,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    /// Oldest first, by number.
    pub(super) segments: VecDeque<Segment>,
    /// Unsettled events that are not in the segment of their sequence number any more.
    carried: BTreeMap<Seq, (u64, Slot)>,
    pub(super) live_events: u64,
    pub(super) live_bytes: u64,
}

impl Index {
    /// Adds the next new event of the newest segment.
    pub(super) fn push(&mut self, slot: Slot) {
        if let Some(segment) = self.segments.back_mut() {
            segment.slots.push(slot);
            if slot.bytes > 0 {
                segment.live_events += 1;
                segment.live_bytes += u64::from(slot.bytes);
                self.live_events += 1;
                self.live_bytes += u64::from(slot.bytes);
            }
        }
    }

    /// The event is in the newest segment now, whether or not it was known in another.
    pub(super) fn carry(&mut self, seq: Seq, slot: Slot) {
        self.remove(seq);
        let Some(segment) = self.segments.back_mut() else {
            return;
        };
        segment.live_events += 1;
        segment.live_bytes += u64::from(slot.bytes);
        self.live_events += 1;
        self.live_bytes += u64::from(slot.bytes);
        self.carried.insert(seq, (segment.number, slot));
    }

    /// The event is settled: forgets where it is. Returns whether it was unsettled.
    pub(super) fn remove(&mut self, seq: Seq) -> bool {
        let removed = match self.carried.remove(&seq) {
            Some((number, slot)) => self.segment_mut(number).map(|segment| (segment, slot)),
            None => self.own_mut(seq).and_then(|segment| {
                let gone = Slot {
                    bytes: 0,
                    offset: 0,
                    ..Slot::MISSING
                };
                let slot = std::mem::replace(segment.slot_mut(seq)?, gone);
                while segment
                    .slots
                    .get(segment.low)
                    .is_some_and(|slot| slot.bytes == 0)
                {
                    segment.low += 1;
                }
                Some((segment, slot))
            }),
        };
        let Some((segment, slot)) = removed.filter(|(_, slot)| slot.bytes > 0) else {
            return false;
        };
        segment.live_events -= 1;
        segment.live_bytes -= u64::from(slot.bytes);
        self.live_events -= 1;
        self.live_bytes -= u64::from(slot.bytes);
        true
    }

    /// These events are settled, both ends included, as far as they are known.
    pub(super) fn remove_range(&mut self, first: Seq, last: Seq) {
        if first > last {
            return;
        }
        let carried = self.carried.range(first..=last).map(|(seq, _)| *seq);
        let carried: Vec<_> = carried.collect();
        let own = self.segments.iter().flat_map(|segment| {
            let first = first.max(segment.first_seq.plus(segment.low as u64));
            first.until(segment.end_seq().min(Seq(last.0.saturating_add(1))))
        });
        let own: Vec<_> = own.collect();
        for seq in carried.into_iter().chain(own) {
            self.remove(seq);
        }
    }

    /// Notes how often an unsettled event was delivered. Returns whether it is one.
    pub(super) fn set_attempts(&mut self, seq: Seq, attempts: u32) -> bool {
        let slot = match self.carried.get_mut(&seq) {
            Some((_, slot)) => Some(slot),
            None => self.own_mut(seq).and_then(|segment| segment.slot_mut(seq)),
        };
        let slot = slot.filter(|slot| slot.bytes > 0);
        slot.map(|slot| slot.attempts = attempts).is_some()
    }

    /// Whether the event is unsettled.
    pub(super) fn is_live(&self, seq: Seq) -> bool {
        self.first_live(seq).is_some_and(|found| found.seq == seq)
    }

    /// The first unsettled event from this sequence number on.
    pub(super) fn first_live(&self, from: Seq) -> Option<Found> {
        self.live_from(from).next()
    }

    /// The unsettled events from this sequence number on, in their order.
    pub(super) fn live_from(&self, from: Seq) -> impl Iterator<Item = Found> {
        let at = self.segments.partition_point(|s| s.end_seq() <= from);
        let segments = self.segments.range(at..);
        let mut own = segments
            .flat_map(move |segment| segment.live_from(from))
            .peekable();
        let carried = self.carried.range(from..);
        let carried = carried.map(|(seq, (segment, slot))| Found {
            seq: *seq,
            segment: *segment,
            slot: *slot,
        });
        let mut carried = carried.peekable();
        std::iter::from_fn(move || {
            let next_own = own.peek().map(|found| found.seq);
            let is_before = |found: &Found| next_own.is_none_or(|own| found.seq < own);
            carried.next_if(is_before).or_else(|| own.next())
        })
    }

    /// The unsettled events that are in this segment, its own first.
    pub(super) fn live_in(&self, number: u64) -> Vec<Found> {
        let segment = self.segments.iter().filter(|s| s.number == number);
        let own = segment.flat_map(|segment| segment.live_from(Seq::ZERO));
        let carried = self
            .carried
            .iter()
            .filter(|(_, (segment, _))| *segment == number);
        let carried = carried.map(|(seq, (segment, slot))| Found {
            seq: *seq,
            segment: *segment,
            slot: *slot,
        });
        own.chain(carried).collect()
    }

    /// The events that should have been found and were not, by their segment. They count as settled
    /// from now on.
    pub(super) fn settle_missing(&mut self) -> Vec<(u64, Seq)> {
        let mut missing = vec![];
        for segment in &mut self.segments {
            for (slot, at) in segment.slots.iter_mut().zip(0..) {
                if *slot == Slot::MISSING {
                    slot.offset = 0;
                    missing.push((segment.number, segment.first_seq.plus(at)));
                }
            }
        }
        missing
    }

    /// Counts the unsettled events one by one.
    #[cfg(test)]
    pub(super) fn live_in_all(&self) -> u64 {
        let segments = self.segments.iter();
        segments.map(|s| self.live_in(s.number).len() as u64).sum()
    }

    pub(super) fn segment(&self, number: u64) -> Option<&Segment> {
        let at = self.segments.partition_point(|s| s.number < number);
        self.segments.get(at).filter(|s| s.number == number)
    }

    fn segment_mut(&mut self, number: u64) -> Option<&mut Segment> {
        let at = self.segments.partition_point(|s| s.number < number);
        self.segments.get_mut(at).filter(|s| s.number == number)
    }

    /// The segment whose own events this sequence number is among.
    fn own_mut(&mut self, seq: Seq) -> Option<&mut Segment> {
        let at = self.segments.partition_point(|s| s.end_seq() <= seq);
        self.segments.get_mut(at).filter(|s| s.first_seq <= seq)
    }
}
