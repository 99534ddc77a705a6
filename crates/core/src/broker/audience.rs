//! Plain subscribers by prefix: those that are here, and those that a run before had and that may
//! come back.

use std::collections::{BTreeMap, BTreeSet};

/// So many prefixes are remembered over a restart at most; for others nobody waits.
const REMEMBERED_PREFIXES_MAX: usize = 4096;
/// No longer ones than this.
const REMEMBERED_PREFIX_BYTES_MAX: usize = 256;

/// One prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hearers {
    /// So many subscribers have it now.
    here: u32,
    /// So many had it when the run before ended.
    before: u32,
    /// What the state database was told.
    noted: u32,
}

impl Hearers {
    /// So many are to be waited for after the next start. Who may still come back counts.
    fn remembered(self) -> u32 {
        self.here.max(self.before)
    }

    fn missing(self) -> u32 {
        self.before.saturating_sub(self.here)
    }
}

/// How many subscribers have which prefix. Prefixes are texts with what isn't ASCII escaped.
#[derive(Debug, Default)]
pub struct Audience {
    by_prefix: BTreeMap<String, Hearers>,
    /// Prefixes of which the database is to be told.
    changed: BTreeSet<String>,
    /// The sum of all that are missing.
    missing: u64,
    before: u64,
}

impl Audience {
    /// The subscribers that a run before had.
    pub fn of_former_run(former: &BTreeMap<String, u32>) -> Self {
        let known = former.iter().take(REMEMBERED_PREFIXES_MAX);
        let by_prefix: BTreeMap<_, _> = known
            .filter(|(_, count)| **count > 0)
            .map(|(prefix, &count)| {
                let hearers = Hearers {
                    here: 0,
                    before: count,
                    noted: count,
                };
                (prefix.clone(), hearers)
            })
            .collect();
        let before = by_prefix.values().map(|all| u64::from(all.before)).sum();
        Self {
            by_prefix,
            changed: BTreeSet::new(),
            missing: before,
            before,
        }
    }

    /// A subscriber has this prefix now.
    pub fn joined(&mut self, prefix: &[u8]) {
        if prefix.len() > REMEMBERED_PREFIX_BYTES_MAX {
            return;
        }
        let prefix = prefix.escape_ascii().to_string();
        let has_room = self.by_prefix.len() < REMEMBERED_PREFIXES_MAX;
        if has_room || self.by_prefix.contains_key(&prefix) {
            self.change(prefix, |hearers| hearers.here += 1);
        }
    }

    /// A subscriber has it no more.
    pub fn left(&mut self, prefix: &[u8]) {
        let prefix = prefix.escape_ascii().to_string();
        // One that came when there was no room was not counted.
        if self.by_prefix.get(&prefix).is_some_and(|all| all.here > 0) {
            self.change(prefix, |hearers| hearers.here -= 1);
        }
    }

    fn change(&mut self, prefix: String, change: impl FnOnce(&mut Hearers)) {
        let hearers = self.by_prefix.entry(prefix.clone()).or_default();
        let (before, missing) = (hearers.before, hearers.missing());
        change(hearers);
        self.before = self.before + u64::from(hearers.before) - u64::from(before);
        self.missing = self.missing + u64::from(hearers.missing()) - u64::from(missing);
        let remembered = hearers.remembered();
        if remembered == 0 && hearers.noted == 0 {
            self.by_prefix.remove(&prefix);
            self.changed.remove(&prefix);
        } else if remembered == hearers.noted {
            self.changed.remove(&prefix);
        } else {
            self.changed.insert(prefix);
        }
    }

    /// Subscriptions of the run before that are not back yet.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The prefixes of these. Of those that hold what isn't ASCII, the beginning.
    pub fn awaited(&self) -> impl Iterator<Item = &[u8]> {
        let missing = self.by_prefix.iter().filter(|(_, all)| all.missing() > 0);
        missing.map(|(prefix, _)| prefix.split('\\').next().unwrap_or_default().as_bytes())
    }

    /// Subscriptions that would be waited for after the next start.
    pub fn remembered(&self) -> u64 {
        let all = self.by_prefix.values();
        all.map(|hearers| u64::from(hearers.remembered())).sum()
    }

    /// Whoever isn't back by now is not waited for again.
    pub fn forget_missing(&mut self) {
        if self.before == 0 {
            return;
        }
        let with_former = self.by_prefix.iter().filter(|(_, all)| all.before > 0);
        let prefixes: Vec<_> = with_former.map(|(prefix, _)| prefix.clone()).collect();
        for prefix in prefixes {
            self.change(prefix, |hearers| hearers.before = 0);
        }
    }

