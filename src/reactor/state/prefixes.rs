//! What plain subscribers are subscribed to, and the memory that all of it takes.

use std::collections::{HashSet, VecDeque, hash_set};
use std::rc::Rc;

use event_manager_core::broker::PeerId;
use tokio::sync::Notify;

/// What a prefix takes beside its bytes, here and in the index, roughly; the bytes are in both.
const OVERHEAD_BYTES: usize = 300;

fn cost(prefix: &[u8]) -> usize {
    2 * prefix.len() + OVERHEAD_BYTES
}

/// The prefixes of one subscriber.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    all: HashSet<Box<[u8]>>,
    bytes: usize,
}

impl Prefixes {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn contains(&self, prefix: &[u8]) -> bool {
        self.all.contains(prefix)
    }
}

/// A subscriber that is gone, and those of its prefixes that are still in the index.
#[derive(Debug)]
struct Departed {
    id: PeerId,
    rest: hash_set::IntoIter<Box<[u8]>>,
}

/// What is to be done for a subscriber that is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// This prefix of it goes.
    Prefix(Box<[u8]>),
    /// All its prefixes are gone.
    Done,
}

/// The memory that the prefixes of all subscribers take.
#[derive(Debug, Default)]
pub(crate) struct PrefixMemory {
    bytes: usize,
    departed: VecDeque<Departed>,
    departure: Rc<Notify>,
}

impl PrefixMemory {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the subscriber may have one more, where all may take so many bytes: nobody has more of them
    /// than it leaves to others.
    pub(crate) fn has_room(&self, own: &Prefixes, prefix: &[u8], bytes_max: usize) -> bool {
        own.bytes + cost(prefix) <= bytes_max.saturating_sub(self.bytes)
    }

    /// The subscriber gets one that it doesn't have.
    pub(crate) fn add(&mut self, own: &mut Prefixes, prefix: &[u8]) {
        if own.all.insert(prefix.into()) {
            own.bytes += cost(prefix);
            self.bytes += cost(prefix);
        }
    }

    /// The subscriber has it no longer; whether it did.
    pub(crate) fn remove(&mut self, own: &mut Prefixes, prefix: &[u8]) -> bool {
        let had = own.all.remove(prefix);
        if had {
            own.bytes -= cost(prefix);
            self.bytes -= cost(prefix);
        }
        had
    }

    /// The subscriber is gone. Its prefixes are in memory until [`next_leftover`](Self::next_leftover)
    /// has given all of them.
    pub(crate) fn depart(&mut self, id: PeerId, own: Prefixes) {
        let rest = own.all.into_iter();
        self.departed.push_back(Departed { id, rest });
        self.departure.notify_one();
    }

    /// Notified when a subscriber is gone.
    pub(crate) fn departure(&self) -> Rc<Notify> {
        Rc::clone(&self.departure)
    }

    /// What is to be done next for subscribers that are gone.
    pub(crate) fn next_leftover(&mut self) -> Option<(PeerId, Leftover)> {
        let first = self.departed.front_mut()?;
        let id = first.id;
        let leftover = match first.rest.next() {
            Some(prefix) => {
                self.bytes -= cost(&prefix);
                Leftover::Prefix(prefix)
            }
            None => {
                self.departed.pop_front();
                Leftover::Done
            }
        };
        Some((id, leftover))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_of_the_memory_than_it_leaves_to_others() {
        let mut memory = PrefixMemory::default();
        let max = 100 * cost(b"1000");
        let fill = |memory: &mut PrefixMemory, own: &mut Prefixes| {
            for n in 1000..2000 {
                let prefix = n.to_string();
                if !memory.has_room(own, prefix.as_bytes(), max) {
                    break;
                }
                memory.add(own, prefix.as_bytes());
            }
            own.len()
        };
        let mut all = [(); 3].map(|()| Prefixes::default());
        let counts: Vec<_> = all.iter_mut().map(|own| fill(&mut memory, own)).collect();
        assert_eq!(counts, [50, 25, 13]);
        // What is there already costs nothing, and what goes makes room.
        memory.add(&mut all[0], b"1000");
        assert_eq!(memory.bytes(), 88 * cost(b"1000"));
        assert!(memory.remove(&mut all[0], b"1000"));
        assert!(!memory.remove(&mut all[0], b"1000"));
        // They are there until they are out of the index.
        let id = |serial| PeerId { slot: 0, serial };
        for (serial, own) in (0..).zip(all) {
            memory.depart(id(serial), own);
        }
        assert_eq!(memory.bytes(), 87 * cost(b"1000"));
        for (serial, count) in [(0, 49), (1, 25), (2, 13)] {
            for _ in 0..count {
                let (of, leftover) = memory.next_leftover().unwrap();
                assert!(of == id(serial) && leftover != Leftover::Done);
            }
            assert_eq!(memory.next_leftover(), Some((id(serial), Leftover::Done)));
        }
        assert_eq!((memory.bytes(), memory.next_leftover()), (0, None));
    }
}
