//! Whose ids are forgotten when there are too many: those of who has most. So nobody has another's
//! forgotten by saying many.

use std::collections::{BTreeMap, BTreeSet};

use super::owner_of;

/// Ids that are remembered, by their owners and in their order.
#[derive(Debug)]
pub struct Shares<T> {
    /// As a rule there are few, so that none has to be hashed for each id.
    by_owner: BTreeMap<Box<[u8]>, BTreeSet<T>>,
    len: usize,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self {
            by_owner: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<T: Ord + Copy> Shares<T> {
    /// How many ids are kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// This id is remembered, at this place in the order.
    pub fn add(&mut self, id: &[u8], at: T) {
        let owner = owner_of(id);
        let is_new = match self.by_owner.get_mut(owner) {
            Some(theirs) => theirs.insert(at),
            None => {
                self.by_owner.insert(owner.into(), BTreeSet::from([at]));
                true
            }
        };
        self.len += usize::from(is_new);
    }

    /// It isn't remembered any more.
    pub fn remove(&mut self, id: &[u8], at: T) {
        let owner = owner_of(id);
        if let Some(theirs) = self.by_owner.get_mut(owner) {
            self.len -= usize::from(theirs.remove(&at));
            if theirs.is_empty() {
                self.by_owner.remove(owner);
            }
        }
    }

    /// The one to forget if there are more than `max`: the oldest of who has most. Who has no more than an
    /// equal share keeps it. `newest` is the one that was added last: its owner has most as a rule.
    pub fn one_too_many(&self, max: usize, newest: &[u8]) -> Option<T> {
        if self.len <= max {
            return None;
        }
        let share = max / self.by_owner.len().max(1);
        let has_more = |theirs: &&BTreeSet<T>| theirs.len() > share;
        let of_newest = self.by_owner.get(owner_of(newest)).filter(has_more);
        let crowded =
            of_newest.or_else(|| self.by_owner.values().max_by_key(|theirs| theirs.len()));
        crowded?.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{Emitter, EventId};
    use super::*;

    fn id_of(emitter: u8) -> Bytes {
        let name = emitter.to_string();
        let emitter = match emitter {
            0 => Emitter::Anybody,
            1 => Emitter::Nameless,
            _ => Emitter::Client(&name),
        };
        EventId::of(emitter, "a".into()).into_bytes()
    }

    proptest! {
        #[test]
        fn nobody_loses_what_is_within_an_equal_share(
            (max, said) in (1usize..20, vec(0u8..6, 0..200)),
        ) {
            let mut shares = Shares::default();
            let mut kept: Vec<(u8, usize)> = vec![];
            for (at, emitter) in said.into_iter().enumerate() {
                let id = id_of(emitter);
                shares.add(&id, at);
                kept.push((emitter, at));
                while let Some(one) = shares.one_too_many(max, &id) {
                    let position = kept.iter().position(|(_, at)| *at == one).unwrap();
                    let (loser, _) = kept[position];
                    let theirs = |(who, _): &&(u8, usize)| *who == loser;
                    prop_assert_eq!(kept.iter().find(theirs), Some(&(loser, one)), "the oldest");
                    let mut all: Vec<u8> = kept.iter().map(|(who, _)| *who).collect();
                    all.sort_unstable();
                    all.dedup();
                    prop_assert!(kept.iter().filter(theirs).count() > max / all.len());
                    shares.remove(&id_of(loser), one);
                    kept.remove(position);
                }
                prop_assert_eq!(shares.len(), kept.len());
                prop_assert!(shares.len() <= max);
            }
            for (emitter, at) in kept {
                shares.remove(&id_of(emitter), at);
            }
            prop_assert!(shares.is_empty() && shares.by_owner.is_empty());
        }
    }
}
