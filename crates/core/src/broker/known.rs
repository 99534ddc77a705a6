//! Subjects that were looked up, and what was found.

use std::rc::Rc;

use super::route::{Route, Via};
use super::subjects::SubjectIndex;

/// What all of them take. Peers choose subjects, so the bound is on bytes.
const BYTES_MAX: usize = 16 << 20;
/// Longer ones are looked up each time.
const SUBJECT_BYTES_MAX: usize = 256;
/// Where a subject may be: one of so many places, which fill a line of the processor's cache.
const WAYS: usize = 8;
/// So many of them are taken before there are more sets: then hardly ever all of one are.
const TAKEN_MAX: usize = 3;
/// When there is no room, so many are looked at before one goes that was asked for meanwhile.
const SPARED_MAX: usize = 16;

/// What was found for a subject.
#[derive(Debug)]
pub(super) struct Known {
    hash: u64,
    subject: Vec<u8>,
    /// Who gets its events, by the way that they came.
    routes: [Option<Rc<Route>>; 3],
    /// The routes are those of this revision of the patterns.
    revision: u64,
    /// Where it is counted.
    pub(super) counted: SubjectIndex,
    /// Whether it was asked for since it was last looked at for its room.
    is_used: bool,
}

impl Known {
    fn bytes(&self) -> usize {
        bytes_of(self.subject.capacity())
    }

    /// Its route, if the patterns are the same since.
    pub(super) fn route(&self, via: Via, revision: u64) -> Option<&Rc<Route>> {
        let route = self.routes[via as usize].as_ref();
        route.filter(|_| self.revision == revision)
    }

    pub(super) fn set_route(&mut self, via: Via, route: Rc<Route>, revision: u64) {
        if self.revision != revision {
            self.routes = Default::default();
            self.revision = revision;
        }
        self.routes[via as usize] = Some(route);
    }
}

/// What one of them takes, with its share of the places.
fn bytes_of(subject: usize) -> usize {
    size_of::<Known>() + 4 * size_of::<Place>() + subject
}

/// Where to find one of [`KnownSubjects::known`].
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Of its hash, so that others are told from it without a look at them.
    tag: u32,
    at: u32,
}

const FREE: Place = Place {
    tag: 0,
    at: u32::MAX,
};

/// Remembers as many subjects as there is room for; of those that are not asked for any more, one goes
/// for each that comes.
///
/// Peers choose subjects, and so the hash has a key. It need not be stronger than it is fast: who finds
/// subjects of one hash fills the eight places that these have, and displaces nothing else.
#[derive(Debug)]
pub(super) struct KnownSubjects {
    /// The second is odd.
    key: [u64; 2],
    /// Their number is a power of two.
    sets: Vec<[Place; WAYS]>,
    known: Vec<Known>,
    bytes: usize,
    /// Which is the next to be looked at for its room.
    hand: usize,
}

impl Default for KnownSubjects {
    fn default() -> Self {
        Self::new([0; 2])
    }
}

impl KnownSubjects {
    pub(super) fn new([key, factor]: [u64; 2]) -> Self {
        Self {
            key: [key, factor | 1],
            sets: vec![[FREE; WAYS]; 8],
            known: Vec::new(),
            bytes: 0,
            hand: 0,
        }
    }

    #[inline]
    pub(super) fn hash(&self, subject: &[u8]) -> u64 {
        let [key, factor] = self.key;
        let factor = u128::from(factor ^ 0x9e37_79b9_7f4a_7c14);
        let mix = |hash: u64| {
            let wide = u128::from(hash) * factor;
            wide as u64 ^ (wide >> 64) as u64
        };
        let mut hash = key ^ subject.len() as u64;
        let (words, rest) = subject.as_chunks();
        for word in words {
            hash = mix(hash ^ u64::from_le_bytes(*word));
        }
        // The last eight bytes, of which some were in the words.
        let last = match subject.last_chunk() {
            Some(last) => u64::from_le_bytes(*last),
            None => rest
                .iter()
                .fold(0, |last, byte| last << 8 | u64::from(*byte)),
        };
        mix(mix(hash ^ last))
    }

    #[inline]
    fn set_of(&self, hash: u64) -> usize {
        hash as usize & (self.sets.len() - 1)
    }

