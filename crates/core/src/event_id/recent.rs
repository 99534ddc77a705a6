//! Ids that were said lately, and what is known of each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::Instant;

use hashbrown::HashTable;

use super::{EventId, owner_of};

/// The longest id that lies beside what is known of it: a UUID is 36 bytes long.
const SHORT_BYTES_MAX: usize = 38;

/// An id. Each comes and goes once, so most of them have no memory of their own.
#[derive(Debug)]
enum Kept {
    Short {
        len: u8,
        bytes: [u8; SHORT_BYTES_MAX],
    },
    Long(Box<[u8]>),
}

impl Kept {
    fn new(id: &[u8]) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match bytes.get_mut(..id.len()) {
            Some(begin) => {
                begin.copy_from_slice(id);
                let len = id.len() as u8;
                Self::Short { len, bytes }
            }
            None => Self::Long(id.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(id) => id,
        }
    }
}

#[derive(Debug)]
struct Entry<V> {
    id: Kept,
    hash: u64,
    at: Instant,
    known: V,
}

/// The ids of one owner, the oldest first. The number of an id is its place here, counted from the
/// first that there ever was.
#[derive(Debug)]
struct Line<V> {
    owner: Rc<[u8]>,
    entries: VecDeque<Entry<V>>,
    /// The number of the oldest.
    first: u64,
    /// By their ids. One that is older than another with the same id, or was withdrawn, isn't here.
    numbers: HashTable<u64>,
}

impl<V> Line<V> {
    fn of(owner: Rc<[u8]>) -> Self {
        Self {
            owner,
            entries: VecDeque::new(),
            first: 0,
            numbers: HashTable::new(),
        }
    }

    fn entry(&self, number: u64) -> &Entry<V> {
        &self.entries[(number - self.first) as usize]
    }

    fn is(&self, number: u64, id: &[u8]) -> bool {
        self.entry(number).id.bytes() == id
    }

    fn find(&self, hash: u64, id: &[u8]) -> Option<&V> {
        let number = self.numbers.find(hash, |number| self.is(*number, id))?;
        Some(&self.entry(*number).known)
    }

    fn withdraw(&mut self, hash: u64, id: &[u8]) {
        let (entries, first) = (&self.entries, self.first);
        let found = self.numbers.find_entry(hash, |number| {
            entries[(number - first) as usize].id.bytes() == id
        });
        if let Ok(found) = found {
            found.remove();
        }
    }

    /// Adds an id, which takes the place of an older one that is the same.
    fn add(&mut self, entry: Entry<V>) {
        self.withdraw(entry.hash, entry.id.bytes());
        let (hash, number) = (entry.hash, self.first + self.entries.len() as u64);
        self.entries.push_back(entry);
        let (entries, first) = (&self.entries, self.first);
        let hash_of = |number: &u64| entries[(number - first) as usize].hash;
        self.numbers.insert_unique(hash, number, hash_of);
    }

    fn forget_oldest(&mut self) {
        let Some(Entry { hash, .. }) = self.entries.pop_front() else {
            return;
        };
        let oldest = self.first;
        self.first += 1;
        if let Ok(found) = self.numbers.find_entry(hash, |number| *number == oldest) {
            found.remove();
        }
    }

    fn oldest(&self) -> Option<Instant> {
        Some(self.entries.front()?.at)
    }
}

/// Ids that were said lately, in their order, and what is known of each.
///
/// There are as many as there may be when much is published, so each costs a place in a line and
/// one in a table, and nothing is looked for but the id itself. Clients choose their ids, so `S` has to make
/// hashes that nobody can foresee.
#[derive(Debug)]
pub struct Recent<V, S> {
    /// As a rule there are few owners.
    lines: BTreeMap<Rc<[u8]>, Line<V>>,
    /// The oldest id of each owner.
    oldest: BTreeSet<(Instant, Rc<[u8]>)>,
    len: usize,
    hashes: S,
}

impl<V, S: Default> Default for Recent<V, S> {
    fn default() -> Self {
        Self {
            lines: BTreeMap::new(),
            oldest: BTreeSet::new(),
            len: 0,
            hashes: S::default(),
        }
    }
}

impl<V, S: BuildHasher> Recent<V, S> {
    /// How many ids have a place.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is known of an id.
    pub fn get(&self, id: &[u8]) -> Option<&V> {
        let line = self.lines.get(owner_of(id))?;
        line.find(self.hashes.hash_one(id), id)
    }

    /// Remembers what is known of an id from now on. If that is one too many, the oldest of who has most is
    /// forgotten.
    pub fn insert(&mut self, id: &EventId, known: V, now: Instant, max: usize) {
        let id = &*id.0;
        let entry = Entry {
            id: Kept::new(id),
            hash: self.hashes.hash_one(id),
            at: now,
            known,
        };
        let owner = owner_of(id);
        match self.lines.get_mut(owner) {
            Some(line) => line.add(entry),
            None => {
                let owner: Rc<[u8]> = owner.into();
                let mut line = Line::of(Rc::clone(&owner));
                line.add(entry);
                self.lines.insert(Rc::clone(&owner), line);
                self.oldest.insert((now, owner));
            }
        }
        self.len += 1;
        while self.len > max {
            self.forget_one(max, owner);
        }
    }

