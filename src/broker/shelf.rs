//! The events of a durable queue that are not in its backlog: on their way to the disk, or on it alone.

use std::collections::VecDeque;

use super::backlog::{Backlog, Item, Lost};

/// A backlog that has fewer events than this takes more from the disk.
const LOW_EVENTS: usize = 1024;
/// What is read at once, at most.
const READ_EVENTS: usize = 1024;
const READ_BYTES: u64 = 4 << 20;

/// What should be read from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The lowest place.
    pub from: u64,
    /// The most events.
    pub events_max: usize,
    /// The most bytes.
    pub bytes_max: u64,
}

/// Where a durable queue's events are beside its backlog.
///
/// An event is *pending* from when it came until it is durable. Then it goes to the backlog, if that
/// has room and nothing is on disk alone; else its body is forgotten, and it is *shelved*: read again
/// when the backlog runs low. So the backlog always has the first ones, and memory is bounded.
#[derive(Debug, Default)]
pub struct Shelf {
    pending: VecDeque<(u64, Vec<Item>)>,
    last_tag: u64,
    pending_events: usize,
    pending_bytes: usize,
    /// From this place on events are on disk alone.
    from: Option<u64>,
    shelved: u64,
    is_reading: bool,
    /// Events before this place may have been delivered by an earlier run.
    inherited_below: u64,
}

impl Shelf {
    /// What was found on disk: the place of the next new event, and of the first that is not done.
    pub fn found(&mut self, next: u64, first: Option<u64>, events: u64) {
        self.inherited_below = next;
        self.from = first;
        self.shelved = events;
    }

    /// Events are appended: the tag by which the disk reports of them.
    pub fn append(&mut self, items: Vec<Item>) -> u64 {
        self.last_tag += 1;
        self.pending_events += items.len();
        self.pending_bytes += items.iter().map(Item::cost).sum::<usize>();
        self.pending.push_back((self.last_tag, items));
        self.last_tag
    }

    fn take_pending(&mut self, tag: u64) -> Vec<Item> {
        let Some(at) = self.pending.iter().position(|(pending, _)| *pending == tag) else {
            return vec![];
        };
        let (_, items) = self.pending.remove(at).unwrap_or_default();
        self.pending_events -= items.len();
        self.pending_bytes -= items.iter().map(Item::cost).sum::<usize>();
        items
    }

    /// The append with this tag is durable; `places` has the place of each of its events, or none for
    /// one that was known already. What the backlog gave up, which is nothing unless an event is
    /// larger than all of it.
    pub fn committed(&mut self, tag: u64, places: &[Option<u64>], backlog: &mut Backlog) -> Lost {
        let mut lost = Lost::default();
        for (mut item, place) in self.take_pending(tag).into_iter().zip(places) {
            let Some(place) = *place else { continue };
            item.seq = Some(place);
            if self.from.is_none() && backlog.has_room(&item) {
                add(backlog, item, &mut lost);
            } else if self.from.is_none() && !backlog.fits(&item) {
                lost.events += 1;
                lost.seqs.push(place);
            } else {
                self.from.get_or_insert(place);
                self.shelved += 1;
            }
        }
        lost
    }

    /// The append with this tag came to nothing: how many events it had.
    pub fn failed(&mut self, tag: u64) -> u64 {
        self.take_pending(tag).len() as u64
    }

    /// What to read, if the backlog runs low and the last reading is done.
    pub fn wants(&mut self, backlog: &Backlog) -> Option<Wanted> {
        let from = self.from?;
        if self.is_reading || backlog.len() >= LOW_EVENTS {
            return None;
        }
        self.is_reading = true;
        Some(Wanted {
            from,
            events_max: READ_EVENTS,
            bytes_max: READ_BYTES,
        })
    }

    /// What was read, in the order of places; none if there is no more. What the backlog gave up, or
    /// what should have been there.
    pub fn read(&mut self, items: Vec<Item>, backlog: &mut Backlog) -> Lost {
        self.is_reading = false;
        let mut lost = Lost::default();
        if items.is_empty() {
            self.from = None;
            lost.events = std::mem::take(&mut self.shelved);
        }
        for mut item in items {
            let place = item.seq.unwrap_or_default();
            if !backlog.fits(&item) {
                lost.events += 1;
                lost.seqs.push(place);
            } else if backlog.has_room(&item) {
                if place < self.inherited_below {
                    item.attempt = item.attempt.max(1);
                }
                add(backlog, item, &mut lost);
            } else {
                break;
            }
            self.from = Some(place + 1);
            self.shelved = self.shelved.saturating_sub(1);
        }
        if self.shelved == 0 {
            self.from = None;
        }
        lost
    }

    /// The disk was too busy to be asked.
    pub fn not_read(&mut self) {
        self.is_reading = false;
    }

    /// So many events are damaged on the disk; how many of them were on it alone.
    pub fn lost(&mut self, events: u64) -> u64 {
        let gone = events.min(self.shelved);
        self.shelved -= gone;
        gone
    }

