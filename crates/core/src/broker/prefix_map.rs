//! A map whose keys are asked for by a text that they begin.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Finds every key that is a prefix of a text.
///
/// A sorted map is enough: of the keys that are not above the text, the greatest either is a prefix
/// of it, or shares only so many bytes with it that every prefix still to be found is no longer than
/// that. Each step shortens the bound, so a look-up takes no recursion and at most as many steps as
/// the text has bytes; a trie of the same keys would cost a node per byte that a peer chose.
#[derive(Debug)]
pub(super) struct PrefixMap<V> {
    by_prefix: BTreeMap<Box<[u8]>, V>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self {
            by_prefix: BTreeMap::new(),
        }
    }
}

impl<V> PrefixMap<V> {
    pub(super) fn len(&self) -> usize {
        self.by_prefix.len()
    }

    pub(super) fn contains(&self, prefix: &[u8]) -> bool {
        self.by_prefix.contains_key(prefix)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.by_prefix.keys().map(|key| &**key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.by_prefix.iter().map(|(key, value)| (&**key, value))
    }

    pub(super) fn get(&self, prefix: &[u8]) -> Option<&V> {
        self.by_prefix.get(prefix)
    }

    pub(super) fn get_mut(&mut self, prefix: &[u8]) -> Option<&mut V> {
        self.by_prefix.get_mut(prefix)
    }

    pub(super) fn entry(&mut self, prefix: &[u8]) -> &mut V
    where
        V: Default,
    {
        self.by_prefix.entry(prefix.into()).or_default()
    }

    pub(super) fn remove(&mut self, prefix: &[u8]) {
        self.by_prefix.remove(prefix);
    }

    /// Calls `found` for the value of each key that `text` begins with, longest first.
    pub(super) fn for_each_prefix_of(&self, text: &[u8], mut found: impl FnMut(&V)) {
        let mut bound = text;
        loop {
            let at_most = (Bound::Unbounded, Bound::Included(bound));
            let Some((key, value)) = self.by_prefix.range::<[u8], _>(at_most).next_back() else {
                return;
            };
            let common = key.iter().zip(bound).take_while(|(a, b)| a == b).count();
            if common < key.len() {
                bound = &bound[..common];
                continue;
            }
            found(value);
            let Some(shorter) = common.checked_sub(1) else {
                return;
            };
            bound = &bound[..shorter];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_scan_over_all_keys_finds(
            keys in proptest::collection::btree_set("[ab]{0,6}", 0..20),
            text in "[abc]{0,8}",
        ) {
            let mut map = PrefixMap::default();
            for key in &keys {
                *map.entry(key.as_bytes()) = key.clone();
            }
            let mut found = vec![];
            map.for_each_prefix_of(text.as_bytes(), |key: &String| found.push(key.clone()));
            let mut expected: Vec<_> = keys.into_iter().filter(|key| text.starts_with(key)).collect();
            expected.sort_by_key(|key| std::cmp::Reverse(key.len()));
            prop_assert_eq!(found, expected);
        }
    }
}
