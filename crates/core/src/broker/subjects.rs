//! How many events each subject had, for reports.
//!
//! Publishers choose subjects, so only so many are remembered, and of these only a few are shown by
//! name; the others are shown as one. An event of one frame may be all payload: what counts as its
//! subject's name is what can be read of its beginning ([`label_of`]).

use std::collections::HashMap;

/// Subjects with counts of their own. When they are more, one that had no events for a while makes room
/// for another.
const SUBJECTS_MAX: usize = 4096;
/// Then, of so many times that a subject without a count of its own is seen, it may get one once: the
/// more frequent it is, the sooner.
const DRAWN_ONE_OF: u32 = 64;
/// And for that, so many are looked at for one that had no events since the last look.
const LOOKED_AT_MAX: usize = 64;
/// How many are shown by name.
const NAMED_MAX: usize = 16;
/// A subject takes another's name away only when it had so many times its events: names that come and
/// go say nothing.
const LEAD: u64 = 2;

/// The longest name, in bytes.
const LABEL_BYTES_MAX: usize = 64;

/// What a subject is called in reports: its beginning, as far as that can be read, at most 64 bytes.
/// Spaces and what begins structured data end it, so that JSON has no name, and `Till/7: {…}` is
/// `Till/7:`.
fn label_of(subject: &[u8]) -> &str {
    let begin = &subject[..subject.len().min(LABEL_BYTES_MAX)];
    // A character that is cut in two is left out, as one is that is none.
    let text = match std::str::from_utf8(begin) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&begin[..error.valid_up_to()]).unwrap_or_default(),
    };
    let ends = |c: char| {
        let is_usual = c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':');
        !is_usual && (c.is_whitespace() || c.is_control() || "{}[]()<>\"'`=,;".contains(c))
    };
    text.split(ends).next().unwrap_or_default()
}

/// Where a subject's events are counted. When another is counted there, they are among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubjectIndex {
    /// From 1 on.
    at: u32,
    /// How many were counted there before.
    tenant: u32,
}

/// A subject that is shown by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSubject {
    /// What it is called; not empty, at most 64 bytes.
    pub subject: Box<str>,
    /// Its events since it is shown: what was before is among the others.
    pub events: u64,
}

#[derive(Debug)]
struct Counted {
    subject: Box<str>,
    /// How many others had this place before.
    tenant: u32,
    events: u64,
    /// How many it had when it was last looked at for its place.
    looked_at: u64,
    /// How many it had when it got its name, if it has one.
    named_at: Option<u64>,
}

/// Counts of events by subject.
#[derive(Debug, Default)]
pub struct SubjectCounts {
    /// Where each is in `counted`.
    places: HashMap<Box<str>, usize>,
    counted: Vec<Counted>,
    /// Which is the next to be looked at for its place.
    hand: usize,
    /// What is drawn from.
    lots: u32,
    /// How many of them have a name.
    named: usize,
    others: u64,
    /// Events under names that are gone.
    ended: u64,
}

impl SubjectIndex {
    /// For a subject that is not worth its own.
    pub const OTHERS: Self = Self { at: 0, tenant: 0 };
}

impl SubjectCounts {
    /// Where a subject is counted that was not looked up before, or is not remembered. A new one has a
    /// name from the first event on, as long as there are names, and a count of its own, as long as
    /// there are counts.
    pub fn index_of(&mut self, subject: &[u8]) -> SubjectIndex {
        let subject = label_of(subject);
        if subject.is_empty() {
            return SubjectIndex::OTHERS;
        }
        if let Some(at) = self.places.get(subject) {
            return self.index_at(*at);
        }
        if self.counted.len() >= SUBJECTS_MAX {
            return match self.is_drawn() {
                true => self.take_place(subject),
                false => SubjectIndex::OTHERS,
            };
        }
        let is_named = self.named < NAMED_MAX;
        self.named += usize::from(is_named);
        self.places.insert(subject.into(), self.counted.len());
        self.counted.push(Counted {
            subject: subject.into(),
            tenant: 0,
            events: 0,
            looked_at: 0,
            named_at: is_named.then_some(0),
        });
        self.index_at(self.counted.len() - 1)
    }