    /// These places were given up on the disk; how many of them were on it alone.
    pub fn gave_up(&mut self, places: impl Iterator<Item = u64>) -> u64 {
        let Some(from) = self.from else { return 0 };
        let gone = places.filter(|place| *place >= from).count() as u64;
        let gone = gone.min(self.shelved);
        self.shelved -= gone;
        gone
    }

    /// Events that are pending or shelved.
    pub fn len(&self) -> u64 {
        self.pending_events as u64 + self.shelved
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Events that are not durable yet.
    pub fn pending(&self) -> usize {
        self.pending_events
    }

    /// What they cost, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Events that are on disk alone.
    pub fn shelved(&self) -> u64 {
        self.shelved
    }
}

fn add(backlog: &mut Backlog, item: Item, lost: &mut Lost) {
    match backlog.push(item) {
        Ok(more) => {
            lost.events += more.events;
            lost.seqs.extend(more.seqs);
        }
        Err(item) => {
            lost.events += 1;
            lost.seqs.extend(item.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "an arbitrary origin for a fake clock"
    )]

    use super::*;
    use crate::broker::{Policy, QueueLimits, WhenFull};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::rc::Rc;
    use std::time::Instant;

    fn backlog(events_max: usize) -> Backlog {
        Backlog::new(Rc::new(Policy {
            when_full: WhenFull::Spill,
            ..Policy::live(QueueLimits {
                bytes_max: 1 << 20,
                events_max,
            })
        }))
    }

    fn item(n: u64) -> Item {
        Item::new(Bytes::copy_from_slice(&n.to_be_bytes()))
    }

    #[derive(Debug, Clone)]
    enum Act {
        Append(usize),
        Report(bool),
        Read,
        Take(usize),
    }

    proptest! {
        #[test]
        fn every_durable_event_is_served_once_in_its_order(
            inherited in 0u64..30,
            acts in proptest::collection::vec(
                prop_oneof![
                    (1usize..6).prop_map(Act::Append),
                    prop::bool::weighted(0.8).prop_map(Act::Report),
                    Just(Act::Read),
                    (1usize..9).prop_map(Act::Take),
                ],
                1..120,
            ),
        ) {
            let now = Instant::now();
            let (mut shelf, mut backlog) = (Shelf::default(), backlog(7));
            // The disk: what is durable and not done.
            let mut disk: BTreeMap<u64, u64> = (1..=inherited).map(|n| (n, n)).collect();
            let (mut next, mut number) = (inherited + 1, inherited);
            shelf.found(next, disk.keys().next().copied(), inherited);
            let mut on_the_way: VecDeque<(u64, Vec<u64>)> = VecDeque::new();
            let mut served = vec![];
            let mut expected: Vec<u64> = disk.values().copied().collect();
            let drain = std::iter::repeat_n([Act::Report(true), Act::Read, Act::Take(9)], 300).flatten();
            for act in acts.into_iter().chain(drain) {
                match act {
                    Act::Append(n) => {
                        let numbers: Vec<u64> = (0..n as u64).map(|n| number + n + 1).collect();
                        number += n as u64;
                        let tag = shelf.append(numbers.iter().copied().map(item).collect());
                        on_the_way.push_back((tag, numbers));
                    }
                    Act::Report(well) => if let Some((tag, numbers)) = on_the_way.pop_front() {
                        if !well {
                            prop_assert_eq!(shelf.failed(tag), numbers.len() as u64);
                            continue;
                        }
                        let places: Vec<_> = numbers.iter().map(|number| {
                            disk.insert(next, *number);
                            expected.push(*number);
                            next += 1;
                            Some(next - 1)
                        }).collect();
                        prop_assert_eq!(shelf.committed(tag, &places, &mut backlog), Lost::default());
                    },
                    Act::Read => if let Some(wanted) = shelf.wants(&backlog) {
                        prop_assert_eq!(shelf.wants(&backlog), None);
                        let found = disk.range(wanted.from..).take(3);
                        let items = found.map(|(place, number)| {
                            let mut item = item(*number);
                            item.seq = Some(*place);
                            item
                        });
                        prop_assert_eq!(shelf.read(items.collect(), &mut backlog), Lost::default());
                    },
                    Act::Take(n) => for _ in 0..n {
                        let Some(item) = backlog.next(now) else { break };
                        let number = u64::from_be_bytes(item.body[..].try_into().unwrap());
                        prop_assert_eq!(disk.remove(&item.seq.unwrap()), Some(number));
                        prop_assert_eq!(item.attempt, u32::from(number <= inherited));
                        served.push(number);
                    },
                }
                let pending: usize = on_the_way.iter().map(|(_, numbers)| numbers.len()).sum();
                prop_assert_eq!(shelf.pending(), pending);
                prop_assert_eq!(shelf.len() as usize + backlog.len(), pending + disk.len());
                prop_assert!(backlog.len() <= 7);
            }
            prop_assert_eq!(served, expected);
        }
    }
}
