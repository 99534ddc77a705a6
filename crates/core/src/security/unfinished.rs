//! Connections whose handshake isn't done: anybody may have some, so they are bounded apart from those
//! that are in use. One too many takes the place of the oldest of its kind: a handshake takes a few
//! round trips, so the oldest is hardly one that comes to anything. Those that speak our mechanism go
//! last: such a peer may have been told READY, takes itself for connected, and has sent what is lost then.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::handshakes::Origin;

/// How many connections may be in their handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedLimits {
    /// Of one origin.
    pub per_origin_max: usize,
    /// In all.
    pub in_all_max: usize,
}

impl UnfinishedLimits {
    /// Where so many connections may be open: an eighth for one origin, 64 to 1024, and half of them in
    /// all.
    pub fn of(connections_max: usize) -> Self {
        Self {
            per_origin_max: (connections_max / 8).clamp(64, 1024),
            in_all_max: (connections_max / 2).max(64),
        }
    }
}

/// Which bound was reached. The texts continue "peer … refused: no handshake so far, and".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// That of one origin.
    #[error("its address has {0} connections without one")]
    OfOrigin(usize),
    /// That for all.
    #[error("there are {0} connections without one")]
    InAll(usize),
    /// No more connections may be open.
    #[error("there are as many connections as may be (maxConnections)")]
    Connections,
}

/// A connection that is counted, until [`Unfinished::done`].
#[derive(Debug)]
#[must_use = "it is counted until it is done"]
pub struct Place {
    turn: Turn,
    origin: Origin,
}

/// Who goes first, the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    has_agreed: bool,
    serial: u64,
}

/// The connections in their handshake, each with what it takes to end it.
#[derive(Debug)]
pub struct Unfinished<T> {
    limits: UnfinishedLimits,
    /// Of the next one.
    serial: u64,
    by_origin: HashMap<Origin, BTreeMap<Turn, T>>,
    sizes: BTreeSet<(usize, Origin)>,
    len: usize,
}

impl<T> Unfinished<T> {
    /// None yet.
    pub fn with(limits: UnfinishedLimits) -> Self {
        Self {
            limits,
            serial: 0,
            by_origin: HashMap::new(),
            sizes: BTreeSet::new(),
            len: 0,
        }
    }

