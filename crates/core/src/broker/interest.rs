//! What a hub of a mesh asks of the others: the prefixes that somebody here wants, joined.

use super::prefix_map::PrefixMap;

/// The most prefixes that are asked for, beside those of [`Interest::new`]: others have a bound of what
/// one peer may subscribe to.
const PREFIXES_MAX: usize = 1024;
/// Longer ones are asked for by their beginning.
const PREFIX_BYTES_MAX: usize = 128;

/// Prefixes to be subscribed to, and then those to be given up: who has the longer one before and the
/// shorter one after misses nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub subscribe: Vec<Box<[u8]>>,
    pub cancel: Vec<Box<[u8]>>,
}

/// What is asked of all other hubs.
#[derive(Debug)]
pub struct Interest {
    /// Nothing else is asked for. None of them begins another.
    allowed: Vec<Box<[u8]>>,
    asked: PrefixMap<()>,
}

impl Interest {
    /// Only subjects with one of these prefixes are wanted, whoever asks.
    pub fn new<'a>(allowed: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut allowed: Vec<_> = allowed.into_iter().collect();
        allowed.sort_unstable();
        let allowed = joined(&allowed, usize::MAX);
        Self {
            allowed: allowed.into_iter().map(Into::into).collect(),
            asked: PrefixMap::default(),
        }
    }

    /// What is asked for now.
    pub fn asked(&self) -> impl Iterator<Item = &[u8]> {
        self.asked.keys()
    }

    /// How many prefixes that are.
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// Whether nobody here wants anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Somebody here wants subjects with this prefix, too: what is to be subscribed to for that. `None`
    /// if there is no room for it: then all has to be joined anew.
    pub fn add(&mut self, prefix: &[u8]) -> Option<Vec<Box<[u8]>>> {
        let mut new = vec![];
        for prefix in self.within(cut(prefix, PREFIX_BYTES_MAX)) {
            let mut is_asked = false;
            self.asked.for_each_prefix_of(&prefix, |()| is_asked = true);
            if is_asked {
                continue;
            }
            if self.asked.len() >= PREFIXES_MAX + self.allowed.len() {
                return None;
            }
            self.asked.entry(&prefix);
            new.push(prefix);
        }
        Some(new)
    }

    /// This is all that is wanted here: what changes by that.
    pub fn renew(&mut self, mut wanted: Vec<&[u8]>) -> Wishes {
        wanted.sort_unstable();
        let mut length = PREFIX_BYTES_MAX;
        let mut few = joined(&wanted, length);
        // With room for those that come later.
        while few.len() > PREFIXES_MAX
            || (length < PREFIX_BYTES_MAX && few.len() > PREFIXES_MAX / 2)
        {
            length /= 2;
            few = joined(&few, length);
        }
        let mut new = PrefixMap::<()>::default();
        for prefix in few {
            for prefix in self.within(prefix) {
                new.entry(&prefix);
            }
        }
        let missing = |from: &PrefixMap<()>, of: &PrefixMap<()>| {
            let keys = of.keys().filter(|key| !from.contains(key));
            keys.map(Into::into).collect()
        };
        let wishes = Wishes {
            subscribe: missing(&self.asked, &new),
            cancel: missing(&new, &self.asked),
        };
        self.asked = new;
        wishes
    }

    /// The prefixes of all subjects that begin with this and are allowed.
    fn within(&self, prefix: &[u8]) -> Vec<Box<[u8]>> {
        let both = self.allowed.iter().filter_map(|allowed| {
            if prefix.starts_with(allowed) {
                Some(prefix.into())
            } else {
                allowed.starts_with(prefix).then(|| allowed.clone())
            }
        });
        both.collect()
    }
}

fn cut(prefix: &[u8], bytes_max: usize) -> &[u8] {
    &prefix[..prefix.len().min(bytes_max)]
}

