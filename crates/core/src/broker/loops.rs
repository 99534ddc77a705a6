//! Event managers that dial each other's subscribers' sockets in a ring: what is published would go
//! round for ever.
//!
//! Each daemon that others dial sends them a *trace* now and then, beside the events: who sent it, and
//! who passed it on. They pass it on in turn. One that comes back has gone the way that events go, so
//! the link on which it came closes a ring. Of the daemons of a ring the one with the smallest id takes
//! no events from its link; one has to, and no two do.

use std::collections::BTreeMap;

/// The most daemons that a trace passes.
const PATH_MAX: usize = 16;
/// Senders of which it is remembered which trace was passed on.
const SENDERS_MAX: usize = 1024;
const WORD: usize = 8;

/// What to do with a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It is no trace, was passed on before, or has come too far.
    Nothing,
    /// Send this to all event managers that dialled us.
    PassOn {
        trace: Vec<u8>,
        /// A link is new: send one of our own at once, too.
        is_urgent: bool,
    },
    /// It is our own.
    Returned {
        /// How many daemons are in the ring, with us.
        daemons: usize,
        /// The ring is ours to break.
        is_ours: bool,
    },
}

/// Sends traces and judges those that come.
#[derive(Debug)]
pub struct Loops {
    own: u64,
    /// Our id in traces to hubs of a mesh. These pass on events that came by hubs to nobody but plain
    /// subscribers, so of a ring that goes over such a link only we hear.
    to_hubs: u64,
    /// Counts traces.
    sent: u64,
    /// The latest trace of each sender that was passed on.
    passed: BTreeMap<u64, u64>,
}

impl Loops {
    /// For a daemon with these ids, which no other has: its own, and the one in traces to hubs.
    pub fn new(own: u64, to_hubs: u64) -> Self {
        Self {
            own,
            to_hubs,
            sent: 0,
            passed: BTreeMap::new(),
        }
    }

    pub fn own(&self) -> u64 {
        self.own
    }

    /// A new trace. It is urgent if a link is new: who hears it sends one, too.
    pub fn trace(&mut self, is_urgent: bool) -> Vec<u8> {
        self.sent += 1;
        encode(self.sent << 1 | u64::from(is_urgent), &[self.own])
    }

    /// The same for hubs of a mesh.
    pub fn trace_to_hubs(&mut self, is_urgent: bool) -> Vec<u8> {
        self.sent += 1;
        encode(self.sent << 1 | u64::from(is_urgent), &[self.to_hubs])
    }

    /// Who sent a trace here, whoever began it.
    pub fn neighbour(trace: &[u8]) -> Option<u64> {
        decode(trace)?.1.last().copied()
    }

    /// A trace came from a daemon that we dialled.
    pub fn hear(&mut self, trace: &[u8]) -> Heard {
        let Some((number, mut path)) = decode(trace) else {
            return Heard::Nothing;
        };
        let sender = path[0];
        if sender == self.own || sender == self.to_hubs {
            let is_smallest = path.iter().all(|id| *id >= self.own);
            return Heard::Returned {
                daemons: path.len(),
                is_ours: sender == self.to_hubs || is_smallest,
            };
        }
        let is_known = self.passed.get(&sender).is_some_and(|last| *last >= number);
        if is_known || path.contains(&self.own) || path.len() == PATH_MAX {
            return Heard::Nothing;
        }
        if self.passed.len() >= SENDERS_MAX {
            self.passed.clear();
        }
        self.passed.insert(sender, number);
        path.push(self.own);
        Heard::PassOn {
            trace: encode(number, &path),
            is_urgent: number & 1 == 1,
        }
    }
}

fn encode(number: u64, path: &[u64]) -> Vec<u8> {
    let words = std::iter::once(&number).chain(path);
    words.flat_map(|word| word.to_be_bytes()).collect()
}

/// Its number, and its path of at least one.
fn decode(trace: &[u8]) -> Option<(u64, Vec<u64>)> {
    let (words, rest) = trace.as_chunks::<WORD>();
    let in_bounds = (2..=1 + PATH_MAX).contains(&words.len());
    let (number, path) = words.split_first()?;
    let path: Vec<_> = path.iter().map(|word| u64::from_be_bytes(*word)).collect();
    (in_bounds && rest.is_empty()).then_some((u64::from_be_bytes(*number), path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, VecDeque};

    /// Daemons, by their ids, and links: events and traces go from the first to the second.
    struct Net {
        daemons: BTreeMap<u64, Loops>,
        links: BTreeSet<(u64, u64)>,
        held: BTreeSet<(u64, u64)>,
    }

    impl Net {
        fn new(links: impl IntoIterator<Item = (u64, u64)>) -> Self {
            let links: BTreeSet<_> = links.into_iter().collect();
            let ids = links.iter().flat_map(|(from, to)| [*from, *to]);
            Self {
                daemons: ids.map(|id| (id, Loops::new(id, !id))).collect(),
                links,
                held: BTreeSet::new(),
            }
        }

        /// Each daemon sends a trace; whether some came back that we did not hold for.
        fn round(&mut self) {
            let ids: Vec<_> = self.daemons.keys().copied().collect();
            for id in ids {
                let trace = self.daemons.get_mut(&id).unwrap().trace(false);
                let mut under_way = VecDeque::from([(id, trace)]);
                while let Some((from, trace)) = under_way.pop_front() {
                    let links: Vec<_> = self
                        .links
                        .range((from, 0)..=(from, u64::MAX))
                        .copied()
                        .collect();
                    for link in links {
                        match self.daemons.get_mut(&link.1).unwrap().hear(&trace) {
                            Heard::Returned { is_ours: true, .. } => drop(self.held.insert(link)),
                            Heard::PassOn { trace, .. } if !self.held.contains(&link) => {
                                under_way.push_back((link.1, trace));
                            }
                            _ => {}
                        }
                    }
                }
            }
        }

        fn goes_round(&self) -> bool {
            let mut left: BTreeSet<_> = self.links.difference(&self.held).copied().collect();
            loop {
                let froms: BTreeSet<_> = left.iter().map(|link| link.0).collect();
                let before = left.len();
                left.retain(|link| froms.contains(&link.1));
                if left.len() == before {
                    return !left.is_empty();
                }
            }
        }
    }

    #[test]
    fn of_a_ring_one_link_is_held_and_of_a_chain_none() {
        for len in 1..=PATH_MAX as u64 {
            let mut ring = Net::new((1..=len).map(|id| (id, id % len + 1)));
            ring.round();
            assert_eq!(ring.held.len(), 1, "{len}: {:?}", ring.held);
            assert!(!ring.goes_round());
            let mut chain = Net::new((1..=len).map(|id| (id, id + 1)));
            chain.round();
            assert_eq!(chain.held.len(), 0);
        }
    }

    #[test]
    fn noise_is_nothing() {
        let mut loops = Loops::new(1, 2);
        for len in [0, 1, 8, 15, 17, 8 * (PATH_MAX + 2)] {
            assert_eq!(loops.hear(&vec![7; len]), Heard::Nothing);
        }
    }

    proptest! {
        /// Whoever dials whom, after a few rounds nothing goes round.
        #[test]
        fn nothing_goes_round(links in proptest::collection::btree_set((0u64..6, 0u64..6), 0..16)) {
            let mut net = Net::new(links);
            for _ in 0..8 {
                net.round();
            }
            prop_assert!(!net.goes_round(), "{:?} without {:?}", net.links, net.held);
        }
    }
}