    /// Whether the database is to be told something.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What the database is to be told: of all prefixes if it knows nothing, else of those that
    /// changed. `None` is a prefix that nobody has any more.
    pub fn take_changes(&mut self, all: bool) -> BTreeMap<String, Option<u32>> {
        let mut changed = std::mem::take(&mut self.changed);
        if all {
            changed.extend(self.by_prefix.keys().cloned());
        }
        let mut told = BTreeMap::new();
        for prefix in changed {
            let Some(hearers) = self.by_prefix.get_mut(&prefix) else {
                continue;
            };
            let remembered = hearers.remembered();
            hearers.noted = remembered;
            if remembered == 0 {
                self.by_prefix.remove(&prefix);
            }
            told.insert(prefix, (remembered > 0).then_some(remembered));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(audience: &mut Audience, prefix: &[u8], times: usize) {
        (0..times).for_each(|_| audience.joined(prefix));
    }

    #[test]
    fn who_was_there_is_missed_until_as_many_are_back() {
        let former = [("Order".to_owned(), 2), (String::new(), 1)].into();
        let mut audience = Audience::of_former_run(&former);
        assert_eq!(audience.missing(), 3);
        audience.joined(b"Order");
        audience.joined(b"");
        joined(&mut audience, b"new", 7);
        assert_eq!(audience.missing(), 1);
        // One connects twice, and its first connection ends.
        audience.joined(b"Order");
        assert_eq!(audience.missing(), 0);
        audience.left(b"Order");
        assert_eq!(audience.missing(), 1);
        joined(&mut audience, b"Order", 2);
        assert_eq!(audience.missing(), 0);
        assert_eq!(audience.remembered(), 11);
    }

    #[test]
    fn who_does_not_come_back_is_remembered_until_it_is_forgotten() {
        let former = [("Order".to_owned(), 2)].into();
        let mut audience = Audience::of_former_run(&former);
        audience.joined(b"Order");
        assert!(!audience.has_changed());
        audience.forget_missing();
        assert_eq!((audience.missing(), audience.remembered()), (0, 1));
        let told = [("Order".to_owned(), Some(1))].into();
        assert_eq!(audience.take_changes(false), told);
        audience.left(b"Order");
        let told = [("Order".to_owned(), None)].into();
        assert_eq!(audience.take_changes(false), told);
        assert_eq!(audience.take_changes(true), [].into());
    }

    #[test]
    fn only_so_many_prefixes_are_remembered() {
        let mut audience = Audience::default();
        let count = REMEMBERED_PREFIXES_MAX + 10;
        for n in 0..count {
            audience.joined(n.to_string().as_bytes());
        }
        audience.joined(&[b'x'; REMEMBERED_PREFIX_BYTES_MAX + 1]);
        assert_eq!(audience.remembered(), REMEMBERED_PREFIXES_MAX as u64);
        for n in 0..count {
            audience.left(n.to_string().as_bytes());
        }
        assert_eq!(audience.remembered(), 0);
        assert!(!audience.has_changed(), "the database never knew of them");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(u8),
        Leave(u8),
        Forget,
        Tell { all: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0u8..5).prop_map(Step::Join),
            4 => (0u8..5).prop_map(Step::Leave),
            1 => Just(Step::Forget),
            2 => any::<bool>().prop_map(|all| Step::Tell { all }),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// What the database was told, and what is missing, are as counting says.
        #[test]
        fn the_books_are_right(former in proptest::collection::btree_map(0u8..5, 0u32..4, 0..5), steps in steps()) {
            let name = |prefix: u8| [prefix].escape_ascii().to_string();
            let mut before: BTreeMap<String, u32> =
                former.into_iter().map(|(prefix, count)| (name(prefix), count)).collect();
            let mut database: BTreeMap<String, u32> = before.clone();
            database.retain(|_, count| *count > 0);
            let mut audience = Audience::of_former_run(&before);
            let mut here = BTreeMap::<String, u32>::new();
            for step in steps.into_iter().chain([Step::Tell { all: false }]) {
                match step {
                    Step::Join(prefix) => {
                        audience.joined(&[prefix]);
                        *here.entry(name(prefix)).or_default() += 1;
                    }
                    Step::Leave(prefix) => {
                        audience.left(&[prefix]);
                        let count = here.entry(name(prefix)).or_default();
                        *count = count.saturating_sub(1);
                    }
                    Step::Forget => {
                        audience.forget_missing();
                        before.clear();
                    }
                    Step::Tell { all } => {
                        if all {
                            database.clear();
                        }
                        for (prefix, count) in audience.take_changes(all) {
                            match count {
                                Some(count) => drop(database.insert(prefix, count)),
                                None => drop(database.remove(&prefix)),
                            }
                        }
                    }
                }
                let count = |all: &BTreeMap<String, u32>, prefix| all.get(prefix).copied().unwrap_or(0);
                let missing: u32 = before
                    .iter()
                    .map(|(prefix, had)| had.saturating_sub(count(&here, prefix)))
                    .sum();
                prop_assert_eq!(audience.missing(), u64::from(missing));
            }
            let mut right = here;
            for (prefix, had) in before {
                let count = right.entry(prefix).or_default();
                *count = had.max(*count);
            }
            right.retain(|_, count| *count > 0);
            prop_assert_eq!(database, right);
        }
    }
}