    /// What was found for a subject with this [hash](Self::hash).
    #[inline]
    pub(super) fn get(&mut self, hash: u64, subject: &[u8]) -> Option<&mut Known> {
        let tag = tag_of(hash);
        let set = &self.sets[self.set_of(hash)];
        let mut places = set.iter().filter(|place| place.tag == tag);
        let found = places.find(|place| {
            let known = self.known.get(place.at as usize);
            known.is_some_and(|known| known.subject == subject)
        });
        let known = self.known.get_mut(found?.at as usize)?;
        known.is_used = true;
        Some(known)
    }

    /// Remembers a subject that it doesn't [have](Self::get), unless that is too long.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        subject: &[u8],
        counted: SubjectIndex,
    ) -> Option<&mut Known> {
        if subject.len() > SUBJECT_BYTES_MAX {
            return None;
        }
        // Who has no room any more leaves their memory.
        let mut memory = Vec::new();
        while let Some(place) = self.who_goes(hash, subject.len()) {
            memory = self.remove(place);
        }
        memory.clear();
        memory.extend_from_slice(subject);
        let known = Known {
            hash,
            subject: memory,
            routes: Default::default(),
            revision: 0,
            counted,
            is_used: false,
        };
        self.bytes += known.bytes();
        self.known.push(known);
        if self.known.len() > self.sets.len() * TAKEN_MAX {
            self.widen();
        } else {
            self.note_place(self.known.len() - 1);
        }
        self.known.last_mut()
    }

    /// Which has to go before there is room for one more.
    fn who_goes(&mut self, hash: u64, subject: usize) -> Option<usize> {
        let set = self.sets[self.set_of(hash)];
        if set.iter().all(|place| place.at != FREE.at) {
            let is_unused = |place: &&Place| !self.known[place.at as usize].is_used;
            let unused = set.iter().find(is_unused).unwrap_or(&set[0]);
            return Some(unused.at as usize);
        }
        if self.known.is_empty() || self.bytes + bytes_of(subject) <= BYTES_MAX {
            return None;
        }
        for _ in 0..SPARED_MAX {
            self.hand = if self.hand < self.known.len() {
                self.hand
            } else {
                0
            };
            if !std::mem::take(&mut self.known[self.hand].is_used) {
                break;
            }
            self.hand += 1;
        }
        Some(self.hand.min(self.known.len() - 1))
    }

    /// Forgets one; its subject's memory.
    fn remove(&mut self, at: usize) -> Vec<u8> {
        let last = self.known.len() - 1;
        *self.place_of(at) = FREE;
        if at != last {
            self.place_of(last).at = at as u32;
        }
        let gone = self.known.swap_remove(at);
        self.bytes -= gone.bytes();
        gone.subject
    }

    fn place_of(&mut self, at: usize) -> &mut Place {
        let set = self.set_of(self.known[at].hash);
        let set = &mut self.sets[set];
        let found = set.iter().position(|place| place.at == at as u32);
        // Each has one: see `insert` and `widen`.
        &mut set[found.unwrap_or(0)]
    }

    /// Forgets an eighth of them, so that their routes are free.
    pub(super) fn forget_some(&mut self) -> bool {
        let left = self.known.len() - self.known.len().div_ceil(8);
        while self.known.len() > left {
            self.remove(self.known.len() - 1);
        }
        left > 0
    }

    fn note_place(&mut self, at: usize) {
        let hash = self.known[at].hash;
        let set = self.set_of(hash);
        let mut places = self.sets[set].iter_mut();
        if let Some(free) = places.find(|place| place.at == FREE.at) {
            *free = Place {
                tag: tag_of(hash),
                at: at as u32,
            };
        }
    }

    /// Makes twice as many sets. What was in one of them is in two now, so all have a place.
    fn widen(&mut self) {
        self.sets = vec![[FREE; WAYS]; 2 * self.sets.len()];
        (0..self.known.len()).for_each(|at| self.note_place(at));
    }
}