    /// The same of one that is remembered, and isn't counted where it was, or has no place.
    pub fn seen_again(&mut self, subject: &[u8]) -> SubjectIndex {
        if !self.is_drawn() {
            return SubjectIndex::OTHERS;
        }
        let subject = label_of(subject);
        match self.places.get(subject) {
            Some(at) => self.index_at(*at),
            None if subject.is_empty() => SubjectIndex::OTHERS,
            None => self.take_place(subject),
        }
    }

    /// Whether the subject of this index is still counted there.
    #[inline]
    pub fn has(&self, index: SubjectIndex) -> bool {
        let counted = self.counted.get((index.at as usize).wrapping_sub(1));
        counted.is_some_and(|counted| counted.tenant == index.tenant)
    }

    fn index_at(&self, at: usize) -> SubjectIndex {
        SubjectIndex {
            at: at as u32 + 1,
            tenant: self.counted[at].tenant,
        }
    }

    /// Not every so many times, as subjects may come in turn.
    fn is_drawn(&mut self) -> bool {
        self.lots = self
            .lots
            .wrapping_mul(0x915f_77f5)
            .wrapping_add(0x2545_f491);
        self.lots >> 16 & (DRAWN_ONE_OF - 1) == 0
    }

    /// Gives a subject the place of one that had no events for a while, if there is one near.
    fn take_place(&mut self, subject: &str) -> SubjectIndex {
        for _ in 0..LOOKED_AT_MAX {
            let at = self.hand;
            self.hand = (at + 1) % self.counted.len();
            let counted = &mut self.counted[at];
            // What is shown stays, whatever it has.
            if counted.named_at.is_some() {
                continue;
            }
            if counted.events != std::mem::replace(&mut counted.looked_at, counted.events) {
                continue;
            }
            self.others += counted.events;
            let before = std::mem::replace(&mut counted.subject, subject.into());
            (counted.events, counted.looked_at) = (0, 0);
            counted.tenant = counted.tenant.wrapping_add(1);
            self.places.remove(&before);
            self.places.insert(subject.into(), at);
            return self.index_at(at);
        }
        SubjectIndex::OTHERS
    }

    /// Counts events. The hot path: it costs an addition.
    #[inline]
    pub fn add(&mut self, index: SubjectIndex, events: u64) {
        match self.counted.get_mut((index.at as usize).wrapping_sub(1)) {
            Some(counted) if counted.tenant == index.tenant => counted.events += events,
            _ => self.others += events,
        }
    }

    /// Gives names to the subjects with the most events, and takes them away from those that have
    /// far fewer. A name counts from when it was given, so no count ever falls or leaps.
    pub fn name_largest(&mut self) {
        let by_events = |counted: &[Counted], index: &usize| u64::MAX - counted[*index].events;
        let mut ranking: Vec<usize> = (0..self.counted.len()).collect();
        if ranking.len() > NAMED_MAX {
            ranking.select_nth_unstable_by_key(NAMED_MAX, |index| by_events(&self.counted, index));
            ranking.truncate(NAMED_MAX);
        }
        ranking.sort_unstable_by_key(|index| by_events(&self.counted, index));
        for index in ranking {
            let Counted {
                events, named_at, ..
            } = self.counted[index];
            if named_at.is_some() || events == 0 {
                continue;
            }
            let is_full = self.named >= NAMED_MAX;
            if is_full && !self.unname_below(events / LEAD) {
                return;
            }
            self.counted[index].named_at = Some(events);
            self.named += 1;
        }
    }

    fn unname_below(&mut self, events: u64) -> bool {
        let named = self.counted.iter_mut();
        let least = named
            .filter(|counted| counted.named_at.is_some())
            .min_by_key(|counted| counted.events);
        let least = least.filter(|least| least.events < events);
        let Some((least, named_at)) = least.and_then(|least| {
            let named_at = least.named_at.take()?;
            Some((least, named_at))
        }) else {
            return false;
        };
        self.ended += least.events - named_at;
        self.named -= 1;
        true
    }