/// Sorted prefixes, cut to a length, without those that another begins.
fn joined<'a>(sorted: &[&'a [u8]], bytes_max: usize) -> Vec<&'a [u8]> {
    let mut few: Vec<&[u8]> = vec![];
    for prefix in sorted {
        if !few.last().is_some_and(|last| prefix.starts_with(last)) {
            few.push(cut(prefix, bytes_max));
        }
    }
    few
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn asked(interest: &Interest) -> BTreeSet<Vec<u8>> {
        interest.asked().map(<[u8]>::to_vec).collect()
    }

    proptest! {
        /// Whatever is wanted and allowed is asked for, and nothing else; what the other side is told
        /// comes to the same.
        #[test]
        fn what_is_wanted_is_asked_for(
            allowed in proptest::collection::vec("[ab]{0,2}", 1..4),
            steps in proptest::collection::vec((any::<bool>(), "[ab]{0,4}", any::<bool>()), 0..30),
            subject in "[ab]{0,6}",
        ) {
            let mut interest = Interest::new(allowed.iter().map(String::as_bytes));
            let (mut wanted, mut told) = (BTreeSet::new(), BTreeSet::new());
            for (joins, prefix, renews) in steps {
                match joins {
                    true => {
                        told.extend(interest.add(prefix.as_bytes()).unwrap().iter().map(|new| new.to_vec()));
                        wanted.insert(prefix);
                    }
                    false => drop(wanted.remove(&prefix)),
                }
                if renews || !joins {
                    let wishes = interest.renew(wanted.iter().map(String::as_bytes).collect());
                    for new in &wishes.subscribe {
                        prop_assert!(told.insert(new.to_vec()));
                    }
                    for old in &wishes.cancel {
                        prop_assert!(told.remove(&old.to_vec()));
                    }
                }
                prop_assert_eq!(&told, &asked(&interest));
                let begins = |prefix: &String| subject.starts_with(prefix.as_str());
                let expected = allowed.iter().any(begins) && wanted.iter().any(begins);
                let is_asked = told.iter().any(|prefix| subject.as_bytes().starts_with(prefix));
                prop_assert_eq!(is_asked, expected, "{} {:?} {:?} {:?}", subject, allowed, wanted, told);
            }
        }
    }

    #[test]
    fn of_too_many_the_shorter_common_ones_are_asked_for() {
        let mut interest = Interest::new([&b""[..]]);
        let many: Vec<_> = (0..10_000).map(|n| format!("orders.{n}")).collect();
        for (came, prefix) in many.iter().enumerate() {
            let room = interest.add(prefix.as_bytes());
            if room.is_none() {
                interest.renew(many[..=came].iter().map(String::as_bytes).collect());
            }
            let subject = format!("{prefix}.new");
            let is_asked = |prefix: &[u8]| subject.as_bytes().starts_with(prefix);
            assert!(interest.asked().any(is_asked));
            assert!(interest.len() <= PREFIXES_MAX + 1, "{}", interest.len());
        }
        interest.renew(many.iter().map(String::as_bytes).collect());
        let digits = (0..10).map(|n| format!("orders.{n}").into_bytes());
        assert_eq!(asked(&interest), digits.collect());
        // And they are one by one again when they are few.
        interest.renew(many[..2].iter().map(String::as_bytes).collect());
        assert_eq!(interest.len(), 2);
        let long = vec![b'x'; 10_000];
        interest.renew(vec![&long]);
        assert_eq!(asked(&interest), [vec![b'x'; PREFIX_BYTES_MAX]].into());
    }

    #[test]
    fn nothing_in_common_is_everything_that_is_allowed() {
        let few = ["a.", "b."];
        let mut interest = Interest::new(few.map(str::as_bytes));
        let many = (0..=255u8).flat_map(|n| (0..8).map(move |other| [n, other]));
        let many: Vec<_> = many.collect();
        interest.renew(many.iter().map(|prefix| &prefix[..]).collect());
        assert!(interest.len() <= 2 * few.len());
        let wishes = interest.renew(vec![]);
        assert!(wishes.subscribe.is_empty() && interest.is_empty());
    }
}
