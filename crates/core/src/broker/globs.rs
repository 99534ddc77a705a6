//! A map whose keys are globs, asked for by a subject that they match.

use std::collections::{BTreeMap, HashMap};

use slab::Slab;

use super::prefix_map::PrefixMap;
use event_manager_wire::model::SubjectPattern;

/// Finds every glob that matches a subject, and compares the subject with few others.
///
/// A glob is filed under one mark that each subject has that it matches: a whole word, or what it
/// begins or ends with. Of its marks that is the one with the fewest globs so far, so what many have
/// in common tells none of them from the others. A look-up compares the subject with what is filed
/// under its own marks. Only globs without any (`*new*`) are compared with every subject.
#[derive(Debug)]
pub(super) struct GlobMap<V> {
    globs: Slab<Filed<V>>,
    keys: HashMap<SubjectPattern, usize>,
    by_word: HashMap<Box<[u8]>, Vec<usize>>,
    by_beginning: PrefixMap<Vec<usize>>,
    /// By their lengths, of which there are few.
    by_end: BTreeMap<usize, HashMap<Box<[u8]>, Vec<usize>>>,
    unmarked: Vec<usize>,
}

#[derive(Debug)]
struct Filed<V> {
    glob: SubjectPattern,
    /// Which of its [marks](marks_of) it is filed under, if it has any.
    mark: Option<usize>,
    value: V,
}

/// What every subject has that a glob matches.
#[derive(Debug, Clone, Copy)]
enum Mark<'a> {
    Word(&'a [u8]),
    Beginning(&'a [u8]),
    End(&'a [u8]),
}

const WILDCARDS: [char; 2] = ['*', '?'];

/// The marks of a glob, always in the same order. A word without wildcards stands between dots, or at
/// an end, and so it does in the subject.
fn marks_of(glob: &str) -> impl Iterator<Item = Mark<'_>> {
    let words = glob.split('.').filter(|word| !word.contains(WILDCARDS));
    let beginning = glob.split(WILDCARDS).next().unwrap_or_default();
    let end = glob.rsplit(WILDCARDS).next().unwrap_or_default();
    let ends = [
        Mark::Beginning(beginning.as_bytes()),
        Mark::End(end.as_bytes()),
    ];
    let marks = words.map(|word| Mark::Word(word.as_bytes())).chain(ends);
    marks.filter(|mark| match mark {
        Mark::Word(text) | Mark::Beginning(text) | Mark::End(text) => !text.is_empty(),
    })
}

impl<V> Default for GlobMap<V> {
    fn default() -> Self {
        Self {
            globs: Slab::new(),
            keys: HashMap::new(),
            by_word: HashMap::new(),
            by_beginning: PrefixMap::default(),
            by_end: BTreeMap::new(),
            unmarked: Vec::new(),
        }
    }
}

impl<V> GlobMap<V> {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&SubjectPattern, &V)> {
        self.globs
            .iter()
            .map(|(_, filed)| (&filed.glob, &filed.value))
    }

    pub(super) fn get_mut(&mut self, glob: &SubjectPattern) -> Option<&mut V> {
        let at = *self.keys.get(glob)?;
        Some(&mut self.globs[at].value)
    }

    pub(super) fn entry(&mut self, glob: &SubjectPattern) -> &mut V
    where
        V: Default,
    {
        let at = match self.keys.get(glob) {
            Some(at) => *at,
            None => self.file(glob),
        };
        &mut self.globs[at].value
    }

    fn file(&mut self, glob: &SubjectPattern) -> usize
    where
        V: Default,
    {
        let marks = marks_of(glob.text()).enumerate();
        let mark = marks.min_by_key(|(_, mark)| self.filed_under(*mark));
        let at = self.globs.insert(Filed {
            glob: glob.clone(),
            mark: mark.map(|(nth, _)| nth),
            value: V::default(),
        });
        self.keys.insert(glob.clone(), at);
        match mark.map(|(_, mark)| mark) {
            Some(Mark::Word(word)) => self.by_word.entry(word.into()).or_default().push(at),
            Some(Mark::Beginning(text)) => self.by_beginning.entry(text).push(at),
            Some(Mark::End(text)) => {
                let ends = self.by_end.entry(text.len()).or_default();
                ends.entry(text.into()).or_default().push(at);
            }
            None => self.unmarked.push(at),
        }
        at
    }

    /// How many globs are filed there.
    fn filed_under(&self, mark: Mark<'_>) -> usize {
        let globs = match mark {
            Mark::Word(word) => self.by_word.get(word),
            Mark::Beginning(text) => self.by_beginning.get(text),
            Mark::End(text) => self.by_end.get(&text.len()).and_then(|ends| ends.get(text)),
        };
        globs.map_or(0, Vec::len)
    }

    pub(super) fn remove(&mut self, glob: &SubjectPattern) {
        let Some(at) = self.keys.remove(glob) else {
            return;
        };
        let filed = self.globs.remove(at);
        let mark = filed
            .mark
            .and_then(|nth| marks_of(filed.glob.text()).nth(nth));
        match mark {
            Some(Mark::Word(word)) => {
                if self
                    .by_word
                    .get_mut(word)
                    .is_some_and(|globs| is_last(globs, at))
                {
                    self.by_word.remove(word);
                }
            }
            Some(Mark::Beginning(text)) => {
                if self
                    .by_beginning
                    .get_mut(text)
                    .is_some_and(|globs| is_last(globs, at))
                {
                    self.by_beginning.remove(text);
                }
            }
            Some(Mark::End(text)) => {
                let Some(ends) = self.by_end.get_mut(&text.len()) else {
                    return;
                };
                if ends.get_mut(text).is_some_and(|globs| is_last(globs, at)) {
                    ends.remove(text);
                }
                if ends.is_empty() {
                    self.by_end.remove(&text.len());
                }
            }
            None => _ = is_last(&mut self.unmarked, at),
        }
    }

    /// Calls `found` for the value of each glob that matches the subject; twice if the subject has a
    /// word twice.
    pub(super) fn for_each_match(&self, subject: &[u8], mut found: impl FnMut(&V)) {
        self.for_each_candidate(subject, |filed| {
            if filed.glob.matches(subject) {
                found(&filed.value);
            }
        });
    }

    fn for_each_candidate(&self, subject: &[u8], mut found: impl FnMut(&Filed<V>)) {
        let mut all = |globs: &Vec<usize>| globs.iter().for_each(|at| found(&self.globs[*at]));
        if !self.by_word.is_empty() {
            let words = subject.split(|byte| *byte == b'.');
            words
                .filter_map(|word| self.by_word.get(word))
                .for_each(&mut all);
        }
        self.by_beginning.for_each_prefix_of(subject, &mut all);
        for (length, ends) in &self.by_end {
            let Some(end) = subject.len().checked_sub(*length) else {
                break;
            };
            ends.get(&subject[end..]).into_iter().for_each(&mut all);
        }
        all(&self.unmarked);
    }
}