    /// Subjects that are shown by name.
    pub fn named(&self) -> impl Iterator<Item = NamedSubject> {
        self.counted.iter().filter_map(|counted| {
            Some(NamedSubject {
                subject: counted.subject.clone(),
                events: counted.events - counted.named_at?,
            })
        })
    }

    /// Events that had no subject with a name when they came.
    pub fn unnamed_events(&self) -> u64 {
        let all = self.others
            + self
                .counted
                .iter()
                .map(|counted| counted.events)
                .sum::<u64>();
        let named = self.named().map(|named| named.events).sum::<u64>();
        all - named - self.ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(n: u32) -> Vec<u8> {
        n.to_string().into_bytes()
    }

    /// Takes all names, so that what comes later has none.
    fn take_names(counts: &mut SubjectCounts, events: u64) {
        for n in 0..NAMED_MAX {
            let index = counts.index_of(format!("early{n}").as_bytes());
            counts.add(index, events);
        }
    }

    #[test]
    fn names_are_what_can_be_read() {
        for (subject, label) in [
            (&b"OrderCreated"[..], "OrderCreated"),
            (b"pos.till-7/opened_v2:x", "pos.till-7/opened_v2:x"),
            (b"10001 25 60", "10001"),
            (br#"{"type": 1}"#, ""),
            (br#"Till{"type": 1}"#, "Till"),
            (b"temperature=21;", "temperature"),
            (b" Order", ""),
            (b"Order\x1b[31m", "Order"),
            ("Bestätigung".as_bytes(), "Bestätigung"),
            ("\u{a0}".as_bytes(), ""),
            (b"Best\xe4tigung", "Best"),
            (b"\xff", ""),
            (b"", ""),
        ] {
            assert_eq!(label_of(subject), label, "{subject:?}");
        }
        assert_eq!(label_of(&[b'x'; 300]), "x".repeat(64));
        assert_eq!(label_of("x".repeat(63).as_bytes()).len(), 63);
        let cut = format!("{}ä", "x".repeat(63));
        assert_eq!(label_of(cut.as_bytes()), "x".repeat(63));
    }

    #[test]
    fn subjects_with_one_name_are_counted_together() {
        let mut counts = SubjectCounts::default();
        let first = counts.index_of(b"Till 1");
        assert_eq!(counts.index_of(b"Till 2"), first);
        assert_eq!(counts.index_of(b"{}"), SubjectIndex::OTHERS);
    }

    #[test]
    fn a_subject_has_a_name_from_its_first_event_while_there_are_names() {
        let mut counts = SubjectCounts::default();
        for n in 0..NAMED_MAX as u32 + 1 {
            let index = counts.index_of(&name(n));
            counts.add(index, 3);
        }
        assert_eq!(events_of(&counts, "0"), Some(3));
        assert_eq!(events_of(&counts, "15"), Some(3));
        assert_eq!(events_of(&counts, "16"), None);
        assert_eq!(counts.unnamed_events(), 3);
    }

    fn events_of(counts: &SubjectCounts, subject: &str) -> Option<u64> {
        let found = counts.named().find(|named| *named.subject == *subject);
        found.map(|named| named.events)
    }

    #[test]
    fn a_name_counts_from_when_it_is_given() {
        let mut counts = SubjectCounts::default();
        take_names(&mut counts, 0);
        let index = counts.index_of(b"a");
        counts.add(index, 5);
        counts.name_largest();
        assert_eq!(
            (events_of(&counts, "a"), counts.unnamed_events()),
            (Some(0), 5)
        );
        counts.add(index, 2);
        counts.add(SubjectIndex::OTHERS, 1);
        assert_eq!(
            (events_of(&counts, "a"), counts.unnamed_events()),
            (Some(2), 6)
        );
    }

    #[test]
    fn the_largest_take_names_from_the_small() {
        let mut counts = SubjectCounts::default();
        for n in 0..NAMED_MAX as u32 {
            let index = counts.index_of(&name(n));
            counts.add(index, 100);
        }
        counts.name_largest();
        let late = counts.index_of(b"late");
        counts.add(late, 201);
        counts.name_largest();
        assert_eq!(events_of(&counts, "late"), None, "not by so little");
        counts.add(late, 1);
        counts.name_largest();
        assert_eq!(events_of(&counts, "late"), Some(0));
        assert_eq!(counts.named().count(), NAMED_MAX);
    }

    #[test]
    fn a_flood_of_subjects_is_bounded_and_hides_no_large_one() {
        let mut counts = SubjectCounts::default();
        let large = counts.index_of(b"large");
        counts.add(large, 100);
        for n in 0..3 * SUBJECTS_MAX as u32 {
            let index = counts.index_of(&name(n));
            counts.add(index, 1);
            counts.add(large, 1);
        }
        assert!(counts.has(large));
        assert_eq!(counts.places.len(), counts.counted.len());
        assert!(counts.counted.len() <= SUBJECTS_MAX);
        counts.name_largest();
        let large = 100 + 3 * SUBJECTS_MAX as u64;
        assert_eq!(events_of(&counts, "large"), Some(large));
        let small = NAMED_MAX as u64 - 1;
        assert_eq!(counts.unnamed_events(), 3 * SUBJECTS_MAX as u64 - small);
    }

    #[test]
    fn a_place_is_taken_from_one_that_has_no_events_any_more() {
        let mut counts = SubjectCounts::default();
        let indices: Vec<_> = (0..SUBJECTS_MAX as u32)
            .map(|n| counts.index_of(&name(n)))
            .collect();
        indices.iter().for_each(|index| counts.add(*index, 1));
        // While all have some, nobody's is taken.
        for _ in 0..SUBJECTS_MAX / LOOKED_AT_MAX {
            assert_eq!(counts.take_place("late"), SubjectIndex::OTHERS);
        }
        let mut taken = 0;
        for n in 0..2 * SUBJECTS_MAX as u32 {
            counts.add(indices[17], 1);
            let index = counts.seen_again(&name(1_000_000 + n));
            taken += u32::from(index != SubjectIndex::OTHERS);
        }
        assert!((30..=300).contains(&taken), "{taken}");
        assert!(counts.has(indices[0]), "it has a name");
        let gone: Vec<_> = indices
            .iter()
            .filter(|index| !counts.has(**index))
            .collect();
        assert!(!gone.is_empty());
        let (own, others) = (
            counts.counted[gone[0].at as usize - 1].events,
            counts.others,
        );
        counts.add(*gone[0], 5);
        assert_eq!(counts.counted[gone[0].at as usize - 1].events, own);
        assert_eq!(counts.others, others + 5, "they are not another's");
    }

    proptest! {
        /// Whatever is counted and named when: no count falls, all of them together grow by what is
        /// counted, and only as many are named as may be.
        #[test]
        fn counts_never_fall(steps in prop::collection::vec((0u32..40, 0u64..50, any::<bool>()), 1..300)) {
            let mut counts = SubjectCounts::default();
            let mut before: HashMap<Box<str>, u64> = HashMap::new();
            let mut unnamed = 0;
            for (n, events, names) in steps {
                let index = counts.index_of(&name(n));
                let sum = |counts: &SubjectCounts| {
                    counts.unnamed_events() + counts.named().map(|named| named.events).sum::<u64>()
                };
                let was = sum(&counts);
                counts.add(index, events);
                prop_assert_eq!(sum(&counts), was + events);
                if names {
                    counts.name_largest();
                    prop_assert!(counts.unnamed_events() >= unnamed);
                }
                unnamed = counts.unnamed_events();
                let now: HashMap<_, _> = counts.named().map(|named| (named.subject, named.events)).collect();
                prop_assert!(now.len() <= NAMED_MAX);
                for (subject, events) in &now {
                    prop_assert!(before.get(subject).is_none_or(|was| was <= events));
                }
                before = now;
            }
        }
    }
}
