//! How many events the server may give to each consumer of a daemon: when one has to begin, and which one has
//! to end.

use std::collections::BTreeMap;

/// How many consumers there are at most. Where more were wanted, one takes the place of others.
const CONSUMERS_MAX: usize = 8;

/// All consumers of a connection.
#[derive(Debug, Default)]
pub(super) struct Shares {
    all: BTreeMap<u64, Share>,
    /// The last that began.
    last: u64,
}

#[derive(Debug)]
struct Share {
    /// How many events it may have that are not settled, and how many it has.
    prefetch: u16,
    has: u16,
    is_ending: bool,
}

impl Share {
    fn left(&self) -> usize {
        usize::from(self.prefetch.saturating_sub(self.has))
    }
}

/// What has to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// This one begins, and may have so many events.
    Begin(u64, u16),
    End(u64),
}

impl Shares {
    /// What has to be done, if anything, so that no more than `room` come, and not much less. It counts as
    /// done.
    pub(super) fn change(&mut self, room: usize) -> Option<Change> {
        let active = || self.all.iter().filter(|(_, share)| !share.is_ending);
        let coming: usize = active().map(|(_, share)| share.left()).sum();
        if coming > room {
            let most = active().max_by_key(|(_, share)| share.left());
            let most = most.map(|(number, _)| *number);
            return most.and_then(|number| self.end(number));
        }
        // Each change takes a moment, and what comes soon makes room by itself.
        if room == 0 || coming > room / 2 {
            return None;
        }
        if active().count() >= CONSUMERS_MAX {
            let least = active().min_by_key(|(_, share)| share.left());
            let least = least.map(|(number, _)| *number);
            return least.and_then(|number| self.end(number));
        }
        self.last += 1;
        let prefetch = u16::try_from(room - coming).unwrap_or(u16::MAX);
        let share = Share {
            prefetch,
            has: 0,
            is_ending: false,
        };
        self.all.insert(self.last, share);
        Some(Change::Begin(self.last, prefetch))
    }

    /// One ends, if it doesn't already. It counts as done.
    pub(super) fn end(&mut self, number: u64) -> Option<Change> {
        let share = self.all.get_mut(&number);
        let share = share.filter(|share| !share.is_ending)?;
        share.is_ending = true;
        Some(Change::End(number))
    }

    /// One was given an event.
    pub(super) fn give(&mut self, number: u64) {
        if let Some(share) = self.all.get_mut(&number) {
            share.has = share.has.saturating_add(1);
        }
    }

    /// An event that one was given is settled.
    pub(super) fn settle(&mut self, number: u64) {
        if let Some(share) = self.all.get_mut(&number) {
            share.has = share.has.saturating_sub(1);
        }
    }

    /// One has ended; whether it had to.
    pub(super) fn has_ended(&mut self, number: u64) -> bool {
        let share = self.all.remove(&number);
        share.is_some_and(|share| share.is_ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_come_as_there_is_room_for() {
        let mut shares = Shares::default();
        assert_eq!(shares.change(0), None);
        assert_eq!(shares.change(5), Some(Change::Begin(1, 5)));
        assert_eq!(shares.change(5), None);
        // What it has takes room, and gives it back.
        (0..3).for_each(|_| shares.give(1));
        assert_eq!(shares.change(2), None);
        shares.settle(1);
        assert_eq!(shares.change(3), None);
        // Another worker: another consumer.
        assert_eq!(shares.change(9), Some(Change::Begin(2, 6)));
        assert_eq!(shares.change(9), None);
        // It leaves.
        assert_eq!(shares.change(3), Some(Change::End(2)));
        assert!(shares.has_ended(2));
        assert_eq!(shares.change(3), None);
        assert_eq!(shares.change(0), Some(Change::End(1)));
        assert_eq!(shares.change(0), None);
        // What the one that ends has is settled after the next has begun.
        assert_eq!(shares.change(1), Some(Change::Begin(3, 1)));
        shares.settle(1);
        assert!(shares.has_ended(1) && !shares.has_ended(3));
    }

    #[test]
    fn a_little_less_than_there_is_room_for_may_come_but_never_nothing() {
        let mut shares = Shares::default();
        assert_eq!(shares.change(4), Some(Change::Begin(1, 4)));
        assert_eq!(shares.change(7), None);
        (0..3).for_each(|_| shares.give(1));
        assert_eq!(shares.change(4), Some(Change::Begin(2, 3)));
        shares.give(1);
        (0..3).for_each(|_| shares.give(2));
        assert_eq!(shares.change(1), Some(Change::Begin(3, 1)));
    }

    #[test]
    fn there_are_few_consumers_and_any_sequence_of_rooms_is_followed() {
        let mut shares = Shares::default();
        let mut chance = 1_u64;
        for _ in 0..10_000 {
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let room = (chance >> 33) as usize % 100;
            let mut changes = 0;
            while let Some(change) = shares.change(room) {
                changes += 1;
                assert!(changes < 20);
                if let Change::End(number) = change {
                    assert!(shares.has_ended(number));
                }
            }
            let coming: usize = shares.all.values().map(Share::left).sum();
            assert!(coming <= room && (coming > 0 || room == 0));
            assert!(shares.all.len() <= CONSUMERS_MAX);
            let some = shares.all.keys().next().copied().unwrap_or_default();
            match chance >> 62 {
                0 => shares.settle(some),
                _ => (0..room / 3).for_each(|_| shares.give(some)),
            }
        }
    }
}