/// The part of a hash that its set does not tell.
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    /// Routes that can be told apart.
    fn route(n: u32) -> Rc<Route> {
        Rc::new(Route {
            services: [super::super::ids::ServiceKey(n)].into(),
            ..Route::default()
        })
    }

    fn is_whole(all: &KnownSubjects) {
        let places = all
            .sets
            .iter()
            .flatten()
            .filter(|place| place.at != FREE.at);
        assert_eq!(places.count(), all.known.len(), "each has one place");
        for (at, known) in all.known.iter().enumerate() {
            let set = all.sets[all.set_of(known.hash)];
            assert!(set.iter().any(|place| place.at == at as u32));
        }
        let bytes: usize = all.known.iter().map(Known::bytes).sum();
        assert_eq!(all.bytes, bytes);
        assert!(bytes <= BYTES_MAX + 2 * SUBJECT_BYTES_MAX);
    }

    fn remember(all: &mut KnownSubjects, subject: &[u8], n: u32) {
        let hash = all.hash(subject);
        let known = all.insert(hash, subject, SubjectIndex::OTHERS).unwrap();
        known.set_route(Via::Client, route(n), 1);
    }

    fn found(all: &mut KnownSubjects, subject: &[u8]) -> Option<u32> {
        let hash = all.hash(subject);
        let route = all.get(hash, subject)?.route(Via::Client, 1)?;
        Some(route.services[0].0)
    }

    proptest! {
        /// What is found is what was remembered; only what had to go is not found.
        #[test]
        fn it_agrees_with_a_map(subjects in prop::collection::vec("[ab.]{0,20}", 1..300)) {
            let mut all = KnownSubjects::new(KEY);
            let mut naive = HashMap::new();
            for (n, subject) in subjects.iter().enumerate() {
                let before = found(&mut all, subject.as_bytes());
                prop_assert!(before.is_none() || before == naive.get(subject).copied());
                if before.is_none() {
                    remember(&mut all, subject.as_bytes(), n as u32);
                    naive.insert(subject.clone(), n as u32);
                }
                prop_assert_eq!(found(&mut all, subject.as_bytes()), naive.get(subject).copied());
            }
            is_whole(&all);
            let left = subjects.iter().filter(|subject| found(&mut all, subject.as_bytes()).is_some());
            prop_assert!(left.count() * 10 >= subjects.len() * 9, "few had to go");
        }
    }

    #[test]
    fn a_hundred_thousand_subjects_are_remembered() {
        let mut all = KnownSubjects::new(KEY);
        let subject = |n: u32| format!("order.created.{n:06}").into_bytes();
        (0..100_000).for_each(|n| remember(&mut all, &subject(n), n));
        is_whole(&all);
        let left = (0..100_000).filter(|n| found(&mut all, &subject(*n)) == Some(*n));
        assert!(left.count() > 99_000);
    }

    #[test]
    fn their_bytes_are_bounded_and_what_is_asked_for_stays() {
        let mut all = KnownSubjects::new(KEY);
        remember(&mut all, b"often", 7);
        for n in 0..150_000u32 {
            let mut long = n.to_le_bytes().to_vec();
            long.resize(SUBJECT_BYTES_MAX, b'x');
            remember(&mut all, &long, n);
            if n % 1000 == 0 {
                assert_eq!(found(&mut all, b"often"), Some(7), "after {n}");
            }
        }
        is_whole(&all);
        assert!(all.bytes > BYTES_MAX - 1024);
        assert!(all.insert(0, &[b'x'; 300], SubjectIndex::OTHERS).is_none());
    }

    #[test]
    fn who_finds_subjects_of_one_hash_fills_eight_places() {
        let mut all = KnownSubjects::new(KEY);
        for n in 0..1000u32 {
            all.insert(5, &n.to_le_bytes(), SubjectIndex::OTHERS)
                .unwrap();
        }
        assert_eq!(all.known.len(), WAYS);
        is_whole(&all);
    }

    #[test]
    fn hashes_depend_on_all_of_a_subject_and_on_the_key() {
        let all = KnownSubjects::new(KEY);
        let subject = b"order.created.17";
        for at in 0..subject.len() {
            let mut other = *subject;
            other[at] ^= 1;
            assert_ne!(all.hash(&other), all.hash(subject), "{at}");
            assert_ne!(all.hash(&subject[..at]), all.hash(subject), "{at}");
        }
        assert_ne!(all.hash(b""), all.hash(b"\0"));
        let others = KnownSubjects::new([KEY[0] + 1, KEY[1]]);
        assert_ne!(others.hash(subject), all.hash(subject));
    }

    #[test]
    fn routes_are_those_of_one_revision() {
        let mut all = KnownSubjects::new(KEY);
        let hash = all.hash(b"a");
        let known = all.insert(hash, b"a", SubjectIndex::OTHERS).unwrap();
        known.set_route(Via::Client, route(1), 1);
        known.set_route(Via::Hub, route(2), 1);
        assert!(known.route(Via::Bridge, 1).is_none());
        assert_eq!(**known.route(Via::Hub, 1).unwrap(), *route(2));
        assert!(known.route(Via::Client, 2).is_none());
        known.set_route(Via::Hub, route(3), 2);
        assert!(known.route(Via::Client, 2).is_none(), "it is older");
    }
}