    /// Nothing is known of an id any more. It keeps its place until its time is over.
    pub fn withdraw(&mut self, id: &[u8]) {
        if let Some(line) = self.lines.get_mut(owner_of(id)) {
            line.withdraw(self.hashes.hash_one(id), id);
        }
    }

    /// Forgets the ids that were said by then.
    pub fn forget_until(&mut self, time: Instant) {
        while let Some((at, owner)) = self.oldest.first()
            && *at <= time
        {
            let owner = Rc::clone(owner);
            self.forget_oldest_of(&owner);
        }
    }

    /// Forgets the oldest of who has most. Who has no more than an equal share keeps all. `newest` has most
    /// as a rule: an id of it was added last.
    fn forget_one(&mut self, max: usize, newest: &[u8]) {
        let share = max / self.lines.len().max(1);
        let of_newest = self.lines.get(newest);
        if of_newest.is_some_and(|line| line.entries.len() > share) {
            return self.forget_oldest_of(newest);
        }
        let most = self
            .lines
            .iter()
            .max_by_key(|(_, line)| line.entries.len())
            .map(|(owner, _)| Rc::clone(owner));
        if let Some(most) = most {
            self.forget_oldest_of(&most);
        }
    }

    fn forget_oldest_of(&mut self, owner: &[u8]) {
        let Some(line) = self.lines.get_mut(owner) else {
            return;
        };
        let before = line.oldest();
        line.forget_oldest();
        self.len -= 1;
        let after = line.oldest();
        if after == before {
            return;
        }
        let owner = Rc::clone(&line.owner);
        if let Some(before) = before {
            self.oldest.remove(&(before, Rc::clone(&owner)));
        }
        match after {
            Some(after) => drop(self.oldest.insert((after, owner))),
            None => drop(self.lines.remove(&owner)),
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Emitter;
    use super::*;

    /// What is done to ids: that of an owner by its number is said, withdrawn, or time goes by.
    #[derive(Debug, Clone)]
    enum Step {
        Say(u8, u8),
        Withdraw(u8, u8),
        Wait(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let id = || (0u8..4, 0u8..12);
        let step = prop_oneof![
            8 => id().prop_map(|(owner, id)| Step::Say(owner, id)),
            1 => id().prop_map(|(owner, id)| Step::Withdraw(owner, id)),
            2 => (1u8..6).prop_map(Step::Wait),
        ];
        vec(step, 0..60)
    }

    /// Some are short, some long.
    fn id(owner: u8, id: u8) -> EventId {
        let said = "x".repeat(usize::from(id) * 5);
        let name = owner.to_string();
        let emitter = match owner {
            0 => Emitter::Anybody,
            1 => Emitter::Nameless,
            _ => Emitter::Client(&name),
        };
        EventId::of(emitter, format!("{id}{said}").into())
    }

    type Hashes = BuildHasherDefault<DefaultHasher>;

    /// The same as a list.
    #[derive(Default)]
    struct Naive(Vec<(u8, EventId, Instant, Option<usize>)>);

    impl Naive {
        fn withdraw(&mut self, id: &EventId) {
            let same = self.0.iter_mut().filter(|(_, said, ..)| said == id);
            same.for_each(|(.., known)| *known = None);
        }

        fn bound(&mut self, max: usize, newest: u8) {
            let len = |who: u8, all: &Self| all.0.iter().filter(|(of, ..)| *of == who).count();
            while self.0.len() > max {
                let mut owners: Vec<u8> = self.0.iter().map(|(who, ..)| *who).collect();
                owners.sort_by_key(|who| owner_of(&id(*who, 1).0).to_vec());
                owners.dedup();
                let most = owners.iter().copied().max_by_key(|who| len(*who, self));
                let who = match len(newest, self) > max / owners.len() {
                    true => newest,
                    false => most.unwrap(),
                };
                let oldest = self.0.iter().position(|(of, ..)| *of == who);
                self.0.remove(oldest.unwrap());
            }
        }

        fn known(&self, id: &EventId) -> Option<usize> {
            let said = self.0.iter().rev().find(|(_, said, ..)| said == id);
            said.and_then(|(.., known)| *known)
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list((max, steps) in (1usize..20, steps())) {
            let mut now = Instant::now();
            let window = Duration::from_secs(9);
            let (mut recent, mut naive) = (Recent::<_, Hashes>::default(), Naive::default());
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Say(owner, said) => {
                        let id = id(owner, said);
                        recent.insert(&id, n, now, max);
                        naive.withdraw(&id);
                        naive.0.push((owner, id, now, Some(n)));
                        naive.bound(max, owner);
                    }
                    Step::Withdraw(owner, said) => {
                        let id = id(owner, said);
                        recent.withdraw(&id.0);
                        naive.withdraw(&id);
                    }
                    Step::Wait(seconds) => {
                        now += Duration::from_secs(seconds.into());
                        if let Some(begun) = now.checked_sub(window) {
                            recent.forget_until(begun);
                            naive.0.retain(|(_, _, at, _)| *at > begun);
                        }
                    }
                }
                prop_assert_eq!(recent.len, naive.0.len());
            }
            for (owner, said) in (0..4).flat_map(|owner| (0..12).map(move |id| (owner, id))) {
                let id = id(owner, said);
                prop_assert_eq!(recent.get(&id.0).copied(), naive.known(&id));
            }
            recent.forget_until(now);
            prop_assert!(recent.lines.is_empty() && recent.oldest.is_empty());
        }
    }
}
