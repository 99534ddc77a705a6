//! Items with keys: those with the same key wait for each other.
//!
//! Nearly all of them are [plain](Plain). They stand in one slab, and each knows the next with its key, so
//! that one costs no more than its place, whether its key has few or many. What is known of an item
//! beyond that, because it was tried or has a time, lies aside, and has its position here.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use slab::Slab;

use super::item::{Item, OrderKey, Position};
use super::plain::Plain;

/// So many entries that mean nothing any more may be kept beside as many as there are others.
const STALE_MAX: usize = if cfg!(test) { 8 } else { 1024 };
/// An empty slab keeps memory for so many.
const PLACES_KEPT: usize = 4096;
/// No place in a slab.
const NONE: u32 = u32::MAX;

/// Where an item is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Front,
    Back,
}

/// One key: what waits with it, and whether a worker holds something with it.
#[derive(Debug)]
struct KeyState {
    key: OrderKey,
    is_held: bool,
    /// The plain ones, by their places.
    first: u32,
    last: u32,
    aside: BTreeSet<Position>,
}

impl KeyState {
    fn is_unused(&self) -> bool {
        !self.is_held && self.first == NONE && self.aside.is_empty()
    }
}

/// A plain item, between the others with its key.
#[derive(Debug)]
struct Linked {
    plain: Plain,
    key: u32,
    before: u32,
    after: u32,
}

/// The only item of a key that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Plain(u32),
    Aside(Position),
}

impl Turn {
    fn aside(self) -> Option<Position> {
        match self {
            Self::Plain(_) => None,
            Self::Aside(position) => Some(position),
        }
    }
}

/// A key is a hash already, which nobody can foresee.
#[derive(Default)]
struct ByKey(u64);

impl Hasher for ByKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// An item that lies aside and may not go any more, and one that may go now.
pub(super) type Change = (Option<Position>, Option<Position>);

/// The keys of all that waits or is held, and the plain items that wait with one.
#[derive(Debug, Default)]
pub(super) struct Keys {
    places: HashMap<OrderKey, u32, BuildHasherDefault<ByKey>>,
    keys: Slab<KeyState>,
    items: Slab<Linked>,
    /// The plain items in the order in which they came. An entry means something if the item at its place
    /// has its position; those at both ends do.
    order: VecDeque<(Position, u32)>,
    /// Those whose turn it is, the first on top. As there, but only the top means something.
    free: BinaryHeap<Reverse<(Position, u32)>>,
    /// How many these are.
    free_count: usize,
}

impl Keys {
    /// Adds an item before or behind all others, or gives it back: others with higher or lower
    /// positions are here.
    pub(super) fn add(&mut self, plain: Plain, key: OrderKey, end: End) -> Result<Change, Plain> {
        let position = plain.position;
        let has_place = match end {
            End::Back => self.order.back().is_none_or(|(last, _)| *last < position),
            End::Front => self
                .order
                .front()
                .is_none_or(|(first, _)| *first > position),
        };
        if !has_place {
            return Err(plain);
        }
        let key = self.place_of(key);
        let had_turn = self.turn(key);
        let state = &mut self.keys[key as usize];
        let (before, after) = match end {
            End::Back => (state.last, NONE),
            End::Front => (NONE, state.first),
        };
        let linked = Linked {
            plain,
            key,
            before,
            after,
        };
        let at = self.items.insert(linked) as u32;
        self.link(key, before, at);
        self.link_back(key, at, after);
        match end {
            End::Back => self.order.push_back((position, at)),
            End::Front => self.order.push_front((position, at)),
        }
        Ok(self.turned(key, had_turn))
    }