/// Takes a glob off a list; whether none is left there.
fn is_last(globs: &mut Vec<usize>, at: usize) -> bool {
    if let Some(found) = globs.iter().position(|other| *other == at) {
        globs.swap_remove(found);
    }
    globs.is_empty()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn glob(text: &str) -> SubjectPattern {
        SubjectPattern::parse(&format!("glob:{text}"), 255).unwrap()
    }

    /// With how many globs a subject is compared.
    fn compared(map: &GlobMap<()>, subject: &str) -> usize {
        let mut count = 0;
        map.for_each_candidate(subject.as_bytes(), |_| count += 1);
        count
    }

    proptest! {
        #[test]
        fn finds_what_a_scan_over_all_globs_finds(
            changes in prop::collection::vec((any::<bool>(), "[ab.*?]{1,6}"), 1..60),
            subjects in prop::collection::vec("[abü.]{0,8}", 1..10),
        ) {
            let mut map = GlobMap::default();
            let mut naive = BTreeSet::new();
            for (adds, text) in changes {
                let glob = glob(&text);
                match adds {
                    true => *map.entry(&glob) = text.clone(),
                    false => map.remove(&glob),
                }
                prop_assert_eq!(map.get_mut(&glob).is_some(), adds);
                match adds {
                    true => naive.insert(text),
                    false => naive.remove(&text),
                };
            }
            let all: BTreeSet<_> = map.iter().map(|(_, text)| text.clone()).collect();
            prop_assert_eq!(&all, &naive);
            for subject in subjects {
                let mut found = BTreeSet::new();
                map.for_each_match(subject.as_bytes(), |text: &String| _ = found.insert(text.clone()));
                let matches = |text: &&String| glob(text).matches(subject.as_bytes());
                let expected: BTreeSet<_> = naive.iter().filter(matches).cloned().collect();
                prop_assert_eq!(found, expected, "{}", subject);
            }
            for text in naive {
                map.remove(&glob(&text));
            }
            let is_empty = map.by_word.is_empty() && map.by_end.is_empty() && map.unmarked.is_empty();
            prop_assert!(is_empty && map.by_beginning.len() == 0 && map.keys.is_empty());
        }
    }

    #[test]
    fn what_many_globs_have_in_common_does_not_bring_them_together() {
        let shapes: [fn(usize) -> String; 7] = [
            |n| format!("order.*.{n}"),
            |n| format!("order.*.{n}.*"),
            |n| format!("**.order.{n}.**"),
            |n| format!("*.created.{n}"),
            |n| format!("order.created-{n}*"),
            |n| format!("*-{n}"),
            |n| format!("Order{n}?"),
        ];
        for shape in shapes {
            let mut map = GlobMap::default();
            for n in 0..1000 {
                map.entry(&glob(&shape(n)));
            }
            let subject = "order.created.order.x";
            assert!(compared(&map, subject) <= 2, "{}", shape(0));
        }
    }

    #[test]
    fn globs_without_a_mark_are_compared_with_all() {
        let mut map = GlobMap::default();
        for text in ["*", "**", "*a*", "?b?", "*.*"] {
            map.entry(&glob(text));
        }
        assert_eq!(compared(&map, "x"), 5);
        map.remove(&glob("*a*"));
        assert_eq!(compared(&map, "x"), 4);
    }
}