    /// Other limits from now on; those that are there stay.
    pub fn set_limits(&mut self, limits: UnfinishedLimits) {
        self.limits = limits;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A connection begins. With it comes one that has to end for it, if so. Processes of this machine
    /// have no bound of their own.
    pub fn begin(&mut self, origin: Origin, who: T) -> (Place, Option<(T, Crowded)>) {
        let (of_origin, in_all) = (self.limits.per_origin_max, self.limits.in_all_max);
        let lost = if origin != Origin::Local && self.size(origin) >= of_origin {
            let oldest = self.take_oldest(origin);
            oldest.map(|who| (who, Crowded::OfOrigin(of_origin)))
        } else if self.len >= in_all {
            self.take_one().map(|who| (who, Crowded::InAll(in_all)))
        } else {
            None
        };
        let turn = Turn {
            has_agreed: false,
            serial: self.serial,
        };
        self.serial += 1;
        self.change(origin, |theirs| theirs.insert(turn, who));
        (Place { turn, origin }, lost)
    }

    /// It speaks our mechanism: it goes after those of its origin of which that isn't known. It may have
    /// been taken before.
    pub fn agreed(&mut self, place: &mut Place) {
        let theirs = self.by_origin.get_mut(&place.origin);
        let before = std::mem::replace(&mut place.turn.has_agreed, true);
        let turn = Turn {
            has_agreed: before,
            ..place.turn
        };
        if let Some(theirs) = theirs
            && let Some(who) = theirs.remove(&turn)
        {
            theirs.insert(place.turn, who);
        }
    }

    /// Takes the oldest of the origin that has the most, to make room.
    pub fn take_one(&mut self) -> Option<T> {
        let (_, origin) = *self.sizes.last()?;
        self.take_oldest(origin)
    }

    /// Its handshake is done, or it has ended. It may have been taken before.
    pub fn done(&mut self, place: Place) {
        self.change(place.origin, |theirs| theirs.remove(&place.turn));
    }

    fn size(&self, origin: Origin) -> usize {
        self.by_origin.get(&origin).map_or(0, BTreeMap::len)
    }

    fn take_oldest(&mut self, origin: Origin) -> Option<T> {
        let oldest = self.change(origin, BTreeMap::pop_first);
        oldest.map(|(_, who)| who)
    }

    fn change<R>(&mut self, origin: Origin, change: impl FnOnce(&mut BTreeMap<Turn, T>) -> R) -> R {
        let theirs = self.by_origin.entry(origin).or_default();
        let before = theirs.len();
        let changed = change(theirs);
        let after = theirs.len();
        if after == 0 {
            self.by_origin.remove(&origin);
        }
        if before != after {
            self.sizes.remove(&(before, origin));
            if after > 0 {
                self.sizes.insert((after, origin));
            }
            self.len = self.len + after - before;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    const LIMITS: UnfinishedLimits = UnfinishedLimits {
        per_origin_max: 3,
        in_all_max: 5,
    };

    fn v4(last: u8) -> Origin {
        Origin::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn limits_follow_from_how_many_connections_there_may_be() {
        let of = |max| {
            let limits = UnfinishedLimits::of(max);
            (limits.per_origin_max, limits.in_all_max)
        };
        assert_eq!(of(10), (64, 64));
        assert_eq!(of(1000), (125, 500));
        assert_eq!(of(100_000), (1024, 50_000));
    }

    #[test]
    fn one_too_many_of_an_address_takes_the_place_of_its_oldest() {
        let mut unfinished = Unfinished::with(LIMITS);
        let (first, lost) = unfinished.begin(v4(1), 'a');
        assert_eq!(lost, None);
        let (_, lost) = unfinished.begin(v4(2), 'b');
        assert_eq!(lost, None);
        for who in ['c', 'd'] {
            assert_eq!(unfinished.begin(v4(1), who).1, None);
        }
        assert_eq!(
            unfinished.begin(v4(1), 'e').1,
            Some(('a', Crowded::OfOrigin(3)))
        );
        // It ends later than it was taken.
        unfinished.done(first);
        assert_eq!(unfinished.len(), 4);
        assert_eq!(unfinished.take_one(), Some('c'));
        // Those of this machine have no bound but that for all.
        let local: Vec<_> = (0..6)
            .map(|_| unfinished.begin(Origin::Local, 'l').1)
            .collect();
        assert_eq!(local[..2], [None, None]);
        assert!(local[2..].iter().all(|lost| lost.is_some()), "{local:?}");
        assert_eq!(unfinished.len(), 5);
    }

    proptest! {
        #[test]
        fn no_more_are_counted_than_may_be(
            acts in prop::collection::vec((0..4_u8, 0..6_u8), 0..200)
        ) {
            let mut unfinished = Unfinished::with(LIMITS);
            let mut places = vec![];
            // Those that are there, oldest first; and those that have agreed.
            let mut there: Vec<(Origin, usize)> = vec![];
            let mut agreed = BTreeSet::new();
            for (n, (act, origin)) in acts.into_iter().enumerate() {
                let of = |there: &[(Origin, usize)], origin| there.iter().filter(|one| one.0 == origin).count();
                if act < 2 {
                    let origin = v4(origin);
                    let (place, lost) = unfinished.begin(origin, n);
                    if let Some((lost, why)) = lost {
                        let at = there.iter().position(|one| one.1 == lost).unwrap();
                        let theirs = there[at].0;
                        let their_own = || there.iter().filter(|one| one.0 == theirs);
                        let first = their_own().find(|one| !agreed.contains(&one.1));
                        prop_assert_eq!(first.or_else(|| their_own().next()), Some(&there[at]));
                        match why {
                            Crowded::OfOrigin(_) => prop_assert_eq!(theirs, origin),
                            _ => {
                                let most = there.iter().map(|one| of(&there, one.0)).max();
                                prop_assert_eq!(Some(of(&there, theirs)), most);
                            }
                        }
                        there.remove(at);
                    }
                    there.push((origin, n));
                    places.push((place, n));
                } else if act == 2 && !places.is_empty() {
                    let at = usize::from(origin) % places.len();
                    let (place, n) = &mut places[at];
                    unfinished.agreed(place);
                    agreed.insert(*n);
                } else if !places.is_empty() {
                    let (place, n) = places.swap_remove(usize::from(origin) % places.len());
                    unfinished.done(place);
                    there.retain(|one| one.1 != n);
                }
                prop_assert_eq!(unfinished.len(), there.len());
                prop_assert!(there.len() <= LIMITS.in_all_max);
                let counted: usize = unfinished.sizes.iter().map(|size| size.0).sum();
                prop_assert_eq!(counted, there.len());
                prop_assert!(there.iter().all(|one| of(&there, one.0) <= LIMITS.per_origin_max));
            }
        }
    }
}