    /// What comes behind this item, or first if there is none.
    fn link(&mut self, key: u32, before: u32, after: u32) {
        match self.items.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.keys[key as usize].first = after,
        }
    }

    /// What comes before this item, or last if there is none.
    fn link_back(&mut self, key: u32, before: u32, after: u32) {
        match self.items.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => self.keys[key as usize].last = before,
        }
    }

    /// The place of a key that is used now.
    fn place_of(&mut self, key: OrderKey) -> u32 {
        *self.places.entry(key).or_insert_with(|| {
            let state = KeyState {
                key,
                is_held: false,
                first: NONE,
                last: NONE,
                aside: BTreeSet::new(),
            };
            self.keys.insert(state) as u32
        })
    }

    fn turn(&self, key: u32) -> Option<Turn> {
        let state = &self.keys[key as usize];
        if state.is_held {
            return None;
        }
        let aside = state.aside.first().copied();
        let Some(first) = self.items.get(state.first as usize) else {
            return aside.map(Turn::Aside);
        };
        match aside.filter(|aside| *aside < first.plain.position) {
            Some(aside) => Some(Turn::Aside(aside)),
            None => Some(Turn::Plain(state.first)),
        }
    }

    /// Something has changed about a key: whose turn it is may have, too.
    fn turned(&mut self, key: u32, before: Option<Turn>) -> Change {
        let after = self.turn(key);
        if self.keys[key as usize].is_unused() {
            let state = self.keys.remove(key as usize);
            self.places.remove(&state.key);
            if self.keys.is_empty() && self.keys.capacity() > PLACES_KEPT {
                self.keys = Slab::with_capacity(PLACES_KEPT);
                self.places.shrink_to(PLACES_KEPT);
            }
        }
        if before == after {
            return (None, None);
        }
        let is_plain = |turn: Option<Turn>| matches!(turn, Some(Turn::Plain(_)));
        self.free_count -= usize::from(is_plain(before));
        self.free_count += usize::from(is_plain(after));
        if let Some(Turn::Plain(at)) = after {
            let position = self.items[at as usize].plain.position;
            self.free.push(Reverse((position, at)));
        }
        self.tidy_free();
        (before.and_then(Turn::aside), after.and_then(Turn::aside))
    }

    fn is_free(&self, (position, at): (Position, u32)) -> bool {
        let linked = self.items.get(at as usize);
        linked.is_some_and(|linked| {
            linked.plain.position == position && self.turn(linked.key) == Some(Turn::Plain(at))
        })
    }

    fn tidy_free(&mut self) {
        while let Some(Reverse(top)) = self.free.peek()
            && !self.is_free(*top)
        {
            self.free.pop();
        }
        if self.free.len() > 2 * self.keys.len() + STALE_MAX {
            let mut all: Vec<_> = std::mem::take(&mut self.free).into_vec();
            all.retain(|Reverse(entry)| self.is_free(*entry));
            all.sort_unstable();
            all.dedup();
            self.free = all.into();
        }
    }

    /// Changes a key; what that means for items that lie aside.
    fn change(&mut self, key: OrderKey, change: impl FnOnce(&mut KeyState)) -> Change {
        let key = self.place_of(key);
        let before = self.turn(key);
        change(&mut self.keys[key as usize]);
        self.turned(key, before)
    }

    /// A worker holds an item with this key, or no longer.
    pub(super) fn set_held(&mut self, key: OrderKey, is_held: bool) -> Change {
        self.change(key, |state| state.is_held = is_held)
    }

    /// An item that lies aside takes turns with the others.
    pub(super) fn put_aside(&mut self, key: OrderKey, position: Position) -> Change {
        self.change(key, |state| _ = state.aside.insert(position))
    }

    /// It does no longer; a worker may hold it from now on.
    pub(super) fn take_aside(
        &mut self,
        key: OrderKey,
        position: Position,
        to_hold: bool,
    ) -> Change {
        self.change(key, |state| {
            state.aside.remove(&position);
            state.is_held |= to_hold;
        })
    }

    /// Whether it is the turn of an item that lies aside.
    pub(super) fn is_turn_of(&self, key: OrderKey, aside: Position) -> bool {
        let place = self.places.get(&key);
        place.is_some_and(|key| self.turn(*key) == Some(Turn::Aside(aside)))
    }

    /// The first plain item whose turn it is.
    pub(super) fn first_free(&self) -> Option<Position> {
        self.free.peek().map(|Reverse((position, _))| *position)
    }

    /// The plain item that came first, whether it may go or not.
    pub(super) fn oldest(&self) -> Option<Position> {
        self.order.front().map(|(position, _)| *position)
    }

    /// The one that came last.
    pub(super) fn newest(&self) -> Option<Position> {
        self.order.back().map(|(position, _)| *position)
    }

    /// Takes the plain item at this position, which a worker may hold from now on; and what that means
    /// for items that lie aside.
    pub(super) fn take(&mut self, position: Position, to_hold: bool) -> Option<(Item, Change)> {
        let at = match self.free.peek() {
            Some(Reverse((first, at))) if *first == position => *at,
            _ => {
                let by_position = |(at, _): &(Position, u32)| *at;
                let found = self.order.binary_search_by_key(&position, by_position);
                self.order[found.ok()?].1
            }
        };
        let linked = self.items.get(at as usize);
        let key = linked
            .filter(|linked| linked.plain.position == position)?
            .key;
        let had_turn = self.turn(key);
        let Linked {
            plain,
            before,
            after,
            ..
        } = self.items.remove(at as usize);
        self.link(key, before, after);
        self.link_back(key, before, after);
        let state = &mut self.keys[key as usize];
        state.is_held |= to_hold;
        let item = plain.with_key(Some(state.key));
        self.tidy_order();
        let change = self.turned(key, had_turn);
        Some((item, change))
    }

    fn tidy_order(&mut self) {
        let items = &self.items;
        let is_there = |(position, at): &(Position, u32)| {
            let linked = items.get(*at as usize);
            linked.is_some_and(|linked| linked.plain.position == *position)
        };
        while self.order.front().is_some_and(|entry| !is_there(entry)) {
            self.order.pop_front();
        }
        while self.order.back().is_some_and(|entry| !is_there(entry)) {
            self.order.pop_back();
        }
        if self.order.len() > 2 * items.len() + STALE_MAX {
            self.order.retain(is_there);
        }
        // A burst should not hold its memory for ever.
        if items.is_empty() && items.capacity() > PLACES_KEPT {
            self.items = Slab::with_capacity(PLACES_KEPT);
            self.order.shrink_to(PLACES_KEPT);
            self.free.shrink_to(PLACES_KEPT);
        }
    }

    /// How many plain items wait.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// For how many of them it is their turn.
    pub(super) fn free(&self) -> usize {
        self.free_count
    }

    #[cfg(test)]
    pub(super) fn key_count(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn plain(position: Position) -> Plain {
        let mut item = Item::new(Bytes::new());
        item.position = position;
        Plain::try_from(item).unwrap().0
    }

    fn key(n: u64) -> OrderKey {
        OrderKey::from_hash(n + 1)
    }

    #[test]
    fn an_item_costs_no_more_than_it_is_counted_for() {
        let place = size_of::<Linked>() + 8 + size_of::<(Position, u32)>();
        let own_key = size_of::<KeyState>() + 8 + size_of::<(OrderKey, u32)>();
        let turn = size_of::<(Position, u32)>();
        assert!(place + own_key + turn <= Item::INDEXED_OVERHEAD_BYTES);
        assert!(place <= 128, "{place}");
    }

    #[test]
    fn what_means_nothing_any_more_is_forgotten() {
        let mut keys = Keys::default();
        keys.set_held(key(0), true);
        keys.add(plain(0), key(0), End::Back).unwrap();
        for n in 1..10_000 {
            keys.add(plain(n), key(1), End::Back).unwrap();
            if n % 2 == 0 {
                keys.put_aside(key(1), -1);
                keys.take_aside(key(1), -1, n % 4 == 0);
                keys.set_held(key(1), false);
                keys.take(n - 1, false).unwrap();
                keys.take(n, false).unwrap();
            }
            assert!(keys.order.len() <= 2 * keys.len() + STALE_MAX + 1);
            assert!(keys.free.len() <= 2 * keys.key_count() + STALE_MAX + 1);
        }
        assert_eq!((keys.free(), keys.first_free()), (1, Some(9999)));
    }

    /// What waits with one key, as a list.
    #[derive(Debug, Default)]
    struct Naive {
        is_held: bool,
        /// Whether each is plain.
        waiting: BTreeMap<Position, bool>,
    }

    impl Naive {
        fn turn(&self) -> Option<(Position, bool)> {
            let first = self.waiting.first_key_value();
            first
                .map(|(at, plain)| (*at, *plain))
                .filter(|_| !self.is_held)
        }
    }

    proptest! {
        #[test]
        fn turns_are_those_of_lists(
            steps in prop::collection::vec((0..7_u8, 0..4_u64, any::<prop::sample::Index>()), 0..300),
        ) {
            let mut keys = Keys::default();
            let mut naive: [Naive; 4] = Default::default();
            let (mut back, mut front) = (0, 0);
            for (what, n, which) in steps {
                let all = naive.iter().flat_map(|of| of.waiting.iter().map(|(at, plain)| (*at, *plain)));
                let all: Vec<_> = all.collect();
                let before = naive.each_ref().map(Naive::turn);
                let own = &mut naive[n as usize];
                let change = match what {
                    0 => {
                        back += 2;
                        own.waiting.insert(back, true);
                        Some(keys.add(plain(back), key(n), End::Back).unwrap())
                    }
                    1 => {
                        front -= 2;
                        own.waiting.insert(front, true);
                        Some(keys.add(plain(front), key(n), End::Front).unwrap())
                    }
                    2 => {
                        // Between the plain ones, which have even positions.
                        let at = front + 1 + 2 * which.index(((back - front) / 2 + 1) as usize) as Position;
                        let is_new = all.iter().all(|(other, _)| *other != at);
                        is_new.then(|| {
                            own.waiting.insert(at, false);
                            keys.put_aside(key(n), at)
                        })
                    }
                    3 | 4 => {
                        own.is_held = what == 3;
                        Some(keys.set_held(key(n), what == 3))
                    }
                    _ if all.is_empty() => None,
                    _ => {
                        let (at, is_plain) = all[which.index(all.len())];
                        let of = naive.iter().position(|of| of.waiting.contains_key(&at)).unwrap();
                        naive[of].waiting.remove(&at);
                        let to_hold = what == 5;
                        naive[of].is_held |= to_hold;
                        Some(match is_plain {
                            true => {
                                let (item, change) = keys.take(at, to_hold).unwrap();
                                prop_assert_eq!((item.position, item.key), (at, Some(key(of as u64))));
                                change
                            }
                            false => keys.take_aside(key(of as u64), at, to_hold),
                        })
                    }
                };
                let aside = |turn: &Option<(Position, bool)>| turn.filter(|(_, plain)| !plain).map(|(at, _)| at);
                let after = naive.each_ref().map(Naive::turn);
                if let Some(change) = change {
                    let changed = (0..4).find(|n| before[*n] != after[*n]);
                    let expected = changed.map(|n| (aside(&before[n]), aside(&after[n])));
                    prop_assert_eq!(change, expected.unwrap_or_default());
                }
                let plain = |turn: &Option<(Position, bool)>| turn.filter(|(_, plain)| *plain).map(|(at, _)| at);
                prop_assert_eq!(keys.first_free(), after.iter().filter_map(plain).min());
                prop_assert_eq!(keys.free(), after.iter().filter_map(plain).count());
                let all = naive.iter().flat_map(|of| of.waiting.iter().filter(|(_, plain)| **plain));
                let all: Vec<_> = all.map(|(at, _)| *at).collect();
                prop_assert_eq!(keys.len(), all.len());
                prop_assert_eq!(keys.oldest(), all.iter().min().copied());
                prop_assert_eq!(keys.newest(), all.iter().max().copied());
                let used = naive.iter().filter(|of| of.is_held || !of.waiting.is_empty());
                prop_assert_eq!(keys.key_count(), used.count());
                prop_assert!(keys.take(back + 2, false).is_none());
            }
        }
    }
}
